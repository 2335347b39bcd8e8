"""Interpolated modified Kneser-Ney estimates of an n-gram model (Chen and Goodman 1998), as KenLM's lmplz computes them.

    p(w | c) = (a(cw) - D(a(cw))) / sum_v a(cv) + b(c) p(w | c without its first word)

a is the count at the highest order and for n-grams that begin with <s>; below it is the number of different words before
the n-gram. D takes one of three values by the size of a, from the counts of counts n_k of the order: D_k = k - (k + 1)
Y n_{k+1} / n_k, Y = n_1 / (n_1 + 2 n_2), and where these are out of range lmplz's fallback 0.5, 1, 1.5. b(c) is what the
discounts leave. Unigrams are interpolated with 1 / (vocabulary with </s> and <unk>). See Heafield et al. 2013.

In memory: about 100 bytes a word and order. lmplz does the same on disk, for corpora that do not fit; the two agree to the
precision of its single floats (tests/equality).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curation.lm.pieces import BEGIN, END, UNKNOWN

FALLBACK = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order: `words` int32 [N, n], log10 `prob` and `backoff` float32 [N] (0 where none follows)."""

    words: np.ndarray
    prob: np.ndarray
    backoff: np.ndarray


def estimate(words: np.ndarray, ends: np.ndarray, order: int) -> list[Grams]:
    """The model of the sentences `words[ends[i - 1] : ends[i]]` (ids), for the orders 1 to `order` of at least 2.

    UNKNOWN must not be among the words (`without_unknown`); its unigram is what is left for words never seen. BEGIN has
    probability 1, which is never asked for. Raises ValueError for no sentence.
    """
    if not len(ends):
        raise ValueError("no sentences to estimate an n-gram model from")
    stream, place = _stream(words, ends)
    size = int(stream.max()) + 1
    ids: list[np.ndarray] = [stream.astype(np.int64)]  # number of the n-gram of each order that ends here, -1 for none
    where, suffix, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], []
    for n in range(2, order + 1):
        valid = np.flatnonzero(place >= n - 1)
        key = ids[-1][valid] * size + stream[valid - n + 1]
        _, first, inverse, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        number = np.full(len(stream), -1, np.int64)
        number[valid] = inverse
        ids.append(number)
        where.append(valid[first])
        suffix.append(ids[-2][valid[first]])
        counts.append(count)
    adjusted = _adjusted(stream, place, where, suffix, counts, size, order)
    return _interpolated(stream, ids, where, suffix, adjusted, size)


def without_unknown(words: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sentences without words of id UNKNOWN, and without those that hold nothing else."""
    keep = words != UNKNOWN
    left = np.concatenate([[0], np.cumsum(keep)])[ends]
    return words[keep], left[np.diff(left, prepend=0) > 0]


def _stream(words: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All sentences with BEGIN before and END after each, and the place of each word in its sentence."""
    lengths = np.diff(ends, prepend=0) + 2
    starts = np.cumsum(lengths) - lengths
    stream = np.empty(int(lengths.sum()), np.int32)
    inside = np.ones(len(stream), bool)
    inside[starts] = inside[starts + lengths - 1] = False
    stream[starts], stream[starts + lengths - 1] = BEGIN, END
    stream[inside] = words[: ends[-1]]
    return stream, np.arange(len(stream)) - np.repeat(starts, lengths)


def _adjusted(stream, place, where, suffix, counts, size, order) -> list[np.ndarray]:  # noqa: PLR0917
    """The counts a of each order."""
    result = []
    for n in range(1, order + 1):
        if n == order:
            own = np.bincount(stream[place > 0], minlength=size) if n == 1 else counts[n - 2]
            result.append(own.astype(np.float64))
            continue
        total = size if n == 1 else len(where[n - 1])
        before = np.bincount(suffix[n], minlength=total).astype(np.float64)
        if n > 1:
            begins = stream[where[n - 1] - n + 1] == BEGIN
            before[begins] = counts[n - 2][begins]
        result.append(before)
    result[0][[UNKNOWN, BEGIN]] = 0
    return result


def _discounts(adjusted: np.ndarray) -> np.ndarray:
    """D for a = 0, 1, 2 and 3 or more."""
    n1, n2, n3, n4 = (float((adjusted == k).sum()) for k in (1, 2, 3, 4))
    if min(n1, n2, n3) > 0:
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 <= d <= k for k, d in enumerate(found, 1)):
            return np.array([0.0, *found])
    return np.array([0.0, *FALLBACK])


def _interpolated(stream, ids, where, suffix, adjusted, size) -> list[Grams]:  # noqa: PLR0917
    grams: list[Grams] = []
    lower = np.zeros(0)
    for n, counts in enumerate(adjusted, 1):
        discount = _discounts(counts)
        off = discount[np.minimum(counts, 3).astype(np.int64)]
        if n == 1:
            seen = np.flatnonzero(counts > 0)
            known = np.union1d(seen, [UNKNOWN, BEGIN])
            total = counts.sum()
            gamma = off[seen].sum() / total
            prob = (counts - off) / total + gamma / (len(known) - 1)
            prob[BEGIN] = 1.0
            words, keep = known[:, None].astype(np.int32), known
        else:
            at = where[n - 1]
            context = ids[n - 2][at - 1]
            n_contexts = size if n == 2 else len(where[n - 2])
            total = np.bincount(context, counts, n_contexts)
            left = np.bincount(context, off, n_contexts)
            with np.errstate(invalid="ignore"):
                weight = left / total
            prob = (counts - off) / total[context] + weight[context] * lower[suffix[n - 1]]
            with np.errstate(divide="ignore"):
                previous = np.where(total > 0, np.log10(np.where(total > 0, weight, 1.0)), 0.0)
            grams[-1] = Grams(grams[-1].words, grams[-1].prob, previous[keep].astype(np.float32))
            words = np.stack([stream[at - n + 1 + k] for k in range(n)], axis=1)
            keep = np.arange(len(at))
        logs = np.log10(prob[keep]).astype(np.float32)
        grams.append(Grams(words, logs, np.zeros(len(keep), np.float32)))
        lower = prob
    return grams
