"""What prompts of long-context tasks say in each language (templates.yaml)."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import NamedTuple

import yaml


class Templates(NamedTuple):
    """Of one language. `{key}`, `{value}`, … stand for what is asked; `needle` and `variable` end in a value."""

    intro: str  # before the text
    needle: str
    ask: str
    ask_all: str  # of a key with several values
    none: str  # the answer where the key is not in the text
    variable: str
    ask_variables: str
    variables: str  # what the answer begins with
    ask_text: str  # before the texts of a question about one of them
    ask_summary: str
    summary: str  # what the summary begins with
    keys: tuple[str, ...]  # common nouns

    def stub(self, key: str) -> tuple[str, str]:
        """(what the answer begins with, the needle's own words; what stands between it and the value)."""
        before = self.needle.partition("{value}")[0].format(key=key)
        return before.rstrip(), before[len(before.rstrip()) :]


@cache
def _all() -> dict[str, Templates]:
    found = yaml.safe_load(resources.files(__package__).joinpath("templates.yaml").read_text("utf-8"))
    return {lang: Templates(**{**one, "keys": tuple(one["keys"].split())}) for lang, one in found.items()}


def languages() -> list[str]:
    """Those that have templates."""
    return list(_all())


def of(lang: str) -> Templates:
    return _all()[lang]
