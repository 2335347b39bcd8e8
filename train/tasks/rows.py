"""Which task and language a row of a file is of, and translations of sentences that lie in files of one language each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_PARTS = re.compile(r"[./\\:@]")
_CODES = {
    **{"ind": "id", "ind_latn": "id", "indonesian": "id", "zsm": "ms", "zsm_latn": "ms", "malay": "ms"},
    **{"jav": "jv", "jav_latn": "jv", "javanese": "jv", "sun": "su", "sun_latn": "su", "sundanese": "su"},
    **{"tgl": "tl", "tgl_latn": "tl", "fil": "tl", "fil_latn": "tl", "filipino": "tl", "tagalog": "tl"},
    **{"ceb_latn": "ceb", "ilo_latn": "ilo", "war_latn": "war", "vie": "vi", "vie_latn": "vi", "vietnamese": "vi"},
    **{"tha": "th", "tha_thai": "th", "thai": "th", "lao": "lo", "lao_laoo": "lo", "khm": "km", "khm_khmr": "km"},
    **{"mya": "my", "mya_mymr": "my", "burmese": "my", "eng": "en", "eng_latn": "en", "english": "en"},
    **{"cmn": "zh", "zho": "zh", "zho_hans": "zh", "cmn_hans": "zh", "zh-cn": "zh", "chinese": "zh"},
}
"""Codes and names of public sets for the languages that have another code here."""


def code(lang: str) -> str:
    """A language's code here, of its code or name in a set (`tha_Thai`, `zsm`, `javanese`); as it is where none is known."""
    low = lang.lower()
    first = re.split("[-_]", low)[0]  # th of th-TH
    return _CODES.get(low) or _CODES.get(first) or first


def task_of(row: Mapping, path: str, tasks: Mapping[str, Sequence[str]]) -> str | None:
    """The task of a row: the one that it names, or that stands in its path; None without one. `tasks`: names and other names."""
    names = {_plain(name): task for task, others in tasks.items() for name in (*others, task)}
    if isinstance(row.get("task"), str) and _plain(row["task"]) in names:
        return names[_plain(row["task"])]
    return next((names[part] for part in map(_plain, _last_parts(path)) if part in names), None)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def language_of(row: Mapping, path: str, languages: Iterable[str]) -> str | None:
    """The language of a row: the one that it names (lang, language, dialect), or that stands in its path; None without one."""
    known = set(languages)
    for key in ("lang", "language", "dialect"):
        if isinstance(row.get(key), str) and row[key]:
            return code(row[key])
    iso = "_".join(str(row[key]) for key in ("iso_639_3", "iso_15924") if row.get(key))
    if iso:
        return code(iso)
    return next((code(part) for part in _last_parts(path) if code(part) in known), None)


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
