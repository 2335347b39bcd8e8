"""Held-out documents: chosen by id alone, at the rate of their language."""

import hashlib
import random
from collections import Counter
from types import SimpleNamespace

import pyarrow as pa
import pytest

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.stages.tokenize import _heldout_rates, _not_measured, heldout, heldout_documents


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


def test_three_documents_but_no_more_than_a_quarter():
    found = [heldout_documents(n, 0.02) for n in (0, 1, 3, 4, 7, 8, 11, 12, 20, 150, 200, 900)]
    assert found == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 18]


def held_of(folder, parts, share=0.02):
    """Who is held out of documents in `parts`, by the stage's own rates."""
    recipe = recipes.load("demo", [f"tokenize.heldout_share={share}"])
    job = SimpleNamespace(recipe=recipe, input=lambda stage, *path: storage.join(str(folder), *path))
    tables = [pa.Table.from_pylist(rows, schema=IDS) for rows in parts]
    for i, table in enumerate(tables):
        counts = Counter(table["lang"].to_pylist())
        storage.write_table(str(folder / f"part-{i:05}.parquet"), table)
        storage.write_json(str(folder / "_shards" / f"part-{i:05}.json"), {"docs_per_lang": counts})
    counts = Counter(lang for table in tables for lang in table["lang"].to_pylist())
    job.manifest = lambda stage: {"docs_per_lang": counts}
    rates = _heldout_rates(job)
    held = [i for t in tables for i, out in zip(t["doc_id"].to_pylist(), heldout(t, rates), strict=True) if out]
    return sorted(held), rates, counts


IDS = pa.schema([("doc_id", pa.string()), ("lang", pa.string())])


@pytest.mark.parametrize("seed", range(30))
def test_every_language_of_some_documents_has_held_out_ones(seed, tmp_path):
    sizes = {"aa": 1, "bb": 3, "cc": 4, "dd": 20, "ee": 107, "ff": 400}
    rows = [
        {"doc_id": hashlib.md5(f"{seed}{lang}{i}".encode()).hexdigest(), "lang": lang}
        for lang, n in sizes.items()
        for i in range(n)
    ]
    held, rates, counts = held_of(tmp_path / "a", [rows])
    of = {row["doc_id"]: row["lang"] for row in rows}
    assert Counter(of[i] for i in held) == {"cc": 1, "dd": 3, "ee": 3, "ff": 8}
    for lang in ("dd", "ff"):  # the smallest hashes, so that a share twice as large keeps them
        ordered = sorted((row["doc_id"] for row in rows if row["lang"] == lang), key=lambda i: i[24:])
        assert sorted(ordered[: {"dd": 3, "ff": 8}[lang]]) == sorted(i for i in held if of[i] == lang)
    assert _not_measured(counts, rates) == ["no held-out text of languages with fewer than 4 documents: aa (1), bb (3)"]
    random.Random(seed).shuffle(rows)
    assert held_of(tmp_path / "b", [rows[:3], [], rows[3:500], rows[500:]])[0] == held
    assert set(held) <= set(held_of(tmp_path / "c", [rows], share=0.04)[0])


def test_of_many_documents_the_share_alone_decides(tmp_path):
    ids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(1000)]
    _, rates, _ = held_of(tmp_path, [[{"doc_id": i, "lang": "th"} for i in ids]])
    assert rates == {"th": 0.02}
