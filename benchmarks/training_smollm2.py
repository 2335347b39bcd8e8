"""What continual pre-training does to a real small model, with and without new layers: bits per byte of held-out documents.

    python benchmarks/training_smollm2.py FOLDER --work DIR [--data DIR] [--tokens 16384] [--seeds 3]

FOLDER is SmolLM2-135M (examples/smollm2_folder.py). `pinisi run` with examples/small_model.yaml curates Indonesian and English
documents, makes the token stores, and expands the model from 30 to 40 layers. Then the stage `pretrain` trains both models for
each seed, which decides which rows are read in which order. Held-out documents are measured before and after. DIR/runs.jsonl has
a line for each training; the same command goes on after the last one. A core computes about 130 tokens a second.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from scipy.stats import t as student
from table import row, write

from cluster import document_tokens, storage
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config import reader
from ray_jobs.config.recipe import Recipe
from ray_jobs.run.graph import Stage, enabled
from ray_jobs.run.job import Job
from ray_jobs.run.progress import Progress
from ray_jobs.stages import pretrain
from train import model
from train.scores import evaluate

RECIPE = Path(__file__).parents[1] / "examples" / "small_model.yaml"
ARMS = {"without": "control/stage1", "with": "pretrain/stage1"}  # new layers
LANGUAGES = {"id": "Indonesian", "en": "English"}
APART = ", no run of words in common with training text"
TUNED = "nothing: the recipe's learning rate, and as many tokens as there was time for"
GRAM = 13  # words; a document that shares a run of so many with training text is left out of the second table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", required=True, type=Path, help="folder for the run and the results of each training")
    parser.add_argument("--data", default=os.environ.get("PINISI_SAMPLE_DIR"), help="folder with text/*.jsonl.gz")
    parser.add_argument("--tokens", type=int, default=16_384, help="of each training")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    recipe, run = prepared(options)
    results = trained(recipe, run, options)
    rows = table(results, "", set())
    rows += table(results, APART, repeats(run))
    for arm, layers in (("without", 30), ("with", 40)):
        seconds = [one["cpu_seconds"] for one in results if one["arm"] == arm and one["seed"]]
        rows.append(row(f"CPU time of {options.tokens:,} tokens, {layers} layers", "seconds", float(np.mean(seconds))))
    write(
        "training-smollm2",
        rows,
        tuned_on="nothing; the recipe's learning rate and batch, and as many tokens as there was time",
    )


def prepared(options: argparse.Namespace) -> tuple[Path, str]:
    """The recipe of the experiment, and the run with its stages up to `expand`."""
    path = f"{Path(options.data).resolve()}/text/[ie][dn].jsonl.gz"
    documents = {"name": "documents", "type": "jsonl", "path": path, "trust_language": True, "share": 0.3}
    stage = {"rows_per_step": 4, "schedule": "constant", "warmup_steps": 5}
    pretrain = {"control": True, "checkpoint_every": 0, "micro_rows": 4}
    pretrain |= {
        "stage1": {"tokens": options.tokens, **stage},
        "stage2": {"tokens": 1024, **stage},
    }  # the second does not run
    values = {
        "name": "smollm2",
        "base": str(RECIPE),
        "sources": [documents],
        "tokenize": {"heldout_bytes_per_language": 24_000},
        "train": {"base": {"model": str(options.folder.resolve())}, "device": "cpu", "pretrain": pretrain, "sft": None},
        "cluster": {"engine": "local", "cpus": 1},
    }
    recipe, run = options.work / "smollm2.yaml", options.work / "run"
    recipe.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "ray_jobs.cli", "run", str(recipe), "--run-dir", str(run), "--until", "expand"]
    subprocess.run(command, check=True)
    return recipe, str(run)


def trained(recipe: Path, run: str, options: argparse.Namespace) -> list[dict]:
    """The lines of runs.jsonl, after what it lacked has been trained and measured. Seed 0 is the model before."""
    torch.set_num_threads(1)
    pretrain.launch = lambda job, worker, settings, steps: worker(settings)  # in this process instead of Ray Train's
    file = options.work / "runs.jsonl"
    for seed in range(options.seeds + 1):
        loaded = reader.load(str(recipe), [f"seed={seed}"])
        for arm, name in ARMS.items():
            done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
            if any((one["arm"], one["seed"]) == (arm, seed) for one in done):
                continue
            if seed:
                found = one_training(run, loaded, next(stage for stage in enabled(loaded) if stage.name == name))
            else:
                found = {"documents": measured(run, "base" if arm == "without" else "expand")}
            with file.open("a") as out:
                out.write(json.dumps({"arm": arm, "seed": seed, **found}) + "\n")
    return [json.loads(line) for line in file.read_text().splitlines()]


def one_training(run: str, recipe: Recipe, stage: Stage) -> dict:
    """What the stage did to the held-out documents, its curve and CPU time. Its model, 0.5 GB or more, is not kept."""
    shutil.rmtree(Path(run, stage.name), ignore_errors=True)
    begin = time.process_time()
    with Progress(stage.name, print, run) as progress:
        summary = pretrain.run(Job(recipe, run, stage, "benchmark", progress))
    seconds = time.process_time() - begin
    lines = Path(run, "metrics", f"{stage.name.replace('/', '-')}.jsonl").read_text().splitlines()
    curve = [[record["step"], record["loss"]] for record in map(json.loads, lines)]
    documents = measured(run, stage.name)
    shutil.rmtree(Path(run, stage.name))
    said = {key: summary[key] for key in ("tokens", "precision")}
    return {**said, "cpu_seconds": seconds, "curve": curve, "documents": documents}


def measured(run: str, stage: str) -> list[dict]:
    """Bits of every held-out document by the model of a stage: as the stage `evaluate`, with bf16 products."""
    rows = storage.read_table(f"{run}/tokenize/heldout.parquet").to_pylist()
    tokenizer = tokenizers.load(f"{run}/tokenize/tokenizer")
    ids = tokenizers.encode(tokenizer, [one["text"] for one in rows])
    documents = [(str(i), tokens, one["bytes"]) for i, (one, tokens) in enumerate(zip(rows, ids, strict=True))]
    begin, eod = document_tokens.begin(tokenizer), document_tokens.end(tokenizer)
    net = model.load(f"{run}/{stage}/model")
    scores = evaluate.bits_per_byte(net, documents, context=256, eod=eod, begin=begin, precision="bf16")
    return [
        {"lang": one["lang"], "doc_id": one["doc_id"], "bytes": one["bytes"], "bits": scores[str(i)]["bits"]}
        for i, one in enumerate(rows)
    ]


def repeats(run: str) -> set[str]:
    """Held-out documents that share a run of `GRAM` words with training text. Raises AssertionError where one is such a text."""
    heldout = storage.read_table(f"{run}/tokenize/heldout.parquet").to_pylist()
    aside: set[str] = set()
    for part in storage.glob(f"{run}/tokenize/part-*.parquet"):
        table = storage.read_table(part, ["doc_id", "heldout"])
        aside.update(table.filter(table["heldout"])["doc_id"].to_pylist())
    assert {one["doc_id"] for one in heldout} <= aside
    seen: set[tuple[str, ...]] = set()
    for part in storage.glob(f"{run}/quality/part-*.parquet"):
        for one in storage.read_table(part, ["doc_id", "text"]).to_pylist():
            seen |= set() if one["doc_id"] in aside else grams(one["text"])
    return {one["doc_id"] for one in heldout if grams(one["text"]) & seen}


def grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}


def table(results: list[dict], of: str, left_out: set[str]) -> list[dict]:
    """Bits per byte before and after, and the difference of the arms by seed, with 95 % intervals over the seeds."""
    rows = []
    for lang, name in LANGUAGES.items():
        bits: dict[str, list[float]] = {}
        for one in sorted(results, key=lambda one: one["seed"]):
            kept = [d for d in one["documents"] if d["lang"] == lang and d["doc_id"] not in left_out]
            bits.setdefault(one["arm"], []).append(sum(d["bits"] for d in kept) / sum(d["bytes"] for d in kept))
        size = f"{len(kept)} documents, {sum(d['bytes'] for d in kept):,} bytes"
        before, without, with_new = bits["without"][0], np.array(bits["without"][1:]), np.array(bits["with"][1:])
        assert abs(bits["with"][0] - before) < 1e-6, "the expanded model is not the same function"
        what = f"{name}{of}"
        rows.append(row(f"{what}: before ({size})", "bits per byte", before))
        for arm, values in (("30 layers", without), ("40 layers, 10 of them new", with_new)):
            rows.append(row(f"{what}: after, {arm}, mean of {len(values)} seeds", "bits per byte", values.mean()))
            rows.append(row(f"{what}: after, {arm}, half of the 95 % interval", "bits per byte", half(values)))
        pairs = with_new - without
        rows.append(row(f"{what}: new layers less none, mean of the pairs", "bits per byte", pairs.mean()))
        rows.append(row(f"{what}: new layers less none, half of the 95 % interval", "bits per byte", half(pairs)))
        verdict = "a difference" if abs(pairs.mean()) > half(pairs) else "no difference shown"
        print(f"{what}: {pairs.mean():+.4f} ± {half(pairs):.4f} of {np.round(pairs, 4).tolist()}: {verdict}")
    return rows


def half(values: np.ndarray) -> float:
    """Half of the 95 % interval of the mean, by Student's t."""
    return float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


if __name__ == "__main__":
    main()
