"""Conversations in ChatML: validation, rendering, tokens, and which tokens are trained.

The format itself is `cluster.chatml`. What is trained of a conversation is what follows `<|im_start|>assistant` in every
assistant turn, up to and with the newline after `<|im_end|>`: token for token the mask of TRL's `assistant_only_loss`
with its training template for Qwen2.5 (`tests/equality/test_chat_equality.py`). Unlike Qwen's template, no system turn
is made up where there is none. Format rules: Sailor2 §5.1.
"""

from __future__ import annotations

import re

import numpy as np
from transformers import PreTrainedTokenizerBase

from cluster import document_tokens
from cluster.chatml import IM_END, IM_START
from train.batches.examples import Example

ROLES = ("system", "user", "assistant")

_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"<\|[A-Za-z0-9_]+\|>")


def fault(messages: object, ends_with: str = "assistant") -> tuple[str, str] | None:
    """(rule, detail) of the first format rule that a conversation breaks, or None.

    A list of {"role", "content"}: one system turn at most and only first, then user and assistant in strict
    alternation, the last turn by `ends_with`, no empty turn, no control token such as `<|im_end|>` inside a text.
    """
    if not isinstance(messages, list) or not messages:
        return "not_a_conversation", "messages is not a list of turns"
    expected = "user"
    for i, turn in enumerate(messages):
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            return "not_a_conversation", f"turn {i} is not an object with role and text content"
        role = turn.get("role")
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
    stays, since the id is what generation and selection are seeded and ordered by.
    """
    kept, rejects, seen = [], [], set()
    for row in rows:
        doc_id = str(row.get("id"))
        found = fault(row.get("messages"))
        if found is None and doc_id in seen:
            found = "repeated_id", "an earlier row has the same id"
        if found:
            rejects.append({"doc_id": doc_id, "lang": row.get("lang"), "rule": found[0], "detail": found[1]})
            continue
        seen.add(doc_id)
        kept.append({**row, "id": doc_id, "messages": stripped(row["messages"])})
    return kept, rejects


def stripped(messages: list[dict]) -> list[dict]:
    """The turns without white space around their texts."""
    return [{"role": turn["role"], "content": turn["content"].strip()} for turn in messages]


def render(messages: list[dict]) -> tuple[str, list[tuple[int, int]]]:
    """A conversation as ChatML text, and of each assistant turn the span of characters after its role to its end."""
    text, spans = "", []
    for turn in messages:
        text += f"{IM_START}{turn['role']}"
        start = len(text)
        text += f"\n{turn['content']}{IM_END}\n"
        if turn["role"] == "assistant":
            spans.append((start, len(text)))
    return text, spans


def encode(tokenizer: PreTrainedTokenizerBase, rows: list[dict], score: str = "turn") -> list[Example]:
    """Valid chat rows as examples. A token is scored when it lies in an assistant turn.

    `score="turn"`: newline, content, `<|im_end|>`, newline (what SFT trains). `score="content"`: the content alone
    (what a base model's perplexity is taken over: it has never seen the frame).
    """
    assert score in ("turn", "content")
    im_end_id(tokenizer)
    if not rows:
        return []
    rendered = [render(row["messages"]) for row in rows]
    tokens = tokenizer([text for text, _ in rendered], add_special_tokens=False, return_offsets_mapping=True)
    begin = document_tokens.begin(tokenizer)
    examples = []
    for row, (_, spans), ids, offsets in zip(
        rows, rendered, tokens["input_ids"], tokens["offset_mapping"], strict=True
    ):
        starts, ends = np.asarray(offsets, np.int64).T
        scored = np.zeros(len(ids), bool)
        for start, end in spans:
            if score == "content":
                start, end = start + 1, end - len(f"{IM_END}\n")
            scored[np.searchsorted(ends, start, "right") : np.searchsorted(starts, end, "left")] = True
        scored = np.concatenate([np.zeros(len(begin), bool), scored])
        examples.append(Example(row["id"], row["lang"], np.asarray([*begin, *ids], np.int64), scored))
    return examples


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[list[dict]]) -> list[list[int]]:
    """Tokens of conversations that end with a user turn, up to where the assistant's content begins."""
    if not prompts:
        return []
    texts = [f"{render(messages)[0]}{IM_START}assistant\n" for messages in prompts]
    begin = document_tokens.begin(tokenizer)
    return [begin + ids for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def encode_answers(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict], answers: list[str], score_end: bool = True
) -> list[Example]:
    """One example a row {"id", "lang", "prompt": messages}: its prompt, the answer and `<|im_end|>`.

    Scored are the answer's tokens and, with `score_end`, its `<|im_end|>`. Prompt and answer are tokenised apart, so
    all answers to a prompt begin with the same tokens, and they are the tokens that generation starts from.
    """
    end = im_end_id(tokenizer)
    prompts = encode_prompts(tokenizer, [row["prompt"] for row in rows])
    bodies = tokenizer(answers, add_special_tokens=False)["input_ids"] if answers else []
    examples = []
    for row, prompt, body in zip(rows, prompts, bodies, strict=True):
        ids = np.asarray([*prompt, *body, end], np.int64)
        scored = np.zeros(len(ids), bool)
        scored[len(prompt) : len(ids) if score_end else -1] = True
        examples.append(Example(row["id"], row["lang"], ids, scored))
    return examples


def im_end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of `<|im_end|>`. Raises ValueError when the tokenizer does not know ChatML."""
    vocabulary = tokenizer.get_vocab()
    if IM_START not in vocabulary or IM_END not in vocabulary:
        raise ValueError(f"The tokenizer has no {IM_START} and {IM_END} tokens; add them before training on chats.")
    return vocabulary[IM_END]
