"""A shortcut classifier is told in the manifest, in `pinisi status` and in the report."""

from cluster import storage
from ray_jobs.commands import status
from ray_jobs.config import reader as recipes
from ray_jobs.report import page as report
from ray_jobs.run.run import Run
from ray_jobs.stages import quality

RECIPE = {"name": "tiny", "sources": [{"name": "s", "type": "jsonl", "path": "/nothing/*.jsonl", "optional": True}]}
SHORTCUT = {"auc": 0.99, "native": 1200, "above_median": 0.312, "shortcut": True}


def test_one_sentence_for_each_shortcut():
    found = quality.warnings({"id": {**SHORTCUT, "shortcut": False}, "th": {"auc": 0.9}, "vi": SHORTCUT})
    assert len(found) == 1
    assert found[0].startswith(
        "quality: the vi classifier puts only 31% of 1,200 good native texts (quality.native) above"
    )


def test_it_is_shown(tmp_path, capsys):
    run = Run(str(tmp_path), recipes.parse(RECIPE, "test"))
    warnings = [*quality.warnings({"vi": SHORTCUT}), "quality: <b>not</b> markup [red]either"]
    manifest = {
        "fingerprint": "f",
        "docs_in": 1,
        "docs_out": 1,
        "seconds": 1,
        "versions": {},
        "hosts": ["h"],
        "warnings": warnings,
    }
    manifest |= {"config": {}, "inputs": {}, "hosts": ["h"]}
    storage.write_json(storage.join(run.uri, "quality", "_manifest.json"), manifest)
    rows = status.rows(run)
    assert {row["name"]: row["warnings"] for row in rows}["quality"] == warnings
    status.show(rows)
    shown = " ".join(capsys.readouterr().out.split())
    assert "the vi classifier puts only 31%" in shown and "[red]either" in shown
    page = storage.read_bytes(report.write(run)).decode()
    assert "quality: the vi classifier" in page and "&lt;b&gt;not" in page
