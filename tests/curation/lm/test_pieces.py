import numpy as np
import pyarrow as pa
import pytest

from curation.lm.pieces import SPACE_MARK, UNKNOWN, encode, normal_lines, pieces_of

MARK = chr(SPACE_MARK)


def lines(text):
    return normal_lines(pa.array([text], pa.string()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (None, []),
        ("  \n\t\n", []),
        ("one line\nand another\r\n\n third ", ["one line", "and another", "third"]),
        ("a\u2028b\u2029c\x0bd\x85e", ["a", "b", "c", "d", "e"]),
        ("year 2024, ๒๕๖๗, ២០២៤, １２", ["year 0000, 0000, 0000, 00"]),
        ("“quoted” — ‘so’… （一）。", ["\"quoted\" - 'so'... (一)."]),
        ("ខ្ញុំ\u200bទៅ\u00adx\x00y\ufeff", ["ខ្ញុំទៅxy"]),
        ("a\u00a0\u3000b▁c", ["a b c"]),
        ("\u200b\n\x01", []),
        ("É ภาษา 🙂", ["É ภาษา 🙂"]),
    ],
)
def test_normal_lines(text, expected):
    assert lines(text) == expected


def cut(text, vocabulary, scores):
    names = ["<unk>", "<s>", "</s>", *vocabulary]
    ids, ends = encode(pa.array([text], pa.string()), pieces_of(names, [0, 0, 0, *scores]))
    return [[names[i] for i in row] for row in np.split(ids, ends[:-1])] if len(ends) else []


def test_the_best_sum_of_scores_wins():
    vocabulary, scores = [MARK, "a", "b", "ab", f"{MARK}a", f"{MARK}ab"], [-1.0, -2.0, -2.0, -3.0, -2.5, -9.0]
    assert cut("ab", vocabulary, scores) == [[MARK, "ab"]]  # -4 against -4.5 and -9
    assert cut("ab", vocabulary, [*scores[:5], -3.5]) == [[f"{MARK}ab"]]
    assert cut("b a\nab", vocabulary, scores) == [[MARK, "b", f"{MARK}a"], [MARK, "ab"]]


def test_unknown_neighbours_are_one_piece():
    vocabulary, scores = [MARK, "a"], [-1.0, -2.0]
    assert cut("xxax", vocabulary, scores) == [[MARK, "<unk>", "a", "<unk>"]]
    assert cut("中文 文", vocabulary, scores) == [[MARK, "<unk>", MARK, "<unk>"]]


def test_a_batch_is_each_text_alone():
    vocabulary = ["<unk>", "<s>", "</s>", MARK, "a", "b", "ba"]
    pieces = pieces_of(vocabulary, [0, 0, 0, -1, -2, -2, -3])
    texts = ["ba ab\nb", None, "", "a" * 5000, "b\n" * 700]
    ids, ends = encode(pa.array(texts, pa.string()), pieces)
    alone = [encode(pa.array([text], pa.string()), pieces) for text in texts]
    assert ids.tolist() == [i for one, _ in alone for i in one.tolist()]
    assert len(ends) == sum(len(e) for _, e in alone) == 703 and ends[-1] == len(ids)
    sliced = pa.array(["x", *texts], pa.large_string()).slice(1)
    assert np.array_equal(encode(sliced, pieces)[0], ids)
    assert UNKNOWN not in ids


def test_the_longest_lines_fit():
    """One code point a byte and the mark in front: ellipses, single letters, and nothing but one-byte words."""
    pieces = pieces_of(["<unk>", "<s>", "</s>", MARK, ".", "a"], [0, 0, 0, -1.0, -1.0, -1.0])
    for text, n in (("…" * 1000, 3001), ("a" * 1000, 1001), ("a " * 500, 1000), ("a\n" * 500, 1000), ("a", 2)):
        ids, _ = encode(pa.array([text], pa.string()), pieces)
        assert len(ids) == n and UNKNOWN not in ids
