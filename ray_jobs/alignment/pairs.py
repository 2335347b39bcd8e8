"""Preference pairs to train on: existing ones without the worst translations, and those of a policy's own answers.

Paper section 5.2. On-policy: sample answers to the prompts, score them with the reward model, keep best and worst under
the language-consistency verifier (`train/selection/preference.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pyarrow as pa

from curation.lid import identify
from ray_jobs.alignment import chats, generate
from ray_jobs.run import identifier
from ray_jobs.run.graph import foundation
from ray_jobs.run.job import Job
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work import device
from ray_jobs.work.rows import write_ledger
from ray_jobs.work.tasks import map_on_ray
from train import model
from train.chat import conversations
from train.chat.scrub import emoji_count
from train.generation import probe
from train.methods import dpo
from train.scores.pair_perplexity import pair_perplexity
from train.selection import preference

PROBE = "probe.jsonl"  # in dpo/off_policy


class Perplexities(TokenizerSetting):
    """Pairs of which the worst `share` of each language goes."""

    model: str
    rows: list[dict]
    share: float
    context: int
    precision: str


def off_policy(job: Job) -> tuple[list[dict], dict]:
    """The recipe's pairs without the share per language that the base finds least likely (bad translations), and counts."""
    recipe = job.dpo
    read = chats.preferences(job, recipe.preference)
    held_out, rows = _split(job, read.rows)
    chats.write_rows(job.path(PROBE), held_out)
    rows = chats.sample(rows, recipe.max_rows)
    rows, too_long = preference.cut_prompts(rows, _tokenizer(job), recipe.max_prompt_tokens)
    task: Perplexities = {
        **tokenizer_of(job),
        "model": job.input(foundation(job.recipe), "model"),
        "rows": rows,
        "share": recipe.drop_worst_perplexity,
        "context": job.train.context,
        "precision": job.train.precision,
    }
    kept, rejects = map_on_ray(job, _by_perplexity, [task], "perplexities", gpus=device.wants_gpus(job))[0]
    write_ledger(job, too_long + rejects, "part-perplexity")
    scrubbed = chats.per_language([row for row in kept if row["scrubbed"]])
    facts = chats.account(read.rows_in, read.rules + _by_rule(too_long + rejects), read.ignored)
    return kept, {"scrubbed_per_language": scrubbed, **facts}


def _by_perplexity(task: Perplexities) -> tuple[list[dict], list[dict]]:
    tokenizer, where = load_tokenizer(task), device.here()
    net = model.load(task["model"], device.dtype(task["precision"], where)).to(where)
    rows, long = _fitting(tokenizer, task["rows"], task["context"])
    perplexities = pair_perplexity(net, tokenizer, rows)
    kept, rejects = preference.drop_worst_perplexity(rows, perplexities, task["share"])
    return kept, rejects + long


def _fitting(tokenizer, rows: list[dict], context: int) -> tuple[list[dict], list[dict]]:
    """The pairs whose two sides fit in `context` tokens, and the ledger of the others."""
    _, rejects = dpo.encode_pairs(tokenizer, rows, context)
    out = {reject["doc_id"] for reject in rejects}
    return [row for row in rows if row["id"] not in out], rejects


def on_policy(job: Job, policy: str, seed: int) -> tuple[list[dict], dict]:
    """Pairs from fresh samples of `policy` (URI of a model), and counts for the manifest.

    They are kept in the stage's folder as samples/part-*.jsonl and pairs.jsonl, so a killed run goes on. `seed` decides the
    samples together with the prompt.
    """
    prompts, rejects = _prompts(job)
    samples = generate.samples(job, policy, prompts, job.path("samples"), seed)
    kept, dropped = preference.pairs(samples, namer(identifier.of(job.recipe)))
    kept, long = _fitting(_tokenizer(job), kept, job.train.context)
    write_ledger(job, rejects + dropped + long, "part-samples")
    chats.write_rows(job.path("pairs.jsonl"), kept)
    facts = {
        "samples": len(samples),
        "samples_finished": sum(row["finished"] for row in samples),
        "rejected_unfinished": sum("rejected_finished" in row for row in kept),
        "samples_with_emoji": sum(emoji_count(row["answer"]) > 0 for row in samples),
        "engine_logprob_gap": max((row["gap"] for row in samples), default=0.0),
        "rows_in": len(prompts),
        "rows_kept": len(kept),
        "dropped_by_rule": dict(sorted(_by_rule(rejects + dropped + long).items())),
    }
    return kept, facts


def _prompts(job: Job) -> tuple[list[dict], list[dict]]:
    """Distinct prompts {id, lang, prompt, task} of the recipe's pairs that are not too long, and the ledger of the others."""
    recipe = job.dpo
    first: dict[str, dict] = {}
    repeated = []
    for row in _split(job, chats.preferences(job, recipe.preference).rows)[1]:
        text = conversations.render(row["prompt"])[0]
        if text in first:
            detail = f"the prompt of {first[text]['id']}"
            repeated.append({"doc_id": row["id"], "lang": row["lang"], "rule": "repeated_prompt", "detail": detail})
        else:
            first[text] = {key: row.get(key) for key in ("id", "lang", "prompt", "task")}
    fitting, too_long = preference.cut_prompts(list(first.values()), _tokenizer(job), recipe.max_prompt_tokens)
    return chats.sample(fitting, recipe.on_policy.prompts), repeated + too_long


def _split(job: Job, rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """(the pairs that dpo/watch measures, the pairs of all other prompts)"""
    watch = job.dpo.watch
    return probe.split(rows, watch.per_language if watch else 0)


def _by_rule(rejects: list[dict]) -> Counter[str]:
    return Counter(reject["rule"] for reject in rejects)


def _tokenizer(job: Job):
    return load_tokenizer(tokenizer_of(job))


def namer(model: str | identify.ModelName) -> Callable[[str], str]:
    """text -> its most probable language."""
    known = identify.load(model)
    return lambda text: known.labels[known.predict(pa.array([text]))[0][0]]
