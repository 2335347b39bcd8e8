"""The category of each chat row: its own, or by rules or a Python function that the recipe names.

Selection for SFT stage 2 works within each (language, category). Sailor2 lets a model sort chats into five (§5.1):
a function can do that, through any endpoint or embedding.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from cluster import user_code
from ray_jobs.config.alignment import ChatCategory

OTHERWISE = "general"

Classifier = Callable[[list[dict]], list[str]]
"""Chat rows {id, lang, messages, …} -> the name of the category of each."""


def classifier(settings: ChatCategory, folder: str) -> Classifier:
    """What the recipe asks for. `folder` is searched for the module of `function` first.

    Raises ValueError for a module or function that is not there.
    """
    if settings.function:
        function = user_code.function(settings.function, folder, "train.sft.data.category.function")
        return _checked(function, settings.function)
    if settings.rules:
        rules = {name: re.compile("|".join(f"(?:{p})" for p in ps), re.I) for name, ps in settings.rules.items()}
        return lambda rows: [_own(row, settings.key) or _by_rules(row, rules) for row in rows]
    return lambda rows: [_own(row, settings.key) or _own(row, "task") or OTHERWISE for row in rows]


def _own(row: dict, key: str) -> str | None:
    value = row.get(key)
    return str(value).encode("utf-8", "replace").decode() if value not in (None, "", []) else None


def _by_rules(row: dict, rules: dict[str, re.Pattern]) -> str:
    """The first category of which a pattern is found in a turn of the user."""
    asked = "\n".join(turn["content"] for turn in row["messages"] if turn["role"] == "user")
    return next((name for name, pattern in rules.items() if pattern.search(asked)), OTHERWISE)


def _checked(function: Callable, name: str) -> Classifier:
    def categories(rows: list[dict]) -> list[str]:
        found = list(function(rows)) if rows else []
        if len(found) != len(rows) or not all(isinstance(one, str) and one for one in found):
            raise ValueError(
                f"train.sft.data.category.function: {name} must return one name for each of {len(rows)} rows"
            )
        return found

    return categories
