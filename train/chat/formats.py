"""Chat rows in the layouts that data sets come in, as {"id", "lang", "messages", …}.

    messages        [{"role", "content"}]                   OpenAI, Hugging Face, TRL
    conversations   [{"from", "value"}] (and "system")      ShareGPT
    prompt, response (or completion)                        texts, or turns as TRL has them
    instruction, input, output (and system, history)        Alpaca; `history` is [[question, answer], …]

Nothing is judged here: what a row has is put in place, and `train.chat.conversations.fault` then names what is wrong with it.
"""

from __future__ import annotations

import json

import xxhash

NAMES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
"""Roles of ShareGPT and its kin, and what they are called here."""

LAYOUT = (
    "messages",
    "conversations",
    "conversation",
    "prompt",
    "response",
    "completion",
    "instruction",
    "input",
    "output",
    "history",
    "system",
    "system_prompt",
)


def row(raw: dict, lang: str | None = None) -> dict:
    """`raw` with `id`, `lang` and `messages`; `messages` is None where no layout fits. Keys of a layout leave.

    `lang`: of rows that name none. An id that is missing is a hash of the turns. `category`, `task` and whatever else
    the row has stay.
    """
    messages = _messages(raw)
    rest = {key: value for key, value in raw.items() if key not in LAYOUT and key not in ("id", "lang", "language")}
    found = next(
        (raw[key] for key in ("id", "uuid", "prompt_id", "conversation_id") if raw.get(key) not in (None, "")), None
    )
    named = raw.get("lang") or raw.get("language") or lang
    made = found if found is not None else _digest(messages)
    # Half a surrogate pair, which JSON allows, can be written nowhere; in a turn it is a fault, here it is replaced.
    made, named = (str(value).encode("utf-8", "replace").decode() for value in (made, named or ""))
    return {"id": made, "lang": named or None, **rest, "messages": messages}


def _messages(raw: dict) -> object:
    for key in ("messages", "conversations", "conversation"):
        if raw.get(key) is not None:
            turns = raw[key]
            if isinstance(turns, dict) and turns and all(isinstance(column, list) for column in turns.values()):
                # `datasets` gives a sequence of objects as an object of columns.
                turns = [dict(zip(turns, values, strict=False)) for values in zip(*turns.values(), strict=False)]
            if not isinstance(turns, list):
                return turns
            turns = [_turn(turn) for turn in turns]
            return [*_system(raw), *turns] if not (turns and _role(turns[0]) == "system") else turns
    answer = next((raw[key] for key in ("response", "completion") if raw.get(key) is not None), None)
    if raw.get("prompt") is not None and answer is not None:
        prompt = _as_turns(raw["prompt"], "user")
        return [
            *([] if prompt and _role(prompt[0]) == "system" else _system(raw)),
            *prompt,
            *_as_turns(answer, "assistant"),
        ]
    if raw.get("instruction") is not None and raw.get("output") is not None:
        asked = raw["instruction"]
        if isinstance(asked, str) and isinstance(raw.get("input"), str) and raw["input"].strip():
            asked = f"{asked.rstrip()}\n\n{raw['input'].strip()}"
        history = raw["history"] if isinstance(raw.get("history"), list) else []
        before = [
            turn
            for pair in history
            if isinstance(pair, list) and len(pair) == 2
            for turn in ({"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]})
        ]
        last = [{"role": "user", "content": asked}, {"role": "assistant", "content": raw["output"]}]
        return [*_system(raw), *before, *last]
    return None


def _system(raw: dict) -> list[dict]:
    text = raw.get("system") or raw.get("system_prompt")
    return [{"role": "system", "content": text}] if isinstance(text, str) and text.strip() else []


def _as_turns(value: object, role: str) -> list:
    return [_turn(turn) for turn in value] if isinstance(value, list) else [{"role": role, "content": value}]


def _turn(turn: object) -> object:
    """{"role", "content"} of a turn in either naming; parts of text are joined; keys beside these two leave."""
    if not isinstance(turn, dict):
        return turn
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "\n".join(str(part.get("text", "")) for part in content)
    if isinstance(role, str):
        role = NAMES.get(role.lower(), role.lower())
    return {"role": role, "content": content}


def _role(turn: object) -> object:
    return turn.get("role") if isinstance(turn, dict) else None


def _digest(messages: object) -> str:
    text = json.dumps(messages, ensure_ascii=False, sort_keys=True, default=str)
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "replace"))
