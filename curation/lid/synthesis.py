"""Texts that nobody wrote, for what training documents lack: a thin language's subjects, and languages without documents.

*Rewriting* turns texts of one language into a close one by a list of the words in which they differ (`lid/spellings.yaml`).
A language identifier trained on Indonesian books and Malay menus learns the difference between books and menus; when it also
sees the same books in Malay spelling it must look at the spelling. *Transplanting* puts the frequent words of a language
without documents (`lid/neighbours.yaml`) into texts of its neighbour in place of that one's own.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

FOLDER = Path(__file__).parent
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
LEAST_STEM = 4  # characters of a stem that is rewritten between affixes
FREQUENT = 150  # words of a language that a transplant replaces


@dataclass
class Spelling:
    """Pairs of words of two languages, and the affixes that stay around them."""

    pairs: dict[tuple[str, ...], list[str]]
    prefixes: list[str]
    suffixes: list[str]
    endings: list[tuple[str, str]]
    seen: dict[str, list[str]] = field(default_factory=dict)

    @property
    def longest(self) -> int:
        return max(map(len, self.pairs))

    def word(self, word: str) -> list[str]:
        """What one word may become; empty where nothing is known."""
        if word not in self.seen:
            self.seen[word] = self.pairs.get((word,)) or self._inflected(word)
        return self.seen[word]

    def _inflected(self, word: str) -> list[str]:
        for prefix in self.prefixes:
            if not word.startswith(prefix):
                continue
            for suffix in self.suffixes:
                stem = word[len(prefix) : len(word) - len(suffix)]
                if len(stem) < LEAST_STEM or not word.endswith(suffix):
                    continue
                if single := [new for new in self.pairs.get((stem,), ()) if " " not in new]:
                    return [prefix + new + suffix for new in single]
                for old, new in self.endings:
                    if stem.endswith(old) and len(stem) > len(old) + 2:
                        return [prefix + stem.removesuffix(old) + new + suffix]
        return []


def spellings() -> dict[tuple[str, str], Spelling]:
    """(from, to) -> the pairs of `lid/spellings.yaml`."""
    result = {}
    for name, entry in yaml.safe_load((FOLDER / "spellings.yaml").read_text("utf-8")).items():
        pairs = {}
        for pair in entry["pairs"].split(","):
            old, new = pair.strip().split("=")
            pairs[tuple(old.split())] = [" ".join(one.split()) for one in new.split("|")]
        prefixes, suffixes = (sorted(["", *entry[key].split()], key=len) for key in ("prefixes", "suffixes"))
        endings = [tuple(rule.split("=")) for rule in entry["endings"].split()]
        result[tuple(name.split("-"))] = Spelling(pairs, prefixes, suffixes, endings)
    return result


def listed_words() -> list[tuple[str, str]]:
    """(language, words of it that lists have): both sides of `lid/spellings.yaml`, the columns of `lid/everyday.yaml`."""
    found = []
    for (old, new), spelling in spellings().items():
        found.append((old, " ".join(sorted({word for words in spelling.pairs for word in words}))))
        found.append((new, " ".join(sorted({word for words in spelling.pairs.values() for word in words}))))
    for name, lines in yaml.safe_load((FOLDER / "everyday.yaml").read_text("utf-8")).items():
        columns = zip(*(line.split("|") for line in lines.splitlines()), strict=True)
        found += [(lang, " ".join(column)) for lang, column in zip(name.split("-"), columns, strict=True)]
    return found


def rewrite(text: str, spelling: Spelling, rng: random.Random) -> tuple[str, float]:
    """The lower-cased text in the other language's words, and the share of its words that changed."""
    text = text.lower()
    words = list(WORD.finditer(text))
    out, end, changed, i = [], 0, 0, 0
    while i < len(words):
        length, options = 1, spelling.word(words[i].group())
        for n in range(min(spelling.longest, len(words) - i), 1, -1):
            phrase = spelling.pairs.get(tuple(word.group() for word in words[i : i + n]))
            if phrase and all(text[words[k].end() : words[k + 1].start()] == " " for k in range(i, i + n - 1)):
                length, options = n, phrase
                break
        if options:
            start, stop = words[i].start(), words[i + length - 1].end()
            new = rng.choice(options)
            changed += length * (new != text[start:stop])
            out += [text[end:start], new]
            end = stop
        i += length
    return "".join([*out, text[end:]]), changed / max(1, len(words))


def neighbours() -> dict[str, tuple[list[str], list[str]]]:
    """Language -> (its frequent words, the languages near to it) of `lid/neighbours.yaml`."""
    entries = yaml.safe_load((FOLDER / "neighbours.yaml").read_text("utf-8"))
    return {lang: (entry["words"].split(), entry.get("near", "").split()) for lang, entry in entries.items()}


def frequent_words(sources: Mapping[str, Iterable[str]], size: int = FREQUENT) -> set[str]:
    """The words of a language with the largest geometric mean of their rates in its sources: those of no subject."""
    counts = [
        Counter(word for text in sources[name] for word in WORD.findall(text.lower())) for name in sorted(sources)
    ]
    totals = [count.total() + 1000 for count in counts]
    known = sorted({word for count in counts for word, _ in count.most_common(2000)})
    rates = {
        word: float(np.mean([np.log((count[word] + 0.5) / total) for count, total in zip(counts, totals, strict=True)]))
        for word in known
    }
    return set(sorted(known, key=lambda word: (-rates[word], word))[:size])


def transplant(text: str, frequent: set[str], words: list[str], rng: random.Random) -> str:
    """The lower-cased text with words of another language in place of the frequent ones."""
    text = text.lower()
    new = iter(_draw(words, len(WORD.findall(text)), rng))
    return WORD.sub(lambda found: next(new) if found.group() in frequent else found.group(), text)


def bag(words: list[str], rng: random.Random) -> str:
    """3 to 40 of the words in any order."""
    return " ".join(_draw(words, int(3 * 14 ** rng.random()), rng))


def _draw(words: list[str], n: int, rng: random.Random) -> list[str]:
    """The lists begin with the most frequent words: the i-th is drawn as often as 1 / (i + 2) (Zipf 1949)."""
    return rng.choices(words, [1 / (i + 2) for i in range(len(words))], k=n)
