"""Deduplication of a corpus on any engine: keys move, texts stay where they are (Sailor2, section 3.3).

1. Keys of every document: normalised URL, length, MinHash band keys, and a sketch (the low byte of each minimum).
2. Of the documents of one URL the longest stays, then the smallest doc_id.
3. The rest is ranked in that same order; band keys make edges to the first of each bucket, pairs are checked against the
   threshold, and of each connected component the first stays (`curation.dedup.near`).
4. Lines of those that stay are counted per bucket of documents, and the frequent ones are cut.
5. Of exact repeats one copy stays, the others are cut (`curation.dedup.substring`; off by default).
6. Documents that are left too short go. What is kept is written, and indexed for the runs that follow
   (`curation.dedup.index`). With the indexes of earlier runs, a document that they have goes in steps 2 and 3.

`curation.dedup.parts` reads and writes texts part by part, `curation.dedup.decisions` decides; here is the order in which
they are called. Each step leaves its result below `out_uri/_work`, so a killed run continues where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.engines.exchange import Engine, Input, Progress, partitions, place
from cluster.shards import Shard, done, input_ids, markers, write_shard
from curation.dedup import decisions
from curation.dedup import parts as parts_of
from curation.dedup.index import Index, open_index, write_index
from curation.dedup.near import near_drops
from curation.dedup.schema import (
    ANCHORS,
    CONTEXTS,
    CUTS,
    DROPS,
    FREQUENT,
    KEYS,
    LINES,
    PAGES,
    RANKED,
    DedupConfig,
    with_p,
)

WRITTEN = pa.schema([("p", pa.int32()), ("rows", pa.int64())])
PARTS_AT_ONCE = 8  # written by one task: what was decided about a part is a small file


def dedup(  # noqa: PLR0917
    engine: Engine,
    parts: list[str],
    out_uri: str,
    ledger_uri: str,
    config: DedupConfig,
    fingerprint: str,
    progress: Progress | None = None,
    name: str = "run",
) -> dict[str, int]:
    """Deduplicate the documents of the Parquet files `parts` into shards of the same names under `out_uri`.

    Parts have doc_id, text and, where known, url, crawl and lang. Documents without a url, or with an empty crawl (those
    of a source that is no crawl, whose url may name the whole book), skip URL dedup. The ledger has for each dropped
    document one rule: `url_duplicate` (detail: the doc_id that stays; value and threshold: characters of this one and of
    that), `repeated_id` (the same record read twice), `near_duplicate` (detail: the survivor; value: estimated Jaccard
    with it), `frequent_lines` or `substring_duplicate` (value: words left); and with indexes of earlier runs, where
    detail is `<snapshot>:<doc_id>`, `url_duplicate_earlier`, `repeated_id_earlier` and `near_duplicate_earlier`.

    `name` is the snapshot, for later runs, of documents without a crawl. `progress` counts parts that have been read for
    their keys, then those that are written: twice the number of parts in all. Returns counts of documents in, out and per
    rule. Raises ValueError for no parts, parts of the same name, and an index made with other MinHash settings.
    """
    if not parts:
        raise ValueError("dedup: there are no parts to deduplicate")
    names = [part.rsplit("/", 1)[-1].removesuffix(".parquet") for part in parts]
    if len(set(names)) != len(names):
        raise ValueError("dedup: two parts have the same file name, so one would overwrite the other")
    shards = [Shard(stem, part, out_uri, ledger_uri, fingerprint) for stem, part in zip(names, parts, strict=True)]
    earlier = [open_index(uri, number, config.minhash) for number, uri in enumerate(config.indexes)]
    work = Work(engine, shards, config, name, earlier, progress)
    found = markers(shards)
    if None in found:
        work.decide()
        work.write()
        found = markers(shards)
    elif progress:
        progress(2 * len(shards))
    kept = sum(marker["docs_out"] for marker in found)
    index = storage.join(out_uri, "index")
    if _fingerprint(storage.join(index, "_index.json")) != fingerprint:
        outputs = [shard.part for shard in shards]
        write_index(engine, work.key_files(), outputs, index, config, kept, {"fingerprint": fingerprint})
    storage.remove(work.uri)
    rules: Counter[str] = Counter()
    for marker in found:
        rules.update(marker["rules"])
    return {"docs_in": kept + rules.total(), "docs_out": kept, **dict(sorted(rules.items()))}


@dataclass
class Work:
    """The steps of one corpus. What a step decides about part number i lies in `<step>/<i>.parquet` under `uri`."""

    engine: Engine
    shards: list[Shard]
    config: DedupConfig
    name: str
    earlier: list[Index]
    progress: Progress | None = None
    held: list = field(default_factory=list)  # rows of the engine, until the step that needs them is done

    @property
    def uri(self) -> str:
        return storage.join(self.shards[0].output, "_work")

    def decide(self) -> None:
        self.step("drops", DROPS, self._drops)
        self.step("lines", FREQUENT, self._frequent)
        if self.config.substring_min_chars:
            self.step("anchors", ANCHORS, self._anchors)
            self.step("cuts", CUTS, self._cuts)

    def step(self, name: str, schema: pa.Schema, make: Callable[[], list]) -> None:
        """Write the rows that `make` gives, split by their column `part`, unless they are there."""
        folder, mark = storage.join(self.uri, name), storage.join(self.uri, name, "_done.json")
        if _fingerprint(mark) == self.shards[0].fingerprint:
            return
        storage.remove(folder)

        n = -(-len(self.shards) // PARTS_AT_ONCE)

        def of_group(batch: pa.RecordBatch) -> pa.RecordBatch:
            return with_p(batch, pa.array(batch["part"].to_numpy() % n))

        def write(p: int, *tables: pa.Table) -> pa.Table:
            rows = pa.concat_tables([table.drop_columns("p") for table in tables])
            for part in pc.unique(rows["part"]).to_pylist():
                storage.write_table(storage.join(folder, f"{part}.parquet"), rows.filter(pc.equal(rows["part"], part)))
            return pa.table([[p], [rows.num_rows]], schema=WRITTEN)

        inputs = [Input(data, of_group, with_p(schema)) for data in make()]
        written = self.engine.table(self.by_key(inputs, write, WRITTEN, n), WRITTEN)
        rows = pc.sum(written["rows"]).as_py() or 0
        storage.write_json(mark, {"fingerprint": self.shards[0].fingerprint, "rows": rows})
        self.engine.release(*self.held)
        self.held.clear()

    def by_key(self, inputs: list[Input], function: Callable[..., pa.Table], schema: pa.Schema, n: int) -> Any:
        self.held.append(self.engine.by_key(inputs, function, schema, n))
        return self.held[-1]

    def tasks(self, function: Callable[[Any], Iterator[pa.RecordBatch]], arguments: Sequence, schema: pa.Schema) -> Any:
        self.held.append(self.engine.tasks(function, arguments, schema))
        return self.held[-1]

    def partitions(self, rows: int, row_bytes: int) -> int:
        """Enough for the rows, and no fewer than the indexes have, so that a partition reads one file of each."""
        n = partitions(rows, row_bytes, self.config.partition_bytes)
        return max([n, *(index.partitions for index in self.earlier)])

    def key_files(self, progress: Progress | None = None) -> list[str]:
        """Files with the KEYS of each part, computed once."""
        config, name, folder = self.config.minhash, self.name, storage.join(self.uri, "keys")
        fingerprint, mark = self.shards[0].fingerprint, storage.join(folder, "_made_for.json")
        if _fingerprint(mark) != fingerprint:
            storage.remove(folder)
            storage.write_json(mark, {"fingerprint": fingerprint})

        def write(task: tuple[int, str]) -> dict:
            part, source = task
            target = storage.join(folder, f"{part}.parquet")
            if not storage.exists(target):
                with storage.parquet_writer(target, KEYS) as writer:
                    for batch in parts_of.part_keys(source, part, name, config):
                        writer.write_batch(batch)
            return {}

        tasks = [(part, shard.input) for part, shard in enumerate(self.shards)]
        self.engine.run(write, tasks, progress)
        return [storage.join(folder, f"{part}.parquet") for part, _ in tasks]

    def _drops(self) -> list:
        """Documents that go as a whole: steps 1 to 3."""
        earlier = self.earlier
        keys = self.tasks(parts_of.read, self.key_files(self.progress), KEYS)
        documents = self.engine.count(keys)
        storage.write_json(storage.join(self.uri, "keys", "_count.json"), {"documents": documents})
        n = self.partitions(documents, 600)

        def by_page(batch: pa.RecordBatch) -> pa.RecordBatch:
            return with_p(batch, place(batch["page"].to_numpy(), n))

        def one_a_page(p: int, table: pa.Table) -> pa.Table:
            return decisions.one_a_page(table.drop_columns("p"), [index.pages(p, n) for index in earlier])

        def gone(batch: pa.RecordBatch) -> pa.RecordBatch:
            batch = batch.filter(pc.is_valid(batch["rule"])).select(DROPS.names)
            return with_p(batch, pa.array(batch["part"].to_numpy() % n))

        rankable = pa.schema([PAGES.field(name) for name in (*RANKED.names[1:], "length", "tie")])

        def by_class(batch: pa.RecordBatch) -> pa.RecordBatch:
            batch = batch.filter(pc.and_(pc.is_null(batch["rule"]), pc.is_valid(batch["bands"]))).select(rankable.names)
            return with_p(batch, pa.array(decisions.length_class(batch["length"].to_numpy()) % n))

        pages = self.by_key([Input(keys, by_page, with_p(KEYS))], one_a_page, PAGES, n)
        drops = self.by_key([Input(pages, gone, with_p(DROPS))], lambda _, table: table.drop_columns("p"), DROPS, n)
        ranked = self.by_key([Input(pages, by_class, with_p(rankable))], lambda _, t: decisions.ranked(t), RANKED, n)
        return [drops, near_drops(self, ranked, n)]

    def _frequent(self) -> list:
        """Lines that are cut: step 4."""
        config, uri = self.config, self.uri
        n_buckets = self._n_buckets()

        def count(task: tuple[int, str]) -> Iterator[pa.RecordBatch]:
            part, source = task
            drops = _decided(uri, "drops", part, DROPS)
            yield parts_of.part_lines(source, part, drops, n_buckets, config)

        counted = self.tasks(count, [(part, shard.input) for part, shard in enumerate(self.shards)], LINES)
        n = self.partitions(self.engine.count(counted), 40)

        def by_line(batch: pa.RecordBatch) -> pa.RecordBatch:
            return with_p(batch, place(batch["line"].to_numpy(), n))

        def frequent(_: int, table: pa.Table) -> pa.Table:
            return decisions.frequent(table, config.line_max_count)

        return [self.by_key([Input(counted, by_line, with_p(LINES))], frequent, FREQUENT, n)]

    def _anchors(self) -> list:
        """Anchors that occur more than once: the first half of step 5."""
        remaining = self.remaining()

        def anchors(part: int) -> Iterator[pa.RecordBatch]:
            yield parts_of.part_anchors(remaining(part), part)

        counted = self.tasks(anchors, range(len(self.shards)), ANCHORS)
        n = self.partitions(self.engine.count(counted), 40)
        return [
            self.by_key(
                [Input(counted, lambda batch: with_p(batch, place(batch["anchor"].to_numpy(), n)), with_p(ANCHORS))],
                lambda _, table: decisions.repeated_anchors(table.drop_columns("p")),
                ANCHORS,
                n,
            )
        ]

    def _cuts(self) -> list:
        """Copies that are cut: the second half of step 5."""
        remaining, uri, min_chars = self.remaining(), self.uri, self.config.substring_min_chars

        def contexts(part: int) -> Iterator[pa.RecordBatch]:
            wanted = _decided(uri, "anchors", part, ANCHORS)["anchor"].to_numpy().view(np.uint64)
            yield from parts_of.part_contexts(remaining(part), part, np.sort(wanted))

        found = self.tasks(contexts, range(len(self.shards)), CONTEXTS)
        n = self.partitions(self.engine.count(found), 100 + 3 * min_chars)

        def by_anchor(batch: pa.RecordBatch) -> pa.RecordBatch:
            return with_p(batch, place(batch["anchor"].to_numpy(), n))

        def copies(_: int, table: pa.Table) -> pa.Table:
            return decisions.copies(table, min_chars)

        return [self.by_key([Input(found, by_anchor, with_p(CONTEXTS))], copies, CUTS, n)]

    def remaining(self) -> Callable[[int], parts_of.Remaining]:
        """The documents of a part with steps 2 to 4 carried out."""
        uri, config, n_buckets = self.uri, self.config, self._n_buckets()
        sources = [shard.input for shard in self.shards]

        def of(part: int) -> parts_of.Remaining:
            drops, lines = _decided(uri, "drops", part, DROPS), _decided(uri, "lines", part, FREQUENT)
            return parts_of.Remaining(sources[part], drops, lines, n_buckets, config)

        return of

    def write(self) -> None:
        """Every part that is not finished, with what was decided carried out: step 6."""
        remaining, uri, shards, progress = self.remaining(), self.uri, self.shards, self.progress

        def write(part: int) -> dict:
            shard = shards[part]
            if marker := done(shard):
                return marker
            cleaned = parts_of.part_cleaned(remaining(part), _decided(uri, "cuts", part, CUTS))
            return write_shard(cleaned, shard, input_ids(shard))

        self.engine.run(write, range(len(shards)), progress and (lambda n: progress(len(shards) + n)))

    def _n_buckets(self) -> int:
        """Buckets in which lines are counted: of documents that steps 2 and 3 leave."""
        documents = storage.read_json(storage.join(self.uri, "keys", "_count.json"))["documents"]
        left = documents - storage.read_json(storage.join(self.uri, "drops", "_done.json"))["rows"]
        return max(1, -(-left // self.config.line_bucket_documents))


def _fingerprint(mark: str) -> str | None:
    return storage.read_json(mark)["fingerprint"] if storage.exists(mark) else None


def _decided(uri: str, step: str, part: int, schema: pa.Schema) -> pa.Table:
    """What a step decided about a part; no rows when that is nothing."""
    source = storage.join(uri, step, f"{part}.parquet")
    return storage.read_table(source).cast(schema) if storage.exists(source) else schema.empty_table()
