"""Pairs as documents to train on: with an instruction, without one, and as paragraphs in turn, in both directions.

What becomes of a pair follows from hashes of its id and place, so it is the same on every engine and after every restart, and
does not change when other pairs leave. A block of consecutive pairs of a file (by their places, also where some have left) is
one document of the share `interleaved` of the time: first pair in both languages, then the next. Otherwise each pair is a
document of its own, with an instruction or without.

A document has the id of its first pair; `pairs` are all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import xxhash

from cluster import strict_yaml

FORMATS = ("instruction", "plain", "interleaved")
BATCH_ROWS = 512

DOCUMENT = pa.schema(
    [
        ("doc_id", pa.string()),
        ("lang", pa.string()),
        ("pair", pa.string()),
        ("url", pa.string()),
        ("source", pa.string()),
        ("source_id", pa.string()),
        ("licence", pa.string()),
        ("format", pa.string()),
        ("direction", pa.string()),
        ("template", pa.string()),
        ("pairs", pa.list_(pa.string())),
        ("text", pa.string()),
    ]
)
"""A document of parallel text. `lang` is the language that it ends in, `pair` its languages in the order of the alphabet."""


@dataclass(frozen=True)
class Template:
    """`name` is language and number; `text` has {source}, {target}, {source_language} and {target_language}."""

    name: str
    text: str
    languages: dict[str, str]


def templates(folder: str | None = None) -> dict[str, list[Template]]:
    """Language -> the templates that are written in it: those shipped, or of a local folder of `<language>.yaml`.

    Raises ValueError for a file that is none."""
    root = Path(folder) if folder else Path(str(files("curation.parallel") / "templates"))
    found: dict[str, list[Template]] = {}
    for path in sorted(root.glob("*.yaml")):
        values = strict_yaml.read(path, "file of templates")
        names, texts = values.get("languages"), values.get("templates")
        if (
            set(values) != {"languages", "templates"}
            or not isinstance(names, dict)
            or not isinstance(texts, list)
            or not texts
        ):
            raise ValueError(
                f"{path}: a file of templates has `languages` (code: name) and `templates` (a list of texts)"
            )
        for number, text in enumerate(texts):
            if not isinstance(text, str) or text.count("{source}") != 1 or text.count("{target}") != 1:
                raise ValueError(f"{path}: template {number + 1} must hold {{source}} and {{target}} once each")
            if text.index("{source}") > text.index("{target}"):
                raise ValueError(f"{path}: template {number + 1} has the translation before the text")
            made = Template(f"{path.stem}-{number + 1}", text, names)
            found.setdefault(path.stem, []).append(made)
    if not found:
        raise ValueError(f"parallel.templates: {root} holds no <language>.yaml")
    return found


class Writer:
    """Makes documents of pairs. `shares` of the formats; `block`: consecutive pairs of a document of paragraphs."""

    def __init__(self, shares: dict[str, float], block: int, known: dict[str, list[Template]]) -> None:
        total = sum(shares.get(name, 0.0) for name in FORMATS)
        self.shares = {name: shares.get(name, 0.0) / total for name in FORMATS}
        self.block = block
        self.known = known

    def documents(self, pairs: Iterable[dict]) -> Iterator[dict]:
        """The `DOCUMENT` rows of `PAIR` rows, which are in the order of their files."""
        for (source, file, number), block in groupby(
            pairs, lambda one: (one["source"], one["file"], one["position"] // self.block)
        ):
            if chance(f"{source}\n{file}\n{number}", "block") < self.shares["interleaved"]:
                yield self._interleaved(list(block))
            else:
                yield from map(self._alone, block)

    def _alone(self, pair: dict) -> dict:
        first, second = _directed(pair, pair["doc_id"])
        rest = self.shares["instruction"] + self.shares["plain"]
        told = rest > 0 and chance(pair["doc_id"], "format") < self.shares["instruction"] / rest
        if not told:
            text = f"{pair[f'text_{first}']}\n{pair[f'text_{second}']}"
            return _document([pair], "plain", "", (first, second), text)
        template = self._template(pair["doc_id"], pair[f"lang_{first}"], pair[f"lang_{second}"])
        values = {
            "source": pair[f"text_{first}"],
            "target": pair[f"text_{second}"],
            "source_language": template.languages.get(pair[f"lang_{first}"], pair[f"lang_{first}"]),
            "target_language": template.languages.get(pair[f"lang_{second}"], pair[f"lang_{second}"]),
        }
        return _document([pair], "instruction", template.name, (first, second), filled(template.text, values))

    def _interleaved(self, pairs: list[dict]) -> dict:
        first, second = _directed(pairs[0], f"{pairs[0]['file']}\n{pairs[0]['position'] // self.block}")
        text = "\n\n".join(f"{one[f'text_{first}']}\n{one[f'text_{second}']}" for one in pairs)
        return _document(pairs, "interleaved", "", (first, second), text)

    def _template(self, doc_id: str, source: str, target: str) -> Template:
        """One that is written in a language of the pair, or in English; in that of all where there is none of these."""
        asked = [lang for lang in sorted({source, target, "en"}) if lang in self.known] or sorted(self.known)
        mine = self.known[asked[int(chance(doc_id, "language") * len(asked))]]
        return mine[int(chance(doc_id, "template") * len(mine))]


def filled(template: str, values: dict[str, str]) -> str:
    """The template with each {name} replaced once; braces within a value stay."""
    for name in ("source_language", "target_language"):
        template = template.replace(f"{{{name}}}", values[name])
    before, _, rest = template.partition("{source}")
    between, _, after = rest.partition("{target}")
    return f"{before}{values['source']}{between}{values['target']}{after}"


def chance(key: str, what: str) -> float:
    """A number in [0, 1) that a key has for one choice."""
    return xxhash.xxh3_64_intdigest(f"{what}\n{key}".encode()) / 2**64


def _directed(pair: dict, key: str) -> tuple[str, str]:
    return ("a", "b") if chance(f"{pair['source']}\n{key}", "direction") < 0.5 else ("b", "a")


def _document(pairs: list[dict], kind: str, template: str, sides: tuple[str, str], text: str) -> dict:
    first = pairs[0]
    return {
        **{name: first[name] for name in ("doc_id", "url", "source", "source_id", "licence")},
        "lang": first[f"lang_{sides[1]}"],
        "pair": first["lang"],
        "format": kind,
        "direction": "-".join(first[f"lang_{side}"] for side in sides),
        "template": template,
        "pairs": [one["doc_id"] for one in pairs],
        "text": text,
    }
