"""Chat rows in the layouts that data sets come in, as {"id", "lang", "messages", …}.

    messages        [{"role", "content"}]                   OpenAI, Hugging Face, TRL
    conversations   [{"from", "value"}] (and "system")      ShareGPT; also [{"human": …, "assistant": …}]
    data            [text, text, …]                         UltraChat
    prompt, response (or completion)                        texts, or turns as TRL has them
    instruction, input, output (and system, history)        Alpaca; `history` is [[question, answer], …]
    instruction, context, response                          Dolly
    question, answer

Nothing is judged here: what a row has is put in place, and `train.chat.conversations.fault` then names what is wrong with it. A
key that decides about a turn (`train.chat.keys`) stays in it. Layouts of preference pairs: `train.chat.pair_formats`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import xxhash

from train.chat import keys
from train.chat.keys import ROLES

NAMES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "developer": "system",
}
"""Roles of ShareGPT and its kin, and what they are called here."""

TURNS = ("messages", "conversations", "conversation", "items", "dialogue", "dialog", "data")
SYSTEM = ("system", "system_prompt", "system_message")
ASKED = ("prompt", "instruction", "question", "query", "input", "inputs")
ANSWERED = ("response", "completion", "output", "answer", "targets")
MORE = ("input", "context")  # beside what is asked
IDS = ("id", "uuid", "prompt_id", "conversation_id")
LANGS = ("lang", "language")
READ = ("id", "category", "task")  # by what comes after

LAYOUT = frozenset(("messages", "conversations", "conversation", *SYSTEM, *ASKED, *ANSWERED, "history"))
_GONE = LAYOUT | {"id", *LANGS}
_ROLE, _CONTENT = ("role", "from"), ("content", "value", "text")


def row(raw: dict, lang: str | None = None, ignored: Counter[str] | None = None) -> dict:
    """`raw` with `id`, `lang` and `messages`; `messages` is None where no layout fits. Keys of a layout leave.

    `lang`: of rows that name none. An id that is missing is a hash of the turns. `category`, `task` and whatever else
    the row has stay. `ignored`: counts each key that says something and is not read, those of turns as "messages.KEY".
    """
    used: set[str] = set()
    unread: set[str] = set()
    messages = _messages(raw, used, unread)
    rest = {key: value for key, value in raw.items() if key not in _GONE and key not in used}
    if ignored is not None and not keys.of_row(raw):  # a key that refuses its row is not passed over
        ignored.update(unread | not_read(raw, used, IDS))
    return {**identity(raw, lang, messages, IDS), **rest, "messages": messages}


def identity(raw: dict, lang: str | None, content: object, ids: Sequence[str]) -> dict:
    """`id` and `lang` of a row as texts; `content` is hashed where none of `ids` names it."""
    found = next((raw[key] for key in ids if raw.get(key) not in (None, "")), None)
    named = raw.get("lang") or raw.get("language") or lang
    made = found if found is not None else digest(content)
    # Half a surrogate pair, which JSON allows, can be written nowhere; in a turn it is a fault, here it is replaced.
    made, named = (str(value).encode("utf-8", "replace").decode() for value in (made, named or ""))
    return {"id": made, "lang": named or None}


def not_read(raw: dict, used: set[str], ids: Sequence[str]) -> set[str]:
    """The keys of a row that say something, neither used nor deciding."""
    left = [key for key in raw if key not in used and key not in READ and not keys.decides_row(key)]
    left = [key for key in left if not keys.empty(raw[key])]
    for names in (ids, LANGS):
        if (found := next((name for name in names if raw.get(name)), None)) in left:
            left.remove(found)
    return {key.encode("utf-8", "replace").decode() for key in left}


def _messages(raw: dict, used: set[str], unread: set[str]) -> object:
    for key in TURNS:
        found = raw.get(key)
        if found is None or found in ([], {}, "") or (key not in LAYOUT and not are_turns(found)):
            continue
        used.add(key)
        made = turns(found, key, unread)
        return with_system(raw, made, used) if isinstance(made, list) else made
    asked, answered = _first(raw, ASKED), _first(raw, ANSWERED)
    if answered == "output" and _said(raw.get("instruction")):
        asked = "instruction"  # a `prompt` beside Alpaca's keys is the whole rendered, often with the answer
    if asked is None or answered is None:
        return None
    used |= {asked, answered}
    question = _asked(raw, asked, used, unread)
    answer = as_turns(raw[answered], "assistant", answered, unread)
    return with_system(raw, [*_history(raw, used), *question, *answer], used)


def _first(raw: dict, names: Sequence[str]) -> str | None:
    """The first of the keys that says something; else the first that is there."""
    there = [key for key in names if raw.get(key) is not None]
    return next((key for key in there if _said(raw[key])), there[0] if there else None)


def _said(value: object) -> bool:
    """Whether there is a text, or turns; "[]" and "{}" are texts."""
    return bool(value.strip()) if isinstance(value, str) else value not in (None, [], {})


def are_turns(value: object) -> bool:
    """Whether a value under a name that may mean anything holds turns; texts in turn are user and assistant."""
    return (
        isinstance(value, list)
        and len(value) > 1
        and (all(isinstance(one, str) for one in value) or all(isinstance(one, dict) and _roles(one) for one in value))
    )


def _asked(raw: dict, key: str, used: set[str], unread: set[str]) -> list:
    value = raw[key]
    if not isinstance(value, str):
        return as_turns(value, "user", key, unread)
    for more in MORE:
        beside = raw.get(more)
        if more == key or (keys.empty(beside) and not (isinstance(beside, str) and beside.strip() in ("[]", "{}"))):
            continue
        used.add(more)
        if not isinstance(beside, str):
            return [{"role": "user", "content": beside}]
        value = f"{value.rstrip()}\n\n{beside.strip()}"
    return [{"role": "user", "content": value}]


def question(raw: dict, used: set[str], unread: set[str]) -> list | None:
    """What a row asks, as turns: the user's, behind a history."""
    asked = next((key for key in ASKED if not keys.empty(raw.get(key))), None)
    if asked is None:
        return None
    used.add(asked)
    return [*_history(raw, used), *_asked(raw, asked, used, unread)]


def _history(raw: dict, used: set[str]) -> list[dict]:
    """Alpaca's [[question, answer], …]."""
    if keys.empty(history := raw.get("history")):
        return []
    used.add("history")
    pairs = history if isinstance(history, list) else [history]
    found = []
    for pair in pairs:
        if isinstance(pair, dict) and isinstance(made := turns([pair], "history", set()), list):
            found += made
        elif isinstance(pair, list) and len(pair) == 2:
            found += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        else:
            found.append({"role": "user", "content": None})  # so that the row is refused
    return found


def with_system(raw: dict, messages: list, used: set[str]) -> list:
    """`messages` behind the row's system text, where they have none of their own."""
    key = next((key for key in SYSTEM if not keys.empty(raw.get(key))), None)
    if key is None:
        return messages
    value = raw[key]
    value = value.get("content") if isinstance(value, dict) and "content" in value else value
    if messages and _role(messages[0]) == "system":
        if messages[0].get("content") == value:
            used.add(key)
        return messages
    used.add(key)
    return [{"role": "system", "content": keys.text_of(value)}, *messages]


def as_turns(value: object, role: str, key: str, unread: set[str]) -> list:
    """A list of turns, or one turn or its text by `role`."""
    if isinstance(value, dict | list) and isinstance(made := turns(value, key, unread), list):
        return made
    return [{"role": role, "content": value}]


def turns(value: object, key: str, unread: set[str]) -> object:
    """The turns of a list in any naming; what is no list stays as it is. `unread` gets the keys of turns that nobody reads."""
    if isinstance(value, dict):
        if isinstance(value.get("messages"), list):
            value = value["messages"]
        elif value and all(isinstance(column, list) for column in value.values()):
            # `datasets` gives a sequence of objects as an object of columns.
            value = [dict(zip(value, values, strict=False)) for values in zip(*value.values(), strict=False)]
        elif _roles(value):
            value = [value]
    if not isinstance(value, list):
        return value
    if key == "data" and all(isinstance(one, str) for one in value):
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(value)]
    found = []
    for one in value:
        found += _turn(one, key, unread)
    return found


def _roles(turn: dict) -> list[str]:
    """What names the roles in a turn: a key that holds one, or, as in [{"human": …, "assistant": …}], the roles themselves."""
    if any(turn.get(key) is not None for key in _ROLE):
        return [key for key in _ROLE if turn.get(key) is not None][:1]
    known = {_named(key): key for key in turn if isinstance(key, str) and not keys.empty(turn[key])}
    return [known[role] for role in ROLES if role in known]


def _turn(turn: object, key: str, unread: set[str]) -> list:
    """{"role", "content"} of a turn in either naming; parts of text are joined; of other keys those stay that decide."""
    if not isinstance(turn, dict):
        return [turn]
    if len(turn) == 2 and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str):
        return [{"role": _named(turn["role"]), "content": turn["content"]}]
    named = _roles(turn)
    if named and named[0] not in _ROLE:
        beside = {name: value for name, value in turn.items() if name not in named and not keys.empty(value)}
        deciding = {name: value for name, value in beside.items() if keys.decides(name)}
        unread.update(f"{key}.{name}" for name in beside if name not in deciding)
        several: list[dict] = [{"role": _named(name), "content": turn[name]} for name in named]
        if several[-1]["role"] == "assistant":
            several[-1] |= deciding
        else:
            unread.update(f"{key}.{name}" for name in deciding)
        return several
    role = _named(turn[named[0]]) if named else None
    read = next((one for one in _CONTENT if turn.get(one) is not None), "content")
    made = {"role": role, "content": keys.text_of(turn.get(read))}
    for name, value in turn.items():
        if name == read or name in named or keys.empty(value):
            continue
        if keys.decides(name):
            made[name] = value
            if role != "assistant" and keys.is_weight(name) and keys.yes(value) is not False:
                unread.add(f"{key}.{name}")  # only what the assistant says is trained
        elif name not in ("role", "content"):
            unread.add(f"{key}.{str(name).encode('utf-8', 'replace').decode()}")
    return [made]


def _named(role: object) -> object:
    return NAMES.get(role.lower(), role.lower()) if isinstance(role, str) else role


def _role(turn: object) -> object:
    return turn.get("role") if isinstance(turn, dict) else None


def digest(content: object) -> str:
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, default=str)
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "replace"))
