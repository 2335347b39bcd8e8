"""Exact repeats: the same characters as a dictionary of all windows finds, in every script; one copy of everything stays."""

import random

import numpy as np
import pyarrow as pa
import pytest

from curation.dedup import substring

ALPHABETS = {
    "latin": "ab c",
    "thai": "กขคาิ่์ ",
    "lao": "ກຂາິ່ ",
    "khmer": "កខា្ិ ",
    "burmese": "ကခာ်ိ ",
    "han": "汉字二三，",
    "emoji": "😀👩‍🚀é\u0301\n",
    "private": "\U000e0100\U0010fffda ",
    "one letter": "a",
}


def naive(texts: list[str], order: list[int], length: int) -> list[set[int]]:
    """Of each text the characters in windows that begin earlier too: a dictionary of windows, filled in order."""
    first: dict[str, tuple[int, int]] = {}
    copies: list[set[int]] = [set() for _ in texts]
    for d in sorted(range(len(texts)), key=lambda d: order[d]):
        text = texts[d]
        for i in range(len(text) - length + 1):
            window = text[i : i + length]
            e, j = first.setdefault(window, (d, i))
            if e != d or i - j >= length:
                copies[d].update(range(i, i + length))
    return copies


def found(texts: list[str], order: list[int], length: int) -> list[set[int]]:
    copies: list[set[int]] = [set() for _ in texts]
    ranges = substring.copies(pa.array(texts, pa.string()), np.array(order, np.int64), length)
    for row, start, stop, source in zip(*(one.tolist() for one in ranges), strict=True):
        copies[row].update(range(start, stop))
        assert order[source] <= order[row]
        assert texts[row][start : start + length] in texts[source]
    return copies


def pieces(rng: random.Random, alphabet: str) -> list[str]:
    """Texts made of a few strings again and again, some longer than a window, some shorter."""
    strings = ["".join(rng.choices(alphabet, k=rng.choice([3, 19, 30, 70, 150]))) for _ in range(6)]
    texts = ["".join(rng.choices(strings, k=rng.randrange(8))) for _ in range(rng.randrange(1, 9))]
    return [*texts, alphabet[0] * rng.randrange(300), (alphabet[:2] * 120)[: rng.randrange(200)]]


@pytest.mark.parametrize("alphabet", list(ALPHABETS))
@pytest.mark.parametrize("length", [20, 33, 60])
def test_equals_the_naive_answer(alphabet, length):
    rng = random.Random(f"{alphabet} {length}")
    some = 0
    for _ in range(40):
        texts = pieces(rng, ALPHABETS[alphabet])
        order = rng.sample(range(len(texts)), len(texts))
        expected = naive(texts, order, length)
        assert found(texts, order, length) == expected
        some += sum(map(len, expected))
    assert some > 1000


def test_hash_of_few_bits_still_gives_the_naive_answer(monkeypatch):
    """Anchors that are wrong friends cost time, never text: with anchors of eight characters nearly all are."""
    monkeypatch.setattr(substring, "kgram", lambda length: 8)
    rng = random.Random(8)
    for _ in range(20):
        texts = ["".join(rng.choices("ab", k=rng.randrange(400))) for _ in range(6)]
        texts.append(texts[0][50:170] + texts[1][:90])
        order = list(range(len(texts)))
        assert found(texts, order, 40) == naive(texts, order, 40)


def test_every_window_has_one_anchor_and_equal_windows_equal_ones():
    rng = random.Random(1)
    shared = "".join(rng.choices("abcdefgh ", k=100))
    texts = ["".join(rng.choices("abcdefgh ", k=k)) + shared + "".join(rng.choices("xyz", k=k)) for k in (0, 57, 500)]
    rows, first, windows, hashes = substring.anchors(pa.array([*texts, "short", "", None]), 100)
    for d, text in enumerate(texts):
        mine = rows == d
        assert first[mine][0] == 0 and (first[mine][1:] == (first[mine] + windows[mine])[:-1]).all()
        assert windows[mine].sum() == len(text) - 99
    at = [np.searchsorted(first[rows == d], text.index(shared), "right") - 1 for d, text in enumerate(texts)]
    assert len({int(hashes[rows == d][i]) for d, i in enumerate(at)}) == 1
    assert rows.max() == 2


def test_anchors_are_few():
    text = "".join(random.Random(2).choices("abcdefghijklmnop ", k=200_000))
    assert len(substring.anchors(pa.array([text]), 100)[0]) < len(text) / 25
    assert len(substring.anchors(pa.array(["=" * 200_000]), 100)[0]) < 200_000 / 50  # a run of one letter too


def test_one_copy_of_every_window_stays_when_copies_are_cut_unrounded():
    """Every window of the corpus is still there after the copies went, but for those that a cut went through."""
    rng = random.Random(5)
    strings = ["".join(rng.choices("abcdefgh", k=150)) for _ in range(4)]
    texts = ["".join(rng.choices(strings, k=4)) for _ in range(6)]
    copies = found(texts, list(range(6)), 40)
    kept = ["".join(c for i, c in enumerate(t) if i not in one) for t, one in zip(texts, copies, strict=True)]
    for one in {s for s in strings if any(s in t for t in texts)}:
        assert sum(t.count(one) for t in kept) == 1
