"""How right a written answer is: exact match and F1 over words, numbers, and chrF of translations.

Exact match and F1 are SQuAD's (Rajpurkar et al. 2016, evaluate-v1.1): answers without case, punctuation and English articles,
the best of all right answers. What is a word differs: SQuAD cuts at spaces, by which 71 % of Thai and 91 % of Chinese answers
are one word and F1 is exact match. Here words are those of the given `split`, and of Chinese the characters (as in MLQA, Lewis
et al. 2020). Punctuation is what Unicode calls so, in every script. Texts are compared in NFC.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

from sacrebleu.metrics import CHRF

Split = Callable[[str], list[str]]
"""Words of a text in lower case."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_HAN = re.compile(r"[㐀-䶿一-鿿豈-﫿\U00020000-\U0003ffff]")
_SPACELESS_DIGITS = re.compile(r"(?<=\d)[,٬'’\u00a0\u202f ](?=\d{3}(?!\d))")
_DOTTED_THOUSANDS = re.compile(
    r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?![\d.])"
)  # 1.500.000, as in Indonesian and Vietnamese
_NUMBER = re.compile(r"(?:(?<![0-9A-Za-z])-)?\d+(?:[.,]\d+)?")


def normalised(text: str, lang: str) -> str:
    """NFC, lower case, without punctuation, articles (English) and spaces that say nothing."""
    text = unicodedata.normalize("NFC", text).lower()
    text = "".join(char for char in text if unicodedata.category(char)[0] not in "PSC" or char.isspace())
    if lang == "en":
        text = _ARTICLES.sub(" ", text)
    return " ".join(text.split())


def exact_match(answer: str, golds: Sequence[str], lang: str) -> float:
    """1.0 where the answer is one of `golds`, else 0.0. Spaces do not count in scripts that write none between words."""
    return float(any(_without_spaces(answer, lang) == _without_spaces(gold, lang) for gold in golds))


def f1(answer: str, golds: Sequence[str], lang: str, split: Split) -> float:
    """The best F1 of the answer's words with those of one of `golds`, 0 to 1."""
    return max((_f1(_words(answer, lang, split), _words(gold, lang, split)) for gold in golds), default=0.0)


def number(text: str) -> str | None:
    """The last number of a text, in Western digits without thousands separators and needless zeros; None without one.

    >>> number("ดังนั้นคำตอบคือ ๑,๒๓๔.๕๐ บาท")
    '1234.5'
    """
    text = "".join(str(unicodedata.decimal(char, char)) for char in text)
    text = _DOTTED_THOUSANDS.sub(lambda found: found[0].replace(".", ""), text)
    found = _NUMBER.findall(_SPACELESS_DIGITS.sub("", text))
    if not found:
        return None
    whole, _, part = found[-1].replace(",", ".").partition(".")
    part = part.rstrip("0")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    digits = digits.lstrip("0") or "0"
    return f"{sign if (digits, part) != ('0', '') else ''}{digits}{'.' if part else ''}{part}"


def same_number(answer: str, golds: Sequence[str]) -> float:
    """1.0 where the last number of the answer is one of `golds`, else 0.0."""
    found = number(answer)
    return float(found is not None and any(found == number(gold) for gold in golds))


def chrf(answers: Sequence[str], golds: Sequence[Sequence[str]], words: int = 0) -> tuple[float, str]:
    """chrF2 of all translations together, 0 to 100, and sacrebleu's signature of it; chrF++ with `words` 2 (Popović 2017).

    chrF++ counts words at spaces, so a sentence of Thai, Lao, Khmer, Burmese or Chinese is one word to it: give both.
    """
    metric = _chrf(words)
    width = max(map(len, golds), default=0)
    references = [[gold[i] if i < len(gold) else None for gold in golds] for i in range(width)]
    score = metric.corpus_score(list(answers), references)  # type: ignore[arg-type]  # None: no such reference
    return float(score.score), str(metric.get_signature())


@lru_cache(maxsize=2)
def _chrf(words: int) -> CHRF:
    return CHRF(word_order=words)


def sentence_chrf(answer: str, golds: Sequence[str], words: int = 0) -> float:
    """chrF2 (chrF++ with `words` 2) of one translation, 0 to 100."""
    return float(_chrf(words).sentence_score(answer, list(golds)).score)


def _without_spaces(text: str, lang: str) -> str:
    text = normalised(text, lang)
    return text.replace(" ", "") if lang in ("th", "lo", "km", "my", "zh") else text


def _words(text: str, lang: str, split: Split) -> list[str]:
    text = normalised(text, lang)
    if lang == "zh":
        return _HAN.sub(lambda found: f" {found.group()} ", text).split()
    return split(text)


def _f1(found: list[str], gold: list[str]) -> float:
    same = sum((Counter(found) & Counter(gold)).values())
    if not found or not gold:
        return float(found == gold)
    return 2 * same / (len(found) + len(gold))
