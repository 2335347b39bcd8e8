"""Conversations in ChatML: validation, rendering, and which of their tokens are trained.

The format itself is `cluster.chatml`, the tokens are those of `train.chat.tokens`. What is trained of a conversation is what
follows `<|im_start|>assistant` in every assistant turn that its set does not keep out (`train.chat.keys`), up to and with the
newline after `<|im_end|>`: token for token the mask of TRL's `assistant_only_loss` with its training template for Qwen2.5
(`tests/equality/test_chat_equality.py`). Unlike Qwen's template, no system turn is made up where there is none. Format rules:
Sailor2 §5.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from cluster.chatml import IM_END, IM_START
from train.batches.examples import Example
from train.chat import keys, tokens
from train.chat.keys import ROLES

READ = {"train": False}  # in a turn of the assistant that is only read
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"<\|[A-Za-z0-9_]+\|>")


def fault(messages: object, ends_with: str = "assistant") -> tuple[str, str] | None:
    """(rule, detail) of the first format rule that a conversation breaks, or None.

    A list of {"role", "content"}: one system turn at most and only first, then user and assistant in strict
    alternation, the last turn by `ends_with`, no empty turn, none that says more than its text (`train.chat.keys`), no piece
    of a rendered chat such as `<|im_end|>` inside a text.
    """
    if not isinstance(messages, list) or not messages:
        return "not_a_conversation", "messages is not a list of turns"
    expected = "user"
    for i, turn in enumerate(messages):
        if not isinstance(turn, dict):
            return "not_a_conversation", f"turn {i} is not an object with role and text content"
        role = turn.get("role")
        if keys.by_tool(role):
            return "tool_call", f"turn {i} is by {role}"
        if found := keys.of_turn(turn):
            return found[0], f"turn {i} ({role!r}) {found[1]}"
        if not isinstance(turn.get("content"), str):
            return "not_a_conversation", f"turn {i} is not an object with role and text content"
        if role not in ROLES:
            return "unknown_role", f"turn {i} has role {role!r}"
        if not turn["content"].strip():
            return "empty_turn", f"turn {i} ({role}) is empty"
        if not turn["content"].isascii() and _SURROGATE.search(turn["content"]):
            return "broken_unicode", f"turn {i} ({role}) has half of a surrogate pair"
        if control := _CONTROL.search(turn["content"]):
            return "control_token", f"turn {i} ({role}) contains {control.group()}"
        if role == "system":
            if i:
                return "system_not_first", f"turn {i} is a system turn"
        elif role != expected:
            return "roles_do_not_alternate", f"turn {i} is by {role}, not by {expected}"
        else:
            expected = "assistant" if role == "user" else "user"
    if messages[-1]["role"] != ends_with:
        return "wrong_last_turn", f"the last turn is by {messages[-1]['role']}, not by {ends_with}"
    return None


def validate(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """Chat rows {"id", "lang", "messages", …} as (rows that keep the format, ledger rows {doc_id, lang, rule, detail}).

    White space around a turn is cut, for it would be merged into the tokens of the frame. Of rows with one id the first
    stays, since the id is what generation and selection are seeded and ordered by. A row without a turn to train goes.
    """
    kept, rejects, seen = [], [], set()
    for row in rows:
        doc_id = str(row.get("id"))
        found = _of_row(row) or fault(row.get("messages"))
        if found is None and not any(map(scored, row["messages"])):
            found = "nothing_trained", "no turn of the assistant is to be trained"
        if found is None and doc_id in seen:
            found = "repeated_id", "an earlier row has the same id"
        if found:
            rejects.append({"doc_id": doc_id, "lang": row.get("lang"), "rule": found[0], "detail": found[1]})
            continue
        seen.add(doc_id)
        kept.append({**row, "id": doc_id, "messages": stripped(row["messages"])})
    return kept, rejects


def _of_row(row: dict) -> keys.Fault | None:
    if keys.yes(row.get("label")) is False and isinstance(row.get("label"), bool | str):
        return "kto_label", "label says that the answer is a bad one (KTO)"
    return keys.of_row(row)


def stripped(messages: list[dict]) -> list[dict]:
    """The turns without white space around their texts; one that is only read says so by `"train": False`."""
    return [
        made | (READ if turn["role"] == "assistant" and not keys.trained(turn) else {})
        for turn, made in zip(messages, plain(messages), strict=True)
    ]


def scored(turn: dict) -> bool:
    """Whether a turn is one that SFT trains."""
    return turn["role"] == "assistant" and keys.trained(turn)


def up_to_trained(messages: list[dict]) -> list[dict]:
    """The turns up to the last that is trained: what of a conversation can be judged by its end."""
    last = max((i for i, turn in enumerate(messages) if scored(turn)), default=len(messages) - 1)
    return plain(messages[: last + 1])


def plain(messages: list[dict]) -> list[dict]:
    """The turns as {"role", "content"}, without white space around their texts."""
    return [{"role": turn["role"], "content": turn["content"].strip()} for turn in messages]


def render(messages: list[dict]) -> tuple[str, list[tuple[int, int]]]:
    """A conversation as ChatML text, and of each turn that is trained the span of characters after its role to its end."""
    text, spans = "", []
    for turn in messages:
        text += f"{IM_START}{turn['role']}"
        start = len(text)
        text += f"\n{turn['content']}{IM_END}\n"
        if scored(turn):
            spans.append((start, len(text)))
    return text, spans


def encode(tokenizer: PreTrainedTokenizerBase, rows: list[dict], score: str = "turn") -> list[Example]:
    """Valid chat rows as examples. A token is scored when it lies in an assistant turn that is trained.

    `score="turn"`: newline, content, `<|im_end|>`, newline (what SFT trains). `score="content"`: the content alone
    (what a base model's perplexity is taken over: it has never seen the frame).
    """
    assert score in ("turn", "content")
    found = _turns(tokenizer, [row["messages"] for row in rows])
    examples = []
    for row, made in zip(rows, found, strict=True):
        ids, parts = _laid(tokenizer, made)
        is_scored = np.zeros(len(ids), bool)
        for turn, (start, one) in zip(row["messages"], parts, strict=True):
            if scored(turn):
                first, last = (one.content, one.end) if score == "content" else (one.role, len(one.ids))
                is_scored[start + first : start + last] = True
        examples.append(Example(row["id"], row["lang"], ids, is_scored))
    return examples


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[list[dict]]) -> list[list[int]]:
    """Tokens of conversations that end with a user turn, up to where the assistant's content begins."""
    opening = tokens.frame(tokenizer).opening if prompts else []
    return [[*_laid(tokenizer, made)[0].tolist(), *opening] for made in _turns(tokenizer, prompts)]


def encode_answers(
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    answers: list[str],
    score_end: bool | Sequence[bool] = True,
    newline: bool = False,
) -> list[Example]:
    """One example a row {"id", "lang", "prompt": messages}: its prompt, the answer and `<|im_end|>`, as `encode` has them.

    Scored are the answer's tokens and, with `score_end` (of all or of each), its `<|im_end|>`. All answers to a prompt begin
    with the tokens that generation starts from. `newline`: with what follows `<|im_end|>`, as in a conversation.
    """
    talks = [[*row["prompt"], {"role": "assistant", "content": text}] for row, text in zip(rows, answers, strict=True)]
    ends = [score_end] * len(rows) if isinstance(score_end, bool) else score_end
    examples = []
    for row, made, end in zip(rows, _turns(tokenizer, talks), ends, strict=True):
        ids, parts = _laid(tokenizer, made)
        start, answer = parts[-1]
        is_scored = np.zeros(len(ids), bool)
        is_scored[start + answer.content : start + answer.end + end] = True
        n = len(ids) if newline else start + answer.end + 1
        examples.append(Example(row["id"], row["lang"], ids[:n], is_scored[:n]))
    return examples


def _turns(tokenizer: PreTrainedTokenizerBase, talks: list[list[dict]]) -> list[list[tokens.Turn]]:
    """The tokens of every turn of conversations, made in one call."""
    if not talks:
        return []
    found = iter(tokens.turns(tokenizer, [(turn["role"], turn["content"]) for talk in talks for turn in talk]))
    return [[next(found) for _ in talk] for talk in talks]


def _laid(
    tokenizer: PreTrainedTokenizerBase, made: list[tokens.Turn]
) -> tuple[np.ndarray, list[tuple[int, tokens.Turn]]]:
    """Turns end to end, behind what begins a document: (tokens, where each turn begins)."""
    ids = list(tokens.frame(tokenizer).begin)
    parts = []
    for turn in made:
        parts.append((len(ids), turn))
        ids += turn.ids
    return np.asarray(ids, np.int64), parts
