"""evaluate: bits per byte of every model on the held-out documents, and greedy samples, per language."""

from __future__ import annotations

from cluster import gauges, storage
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.run.graph import BASE, PRETRAIN_2, TOKENIZE, rounds
from ray_jobs.run.job import Job
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work import device
from ray_jobs.work.tasks import map_on_ray, written
from train import model
from train.scores import evaluate


class Task(TokenizerSetting):
    stage: str
    model: str
    heldout: str
    context: int
    prompt_chars: int
    sample_tokens: int  # 0: no samples
    out: str


def run(job: Job) -> dict:
    settings = job.recipe.evaluate
    stages = [stage for stage in job.stage.inputs if stage != TOKENIZE]
    sampled = (BASE, PRETRAIN_2, *rounds(job.recipe)[-1:])
    tasks: list[Task] = [
        {
            "stage": stage,
            "model": job.input(stage, "model"),
            **tokenizer_of(job),
            "heldout": job.input(TOKENIZE, "heldout.parquet"),
            "context": job.train.context,
            "prompt_chars": settings.sample_prompt_chars,
            "sample_tokens": settings.sample_tokens if stage in sampled else 0,
            "out": job.path("models", f"{stage.replace('/', '-')}.json"),
        }
        for stage in stages
    ]
    before = written([task["out"]] for task in tasks)
    map_on_ray(job, _measure, tasks, "models", gpus=device.wants_gpus(job), finished=before)
    found = {task["stage"]: storage.read_json(task["out"]) for task in tasks}
    heldout = {
        lang: {key: entry[key] for key in ("documents", "bytes", "tokens")}
        for lang, entry in found[BASE]["scores"].items()
    }
    samples = {
        lang: {
            "prompt": prompt,
            "texts": {stage: found[stage]["samples"][lang] for stage in stages if stage in sampled},
        }
        for lang, prompt in found[BASE]["prompts"].items()
    }
    scores = {
        stage: {lang: entry["bits_per_byte"] for lang, entry in one["scores"].items()} for stage, one in found.items()
    }
    for stage, languages in scores.items():
        for lang, value in languages.items():
            gauges.put("pinisi_bits_per_byte", value, model=stage, language=lang)
    storage.write_json(job.path("metrics.json"), {"bits_per_byte": scores, "heldout": heldout, "samples": samples})
    return {"models": len(stages), "languages": len(heldout)}


def _measure(task: Task) -> dict:
    """Scores and samples of one model, written to `out`; not done again when it is there."""
    if storage.exists(task["out"]):
        return {}
    tokenizer = load_tokenizer(task)
    rows = storage.read_table(task["heldout"]).to_pylist()
    tokens = tokenizers.encode(tokenizer, [row["text"] for row in rows])
    documents = [(row["lang"], ids, row["bytes"]) for row, ids in zip(rows, tokens, strict=True)]
    net = model.load(task["model"]).to(device.here())
    scores = evaluate.bits_per_byte(net, documents, context=task["context"], eod=tokenizer.eos_token_id)
    prompts: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: (row["lang"], -row["bytes"], row["doc_id"])):  # the longest has most to say
        prompts.setdefault(row["lang"], " ".join(row["text"].split())[: task["prompt_chars"]])
    texts = []
    if task["sample_tokens"]:
        texts = evaluate.greedy(net, tokenizer, list(prompts.values()), task["sample_tokens"])
    samples = dict(zip(prompts, texts, strict=True)) if texts else {}
    storage.write_json(task["out"], {"scores": scores, "prompts": prompts, "samples": samples})
    return {}
