"""`pinisi trace`: from a step of training back to the documents that it read, their URLs and their WARC records."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict

import pyarrow as pa
import pyarrow.compute as pc
from rich.text import Text

from cluster import storage, terminal
from cluster.terminal import Column, numbers
from mixture.order.sampler import Sampler
from ray_jobs.commands import pairs
from ray_jobs.errors import UserError
from ray_jobs.run import adopted, locate, made_from
from ray_jobs.run.graph import CRAWL, PRUNE
from ray_jobs.run.run import Run, open_run
from ray_jobs.training import data_order

SOURCE = ("url", "source", "source_id", "crawl", "warc_file", "warc_offset")


def main(options: argparse.Namespace) -> None:
    run = open_run(options.run)
    stage = data_order.stage_named(run.recipe, options.stage)
    rows = step_rows(run, stage, options.step)
    if options.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    show(rows, options.top)
    if rows[0]["left_out"]:
        print(f"update {options.step:,} was left out by the guard: nothing was trained on these rows")


def step_rows(run: Run, stage: str, step: int) -> list[dict]:
    """The rows of update `step` (counted from 1) of a training stage.

    Each: row (its number in the run), pool, epoch, start (its first token in the pool's store), left_out (whether the
    guard of the training did not make this update), documents: [{doc_id, tokens, share of the row, taken_down, url, source,
    source_id, crawl, warc_file, warc_offset}], the last six None for what no crawl stage has read, such as instructions; one of
    parallel text has url, source and source_id of its first pair, and `pairs`, the ids of all. Of a text that a model made they
    are those of its document, and `made_from`, `made_by`, `prompt` and `prompt_hash` say how.
    Raises UserError for a stage that has not begun, and for a step after its last.
    """
    path = adopted.path(run.uri, stage, data_order.FILE)
    if not storage.exists(path):
        raise UserError(f"{stage} of {run.uri} has not begun to train; `pinisi status` shows what has")
    if step < 1:
        raise UserError(f"step {step}: steps count from 1")
    if (last := _last(run, stage)) and step > last:
        raise UserError(f"step {step:,}: {stage} ended with step {last:,}")
    order: data_order.Order = json.loads(storage.read_bytes(path))
    try:
        sampler = data_order.sampler(order, data_order.pools_uri(run.uri))
    except ValueError as error:
        raise UserError(str(error)) from None
    first = (step - 1) * order["rows_per_step"]
    rows = _rows(sampler, range(first, first + order["rows_per_step"]))
    gone: dict[str, int] = {}
    for change in order["removed"]:
        gone[change["doc_id"]] = min(change["from_sample"], gone.get(change["doc_id"], change["from_sample"]))
    left_out = any(back["from"] <= step <= back["to"] for back in _rollbacks(run, stage))
    found = sources(run, {document["doc_id"] for row in rows for document in row["documents"]})
    for row in rows:
        row["left_out"] = left_out
        for document in row["documents"]:
            document["taken_down"] = gone.get(document["doc_id"], row["row"] + 1) <= row["row"]
            document |= found.get(document["doc_id"]) or dict.fromkeys(SOURCE)
    return rows


def _last(run: Run, stage: str) -> int | None:
    """The last step of a stage that is done. Pruning learns masks and heals, in rounds, and reads on from one to the next."""
    manifest = run.manifest(stage) or {}
    return manifest.get("updates" if stage == PRUNE else "steps")


def _rollbacks(run: Run, stage: str) -> list[dict]:
    """Those of the guard: in the manifest when the stage is done, before that beside its checkpoints."""
    if manifest := run.manifest(stage):
        return manifest.get("rollbacks", [])
    path = adopted.path(run.uri, stage, "checkpoints", "rollbacks.json")
    return json.loads(storage.read_bytes(path)) if storage.exists(path) else []


def _rows(sampler: Sampler, numbers: range) -> list[dict]:
    shares = {i: sampler.documents(i) for i in numbers}
    wanted: dict[str, set[int]] = defaultdict(set)
    for i in numbers:
        wanted[sampler.address(i).pool].update(share.document for share in shares[i])
    ids = {pool: sampler.pools[sampler.names.index(pool)].doc_ids(documents) for pool, documents in wanted.items()}
    rows = []
    for i in numbers:
        pool, epoch, start = sampler.address(i)
        documents = [
            {"doc_id": ids[pool][document], "tokens": tokens, "share": round(tokens / sampler.context, 6)}
            for document, tokens in shares[i]
        ]
        rows.append({"row": i, "pool": pool, "epoch": epoch, "start": start, "documents": documents})
    return rows


def sources(run: Run, doc_ids: set[str]) -> dict[str, dict]:
    """Where documents come from: doc_id -> url, source, source_id, crawl, warc_file, warc_offset (of its record, in bytes); of a
    text that a model made, those of its document and how it was made."""
    made = made_from.of(run.uri, "doc_id", doc_ids)
    found = _crawled(run, doc_ids | {row["made_from"] for row in made})
    for row in made:
        about = {name: row[name] for name in ("made_from", "made_by", "prompt", "prompt_hash")}
        found[row["doc_id"]] = (found.get(row["made_from"]) or dict.fromkeys(SOURCE)) | about
    return found


def _crawled(run: Run, doc_ids: set[str]) -> dict[str, dict]:
    wanted, found = pa.array(sorted(doc_ids), pa.string()), {}
    for part in locate.parts(run.uri, *sorted(doc_ids)):
        with storage.open_parquet(adopted.path(run.uri, CRAWL, part)) as parquet:
            columns = [name for name in ("doc_id", *SOURCE) if name in parquet.schema_arrow.names]
            for row in parquet.read(columns).filter(pc.is_in(pc.field("doc_id"), wanted)).to_pylist():
                found[row.pop("doc_id")] = {name: row.get(name) for name in SOURCE}
    of_pairs = pairs.sources(run, doc_ids - set(found)) if run.recipe.parallel.sources else {}
    return found | {doc_id: {**dict.fromkeys(SOURCE), **row} for doc_id, row in of_pairs.items()}


def show(rows: list[dict], top: int) -> None:
    pools: dict[str, list[dict]] = defaultdict(list)
    tokens: dict[tuple, int] = defaultdict(int)
    documents = {}
    for row in rows:
        pools[row["pool"]].append(row)
        for document in row["documents"]:
            key = (row["pool"], document["doc_id"])
            tokens[key] += document["tokens"]
            documents[key] = document
    read = []
    for pool, mine in sorted(pools.items()):
        epochs = sorted({row["epoch"] + 1 for row in mine})
        named = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
        read.append((pool, len(mine), named, sum(key[0] == pool for key in documents)))
    columns = [Column("pool"), numbers("rows"), Column("epochs", right=True), numbers("documents")]
    lines = terminal.table(columns, read, title=f"rows {rows[0]['row']:,} to {rows[-1]['row']:,}")
    largest = sorted(tokens, key=lambda key: (-tokens[key], key))[:top]
    total = sum(tokens.values())
    columns = [
        Column("pool"),
        Column("share", "{:.2%}".format, right=True),
        numbers("tokens"),
        Column("document", free=True),
    ]
    cells = [(key[0], tokens[key] / total, tokens[key], key[1]) for key in largest]
    title = f"the {len(largest)} largest of {len(tokens):,} documents"
    below = [_origin(documents[key]) for key in largest]
    terminal.show([*lines, Text(), *terminal.table(columns, cells, below, title)])


def _origin(document: dict) -> list[Text]:
    """The URL, or what the source calls it, and where its record lies."""
    lines = ["taken down"] if document["taken_down"] else []
    if source := document.get("made_from"):
        prompt = f" by the prompt {document['prompt']}" if document["prompt"] else ""
        lines.append(f"made from {source} by {document['made_by']}{prompt}")
    lines.append(document["url"] or document["source_id"] or "not from the crawl of this run")
    if document["warc_file"]:
        where = document["warc_offset"]
        lines.append(document["warc_file"] + ("" if where is None else f" at byte {where:,}"))
    return [text for line in lines for text in terminal.verbatim(line, terminal.INDENT)]
