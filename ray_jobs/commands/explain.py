"""`pinisi explain`: what happened to one document, conversation or pair at every stage, and why."""

from __future__ import annotations

import pyarrow.compute as pc
from rich.text import Text

from cluster import storage, terminal
from cluster.terminal import Column
from ray_jobs.commands import explain_chat, pairs
from ray_jobs.errors import UserError
from ray_jobs.run import adopted, made_from
from ray_jobs.run.graph import (
    ANNOTATE,
    CRAWL,
    DECONTAMINATE,
    DEDUP,
    EXTRACT,
    LANGUAGE,
    POLICY,
    QUALITY,
    SIGNALS,
    SYNTHESIZE,
    TOKENIZE,
)
from ray_jobs.run.locate import address, calls, parts
from ray_jobs.run.run import Run

DOCUMENT_STAGES = (
    CRAWL,
    EXTRACT,
    LANGUAGE,
    ANNOTATE,
    SIGNALS,
    POLICY,
    DEDUP,
    DECONTAMINATE,
    QUALITY,
    TOKENIZE,
)


def events(run: Run, document: str) -> list[dict]:
    """Events in the order of the stages: `doc_id, url, stage, outcome, rule, value, threshold, detail`.

    `document` is a doc_id, the id in its source, or a URL (several documents may share one). Outcome is `kept`, `dropped`
    or, in tokenize, `trained on` or `held out`. Texts that a model made of the document follow it, and the id of one is explained
    by itself. Pairs of parallel text are explained by their own stages (`pairs`), the id of a conversation or preference pair by
    those of alignment. Raises UserError when no stage has seen it."""
    of_pairs = pairs.events(run, document)
    try:
        named = documents(run, document)
    except UserError:
        made = [one for row in made_from.of(run.uri, "doc_id", {document}) for one in _of_text(run, row)]
        if found := made or of_pairs or explain_chat.events(run, document):
            return found
        raise
    result = []
    for doc_id, part in named:
        for stage in DOCUMENT_STAGES:
            if run.manifest(stage) is None:
                continue
            same = pc.field("doc_id") == doc_id
            dropped = _rows(adopted.ledger(run.uri, stage, part), same)
            kept = _rows(adopted.path(run.uri, stage, part), same, None if stage == ANNOTATE else _shown(stage))
            result += [_event(doc_id, stage, "dropped", row) for row in dropped]
            if kept:
                url = result[-1]["url"] if result else None  # annotate does not keep it
                result.append(_event(doc_id, stage, "kept", {"url": url, **kept[0], **_found(stage, kept[0])}))
            elif dropped:
                break
    for row in made_from.of(run.uri, "made_from", {doc_id for doc_id, _ in named}):
        result += _of_text(run, row)
    return result + of_pairs


def _of_text(run: Run, made: dict) -> list[dict]:
    """What became of a text that `synthesize` was to make."""
    result, same = [], pc.field("doc_id") == made["doc_id"]
    prompt = f" by the prompt {made['prompt']} ({made['prompt_hash']})" if made["prompt"] else ""
    how = f"made from {made['made_from']} by {made['made_by']}{prompt}: task {made['task']}, {made['lang']}"
    for stage in (SYNTHESIZE, TOKENIZE):
        dropped = _rows(adopted.ledger(run.uri, stage, made["part"]), same)
        kept = _rows(adopted.path(run.uri, stage, made["part"]), same, _shown(stage))
        for row in dropped:
            said = "; ".join(one for one in (row["detail"], how if stage == SYNTHESIZE else None) if one)
            result.append(_event(made["doc_id"], stage, "dropped", {**row, "detail": said}))
        if kept:
            about = {"rule": "made_from", "detail": how} if stage == SYNTHESIZE else _found(stage, kept[0])
            result.append(_event(made["doc_id"], stage, "kept", {**kept[0], **about}))
    return result


def documents(run: Run, document: str) -> list[tuple[str, str]]:
    """(doc_id, file name of the part) of each document that `document` names, sorted. A URL is found by any of its spellings,
    also without its scheme, as browsers show it."""
    called = calls(document)
    found: set[tuple[str, str]] = set()
    for part in parts(run.uri, document, address(document)):
        for place in (adopted.path, adopted.ledger):
            for row in _rows(place(run.uri, CRAWL, part), None, ["doc_id", "url", "source_id"]):
                if row["doc_id"] and called(row):
                    found.add((row["doc_id"], part))
    if not found:
        raise UserError(
            f"{document}: no document of {run.uri} has this id or URL; `pinisi status {run.uri}` lists what was read"
        )
    return sorted(found)


def _shown(stage: str) -> list[str]:
    extra = {
        LANGUAGE: ["lang", "lang_score"],
        QUALITY: ["lang", "quality"],
        TOKENIZE: ["lang", "heldout", "n_tokens"],
    }
    return ["doc_id", "url", *extra.get(stage, [])]


def _found(stage: str, row: dict) -> dict:
    """What a stage that kept the document said about it."""
    if stage == LANGUAGE:
        return {"rule": "language", "value": row["lang_score"], "detail": row["lang"]}
    if stage == ANNOTATE:
        said = {name: value for name, value in row.items() if name not in ("doc_id", "lang") and value is not None}
        shown = (
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in said.items()
        )
        return {"rule": "annotations", "value": len(said), "detail": ", ".join(shown) or "nobody has annotated it"}
    if stage == QUALITY and row["quality"] is not None:
        return {"rule": "quality", "value": row["quality"], "detail": row["lang"]}
    if stage == TOKENIZE:
        return {
            "rule": "tokens",
            "value": row["n_tokens"],
            "detail": "held out for evaluation" if row["heldout"] else "in the token store",
        }
    return {}


def _event(doc_id: str, stage: str, outcome: str, row: dict) -> dict:
    fields = {key: row.get(key) for key in ("rule", "value", "threshold", "detail")}
    return {"doc_id": doc_id, "url": row.get("url"), "stage": stage, "outcome": outcome, **fields}


def _rows(uri: str, condition: pc.Expression | None, columns: list[str] | None = None) -> list[dict]:
    """Rows of one part that meet `condition`, with the named columns or all; none when the part is not there."""
    if not storage.exists(uri):
        return []
    with storage.open_parquet(uri) as parquet:
        known = parquet.schema_arrow.names
        if condition is None:
            return parquet.read([c for c in columns or known if c in known]).to_pylist()
        hits = parquet.read(["doc_id"]).filter(condition).num_rows
        return parquet.read([c for c in columns or known if c in known]).filter(condition).to_pylist() if hits else []


def show(found: list[dict]) -> None:
    """A table of the events of each document."""
    colours = {"dropped": "red", "kept": "green"}
    columns = [
        Column("stage"),
        Column("outcome", style=lambda outcome: colours.get(outcome, "")),
        Column("rule"),
        Column("value", "{:.4g}".format, right=True),
        Column("bound", "{:.4g}".format, right=True),
        Column("detail", free=True),
    ]
    lines: list[Text] = []
    for doc_id, url in dict.fromkeys((event["doc_id"], event["url"]) for event in found):
        rows = [event for event in found if event["doc_id"] == doc_id]
        cells = [[event[key] for key in ("stage", "outcome", "rule", "value", "threshold", "detail")] for event in rows]
        lines += [*terminal.verbatim(f"document {doc_id}"), *terminal.verbatim(url or "")]
        lines += terminal.table(columns, cells)
    terminal.show(lines)
