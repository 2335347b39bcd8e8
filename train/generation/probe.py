"""A fixed set of prompts that no round trains on, and what the answers of a model to them say of it.

    reward_margin        mean of beta ((log pi - log pi_SFT)(y_w|x) - (log pi - log pi_SFT)(y_l|x)) over the probe's pairs: the
                         implicit reward that the model has learned, always against the SFT model, so rounds compare
    chosen_logp, rejected_logp    means of log pi(y|x), summed over the answer's tokens
    answer_chars, answer_tokens   mean length of the model's own greedy answers; finished: share that ended by themselves
    language_consistency          share of answers in the language of the prompt (Sailor2 section 5.2)
    emoji_rate                    share of answers with an emoji, which reward models do not notice (the same)
    reward                        mean score of the answers by the reward model

Plain numbers, no model: who samples and scores is ray_jobs/stages/dpo_watch.py. Win rates are in train/generation/win_rate.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
from xxhash import xxh3_64_intdigest

from train.chat.scrub import emoji_count
from train.generation import win_rate
from train.selection import preference

AT_MOST_ONE_IN = 4  # of a language's prompts


def split(rows: list[dict], per_language: int) -> tuple[list[dict], list[dict]]:
    """Preference rows as (the probe: one row of each of its prompts, the rows of all other prompts), in the order given.

    The probe has the `per_language` prompts of each language that hash lowest, a quarter of them at most.
    """
    prompts: dict[str, dict[str, int]] = {}
    texts = [json.dumps(row["prompt"], sort_keys=True) for row in rows]
    for row, text in zip(rows, texts, strict=True):
        prompts.setdefault(row["lang"], {}).setdefault(text, xxh3_64_intdigest(text.encode()))
    chosen = set()
    for of_language in prompts.values():
        ranked = sorted(of_language, key=lambda text: (of_language[text], text))
        chosen |= set(ranked[: min(per_language, len(ranked) // AT_MOST_ONE_IN)])
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    probe = [row for i, row in enumerate(rows) if texts[i] in chosen and first[texts[i]] == i]
    return probe, [row for row, text in zip(rows, texts, strict=True) if text not in chosen]


def facts(
    rows: list[dict],
    baseline: list[dict],
    beta: float,
    language: Callable[[str], str],
    exempt: Callable[[dict], bool] = preference.is_translation,
) -> dict:
    """What the answers of a model say; `baseline` are those of the SFT model to the same prompts, in the same order.

    Rows {"lang", "prompt", "answer", "tokens", "finished", "reward", "chosen_logp", "rejected_logp"}. Besides the measures
    above: `win_rate` against the baseline by reward, `win_rate_length_controlled`, and dictionaries by language,
    `win_rate_by_language` and `language_consistency_by_language`.
    """
    langs = [row["lang"] for row in rows]
    chosen, rejected = (_column(rows, name) - _column(baseline, name) for name in ("chosen_logp", "rejected_logp"))
    consistent = np.array(
        [exempt(row) or language(row["answer"]) == language(row["prompt"][-1]["content"]) for row in rows], np.float64
    )
    rewards, others = (win_rate.of_finished(_column(of, "reward"), _column(of, "finished")) for of in (rows, baseline))
    outcome = win_rate.by_reward(rewards, others)
    means = {name: float(_column(rows, name).mean()) for name in ("chosen_logp", "rejected_logp", "reward", "finished")}
    return {
        "reward_margin": float(beta * (chosen - rejected).mean()),
        **means,
        "answer_chars": float(np.mean([len(row["answer"]) for row in rows])),
        "answer_tokens": float(_column(rows, "tokens").mean()),
        "language_consistency": float(consistent.mean()),
        "emoji_rate": float(np.mean([emoji_count(row["answer"]) > 0 for row in rows])),
        "win_rate": float(outcome.mean()),
        "win_rate_length_controlled": win_rate.length_controlled(outcome, longer(rows, baseline)),
        "win_rate_by_language": win_rate.by_language(outcome, langs),
        "language_consistency_by_language": win_rate.by_language(consistent, langs),
    }


def judged(rows: list[dict], baseline: list[dict], verdicts: list[float | None]) -> dict:
    """`judge_win_rate` with the length rule, `judge_win_rate_length_controlled` without it, `judge_win_rate_by_language`, and
    `judge_invalid`, the share of pairs without a verdict, which count nowhere else."""
    found = [(row, other, v) for row, other, v in zip(rows, baseline, verdicts, strict=True) if v is not None]
    invalid = {"judge_invalid": 1 - len(found) / len(rows)}
    if not found:
        return invalid
    ours, theirs, said = (list(column) for column in zip(*found, strict=True))
    ruled = [
        win_rate.with_length_rule(v, row["answer"], other["answer"])
        for v, row, other in zip(said, ours, theirs, strict=True)
    ]
    outcome = win_rate.outcomes(ruled)
    return {
        "judge_win_rate": float(outcome.mean()),
        "judge_win_rate_length_controlled": win_rate.length_controlled(win_rate.outcomes(said), longer(ours, theirs)),
        "judge_win_rate_by_language": win_rate.by_language(outcome, [row["lang"] for row in ours]),
        **invalid,
    }


def longer(rows: list[dict], baseline: list[dict]) -> np.ndarray:
    """By how many characters each answer is longer than the baseline's, float64."""
    pairs = zip(rows, baseline, strict=True)
    return np.array([len(row["answer"]) - len(other["answer"]) for row, other in pairs], np.float64)


def warnings(record: dict, start: dict) -> list[str]:
    """What has become worse since the SFT model's record `start`, one sentence each."""
    said = []
    fall = start["language_consistency"] - record["language_consistency"]
    if fall > 0.1:
        said.append(
            f"{record['stage']}: {record['language_consistency']:.0%} of the probe's answers are in the prompt's language, "
            f"{start['language_consistency']:.0%} before preference tuning; a higher beta or fewer updates help."
        )
    if record["emoji_rate"] - start["emoji_rate"] > 0.1:
        said.append(
            f"{record['stage']}: {record['emoji_rate']:.0%} of the probe's answers have emoji, {start['emoji_rate']:.0%} before "
            "preference tuning; look at the chosen answers."
        )
    if record.get("judge_invalid", 0) > 0.1:
        said.append(
            f"{record['stage']}: the judge gave no valid verdict on {record['judge_invalid']:.0%} of the probe's pairs."
        )
    return said


def _column(rows: list[dict], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], np.float64)
