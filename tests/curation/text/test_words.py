from __future__ import annotations

import numpy as np
import pytest

from curation.signals.phrases import phrase_tables
from curation.text.characters import BITS, SPECIAL, TERMINAL, script_number
from curation.text.words import decode_text, split_words, word_hashes


def same(text: str, *words: str) -> bool:
    """Whether the words of `text` are `words`, each of which is one word."""
    each = [word_hashes(word).tolist() for word in words]
    assert all(len(hashes) == 1 for hashes in each)
    return word_hashes(text).tolist() == [h for hashes in each for h in hashes]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("  12 -- 3.5 🙂 ", ()),
        ("Hello, world!", ("hello", "world")),
        ("(E-mail) don't U.S.", ("e-mail", "don't", "u.s")),
        ("Rp1.500, abad ke-21", ("rp", "abad", "ke")),
        ("ÂNG Ñame", ("âng", "ñame")),
        ("ภาษาไทย", ("ภาษา", "ไทย")),
        ("ที่นี่", ("ที่", "นี่")),
        ("ດີ ๑๒", ("ດີ",)),
        ("ខ្មែរ", ("ខ្មែរ",)),
        ("မြန်မာ", ("မြန်မာ",)),
        ("བོད་ཡིག", ("བོ", "ད", "ཡི", "ག")),
        ("我用Python写", ("我", "用", "python", "写")),
        ("用(abc)了", ("用", "abc", "了")),
        ("sala\u200bma", ("salama",)),
        ("\u0301 a", ("\u0301", "a")),
    ],
)
def test_words(text, words):
    assert same(text, *words)


def test_clusters():
    clusters = split_words("ภาษาไทย ខ្មែរ မြန်မာ 我用", segmented=False)
    assert " ".join(clusters) == "ภ า ษ า ไ ท ย ខ្ មែ រ မြ န် မာ 我 用"


def test_decode_gives_the_code_points():
    text = "aé中😀\u0301ក"
    data = np.frombuffer(text.encode(), np.uint8)
    codes = np.empty(len(data), np.uint32)
    assert [chr(c) for c in codes[: decode_text(data, 0, len(data), codes)]] == list(text)


def test_special_characters():
    assert all(BITS[ord(c)] & SPECIAL for c in " \n\t\u00a09๙၂.,。«™🙂€")
    assert not any(BITS[ord(c)] & SPECIAL for c in "aéฦ້ျ中ⅳ\u200d")
    assert all(BITS[ord(c)] & TERMINAL for c in ".!?។။。”")


def test_scripts():
    assert len({script_number(name) for name in ("latin", "thai", "lao", "khmer", "myanmar", "han")} - {0}) == 6
    with pytest.raises(ValueError, match="latn"):
        script_number("latn")


def test_word_list_entry_without_letters():
    with pytest.raises(ValueError, match="--"):
        phrase_tables([["--"]], [True])
