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
they are called. Each step leaves its result (`curation.dedup.work`), so a killed run continues where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.engines.exchange import Engine, Input, Progress, place
from cluster.shards import Marker, Shard, done, input_ids, markers, write_shard
from curation.dedup import decisions
from curation.dedup import parts as parts_of
from curation.dedup.index import open_index, write_index
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
    schema_with_p,
    with_p,
)
from curation.dedup.work import Work, decided, fingerprint_of


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
    found = [marker for marker in markers(shards) if marker]
    if len(found) < len(shards):
        _decide(work)
        _write(work)
        found = [marker for marker in markers(shards) if marker]
        assert len(found) == len(shards), "every part was written"
    elif progress:
        progress(2 * len(shards))
    kept = sum(marker["docs_out"] for marker in found)
    index = storage.join(out_uri, "index")
    if fingerprint_of(storage.join(index, "_index.json")) != fingerprint:
        outputs = [shard.part for shard in shards]
        write_index(engine, _key_files(work), outputs, index, config, kept, {"fingerprint": fingerprint})
    storage.remove(work.uri)
    rules: Counter[str] = Counter()
    for marker in found:
        rules.update(marker["rules"])
    return {"docs_in": kept + rules.total(), "docs_out": kept, **dict(sorted(rules.items()))}


def _decide(work: Work) -> None:
    work.step("drops", DROPS, _drops)
    work.step("lines", FREQUENT, _frequent)
    if work.config.substring_min_chars:
        work.step("anchors", ANCHORS, _anchors)
        work.step("cuts", CUTS, _cuts)


def _key_files(work: Work, progress: Progress | None = None) -> list[str]:
    """Files with the KEYS of each part, computed once."""
    config, name, folder = work.config.minhash, work.name, storage.join(work.uri, "keys")
    fingerprint, mark = work.shards[0].fingerprint, storage.join(folder, "_made_for.json")
    if fingerprint_of(mark) != fingerprint:
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

    tasks = [(part, shard.input) for part, shard in enumerate(work.shards)]
    work.engine.run(write, tasks, progress)
    return [storage.join(folder, f"{part}.parquet") for part, _ in tasks]


def _drops(work: Work) -> list:
    """Documents that go as a whole: steps 1 to 3."""
    earlier = work.earlier
    keys = work.tasks(parts_of.read, _key_files(work, work.progress), KEYS)
    documents = work.engine.count(keys)
    storage.write_json(storage.join(work.uri, "keys", "_count.json"), {"documents": documents})
    n = work.partitions(documents, 600)

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

    pages = work.by_key([Input(keys, by_page, schema_with_p(KEYS))], one_a_page, PAGES, n)
    drops = work.by_key([Input(pages, gone, schema_with_p(DROPS))], lambda _, table: table.drop_columns("p"), DROPS, n)
    ranked = work.by_key([Input(pages, by_class, schema_with_p(rankable))], lambda _, t: decisions.ranked(t), RANKED, n)
    return [drops, near_drops(work, ranked, n)]


def _frequent(work: Work) -> list:
    """Lines that are cut: step 4."""
    config, uri = work.config, work.uri
    n_buckets = _n_buckets(work)

    def count(task: tuple[int, str]) -> Iterator[pa.RecordBatch]:
        part, source = task
        drops = decided(uri, "drops", part, DROPS)
        yield parts_of.part_lines(source, part, drops, n_buckets, config)

    counted = work.tasks(count, [(part, shard.input) for part, shard in enumerate(work.shards)], LINES)
    n = work.partitions(work.engine.count(counted), 40)

    def by_line(batch: pa.RecordBatch) -> pa.RecordBatch:
        return with_p(batch, place(batch["line"].to_numpy(), n))

    def frequent(_: int, table: pa.Table) -> pa.Table:
        return decisions.frequent(table, config.line_max_count)

    return [work.by_key([Input(counted, by_line, schema_with_p(LINES))], frequent, FREQUENT, n)]


def _anchors(work: Work) -> list:
    """Anchors that occur more than once: the first half of step 5."""
    left = _remaining(work)

    def anchors(part: int) -> Iterator[pa.RecordBatch]:
        yield parts_of.part_anchors(left(part), part)

    counted = work.tasks(anchors, range(len(work.shards)), ANCHORS)
    n = work.partitions(work.engine.count(counted), 40)
    return [
        work.by_key(
            [Input(counted, lambda batch: with_p(batch, place(batch["anchor"].to_numpy(), n)), schema_with_p(ANCHORS))],
            lambda _, table: decisions.repeated_anchors(table.drop_columns("p")),
            ANCHORS,
            n,
        )
    ]


def _cuts(work: Work) -> list:
    """Copies that are cut: the second half of step 5."""
    left, uri, min_chars = _remaining(work), work.uri, work.config.substring_min_chars

    def contexts(part: int) -> Iterator[pa.RecordBatch]:
        wanted = decided(uri, "anchors", part, ANCHORS)["anchor"].to_numpy().view(np.uint64)
        yield from parts_of.part_contexts(left(part), part, np.sort(wanted))

    found = work.tasks(contexts, range(len(work.shards)), CONTEXTS)
    n = work.partitions(work.engine.count(found), 100 + 3 * min_chars)

    def by_anchor(batch: pa.RecordBatch) -> pa.RecordBatch:
        return with_p(batch, place(batch["anchor"].to_numpy(), n))

    def copies(_: int, table: pa.Table) -> pa.Table:
        return decisions.copies(table, min_chars)

    return [work.by_key([Input(found, by_anchor, schema_with_p(CONTEXTS))], copies, CUTS, n)]


def _remaining(work: Work) -> Callable[[int], parts_of.Remaining]:
    """The documents of a part with steps 2 to 4 carried out."""
    uri, config, n_buckets = work.uri, work.config, _n_buckets(work)
    sources = [shard.input for shard in work.shards]

    def of(part: int) -> parts_of.Remaining:
        drops, lines = decided(uri, "drops", part, DROPS), decided(uri, "lines", part, FREQUENT)
        return parts_of.Remaining(sources[part], drops, lines, n_buckets, config)

    return of


def _write(work: Work) -> None:
    """Every part that is not finished, with what was decided carried out: step 6."""
    left, uri, shards, progress = _remaining(work), work.uri, work.shards, work.progress

    def write(part: int) -> Marker:
        shard = shards[part]
        if marker := done(shard):
            return marker
        cleaned = parts_of.part_cleaned(left(part), decided(uri, "cuts", part, CUTS))
        return write_shard(cleaned, shard, input_ids(shard))

    work.engine.run(write, range(len(shards)), progress and (lambda n: progress(len(shards) + n)))


def _n_buckets(work: Work) -> int:
    """Buckets in which lines are counted: of documents that steps 2 and 3 leave."""
    documents = storage.read_json(storage.join(work.uri, "keys", "_count.json"))["documents"]
    left = documents - storage.read_json(storage.join(work.uri, "drops", "_done.json"))["rows"]
    return max(1, -(-left // work.config.line_bucket_documents))
