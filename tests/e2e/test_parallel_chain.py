"""Parallel text from its files to rows of training: every pair is in a document, or in the ledger with its reason."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster import storage
from ray_jobs.commands import data_changes, explain, trace
from ray_jobs.config.reader import SAMPLE
from ray_jobs.errors import UserError
from ray_jobs.plan import tokens
from ray_jobs.run.run import open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
ITEM = "The driver stops there so that everyone can stretch their legs."
ROWS = [
    ("Nobody lost a single page.", "Không ai làm mất một trang nào."),  # the same English, in another language
    ("This one was never translated at all.", "This one was never translated at all."),
    ("The market opens early.", "Les voisins ont porté les livres à l'école sur leur tête hier."),
    ("", "Bên trái trống."),
    ("The goats sleep beside the road when it is hot.", "Khi trời nóng, đàn dê ngủ bên đường."),
    ("The goats sleep beside the road when it is hot.", "Đàn dê nằm ngủ ven đường mỗi khi trời nóng."),
]
RECIPE = {
    "name": "pairs",
    "languages": ["en", "id", "th", "vi"],
    "sources": [
        {"name": "gold", "type": "jsonl", "path": "${PINISI_SAMPLE_DIR}/gold/[eitv][ndhi].jsonl.gz", "trust_language": True},
        {"name": "tmx", "type": "parallel", "path": "${PINISI_SAMPLE_DIR}/parallel/*.tmx", "sides": ["id", "en"]},
        {"name": "moses", "type": "parallel", "path": "${PINISI_SAMPLE_DIR}/parallel/village.{lang}", "sides": ["en", "vi"]},
        {"name": "tsv", "type": "parallel", "path": "${PINISI_SAMPLE_DIR}/parallel/*.tsv", "sides": ["en", "th"]},
    ],
    "decontaminate": {"against": []},
    "parallel": {"share": 0.3, "stage2_share": 0.1, "block": 4, "weights": {"en-id": 1, "en-th": 1, "en-vi": 2}},
    "tokenize": {"vocab_size": 1000, "train_bytes": 200_000},
    "mixture": {"replay_languages": ["en"], "max_epochs": 40},
    "cluster": {"engine": "local", "cpus": 2},
    "train": {
        "context": 64,
        "eval_every": 0,
        "workers": 1,
        "base": {
            "shape": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
            | {"intermediate_size": 48},
            "languages": ["en"],
            "tokens": 1024,
            "optimiser": {"rows_per_step": 8, "lr": 1e-3, "schedule": "constant"},
        },
        "pretrain": {
            "lr": 1e-3,
            "stage1": {"tokens": 4096, "rows_per_step": 16, "schedule": "constant"},
            "stage2": {"tokens": 1024, "rows_per_step": 16, "schedule": "constant"},
        },
    },
}  # fmt: skip


def pinisi(*arguments):
    environment = {**os.environ, "PINISI_SAMPLE_DIR": str(SAMPLE)}
    command = [sys.executable, "-m", "ray_jobs.cli", "run", *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_pairs_from_files_to_rows(tmp_path):
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps({"en": a, "vi": b}) for a, b in ROWS) + "\n{broken")
    (tmp_path / "flores.jsonl").write_text(json.dumps({"id": "7", "sentence": ITEM}))
    own = {"name": "own", "type": "parallel", "path": str(tmp_path / "own.jsonl"), "sides": ["en", "vi"]}
    recipe = {**RECIPE, "sources": [*RECIPE["sources"], own]}
    recipe["decontaminate"] = {"against": [str(tmp_path / "flores.jsonl")]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    pinisi(tmp_path / "recipe.yaml", "--run-dir", tmp_path / "run", "--until", "pretrain/stage1")
    run = open_run(str(tmp_path / "run"))
    manifest = run.manifest

    # every pair is kept or dropped at every stage, and ends in a document
    assert manifest("parallel/pairs")["docs_in"] == 72 + 7
    assert manifest("parallel/pairs")["rules"] == {"copy": 1, "empty_side": 1, "invalid_json": 1, "language": 1}
    assert manifest("parallel/dedup")["rules"] == {"near_duplicate": 2}
    assert manifest("parallel/decontaminate")["rules"] == {"contaminated": 3}
    assert manifest("parallel/documents")["pairs"] == {"en-id": 23, "en-th": 23, "en-vi": 24}
    parts = storage.glob(f"{run.uri}/parallel/documents/part-*.parquet")
    documents = [one for part in parts for one in storage.read_table(part).to_pylist()]
    assert sum(len(one["pairs"]) for one in documents) == 70
    assert set(manifest("parallel/documents")["formats"]) == {"instruction", "plain", "interleaved"}
    assert not any(ITEM in one["text"] for one in documents)

    # its share of the stages, by pair of languages
    pools = manifest("tokenize")["parallel_tokens_per_pair"]
    plan = storage.read_json(f"{run.uri}/mixture/plan.json")
    shares = {name: weight for name, weight in plan["stage1"]["weights"].items() if name.startswith("parallel/")}
    assert shares == pytest.approx({"parallel/en-id": 0.075, "parallel/en-th": 0.075, "parallel/en-vi": 0.15})
    assert sum(w for n, w in plan["stage2"]["weights"].items() if n.startswith("parallel/")) > 0.1
    counted = tokens.of_run(run.uri).parallel
    assert {name.split("/")[1]: pool.tokens for name, pool in counted.items()} == pools

    # explain
    def told(name):
        return [(one["stage"], one["outcome"], one["rule"]) for one in explain.events(run, name)]

    assert told("own.jsonl:2") == [("parallel/pairs", "dropped", "copy")]
    assert told("own.jsonl:4") == [("parallel/pairs", "dropped", "empty_side")]
    assert told("own.jsonl:1")[-1] == ("parallel/dedup", "dropped", "near_duplicate")
    assert told("village-23")[-1] == ("parallel/decontaminate", "dropped", "contaminated")
    kept = told("village-3")
    assert kept[-2:] == [("parallel/documents", "kept", "document"), ("tokenize", "kept", "pool")]
    with pytest.raises(UserError):
        explain.events(run, "own.jsonl:99")

    # a row of training leads back to its pairs, and a pair out of the rows
    rows = trace.step_rows(run, "pretrain/stage1", 1) + trace.step_rows(run, "pretrain/stage1", 2)
    read = [one for row in rows if row["pool"].startswith("parallel/") for one in row["documents"]]
    by_id = {one["doc_id"]: one for one in documents}
    assert read
    for one in read:
        assert one["pairs"] == by_id[one["doc_id"]]["pairs"] and one["source"] in ("tmx", "moses", "tsv", "own")
    longest = max(documents, key=lambda one: len(one["pairs"]))
    said = data_changes.take_down(run, longest["pairs"][-1], None, None)
    assert said[0].startswith(f"{longest['doc_id']}: ")
    assert data_changes.as_json(run, "pretrain/stage2")["taken_down"] == [longest["doc_id"]]

    # without Ray, the same bytes
    pinisi(tmp_path / "recipe.yaml", "--run-dir", tmp_path / "alone", "--until", "parallel/documents", "--without-ray")
    for folder in ("parallel", "dropped/parallel"):
        paths = sorted((tmp_path / "run" / folder).rglob("*.parquet"))
        assert len(paths) > 10
        for path in paths:
            assert path.read_bytes() == (tmp_path / "alone" / path.relative_to(tmp_path / "run")).read_bytes(), path
