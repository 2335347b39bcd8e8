"""A row of SEA-WildBench, or of one's own in any layout, as what is asked and judged.

the query    conversation_input (WildBench), or what `train.chat.formats` knows: messages, conversations, prompt, …
id           session_id (WildBench), id, uuid, …; else a hash of the query
categories   category (a text or a list), else primary_tag and secondary_tags
checklist    texts, or one text with an item a line; the item on the language is the judge's own and needs no row
reference    the answer to compare with, in `reference`, or the only one in `references`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from train.chat import formats
from train.chat.conversations import fault, plain
from train.tasks.categories import category

IDS = ("session_id", *formats.IDS)
OTHER = "other"  # the category of a row that names none
_ITEMS = "-*•·–—"


class RowError(ValueError):
    """A row that cannot be asked."""


class Asked(TypedDict):
    """`prompt`: messages that end with the user's; `reference` is None where another model gives it."""

    id: str
    lang: str
    prompt: list[dict]
    categories: list[str]
    checklist: list[str]
    reference: str | None


def asked(row: Mapping, lang: str, *, reference: bool, column: str | None = None) -> Asked:
    """`row`, in `lang`. `reference`: its answer is wanted, from `column` where that is given. Raises RowError."""
    prompt = _query(row)
    if found := fault(prompt, ends_with="user"):
        raise RowError(f"{found[0]}: {found[1]}")
    turns = plain(prompt or [])
    return {
        "id": str(formats.identity(dict(row), lang, turns, IDS)["id"]),
        "lang": lang,
        "prompt": turns,
        "categories": _categories(row),
        "checklist": _texts(row.get("checklist"), "checklist"),
        "reference": _reference(row, column) if reference else None,
    }


def _query(row: Mapping) -> list | None:
    unread: set[str] = set()
    for key in ("conversation_input", *formats.TURNS):
        value = row.get(key)
        named = key in ("conversation_input", *formats.LAYOUT)
        if isinstance(value, list | dict) and value and (named or formats.are_turns(value)):
            made = formats.turns(value, key, unread)
            return formats.with_system(dict(row), made, set()) if isinstance(made, list) else None
    made = formats.question(dict(row), set(), unread)
    return made and formats.with_system(dict(row), made, set())


def _categories(row: Mapping) -> list[str]:
    if row.get("category"):
        named = _texts(row["category"], "category")
    else:
        named = [*_texts(row.get("primary_tag"), "primary_tag"), *_texts(row.get("secondary_tags"), "secondary_tags")]
    return list(dict.fromkeys(map(category, named))) or [OTHER]


def _texts(value: object, key: str) -> list[str]:
    """A text of one item a line, or a list of texts, without empty ones."""
    if value is None:
        return []
    items = value.splitlines() if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(one, str) for one in items):
        raise RowError(f"{key} must be a text or a list of texts")
    return [cleaned for one in items if (cleaned := _writable(one).strip().lstrip(_ITEMS).strip())]


def _at(value: object, path: str) -> object:
    """What stands at a dotted path; names may have dots in them."""
    if not isinstance(value, Mapping):
        return None
    if path in value:
        return value[path]
    heads = (path[:i] for i, char in enumerate(path) if char == ".")
    return next((found for head in heads if (found := _at(value.get(head), path[len(head) + 1 :])) is not None), None)


def _reference(row: Mapping, column: str | None) -> str:
    value: object
    if column is not None:
        value, where = _at(row, column), column
    elif row.get("references") and row.get("reference") is None:
        value, where = row["references"], "references"
        if isinstance(value, Mapping):
            there = {name: text for name, text in value.items() if text}
            if len(there) > 1:
                raise RowError(
                    f"references has {', '.join(there)}; name one in reference_column, such as references.NAME"
                )
            value = next(iter(there.values()), None)
    else:
        value, where = row.get("reference"), "reference"
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{where} has no answer to compare with")
    return _writable(value).strip()


def _writable(text: str) -> str:
    """Without half a surrogate pair, which JSON allows and no file can hold."""
    return text.encode("utf-8", "replace").decode()
