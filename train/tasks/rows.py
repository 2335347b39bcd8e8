"""Which task and language a row of a file is of, and translations of sentences that lie in files of one language each."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

_PARTS = re.compile(r"[./\\:@]")
_NAMES = {
    **{"indonesian": "id", "malay": "ms", "javanese": "jv", "sundanese": "su", "filipino": "tl", "tagalog": "tl"},
    **{"vietnamese": "vi", "thai": "th", "burmese": "my", "english": "en", "chinese": "zh", "khmer": "km", "lao": "lo"},
    **{
        "cebuano": "ceb",
        "ilocano": "ilo",
        "iloko": "ilo",
        "waray": "war",
        "waray-waray": "war",
        "bahasa indonesia": "id",
    },
    **{"bahasa melayu": "ms", "standard malay": "ms", "myanmar": "my", "mandarin": "zh", "mandarin chinese": "zh"},
    **{"simplified chinese": "zh", "chinese (simplified)": "zh", "chinese (traditional)": "zh"},
}
"""Languages that public sets name in English."""

Code = Callable[[str], str]
"""The code of a language here, of any of its tags (`tha_Thai`, `zsm`, `th-TH`)."""


def names(tasks: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """What `task_of` looks up, of tasks with their other names."""
    return {_plain(name): task for task, others in tasks.items() for name in (*others, task)}


def task_of(row: Mapping, path: str, known: Mapping[str, str]) -> str | None:
    """The task of a row: the one that it names, or that stands in its path; None without one. `known`: those of `names`."""
    if isinstance(row.get("task"), str) and _plain(row["task"]) in known:
        return known[_plain(row["task"])]
    return next((known[part] for part in map(_plain, _last_parts(path)) if part in known), None)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def language_of(row: Mapping, path: str, languages: Collection[str], code: Code) -> str | None:
    """The language of a row: the one that it names (lang, language, dialect), or that stands in its path; None without one."""
    for key in ("lang", "language", "dialect"):
        if isinstance(row.get(key), str) and row[key]:
            return coded(row[key], code)
    iso = "_".join(str(row[key]) for key in ("iso_639_3", "iso_15924") if row.get(key))
    if iso:
        return coded(iso, code)
    return next((found for part in _last_parts(path) if (found := _in_path(part, code)) in languages), None)


def _in_path(part: str, code: Code) -> str:
    """Two letters in a path are a code of ours or nothing: `in` is no Indonesian."""
    return part.lower() if len(part) < 3 else coded(part, code)


def coded(name: str, code: Code) -> str:
    """The code of a language that is called by a tag or by its name in English."""
    return _NAMES.get(name.strip().lower()) or code(name)


def _last_parts(path: str) -> list[str]:
    """Parts of the name of a file and of the two folders that it lies in, the last first: those above say where it is kept."""
    name = "/".join(re.split(r"[/\\]", path)[-3:])
    return [part for part in reversed(_PARTS.split(name)) if part]


_SPLITS = ("dev", "devtest", "test", "train", "val", "valid", "validation")


def split_of(path: str) -> str | None:
    """The split that stands in a path; None without one."""
    return next((part for part in map(str.lower, reversed(_PARTS.split(path))) if part in _SPLITS), None)


def translations(rows: Iterable[tuple[str, dict]], pairs: Iterable[tuple[str, str]]) -> list[tuple[str, dict]]:
    """(target language, row of two languages) of (language, row {"id", "text"}) pairs: of each sentence, known by its id, the
    translations `pairs` (source, target) for which both languages are there."""
    texts: dict[str, dict[str, dict]] = {}
    for lang, row in rows:
        name = f"{row['split']}-{row['id']}" if row.get("split") else str(row["id"])
        texts.setdefault(name, {}).setdefault(lang, row)
    out = []
    for source, target in pairs:
        for name, of in texts.items():
            if source in of and target in of:
                whole = {**of[target], "id": f"{source}-{target}-{name}", "source": of[source]["text"]}
                out.append((target, {**whole, "source_lang": source, "target": of[target]["text"]}))
    return out
