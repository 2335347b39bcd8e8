"""dedup.edit_share: copies with that share of their words edited are found alike in every script, and nothing else is."""

import random

import numpy as np
import pyarrow as pa
import pytest

from curation.dedup.minhash import (
    LEVEL,
    MinHash,
    at_edit_share,
    fold_bands,
    jaccard_estimate,
    shingle_sets,
    signatures,
)
from curation.dedup.schema import DedupConfig
from curation.text.units import HAN, LETTER, WORD
from ray_jobs.config.curation import Dedup

LETTERS = {
    "en": (97, 26),
    "th": (0x0E01, 40),
    "lo": (0x0E99, 7),
    "km": (0x1780, 30),
    "my": (0x1000, 30),
    "zh": (0x4E00, 900),
}
WORD_LETTERS = {"en": 6, "th": 3.7, "lo": 3.7, "km": 3.6, "my": 2.9, "zh": 1.6}


def words(lang, n, rng):
    first, count = LETTERS[lang]
    lengths = [max(1, int(WORD_LETTERS[lang] + rng.random() * 2 - 0.5)) for _ in range(n)]
    return ["".join(chr(first + rng.randrange(count)) for _ in range(k)) for k in lengths]


def edited(page, share, lang, rng):
    out = list(page)
    for i in rng.sample(range(len(page)), round(share * len(page))):
        out[i] = rng.choice(["", rng.choice(page), out[i] + (" " if lang == "en" else "") + rng.choice(page)])
    return out


def found(lang, share, config, n=80):
    rng = random.Random(f"{lang} {share}")
    pages = [words(lang, rng.randrange(150, 500), rng) for _ in range(n)]
    join = (" " if lang == "en" else "").join
    both = [
        signatures(pa.array([join(p) for p in some]), config.num_perm, config.seed, config.minhash.ngram)
        for some in (pages, [edited(p, share, lang, rng) for p in pages])
    ]
    keys = [fold_bands(minima, config.minhash)[0] for minima in both]
    near = jaccard_estimate(*(minima.astype(np.uint8) for minima in both)) >= config.threshold
    return ((keys[0] == keys[1]).any(axis=1) & near).mean()


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
def test_what_is_found_is_level_across_scripts(share):
    config = DedupConfig(edit_share=share)
    at, far = ({lang: found(lang, k * share, config) for lang in LETTERS} for k in (1, 2.5))
    assert min(at.values()) >= 0.8, at
    assert max(far.values()) <= 0.25, far


def test_by_default_a_threshold_means_more_edits_where_there_are_no_spaces():
    assert found("th", 0.05, DedupConfig()) > 0.8 and found("en", 0.05, DedupConfig()) < 0.3


def test_a_share_decides_bands_rows_shingles_and_threshold():
    config = DedupConfig(edit_share=0.05, bands=3, rows=3, ngram=9, threshold=0.1)
    assert (config.threshold, config.bands, config.rows) == at_edit_share(0.05) and config.minhash.ngram == 0
    for share in (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3):
        for num_perm in (16, 112, 256):
            threshold, bands, rows = at_edit_share(share, num_perm)
            assert MinHash(num_perm, bands, rows, 0).collision(threshold) >= 0.9 or rows == 1


def test_the_shingle_of_a_text_is_that_of_the_kind_of_most_of_it():
    texts = {WORD: "a b c d e f ข", LETTER: "กขคฆงจฉชซฌญ two", HAN: "天地玄黄宇宙洪荒日月 two"}
    for kind, text in texts.items():
        level, plain = (shingle_sets(pa.array([text]), n)[0] for n in (0, LEVEL[kind]))
        assert np.array_equal(level, plain)
        assert (signatures(pa.array([text]), 64, 1, 0) == signatures(pa.array([text]), 64, 1, LEVEL[kind])).all()
    assert [len(one) for one in shingle_sets(pa.array(["", "!", None]), 0)] == [0, 0, 0]
    assert signatures(pa.array([], pa.string()), 8, 1, 0).shape == (0, 8)


@pytest.mark.parametrize("key", ["bands", "rows", "ngram", "threshold"])
def test_a_recipe_gives_one_of_the_two(key):
    assert Dedup(edit_share=0.05).edit_share == 0.05 and Dedup(threshold=0.8).edit_share is None
    with pytest.raises(ValueError, match=f"give edit_share or {key}, not both"):
        Dedup(edit_share=0.05, **{key: 1})
