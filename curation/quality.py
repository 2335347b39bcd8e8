"""One fastText classifier per language that says how much a text is like the good ones (DCLM, arXiv 2406.11794).

Sailor2, section 3.2: positives from chosen sources against negatives from the crawl, at most 10,000 of each; the best
20 % of a language's documents form the pool of the annealing stage. Settings are DCLM's: word 2-grams, otherwise
fastText's own (100 dimensions, 5 epochs, learning rate 0.1). With fewer than 20,000 examples the learning rate rises
with their lack, to 0.5 at most: on 927 English examples 0.1 gave a held-out AUC of 0.70, every score near 0.5, and 0.5
gave 0.98. Languages written without spaces are cut into character clusters first, as fastText sees words only between
spaces. One thread, so that equal examples give a byte-identical model (with glibc).

The score orders the documents of one language; it is not a probability across languages. A classifier can learn to tell the
sources apart instead of their quality, above all when the positives are translations ("translationese against
native"). So good native texts that it is never trained on must score above the median of held-out negatives.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import fasttext
import numpy as np
import xxhash

from curation.text.characters import only_words

GOOD, REST = "__label__good", "__label__rest"
UNSPACED = frozenset({"th", "lo", "km", "my", "zh"})
MAX_CHARS = 20_000  # of one document that are looked at
M_PERTURB = -6  # glibc's malloc.h
MAX_BUCKETS = 2_000_000  # fastText's default number of hash buckets for 2-grams

# A cluster: a consonant with what is written around it (a vowel before it, signs above and below, stacked consonants), or
# one Han character. Khmer U+17D2 and Burmese U+1039 stack the next consonant; a Burmese consonant with U+103A closes a
# syllable.
CLUSTER = re.compile(
    "[\u0e40-\u0e44]?[\u0e01-\u0e2e][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*[\u0e30\u0e32\u0e33\u0e45]*"
    "|[\u0ec0-\u0ec4]?[\u0e81-\u0eae\u0edc-\u0edf][\u0eb1\u0eb4-\u0ebd\u0ec8-\u0ece]*[\u0eb0\u0eb2\u0eb3]*"
    "|[\u1780-\u17b3](?:\u17d2[\u1780-\u17b3]|[\u17b4-\u17d1\u17d3\u17dd])*"
    "|[\u1000-\u102a\u103f\u104c-\u1055\u105a-\u105d\u1061\u1065\u1066\u106e-\u1070\u1075-\u1081]"
    "(?:\u1039[\u1000-\u102a]|[\u102b-\u1038\u103a-\u103e\u1056-\u1059\u105e-\u1060\u1062-\u1064\u1082-\u108d])*"
    "(?:[\u1000-\u1021]\u103a[\u1037\u1038]*)*"
    "|[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class Split:
    """Examples of one language, (positives, negatives) each: to train on, and held out to measure; and good native texts."""

    train: tuple[list[str], list[str]]
    heldout: tuple[list[str], list[str]]
    native: list[str]

    def report(self, lang: str, scores: Sequence[np.ndarray], native: np.ndarray | None = None) -> dict:
        """How many there are, and how good `scores` of the held-out ones and of the `native` texts are."""
        report = {
            "lang": lang,
            **dict(zip(("positives", "negatives"), map(len, self.train), strict=True)),
            **dict(zip(("heldout_positives", "heldout_negatives"), map(len, self.heldout), strict=True)),
            "auc": round(auc(*scores), 4),
        }
        if native is not None and len(native):
            above = float((native > np.median(scores[1])).mean())
            report |= {
                "native": len(native),
                "above_median": round(above, 4),
                "shortcut": above < 0.5 + len(native) ** -0.5,
            }
        return report


def split(
    positives: list[str],
    negatives: list[str],
    *,
    per_side: int = 10_000,
    min_examples: int = 20,
    heldout_share: float = 0.1,
    seed: int = 1,
    native: Sequence[str] = (),
) -> Split | None:
    """Of each side the `per_side` texts with the smallest hashes; empty and repeated texts, and those on both sides, are left
    out, and so are the `native` ones. `heldout_share` of them only measure. None when fewer than `min_examples` are left on a
    side."""
    checked = {_hash(text, seed): text for text in map(str.strip, native) if text}
    sides = [{_hash(text, seed): text for text in map(str.strip, side) if text} for side in (positives, negatives)]
    unused = (sides[0].keys() & sides[1].keys()) | checked.keys()
    chosen = [[side[key] for key in sorted(side.keys() - unused)[:per_side]] for side in sides]
    if min(map(len, chosen)) < max(2, min_examples):
        return None
    # The order is by hash already, so the first ones are a random choice.
    cuts = [max(1, round(heldout_share * len(texts))) for texts in chosen]
    good, rest = ((texts[cut:], texts[:cut]) for texts, cut in zip(chosen, cuts, strict=True))
    natives = [checked[key] for key in sorted(checked)[:per_side]]
    return Split((good[0], rest[0]), (good[1], rest[1]), natives)


def train(
    positives: list[str],
    negatives: list[str],
    lang: str,
    path: str,
    *,
    per_side: int = 10_000,
    min_examples: int = 20,
    heldout_share: float = 0.1,
    seed: int = 1,
    native: Sequence[str] = (),
) -> dict | None:
    """Train the classifier of `lang` and save it at the local `path`; returns what it was trained on and how good it is.

    Examples are chosen and held out as `split` does: `auc` is the probability that a held-out positive scores above a held-out
    negative. None, and no file, when fewer than `min_examples` are left on a side.

    `native` are good texts written in the language, by choice of the user. They are never trained on, even where they are
    examples too. `above_median` is the share of them that scores above the median of the held-out negatives, and
    `shortcut` is true unless that is more than half by two standard errors: texts that it could not tell from the negatives
    would reach half. Then the classifier has learnt something else than quality.
    """
    found = split(
        positives,
        negatives,
        per_side=per_side,
        min_examples=min_examples,
        heldout_share=heldout_share,
        seed=seed,
        native=native,
    )
    if found is None:
        return None
    model = _fit({lang: found}, path, seed)
    scores = [score(model, texts, lang) for texts in found.heldout]
    return found.report(lang, scores, score(model, found.native, lang))


def train_pooled(
    examples: Mapping[str, tuple[list[str], list[str], list[str]]],
    path: str,
    *,
    per_side: int = 10_000,
    heldout_share: float = 0.1,
    seed: int = 1,
) -> dict[str, dict]:
    """One classifier for all languages, from language -> (positives, negatives, native), saved at the local `path`.

    Each language gives what `split` leaves of it, however few. Returns the report of each language that gave something; no
    file when none did."""
    parts = {
        lang: found
        for lang, (positives, negatives, native) in sorted(examples.items())
        if (
            found := split(
                positives,
                negatives,
                per_side=per_side,
                min_examples=2,
                heldout_share=heldout_share,
                seed=seed,
                native=native,
            )
        )
    }
    if not parts:
        return {}
    model = _fit(parts, path, seed)
    return {
        lang: one.report(lang, [score(model, texts, lang) for texts in one.heldout], score(model, one.native, lang))
        for lang, one in parts.items()
    }


def _fit(parts: Mapping[str, Split], path: str, seed: int) -> fasttext.FastText._FastText:
    lines = [
        f"{label} {segment(text, lang)}"
        for lang, one in parts.items()
        for label, texts in zip((GOOD, REST), one.train, strict=True)
        for text in texts
    ]
    lines.sort(key=lambda line: _hash(line, seed))
    with tempfile.TemporaryDirectory() as folder, _zeroed_allocations() as zeroed:
        examples = os.path.join(folder, "examples.txt")
        with open(examples, "w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)
        model = fasttext.train_supervised(
            examples,
            lr=0.1 * min(5.0, max(1.0, 20_000 / len(lines))),
            dim=100,
            epoch=5,
            wordNgrams=2,
            bucket=_buckets(lines),
            thread=1 if zeroed else 10,
            seed=seed,
            verbose=0,
        )
    model.save_model(path)
    return model


def load(path: str) -> fasttext.FastText._FastText:
    """The classifier at a local `path`."""
    return fasttext.load_model(path)


def score(model: fasttext.FastText._FastText, texts: list[str], lang: str) -> np.ndarray:
    """P(good) of each text, float32 [len(texts)]; 0 for a text in which there is nothing to see."""
    segmented = [segment(text, lang) for text in texts]
    out = np.zeros(len(texts), np.float32)
    seen = [i for i, text in enumerate(segmented) if text]
    if seen:
        labels, probabilities = model.predict([segmented[i] for i in seen], k=2)
        for i, names, values in zip(seen, labels, probabilities, strict=True):
            out[i] = min(1.0, dict(zip(names, values, strict=True)).get(GOOD, 0.0))
    return out


def threshold(scores: np.ndarray, top_share: float = 0.2) -> float:
    """The score from which on a document of this language is among the best `top_share`: keep `score >= threshold`.

    At least `top_share` of them are kept, more when scores are equal. Raises ValueError for no scores.
    """
    if not len(scores):
        raise ValueError("no scores to take a threshold of")
    keep = max(1, int(np.ceil(top_share * len(scores) - 1e-9)))
    return float(np.partition(np.asarray(scores), len(scores) - keep)[len(scores) - keep])


def auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """P(a positive scores above a negative), ties counting half (Mann and Whitney 1947)."""
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, "left") + np.searchsorted(ordered, positives, "right")
    return float(below.sum() / (2 * len(positives) * len(negatives)))


def segment(text: str, lang: str) -> str:
    """The text on one line as fastText shall see it: for languages without spaces, a space around each cluster."""
    text = only_words(text[:MAX_CHARS])
    if lang in UNSPACED:
        text = CLUSTER.sub(r" \g<0> ", text)
    return " ".join(text.split())


@contextmanager
def _zeroed_allocations() -> Iterator[bool]:
    """Make malloc give zeroed memory while a model is trained; False where the C library cannot.

    With t < 10 threads fastText draws only the first t tenths of its input matrix and trains on whatever memory held in
    the rest: measured here, 10 % of the rows with one thread, another model at each call in one process, often NaN.
    Zeros instead are a sound start, as the rows of the most frequent words, which come first, are drawn.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield False
        return
    mallopt(M_PERTURB, 0xFF)  # memory is filled with the complement of this byte
    try:
        yield True
    finally:
        mallopt(M_PERTURB, 0)


def _buckets(lines: list[str]) -> int:
    """Hash buckets for 2-grams: fastText's 2,000,000 (800 MB) only for texts that fill them.

    A quarter as many buckets (grams / 16 instead of / 4) changed AUC by less than 0.002 in English, Thai and Sundanese.
    """
    grams = sum(line.count(" ") for line in lines)
    return min(MAX_BUCKETS, 1 << max(14, (grams // 16).bit_length()))


def _hash(text: str, seed: int) -> int:
    return xxhash.xxh3_128_intdigest(text.encode("utf-8", "replace"), seed)
