"""Preference pairs: from sampled answers with rewards, or from pairs that exist already; and what is dropped of them.

Language-consistency verifier (Sailor2 §5.2, recipe §7): an answer is consistent when its language is the prompt's.
Of a prompt's samples with
  two consistent or more    the best and the worst of them by reward are chosen and rejected;
  exactly one               it is chosen, against the inconsistent one of lowest reward;
  none                      the prompt is dropped.
For a prompt that asks for a translation every answer counts as consistent.

Every function gives (what stays, ledger rows {doc_id, lang, rule, value, threshold, detail} of what does not).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from train.chat import encode_answers, encode_prompts, fault, stripped
from train.logprobs import logprobs

# Emoji by Unicode's Emoji_Presentation property, and any symbol that is turned into one by U+FE0F (with keycaps); with
# the joiners and skin tones that belong to them. ZWJ alone stays: Khmer, Burmese and others write with it.
_EMOJI_ONE = (
    "(?:[\U0001f004\U0001f0cf\U0001f18e\U0001f191-\U0001f19a\U0001f1e6-\U0001f1ff\U0001f201-\U0001f265\U0001f300-\U0001f64f"
    "\U0001f680-\U0001f6ff\U0001f7e0-\U0001f7f0\U0001f90c-\U0001f9ff\U0001fa70-\U0001faff"
    "\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u25fd\u25fe\u2614\u2615\u2648-\u2653\u267f\u2693\u26a1\u26aa\u26ab\u26bd\u26be"
    "\u26c4\u26c5\u26ce\u26d4\u26ea\u26f2\u26f3\u26f5\u26fa\u26fd\u2705\u270a\u270b\u2728\u274c\u274e\u2753-\u2755\u2757"
    "\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55]\ufe0f?|[\u00a9\u00ae\u2000-\u32ff]\ufe0f|[#*0-9]\ufe0f\u20e3)"
    "(?:[\U0001f3fb-\U0001f3ff]|[\U000e0020-\U000e007f])*"
)
_EMOJI = re.compile(f"{_EMOJI_ONE}(?:\u200d(?:{_EMOJI_ONE}|[\u2640\u2642\u2695\u2696\u2708\u2764]\ufe0f?))*")
_STRAY = re.compile("[\ufeff\ufffd\u00ad\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\\*{3,}|#{7,}")


def emoji_count(text: str) -> int:
    """Number of emoji; a joined sequence (family, flag tag, skin tone) is one. A flag of two letters counts as two."""
    return sum(1 for _ in _EMOJI.finditer(text))


def scrub(text: str) -> str:
    """`text` without emoji and stray formatting: control and replacement characters, runs of `***`, an unpaired `**`,
    white space at line ends, more than one empty line."""
    clean = _STRAY.sub("", _EMOJI.sub("", text.replace("\r\n", "\n")))
    if clean.count("**") % 2:
        clean = "".join(clean.rsplit("**", 1))
    # Where an emoji stood between two words both spaces are left.
    clean = re.sub(r"(?<=\S)[ \t]{2,}(?=\S)", " ", clean) if clean != text else clean
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+(?=\n|$)", "", clean)).strip()


def is_translation(row: dict) -> bool:
    """Whether a row's task is a translation, by its name: such a prompt is exempt from the language check."""
    return str(row.get("task") or "").startswith("translat")


def pairs(
    samples: list[dict], language: Callable[[str], str], exempt: Callable[[dict], bool] = is_translation
) -> tuple[list[dict], list[dict]]:
    """Pairs {"id", "lang", "prompt", "chosen", "rejected", both rewards, "consistent", "samples"}.

    `samples`: rows {"id", "lang", "prompt", "answer", "reward", …}, those of a prompt next to one another.
    `language(text)` names a text's language; the prompt's is that of its last turn. `consistent` is the number of
    consistent answers. Dropped: no_answer, no_consistent_answer, one_sample, equal_text, equal_reward. Ties in reward
    go to the earlier sample.
    """
    kept, rejects = [], []
    for prompt_id, group in groupby(samples, key=lambda row: row["id"]):
        rows = [row for row in group if row["answer"].strip()]
        if not rows:
            rejects.append({"doc_id": prompt_id, "lang": None, "rule": "no_answer", "detail": "every sample is empty"})
            continue
        first = rows[0]
        ledger = {"doc_id": prompt_id, "lang": first["lang"]}
        expected = language(first["prompt"][-1]["content"])
        consistent = [row for row in rows if exempt(row) or language(row["answer"]) == expected]
        others = [row for row in rows if not any(row is other for other in consistent)]
        if not consistent:
            detail = f"no answer of {len(rows)} is in {expected}"
            rejects.append({**ledger, "rule": "no_consistent_answer", "value": 0, "threshold": 1, "detail": detail})
            continue
        chosen = max(consistent, key=lambda row: row["reward"])
        losers = consistent if len(consistent) > 1 else others
        if not losers:
            rejects.append(
                {**ledger, "rule": "one_sample", "detail": "there is nothing to compare the only answer with"}
            )
            continue
        rejected = min(losers, key=lambda row: row["reward"])
        texts = {row["answer"] for row in losers}
        if losers is consistent and chosen["reward"] == rejected["reward"] and len(texts) > 1:
            rejects.append({**ledger, "rule": "equal_reward", "value": chosen["reward"], "detail": "none is better"})
        elif chosen["answer"] == rejected["answer"]:
            rejects.append({**ledger, "rule": "equal_text", "detail": "best and worst answer are the same text"})
        else:
            kept.append(
                {
                    "id": prompt_id,
                    "lang": first["lang"],
                    "prompt": first["prompt"],
                    "chosen": chosen["answer"],
                    "rejected": rejected["answer"],
                    "chosen_reward": float(chosen["reward"]),
                    "rejected_reward": float(rejected["reward"]),
                    "consistent": len(consistent),
                    "samples": len(rows),
                }
            )
    return kept, rejects


def validate(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """Pairs {"id", "lang", "prompt", "chosen", "rejected", …}: format checked, answers scrubbed, no equal texts."""
    kept, rejects, seen = [], [], set()
    for row in rows:
        pair_id = str(row.get("id"))
        ledger = {"doc_id": pair_id, "lang": row.get("lang")}
        found = fault(row.get("prompt"), ends_with="user")
        for side in ("chosen", "rejected"):
            if not found:
                # An answer is judged as the turn it would be.
                found = fault([{"role": "user", "content": "-"}, {"role": "assistant", "content": row.get(side)}])
        if found:
            rejects.append({**ledger, "rule": found[0], "detail": found[1]})
            continue
        if pair_id in seen:
            rejects.append({**ledger, "rule": "repeated_id", "detail": "an earlier pair has the same id"})
            continue
        chosen, rejected = scrub(row["chosen"]), scrub(row["rejected"])
        if not chosen or not rejected:
            rejects.append({**ledger, "rule": "empty_turn", "detail": "an answer is empty without its emoji"})
        elif chosen == rejected:
            rejects.append({**ledger, "rule": "equal_text", "detail": "both answers are the same text"})
        else:
            seen.add(pair_id)
            prompt = stripped(row["prompt"])
            kept.append({**row, "id": pair_id, "prompt": prompt, "chosen": chosen, "rejected": rejected})
    return kept, rejects


def cut_prompts(
    rows: list[dict], tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int
) -> tuple[list[dict], list[dict]]:
    """Rows with "prompt" of at most `max_prompt_tokens` ChatML tokens; longer ones are dropped, not cut (as in OAT)."""
    kept, rejects = [], []
    for row, ids in zip(rows, encode_prompts(tokenizer, [row["prompt"] for row in rows]), strict=True):
        if len(ids) <= max_prompt_tokens:
            kept.append(row)
        else:
            reason = {"rule": "prompt_too_long", "value": len(ids), "threshold": max_prompt_tokens}
            rejects.append({"doc_id": row["id"], "lang": row["lang"], **reason, "detail": "tokens of the prompt"})
    return kept, rejects


def pair_perplexity(model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> np.ndarray:
    """Perplexity of each pair's two answers together, given the prompt: exp(-log p / tokens) over both, float64."""
    examples = [
        example
        for side in ("chosen", "rejected")
        for example in encode_answers(tokenizer, rows, [row[side] for row in rows], score_end=False)
    ]
    logp = logprobs(model, examples).astype(np.float64).reshape(2, -1).sum(0)
    return np.exp(-logp / np.array([e.n_scored for e in examples], np.float64).reshape(2, -1).sum(0))


def drop_worst_perplexity(
    rows: list[dict], perplexities: np.ndarray, share: float = 0.1
) -> tuple[list[dict], list[dict]]:
    """Without the `share` of pairs of each language with the highest perplexity (bad translations), rounded down.

    Equal perplexities go by id. The threshold in the ledger is the highest perplexity that stayed in that language.
    """
    if not 0 <= share < 1:
        raise ValueError(f"The share of pairs to drop must be at least 0 and below 1, not {share}.")
    by_lang: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_lang.setdefault(row["lang"], []).append(i)
    threshold: dict[int, float] = {}
    for members in by_lang.values():
        ranked = sorted(members, key=lambda i: (perplexities[i], rows[i]["id"]))
        stay = len(ranked) - int(share * len(ranked))
        threshold |= {i: float(perplexities[ranked[stay - 1]]) for i in ranked[stay:]}
    kept = [row for i, row in enumerate(rows) if i not in threshold]
    rejects = [
        {
            "doc_id": rows[i]["id"],
            "lang": rows[i]["lang"],
            "rule": "perplexity",
            "value": float(perplexities[i]),
            "threshold": threshold[i],
            "detail": "of the answers under the base model",
        }
        for i in sorted(threshold)
    ]
    return kept, rejects
