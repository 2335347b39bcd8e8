"""The dedup stage of two runs on the plain engine: the second knows the index of the first, and `explain` names it."""

import pyarrow as pa
import pytest

from cluster import storage
from ray_jobs.commands import explain
from ray_jobs.config import reader as recipes
from ray_jobs.run.files import listing
from ray_jobs.run.job import Job
from ray_jobs.run.locate import Keys
from ray_jobs.run.progress import Progress
from ray_jobs.run.run import Run
from ray_jobs.stages import dedup

TEXT = (
    "perahu layar besar itu berangkat dari pelabuhan lama menuju pulau kecil di timur sebelum matahari terbit pagi ini"
)
SOURCE = {"name": "s", "type": "jsonl", "path": "/nothing/*.jsonl", "optional": True}


def run_of(folder, name: str, rows: list[dict], **settings) -> Run:
    values = {"name": name, "sources": [SOURCE], "cluster": {"engine": "local"}, "dedup": settings}
    run = Run(str(folder / name), recipes.parse(values, "test"))
    table = pa.Table.from_pylist([{"lang": "id", "crawl": name, "source_id": row["doc_id"], **row} for row in rows])
    for stage in ("crawl", "filter/policy"):
        storage.write_table(storage.join(run.uri, stage, "part-00000.parquet"), table)
        storage.write_json(storage.join(run.uri, stage, "_manifest.json"), {"fingerprint": "f", "docs_out": len(rows)})
    keys = Keys()
    keys.add(table.to_batches()[0])
    keys.write(run.uri, "part-00000.parquet")
    stage = next(stage for stage in run.stages if stage.name == "dedup")
    with Progress("dedup", print) as progress:
        result = dedup.run(Job(run.recipe, run.uri, stage, "f", progress))
    assert result["docs_in"] == result["docs_out"] + result["dropped"] == len(rows)
    storage.write_json(storage.join(run.uri, "dedup", "_manifest.json"), {"fingerprint": "f", **result})
    return run


def test_explain_names_the_document_of_the_earlier_run(tmp_path, monkeypatch):
    first = [{"doc_id": "old", "url": "https://x.id/lama", "text": TEXT}]
    before = run_of(tmp_path, "jan", first)
    monkeypatch.chdir(tmp_path)
    rows = [
        {"doc_id": "copy", "url": "https://y.id/salinan", "text": TEXT + " juga"},
        {"doc_id": "page", "url": "http://www.x.id/lama/", "text": "sama sekali lain isinya sekarang " * 3},
        {
            "doc_id": "new",
            "url": "https://x.id/baru",
            "text": "harga beras di pasar naik sejak awal bulan",
        },
    ]
    run = run_of(tmp_path, "feb", rows, indexes=["jan"])
    last = {name: explain.events(run, name)[-1] for name in ("copy", "page", "new")}
    assert (last["copy"]["rule"], last["copy"]["detail"]) == ("near_duplicate_earlier", "jan:old")
    assert (last["page"]["rule"], last["page"]["detail"]) == ("url_duplicate_earlier", "jan:old")
    assert (last["new"]["stage"], last["new"]["outcome"]) == ("dedup", "kept")
    seen = listing(run.recipe, "dedup.indexes")
    header = storage.join(before.uri, "dedup", "index", "_index.json")
    storage.write_json(header, {**storage.read_json(header), "documents": 2})
    assert listing(run.recipe, "dedup.indexes") != seen  # another index, another fingerprint


def test_a_run_without_an_index_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="nowhere has no index; give a run directory or its dedup/index"):
        run_of(tmp_path, "feb", [{"doc_id": "a", "url": "", "text": TEXT}], indexes=[str(tmp_path / "nowhere")])
