"""Preference pairs: from sampled answers with rewards, or from pairs that exist already; and what is dropped of them.

Language-consistency verifier (Sailor2 §5.2): an answer is consistent when its language is the prompt's.
Of a prompt's samples with
  two consistent or more    the best and the worst of them by reward are chosen and rejected;
  exactly one               it is chosen, against the inconsistent one of lowest reward;
  none                      the prompt is dropped.
For a prompt that asks for a translation every answer counts as consistent. Before that, of equal answers the first stays, and
empty ones go. An answer that was cut off is never chosen; as the rejected one it says "rejected_finished": False, and its end is
not scored.

Every function gives (what stays, ledger rows {doc_id, lang, rule, value, threshold, detail} of what does not).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from itertools import groupby

import numpy as np
from transformers import PreTrainedTokenizerBase

from train.chat import pair_formats
from train.chat.conversations import encode_prompts, fault, plain, render
from train.chat.scrub import scrub

# How a translation is asked for; left out is what is also a part of other words (Thai strange, Lao eight, Vietnamese service).
_TRANSLATE = re.compile(
    r"translat|terjemah|tarjamah|narjamah|jarwak|pertalan|翻译|翻譯|译成|譯成|譯為|译为|"
    r"phiên dịch|bản dịch|biên dịch|dịch (?:sang|ra|thuật|câu|đoạn|văn bản|từ|bài)|"
    r"แปล(?![กง])|ແປ(?![ກງດວ])|បកប្រែ|ဘာသာပြန်|மொழிபெயர்|"
    r"\b(?:isalin|isasalin|pagsasalin|salinwika|ihubad|ighubad|paghubad|hubara|ipatarus|patarusem)",
    re.IGNORECASE,
)


def is_translation(row: dict) -> bool:
    """Whether a row asks for a translation, by its task's name or the words of its prompt's last turn (of any user turn of a
    conversation): then its answer is in another language by right, and it is exempt from the language check."""
    if str(row.get("task") or "").startswith("translat"):
        return True
    turns = row["prompt"][-1:] if "prompt" in row else [turn for turn in row["messages"] if turn["role"] == "user"]
    return any(_TRANSLATE.search(turn["content"]) for turn in turns)


def pairs(
    samples: list[dict], language: Callable[[str], str], exempt: Callable[[dict], bool] = is_translation
) -> tuple[list[dict], list[dict]]:
    """Pairs {"id", "lang", "prompt", "chosen", "rejected", both rewards, "consistent", "samples"}.

    `samples`: rows {"id", "lang", "prompt", "sample", "answer", "reward", …}, those of a prompt next to one another.
    `language(text)` names a text's language; the prompt's is that of its last turn. `consistent` is the number of
    consistent answers. Ties in reward go to the earlier sample.

    In the ledger are prompts without a pair (no_answer, no_consistent_answer, unfinished, one_sample, equal_reward), and
    samples that could not be part of one, as "prompt's id#number" (empty_answer, no_reward, equal_answer, other_language).
    """
    kept, rejects = [], []
    for prompt_id, found in groupby(samples, key=lambda row: row["id"]):
        group = list(found)
        ledger = {"doc_id": prompt_id, "lang": group[0]["lang"]}
        rows, faults = _distinct(group)
        rejects += [{**ledger, **_of(row), **fault} for row, fault in faults]
        if not rows:
            rejects.append({**ledger, "rule": "no_answer", "detail": "every sample is empty or has no reward"})
            continue
        expected = language(rows[0]["prompt"][-1]["content"])
        named = [expected if exempt(row) else language(row["answer"]) for row in rows]
        consistent = [row for row, lang in zip(rows, named, strict=True) if lang == expected]
        others = [(row, lang) for row, lang in zip(rows, named, strict=True) if lang != expected]
        losers = consistent if len(consistent) > 1 else [row for row, _ in others]
        # An answer that was cut off has no end of its own: it may be the worse one, never the one to learn from.
        chosen = max((row for row in consistent if _finished(row)), key=_reward, default=None)
        rejected = min(losers, key=_reward, default=None)
        for row, lang in others:
            if chosen is None or row is not rejected:
                detail = f"the answer is in {lang}, not in {expected}"
                rejects.append({**ledger, **_of(row), "rule": "other_language", "detail": detail})
        if chosen is None and consistent:
            detail = f"every answer in {expected} was cut off at max_new_tokens"
            rejects.append({**ledger, "rule": "unfinished", "value": 0, "threshold": 1, "detail": detail})
        elif chosen is None:
            detail = f"no answer of {len(rows)} is in {expected}"
            rejects.append({**ledger, "rule": "no_consistent_answer", "value": 0, "threshold": 1, "detail": detail})
        elif rejected is None:
            detail = "there is nothing to compare the only answer with"
            rejects.append({**ledger, "rule": "one_sample", "value": 1, "threshold": 2, "detail": detail})
        elif losers is consistent and chosen["reward"] == rejected["reward"]:
            if any(row["reward"] > chosen["reward"] for row in consistent):
                rule, detail = "unfinished", "only answers that were cut off at max_new_tokens have a higher reward"
            else:
                rule, detail = "equal_reward", "no answer has a higher reward than another"
            rejects.append({**ledger, "rule": rule, "value": float(chosen["reward"]), "detail": detail})
        else:
            ended = {} if _finished(rejected) else {"rejected_finished": False}
            kept.append(
                {
                    "id": prompt_id,
                    "lang": chosen["lang"],
                    "prompt": chosen["prompt"],
                    "chosen": chosen["answer"],
                    "rejected": rejected["answer"],
                    "chosen_reward": float(chosen["reward"]),
                    "rejected_reward": float(rejected["reward"]),
                    "consistent": len(consistent),
                    "samples": len(rows),
                    **ended,
                }
            )
    return kept, rejects


def _finished(row: dict) -> bool:
    return row.get("finished", True)


def _reward(row: dict) -> float:
    return row["reward"]


def _of(sample: dict) -> dict:
    return {"doc_id": f"{sample['id']}#{sample['sample']}"}


def _distinct(group: list[dict]) -> tuple[list[dict], list[tuple[dict, dict]]]:
    """A prompt's samples that say something, each text once; and the others, each with the reason."""
    first: dict[str, dict] = {}
    faults = []
    for row in group:
        if not row["answer"].strip():
            reason = {"rule": "empty_answer", "detail": "the answer is empty"}
        elif not math.isfinite(row["reward"]):
            reason = {"rule": "no_reward", "detail": f"the reward model gave {row['reward']}"}
        elif row["answer"] in first:
            reason = {"rule": "equal_answer", "detail": f"sample {first[row['answer']]['sample']} is the same text"}
        else:
            first[row["answer"]] = row
            continue
        faults.append((row, reason))
    return list(first.values()), faults


def validate(
    rows: list[dict], lang: str | None = None, ignored: Counter[str] | None = None
) -> tuple[list[dict], list[dict]]:
    """Pairs of any layout (`train.chat.pair_formats`) as {"id", "lang", "prompt", "chosen", "rejected", …}: format checked,
    answers scrubbed, no equal texts. `lang`: of rows that name none; `ignored`: counts the keys that nobody reads.

    "scrubbed" says of what stays whether emoji or stray formatting were taken out of an answer.
    """
    kept, rejects, seen, pairs_seen = [], [], set(), set()
    for raw in rows:
        row, found = pair_formats.pair(raw, lang, ignored)
        ledger = {"doc_id": row["id"], "lang": row["lang"]}
        found = found or fault(row["prompt"], ends_with="user")
        for side in ("chosen", "rejected"):
            if not found:
                # An answer is judged as the turn it would be.
                found = fault([{"role": "user", "content": "-"}, {"role": "assistant", "content": row[side]}])
        if found:
            rejects.append({**ledger, "rule": found[0], "detail": found[1]})
            continue
        if row["id"] in seen:
            rejects.append({**ledger, "rule": "repeated_id", "detail": "an earlier pair has the same id"})
            continue
        chosen, rejected = scrub(row["chosen"]), scrub(row["rejected"])
        if not chosen or not rejected:
            rejects.append({**ledger, "rule": "empty_turn", "detail": "an answer is empty without its emoji"})
        elif chosen == rejected:
            rejects.append({**ledger, "rule": "equal_text", "detail": "both answers are the same text"})
        elif (pair := (render(row["prompt"])[0], chosen, rejected)) in pairs_seen:
            rejects.append({**ledger, "rule": "repeated_pair", "detail": "an earlier pair is the same but for its id"})
        else:
            seen.add(row["id"])
            pairs_seen.add(pair)
            scrubbed = (chosen, rejected) != (row["chosen"].strip(), row["rejected"].strip())
            own = {"prompt": plain(row["prompt"]), "chosen": chosen, "rejected": rejected}
            kept.append({**row, **own, "scrubbed": scrubbed})
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
