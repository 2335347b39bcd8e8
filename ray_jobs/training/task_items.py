"""The items that the rows of evaluation sets are, by task and language."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from curation.lid.tags import code
from ray_jobs.config.training import ItemRows
from ray_jobs.errors import UserError
from ray_jobs.run import files, row_files
from ray_jobs.work.rows import sampled
from train.tasks import rows
from train.tasks import task as task_files
from train.tasks.task import Item, RowError, Task

Items = dict[tuple[str, str], tuple[list[Item], list[Item]]]
"""(Task, language): (solved examples, items to score)."""


def read(settings: ItemRows, languages: Sequence[str], known: dict[str, Task], key: str) -> tuple[Items, list[dict]]:
    """The items in `languages` of the tasks `known`, and ledger rows of what is none. `key` is where the recipe has `settings`.

    Raises UserError for rows that no file has, or that cannot be read at all.
    """
    names = rows.names({name: task.known_as for name, task in known.items()})
    cells: dict[tuple[str, str], dict[str, Item]] = {}
    sentences: dict[str, list[tuple[str, dict]]] = {}
    rejects: list[dict] = []

    def add(task: Task, lang: str, row: dict, where: str) -> None:
        try:
            item = task.item(row, lang)
        except RowError as error:
            detail = f"{where}: {error}"
            rejects.append({"doc_id": str(row.get("id", where)), "lang": lang, "rule": "not_an_item", "detail": detail})
            return
        here = cells.setdefault((task.name, lang), {})
        name = item.id or Path(where).name
        name = name if name not in here else f"{name} of {where}"  # ids of two files may be the same
        here[name] = item._replace(id=name)

    for uri in files.named(settings.rows, f"{key}.rows"):
        strangers = 0
        for where, row, wrong in _rows(uri, key):
            if row is None:
                rejects.append({"doc_id": where, "rule": "not_a_row", "detail": wrong})
                continue
            name = rows.task_of(row, uri, names)
            if name is None:
                strangers += 1
                continue
            lang = rows.language_of(row, uri, languages, code)
            if known[name].kind == "translation" and "text" in row and lang:
                if row.get("id") is None:
                    detail = "a sentence of one language needs an id, by which its translations are found"
                    rejects.append({"doc_id": where, "lang": lang, "rule": "not_an_item", "detail": detail})
                    continue
                split = row.get("split") or rows.split_of(uri)
                sentences.setdefault(name, []).append((lang, {**row, "split": split} if split else row))
            elif lang is None or lang not in languages:
                detail = f"its language is {lang}" if lang else "it names no language"
                rejects.append({"doc_id": where, "lang": lang, "rule": "language_outside", "detail": detail})
            else:
                add(known[name], lang, row, where)
        if strangers:
            detail = f"{strangers} rows of no task that the recipe includes"
            rejects.append({"doc_id": uri, "rule": "no_task", "detail": detail})
    for name, found in sentences.items():
        pairs = [(a, b) for one in languages if one != "en" for a, b in (("en", one), (one, "en"))]
        for lang, row in rows.translations(found, pairs):
            add(known[name], lang, row, row["id"])
    out = {}
    for (name, lang), items in sorted(cells.items()):
        n = known[name].shots if settings.shots is None else settings.shots
        shots, scored = task_files.shots(items.values(), n)
        scored = [scored[i] for i in sampled([item.id for item in scored], settings.limit)]
        if scored:
            out[name, lang] = shots, scored
        else:
            detail = f"{len(items)} rows, all of them solved examples"
            rejects.append({"doc_id": name, "lang": lang, "rule": "all_are_examples", "detail": detail})
    return out, rejects


def _rows(uri: str, key: str) -> Iterator[row_files.Found]:
    try:
        yield from row_files.read(uri)
    except ValueError as error:
        raise UserError(f"{key}.rows: {error}") from None
