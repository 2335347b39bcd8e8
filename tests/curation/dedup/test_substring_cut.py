"""Cuts: ranges go, words and letters with their marks stay whole, and what has no range comes back byte for byte."""

import random
import unicodedata

import numpy as np
import pyarrow as pa
import pytest

from curation.dedup.cut import TRIM, cut
from curation.dedup.substring import copies
from curation.text.units import CLASSES, IGNORED, MARK, SPACE, WORD

ALPHABETS = {
    "latin": "ab c",
    "thai": "กขคาิ่์ ",
    "burmese": "ကခာ်ိ ",
    "han": "汉字二三，",
    "emoji": "😀👩‍🚀é\u0301\n",
}


def plain_cut(text: str, marked: set[int]) -> str:
    """A twin of `cut`: ranges, moved to word boundaries, rejoined with a gap where one was."""
    kinds = [CLASSES[min(ord(c), len(CLASSES) - 1)] for c in text]

    def torn(i: int) -> bool:
        inside = kinds[i] == WORD and kinds[i - 1] in (WORD, MARK, IGNORED)
        return 0 < i < len(text) and (kinds[i] in (MARK, IGNORED) or inside)

    ranges, i = [], 0
    while i < len(text):
        j = i
        while j in marked:
            j += 1
        if j > i:
            ranges.append((i, j))
        i = max(j, i + 1)
    out, at = "", 0
    for start, stop in ranges:
        begin = next((k for k in range(start, start + TRIM + 1) if k >= stop or not torn(k)), start)
        end = next((k for k in range(stop, stop - TRIM - 1, -1) if k <= begin or k == len(text) or not torn(k)), stop)
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


@pytest.mark.parametrize("alphabet", list(ALPHABETS))
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
        out, removed = cut(pa.array(texts), rows, start, stop)
        assert out.to_pylist() == [plain_cut(text, one) for text, one in zip(texts, marked, strict=True)]
        assert (removed <= [len(one) for one in marked]).all()


def test_cuts_fall_between_words_and_letters_keep_their_marks():
    notice = "Semua hak cipta dilindungi undang-undang dan tidak boleh disalin tanpa izin tertulis dari penerbit."
    texts = [f"Satu artikel panjang.\n{notice}\nIsinya lain.", f"Dua artikel!\n{notice}\nKata kedua.", f"x {notice} y"]
    row, start, stop, _ = copies(pa.array(texts), np.arange(3), 50)
    out, removed = cut(pa.array(texts), row, start, stop)
    assert out.to_pylist() == [texts[0], "Dua artikel!\nKata kedua.", "x  y"]
    assert removed.tolist() == [0, len(notice) + 2, len(notice)]
    thai = "ห้ามทำซ้ำหรือดัดแปลงโดยไม่ได้รับอนุญาตเป็นลายลักษณ์อักษรจากสำนักพิมพ์"
    texts = ["ก" + thai + "่ข", "ก่" + thai + "้ค"]
    row, start, stop, _ = copies(pa.array(texts), np.arange(2), 40)
    out, _ = cut(pa.array(texts), row, start, stop)
    assert out[1].as_py() == "ก่" + thai[-2:] + "้ค"  # the last letter stays with its own mark
    assert not unicodedata.combining(out[1].as_py()[0])


def test_texts_without_repeats_come_back_byte_for_byte():
    texts = ["satu dua tiga " * 1, "", None, "ปลา 汉字"]
    row, start, stop, _ = copies(pa.array(texts), np.arange(4), 20)
    assert not len(row)
    out, removed = cut(pa.array(texts), row, start, stop)
    assert out.to_pylist() == ["satu dua tiga ", "", "", "ปลา 汉字"] and not removed.any()
