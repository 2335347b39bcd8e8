"""sft/data: chat rows of any layout to the conversations that SFT reads (paper section 5.1).

Each file is read by a task of its own: layout, format rules, language of the answers, category, tokens, band keys. Then, over
all of them: one row of an id, one of near-duplicates in a language (the one with most turns stays, of these the longest, of
these the one of lowest id), and `max_rows` of the rest. Only ids, sizes and keys of rows are held at once, about 250 bytes each.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.shards import LEDGER, ledger_rows
from curation.dedup import conversations as chat_duplicates
from curation.lid import answers as chat_language
from curation.lid.identify import ModelName
from mixture.tokenizer.encoder import Encoder
from ray_jobs.alignment import categories, chats
from ray_jobs.config.alignment import ChatData
from ray_jobs.errors import UserError
from ray_jobs.run import files, identifier, row_files
from ray_jobs.run.job import Job
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work.rows import sampled, write_ledger
from ray_jobs.work.tasks import map_on_ray, written
from train.chat import conversations as chat
from train.selection.preference import is_translation

PERCENTILES = (10, 50, 90, 99)
HERE_BYTES = 16 << 20  # of files: some ten seconds of work, as long as two Ray workers take to load their modules


class Task(TokenizerSetting):
    """One file of chat rows."""

    data: ChatData
    languages: list[str]
    model: str | ModelName  # of the languages of answers
    folder: str  # of the user's functions
    stage: str
    uri: str
    out: str
    ledger: str


def run(job: Job) -> dict:
    sft = job.sft
    categories.classifier(sft.data.category, os.getcwd())  # what is wrong with it is said before work is handed out
    tasks: list[Task] = [
        {
            **tokenizer_of(job),
            "data": sft.data,
            "languages": list(job.recipe.languages),
            "model": identifier.of(job.recipe),
            "folder": os.getcwd(),
            "stage": job.stage.name,
            "uri": uri,
            "out": job.path("parts", f"part-{number:05d}"),
            "ledger": f"{job.ledger}/part-{number:05d}",
        }
        for number, uri in enumerate(files.named([sft.instruct], "train.sft.instruct"))
    ]
    parts = _each(job, tasks)
    table = pa.concat_tables([storage.read_table(f"{task['out']}.parquet") for task in tasks])
    drops = _dropped(table, sft.data)
    left = np.array([i for i in range(len(table)) if i not in drops], np.int64)
    ids = table["id"].to_pylist()
    chosen = left[np.array(sampled([ids[i] for i in left], sft.max_rows), np.int64)]
    if not len(chosen):
        raise UserError(
            f"{sft.instruct}: no valid conversation in the recipe's languages; see {job.ledger} for what is wrong"
        )
    write_ledger(job, [drops[i] for i in sorted(drops)], chats.PART)
    _write(job.path("rows.jsonl"), [task["out"] for task in tasks], set(chosen.tolist()))
    rules = sum((Counter({(rule, lang): n for rule, lang, n in part["rules"]}) for part in parts), Counter())
    rules.update((row["rule"], row["lang"]) for row in drops.values())
    ignored = sum((Counter(part["ignored"]) for part in parts), Counter())
    kept = table.take(pa.array(chosen))
    cells = _cells(kept)
    dropped: dict[str, dict[str, int]] = {}
    for (rule, lang), n in sorted(rules.items()):
        dropped.setdefault(rule, {})[lang] = n
    storage.write_json(
        job.path("statistics.json"), {"cells": cells, "dropped": dropped, "not_sampled": len(left) - len(chosen)}
    )
    storage.remove(job.path("parts"))
    return {
        "conversations_in": sum(part["rows"] for part in parts),
        "conversations": len(chosen),
        "tokens": int(np.sum(kept["tokens"].to_numpy())),
        "per_language": dict(sorted(Counter(kept["lang"].to_pylist()).items())),
        "dropped": rules.total(),
        "rules": {rule: sum(langs.values()) for rule, langs in dropped.items()},
        **chats.account(sum(part["rows"] for part in parts), {r: sum(n.values()) for r, n in dropped.items()}, ignored),
        "not_sampled": len(left) - len(chosen),
    }


def _each(job: Job, tasks: list[Task]) -> list[dict]:
    """`_part` of every file: as Ray tasks, but a few small files of this machine here, which has all loaded already."""
    before = written([f"{task['out']}.json"] for task in tasks)
    local = job.address is None and not any(row_files.is_hf(task["uri"]) for task in tasks)
    if not local or sum(storage.size(task["uri"]) for task in tasks) > HERE_BYTES:
        return map_on_ray(job, _part, tasks, "files", finished=before)
    job.progress.start(len(tasks), "files", before)
    found = []
    for task in tasks:
        found.append(_part(task))
        job.progress.set(len(found))
    return found


def _part(task: Task) -> dict:
    """Valid rows of one file as `<out>.jsonl`, what must be known of them as `<out>.parquet`, and counts."""
    marker = f"{task['out']}.json"
    if storage.exists(marker):
        return storage.read_json(marker)
    data = task["data"]
    bands = chat_duplicates.bands(data.similarity, data.num_perm) if data.similarity else None
    classify = categories.classifier(data.category, task["folder"])
    encoder = Encoder(load_tokenizer(task))
    frames = {role: len(_ids(encoder, f"{role}\n")) + len(_ids(encoder, "\n")) + 2 for role in chat.ROLES}
    schema = _schema(bands.bands if bands else 0)
    ledger, n, ignored = [], 0, Counter[str]()
    with ExitStack() as stack:
        path = stack.enter_context(storage.atomic(f"{task['out']}.jsonl"))
        out = stack.enter_context(open(path, "w", encoding="utf-8", errors="replace"))
        writer = stack.enter_context(storage.parquet_writer(f"{task['out']}.parquet", schema))
        for rows, rejects in chats.batches(task["uri"], task["languages"], data.language, ignored):
            n += len(rows) + len(rejects)
            rows, other = _in_own_language(rows, data, task["model"])
            ledger += rejects + other
            for row, category in zip(rows, classify(rows), strict=True):
                row["category"] = category
                out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            if rows:
                writer.write_batch(_facts(rows, encoder, frames, bands, schema))
    batch = ledger_rows(task["stage"], ledger)
    storage.write_table(f"{task['ledger']}.parquet", pa.Table.from_batches([batch], LEDGER))
    rules = Counter((row["rule"], row["lang"] or "?") for row in ledger)
    ignored.pop(data.category.key, None)
    counts = {
        "rows": n,
        "ignored": dict(ignored),
        "rules": [[rule, lang, count] for (rule, lang), count in sorted(rules.items())],
    }
    storage.write_json(marker, counts)
    return counts


def _ids(encoder: Encoder, text: str) -> list[int]:
    return encoder.tokenizer(text, add_special_tokens=False)["input_ids"]


def _in_own_language(rows: list[dict], data: ChatData, model: str | ModelName) -> tuple[list[dict], list[dict]]:
    """Rows whose answers are in their language; a row whose task is a translation is not asked."""
    if data.other_language is None:
        return rows, []
    asked = [row for row in rows if not is_translation(row)]
    answers = ["\n".join(turn["content"] for turn in row["messages"] if chat.scored(turn)) for row in asked]
    langs = [row["lang"] for row in asked]
    found = chat_language.wrong(answers, langs, model, data.other_language, data.min_letters)
    rejects = {
        row["id"]: {
            "doc_id": row["id"],
            "lang": row["lang"],
            "rule": "answer_in_other_language",
            "value": one[1],
            "threshold": data.other_language,
            "detail": one[0],
        }
        for row, one in zip(asked, found, strict=True)
        if one
    }
    return [row for row in rows if row["id"] not in rejects], list(rejects.values())


def _schema(n_bands: int) -> pa.Schema:
    fields = [("id", pa.string()), ("lang", pa.string()), ("category", pa.string())]
    fields += [("turns", pa.int32()), ("chars", pa.int64()), ("tokens", pa.int64()), ("answers", pa.list_(pa.int32()))]
    return pa.schema([*fields, ("keys", pa.list_(pa.uint64(), n_bands))] if n_bands else fields)


def _facts(rows: list[dict], encoder: Encoder, frames: dict[str, int], bands, schema: pa.Schema) -> pa.RecordBatch:
    """`answers`: tokens of each answer. `tokens`: of the whole as it is trained, with the frame of each turn."""
    turns = [(i, turn) for i, row in enumerate(rows) for turn in row["messages"]]
    encoded = encoder.encode(pa.array([turn["content"] for _, turn in turns], pa.string()))
    sizes = np.diff(encoded.offsets.to_numpy())
    tokens = np.zeros(len(rows), np.int64)
    answers: list[list[int]] = [[] for _ in rows]
    for (i, turn), size in zip(turns, sizes.tolist(), strict=True):
        tokens[i] += size + frames[turn["role"]]
        if chat.scored(turn):
            answers[i].append(size)
    # A system turn is often the same for all rows of a set, so it says nothing about copies.
    texts = ["\n".join(turn["content"] for turn in row["messages"] if turn["role"] != "system") for row in rows]
    columns = {
        **{name: [row[name] for row in rows] for name in ("id", "lang", "category")},
        "turns": [len(row["messages"]) for row in rows],
        "chars": [len(text) for text in texts],
        "tokens": tokens,
        "answers": answers,
    }
    if bands:
        keys_NB = chat_duplicates.keys(pa.array(texts, pa.string()), bands)
        columns["keys"] = pa.FixedSizeListArray.from_arrays(pa.array(keys_NB.ravel()), bands.bands)
    return pa.record_batch(
        {name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema=schema
    )


def _dropped(table: pa.Table, data: ChatData) -> dict[int, dict]:
    """Number of a row -> its ledger row: repeated ids, then near-duplicates within a language."""
    ids, langs = table["id"].to_pylist(), np.array(table["lang"].to_pylist())
    seen, drops = set(), {}
    for i, row_id in enumerate(ids):
        if row_id in seen:
            drops[i] = {"doc_id": row_id, "lang": str(langs[i]), **chats.REPEATED}
        seen.add(row_id)
    if not data.similarity or not ids:
        return drops
    keys_NB = table["keys"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    turns, chars = table["turns"].to_numpy(), table["chars"].to_numpy()
    by_id = np.empty(len(ids), np.int64)
    by_id[pc.sort_indices(table["id"]).to_numpy()] = np.arange(len(ids))
    for lang in np.unique(langs).tolist():
        members = np.array([i for i in np.flatnonzero(langs == lang) if i not in drops], np.int64)
        order = np.lexsort((by_id[members], -chars[members], -turns[members]))
        for member, kept in zip(members, chat_duplicates.copies(keys_NB[members], order), strict=True):
            if kept >= 0:
                drops[int(member)] = {
                    "doc_id": ids[member],
                    "lang": lang,
                    "rule": "near_duplicate",
                    "threshold": data.similarity,
                    "detail": ids[members[kept]],
                }
    return drops


def _write(uri: str, parts: list[str], chosen: set[int]) -> None:
    """The chosen lines of the parts, whose lines are numbered through."""
    number = 0
    with storage.atomic(uri) as path, open(path, "wb") as out:
        for part in parts:
            fs, inner = storage.filesystem(f"{part}.jsonl")
            with fs.open(inner, "rb") as lines:
                for line in lines:
                    if number in chosen:
                        out.write(line)
                    number += 1


def _cells(table: pa.Table) -> list[dict]:
    """Per language and category: conversations, turns, tokens, percentiles of the tokens of an answer."""
    cells: dict[tuple[str, str], list[int]] = {}
    for i, cell in enumerate(zip(table["lang"].to_pylist(), table["category"].to_pylist(), strict=True)):
        cells.setdefault(cell, []).append(i)
    result = []
    for (lang, category), members in sorted(cells.items()):
        one = table.take(pa.array(members))
        lengths = one["answers"].combine_chunks().flatten().to_numpy()
        result.append(
            {
                "lang": lang,
                "category": category,
                "conversations": len(one),
                "turns": int(one["turns"].to_numpy().sum()),
                "tokens": int(one["tokens"].to_numpy().sum()),
                "answer_tokens": {f"p{p}": float(np.percentile(lengths, p)) for p in PERCENTILES},
            }
        )
    return result
