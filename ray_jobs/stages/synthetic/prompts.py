"""Prompts as data files: `NAME.yaml` with `prompt`, in which {text} stands for the document, and {language} and
{source_language} for names of languages; and `length`, the bounds of a text's length as a share of its document's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from cluster import storage
from curation.policy.keys import nearest
from ray_jobs.errors import UserError
from ray_jobs.run import files

SHIPPED = Path(__file__).parent / "prompts"
PLACEHOLDERS = ("text", "language", "source_language")
LENGTH = (0.2, 3.0)
_PLACE = re.compile(r"\{(\w+)\}")


class Prompt(NamedTuple):
    """`digest`: 16 hex digits of what is asked; `length`: least and most of a text, as a share of its document."""

    name: str
    text: str
    length: tuple[float, float]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def filled(self, text: str, language: str, source_language: str) -> str:
        """What the model is asked. What a document has in braces stays as it is.

        >>> Prompt("p", "In {language}: {text}", LENGTH).filled("a {language}", "Lao", "English")
        'In Lao: a {language}'
        """
        values = {"text": text, "language": language, "source_language": source_language}
        return _PLACE.sub(lambda place: values[place[1]], self.text)

    @property
    def instructions(self) -> list[str]:
        """The pieces that stand in every request."""
        return [piece for piece in _PLACE.sub("\0", self.text).split("\0") if piece.strip()]


def read(patterns: Sequence[str]) -> dict[str, Prompt]:
    """The shipped prompts by name, and those of the user's files, which go before. Raises UserError."""
    uris = [str(path) for path in sorted(SHIPPED.glob("*.yaml"))]
    uris += files.named(list(patterns), "synthesize.prompts") if patterns else []
    return {prompt.name: prompt for prompt in map(_read, uris)}


def named(name: str, known: dict[str, Prompt], task: str, *, translates: bool) -> Prompt:
    """Raises UserError for a prompt that is not there, and for one without a place that the task needs."""
    if name not in known:
        raise UserError(
            f"synthesize: task {task}: there is no prompt {name!r}{nearest(name, list(known))}; there are "
            f"{', '.join(sorted(known))}, and synthesize.prompts names files of your own"
        )
    if translates and "{language}" not in known[name].text:
        raise UserError(
            f"synthesize: task {task}: the prompt {name} has no {{language}}, so the model would not learn which language "
            "it is to write; put it in, or take `to` out"
        )
    return known[name]


def _read(uri: str) -> Prompt:
    try:
        values = yaml.safe_load(storage.read_bytes(uri))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"synthesize.prompts: {uri} is not YAML: {str(error).splitlines()[0]}") from None
    text = values.get("prompt") if isinstance(values, dict) else None
    if not isinstance(text, str):
        raise UserError(f"synthesize.prompts: {uri} needs `prompt`, a text")
    if other := sorted(values.keys() - {"prompt", "length"}):
        raise UserError(f"synthesize.prompts: {uri}: unknown key {other[0]!r}; a prompt has `prompt` and `length`")
    if unknown := sorted(set(_PLACE.findall(text)) - set(PLACEHOLDERS)):
        raise UserError(
            f"synthesize.prompts: {uri}: nothing is known of {{{unknown[0]}}}; places are {{{'}, {'.join(PLACEHOLDERS)}}}"
        )
    if "{text}" not in text:
        raise UserError(f"synthesize.prompts: {uri} has no {{text}}, where the document is put")
    length = values.get("length", list(LENGTH))
    numbers = isinstance(length, list) and len(length) == 2 and all(type(one) in (int, float) for one in length)
    if not numbers or not 0 <= length[0] < length[1]:
        raise UserError(f"synthesize.prompts: {uri}: `length` must be [least, most], such as [0.4, 2.5]")
    return Prompt(uri.rsplit("/", 1)[-1].rsplit(".", 1)[0], text.strip(), (float(length[0]), float(length[1])))
