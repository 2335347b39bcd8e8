"""The card (README.md) of an exported model, filled from the run's manifests and from what `train.export.huggingface`
measured."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from cluster import storage
from ray_jobs.run import adopted, hub
from ray_jobs.run.graph import (
    BASE,
    CRAWL,
    DEDUP,
    DRAFT,
    EVALUATE,
    EXPAND,
    LONG_CONTEXT,
    OFF_POLICY,
    PRETRAIN_1,
    PRETRAIN_2,
    SFT_1,
    SFT_2,
    TOKENIZE,
    enabled,
    lengthened,
)
from ray_jobs.run.job import Job

TEMPLATES = Path(__file__).parents[1] / "templates"
STAGES = (
    CRAWL,
    DEDUP,
    TOKENIZE,
    BASE,
    EXPAND,
    PRETRAIN_1,
    PRETRAIN_2,
    LONG_CONTEXT,
    SFT_1,
    SFT_2,
    OFF_POLICY,
    DRAFT,
)


def render(job: Job, name: str, stage: str, facts: dict) -> str:
    """The card of `export/name`, which was made of `stage`; `facts` are those of `train.export.huggingface.export`."""
    manifests, there = {}, {one.name for one in enabled(job.recipe)}  # the folder may have stages of an earlier recipe
    for one in (*STAGES, *(s for s in job.stage.inputs if s.startswith("dpo/")), stage):
        path = adopted.path(job.run_uri, one, "_manifest.json")
        manifests[one] = storage.read_json(path) if one in there and storage.exists(path) else {}
    measured = job.has(EVALUATE)
    bpb = storage.read_json(job.input(EVALUATE, "metrics.json"))["bits_per_byte"] if measured else {}
    environment = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True)
    base = job.train.base.model
    worst = max(facts["rounding"].items(), key=lambda item: abs(item[1]), default=None)
    return environment.get_template("model_card.md").render(
        recipe=job.recipe,
        name=name,
        stage=stage,
        facts=facts,
        base=base,
        base_on_hub=base if base and hub.is_name(base) and not storage.exists(base) else None,
        worst_rounding=worst,
        pairs=[(one, made["pairs"]) for one, made in manifests.items() if one.startswith("dpo/") and made.get("pairs")],
        manifests=manifests,
        updated=manifests[PRETRAIN_1] if manifests[PRETRAIN_1].get("update") else None,
        long=manifests[LONG_CONTEXT] if lengthened(job.recipe, stage) else {},
        base_bpb=bpb.get(BASE, {}),
        bpb=bpb.get(stage, {}),
        licences=_licences(job.run_uri),
    )


def _licences(uri: str) -> list[tuple[str, int]]:
    """Licences of the documents in the token store as their sources state them, with document counts."""
    counts: Counter[str] = Counter()
    for part in storage.glob(adopted.path(uri, TOKENIZE, "part-*.parquet")):
        counts.update(
            licence or "not stated" for licence in storage.read_table(part, ["licence"])["licence"].to_pylist()
        )
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
