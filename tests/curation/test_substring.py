"""Exact repeats: the same characters as a dictionary of all windows finds, in every script; one copy of everything stays."""

import random
import unicodedata

import numpy as np
import pyarrow as pa
import pytest

from curation import substring
from curation.units import CLASSES, IGNORED, MARK, SPACE, WORD

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


def plain_cut(text: str, copies: set[int]) -> str:
    """A twin of `substring.cut`: ranges, moved to word boundaries, rejoined with a gap where one was."""
    kinds = [CLASSES[min(ord(c), len(CLASSES) - 1)] for c in text]

    def torn(i: int) -> bool:
        inside = kinds[i] == WORD and kinds[i - 1] in (WORD, MARK, IGNORED)
        return 0 < i < len(text) and (kinds[i] in (MARK, IGNORED) or inside)

    ranges, i = [], 0
    while i < len(text):
        j = i
        while j in copies:
            j += 1
        if j > i:
            ranges.append((i, j))
        i = max(j, i + 1)
    out, at = "", 0
    for start, stop in ranges:
        begin = next((k for k in range(start, start + substring.TRIM + 1) if k >= stop or not torn(k)), start)
        end = next(
            (k for k in range(stop, stop - substring.TRIM - 1, -1) if k <= begin or k == len(text) or not torn(k)), stop
        )
        if begin >= end:
            continue
        out += text[at:begin]
        gone, at = text[begin:end], end
        gap = "\n" if "\n" in gone else " " if any(kinds[k] == SPACE for k in range(begin, end)) else ""
        spaced = (
            not out or at == len(text) or kinds[at] == SPACE or CLASSES[min(ord(out[-1]), len(CLASSES) - 1)] == SPACE
        )
        out += "" if spaced else gap
    return out + text[at:]


@pytest.mark.parametrize("alphabet", ["latin", "thai", "burmese", "han", "emoji"])
def test_cut_equals_a_plain_twin(alphabet):
    rng = random.Random(alphabet)
    letters = ALPHABETS[alphabet] + "ก่ x\n"
    for _ in range(200):
        texts = ["".join(rng.choices(letters, k=rng.randrange(90))) for _ in range(3)]
        texts[1] += "a" * 50
        ranges = [(d, *sorted(rng.sample(range(len(t) + 1), 2))) for d, t in enumerate(texts) for _ in range(2) if t]
        marked = [set() for _ in texts]
        for d, start, stop in ranges:
            marked[d].update(range(start, stop))
        rows, start, stop = (np.array(column, np.int64) for column in zip(*ranges, strict=True))
        out, removed = substring.cut(pa.array(texts), rows, start, stop)
        assert out.to_pylist() == [plain_cut(text, one) for text, one in zip(texts, marked, strict=True)]
        assert (removed <= [len(one) for one in marked]).all()


def test_cuts_fall_between_words_and_letters_keep_their_marks():
    notice = "Semua hak cipta dilindungi undang-undang dan tidak boleh disalin tanpa izin tertulis dari penerbit."
    texts = [f"Satu artikel panjang.\n{notice}\nIsinya lain.", f"Dua artikel!\n{notice}\nKata kedua.", f"x {notice} y"]
    row, start, stop, _ = substring.copies(pa.array(texts), np.arange(3), 50)
    out, removed = substring.cut(pa.array(texts), row, start, stop)
    assert out.to_pylist() == [texts[0], "Dua artikel!\nKata kedua.", "x  y"]
    assert removed.tolist() == [0, len(notice) + 2, len(notice)]
    thai = "ห้ามทำซ้ำหรือดัดแปลงโดยไม่ได้รับอนุญาตเป็นลายลักษณ์อักษรจากสำนักพิมพ์"
    texts = ["ก" + thai + "่ข", "ก่" + thai + "้ค"]
    row, start, stop, _ = substring.copies(pa.array(texts), np.arange(2), 40)
    out, _ = substring.cut(pa.array(texts), row, start, stop)
    assert out[1].as_py() == "ก่" + thai[-2:] + "้ค"  # the last letter stays with its own mark
    assert not unicodedata.combining(out[1].as_py()[0])


def test_texts_without_repeats_come_back_byte_for_byte():
    texts = ["satu dua tiga " * 1, "", None, "ปลา 汉字"]
    row, start, stop, _ = substring.copies(pa.array(texts), np.arange(4), 20)
    assert not len(row)
    out, removed = substring.cut(pa.array(texts), row, start, stop)
    assert out.to_pylist() == ["satu dua tiga ", "", "", "ปลา 汉字"] and not removed.any()


def test_one_copy_of_every_window_stays_when_copies_are_cut_unrounded():
    """Every window of the corpus is still there after the copies went, but for those that a cut went through."""
    rng = random.Random(5)
    strings = ["".join(rng.choices("abcdefgh", k=150)) for _ in range(4)]
    texts = ["".join(rng.choices(strings, k=4)) for _ in range(6)]
    copies = found(texts, list(range(6)), 40)
    kept = ["".join(c for i, c in enumerate(t) if i not in one) for t, one in zip(texts, copies, strict=True)]
    for one in {s for s in strings if any(s in t for t in texts)}:
        assert sum(t.count(one) for t in kept) == 1
