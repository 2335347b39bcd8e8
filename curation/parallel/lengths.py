"""How long the sides of a pair are, in words of a spaced script: a letter of a script without spaces is 1/3.7 of one and a Han
character 1/1.6 (the same news in 15 languages, see `curation.decontaminate`)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.text.units import count_units

LETTERS, HAN = 3.7, 1.6  # of a word
SMOOTHING = 3.0  # words, so that two may be translated by five


def words(texts: pa.Array) -> np.ndarray:
    """The size of each text in words of a spaced script, float64 [N]."""
    spaced, single = count_units(texts)
    han = pc.count_substring_regex(texts, r"\p{Han}").to_numpy(zero_copy_only=False)
    return spaced + np.maximum(single - han, 0) / LETTERS + han / HAN


def length_ratio(a: pa.Array, b: pa.Array) -> np.ndarray:
    """(larger + 3) / (smaller + 3) of the sizes in words, float64 [N]."""
    sizes = np.stack([words(a), words(b)]) + SMOOTHING
    return sizes.max(0) / sizes.min(0)
