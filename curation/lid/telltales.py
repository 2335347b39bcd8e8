"""Two languages that lid.176 mixes up, told apart by words that only one of them has (`lid/telltales.yaml`).

lid.176 calls most Malay Indonesian. Where it says one of such a pair, the language with more telltale words in the beginning
of the text is taken; with as many of both, its own answer stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from curation.lid.model import PREFIX_CHARS

WORD = re.compile(r"\w+")


@cache
def telltales() -> dict[tuple[str, str], dict[str, int]]:
    """(first, second) -> word -> 1 for a word of the first language, -1 for one of the second."""
    entries = yaml.safe_load((Path(__file__).parent / "telltales.yaml").read_text("utf-8"))
    return {
        (first, second): {word: sign for lang, sign in ((first, 1), (second, -1)) for word in entry[lang].split()}
        for first, second, entry in ((*name.split("-"), entry) for name, entry in entries.items())
    }


def tell_apart(texts: pa.Array, labels: Sequence[str], best: np.ndarray, probabilities: np.ndarray) -> None:
    """Correct `best` (n,) and `probabilities` (n, labels) in place: the two languages of a pair change places."""
    heads = pc.utf8_lower(pc.utf8_slice_codeunits(texts, 0, PREFIX_CHARS))
    for pair, words in telltales().items():
        first, second = (labels.index(lang) for lang in pair)
        for row in np.flatnonzero((best == first) | (best == second)).tolist():
            votes = sum(words.get(word, 0) for word in WORD.findall(heads[row].as_py()))
            if votes and best[row] != (right := first if votes > 0 else second):
                probabilities[row, [first, second]] = probabilities[row, [second, first]]
                best[row] = right
