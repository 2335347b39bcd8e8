"""`pinisi explain` on a run written by hand: a kept, a dropped and an unknown document."""

import pyarrow as pa
import pytest

from cluster import storage
from cluster.shards import LEDGER, ledger_rows
from ray_jobs import explain
from ray_jobs import recipe as recipes
from ray_jobs.errors import UserError
from ray_jobs.locate import Keys, parts
from ray_jobs.run import Run

RECIPE = {"name": "tiny", "sources": [{"name": "s", "type": "jsonl", "path": "/nothing/*.jsonl", "optional": True}]}
ROWS = [
    {"doc_id": "a1", "url": "https://x.example/a", "source_id": "row-a", "lang": "th", "lang_score": 0.9},
    {"doc_id": "b2", "url": "https://x.example/b", "source_id": "row-b", "lang": "lo", "lang_score": 0.8},
]


@pytest.fixture
def run(tmp_path):
    run = Run(str(tmp_path), recipes.parse(RECIPE, "test"))
    for stage, rows in (("crawl", ROWS), ("language", ROWS), ("filter/policy", ROWS[:1])):
        storage.write_table(storage.join(run.uri, stage, "part-00000.parquet"), pa.Table.from_pylist(rows))
        storage.write_json(storage.join(run.uri, stage, "_manifest.json"), {"fingerprint": "f"})
    keys = Keys()
    keys.add(pa.RecordBatch.from_pylist(ROWS))
    keys.write(run.uri, "part-00000.parquet")
    drop = [
        {
            "doc_id": "b2",
            "url": "https://x.example/b",
            "lang": "lo",
            "rule": "word_count_min",
            "value": 3.0,
            "threshold": 10.0,
        }
    ]
    ledger = pa.Table.from_batches([ledger_rows("filter/policy", drop)], LEDGER)
    storage.write_table(storage.join(run.uri, "dropped", "filter/policy", "part-00000.parquet"), ledger)
    return run


@pytest.mark.parametrize("name", ["b2", "row-b", "https://x.example/b", "http://www.x.example/b/"])
def test_a_dropped_document_by_any_of_its_names(run, name):
    found = explain.events(run, name)
    assert [(e["stage"], e["outcome"]) for e in found] == [
        ("crawl", "kept"),
        ("language", "kept"),
        ("filter/policy", "dropped"),
    ]
    assert (found[-1]["rule"], found[-1]["value"], found[-1]["threshold"]) == ("word_count_min", 3.0, 10.0)
    assert (found[1]["rule"], found[1]["detail"], found[1]["value"]) == ("language", "lo", 0.8)
    assert {e["url"] for e in found} == {"https://x.example/b"}


def test_a_kept_document(run, capsys):
    found = explain.events(run, "row-a")
    assert [e["outcome"] for e in found] == ["kept"] * 3
    explain.show(found)
    assert "https://x.example/a" in capsys.readouterr().out


def test_a_stranger(run):
    with pytest.raises(UserError, match="no document of"):
        explain.events(run, "https://x.example/c")


def test_a_name_is_looked_up_in_the_parts_that_hold_it(tmp_path):
    names = [f"doc-{i}" for i in range(200_000)]
    for part in range(2):
        keys = Keys()
        keys.add(
            pa.RecordBatch.from_pydict(
                {"doc_id": names[part::2], "url": [f"https://{n}.example/" for n in names[part::2]]}
            )
        )
        keys.write(str(tmp_path), f"part-{part:05d}.parquet")
    for i in (0, 1, 77_777, 199_998):
        here = [f"part-{i % 2:05d}.parquet"]
        assert parts(str(tmp_path), f"doc-{i}") == parts(str(tmp_path), f"https://www.doc-{i}.example") == here
    assert parts(str(tmp_path), "doc-200000") == []
