"""Segmentation by ICU's dictionaries against the plain twin, on texts written here and on random ones."""

from __future__ import annotations

import random

import numpy as np
import pytest
from naive_words import dictionary, script, words_of

from curation.text import icu_dictionary
from curation.text.segment import PROPERTIES
from curation.text.words import split_words, word_hashes

pytestmark = pytest.mark.skipif(icu_dictionary.jar() is None, reason="PySpark has no ICU")

BY_HAND = [
    ("th", "ตลาดอยู่ไม่ไกลจากบ้าน", "ตลาด อยู่ ไม่ ไกล จาก บ้าน"),
    ("th", "เด็กๆ ไปโรงเรียนทุกวัน", "เด็กๆ ไป โรงเรียน ทุก วัน"),
    ("th", "กรุงเทพฯ เป็นเมืองหลวง", "กรุงเทพฯ เป็น เมือง หลวง"),
    ("lo", "ຕະຫຼາດຢູ່ບໍ່ໄກຈາກເຮືອນ", "ຕະຫຼາດ ຢູ່ ບໍ່ ໄກ ຈາກ ເຮືອນ"),
    ("km", "ផ្សារនៅមិនឆ្ងាយពីផ្ទះទេ", "ផ្សារ នៅ មិន ឆ្ងាយ ពី ផ្ទះ ទេ"),
    ("km", "ទៅ\u200bផ្សារ", "ទៅ ផ្សារ"),
    ("my", "လမ်းလျှောက်သွားသည်", "လမ်းလျှောက် သွား သည်"),
    ("zh", "他们明天去看书", "他们 明天 去 看书"),
    ("zh", "北京大学的学生", "北京 大学 的 学生"),
    ("ja", "コンピューターを使う", "コンピューター を 使う"),
]


@pytest.mark.parametrize(("lang", "text", "words"), BY_HAND)
def test_by_hand(lang, text, words):
    assert split_words(text) == words.split()


def test_beside_other_scripts():
    words = split_words("ราคา500บาท iPhoneรุ่นใหม่ 用Python写代码")
    assert " ".join(words) == "ราคา บาท iphone รุ่น ใหม่ 用 python 写 代码"
    assert split_words("sala\u200bma") == ["salama"]


def test_without_dictionaries_a_cluster_is_a_word(monkeypatch):
    assert split_words("ภาษาไทย", segmented=False) == list("ภาษาไทย")
    monkeypatch.setattr(icu_dictionary, "jar", lambda: None)
    assert icu_dictionary.source() is None
    icu_dictionary.trie.cache_clear()
    try:
        assert split_words("ที่นี่ 北京大学") == ["ที่", "นี่", *"北京大学"]
    finally:
        monkeypatch.undo()
        icu_dictionary.trie.cache_clear()


@pytest.mark.parametrize("name", ["THAI", "LAO", "KHMER", "MYANMAR", "HAN"])
def test_every_word_is_in_the_trie(name):
    words, prefixes = dictionary(name)
    units, symbol = icu_dictionary.trie()
    for word in random.Random(name).sample(sorted(words), 3000):
        node = 0
        for i, c in enumerate(word, 1):
            child = (int(units[node]) >> 40) + int(symbol[ord(c)])
            assert (int(units[child]) >> 16) & 0xFFFFFF == node
            node = child
            ends = int(units[node]) & 0xFFFF
            assert ends - 1 == words.get(word[:i], -1)
    absent = [w + c for w in list(words)[:500] for c in "กກកက的" if w + c not in prefixes]
    for word in absent:
        node, found = 0, True
        for c in word:
            child = (int(units[node]) >> 40) + int(symbol[ord(c)])
            found = found and (int(units[child]) >> 16) & 0xFFFFFF == node
            node = child if found else 0
        assert not found


def test_the_alphabets_are_those_of_the_scripts():
    kinds = {1: "THAI", 2: "LAO", 3: "KHMER", 4: "MYANMAR", 5: "HAN"}
    for code in [*range(0x0E00, 0x1100), *range(0x1780, 0x1800), *range(0x3040, 0x30FF), *range(0x4E00, 0x4F00)]:
        if (number := int(PROPERTIES[code]) & 7) and script(chr(code)):
            assert script(chr(code)) == kinds[number]
    assert not PROPERTIES[[ord(c) for c in "a1๑៛၊။，。๏ 가"]].any()


def random_run(rng: random.Random, name: str) -> str:
    """Words of the dictionary, of no dictionary, cut, glued and repeated, with what ends a run between some of them."""
    words = sorted(dictionary(name)[0])
    letters = sorted({c for w in rng.sample(words, 300) for c in w})
    if name == "HAN":
        letters += list("ァカキー龘丂")
    parts = []
    for _ in range(rng.randint(1, 30)):
        kind = rng.random()
        word = rng.choice(words)
        if kind < 0.6:
            parts.append(word)
        elif kind < 0.75:
            parts.append(word[: rng.randint(1, len(word))])
        elif kind < 0.9:
            parts.append("".join(rng.choices(letters, k=rng.randint(1, 6))))
        else:
            parts.append(rng.choice([" ", "ๆ", "ฯ", "ฯฯ", "ๆๆ", "a", "1", "\u200b", "\u200d", "\u0301", "。", "\n"]))
    return "".join(parts)


@pytest.mark.parametrize("name", ["THAI", "LAO", "KHMER", "MYANMAR", "HAN"])
def test_equals_the_twin(name):
    rng = random.Random(f"segment {name}")
    several = 0
    for _ in range(150):
        text = random_run(rng, name)
        if any(script(c) not in ("", name) for c in text if category_is_letter(c)):
            continue
        got = split_words(text)
        assert [w.replace("\u200d", "") for w in words_of(text)] == got, repr(text)
        several += len(got) > 3
    assert several > 80


def category_is_letter(c: str) -> bool:
    return c.isalpha() and c not in "ๆฯ"


def test_a_long_run_takes_linear_time():
    for letter in "กກកက的ア":
        assert len(word_hashes(letter * 200_000)) >= 1
    assert np.all(word_hashes("กาก" * 1000) == word_hashes("กาก" * 1000))
