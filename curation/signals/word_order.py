"""Whether words stand in the order of their language: what tells word salad and stuffed keywords from text, without a model.

The 127 most frequent words of a language are classes, all others are one. From documents of the run itself:

    S(a, b) = log2((pairs a b + 2) / (expected + 2)), within -3 and 3, a and b next to each other

    word_order = (mean of S over neighbours - mean of S over words 3, 5, 7 and 9 apart) / usual

Words in no order score as much beside each other as apart, whatever they are about: 0. *Usual* is the median of the documents
of a site or source, of that where it is least: a chapter of the Bible is more like other chapters than news are like news.
Documents are split into halves by a hash of their first words; each is scored by the pairs of the other half, for it would
know its own. A text with few of the frequent words, less than `COVERAGE` of what is usual, has no value: it is in another
style, and its order is not what was learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa

from curation.text.units import mix, text_buffers
from curation.text.words import alphabet, decode_text, read_words

CLASSES = 128
MIN_WORDS, MIN_DOCUMENTS = 2_000, 10  # of each half
GROUP_WORDS = 20_000  # of a site or source at most, so that the largest does not decide what is usual
MIN_GROUP = 10  # documents of a site or source that have a median
SHORTEST = 30  # words of a document that is scored
COVERAGE = 0.6
LEAST_USUAL = 0.03  # below it the order of a language is not seen in its frequent words
LONGEST = 1_000  # words of a document that are looked at
HALF_WORDS = 50
PRIOR, LIMIT = 2.0, 3.0
MAX_BYTES, MAX_CHARS = 3_000_000, 4_000  # of a language and of a document to learn from


class Order(NamedTuple):
    """What was learnt of one language."""

    hashes: np.ndarray  # uint64 [CLASSES - 1], sorted; word i is class i + 1
    scores: np.ndarray  # float32 [2, CLASSES, CLASSES], S of the documents of the *other* half
    usual: float
    coverage: float  # the least share of words that are frequent ones in a document with a value
    documents: int
    words: int


class Orders(NamedTuple):
    """Those of several languages in one, for the kernel. A language without one has a usual value of 0."""

    hashes: np.ndarray  # uint64 [languages, CLASSES - 1]
    scores: np.ndarray  # float32 [languages, 2, CLASSES, CLASSES]
    usual: np.ndarray  # float64 [languages]
    coverage: np.ndarray  # float64 [languages]


class Sample:
    """Documents to learn from, a batch at a time: of each language the first `MAX_BYTES`, of each the beginning."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.groups: dict[str, list[str]] = {}
        self.bytes: dict[str, int] = {}

    def wants(self, lang: str) -> bool:
        """Whether it takes more documents of a language."""
        return self.bytes.get(lang, 0) < MAX_BYTES

    def add(self, batch: pa.RecordBatch) -> None:
        """Take documents of a batch with `lang`, `text` (edited), `url` and `source`."""
        columns = (batch[name].to_pylist() for name in ("lang", "text", "url", "source"))
        for lang, text, url, source in zip(*columns, strict=True):
            if text and self.wants(lang):
                start = text[:MAX_CHARS]
                self.bytes[lang] = self.bytes.get(lang, 0) + len(start.encode())
                self.texts.setdefault(lang, []).append(start)
                self.groups.setdefault(lang, []).append(_host(url) or source or "")

    def learn(self) -> dict[str, Order]:
        """The orders of the languages that have one."""
        found = {
            lang: learn(pa.array(texts, pa.large_string()), self.groups[lang]) for lang, texts in self.texts.items()
        }
        return {lang: order for lang, order in found.items() if order}


def _host(url: str | None) -> str:
    return url.partition("://")[2].partition("/")[0] if url else ""


def together(found: Mapping[str, Order], languages: list[str]) -> Orders:
    """The orders of `languages`, in their order."""
    hashes = np.zeros((len(languages), CLASSES - 1), np.uint64)
    scores = np.zeros((len(languages) if found else 1, 2, CLASSES, CLASSES), np.float32)
    usual, coverage = np.zeros(len(languages)), np.zeros(len(languages))
    for i, lang in enumerate(languages):
        if lang in found:
            hashes[i], scores[i], usual[i] = found[lang].hashes, found[lang].scores, found[lang].usual
            coverage[i] = found[lang].coverage
    return Orders(hashes, scores, usual, coverage)


def learn(texts: pa.Array, groups: Sequence[str]) -> Order | None:
    """The order of one language from its documents, or None where there are too few, or where it is not seen.

    `groups` are the site or source of each document."""
    words, ends = _sequences(*text_buffers(texts), alphabet())
    words, ends, groups = _even(words, ends, groups)
    distinct, counts = np.unique(words, return_counts=True)
    frequent = np.sort(distinct[np.lexsort((distinct, -counts))[: CLASSES - 1]])
    if len(frequent) < CLASSES - 1:
        return None
    place = np.minimum(np.searchsorted(frequent, words), CLASSES - 2)
    classes = np.where(frequent[place] == words, place + 1, 0)
    starts = np.concatenate([[0], ends[:-1]])
    halves = np.array([half(words[a:b], b - a) for a, b in zip(starts, ends, strict=True)], np.int64)
    of_word = np.repeat(halves, ends - starts)
    if min(np.bincount(halves, minlength=2)) < MIN_DOCUMENTS or min(np.bincount(of_word, minlength=2)) < MIN_WORDS:
        return None
    inside = np.ones(len(words), bool)
    inside[ends[ends > 0] - 1] = False  # the last word of a document has none after it
    first = np.flatnonzero(inside)
    pairs = classes[first] * CLASSES + classes[first + 1]
    scores = np.stack([_scores(pairs[of_word[first] != h]) for h in (0, 1)])
    found: dict[str, list[tuple[float, float]]] = {}
    for a, b, h, group in zip(starts, ends, halves, groups, strict=True):
        if b - a >= SHORTEST:
            found.setdefault(group, []).append((contrast(classes[a:b], b - a, scores[h]), (classes[a:b] > 0).mean()))
    sites = [values for values in found.values() if len(values) >= MIN_GROUP]
    sites.append([value for values in found.values() for value in values] or [(0.0, 0.0)])
    medians = np.array([np.median(site, axis=0) for site in sites])
    seen = medians[medians[:, 0] >= LEAST_USUAL]
    if not len(seen):
        return None
    return Order(frequent, scores, float(seen[:, 0].min()), COVERAGE * float(seen[:, 1].min()), len(ends), len(words))


def _even(words: np.ndarray, ends: np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The documents that begin within the first `GROUP_WORDS` of their group."""
    lengths = np.diff(ends, prepend=0)
    met: dict[str, int] = {}
    keep = np.zeros(len(ends), bool)
    for i, group in enumerate(groups):
        keep[i] = met.setdefault(group, 0) < GROUP_WORDS
        met[group] += int(lengths[i])
    left = [group for group, kept in zip(groups, keep, strict=True) if kept]
    return words[np.repeat(keep, lengths)], np.cumsum(lengths[keep]), left


def _scores(pairs: np.ndarray) -> np.ndarray:
    counts = np.bincount(pairs, minlength=CLASSES * CLASSES).reshape(CLASSES, CLASSES).astype(np.float64)
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
    return np.clip(np.log2((counts + PRIOR) / (expected + PRIOR)), -LIMIT, LIMIT).astype(np.float32)


@numba.njit(cache=True)
def _sequences(data, offsets, by_word):
    """Hashes of the words of all documents, uint64, and where each document ends among them, int64."""
    size, n_documents = 0, len(offsets) - 1
    for d in range(n_documents):
        size = max(size, offsets[d + 1] - offsets[d])
    codes, hashes, chars = np.empty(size, np.uint32), np.empty(size, np.uint64), np.empty(size, np.int32)
    memo, previous, cuts = np.empty(size + 1, np.uint64), np.empty(size + 1, np.int32), np.empty(size + 1, np.int32)
    words, ends = np.empty(offsets[-1] - offsets[0], np.uint64), np.empty(n_documents, np.int64)
    written = 0
    for d in range(n_documents):
        n = decode_text(data, offsets[d], offsets[d + 1], codes)
        n_words, _ = read_words(codes, n, by_word, memo, previous, cuts, hashes, chars)
        words[written : written + n_words] = hashes[:n_words]
        written += n_words
        ends[d] = written
    return words[:written].copy(), ends


@numba.njit(cache=True)
def half(hashes, n_words):
    """0 or 1, by the first words of a document."""
    h = np.uint64(0)
    for i in range(min(n_words, HALF_WORDS)):
        h = mix(h + hashes[i])
    return np.int64(h & np.uint64(1))


@numba.njit(cache=True)
def contrast(classes, n_words, scores):
    """Mean score of neighbours less that of words apart, of `classes[:n_words]`, at least 10."""
    beside = apart = 0.0
    for i in range(n_words - 1):
        beside += scores[classes[i], classes[i + 1]]
    n_apart = 0
    for lag in range(3, 10, 2):
        for i in range(n_words - lag):
            apart += scores[classes[i], classes[i + lag]]
        n_apart += n_words - lag
    return beside / (n_words - 1) - apart / n_apart


@numba.njit(cache=True)
def word_order(ids, n_words, n_ids, hash_of_id, hashes, scores, usual, coverage, class_of_id, classes):  # noqa: PLR0917
    """The signal of a document with words `ids[:n_words]` and their `hash_of_id[:n_ids]`, NaN where it has none.

    `hashes`, `scores`, `usual` and `coverage` are those of its language; the last two arrays (int32) are scratch."""
    if n_words < SHORTEST or usual == 0:
        return np.nan
    n_words = min(n_words, LONGEST)
    for i in range(n_ids):
        place = np.searchsorted(hashes, hash_of_id[i])
        class_of_id[i] = place + 1 if place < len(hashes) and hashes[place] == hash_of_id[i] else 0
    h = np.uint64(0)
    frequent = 0
    for i in range(n_words):
        classes[i] = class_of_id[ids[i]]
        frequent += classes[i] > 0
        if i < HALF_WORDS:
            h = mix(h + hash_of_id[ids[i]])
    if frequent < coverage * n_words:
        return np.nan
    return contrast(classes, n_words, scores[np.int64(h & np.uint64(1))]) / usual
