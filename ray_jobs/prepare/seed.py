"""The texts that a user has of a new language: read, counted, and rid of what repeats or is in a language that is known.

Which are is asked of two identifiers, because neither is sure alone: lid.176, which knows the large languages, and one
trained on the languages that Pinisi has text of, for which an unknown neighbour (Hiligaynon beside Cebuano) is `other`.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ray_jobs.errors import UserError

if TYPE_CHECKING:
    from curation.lid.identify import Model

LEAST_CHARS, WANTED_CHARS = 20_000, 200_000  # below the first nothing is made; below the second it is said
PIECE_CHARS = 1_000
SURE, READS_AS = 0.9, 0.85
TOGETHER = (frozenset({"id", "ms"}),)  # a text in either is in one of them, whichever


@dataclass
class Seed:
    """Documents (source, text) of one language, and `counts` of the rows that are none."""

    documents: list[tuple[str, str]]
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def characters(self) -> int:
        return sum(len(text) for _, text in self.documents)


def read(patterns: Sequence[str], lang: str) -> Seed:
    """The different texts of the files. Raises UserError for a row without a text."""
    from curation.lid.tags import code
    from ray_jobs.run import files

    seen: set[str] = set()
    seed = Seed([])
    for part in files.named(list(patterns), "--documents"):
        for row in files.rows(part):
            text, said = row.get("text"), row.get("lang")
            if not isinstance(text, str | None) or "text" not in row:
                raise UserError(f"{part}: a row has no text in the field `text`")
            seed.counts["rows"] += 1
            plain = " ".join((text or "").casefold().split())
            if not any(map(str.isalpha, plain)):
                seed.counts["empty"] += 1
            elif isinstance(said, str) and said and said != lang and code(said) != lang:
                seed.counts["declared as another language"] += 1
            elif plain in seen:
                seed.counts["duplicates"] += 1
            else:
                seen.add(plain)
                seed.documents.append((str(row.get("source") or "seed"), text or ""))
    return seed


def reads_as(texts: Sequence[str], models: Iterable[Model], lang: str) -> str | None:
    """The known language that the texts are mostly in: its code, or None. `id` stands for `id` or `ms`."""
    import pyarrow as pa

    array = pa.array(pieces(texts), pa.large_string())
    for model in models:
        mean = dict(zip(model.labels, model.predict(array).probabilities.mean(axis=0).tolist(), strict=True))
        for label in sorted(mean, key=lambda one: (-mean[one], one)):
            group = next((group for group in TOGETHER if label in group), {label})
            if label not in ("other", lang) and sum(mean.get(one, 0.0) for one in group) >= READS_AS:
                return label
    return None


def foreign(texts: Sequence[str], by_size: Model, by_neighbour: Model, lang: str) -> list[str | None]:
    """Of each text the known language that it surely is in, or None. `by_size` is lid.176."""
    import numpy as np
    import pyarrow as pa

    array, rows = pa.array(list(texts), pa.large_string()), np.arange(len(texts))
    named = []
    for model in (by_size, by_neighbour):
        found = model.predict(array)
        likely = found.probabilities[rows, found.best] >= SURE
        named.append([model.labels[best] if sure else "" for best, sure in zip(found.best, likely, strict=True)])
    known = set(by_neighbour.labels)
    return [
        one if one and one != lang and (one == two or (one not in known and two in ("other", ""))) else None
        for one, two in zip(*named, strict=True)
    ]


def pieces(texts: Iterable[str]) -> list[str]:
    """The texts as passages of about `PIECE_CHARS`: long ones are cut at lines, or at spaces; short ones are joined."""
    result, waiting, size = [], [], 0
    for text in texts:
        for line in text.split("\n"):
            while size + len(line) > 2 * PIECE_CHARS:
                at = line.rfind(" ", 0, PIECE_CHARS)
                at = at if at > 0 else PIECE_CHARS
                waiting.append(line[:at])
                result.append("\n".join(waiting))
                line, waiting, size = line[at:].lstrip(" "), [], 0
            if line:
                waiting.append(line)
                size += len(line)
            if size >= PIECE_CHARS:
                result.append("\n".join(waiting))
                waiting, size = [], 0
    return [*result, "\n".join(waiting)] if size >= PIECE_CHARS // 2 or (waiting and not result) else result


def known_documents() -> list[tuple[str, str, str]]:
    """(language, source, text) of the 15 languages in `sample/`; none where Pinisi is installed without it."""
    from ray_jobs.config.reader import SAMPLE

    found = []
    for path in sorted(SAMPLE.glob("gold/*.jsonl.gz")):
        rows = map(json.loads, gzip.decompress(path.read_bytes()).decode("utf-8").splitlines())
        found += [(row["lang"], "pages", row["text"]) for row in rows if row["fate"] == "kept"]
    for path in sorted(SAMPLE.glob("instruct/*.jsonl")):
        for row in map(json.loads, path.read_text("utf-8").splitlines()):
            found.append((row["lang"], "chats", "\n".join(message["content"] for message in row["messages"])))
    for path in sorted(SAMPLE.glob("eval/answers/*.jsonl")):
        for row in map(json.loads, path.read_text("utf-8").splitlines()):
            found.append((row["lang"], "contexts", row["context"]))
    return found
