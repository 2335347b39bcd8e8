"""long: long-context tasks in the languages of a run, hidden in its own held-out documents, by length and depth.

rows.json                       texts of the tasks `qa` and `summary`, of the user's rows
models/MODEL/LANG.LENGTH.json   answers of one model; a killed run goes on behind the last
results.parquet                 all answers, item by item
metrics.json                    {task: {language: {model: [a cell for each length and depth]}}}
"""

from __future__ import annotations

from collections import Counter, defaultdict

import pyarrow as pa

from cluster import storage
from curation.lid.tags import code
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Long
from ray_jobs.errors import UserError
from ray_jobs.run import files, long_choice, row_files, task_choice
from ray_jobs.run.graph import TOKENIZE
from ray_jobs.run.job import Job
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work import device
from ray_jobs.work.rows import write_ledger
from ray_jobs.work.tasks import map_on_ray, written
from train import model
from train.long import answer, items, sizes
from train.tasks import compare, rows
from train.tasks.task import RowError

RESULTS = "results.parquet"
METRICS = "metrics.json"
COLUMNS = pa.schema(
    [
        *[(name, pa.string()) for name in ("model", "task", "lang", "id", "group")],
        ("length", pa.int64()),
        ("depth", pa.float64()),
        ("tokens", pa.int64()),
        *[(name, pa.string()) for name in ("prompt", "answer")],
        ("gold", pa.list_(pa.string())),
        *[(name, pa.float64()) for name in ("score", "choice", "chance")],
        ("logprobs", pa.list_(pa.float64())),
    ]
)


class Work(TokenizerSetting):
    """What is asked of one model in one language: `outs` are the files that are written, by length."""

    stage: str
    model: str
    precision: str
    lang: str
    tasks: list[str]
    seed: int
    samples: int
    depths: list[float]
    heldout: str
    rows: str
    outs: dict[int, str]


def run(job: Job) -> dict:
    settings = given(job.recipe.evaluate.long)
    languages = long_choice.languages(settings, job.recipe.languages)
    stages = task_choice.models(settings, job.stage.inputs)
    lengths, ledger = _lengths(job, settings, stages)
    ledger += [
        {"doc_id": lang, "lang": lang, "rule": "no_templates", "detail": "train/long/templates.yaml lacks the language"}
        for lang in job.recipe.languages
        if not settings.languages and lang not in languages
    ]
    texts, rejects = _rows(settings, languages)
    storage.write_json(job.path("rows.json"), texts)
    tasks = settings.asked
    work: list[Work] = [
        {
            **tokenizer_of(job, stage),
            "stage": stage,
            "model": job.input(stage, "model"),
            "precision": job.train.precision,
            "lang": lang,
            "tasks": tasks,
            "seed": job.recipe.seed,
            "samples": settings.samples,
            "depths": sorted({*settings.depths}),
            "heldout": job.input(TOKENIZE, "heldout.parquet"),
            "rows": job.path("rows.json"),
            "outs": {
                length: job.path("models", stage.replace("/", "-"), f"{lang}.{length}.json")
                for length in lengths[stage]
            },
        }
        for stage in stages
        for lang in languages
        if lengths[stage]
    ]
    before = written([*one["outs"].values()] for one in work)
    map_on_ray(job, _answer, work, "languages of models", gpus=device.wants_gpus(job), finished=before)
    found = []
    unfit: dict[tuple[str, int, str], tuple[str, str]] = {}
    for one in work:
        for length, out in one["outs"].items():
            said = storage.read_json(out)
            about = {"model": one["stage"], "lang": one["lang"], "length": length}
            found += [{**about, **result, "group": f"{one['lang']} {result['group']}"} for result in said["results"]]
            unfit |= {
                (one["lang"], length, task): (rule, why) for task, rule, why in said["unfit"]
            }  # the same for every model
    ledger += [
        {"doc_id": f"{task}-{length}", "lang": lang, "rule": rule, "detail": detail}
        for (lang, length, task), (rule, detail) in sorted(unfit.items())
    ]
    write_ledger(job, [*rejects, *ledger], "part-items")
    if not found:
        raise UserError(
            f"evaluate.long: no task fits the lengths and the held-out text of any language; {job.ledger} says why of each"
        )
    storage.write_table(job.path(RESULTS), pa.Table.from_pylist(found, COLUMNS))
    storage.write_json(job.path(METRICS), _metrics(found))
    return {
        "models": len({one["model"] for one in found}),
        "answers": len(found),
        "languages": sorted({one["lang"] for one in found}),
        "dropped_by_rule": dict(sorted(Counter(one["rule"] for one in (*rejects, *ledger)).items())),
        "warnings": _left_out(unfit, languages),
    }


def _lengths(job: Job, settings: Long, stages: list[str]) -> tuple[dict[str, list[int]], list[dict]]:
    """The lengths that each model is asked, and the ledger of those beyond what it was trained on. Raises UserError for one
    that no model was trained on."""
    config = {stage: storage.read_json(job.input(stage, "model/config.json")) for stage in stages}
    most = {stage: int(one.get("max_position_embeddings") or 1 << 30) for stage, one in config.items()}
    wanted = sorted({*settings.lengths})
    if settings.beyond:
        return dict.fromkeys(stages, wanted), []
    if wanted[-1] > max(most.values()):
        raise UserError(
            f"evaluate.long.lengths: {wanted[-1]:,} tokens are more than any model was trained on "
            f"({', '.join(f'{stage}: {n:,}' for stage, n in most.items())}); take it away, or set evaluate.long.beyond: true"
        )
    left = [
        {
            "doc_id": f"{stage}-{length}",
            "rule": "beyond_context",
            "detail": f"{stage} was trained on {most[stage]:,} tokens, so it is not asked {length:,}",
        }
        for stage in stages
        for length in wanted
        if length > most[stage]
    ]
    return {stage: [length for length in wanted if length <= most[stage]] for stage in stages}, left


def _rows(settings: Long, languages: list[str]) -> tuple[dict[str, dict[str, list]], list[dict]]:
    """{task: {language: texts}} of the user's rows, and the ledger of the others."""
    texts: dict[str, dict[str, list]] = {task: {} for task in sizes.ROWS}
    rejects: list[dict] = []
    for uri in files.named(settings.rows, "evaluate.long.rows"):
        try:
            for where, row, wrong in row_files.read(uri):
                if row is None:
                    rejects.append({"doc_id": where, "rule": "not_a_row", "detail": wrong})
                    continue
                lang = rows.language_of(row, uri, languages, code)
                if lang not in languages:
                    detail = f"its language is {lang}" if lang else "it names no language"
                    rejects.append({"doc_id": where, "rule": "language_outside", "detail": detail})
                    continue
                try:
                    task, text = items.read(row, str(row.get("id") or where))
                    texts[task].setdefault(str(lang), []).append(text)
                except RowError as error:
                    rejects.append(
                        {"doc_id": where, "lang": lang, "rule": "not_an_item", "detail": f"{where}: {error}"}
                    )
        except ValueError as error:
            raise UserError(f"evaluate.long.rows: {error}") from None
    return texts, rejects


def _answer(work: Work) -> dict:
    """The answers of one model in one language, a file a length; those that are there are not made again."""
    waiting = {length: out for length, out in work["outs"].items() if not storage.exists(out)}
    if not waiting:
        return {}
    tokenizer, lang = load_tokenizer(work), work["lang"]
    heldout = storage.read_table(work["heldout"], ["lang", "doc_id", "text"]).to_pylist()
    texts = storage.read_json(work["rows"])
    source = items.Source(
        [(row["doc_id"], row["text"]) for row in heldout if row["lang"] == lang],
        {
            task: [
                items.Text(name, text, question, tuple(answers)) for name, text, question, answers in of.get(lang, [])
            ]
            for task, of in texts.items()
        },
    )
    begin = items.beginning(tokenizer)
    setting = items.Setting(lang, work["seed"], work["samples"], tuple(work["depths"]), begin)
    maker = items.Maker(setting, source, lambda some: tokenizers.encode(tokenizer, some))  # type: ignore[arg-type,return-value]
    where = device.here()
    net = model.load(work["model"], device.dtype(work["precision"], where)).to(where)
    for length, out in waiting.items():
        row = answer.row_of(net)
        results: list[answer.Result] = []
        unfit: list[tuple[str, str, str]] = []
        for task in work["tasks"]:
            if task == "absent" and "keys" in work["tasks"]:
                continue  # they share their texts
            try:
                for prompt in maker.prompts(task, length, work["tasks"]):
                    results += answer.answered(row, tokenizer, prompt)
            except items.Unfit as error:
                unfit.append((task, error.rule, str(error)))
        storage.write_json(out, {"results": results, "unfit": unfit})
    return {}


def _metrics(found: list[dict]) -> dict:
    """{task: {language: {model: cells}}}; a cell of depth null is of all depths."""
    cells: dict[tuple, list[dict]] = defaultdict(list)
    for one in found:
        for depth in {None, one["depth"]}:
            cells[one["task"], one["lang"], one["model"], one["length"], depth].append(one)
    out: dict = {}
    for (task, lang, name, length, depth), of in cells.items():
        choices = [one["choice"] for one in of if one["choice"] is not None]
        groups = [one["group"] for one in of if one["choice"] is not None]
        chances = [one["chance"] for one in of if one["choice"] is not None]
        out.setdefault(task, {}).setdefault(lang, {}).setdefault(name, []).append(
            {
                "length": length,
                "depth": depth,
                "score": compare.grouped([one["score"] for one in of], [one["group"] for one in of])._asdict(),
                "choice": compare.grouped(choices, groups)._asdict() if choices else None,
                "chance": sum(chances) / len(chances) if chances else None,
            }
        )
    return out


def _left_out(unfit: dict, languages: list[str]) -> list[str]:
    """A sentence for each language that has too little held-out text."""
    out = []
    for lang in languages:
        lengths = sorted(
            {length for (of, length, _), (rule, _) in unfit.items() if of == lang and rule == "too_little_text"}
        )
        if lengths:
            named = ", ".join(f"{length:,}" for length in lengths)
            out.append(
                f"{lang} has too little held-out text for long-context tasks of {named} tokens, which are left out; raise "
                "tokenize.heldout_bytes_per_language or tokenize.heldout_share"
            )
    return out
