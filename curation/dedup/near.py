"""Near-duplicates: from ranked documents to those that go, as the rows of any engine (Sailor2, section 3.3).

Band keys give candidate pairs: the first document of a key with each of the others, and the documents of earlier runs that
have the key. Pairs are checked (`dedup.verify`): not at all; by the estimate from 8 bits of each minimum; or, where
that lies near the threshold, by the exact Jaccard similarity of the shingle sets, computed from the texts. Documents of
earlier runs have no text here, so the estimate decides for them. Components of what is left have one survivor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.engines.exchange import Input, place
from curation.dedup import decisions
from curation.dedup.components import star_components
from curation.dedup.index import file_of
from curation.dedup.parts import part_shingles
from curation.dedup.schema import DROPS, JUDGED, PAIRS, RANKED, SHINGLES, SIDES, schema_with_p, with_p
from curation.dedup.work import Work

DOCUMENTS = pa.schema([f for f in RANKED if f.name != "bands"])
BANDED = pa.schema([("p", pa.int32()), ("key", pa.int64()), ("id", pa.int64())])
ASKED = pa.schema([("p", pa.int32()), *PAIRS, ("row", pa.int64()), ("first", pa.bool_())])
ANSWERED = pa.schema([*PAIRS, ("first", pa.bool_()), ("shingles", pa.binary())])


def near_drops(work: Work, ranked: Any, n: int) -> Any:
    """DROPS of the RANKED documents, in `n` partitions."""
    config, earlier, engine = work.config, work.earlier, work.engine
    threshold = config.threshold
    n_bands = work.partitions(engine.count(ranked) * config.bands, 48)

    def banded(batch: pa.RecordBatch) -> pa.RecordBatch:
        keys, ids = batch["bands"].flatten(), np.repeat(batch["id"].to_numpy(), config.bands)
        return pa.record_batch([place(keys.to_numpy(), n_bands), keys, pa.array(ids)], schema=BANDED)

    def candidates(p: int, table: pa.Table) -> pa.Table:
        return decisions.candidates(table, [index.bands(p, n_bands) for index in earlier])

    pairs = work.by_key([Input(ranked, banded, BANDED)], candidates, PAIRS, n_bands)
    if config.verify == "none":
        edges = [work.by_key([_by_first(pairs, n)], lambda _, table: decisions.forest_of(table), PAIRS, n)]
    elif config.verify == "signatures":
        edges = [_judged(work, pairs, ranked, lambda table: decisions.near(table, threshold), PAIRS, n)]
    else:
        edges = _near_by_text(work, _judged(work, pairs, ranked, lambda table: table, JUDGED, n), n)
    survivors = _components(work, edges, n)
    return _judged(work, survivors, ranked, lambda table: decisions.near_drops(table, threshold), DROPS, n)


def _by_first(pairs: Any, n: int, keep: Callable[[pa.RecordBatch], np.ndarray] | None = None) -> Input:
    """Pairs on their way to their document `a`; of an earlier run, to the file of its index that has it."""

    def prepare(batch: pa.RecordBatch) -> pa.RecordBatch:
        if keep:
            batch = batch.filter(pa.array(keep(batch)))
        a = batch["a"].to_numpy()
        p = np.where(a < 0, file_of(a) % n, place(a, n).to_numpy())
        return with_p(batch.select(PAIRS.names), pa.array(p))

    return Input(pairs, prepare, schema_with_p(PAIRS))


def _judged(  # noqa: PLR0917
    work: Work, pairs: Any, ranked: Any, finish: Callable[[pa.Table], pa.Table], schema: pa.Schema, n: int
) -> Any:
    """`finish` of JUDGED pairs: what is known of `a` comes to them first, then what is known of `b`."""
    earlier = work.earlier

    def by_id(batch: pa.RecordBatch) -> pa.RecordBatch:
        return with_p(batch.select(DOCUMENTS.names), place(batch["id"].to_numpy(), n))

    def by_second(batch: pa.RecordBatch) -> pa.RecordBatch:
        return with_p(batch, place(batch["b"].to_numpy(), n))

    def with_first(_: int, pairs: pa.Table, documents: pa.Table) -> pa.Table:
        ids = np.unique(pairs["a"].to_numpy())
        documents = [documents.select(DOCUMENTS.names), *(index.documents(ids) for index in earlier)]
        return decisions.with_first(pairs, pa.concat_tables(documents))

    documents = Input(ranked, by_id, schema_with_p(DOCUMENTS))
    first = work.by_key([_by_first(pairs, n), documents], with_first, SIDES, n)
    second = Input(first, by_second, schema_with_p(SIDES))
    return work.by_key([second, documents], lambda _, pairs, both: finish(decisions.judged(pairs, both)), schema, n)


def _near_by_text(work: Work, judged: Any, n: int) -> list:
    """Edges: JUDGED pairs whose estimate is far above the threshold, and those near it that the texts confirm."""
    config, sources = work.config, [shard.input for shard in work.shards]

    def unsure(batch: pa.RecordBatch) -> pa.RecordBatch:
        batch = batch.filter(pa.array(decisions.unsure(batch, config.threshold)))
        sides = [
            [batch[part], batch["a"], batch["b"], batch[row], pa.array(np.full(batch.num_rows, first))]
            for part, row, first in (("part_a", "row_a", True), ("part", "row", False))
        ]
        return pa.record_batch([pa.concat_arrays(pair) for pair in zip(*sides, strict=True)], schema=ASKED)

    def shingles(part: int, asked: pa.Table) -> pa.Table:
        asked = decisions.asked_once(asked)
        rows, at = np.unique(asked["row"].to_numpy(), return_inverse=True)
        sets = pa.Table.from_batches(part_shingles(sources[part], part, rows, config.ngram), SHINGLES)["shingles"]
        return asked.select(["a", "b", "first"]).append_column("shingles", decisions.taken(sets, at))

    def meet(batch: pa.RecordBatch) -> pa.RecordBatch:
        return with_p(batch, place(decisions.meeting(batch["a"].to_numpy(), batch["b"].to_numpy()), n))

    answered = work.by_key([Input(judged, unsure, ASKED)], shingles, ANSWERED, len(sources))
    confirmed = work.by_key(
        [Input(answered, meet, schema_with_p(ANSWERED))],
        lambda _, table: decisions.confirmed(table, config.threshold),
        PAIRS,
        n,
    )
    sure = _by_first(judged, n, lambda batch: decisions.sure(batch, config.threshold))
    return [work.by_key([sure], lambda _, table: decisions.forest_of(table), PAIRS, n), confirmed]


def _components(work: Work, edges: list, n: int) -> Any:
    """PAIRS of each survivor with the documents of its component."""
    engine = work.engine
    if sum(engine.count(one) for one in edges) > work.config.max_driver_edges:
        inputs = [_by_first(one, n) for one in edges]
        together = work.by_key(inputs, lambda _, *tables: decisions.forest_of(pa.concat_tables(tables)), PAIRS, n)
        work.held.append(star_components(engine, together, n))
    else:
        table = pa.concat_tables([engine.table(one, PAIRS) for one in edges])
        work.held.append(engine.rows(decisions.forest_of(table)))
    return work.held[-1]
