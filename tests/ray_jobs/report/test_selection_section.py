"""The report's numbers on selection and reward model, from tables written by hand."""

import numpy as np
import pyarrow as pa
import pytest

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.report import page as report
from ray_jobs.report import selection as selection_section
from ray_jobs.run.run import Run

SOURCES = [{"name": "s", "type": "jsonl", "path": "/nothing/*.jsonl", "optional": True}]


@pytest.fixture
def run(tmp_path):
    optimiser = {"rows_per_step": 1, "lr": 1.0}
    pretrain = {"tokens": 1, "rows_per_step": 1}
    train = {
        "base": {"model": "x"},
        "expand": {"new_layers": 1},
        "pretrain": {"stage1": pretrain, "stage2": pretrain},
        "reward": {"preference": "x", "optimiser": optimiser},
        "sft": {"instruct": "x", "stage1": {"optimiser": optimiser}, "stage2": {"optimiser": optimiser}},
    }
    run = Run(str(tmp_path), recipes.parse({"name": "tiny", "sources": SOURCES, "train": train}, "test"))
    rules = ["taken", "taken", "too_similar", "quota", "taken"]
    decisions = {
        "id": list("abcde"),
        "lang": ["th", "th", "th", "th", "lo"],
        "category": ["qa", "qa", "qa", "talk", "qa"],
        "rule": rules,
        "score": [0.5, 0.31, 0.3, 0.01, 0.5],
        "cosine": [None, 0.1, 0.9, None, None],
    }
    heldout = {
        "id": list("abcd"),
        "lang": ["th", "th", "<b>", "lo"],
        "chosen_reward": np.array([1, 2, 3, 0], np.float32),
        "rejected_reward": np.array([0, 3, 1, 0], np.float32),
        "chosen_characters": [10, 20, 30, 4],
        "rejected_characters": [20, 10, 10, 4],
    }
    storage.write_table(storage.join(run.uri, "sft/select/decisions.parquet"), pa.table(decisions))
    storage.write_table(storage.join(run.uri, "reward/heldout.parquet"), pa.table(heldout))
    for stage in ("reward", "sft/select"):
        storage.write_json(
            storage.join(run.uri, stage, "_manifest.json"), {"fingerprint": "f", "seconds": 1.0, "versions": {}}
        )
    return run


def test_counts_by_rule_and_cell(run):
    found = selection_section.selection(run.uri)
    assert found["candidates"] == 5
    assert found["rules"] == {"taken": 3, "too_similar": 1, "quota": 1}
    assert found["cells"] == [["lo", "qa", 1, 0, 0], ["th", "qa", 2, 1, 0], ["th", "talk", 0, 0, 1]]


def test_the_reward_model_in_numbers(run):
    found = selection_section.reward(run.uri)
    assert (found["pairs"], found["accuracy"]) == (4, 0.625)
    assert [row[:3] for row in found["languages"]] == [["<b>", 1, 1.0], ["lo", 1, 0.5], ["th", 2, 0.5]]
    assert found["bias"]["accuracy_longer_rejected"] == 1.0
    assert found["bias"]["accuracy_longer_chosen"] == 0.5


def test_the_page_shows_both(run):
    page = storage.read_bytes(report.write(run)).decode()
    assert "3 taken, 1 too similar to one taken before, 1 beyond the quota" in page
    assert "prefers the chosen answer in 62.5% of them" in page
    assert "no better than chance" in page
    assert "<td><b></td>" not in page


def test_without_them_the_page_has_no_such_section(run):
    storage.remove(storage.join(run.uri, "reward"))
    storage.remove(storage.join(run.uri, "sft/select"))
    page = storage.read_bytes(report.write(run)).decode()
    assert 'id="selection"' not in page and 'id="reward"' not in page
