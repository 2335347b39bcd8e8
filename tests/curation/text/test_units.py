"""Units by script, against a naive reader of characters."""

import random
import unicodedata

import numpy as np
import pyarrow as pa
import pytest

from curation.text import units


def naive(text: str) -> list[str]:
    """The units of a text, spelled out character by character."""
    found, kind = [], None
    for character in text:
        category = unicodedata.category(character)
        unspaced = any(first <= ord(character) <= last for first, last in units.UNSPACED)
        if category == "Cf":
            continue
        if category[0] == "M":
            if kind:
                found[-1] += character
        elif category[0] in "LN":
            letter = unspaced and category != "Nd"
            lower = character.lower() if len(character.lower()) == 1 else character
            if letter or kind != "word":
                found.append(lower)
            else:
                found[-1] += lower
            kind = "letter" if letter else "word"
        else:
            kind = None
    return found


def read(text: str, room: int = 64) -> list[int]:
    data, offsets = units.text_buffers(pa.array([text]))
    hashes, kinds = np.empty(room, np.uint64), np.empty(room, np.uint8)
    i, found = 0, []
    while i < offsets[-1]:
        n, i = units.read_units(data, i, offsets[-1], units.CLASSES, units.LOWER, units.ASCII_WORD, hashes, kinds)
        found += hashes[:n].tolist()
    return found


def distinct_pattern(values: list) -> list[int]:
    """Values as the order in which they first appear: equal patterns mean equal sameness."""
    seen: dict = {}
    return [seen.setdefault(value, len(seen)) for value in values]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Saya suka SAYA, suka-saya!", ["saya", "suka", "saya", "suka", "saya"]),
        ("Tiếng Việt", ["tiếng", "việt"]),
        ("น้ำท่วม 2563", ["น้", "ำ", "ท่", "ว", "ม", "2563"]),
        ("ພາສາລາວ", ["ພ", "າ", "ສ", "າ", "ລ", "າ", "ວ"]),
        ("ភាសាខ្មែរ", ["ភា", "សា", "ខ្", "មែ", "រ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("汉字abc漢", ["汉", "字", "abc", "漢"]),
        ("ភាសា\u200bខ្មែរ", ["ភា", "សា", "ខ្", "មែ", "រ"]),  # the zero-width space of Khmer typists
        ("🙂 — ★", []),
        ("", []),
    ],
)
def test_units_by_hand(text, expected):
    assert naive(text) == expected
    assert len(read(text)) == len(expected)
    assert distinct_pattern(read(text)) == distinct_pattern(expected)


def test_units_equal_the_naive_reader_on_random_text():
    rng = random.Random(7)
    pools = [
        "abcDEF xyz,. 019_-",
        "ñđêơÀÉ İßẞΣ",
        "กาำเแ้่๒ๆฯ",
        "ກາຳເແ້່໒",
        "កាខ្មែ៉២។",
        "ကာြွှေ်၂။",
        "汉字かなカナー〇、",
        "e\u0301\u200b\u200d🙂\n\t\u00a0",
    ]
    seen: dict[str, int] = {}
    for _ in range(400):
        text = "".join(rng.choice(rng.choice(pools)) for _ in range(rng.randrange(80)))
        expected, found = naive(text), read(text, room=rng.choice([1, 3, 64]))
        assert len(found) == len(expected), text
        for unit, value in zip(expected, found, strict=True):
            assert seen.setdefault(unit, value) == value, (text, unit)
    assert len(set(seen.values())) == len(seen)  # no two units share a hash


def test_every_code_point_is_decoded():
    text = "".join(chr(c) for c in range(1, 0x3FFFF, 7) if not 0xD800 <= c < 0xE000)
    data = np.frombuffer(text.encode(), np.uint8)
    i, found = 0, []
    while i < len(data):
        code, size = units.decode(data, i, len(data))
        found.append(code)
        i += size
    assert "".join(map(chr, found)) == text


def test_broken_utf8_is_read_to_the_end():
    for broken in (
        b"ab\xff\xfe cd",
        b"\xe0\xb8",
        b"\xf0\x9f\x98",
        b"x\xc3",
        b"\x80\x80",
        b"\xed\xa0\x80 z",
        b"\xf7\xbf\xbf\xbf",
    ):
        array = pa.array([broken], pa.binary()).view(pa.string())
        words, letters = units.count_units(array)
        assert 0 <= words[0] + letters[0] <= 2


def test_counts_and_buffers_of_slices_nulls_and_chunks():
    texts = ["satu dua", None, "ไทย", "", "x" * 10_000 + " y"]
    expected_words, expected_letters = [2, 0, 0, 0, 2], [0, 0, 3, 0, 0]
    for array in (pa.array(texts), pa.array(texts, pa.large_string()), pa.chunked_array([texts[:2], texts[2:]])):
        words, letters = units.count_units(array)
        assert words.tolist() == expected_words and letters.tolist() == expected_letters
    words, _ = units.count_units(pa.array(["nol", *texts])[1:])
    assert words.tolist() == expected_words
    many, _ = units.count_units(pa.array(["a " * (2 * units.CHUNK + 1)]))
    assert many[0] == 2 * units.CHUNK + 1
    assert len(units.count_units(pa.array([], pa.string()))[0]) == 0
