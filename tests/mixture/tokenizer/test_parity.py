"""A tokenizer in which languages pay alike, in either kind of pieces; it is loaded, chats and is exported as any other."""

from __future__ import annotations

import random
import unicodedata

import pyarrow as pa
import pytest
from transformers import AutoTokenizer, Qwen2Config

from cluster import storage
from mixture.bpe import nfc
from mixture.tokenizer import anchor as anchors
from mixture.tokenizer import cost
from mixture.tokenizer import tokenizer as tokenizers
from mixture.tokenizer.encoder import Encoder
from mixture.tokenizer.parity import train_parity

LETTERS = {
    "en": "aeioubcdfg",
    "my": [a + b for a in "ကခဂငစဆဇညတထ" for b in ("ာ", "ိ", "ု", "ေ", "ံ့")],
    "th": [a + b for a in "กขคงจชด" for b in ("ิ", "ื่", "ุ", "")],
}
DRAW = random.Random(0)
WORDS = {lang: ["".join(DRAW.choices(of, k=4)) for _ in range(4000)] for lang, of in LETTERS.items()}
GAP = {"en": " ", "my": "", "th": ""}


def said(numbers: list[int]) -> dict[str, str]:
    """One text in all languages: word number n of each."""
    return {lang: GAP[lang].join(words[n] for n in numbers) for lang, words in WORDS.items()}


def numbers() -> list[int]:
    return [int(4000 * DRAW.random() ** 3) for _ in range(30)]


PARALLEL = {lang: {} for lang in WORDS}
for key in range(40):
    for lang, text in said(numbers()).items():
        PARALLEL[lang][f"doc{key}"] = text
TEXTS = [(lang, text) for i in range(300) for lang, text in said(numbers()).items() if lang == "en" or i < 60]
CHOSEN, JUDGED = cost.halves(PARALLEL)
KINDS = {
    "plain": ("qwen2", None),
    "plain marks": ("marks", None),
    "parity": ("qwen2", CHOSEN),
    "parity marks": ("marks", CHOSEN),
    "parity letters": ("marks", {}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name -> folder of a tokenizer of 700 tokens."""
    folders = {}
    for name, (pieces, parallel) in KINDS.items():
        folders[name] = str(tmp_path_factory.mktemp("bpe") / name.replace(" ", "-"))
        if parallel is None:
            tokenizers.train_bpe((text for _, text in TEXTS), 700, folders[name], pieces=pieces)
        else:
            train_parity(iter(TEXTS), 700, folders[name], parallel=parallel, pieces=pieces)
    return folders


def test_languages_pay_alike(made):
    rows = cost.token_costs({name: tokenizers.load(folder) for name, folder in made.items()}, JUDGED)
    spread = {row["tokenizer"]: row for row in cost.parity(rows)}
    assert [row["cost"] for row in rows if row["lang"] == "en"] == [1.0] * len(KINDS)
    assert {row["documents"] for row in rows} == {20}
    assert spread["parity"]["gini"] < 0.95 * spread["plain"]["gini"]
    assert spread["parity marks"]["gini"] < 0.3 * spread["plain"]["gini"]
    assert spread["parity marks"]["max_over_min"] < 1.2 < spread["plain"]["max_over_min"]
    assert spread["parity letters"]["gini"] < spread["plain marks"]["gini"]
    assert spread["parity marks"]["tokens"] < 1.05 * spread["plain"]["tokens"]


@pytest.mark.parametrize("name", list(KINDS))
def test_ids_are_those_of_tokenizers_also_in_a_model_folder(made, name, tmp_path):
    """Of a folder with a qwen2 config.json transformers makes the tokenizer by its own rules, which must not change pieces."""
    one = tokenizers.load(made[name])
    anchored = anchors.with_anchor(tokenizers.load(made[name]))
    for number, own in enumerate((one, anchored)):
        own.save_pretrained(tmp_path / str(number))
        Qwen2Config(vocab_size=700).save_pretrained(tmp_path / str(number))
    marks = [chr(c) for c in range(0x300, 0x1100) if unicodedata.category(chr(c)).startswith("M")]
    draw = random.Random(1)
    texts = [text for _, text in TEXTS[-60:]] + [
        "".join(draw.choice([*"aก1 \n'.s", *draw.choices(marks, k=9)]) for _ in range(draw.randint(0, 30)))
        for _ in range(500)
    ]
    expected = [ids.tolist() for ids in tokenizers.encode(one, texts)]
    encoder = Encoder(one)
    assert encoder.fast is not None and encoder.encode(pa.array(texts)).to_pylist() == expected
    for number, begin in enumerate(([], [anchors.anchor(one)])):
        loaded = AutoTokenizer.from_pretrained(tmp_path / str(number))
        assert loaded(texts).input_ids == [begin + ids for ids in expected]
        assert loaded.eos_token == "<|endoftext|>" and loaded.convert_tokens_to_ids("<|im_end|>") == 2
        talk = [{"role": "user", "content": "apa?"}]
        shown = loaded.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        assert shown.endswith("<|im_start|>user\napa?<|im_end|>\n<|im_start|>assistant\n")
    for text, ids in zip(texts, expected, strict=True):
        assert one.decode(ids) == nfc.text(text)
    assert len(one) == 700


def test_the_same_texts_give_the_same_file_and_a_word_keeps_its_marks(made, tmp_path):
    train_parity(iter(TEXTS), 700, str(tmp_path), parallel=CHOSEN, pieces="marks")
    files = [storage.read_bytes(f"{folder}/tokenizer.json") for folder in (made["parity marks"], tmp_path)]
    assert files[0] == files[1]
    loaded = {name: tokenizers.load(folder) for name, folder in made.items()}
    cut = {name: one.backend_tokenizer.pre_tokenizer.pre_tokenize_str("ကိုကို") for name, one in loaded.items()}
    assert [len(cut[name]) for name in ("parity marks", "plain marks")] == [1, 1]
    assert len(cut["parity"]) == len(cut["plain"]) > 2


def test_few_texts_fill_no_vocabulary_and_no_text_is_said(tmp_path):
    assert len(train_parity([("en", "aa aa"), ("lo", "ກກ")], 500, str(tmp_path / "a"))) < 270
    with pytest.raises(ValueError, match="no text"):
        train_parity([], 500, str(tmp_path / "b"))
    with pytest.raises(ValueError, match="no text"):
        train_parity([("en", ""), ("lo", "")], 500, str(tmp_path / "b"))
    with pytest.raises(ValueError, match="259"):
        train_parity([("en", "a")], 200, str(tmp_path / "c"))


def test_costs_and_their_proxy(chatml_tokenizer):
    parallel = {"id": {"a": "satu", "b": "dua"}, "en": {"a": "one", "c": "three"}, "xx": {"z": "?"}}
    rows = cost.token_costs({"t": chatml_tokenizer}, parallel)
    assert [(row["lang"], row["documents"], row["against"]) for row in rows] == [("en", 2, "en"), ("id", 1, "en")]
    assert rows[1]["cost"] == len(chatml_tokenizer("satu").input_ids) / len(chatml_tokenizer("one").input_ids)
    assert cost.said(parallel) == {"id": 3, "en": 8}
    assert cost.gini([1, 1, 1]) == pytest.approx(0) and cost.gini([0, 0, 0, 4]) == pytest.approx(0.75)
    assert [cost.letters(text) for text in ("boat", "小船", "배")] == [4, 6, 2]
    with pytest.raises(ValueError, match="two are needed"):
        cost.halves(parallel)
