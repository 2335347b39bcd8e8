"""Exact match and F1 against SQuAD's and MLQA's definitions, numbers, and chrF against sacrebleu."""

import collections
import random
import re
import string
import unicodedata

import pytest
from sacrebleu import corpus_chrf

from curation.text.words import split_words
from train.tasks import answers

WORDS = ["The", "a", "Bangkok", "bank,", "of", "river.", "an", "1989", "it's", "U.S.", "theatre", "Rp", "50%", "(old)"]


def squad_words(text):
    """SQuAD's normalisation (evaluate-v1.1), written anew."""
    text = "".join(char for char in text.lower() if char not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(found, gold):
    found, gold = squad_words(found), squad_words(gold)
    same = sum((collections.Counter(found) & collections.Counter(gold)).values())
    return 0.0 if not same else 2 * same / (len(found) + len(gold))


def test_english_is_squads():
    rnd = random.Random(4)
    for _ in range(3000):
        found = " ".join(rnd.choices(WORDS, k=rnd.randrange(1, 7)))
        golds = [" ".join(rnd.choices(WORDS, k=rnd.randrange(1, 5))) for _ in range(rnd.randrange(1, 4))]
        if not squad_words(found) or not all(map(squad_words, golds)):
            continue
        wanted = max(squad_f1(found, gold) for gold in golds)
        assert answers.f1(found, golds, "en", str.split) == pytest.approx(wanted), (found, golds)
        assert answers.exact_match(found, golds, "en") == any(squad_words(found) == squad_words(g) for g in golds)


def mlqa_words(text):
    """MLQA's mixed segmentation for Chinese, written anew: characters of Han, other words between spaces."""
    text = "".join(char for char in text.lower() if unicodedata.category(char)[0] != "P")
    return re.sub(r"([一-鿿])", r" \1 ", text).split()


def test_chinese_is_mlqas():
    rnd = random.Random(5)
    for _ in range(2000):
        found, gold = ("".join(rnd.choices("北京大学、。的1989年 ABC", k=rnd.randrange(1, 9))) for _ in range(2))
        a, b = mlqa_words(found), mlqa_words(gold)
        if not a or not b:
            continue
        wanted = 2 * sum((collections.Counter(a) & collections.Counter(b)).values()) / (len(a) + len(b))
        assert answers.f1(found, [gold], "zh", split_words) == pytest.approx(wanted), (found, gold)


def test_a_thai_answer_within_more_words_is_half_right():
    gold, longer = "กรุงเทพมหานคร", "เมืองกรุงเทพมหานคร"
    assert answers.exact_match(longer, [gold], "th") == 0
    assert 0.3 < answers.f1(longer, [gold], "th", split_words) < 1  # by spaces it would be 0
    assert answers.f1(gold, [gold], "th", split_words) == 1


@pytest.mark.parametrize(
    ("found", "gold", "lang"),
    [
        ("สี่ คน", "สี่คน", "th"),  # spaces say nothing there
        ("“Hà Nội”.", "Hà Nội", "vi"),
        ("Ha\u0300 No\u0323\u0302i", "Hà Nội", "vi"),  # not NFC
        ("ຫ້າຄົນ。", "ຫ້າຄົນ", "lo"),
    ],
)  # fmt: skip
def test_forms_of_one_answer_match(found, gold, lang):
    assert answers.exact_match(found, ["else", gold], lang) == 1
    assert answers.f1(found, ["else", gold], lang, split_words) == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("คำตอบคือ ๑,๒๓๔.๕๐ บาท", "1234.5"),
        ("So 3 + 4 = 7.", "7"),
        ("Rp 1.500,75 dari 20", "20"),
        ("x = -05.0", "-5"),
        ("-0.0", "0"),
        ("၁၂၃", "123"),
        ("1 234 567", "1234567"),
        ("3,5 kg", "3.5"),
        ("none", None),
    ],
)
def test_numbers(text, number):
    assert answers.number(text) == number


def test_chrf_is_sacrebleus():
    rnd = random.Random(7)
    found = ["".join(rnd.choices("abc de", k=20)) for _ in range(30)]
    golds = [["".join(rnd.choices("abc de", k=20)) for _ in range(2)] for _ in found]
    for words in (0, 2):
        wanted = corpus_chrf(found, [[gold[i] for gold in golds] for i in range(2)], word_order=words)
        value, signature = answers.chrf(found, golds, words)
        assert value == pytest.approx(wanted.score)
        assert f"nw:{words}" in signature and "version:" in signature
