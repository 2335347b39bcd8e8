"""Pairs of parallel text in `pinisi explain`, `trace` and `takedown`: what became of one, and what holds it."""

from __future__ import annotations

import pyarrow.compute as pc

from cluster import storage
from ray_jobs.run import adopted
from ray_jobs.run.graph import (
    PARALLEL_ALIGN,
    PARALLEL_DECONTAMINATE,
    PARALLEL_DEDUP,
    PARALLEL_DOCUMENTS,
    PARALLEL_PAIRS,
    TOKENIZE,
)
from ray_jobs.run.locate import address, calls, parts
from ray_jobs.run.run import Run

STAGES = (PARALLEL_PAIRS, PARALLEL_DEDUP, PARALLEL_DECONTAMINATE, PARALLEL_ALIGN)


def documents(run: Run, pair: str) -> list[tuple[str, str]]:
    """(id of a pair, file name of the part) of each pair with this id, id in its source, place or URL (any spelling), sorted."""
    called = calls(pair)
    found: set[tuple[str, str]] = set()
    for part in parts(run.uri, pair, address(pair), stage=PARALLEL_PAIRS):
        for place in (adopted.path, adopted.ledger):
            for row in _rows(place(run.uri, PARALLEL_PAIRS, part), ["doc_id", "url", "source_id"]):
                if row["doc_id"] and called(row):
                    found.add((row["doc_id"], part))
    return sorted(found)


def holding(run: Run, pair: str) -> list[str]:
    """Ids of the documents to train on that hold the pairs called `pair`."""
    held = (_document(run, doc_id, part) for doc_id, part in documents(run, pair))
    return sorted({one["doc_id"] for one in held if one})


def events(run: Run, pair: str) -> list[dict]:
    """What became of the pairs called `pair`, as `explain.events` tells it of documents; none where there is no such pair."""
    result = []
    for doc_id, part in documents(run, pair):
        url = None
        for stage in STAGES:
            if run.manifest(stage) is None:
                continue
            same = pc.field("doc_id") == doc_id
            dropped = _rows(adopted.ledger(run.uri, stage, part), None, same)
            kept = _rows(adopted.path(run.uri, stage, part), ["doc_id", "url", "source_id", "lang"], same)
            for row in dropped:
                url = row["url"]
                result.append(_event(doc_id, url, stage, "dropped", row))
            if kept:
                url = kept[0]["url"] or kept[0]["source_id"]
                result.append(_event(doc_id, url, stage, "kept", {"detail": kept[0]["lang"]}))
            elif dropped:
                break
        if run.manifest(PARALLEL_DOCUMENTS) and (one := _document(run, doc_id, part)):
            said = f"{one['format']}, {one['direction']}, in document {one['doc_id']} of {len(one['pairs'])}"
            result.append(_event(doc_id, url, PARALLEL_DOCUMENTS, "kept", {"rule": "document", "detail": said}))
            if run.manifest(TOKENIZE):
                result.append(
                    _event(doc_id, url, TOKENIZE, "kept", {"rule": "pool", "detail": f"parallel/{one['pair']}"})
                )
    return result


def sources(run: Run, doc_ids: set[str]) -> dict[str, dict]:
    """Where documents of parallel text come from: doc_id -> url, source, source_id of its first pair, and `pairs`."""
    found = {}
    for part in parts(run.uri, *sorted(doc_ids), stage=PARALLEL_PAIRS):
        uri = adopted.path(run.uri, PARALLEL_DOCUMENTS, part)
        for row in _rows(
            uri, ["doc_id", "url", "source", "source_id", "pairs"], pc.field("doc_id").isin(sorted(doc_ids))
        ):
            found[row.pop("doc_id")] = row
    return found


def _document(run: Run, doc_id: str, part: str) -> dict | None:
    """The document of a part that holds a pair."""
    for row in _rows(
        adopted.path(run.uri, PARALLEL_DOCUMENTS, part), ["doc_id", "pair", "format", "direction", "pairs"]
    ):
        if doc_id in row["pairs"]:
            return row
    return None


def _event(doc_id: str, url: str | None, stage: str, outcome: str, row: dict) -> dict:
    cells = {name: row.get(name) for name in ("rule", "value", "threshold", "detail")}
    return {"doc_id": doc_id, "url": url, "stage": stage, "outcome": outcome, **cells}


def _rows(uri: str, columns: list[str] | None, condition: pc.Expression | None = None) -> list[dict]:
    """Rows of one part that meet `condition`, with those of `columns` that it has; none when the part is not there."""
    if not storage.exists(uri):
        return []
    with storage.open_parquet(uri) as parquet:
        known = parquet.schema_arrow.names
        table = parquet.read([name for name in columns or known if name in known])
    return (table if condition is None else table.filter(condition)).to_pylist()
