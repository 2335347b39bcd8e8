"""`pinisi explain`: what happened to one document at every stage, and why."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.run import Run

DOCUMENT_STAGES = ("crawl", "extract", "language", "filter/signals", "filter/policy", "dedup", "quality", "tokenize")


def events(run: Run, document: str) -> list[dict]:
    """Events in the order of the stages: `doc_id, url, stage, outcome, rule, value, threshold, detail`.

    `document` is a doc_id, the id in its source, or a URL (several documents may share one). Outcome is `kept`, `dropped`
    or, in tokenize, `trained on` or `held out`. Raises UserError when no stage has seen it."""
    ids = _ids(run, document)
    result = []
    for doc_id in ids:
        for stage in DOCUMENT_STAGES:
            if run.manifest(stage) is None:
                continue
            dropped = _rows(storage.join(run.uri, "dropped", stage), pc.field("doc_id") == doc_id)
            result += [_event(doc_id, stage, "dropped", row) for row in dropped]
            if dropped:
                break
            if kept := _rows(storage.join(run.uri, stage), pc.field("doc_id") == doc_id, _shown(stage)):
                result.append(_event(doc_id, stage, "kept", {**kept[0], **_found(stage, kept[0])}))
    return result


def _ids(run: Run, document: str) -> list[str]:
    """The doc_ids that `document` names, sorted."""
    found: set[str] = set()
    same = (pc.field("doc_id") == document) | (pc.field("url") == document) | (pc.field("source_id") == document)
    for row in _rows(storage.join(run.uri, "crawl"), same, ["doc_id", "url", "source_id"]):
        found.add(row["doc_id"])
    same = (pc.field("doc_id") == document) | (pc.field("url") == document)
    for row in _rows(storage.join(run.uri, "dropped", "crawl"), same, ["doc_id", "url"]):
        found.add(row["doc_id"])
    if not found:
        raise UserError(
            f"{document}: no document of {run.uri} has this id or URL; `pinisi status {run.uri}` lists what was read"
        )
    return sorted(found)


def _shown(stage: str) -> list[str]:
    extra = {
        "language": ["lang", "lang_score"],
        "quality": ["lang", "quality"],
        "tokenize": ["lang", "heldout", "n_tokens"],
    }
    return ["doc_id", "url", *extra.get(stage, [])]


def _found(stage: str, row: dict) -> dict:
    """What a stage that kept the document said about it."""
    if stage == "language":
        return {"rule": "language", "value": row["lang_score"], "detail": row["lang"]}
    if stage == "quality" and row["quality"] is not None:
        return {"rule": "quality", "value": row["quality"], "detail": row["lang"]}
    if stage == "tokenize":
        return {
            "rule": "tokens",
            "value": row["n_tokens"],
            "detail": "held out for evaluation" if row["heldout"] else "in the token store",
        }
    return {}


def _event(doc_id: str, stage: str, outcome: str, row: dict) -> dict:
    fields = {key: row.get(key) for key in ("rule", "value", "threshold", "detail")}
    return {"doc_id": doc_id, "url": row.get("url"), "stage": stage, "outcome": outcome, **fields}


def _rows(folder: str, condition: pc.Expression, columns: list[str] | None = None) -> list[dict]:
    """Rows of a folder's parts that meet `condition`; only the named columns are read."""
    rows: list[dict] = []
    for part in storage.glob(storage.join(folder, "part-*.parquet")):
        with storage.open_parquet(part) as parquet:
            known = parquet.schema_arrow.names
            table = parquet.read([c for c in columns if c in known] if columns else None)
        rows += pa.Table.filter(table, condition).to_pylist()
    return rows


def show(found: list[dict]) -> None:
    for doc_id, url in dict.fromkeys((event["doc_id"], event["url"]) for event in found):
        Console().print(f"document {doc_id}  {escape(url or '')}", soft_wrap=True)
        table = Table(box=None, header_style="bold")
        for title in ("stage", "outcome", "rule", "value", "threshold", "detail"):
            table.add_column(
                title, overflow="fold", no_wrap=title != "detail", min_width=32 if title == "detail" else None
            )
        for event in found:
            if event["doc_id"] == doc_id:
                colour = "red" if event["outcome"] == "dropped" else "green"
                table.add_row(
                    event["stage"],
                    f"[{colour}]{event['outcome']}[/]",
                    event["rule"] or "",
                    _number(event["value"]),
                    _number(event["threshold"]),
                    escape(event["detail"] or ""),
                )
        Console().print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
