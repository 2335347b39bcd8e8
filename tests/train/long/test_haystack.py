"""Texts of a length: what is cut is whole, the bisection is exact under any tokenizer, and what is hidden lies where it shall."""

import random
import re

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from train.long import haystack

SCRIPTS = {
    "latin": "abcdefghij \n.!?,\u2019",
    "thai": "กขคงจะาิีุู่้ ์\n",
    "khmer": "កខគឃងា្រ។ ើ",
    "burmese": "ကခဂဃငာိ့္။ ",
    "han": "的一是不了人。，！”\n",
    "broken": "a\u0301\u200b\ud83d\ude00 \t\r\n\u0e34"
    .encode("utf-16", "surrogatepass").decode("utf-16"),
}  # fmt: skip


def text(rnd, letters, n):
    return "".join(rnd.choices(letters, k=n))


@pytest.mark.parametrize("script", SCRIPTS)
def test_sentences_are_the_text_again(script):
    rnd = random.Random(script)
    for _ in range(200):
        whole = text(rnd, SCRIPTS[script], rnd.choice([0, 1, 5, 300, 2000]))
        pieces = haystack.sentences(whole)
        assert "".join(pieces) == whole
        assert all(0 < len(piece) <= haystack.MOST for piece in pieces)


def test_sentences_end_where_a_language_ends_them():
    assert haystack.sentences("Satu. Dua! “Tiga?” Empat 3.5") == ["Satu. ", "Dua! ", "“Tiga?” ", "Empat 3.5"]
    assert haystack.sentences("一。二！三") == ["一。", "二！", "三"]
    assert haystack.sentences("တစ်။ နှစ်။") == ["တစ်။ ", "နှစ်။"]


@pytest.mark.parametrize("seed", range(40))
def test_one_sentence_more_does_not_fit(seed):
    """Also with counts that go up and down, as tokenizers that join may give them."""
    rnd = random.Random(seed)
    counts = [rnd.randrange(3)]
    for _ in range(rnd.randrange(1, 400)):
        counts.append(max(0, counts[-1] + rnd.randrange(-2, 12)))
    most, asked = len(counts) - 1, []

    def tokens(n):
        asked.append(n)
        return counts[n]

    for budget in rnd.sample(range(-1, max(counts) + 5), min(20, max(counts) + 6)):
        guess = rnd.randrange(most + 40)
        n = haystack.fitting(tokens, budget, most, guess)
        if n < 0:
            assert counts[0] > budget
        else:
            assert counts[n] <= budget
            assert n == most or counts[n + 1] > budget
    steady = [3 * i for i in range(5000)]
    asked.clear()
    assert haystack.fitting(lambda n: asked.append(n) or steady[n], 3 * 4000, 4999, 4010) == 4000
    assert len(asked) <= 10  # a guess that is near is near in questions too


@pytest.mark.parametrize("seed", range(12))
def test_prompts_fit_exactly_under_random_tokenizers(seed):
    rnd = random.Random(seed)
    letters = rnd.choice(list(SCRIPTS.values()))
    corpus = [text(rnd, letters, 400) for _ in range(8)]
    kind = rnd.choice(["bpe", "unigram", "bpe without cuts"])
    backend = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE())
    if kind == "bpe":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=rnd.random() < 0.5)
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bpe" else sorted(set("".join(corpus)))
    more = {"initial_alphabet": alphabet, "vocab_size": rnd.choice([300, 800]), "show_progress": False}
    trainer = (
        trainers.UnigramTrainer(unk_token="<unk>", special_tokens=["<unk>"], **more)
        if kind == "unigram"
        else trainers.BpeTrainer(**more)
    )
    backend.train_from_iterator(corpus, trainer)
    pieces = [piece for one in corpus for piece in haystack.sentences(one)]

    def tokens(n):
        return len(backend.encode(haystack.hidden(pieces[:n], [(0.5, corpus[0][:30])])).ids)

    for budget in (60, 200, 500):
        n = haystack.fitting(tokens, budget, len(pieces), rnd.randrange(len(pieces)))
        assert tokens(n) <= budget
        assert n == len(pieces) or tokens(n + 1) > budget


def test_what_is_hidden_lies_at_its_depth_and_nothing_else_changes():
    rnd = random.Random(0)
    for _ in range(200):
        pieces = [
            f"{text(rnd, 'abc', rnd.randrange(1, 9))}{rnd.choice([' ', '', '. '])}" for _ in range(rnd.randrange(1, 30))
        ]
        depths = [rnd.choice([0, 0.25, 0.5, 0.75, 1]) for _ in range(3)]
        whole = haystack.hidden(pieces, [(depth, f"<{i}>") for i, depth in enumerate(depths)])
        assert re.sub(r"\s*<.>\s*", "", whole).replace(" ", "") == "".join(pieces).replace(" ", "")
        for i, depth in enumerate(depths):
            before = whole.partition(f"<{i}>")[0]
            held = re.sub(r"<.>|\s", "", before)
            assert held == "".join(pieces[: round(depth * len(pieces))]).replace(" ", "")


def test_between_documents_means_between_documents():
    pieces = [f"{i} " for i in range(10)]
    found = {depth: haystack.hidden(pieces, [(depth, "X")], [0, 3, 7]) for depth in (0, 0.25, 0.5, 0.75, 1)}
    assert found[0].startswith("X 0")
    assert "2 X 3" in found[0.25]
    assert "6 X 7" in found[0.75]
    assert found[1].endswith("9 X ")
