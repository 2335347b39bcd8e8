"""sft/select: within each (language, category), good answers that the base finds surprising, none twice (paper 5.1)."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster import storage
from cluster.shards import LEDGER, ledger_rows
from ray_jobs.alignment import measures, reward_model
from ray_jobs.config.alignment import Select
from ray_jobs.run.graph import SFT_1, foundation
from ray_jobs.run.job import Job
from train.scores import embed
from train.selection import select

DECISIONS = pa.schema(
    [
        *[(name, pa.string()) for name in ("id", "lang", "category", "rule")],
        ("rank", pa.int64()),
        *[
            (name, pa.float64())
            for name in ("score", "reward", "perplexity", "reward_percentile", "perplexity_percentile")
        ],
        ("cosine", pa.float64()),
        ("nearest", pa.string()),
    ]
)


def run(job: Job) -> dict:
    settings, folder = job.sft.select, job.path("measures")
    names = measures.split(job.input(SFT_1, "rows.jsonl"), folder)
    kinds: dict[str, measures.Kind] = {
        "reward": {"reward": reward_model.settings(job)},
        "surprise": {"model": job.input(foundation(job.recipe), "model"), "embed": settings.embedding_model is None},
    }
    if settings.embedding_model:
        kinds["embedding"] = {"model": settings.embedding_model}
    measures.measure(job, names, folder, kinds)

    rows = [(row["id"], row["lang"], category(row)) for row in measures.rows(folder, names)]
    perplexity_N = measures.column(folder, "surprise", names, "perplexity")
    fitting_N = ~np.isnan(perplexity_N)  # the others do not fit in the context, and stage 1 left them out too
    ids, langs, categories = ([row[i] for row, fits in zip(rows, fitting_N, strict=True) if fits] for i in range(3))
    quotas = cell_quotas(set(zip(langs, categories, strict=True)), settings)
    rewards_N = measures.column(folder, "reward", names, "reward")[fitting_N]
    with tempfile.TemporaryDirectory() as here:
        embeddings_NE = measures.embeddings(folder, list(kinds)[-1], names, fitting_N, str(Path(here) / "embeddings"))
        if not settings.embedding_model:
            embed.centre(embeddings_NE, langs)
        cells = select.select(
            ids, langs, categories, rewards_N, perplexity_N[fitting_N], embeddings_NE, quotas, settings.max_similarity
        )
        rules, taken = _write(job, cells, settings.max_similarity)
    per_language: Counter[str] = Counter()
    with storage.atomic(job.path("rows.jsonl")) as path, open(path, "w", encoding="utf-8") as file:
        for row in measures.rows(folder, names):
            if row["id"] in taken:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                per_language[row["lang"]] += 1
    storage.remove(folder)
    return {
        "candidates": len(ids),
        "decisions": dict(sorted(rules.items())),
        "asked": sum(quotas.values()),
        "per_language": dict(sorted(per_language.items())),
    }


def category(row: dict) -> str:
    """The row's own `category` or `task`; rows that name neither are one category."""
    return str(row.get("category") or row.get("task") or "general")


def cell_quotas(cells: set[tuple[str, str]], settings: Select) -> dict[tuple[str, str], int]:
    """How many to take of each cell that occurs. Raises ValueError when `shares` gives a language with a number nothing."""
    if not settings.per_language:
        return dict.fromkeys(cells, settings.per_cell)
    langs, found = sorted({lang for lang, _ in cells}), {category for _, category in cells}
    default = settings.per_language.get("default", 0)
    numbers = {lang: settings.per_language.get(lang, default) for lang in langs}
    shares = settings.shares or dict.fromkeys(found, 1.0)
    quotas = select.cell_quotas(list(cells), numbers, shares)
    for lang in langs:
        if numbers[lang] and not any(quotas.get(cell) for cell in cells if cell[0] == lang):
            own = ", ".join(sorted({category for of, category in cells if of == lang}))
            raise ValueError(f"train.sft.select.shares names none of the categories of {lang}, which are: {own}")
    return quotas


def _write(job: Job, cells: Iterable[list[select.Decision]], max_cosine: float) -> tuple[Counter[str], set[str]]:
    """Write all decisions, and the ledger of what was not taken; returns the counts by rule and the ids taken."""
    rules: Counter[str] = Counter()
    taken: set[str] = set()
    with (
        storage.parquet_writer(job.path("decisions.parquet"), DECISIONS) as decided,
        storage.parquet_writer(storage.join(job.ledger, "part-chats.parquet"), LEDGER) as ledger,
    ):
        for decisions in cells:
            decided.write_table(pa.Table.from_pylist([dataclasses.asdict(d) for d in decisions], DECISIONS))
            left = [_left(d, max_cosine) for d in decisions if d.rule != "taken"]
            ledger.write_table(pa.Table.from_batches([ledger_rows(job.stage.name, left)], LEDGER))
            rules.update(d.rule for d in decisions)
            taken.update(d.id for d in decisions if d.rule == "taken")
    return rules, taken


def _left(d: select.Decision, max_cosine: float) -> dict:
    """A ledger row: too similar to which other, or beyond the quota."""
    similar = d.rule == "too_similar"
    return {
        "doc_id": d.id,
        "lang": d.lang,
        "rule": d.rule,
        "value": d.cosine if similar else d.score,
        "threshold": max_cosine if similar else None,
        "detail": d.nearest,
    }
