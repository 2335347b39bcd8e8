"""Signatures and band keys: a naive twin, what must and must not match, and the shapes."""

import numpy as np
import pyarrow as pa
import pytest

from curation.dedup import minhash
from curation.dedup.minhash import MinHash
from curation.text import units

MASK = (1 << 64) - 1


def mix(h: int) -> int:
    h ^= h >> 33
    h = h * 0xFF51AFD7ED558CCD & MASK
    h ^= h >> 33
    h = h * 0xC4CEB9FE1A85EC53 & MASK
    return h ^ h >> 33


def naive_signature(text: str, num_perm: int, seed: int, ngram: int) -> list[int]:
    data, offsets = units.text_buffers(pa.array([text]))
    hashes, kinds = np.empty(1000, np.uint64), np.empty(1000, np.uint8)
    n, _ = units.read_units(data, 0, offsets[-1], units.CLASSES, units.LOWER, units.ASCII_WORD, hashes, kinds)
    found = [int(h) for h in hashes[:n]]
    windows = [found[i : i + ngram] for i in range(n - ngram + 1)] or ([found] if found else [])
    shingles = []
    for window in windows:
        total = 0
        for h in window:
            total = total * int(units.PRIME) + h & MASK
        shingles.append(mix(total) >> 32)
    multiply, add = minhash.functions(num_perm, seed)
    return [
        min([h * int(a) + int(b) & 0xFFFFFFFF for h in shingles], default=2**32 - 1)
        for a, b in zip(multiply, add, strict=True)
    ]


@pytest.mark.parametrize(
    "text", ["satu dua tiga empat lima enam tujuh", "satu", "ปลาในน้ำมีข้าวในนา", "", "!?", "一二三四五六七八九十" * 9]
)
@pytest.mark.parametrize("ngram", [1, 5])
def test_signature_equals_the_naive_one(text, ngram):
    assert minhash.signatures(pa.array([text]), 16, 3, ngram)[0].tolist() == naive_signature(text, 16, 3, ngram)


def test_shapes_prefixes_and_seeds():
    texts = pa.array(["satu dua tiga empat lima enam", "lain sama sekali dari yang itu", ""])
    wide, narrow = minhash.signatures(texts, 256), minhash.signatures(texts, 112)
    assert wide.dtype == np.uint32 and wide.shape == (3, 256)
    assert (wide[:, :112] == narrow).all()
    assert (minhash.signatures(texts, 112, seed=1) != narrow)[:2].mean() > 0.99
    keys, valid = minhash.band_keys(texts, MinHash())
    assert keys.dtype == np.uint64 and keys.shape == (3, 25) and valid.tolist() == [True, True, False]
    keys, _ = minhash.band_keys(texts, MinHash(112, 14, 8))
    assert keys.shape == (3, 14)
    assert len(np.unique(keys[:2])) == 28  # the same rows in another band would be another key
    assert minhash.signatures(pa.array([], pa.string())).shape == (0, 256)


def test_a_key_depends_on_every_row_of_its_band_and_no_other():
    config = MinHash(112, 14, 8)
    minima = np.random.default_rng(0).integers(0, 2**32, (1, 112), dtype=np.uint32)
    keys, _ = minhash.fold_bands(minima, config)
    for p in range(112):
        changed = minima.copy()
        changed[0, p] ^= 1
        assert np.flatnonzero(minhash.fold_bands(changed, config)[0] != keys).tolist() == [p // 8]


def test_documents_without_units_never_match():
    keys, valid = minhash.band_keys(pa.array(["", None, "★ — ★", "\n"]), MinHash())
    assert not valid.any() and not keys.any()


def test_same_text_in_any_case_and_punctuation_has_the_same_signature():
    a, b, c = minhash.signatures(
        pa.array(["Aku pergi, ke PASAR pagi ini!", "aku pergi ke pasar -- pagi ini", "aku pergi ke pasar pagi"])
    )
    assert (a == b).all() and (a != c).any()
    short = minhash.signatures(pa.array(["satu dua", "Satu Dua!", "dua satu"]))
    assert (short[0] == short[1]).all() and (short[0] != short[2]).all()


def test_long_documents_cross_chunks_and_leave_no_trace_in_the_next():
    rng = np.random.default_rng(5)
    long = " ".join(f"w{i}" for i in rng.integers(0, 10**6, 3 * units.CHUNK + 17))
    alone = [minhash.signatures(pa.array([text]), 32)[0] for text in (long, "satu dua", long[: len(long) // 2])]
    together = minhash.signatures(pa.array([long, "satu dua", long[: len(long) // 2]]), 32)
    assert (np.array(alone) == together).all()
    words = long.split()
    parts = [" ".join(words[i : i + 1004]) for i in range(0, len(words), 1000)]  # windows overlap by n - 1 units
    assert (minhash.signatures(pa.array(parts), 32).min(axis=0) == together[0]).all()


def test_estimate_takes_out_chance_matches_of_cut_signatures():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2**32, (2000, 256), dtype=np.uint32)
    b = np.where(rng.random(a.shape) < 0.6, a, rng.integers(0, 2**32, a.shape, dtype=np.uint32))
    whole = minhash.jaccard_estimate(a, b)
    low = minhash.jaccard_estimate(a.astype(np.uint8), b.astype(np.uint8))
    assert abs(whole.mean() - 0.6) < 0.005 and abs(low.mean() - whole.mean()) < 0.002
    assert minhash.jaccard_estimate(a[0], a[0]) == 1.0
    assert minhash.jaccard_estimate(a[:1].astype(np.uint8), ~a[:1].astype(np.uint8))[0] == 0.0


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="25 bands x 10 rows need more than num_perm = 100 functions"):
        MinHash(num_perm=100)
    with pytest.raises(ValueError, match="at least 1"):
        MinHash(rows=0)
    assert abs(MinHash().collision(0.725) - 0.641) < 0.001 and abs(MinHash().collision(0.6977) - 0.5) < 0.001
    assert MinHash().collision(1.0) == 1.0 and MinHash().collision(0.0) == 0.0
