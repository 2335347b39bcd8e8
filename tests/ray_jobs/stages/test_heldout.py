"""Held-out documents: chosen by id alone, at the rate of their language."""

import hashlib

import pyarrow as pa
import pytest

from ray_jobs.stages.tokenize import heldout


def test_rate_per_language_and_no_memory_of_order():
    ids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(8000)]
    langs = ["th" if i % 2 else "lo" for i in range(8000)]
    table = pa.table({"doc_id": ids, "lang": langs})
    rates = {"th": 0.02, "lo": 0.25}
    held = heldout(table, rates)
    for lang, rate in rates.items():
        chosen = [h for h, one in zip(held, langs, strict=True) if one == lang]
        sigma = (rate * (1 - rate) / 4000) ** 0.5
        assert sum(chosen) / 4000 == pytest.approx(rate, abs=4 * sigma)
    assert heldout(table.slice(500, 100), rates) == held[500:600]
    more = heldout(table, {"th": 0.05, "lo": 0.25})
    assert all(
        later or not before for before, later in zip(held, more, strict=True)
    )  # a larger share keeps the smaller
