"""One shard: part, ledger and marker; a finished shard is not run again."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cluster import storage
from cluster.shards import Shard, done, ledger_rows, markers, run_shard


def make(tmp_path, texts):
    uri = str(tmp_path / "in" / "part-00000.parquet")
    rows = [{"doc_id": str(i), "lang": "th", "text": text} for i, text in enumerate(texts)]
    table = pa.Table.from_pylist(
        rows, pa.schema([("doc_id", pa.string()), ("lang", pa.string()), ("text", pa.string())])
    )
    storage.write_table(uri, table)
    return Shard("part-00000", uri, str(tmp_path / "out"), str(tmp_path / "dropped"), "f1")


def drop_short(batch):
    keep = pc.greater(pc.binary_length(batch["text"]), 3)
    rows = [
        {"doc_id": i, "lang": "th", "rule": "short", "value": 1.0}
        for i in batch.filter(pc.invert(keep))["doc_id"].to_pylist()
    ]
    return batch.filter(keep), ledger_rows("test", rows)


def test_part_ledger_and_marker(tmp_path):
    shard = make(tmp_path, ["hello", "no", "ภาษา", "x"])
    marker = run_shard(drop_short, shard, batch_rows=2)
    assert (marker["docs_out"], marker["dropped"], marker["rules"]) == (2, 2, {"short": 2})
    assert marker["bytes_per_lang"] == {"th": 5 + 12}
    assert storage.read_table(shard.part)["text"].to_pylist() == ["hello", "ภาษา"]
    ledger = storage.read_table(shard.ledger_part).to_pylist()
    assert [(r["doc_id"], r["stage"], r["rule"]) for r in ledger] == [("1", "test", "short"), ("3", "test", "short")]


def test_a_finished_shard_is_not_run_again_and_another_fingerprint_is(tmp_path):
    shard = make(tmp_path, ["hello"])

    def boom(batch):
        raise RuntimeError

    run_shard(drop_short, shard)
    assert run_shard(boom, shard) == done(shard)
    other = Shard(shard.name, shard.input, shard.output, shard.ledger, "f2")
    assert done(other) is None


def test_markers_come_in_the_order_of_the_shards(tmp_path):
    shards = [Shard(f"part-{i:05d}", "", str(tmp_path / "out"), str(tmp_path / "dropped"), "f1") for i in range(100)]
    for i, shard in enumerate(shards):
        if i % 3:
            storage.write_json(shard.marker, {"fingerprint": f"f{1 + i % 2}", "docs_out": i})
    found = [marker and marker["docs_out"] for marker in markers(shards)]
    assert found == [i if i % 3 and i % 2 == 0 else None for i in range(100)]
    assert markers([]) == []


def test_an_empty_input_gives_an_empty_part(tmp_path):
    shard = make(tmp_path, [])
    assert run_shard(drop_short, shard)["docs_out"] == 0
    assert storage.read_table(shard.part).schema.names == ["doc_id", "lang", "text"]


def lose(batch):
    return batch.slice(1), ledger_rows("test", [])


def repeat(batch):
    return pa.concat_batches([batch, batch.slice(0, 1)]), ledger_rows("test", [])


def keep_and_drop(batch):
    return batch, ledger_rows("test", [{"doc_id": "1", "rule": "short"}])


@pytest.mark.parametrize("kernel", [lose, repeat, keep_and_drop])
def test_a_kernel_that_loses_or_invents_documents_is_not_committed(tmp_path, kernel):
    shard = make(tmp_path, ["hello", "there"])
    with pytest.raises(
        RuntimeError, match=r"part-00000.parquet: 1 documents are neither kept nor in the ledger, or both"
    ):
        run_shard(kernel, shard)
    assert done(shard) is None


def test_a_document_that_was_read_twice_counts_twice(tmp_path):
    shard = make(tmp_path, ["hello", "no"])
    table = storage.read_table(shard.input)
    storage.write_table(shard.input, pa.concat_tables([table, table.slice(1), table]))
    marker = run_shard(drop_short, shard)
    assert (marker["docs_out"], marker["dropped"]) == (2, 3)
