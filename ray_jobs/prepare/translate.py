"""`pinisi translate`: chat rows into other languages by a sequence-to-sequence model, for `train.sft.instruct`.

Rows are cut into shards, each of which is translated by a task and written to `OUT/shards/`: the same command goes on where
it was killed. Then, per language, the share of rows with the highest perplexity under a base model goes (bad translations;
Sailor2 §5.2), and `OUT/<lang>.jsonl` and the ledger `OUT/dropped.parquet` are written.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter

SETTINGS = "_settings.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", metavar="ROWS", help="glob of chat rows in any layout that train.sft.instruct takes")
    parser.add_argument("--model", required=True, metavar="MODEL", help="NLLB, M2M100: a folder (any URI) or hub name")
    parser.add_argument("--to", required=True, nargs="+", metavar="LANG", help="languages to translate into")
    parser.add_argument("--from", dest="source", default="en", metavar="LANG", help="of the rows (%(default)s)")
    parser.add_argument("--out", required=True, metavar="URI", help="folder for the rows and the ledger")
    text = "a causal language model that knows the languages to translate into, such as the base of SFT"
    parser.add_argument("--perplexity-model", metavar="MODEL", help=text)
    text = "share of each language with the highest perplexity that goes (%(default)s)"
    parser.add_argument("--drop-worst", type=float, default=0.1, metavar="SHARE", help=text)
    parser.add_argument("--max-rows", type=int, metavar="N", help="translate so many, chosen by a hash of their id")
    parser.add_argument("--shard-rows", type=int, default=200, metavar="N", help="rows of a task (%(default)s)")
    parser.add_argument("--beams", type=int, default=4, metavar="N", help="of beam search (%(default)s)")
    text = "translate code, formulas, URLs and addresses too; without it they stay as they are"
    parser.add_argument("--all-text", action="store_true", help=text)
    parser.add_argument(
        "--address", help="a Ray cluster to join: auto, HOST:6379 or ray://HOST:10001 (default: a private one)"
    )


def main(options: argparse.Namespace) -> int:
    from cluster.engines import embedded, placement
    from cluster.engines.on_ray import run_tasks
    from ray_jobs.errors import UserError
    from ray_jobs.run.progress import Progress

    def on_ray(function, tasks: list[dict]) -> list[dict]:
        try:
            embedded.start(options.address)
        except ValueError as error:
            raise UserError(str(error)) from None
        with Progress("translate", lambda line: print(line, flush=True)) as progress:
            progress.start(len(tasks), "shards")
            return run_tasks(function, tasks, progress.set, gpus=placement.has_gpus())

    return run(options, on_ray)


def run(options: argparse.Namespace, map_tasks) -> int:
    """`map_tasks(function, tasks)` gives the results in order. Raises UserError for what the user can mend."""
    from cluster import storage
    from ray_jobs.alignment import chats
    from ray_jobs.errors import UserError
    from ray_jobs.run import files
    from ray_jobs.run.files import location
    from ray_jobs.run.fingerprint import digest

    if not 0 <= options.drop_worst < 1:
        raise UserError(f"--drop-worst must be at least 0 and below 1, not {options.drop_worst}")
    if min(options.shard_rows, options.beams) < 1:
        raise UserError("--shard-rows and --beams must be at least 1")
    _check(options)
    rows, rejects, seen = [], [], set()
    for uri in files.named([options.rows], "ROWS"):
        for kept, faults in chats.batches(uri, {options.source}, options.source):
            rejects += faults
            for row in kept:
                if row["id"] in seen:
                    rejects.append({"doc_id": row["id"], "lang": row["lang"], **chats.REPEATED})
                else:
                    rows.append(row)
                    seen.add(row["id"])
    rows = chats.sample(rows, options.max_rows)
    if not rows:
        raise UserError(f"{options.rows}: no valid conversation in {options.source} to translate")
    common = {
        "model": location(options.model) if storage.exists(options.model) else options.model,
        "source": options.source,
        "keep": not options.all_text,
        "beams": options.beams,
        "perplexity_model": options.perplexity_model and location(options.perplexity_model),
    }
    made_of = digest({**common, "shard_rows": options.shard_rows, "rows": rows})
    mark = storage.join(options.out, SETTINGS)
    if storage.exists(mark) and storage.read_json(mark)["digest"] != made_of:
        raise UserError(f"{options.out} holds translations of other rows or by other settings; give another --out")
    storage.write_json(mark, {"digest": made_of, **common})
    out = location(options.out)
    tasks = [
        {
            **common,
            "target": lang,
            "rows": rows[i : i + options.shard_rows],
            "out": _shard(out, lang, i // options.shard_rows),
        }
        for lang in options.to
        for i in range(0, len(rows), options.shard_rows)
    ]
    map_tasks(translate_shard, [task for task in tasks if not storage.exists(task["out"])])
    for lang in options.to:
        found = [storage.read_json(task["out"]) for task in tasks if task["target"] == lang]
        made = [row for shard in found for row in shard["rows"]]
        gone = [row for shard in found for row in shard["dropped"]]
        if options.perplexity_model:
            made, worst = _without_worst(made, options.drop_worst)
            gone += worst
        chats.write_rows(storage.join(options.out, f"{lang}.jsonl"), made)
        rejects += gone
        why = ", ".join(f"{rule} {n}" for rule, n in sorted(Counter(row["rule"] for row in gone).items()))
        print(f"{lang}: {len(made):,} conversations{f'; dropped: {why}' if why else ''}", flush=True)
    _write_ledger(storage.join(options.out, "dropped.parquet"), rejects)
    print(f"rows: {storage.join(options.out, '*.jsonl')}   (recipe: train: {{sft: {{instruct: …}}}})")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Languages that the model does not know, before anything is read or written; the tokenizer alone says so."""
    from cluster import storage
    from ray_jobs.errors import UserError
    from train.chat import translate

    path = storage.localize(options.model) if storage.exists(options.model) else options.model
    try:
        tokenizer = translate.load_tokenizer(path)
        for lang in (options.source, *options.to):
            translate.code(tokenizer, lang)
    except ValueError as error:
        raise UserError(str(error)) from None


def _shard(out: str, lang: str, number: int) -> str:
    return f"{out}/shards/{lang}-{number:05d}.json"


def translate_shard(task: dict) -> dict:
    """One shard's {"rows", "dropped"} to `task["out"]`."""
    from cluster import storage
    from ray_jobs.work import device
    from train.chat import conversations, translate

    where = device.here()
    translator = translate.load(task["model"], task["source"], task["target"], device.dtype("auto", where))
    translator.model.to(where)
    rows, target = task["rows"], task["target"]
    turns = [(i, turn) for i, row in enumerate(rows) for turn in row["messages"]]
    texts = [turn["content"] for _, turn in turns]
    done = translate.translate(translator, texts, keep=task["keep"], beams=task["beams"])
    messages: list[list[dict]] = [[] for _ in rows]
    wrong: dict[int, str] = {}
    for (i, turn), (text, why) in zip(turns, done, strict=True):
        messages[i].append({**turn, "content": text})
        if why:
            wrong.setdefault(i, why)
    made, dropped = [], []
    for i, row in enumerate(rows):
        new = f"{row['id']}:{target}"
        if i in wrong:
            dropped.append({"doc_id": new, "lang": target, "rule": "not_translated", "detail": wrong[i]})
        else:
            about = {"translated_from": row["lang"], "translated_by": task["model"].rstrip("/").rsplit("/", 1)[-1]}
            made.append({**row, "id": new, "lang": target, "messages": messages[i], **about})
    made, faults = conversations.validate(made)
    if task["perplexity_model"] and made:
        del translator  # a GPU may hold one model, not two
        made, long = _with_perplexity(made, task["perplexity_model"], where)
        faults += long
    storage.write_text(
        task["out"], json.dumps({"rows": made, "dropped": dropped + faults}, ensure_ascii=False, default=str)
    )
    return {}


def _with_perplexity(rows: list[dict], folder: str, where) -> tuple[list[dict], list[dict]]:
    """The rows with the perplexity of their answers under a base model, given the prompts; too long ones go."""
    from mixture.tokenizer import tokenizer as tokenizers
    from ray_jobs.work import device
    from train import model
    from train.batches import examples
    from train.chat import conversations
    from train.scores import logprobs

    net = model.load(folder, device.dtype("auto", where)).to(where)
    encoded = conversations.encode(tokenizers.load(folder), rows, score="content")
    fitting, rejects = examples.within(encoded, net.config.max_position_embeddings)
    values = dict(zip([example.id for example in fitting], logprobs.perplexity(net, fitting).tolist(), strict=True))
    return [{**row, "perplexity": values[row["id"]]} for row in rows if row["id"] in values], rejects


def _without_worst(rows: list[dict], share: float) -> tuple[list[dict], list[dict]]:
    import numpy as np

    from train.selection.preference import drop_worst_perplexity

    kept, rejects = drop_worst_perplexity(rows, np.array([row["perplexity"] for row in rows]), share)
    return [{key: value for key, value in row.items() if key != "perplexity"} for row in kept], rejects


def _write_ledger(uri: str, rows: list[dict]) -> None:
    import pyarrow as pa

    from cluster import storage
    from cluster.shards import LEDGER, ledger_rows

    storage.write_table(uri, pa.Table.from_batches([ledger_rows("translate", rows)], LEDGER))
