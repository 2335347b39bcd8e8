"""A run with documents, layers and a ledger written by hand, for the tests of `pinisi inspect`."""

from __future__ import annotations

import pyarrow as pa

from cluster import storage
from cluster.shards import LEDGER
from ray_jobs.config import reader as recipes
from ray_jobs.inspect.samples import SOURCE
from ray_jobs.run.graph import EXTRACT, SIGNALS
from ray_jobs.run.run import Run

DOCUMENT = pa.schema([(name, pa.string()) for name in ("doc_id", "url", "lang", "text")])


def run_at(uri: str, languages=("km", "en"), **recipe) -> Run:
    source = {"name": "web", "type": "jsonl", "path": "/nothing/web.jsonl", "optional": True}
    content = {"name": "tiny", "languages": list(languages), "sources": [source], **recipe}
    run = Run(uri, recipes.parse(content, "test"))
    storage.write_text(storage.join(run.uri, "recipe.yaml"), recipes.resolved(run.recipe))
    return run


def write(run: Run, documents: list[dict], parts: int = 1, schema: pa.Schema = DOCUMENT) -> None:
    """Write the layers. A document is {doc_id, lang, text, fate}: `fate` is (layer, rules that dropped it there) or None; with
    `edited` its text from dedup on."""
    order = list(SOURCE)
    for part in range(parts):
        mine = documents[part::parts]
        name = f"part-{part:05}.parquet"
        for stage in (EXTRACT, SIGNALS, *order):
            there = [d for d in mine if reaches(d, stage, order)]
            rows = [{"url": f"https://x.example/{d['doc_id']}", **d} for d in there]
            if stage in order[2:]:
                rows = [{**row, "text": row.get("edited") or row["text"]} for row in rows]
            storage.write_table(storage.join(run.uri, stage, name), pa.Table.from_pylist(rows, schema))
        for layer in order:
            rows = [
                {"doc_id": d["doc_id"], "lang": d["lang"], "stage": layer, "rule": rule, "value": 0.1, "threshold": 0.2}
                for d in mine
                if d.get("fate") and d["fate"][0] == layer
                for rule in d["fate"][1]
            ]
            storage.write_table(storage.join(run.uri, "dropped", layer, name), pa.Table.from_pylist(rows, LEDGER))
    for stage in (EXTRACT, SIGNALS, *order):
        storage.write_json(storage.join(run.uri, stage, "_manifest.json"), {"fingerprint": f"of {stage}"})


def reaches(document: dict, stage: str, order: list[str]) -> bool:
    """Whether the document is in the parts of the stage."""
    if stage == EXTRACT or not document.get("fate"):
        return True
    after = order[0] if stage == SIGNALS else stage
    return order.index(document["fate"][0]) > order.index(after)
