"""What a draft is worth on given prompts: how many tokens a pass of the target yields, and the time it takes.

    speed-up where the target's time is that of reading its weights = tokens per call / (1 + gamma c)

c is a step of the draft over a pass of the target. A small model's greedy text soon repeats itself, and what repeats is easily
foreseen: `looping` says of how many answers that is so, and their acceptance says little about real text.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from train.batches.decoder import CausalLM
from train.drafts import speculative
from train.drafts.loops import loops
from train.drafts.speculative import Proposer

NEAR = 2.0  # spacings of numbers between two logits, below which rounding decides
BEHIND = 0.9  # of the best language's tokens per call, below which a language is named


def covered(answers: list[list[int]], words: np.ndarray) -> float:
    """The share of the tokens of `answers` that are among `words`."""
    ids = np.concatenate([np.asarray(of, np.int64) for of in answers]) if answers else np.zeros(0, np.int64)
    return float(np.isin(ids, words).mean()) if len(ids) else 1.0


def acceptance(  # noqa: PLR0917
    target: CausalLM, proposer: Proposer, prompts: list[list[int]], stop: list[int], most: int, gamma: int
) -> dict:
    """Of the answers to `prompts`, one at a time: tokens_per_call; accepted, the share of calls that accepted at least 1, 2, …
    gamma proposals; calls; tokens; seconds with (`draft`) and without (`plain`): of the CPU, or on a GPU by the clock; equal,
    how many are the same; near_ties, how many others part where two tokens are as good as equal; looping."""
    plain: list[list[int]] = []
    drafted: list[speculative.Spoken] = []
    seconds = {"plain": 0.0, "draft": 0.0}
    device = next(target.parameters()).device
    for ids in prompts:
        began = _now(device)
        plain.append(speculative.greedy(target, [ids], stop, most)[0])
        between = _now(device)
        drafted += speculative.speculate(target, proposer, [ids], stop, most, gamma)
        seconds["plain"] += between - began
        seconds["draft"] += _now(device) - between
    accepted = [n for one in drafted for n in one.accepted]
    others = [(ids, a, b.ids) for ids, a, b in zip(prompts, plain, drafted, strict=True) if a != b.ids]
    after_first = sum(len(one.ids) - 1 for one in drafted)
    return {
        "prompts": len(prompts),
        "tokens": sum(len(one.ids) for one in drafted),
        "calls": len(accepted),
        "tokens_per_call": round(after_first / len(accepted), 3) if accepted else 1.0,
        "accepted": [round(sum(n >= i for n in accepted) / max(1, len(accepted)), 3) for i in range(1, gamma + 1)],
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "equal": len(prompts) - len(others),
        "near_ties": sum(_near_tie(target, *one) for one in others),
        "looping": sum(loops(ids) for ids in plain),
    }


def _near_tie(target: CausalLM, prompt: list[int], a: list[int], b: list[int]) -> bool:
    at = next((i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), None)
    return at is not None and speculative.gap(target, [*prompt, *a[:at]], a[at], b[at]) < NEAR


def _now(device: torch.device) -> float:
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def worst(found: dict[str, dict], beside: str = "en") -> dict | None:
    """The `language` of the fewest `tokens_per_call`, and what share of those of `beside` that is (`of_english`; None where it
    was not measured). None where nothing was."""
    if not found:
        return None
    lang = min(sorted(found), key=lambda one: found[one]["tokens_per_call"])
    least = found[lang]["tokens_per_call"]
    share = round(least / found[beside]["tokens_per_call"], 3) if beside in found else None
    return {"language": lang, "tokens_per_call": least, "of_english": share}


def warnings(found: dict[str, dict]) -> list[str]:
    """Sentences on languages that the draft serves worse than the best, and on texts that were not the same."""
    said = []
    best = max(found, key=lambda lang: found[lang]["tokens_per_call"], default="")
    for lang, of in found.items():
        if of["tokens_per_call"] < BEHIND * found[best]["tokens_per_call"]:
            said.append(
                f"draft: a pass gives {of['tokens_per_call']:.2f} tokens in {lang} and {found[best]['tokens_per_call']:.2f} in "
                f"{best}; more of its prompts help (train.draft.answers.prompts_per_language)"
            )
        if wrong := of["prompts"] - of["equal"] - of["near_ties"]:
            said.append(f"draft: {wrong} of {of['prompts']} answers in {lang} are not those without the draft")
        if 2 * of["looping"] > of["prompts"]:
            said.append(
                f"draft: most answers in {lang} repeat themselves, so its acceptance says little about real text"
            )
    return said
