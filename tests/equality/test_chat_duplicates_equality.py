"""Near-duplicate chats: the rows that datasketch's MinHashLSH keeps in the usual loop, and the same bands."""

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash as Datasketch
from datasketch import MinHashLSH
from datasketch.lsh import _optimal_param

from curation.dedup import conversations
from curation.dedup.minhash import EMPTY, signatures


def chats(n: int, seed: int) -> list[str]:
    """Texts of which about a third are edited copies of another, from barely touched to half rewritten."""
    rng = np.random.default_rng(seed)
    words = np.array([f"kata{i}" for i in range(4000)] + [chr(0x0E01 + i) for i in range(40)])
    texts = [list(rng.choice(words, rng.integers(1, 160))) for _ in range(n)]
    for i in range(0, n, 3):
        if i:
            texts[i] = list(texts[int(rng.integers(i))])
            for k in rng.choice(len(texts[i]), int(len(texts[i]) * rng.choice([0, 0.01, 0.03, 0.1, 0.5]))):
                texts[i][k] = str(rng.choice(words))
    return [" ".join(text) for text in texts] + ["", " ", "!!"]


@pytest.mark.parametrize(("threshold", "num_perm"), [(0.8, 128), (0.5, 128), (0.9, 64), (0.7, 256)])
def test_bands_are_datasketchs(threshold, num_perm):
    config = conversations.bands(threshold, num_perm)
    assert (config.bands, config.rows) == _optimal_param(threshold, num_perm, 0.5, 0.5)


@pytest.mark.parametrize("threshold", [0.8, 0.6])
def test_kept_rows_and_what_they_are_copies_of_are_datasketchs(threshold):
    texts = chats(300, seed=3)
    config = conversations.bands(threshold)
    order = np.random.default_rng(4).permutation(len(texts))
    ours = conversations.copies(conversations.keys(pa.array(texts), config), order)

    lsh = MinHashLSH(threshold=threshold, num_perm=128)
    assert (lsh.b, lsh.r) == (config.bands, config.rows)
    theirs = np.full(len(texts), -1)
    minima = signatures(pa.array(texts), 128, config.seed, config.ngram)
    for i in order.tolist():
        if (minima[i] == EMPTY).all():
            continue
        minhash = Datasketch(num_perm=128, hashvalues=minima[i].astype(np.uint64), scheme="legacy")
        if found := lsh.query(minhash):
            theirs[i] = min(found, key=order.tolist().index)
        else:
            lsh.insert(i, minhash)
    assert np.array_equal(ours, theirs)
    assert 30 < (ours >= 0).sum() < 150


def test_own_hash_functions_find_what_datasketchs_find():
    """With datasketch's own hashing of the same shingles: the clear copies are found by both, the clearly different by none."""
    texts = chats(300, seed=5)[:300]
    config = conversations.bands(0.8)
    ours = conversations.copies(conversations.keys(pa.array(texts), config), np.arange(len(texts))) >= 0
    lsh, theirs = MinHashLSH(threshold=0.8, num_perm=128), np.zeros(len(texts), bool)
    grams = []
    for i, text in enumerate(texts):
        words = text.split()
        grams.append({" ".join(words[k : k + 5]) for k in range(max(1, len(words) - 4))})
        minhash = Datasketch(num_perm=128, seed=1)
        minhash.update_batch([gram.encode() for gram in sorted(grams[i])])
        theirs[i] = bool(lsh.query(minhash))
        if not theirs[i]:
            lsh.insert(i, minhash)
    nearest = np.array([max((len(a & b) / len(a | b) for b in grams[:i]), default=0) for i, a in enumerate(grams)])
    copy, other = nearest >= 0.95, nearest < 0.4  # P(found) = .9985 at 0.95, 6e-5 at 0.4
    assert copy.sum() > 25 and other.sum() > 150
    assert ours[copy].all() and theirs[copy].all()
    assert not ours[other].any() and not theirs[other].any()
