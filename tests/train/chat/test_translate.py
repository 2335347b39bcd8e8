"""Translation of turns: what is kept, sentences and lines, forced language, refusals; by a tiny NLLB trained here."""

import pytest
import torch

from train.chat.translate import code, load, split, translate

torch.set_num_threads(1)


def test_forced_language_and_order(nllb):
    texts = ["boat. fish.", "sun", "rice. sea. moon", "boat. fish."]
    assert translate(load(nllb, "en", "id"), texts, beams=2) == [
        ("perahu. ikan.", ""),
        ("surya", ""),
        ("beras. laut. bulan", ""),
        ("perahu. ikan.", ""),
    ]
    thai = load(nllb, "en", "th")
    assert translate(thai, ["sun", "boat. fish."], beams=1, batch_tokens=1) == [("อาทิตย์", ""), ("เรือ. ปลา.", "")]
    assert translate(thai, []) == []


def test_layout_code_and_addresses_stay(nllb):
    head, tail = "\n```py\nboat = fish\n```\n", " https://boat.example/fish `boat` "
    text = f"# boat\n\n- fish. rice.\n  1. sea {head}sun{tail}moon\n\n12 + 3 = 15"
    made = f"# perahu\n\n- ikan. beras.\n  1. laut {head}surya{tail}bulan\n\n12 + 3 = 15"
    assert translate(load(nllb, "en", "id"), [text], beams=1) == [(made, "")]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One. Two! Three", ["One.", "Two!", "Three"]),
        ("# Head\n\n- item one\n  2) item two", ["Head", "item one", "item two"]),
        ("```\ncode here\n``` after", ["after"]),
        ("see https://example.org/a now", ["see", "now"]),
        ("mail a.b@c.org", ["mail"]),
        ("where $x + y$ holds", ["where", "holds"]),
        ("1 + 2 = 3\n---", []),
        ("ထမင်း။ငါး။", ["ထမင်း။", "ငါး။"]),
        ("", []),
    ],
)
def test_pieces(text, wanted):
    pieces = split(text)
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, yes in pieces if yes] == wanted


def test_without_keep_code_is_text():
    assert [piece for piece, yes in split("`boat fish`", keep=False) if yes] == ["`boat fish`"]


class Endless(torch.nn.Linear):
    """Generates the same token for ever."""

    def generate(self, input_ids, forced_bos_token_id, max_new_tokens, **rest):
        return torch.tensor([[2, forced_bos_token_id, *[4] * (max_new_tokens - 1)]] * len(input_ids))


def test_what_has_no_end_or_is_too_long_is_said(nllb):
    translator = load(nllb, "en", "id")
    made = translate(translator, ["boat", "boat fish rice sea sun"], max_sentence_tokens=5, beams=1)
    assert made == [("perahu", ""), ("", "a sentence of 7 tokens is longer than 5")]
    endless = translator._replace(model=Endless(1, 1))
    assert translate(endless, ["boat", "12"]) == [("", "a translation did not come to an end"), ("12", "")]


def test_refusals(nllb, tmp_path):
    with pytest.raises(ValueError, match="NLLB cannot translate Chinese"):
        load(nllb, "en", "zh")
    with pytest.raises(ValueError, match="NLLB cannot translate Chinese"):
        load(nllb, "zh", "id")
    with pytest.raises(ValueError, match="xx: the translation model knows no such language"):
        load(nllb, "en", "xx")
    with pytest.raises(ValueError, match="no tokenizer of a translation model"):
        load(str(tmp_path), "en", "id")


def test_other_families_may_do_chinese():
    class M2M:
        def get_vocab(self):
            return {"__zh__": 0, "__en__": 1}

    assert code(M2M(), "zh") == "zh"
