"""Records of a stage that trains, in `pinisi status` and in the report, while it trains."""

import json
import re

import pytest

from cluster import storage
from ray_jobs.commands import status
from ray_jobs.config import reader as recipes
from ray_jobs.report import curves
from ray_jobs.report import page as report
from ray_jobs.report.names import named
from ray_jobs.run.run import Run

LANGUAGES = ["en", "zh", "id", "vi", "th", "lo", "km", "my", "ms", "ceb", "ilo", "jv"]
START = {lang: 1.5 + i / 10 for i, lang in enumerate(LANGUAGES)}


def record(step: int) -> dict:
    found = {
        "step": step,
        "loss": 4.0 - step / 100,
        "tokens": 100 * step,
        "tokens_per_second": 5120.0,
        "teraflops": 0.0123,
        "mfu": 0.413,
        "data_wait": 0.005,
        "memory_bytes": 3 << 30,
        "loss_by_language": {lang: 3.0 + i / 10 for i, lang in enumerate(LANGUAGES)},
    }
    if step % 20 == 0:
        change = {lang: -0.1 for lang in LANGUAGES} | {"en": 0.07}
        found |= {
            "bits_per_byte": {lang: START[lang] + change[lang] for lang in LANGUAGES},
            "bits_per_byte_change": change,
            "validation_loss": dict.fromkeys(LANGUAGES, 2.5),
            "forgetting": {"en": 0.07},
        }
    return found


@pytest.fixture
def run(tmp_path):
    """A run whose pretrain/stage1 is at update 30."""
    run = Run(str(tmp_path), recipes.load("demo"))
    storage.write_json(storage.join(run.uri, "pretrain", "stage1", "_started.json"), {"fingerprint": "g"})
    lines = "".join(json.dumps(record(step)) + "\n" for step in (10, 20, 30))
    storage.write_text(storage.join(run.uri, "metrics", "pretrain-stage1.jsonl"), lines)
    return run


def test_the_newest_record_keeps_what_was_measured_last(run):
    found = curves.newest(curves.records(run.uri, "pretrain/stage1"))
    assert found["step"] == 30 and found["loss"] == 3.7
    assert found["bits_per_byte"]["lo"] == START["lo"] - 0.1
    (said,) = found["warnings"]
    assert said.startswith("en is being forgotten: 0.070 bits per byte more") and "update 20" in said
    assert curves.records(run.uri, "sft/stage1") == []
    assert "warnings" not in curves.newest([record(10)])


def test_status_of_a_stage_that_trains(run, capsys):
    rows = status.rows(run)
    (row,) = (row for row in rows if row["name"] == "pretrain/stage1")
    assert row["state"] == "started" and row["training"]["loss_by_language"]["lo"] == 3.5
    assert all("training" not in other for other in rows if other is not row)
    status.show(rows)
    shown = capsys.readouterr().out
    said = "pretrain/stage1: update 30, loss 3.7, 5,120 tokens/s, MFU 41.3%, 0.0123 TFLOP/s a worker"
    assert said in " ".join(shown.split())
    assert re.search(r"^ *Lao \(lo\) +3\.500 +2\.500 +1\.900 +-0\.100 *$", shown, re.M)
    assert re.search(r"^ *English \(en\) +3\.000 +2\.500 +1\.570 +\+0\.070 *$", shown, re.M)
    assert "pretrain/stage1: en is being forgotten" in shown


def test_the_report_of_a_run_that_trains(run):
    page = storage.read_bytes(report.write(run)).decode()
    assert "Training loss by language: pretrain/stage1" in page and "Held-out text while training" in page
    assert "pretrain/stage1: en is being forgotten" in page
    for lang in LANGUAGES:  # also those after the tenth colour
        assert f">{named(lang)}</text>" in page, lang


def test_held_out_curves_begin_with_the_model_that_came_in(run, monkeypatch):
    drawn = {}
    monkeypatch.setattr("ray_jobs.report.plots.lines", lambda series, x, y: drawn.setdefault(y, series) and "")
    titles = [title for title, _ in curves.languages({"pretrain/stage1": curves.records(run.uri, "pretrain/stage1")})]
    assert titles == ["Training loss by language: pretrain/stage1", "Held-out text while training: pretrain/stage1"]
    assert drawn["bits per byte"]["Lao (lo)"] == ([0, 2000], [pytest.approx(START["lo"]), START["lo"] - 0.1])
    assert drawn["nats per token"]["Lao (lo)"] == ([1000, 2000, 3000], [3.5, 3.5, 3.5])
