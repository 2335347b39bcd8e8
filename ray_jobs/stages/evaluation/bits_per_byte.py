"""evaluate: bits per byte of every model on each held-out document, and what each model writes, per language.

`documents.parquet` has a row per model and document; `metrics.json` their sums, the samples and how readable those are.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cluster import document_tokens, gauges, storage
from curation.lid import script
from curation.text import words
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.run.graph import BASE, PRETRAIN_2, TOKENIZE, rounds
from ray_jobs.run.job import Job
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work import device
from ray_jobs.work.tasks import map_on_ray, written
from train import model
from train.generation.continuations import BROKEN, continuations
from train.generation.generate import Sampling
from train.scores import evaluate

DOCUMENTS = "documents.parquet"
COLUMNS = pa.schema(
    [
        ("model", pa.string()),  # the stage that made it
        ("lang", pa.string()),
        ("doc_id", pa.string()),
        ("bytes", pa.int64()),
        ("tokens", pa.int64()),
        ("bits", pa.float64()),
    ]
)


class Task(TokenizerSetting):
    stage: str
    model: str
    precision: str
    heldout: str
    context: int
    prompt_chars: int
    samplings: dict[str, dict]  # how texts are called -> fields of a Sampling; empty: no samples
    out: str


def run(job: Job) -> dict:
    settings = job.recipe.evaluate
    stages = [stage for stage in job.stage.inputs if stage != TOKENIZE]
    sampled = (BASE, PRETRAIN_2, *rounds(job.recipe)[-1:])
    greedy = {"n": 1, "temperature": 0.0, "max_new_tokens": settings.sample_tokens}
    drawn = {"temperature": settings.sample_temperature, "top_p": settings.sample_top_p, "seed": job.recipe.seed}
    samplings = {"greedy": greedy} | ({"texts": greedy | drawn} if settings.sample_temperature else {})
    tasks: list[Task] = [
        {
            "stage": stage,
            "model": job.input(stage, "model"),
            **tokenizer_of(job, stage),
            "heldout": job.input(TOKENIZE, "heldout.parquet"),
            "context": job.train.context,
            "precision": job.train.precision,
            "prompt_chars": settings.sample_prompt_chars,
            "samplings": samplings if stage in sampled else {},
            "out": job.path("models", f"{stage.replace('/', '-')}.json"),
        }
        for stage in stages
    ]
    before = written([task["out"]] for task in tasks)
    map_on_ray(job, _measure, tasks, "models", gpus=device.wants_gpus(job), finished=before)
    found = {task["stage"]: storage.read_json(task["out"]) for task in tasks}
    rows = [{"model": stage, **row} for stage, one in found.items() for row in one["documents"]]
    storage.write_table(job.path(DOCUMENTS), pa.Table.from_pylist(rows, COLUMNS))
    sums = {stage: _by_language(one["documents"]) for stage, one in found.items()}
    heldout = {
        lang: {key: entry[key] for key in ("documents", "bytes", "tokens")} for lang, entry in sums[BASE].items()
    }
    samples = {
        lang: {
            "prompt": prompt,
            **{
                kind: {stage: found[stage]["samples"][kind][lang] for stage in stages if stage in sampled}
                for kind in samplings
            },
        }
        for lang, prompt in found[BASE]["prompts"].items()
    }
    scores = {
        stage: {lang: entry["bits"] / entry["bytes"] for lang, entry in one.items()} for stage, one in sums.items()
    }
    for stage, languages in scores.items():
        for lang, value in languages.items():
            gauges.put("pinisi_bits_per_byte", value, model=stage, language=lang)
    *_, shown = samplings  # drawn ones where there are
    readable = {stage: readability(found[stage]["samples"][shown]) for stage in stages if stage in sampled}
    metrics = {"bits_per_byte": scores, "heldout": heldout, "samples": samples, "readable": readable}
    storage.write_json(job.path("metrics.json"), {**metrics, "sampling": drawn})
    return {"models": len(stages), "languages": len(heldout)}


def readability(samples: dict[str, str]) -> dict[str, dict[str, float]]:
    """Language -> of what a model wrote the share of characters that are broken (U+FFFD: bytes that are none), and of letters
    in the scripts of the language (0 without letters)."""
    texts = pa.array(list(samples.values()), pa.string())
    right = script.share(texts, list(samples))
    return {
        lang: {"broken": text.count(BROKEN) / max(len(text), 1), "right_script": float(share)}
        for (lang, text), share in zip(samples.items(), right, strict=True)
    }


def beginning(text: str, chars: int) -> str:
    """The first words of a text, `chars` characters at most, cut behind a word, also where no space stands between words."""
    text = " ".join(text.split())[: 2 * chars]  # what follows may belong to the word at the cut
    data = np.frombuffer(text.encode(), np.uint8)
    size = len(data) + 1
    codes, hashes = np.empty(size, np.uint32), np.empty(size, np.uint64)
    memo, previous, cuts, lengths = np.empty(size, np.uint64), *(np.empty(size, np.int32) for _ in range(3))
    spans = np.empty((size, 2), np.int32)
    n = words.decode_text(data, 0, len(data), codes)
    count, _ = words.read_words(codes, n, words.alphabet(), memo, previous, cuts, hashes, lengths, spans)
    ends = [end for end in spans[:count, 1].tolist() if end <= chars]
    return text if len(text) <= chars else text[: ends[-1] if ends else chars]


def _by_language(documents: list[dict]) -> dict[str, dict]:
    sums: dict[str, dict] = {}
    for row in sorted(documents, key=lambda row: row["lang"]):
        entry = sums.setdefault(row["lang"], {"documents": 0, "bytes": 0, "tokens": 0, "bits": 0.0})
        entry["documents"] += 1
        for key in ("bytes", "tokens", "bits"):
            entry[key] += row[key]
    return sums


def _measure(task: Task) -> dict:
    """Scores of each document and samples of one model, written to `out`; not done again when it is there."""
    if storage.exists(task["out"]):
        return {}
    tokenizer = load_tokenizer(task)
    rows = [row for row in storage.read_table(task["heldout"]).to_pylist() if row["bytes"]]
    tokens = tokenizers.encode(tokenizer, [row["text"] for row in rows])
    # each document stands for a language of its own
    one_by_one = [(str(i), ids, row["bytes"]) for i, (row, ids) in enumerate(zip(rows, tokens, strict=True))]
    where = device.here()
    net = model.load(task["model"], device.dtype(task["precision"], where)).to(where)
    begin, eod = document_tokens.begin(tokenizer), document_tokens.end(tokenizer)
    scores = evaluate.bits_per_byte(net, one_by_one, context=task["context"], eod=eod, begin=begin)
    documents = [
        {key: row[key] for key in ("lang", "doc_id", "bytes")}
        | {key: scores[str(i)][key] for key in ("tokens", "bits")}
        for i, row in enumerate(rows)
    ]
    prompts: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: (row["lang"], -row["bytes"], row["doc_id"])):  # the longest has most to say
        prompts.setdefault(row["lang"], beginning(row["text"], task["prompt_chars"]))
    samples = {
        kind: continuations(net, tokenizer, prompts, Sampling(**fields)) for kind, fields in task["samplings"].items()
    }
    storage.write_json(task["out"], {"documents": documents, "prompts": prompts, "samples": samples})
    return {}
