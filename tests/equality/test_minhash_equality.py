"""MinHash against what it estimates: exact Jaccard, datasketch on the same shingle sets, and the theory of LSH."""

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash as Datasketch

from curation.dedup.minhash import MinHash, band_keys, jaccard_estimate, signatures

LETTERS = {
    "latin": [chr(c) for c in range(ord("a"), ord("z"))],
    "thai": [chr(c) for c in range(0x0E01, 0x0E2F)],
    "burmese": [chr(c) for c in range(0x1000, 0x1021)],
    "han": [chr(c) for c in range(0x4E00, 0x5200)],
}


def pair(rng: np.random.Generator, script: str, edits: int, n: int = 300) -> tuple[list[str], list[str]]:
    """Two lists of units, the second with `edits` units replaced."""
    letters = LETTERS[script]
    units = rng.choice(letters, (n, 6)) if script == "latin" else rng.choice(letters, (n, 1))
    a = ["".join(unit) for unit in units]
    b = list(a)
    for i in rng.choice(n, edits, replace=False):
        b[i] = "".join(rng.choice(letters, 6 if script == "latin" else 1))
    return a, b


def shingles(units: list[str]) -> set[str]:
    return {"\x00".join(units[i : i + 5]) for i in range(len(units) - 4)}


def corpus(script: str, pairs: int) -> tuple[np.ndarray, list[tuple[set[str], set[str]]], list[str], list[str]]:
    rng = np.random.default_rng(abs(hash_of(script)))
    join = " " if script == "latin" else ""
    sets, left, right = [], [], []
    for i in range(pairs):
        a, b = pair(rng, script, edits=1 + i % 40)
        sets.append((shingles(a), shingles(b)))
        left.append(join.join(a))
        right.append(join.join(b))
    exact = np.array([len(a & b) / len(a | b) for a, b in sets])
    return exact, sets, left, right


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode(), "big") % 2**31


@pytest.mark.parametrize("script", list(LETTERS))
def test_estimate_is_exact_jaccard_with_binomial_error(script):
    """Unbiased; the spread of each estimate is that of P coin tosses of probability J, no more and no less."""
    exact, _, left, right = corpus(script, 400)
    for low_bits in (False, True):
        a, b = (signatures(pa.array(texts), 256, seed=11) for texts in (left, right))
        if low_bits:
            a, b = a.astype(np.uint8), b.astype(np.uint8)
        error = jaccard_estimate(a, b) - exact
        chance = exact + (1 - exact) / 256 if low_bits else exact
        sigma = np.sqrt(chance * (1 - chance) / 256) / (1 - 1 / 256 if low_bits else 1)
        z = error / sigma
        assert abs(z.mean()) * np.sqrt(len(z)) < 4.5  # mean 0: functions are shared, so 4.5 rather than 3
        assert 0.85 < z.std() < 1.15
        assert np.abs(z).max() < 5


def test_agrees_with_datasketch_on_the_same_shingle_sets():
    """Both are unbiased estimators of the same number: their difference has twice the binomial variance."""
    exact, sets, left, right = corpus("latin", 120)
    ours = jaccard_estimate(*(signatures(pa.array(texts), 256, seed=5) for texts in (left, right)))
    peers = []
    for a, b in sets:
        minhashes = [Datasketch(num_perm=256, seed=7) for _ in range(2)]
        for minhash, values in zip(minhashes, (a, b), strict=True):
            minhash.update_batch([value.encode() for value in sorted(values)])
        peers.append(minhashes[0].jaccard(minhashes[1]))
    z = (ours - np.array(peers)) / np.sqrt(2 * exact * (1 - exact) / 256)
    assert abs(z.mean()) * np.sqrt(len(z)) < 4.5 and 0.8 < z.std() < 1.2
    assert abs(np.abs(ours - exact).mean() - np.abs(peers - exact).mean()) < 0.006  # neither is the better one


def test_different_functions_are_as_good_as_independent():
    """The number of matches over functions is binomial: pairs of functions share nothing beyond J."""
    exact, _, left, right = corpus("han", 200)
    a, b = (signatures(pa.array(texts), 256, seed=3) for texts in (left, right))
    matches = (a == b).astype(float) - exact[:, None]
    correlation = (matches.T @ matches) / np.sqrt(np.outer((matches**2).sum(0), (matches**2).sum(0)))
    off = correlation[~np.eye(256, dtype=bool)]
    assert abs(off.mean()) < 0.01 and abs(off.std() - 1 / np.sqrt(200)) < 0.01


@pytest.mark.parametrize("config", [MinHash(256, 25, 10), MinHash(112, 14, 8)], ids=["25x10", "14x8"])
def test_candidates_follow_the_collision_curve(config):
    exact, _, left, right = corpus("thai", 1200)
    keys = [band_keys(pa.array(texts), config)[0] for texts in (left, right)]
    found = (keys[0] == keys[1]).any(axis=1)
    expected = config.collision(exact)
    spread = np.sqrt((expected * (1 - expected)).sum())
    assert abs(found.sum() - expected.sum()) < 4 * spread
    for low, high in ((0.4, 0.6), (0.6, 0.75), (0.75, 0.9), (0.9, 1.0)):
        here = (exact >= low) & (exact < high)
        assert here.sum() > 30
        spread = np.sqrt((expected * (1 - expected))[here].sum()) + 1
        assert abs(found[here].sum() - expected[here].sum()) < 4 * spread


def test_unrelated_documents_share_no_key():
    exact, _, left, _ = corpus("burmese", 500)
    keys, _ = band_keys(pa.array(left), MinHash())
    assert len(np.unique(keys)) == keys.size and len(exact) == 500
