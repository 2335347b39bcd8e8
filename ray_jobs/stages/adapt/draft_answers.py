"""draft_answers: what the last aligned model itself answers, greedily, to prompts of each language.

rows.jsonl     prompt and answer as tokens
written/       the answers as they come, a file of sixteen prompts each
"""

from __future__ import annotations

from cluster import storage
from ray_jobs.alignment import chats, generate
from ray_jobs.config.given import given
from ray_jobs.errors import UserError
from ray_jobs.run.graph import SFT_DATA, aligned
from ray_jobs.run.job import Job
from ray_jobs.training.tokenizer import load_tokenizer, tokenizer_of
from train.chat import conversations
from train.drafts.loops import loops


def run(job: Job) -> dict:
    own, stage = given(job.train.draft).answers, aligned(job.recipe)
    setting = tokenizer_of(job, stage)
    prompts, asked = _prompts(job, load_tokenizer(setting), job.train.context - own.max_new_tokens)
    if not prompts:
        raise UserError(
            f"train.draft: of {asked} prompts none has room for an answer of {own.max_new_tokens} tokens in train.context "
            f"{job.train.context}; lower train.draft.answers.max_new_tokens"
        )
    folder = job.path("written")
    answered = generate.greedy(
        job,
        {folder: (job.input(stage, "model"), setting["tokenizer"])},
        prompts,
        own,
        most=own.max_new_tokens,
        context=job.train.context,
        keys=("id", "lang", "prompt_ids", "answer_ids", "finished"),
    )[folder]
    chats.write_rows(job.path("rows.jsonl"), answered)
    storage.remove(folder)
    facts = {}
    for lang in sorted({row["lang"] for row in answered}):
        of = [row for row in answered if row["lang"] == lang]
        facts[lang] = {
            "answers": len(of),
            "tokens": sum(len(row["answer_ids"]) for row in of),
            "unfinished": sum(not row["finished"] for row in of),
            "looping": sum(loops(row["answer_ids"]) for row in of),
        }
    missing = sorted(set(job.recipe.languages) - facts.keys())
    warnings = (
        [f"draft_answers: no prompt in {', '.join(missing)}, so the draft learns nothing of it"] if missing else []
    )
    return {
        "model": stage,
        "asked": asked,
        "too_long": asked - len(prompts),
        "per_language": facts,
        "warnings": warnings,
    }


def _prompts(job: Job, tokenizer, room: int) -> tuple[list[dict], int]:
    """(prompts {id, lang, prompt} of at most `room` tokens, how many were looked at): as many of each language."""
    rows = chats.read_rows(job.input(SFT_DATA, "rows.jsonl"))
    chosen = []
    for lang in job.recipe.languages:
        of = [row for row in rows if row["lang"] == lang]
        chosen += chats.sample(of, given(job.train.draft).answers.prompts_per_language)
    prompts = [
        {"id": row["id"], "lang": row["lang"], "prompt": conversations.plain(row["messages"][:-1])} for row in chosen
    ]
    ids = conversations.encode_prompts(tokenizer, [row["prompt"] for row in prompts])
    return [row for row, tokens in zip(prompts, ids, strict=True) if len(tokens) <= room], len(prompts)
