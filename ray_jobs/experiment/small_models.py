"""The measure `small_models`: whose documents are better, by pairs of small models trained on what arms and control keep.

Each arm makes its corpus up to `quality`, and no model of its own (ray_jobs/experiment/ablate.py says what is trained).
"""

from __future__ import annotations

from collections.abc import Mapping

import xxhash

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.experiment import filters
from ray_jobs.experiment.filters import Compared, Texts
from ray_jobs.run import adopted
from ray_jobs.run.graph import QUALITY
from ray_jobs.run.run import Run


def compare(arms: Mapping[str, Mapping[int, Run]], control: str) -> dict[str, Compared]:
    """Of each arm but `control`, `ours` being the arm. The documents are those of an arm's first seed; the seeds are those of
    the small models. Raises UserError where an arm has too few documents."""
    texts = {arm: documents(next(iter(runs.values())).uri) for arm, runs in arms.items()}
    found = {}
    for arm, runs in arms.items():
        if arm != control:
            try:
                found[arm] = filters.compare(texts[arm], texts[control], sorted(runs))
            except ValueError as error:
                raise UserError(f"arms.{arm}: {error}") from None
    return found


def documents(uri: str) -> Texts:
    """What the run at `uri` has kept up to `quality`; of equal texts the one with the smallest id."""
    rows: dict[int, tuple[str, str, str]] = {}
    for part in storage.glob(adopted.path(uri, QUALITY, "part-*.parquet")):
        for row in storage.read_table(part, ["doc_id", "lang", "text"]).to_pylist():
            if row["lang"] and row["text"]:
                digest = xxhash.xxh3_64_intdigest(row["text"].encode("utf-8", "replace"))
                one = row["doc_id"], row["lang"], row["text"]
                rows[digest] = min(one, rows.get(digest, one))
    return {key: (lang, text) for key, lang, text in rows.values()}
