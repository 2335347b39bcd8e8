"""Which documents texts are made of, the same in every run: the best of each language, by a hash of their id.

Texts beyond the share that a language may have are not asked for: documents are taken in the order of their hash as long as
they have at most `MARGIN` times the bytes that may stay, for not all that is made is accepted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from cluster import storage
from curation.schema import doc_id
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.run import adopted
from ray_jobs.run.graph import QUALITY

MARGIN = 4
LEAST_BYTES = 200  # of a document: of less there is nothing to retell


class Asked(NamedTuple):
    """A text that is to be made. `order`: its place among those of its language; `task`: its number in the recipe."""

    task: int
    order: str
    id: str
    made_from: str
    from_lang: str
    lang: str
    part: str  # of the document
    bytes: int  # of the document


def room(native: dict[str, int], bound: float, lang: str) -> float:
    """Bytes of synthetic text that a language may have: `bound` of the sum of both."""
    return native.get(lang, 0) * bound / (1 - bound)


def choose(recipe: Recipe, uri: str, digests: Sequence[str]) -> tuple[list[Asked], dict[str, int]]:
    """The texts in the order of tasks and hashes, and how many of each language its share leaves out. `uri`: of the run.

    `digests`: of each task's prompt, which count in the id of a text."""
    own = given(recipe.synthesize)
    table = _documents(uri)
    wanted: dict[str, list[Asked]] = defaultdict(list)
    for number, task in enumerate(own.tasks):
        for source in task.languages or recipe.languages:
            chosen = _best(table.filter(pc.field("lang") == source), task.top_share)
            ordered = sorted((_hash(task.name, row["doc_id"]), i) for i, row in enumerate(chosen))
            for order, i in ordered[: task.documents]:
                row = chosen[i]
                for lang in task.to or [source]:
                    if lang == source and task.to:
                        continue
                    record = f"{row['doc_id']}\n{task.name}\n{lang}\n{task.made_by}\n{digests[number]}"
                    made = doc_id(record, "")
                    wanted[lang].append(
                        Asked(number, order, made, row["doc_id"], source, lang, row["part"], row["size"])
                    )
    native = storage.read_json(adopted.path(uri, QUALITY, "_manifest.json"))["bytes_per_lang"]
    found: list[Asked] = []
    beyond: Counter[str] = Counter()
    for lang, rows in sorted(wanted.items()):
        left = MARGIN * room(native, own.bound(lang), lang)
        for text in sorted(rows, key=lambda one: (one.order, one.id)):
            left -= text.bytes
            if left >= 0:
                found.append(text)
            else:
                beyond[lang] += 1
    return sorted(found), dict(beyond)


def _hash(task: str, document: str) -> str:
    return xxhash.xxh3_128_hexdigest(f"{task}\n{document}".encode())


def _documents(uri: str) -> pa.Table:
    """doc_id, lang, quality, size in bytes and part of every document."""
    tables = []
    for part in storage.glob(adopted.path(uri, QUALITY, "part-*.parquet")):
        with storage.open_parquet(part) as parquet:
            known = "n_bytes" in parquet.schema_arrow.names
            table = parquet.read(["doc_id", "lang", "quality", "n_bytes" if known else "text"])
        size = table["n_bytes"] if known else pc.binary_length(table["text"])
        tables.append(
            pa.table(
                {
                    **{name: table[name] for name in ("doc_id", "lang", "quality")},
                    "size": pc.cast(size, pa.int64()),
                    "part": pa.array([part.rsplit("/", 1)[1]] * table.num_rows, pa.string()),
                }
            )
        )
    return pa.concat_tables(tables).filter(pc.field("size") >= LEAST_BYTES)


def _best(table: pa.Table, top_share: float) -> list[dict]:
    """The best of a language; all of one without a classifier."""
    scores = np.array([score for score in table["quality"].to_pylist() if score is not None], np.float32)
    if len(scores):
        table = table.filter(pc.field("quality") >= float(np.quantile(scores, 1.0 - top_share)))
    return table.to_pylist()
