"""report: one HTML page of a run, drawn from the manifests, the ledger, the metrics and the evaluation alone."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape
from markupsafe import Markup

from cluster import storage, terminal
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.report import chats as chats_section
from ray_jobs.report import curves, intervals, notices, plots, summary, verdict, web
from ray_jobs.report import draft as draft_section
from ray_jobs.report import long as long_tasks
from ray_jobs.report import long_context as long_section
from ray_jobs.report import partial as partial_section
from ray_jobs.report import pruning as pruning_section
from ray_jobs.report import regmix as regmix_section
from ray_jobs.report import selection as selection_section
from ray_jobs.report import synthesis as synthesis_section
from ray_jobs.report import tasks as tasks_section
from ray_jobs.report import watch as watch_section
from ray_jobs.report import wildbench as wildbench_section
from ray_jobs.report.data import clusters, examples, histograms, losses, provenance, shown
from ray_jobs.report.names import named
from ray_jobs.report.page_text import pieces
from ray_jobs.run import adopted
from ray_jobs.run.graph import (
    BASE,
    CONTROL_2,
    CRAWL,
    DEDUP,
    DPO_WATCH,
    DRAFT,
    EXTRACT,
    LONG,
    LONG_CONTEXT,
    OFF_POLICY,
    POLICY,
    PRETRAIN_1,
    PRETRAIN_2,
    PRUNE,
    REPORT,
    REWARD,
    ROUNDS,
    SFT_1,
    SFT_2,
    SFT_DATA,
    SFT_SELECT,
    SYNTHESIZE,
    TASKS,
    TOKENIZE,
    WEIGHTS,
    WILDBENCH,
)
from ray_jobs.run.run import Run, read_manifest

PLOTTED = (BASE, PRETRAIN_1, PRETRAIN_2, CONTROL_2, LONG_CONTEXT)
KINDS = ("greedy", "texts")  # of what models write: the most likely tokens, and drawn ones
TEMPLATES = Path(__file__).parents[1] / "templates"


def write(run: Run) -> str:
    """Write the report of what is done so far and return its URI."""
    return written(run.uri, run.recipe, [stage.name for stage in run.stages])


def written(uri: str, recipe: Recipe, stages: list[str]) -> str:
    """Write the report of `stages` of the run at `uri` and return its URI."""
    manifests = {name: found for name in stages if (found := read_manifest(uri, name))}
    evaluation = _json(uri, "evaluate/metrics.json")
    records = {name: read for name in stages if (read := curves.records(uri, name))}
    forgetting = {name: curves.newest(found).get("warnings", []) for name, found in records.items()}
    warnings = [warning for manifest in manifests.values() for warning in manifest.get("warnings", [])]
    warnings += [f"{name}: {said}" for name, found in forgetting.items() if name not in manifests for said in found]
    first = summary.of(uri, recipe, stages)
    documents = intervals.read(uri)
    warnings += verdict.forgotten(evaluation, _json(uri, "tasks/metrics.json"), recipe, documents)
    page = (
        environment()
        .get_template("report.html")
        .render(
            recipe=recipe,
            manifests=manifests,
            total_seconds=sum(m["seconds"] for m in manifests.values()),
            kept=first.pages[1] if first.pages else 0,
            short=terminal.short,
            duration=terminal.duration,
            corpus=_corpus(manifests),
            drops=_drops(manifests),
            losses=losses.section(manifests),
            provenance=provenance.section(kept_from) if (kept_from := provenance.read(uri, manifests)) else None,
            examples=examples.section(uri, manifests, recipe.seed),
            signals=histograms.section(uri) if POLICY in manifests else None,
            clusters=clusters.section(uri, recipe.seed) if DEDUP in manifests else None,
            most_chars=shown.MOST_CHARS,
            synthesis=synthesis_section.section(manifests.get(SYNTHESIZE, {})),
            mixture=_mixture(uri),
            regmix=regmix_section.section(uri) if WEIGHTS in manifests else None,
            curves=[(title, Markup(svg)) for title, svg in curves.losses(records)],
            languages=[(title, Markup(svg)) for title, svg in curves.languages(records)],
            evaluation=_evaluation(evaluation, recipe, documents),
            sentences=summary.sentences(first),
            picture=Markup(plots.dumbbells(first.learnt)) if first.learnt else None,
            chat=first.chat,
            commands=summary.commands(first, "pinisi"),
            verdict=verdict.sentences(evaluation, recipe, documents) if evaluation else web.sentences(manifests),
            web=web.section(uri, recipe, manifests),
            long_context=long_section.section(manifests.get(LONG_CONTEXT, {})),
            partial=partial_section.section(manifests.get(PRETRAIN_1, {}), _json(uri, f"{PRETRAIN_1}/update.json")),
            pruning=pruning_section.section(manifests.get(PRUNE, {})),
            draft=draft_section.section(manifests.get(DRAFT, {})),
            tasks=tasks_section.section(uri) if TASKS in manifests else None,
            long=long_tasks.section(uri) if LONG in manifests else None,
            wildbench=wildbench_section.section(uri) if WILDBENCH in manifests else None,
            throughput=_throughput(manifests),
            versions=next((m["versions"] for m in manifests.values()), {}),
            reward=selection_section.reward(uri) if REWARD in manifests else None,
            selection=selection_section.selection(uri) if SFT_SELECT in manifests else None,
            chats=chats_section.section(uri) if SFT_DATA in manifests else None,
            alignment=_alignment(uri, manifests),
            labels=_json(uri, "inspect/scores.json"),
            watch=watch_section.section(uri) if DPO_WATCH in manifests else None,
            notices=notices.grouped(warnings),
            ignored=[(name, found) for name, one in manifests.items() if (found := one.get("ignored_keys"))],
        )
    )
    target = storage.join(uri, REPORT, "index.html")
    storage.write_text(target, page.replace("<nav></nav>", f"<nav>{_links(page)}</nav>", 1))
    return target


def _links(page: str) -> str:
    """To each heading that says in `data-nav` what it is called in short."""
    return "".join(
        f'<a href="#{name}">{title}</a>' for name, title in re.findall(r'<h2 id="([\w-]+)" data-nav="([^"]+)">', page)
    )


def environment() -> Environment:
    """Of the templates: `code | named` is a language in words, `text | pieces` shows what cannot be seen."""
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(), trim_blocks=True)
    made.filters |= {"named": named, "pieces": pieces}
    return made


def _json(uri: str, path: str) -> dict | None:
    target = adopted.path(uri, *path.rsplit("/", 1))
    return storage.read_json(target) if storage.exists(target) else None


def _corpus(manifests: dict) -> dict | None:
    """The funnel in all, and documents per language after each stage that knows the language."""
    stages = [name for name in summary.CORPUS if name in manifests]
    if not stages:
        return None
    counts = [manifests[name]["docs_out"] for name in stages]
    by_lang = [name for name in stages if name not in (CRAWL, EXTRACT)]
    langs = sorted({lang for name in by_lang for lang in manifests[name]["docs_per_lang"]})
    table = [[lang, *(manifests[name]["docs_per_lang"].get(lang, 0) for name in by_lang)] for lang in langs]
    tokens = manifests.get(TOKENIZE, {}).get("tokens_per_lang", {})
    size = manifests.get(by_lang[-1], {}).get("bytes_per_lang", {}) if by_lang else {}
    for row in table:
        row += [size.get(row[0], 0), tokens.get(row[0], 0)]
    plot = None
    if len(by_lang) > 1:
        kept = {"kept": [row[len(by_lang)] for row in table]}
        for column, after in enumerate(by_lang[1:], 2):
            kept[f"dropped by {after}"] = [row[column - 1] - row[column] for row in table]
        plot = Markup(plots.stacked_rows([named(lang) for lang in langs], kept, "documents"))
    first = ["read", *stages] if "docs_in" in manifests[CRAWL] else stages
    counts = [manifests[CRAWL]["docs_in"], *counts] if len(first) > len(stages) else counts
    return {"stages": by_lang, "rows": table, "funnel": Markup(plots.funnel(first, counts)), "by_language": plot}


def _drops(manifests: dict) -> dict | None:
    """How many documents broke each rule. A document may break several; each counts under every rule that it broke."""
    rules: Counter[tuple[str, str]] = Counter()
    for stage in summary.CORPUS:
        for rule, count in manifests.get(stage, {}).get("rules", {}).items():
            rules[stage, rule] += count
    if not rules:
        return None
    ordered = sorted(rules.items(), key=lambda item: (summary.CORPUS.index(item[0][0]), -item[1]))
    names = [f"{stage}: {rule}" for (stage, rule), _ in ordered]
    series = {
        stage: [n if s == stage else 0 for (s, _), n in ordered]
        for stage in summary.CORPUS
        if any(s == stage for s, _ in rules)
    }
    return {"plot": Markup(plots.stacked_rows(names, series, "documents", 8.6))}


def _mixture(uri: str) -> dict | None:
    plan = _json(uri, "mixture/plan.json")
    if plan is None:
        return None
    tables = {}
    for name in ("base", "stage1", "stage2"):
        if name in plan:
            tables[name] = plan[name]["rows"]
    langs = sorted({row["pool"].split("/")[-1] for rows in tables.values() for row in rows} - {"instructions"})
    langs += ["instructions"]
    share = {
        name: [sum(row["weight"] for row in rows if row["pool"].split("/")[-1] == lang) or None for lang in langs]
        for name, rows in tables.items()
    }
    groups = [*map(named, langs[:-1]), "chats"]
    return {"plot": Markup(plots.grouped_bars(groups, share, "share of tokens")), "tables": tables}


def _evaluation(evaluation: dict | None, recipe: Recipe, documents: intervals.Documents) -> dict | None:
    if evaluation is None:
        return None
    bpb = evaluation["bits_per_byte"]
    names = [name for name in PLOTTED if name in bpb]
    replay, new = verdict.split(bpb[BASE], recipe)
    langs = new + replay
    shown = {name: [bpb[name].get(lang) for lang in langs] for name in names}
    ours = "with expansion" if given(recipe.train).expand else "after pre-training"
    compared = {ours: PRETRAIN_2, "without expansion": CONTROL_2}
    forgetting = {
        title: [bpb[name][lang] - bpb[BASE][lang] for lang in replay]
        for title, name in compared.items()
        if name in bpb and replay
    }
    return {
        "plot": Markup(plots.grouped_bars([*map(named, langs)], shown, "bits per byte")),
        "forgetting": Markup(plots.grouped_bars([*map(named, replay)], forgetting, "change of bits per byte", 4.8))
        if forgetting
        else None,
        "langs": langs,
        "table": [[name, *(bpb[name].get(lang) for lang in langs)] for name in bpb],
        "changes": [
            (name, [intervals.change(evaluation, documents, BASE, name, [lang]) for lang in langs])
            for name in bpb
            if name != BASE and all(lang in bpb[name] for lang in langs)
        ],
        "samples": _samples(evaluation),
        "sampling": evaluation.get("sampling"),
        "readable": [
            (name, *(sum(one[key] for one in by_lang.values()) / len(by_lang) for key in ("broken", "right_script")))
            for name, by_lang in evaluation.get("readable", {}).items()
            if by_lang
        ],
        "heldout": evaluation.get("heldout", {}),
    }


def _samples(evaluation: dict) -> list[tuple[str, str, list[tuple[str, list[str | None]]]]]:
    """(language, prompt, (model, greedy and drawn text)): None where there is no such text."""
    result = []
    for lang, one in evaluation.get("samples", {}).items():
        models = one.get("greedy") or one["texts"]
        result.append(
            (lang, one["prompt"], [(name, [one.get(kind, {}).get(name) for kind in KINDS]) for name in models])
        )
    return result


def _throughput(manifests: dict) -> list[list]:
    rows = []
    for name, manifest in manifests.items():
        seconds = manifest["seconds"] or 1e-9
        documents, tokens = manifest.get("docs_in"), manifest.get("tokens")
        rate = manifest.get("tokens_per_second") or (tokens / seconds if tokens and "docs_in" not in manifest else None)
        size = manifest.get("bytes") if documents else None
        rows.append([name, manifest["seconds"], documents and documents / seconds, size and size / 1e6 / seconds, rate])
    return rows


def _alignment(uri: str, manifests: dict) -> list[tuple[str, dict]]:
    """Counts and measures of the instruction and preference stages, as they stand in the manifests."""
    skip = {"stage", "fingerprint", "config_hash", "config", "inputs", "code", "files", "hosts", "versions", "bytes"}
    skip |= {"step", "lr", "grad_norm", "data_seconds", "skipped_steps", "resumed_from", "seconds", "tokens_per_second"}
    skip |= {"attended_per_token", "data_wait", "memory_bytes", "loss_by_language"}
    skip |= {"validation_loss", "validation_loss_change", "bits_per_byte", "bits_per_byte_change", "validation_seconds"}
    skip |= {"damage"}
    names = (REWARD, SFT_1, SFT_SELECT, SFT_2, OFF_POLICY, *ROUNDS, PRUNE)
    return [
        (name, {k: v for k, v in manifests[name].items() if k not in skip and isinstance(v, int | float | str | dict)})
        for name in names
        if name in manifests
    ]
