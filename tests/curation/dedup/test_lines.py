"""Frequent lines: hashes against a naive twin, removal byte for byte, buckets by id."""

import random

import numpy as np
import pyarrow as pa

from curation.dedup import lines


def naive(text: str) -> list[str]:
    return [" ".join(line.replace("\u200b", "").split()) for line in text.split("\n")]


def test_lines_are_stripped_collapsed_and_long_enough():
    texts = ["  Beranda \t|  Kontak  \r\nisi\nBeranda | Kontak", None, "", "ภาษาไทย  ง่าย\u00a0มาก\n\n\nภาษาไทย ง่าย มาก"]
    rows, hashes = lines.line_hashes(pa.array(texts), 10)
    assert rows.tolist() == [0, 0, 3, 3]
    assert hashes[0] == hashes[1] and hashes[2] == hashes[3] and hashes[0] != hashes[2]
    rows, _ = lines.line_hashes(pa.array(texts), 16)  # "Beranda | Kontak" has 16 characters, the Thai line 16 too
    assert rows.tolist() == [0, 0, 3, 3]
    assert len(lines.line_hashes(pa.array(texts), 17)[0]) == 0
    assert lines.line_hashes(pa.array(["Satu  DUA tiga"]), 1)[1] != lines.line_hashes(pa.array(["satu dua tiga"]), 1)[1]


def test_hashes_equal_those_of_a_naive_reader_on_random_text():
    rng = random.Random(3)
    seen: dict[str, int] = {}
    texts = ["".join(rng.choice("ab \t\r\n\nกา汉\u200b\u3000é") for _ in range(rng.randrange(60))) for _ in range(300)]
    rows, hashes = lines.line_hashes(pa.array(texts), 1)
    expected = [(row, line) for row, text in enumerate(texts) for line in naive(text) if line]
    assert rows.tolist() == [row for row, _ in expected]
    for (_, line), value in zip(expected, hashes.tolist(), strict=True):
        assert seen.setdefault(line, value) == value
    assert len(set(seen.values())) == len(seen) > 50


def frequent(line: str) -> np.ndarray:
    return lines.line_hashes(pa.array([line]), 1)[1]


def test_removal_cuts_whole_lines_of_the_bucket_only():
    menu = "Beranda | Kontak"
    texts = [f"{menu}\nisi\n  {menu} \nakhir", f"awal\n{menu}", f"{menu}", f"{menu}\nisi", "tak ada\n", None]
    bucket = np.array([0, 0, 0, 1, 0, 0])
    cleaned, removed = lines.remove_lines(pa.array(texts), bucket, {0: frequent(menu)}, 10)
    assert cleaned.to_pylist() == ["isi\nakhir", "awal", "", f"{menu}\nisi", "tak ada\n", ""]
    assert removed.tolist() == [2, 1, 1, 0, 0, 0] and cleaned.type == pa.string()
    kept, removed = lines.remove_lines(pa.array(texts), bucket, {0: frequent(menu)}, 17)  # shorter lines are never cut
    assert kept.to_pylist()[:5] == texts[:5] and not removed.any()


def test_removal_equals_a_naive_one_on_random_text():
    rng = random.Random(4)
    texts = [
        "\n".join(rng.choice(["abc", " abc ", "ab c", "กาก", "", "xyz"]) for _ in range(rng.randrange(8)))
        for _ in range(200)
    ]
    cut = {"abc", "กาก"}
    hashes = np.sort(np.concatenate([frequent(line) for line in sorted(cut)]))
    cleaned, removed = lines.remove_lines(pa.array(texts), np.zeros(len(texts), np.int64), {0: hashes}, 1)
    for text, clean, n in zip(texts, cleaned.to_pylist(), removed.tolist(), strict=True):
        left = [line for line in text.split("\n") if line.strip() not in cut]
        assert clean == "\n".join(left) and n == len(text.split("\n")) - len(left)


def test_slices_are_read_where_they_are():
    menu = "Beranda | Kontak"
    array = pa.array(["x", f"{menu}\na", "b\n" + menu, "y"])[1:3]
    assert lines.line_hashes(array, 10)[0].tolist() == [0, 1]
    cleaned, _ = lines.remove_lines(array, np.zeros(2, np.int64), {0: frequent(menu)}, 10)
    assert cleaned.to_pylist() == ["a", "b"]


def test_buckets_follow_the_id_alone():
    ids = [f"{i:032x}" for i in range(20_000)]
    bucket = lines.buckets(ids, 4)
    assert bucket[::-1].tolist() == lines.buckets(ids[::-1], 4).tolist()
    assert np.bincount(bucket).min() > 4_700 and bucket.max() == 3
    assert not lines.buckets(ids, 1).any() and len(lines.buckets([], 3)) == 0


def test_words_left_in_any_script():
    assert lines.count_words(pa.array(["satu dua tiga", "ภาษาไทย", "汉字汉字汉字", None])).tolist() == [3, 2, 2, 0]
