"""The three engines: rows of one partition meet, empty inputs, several inputs, tasks in order, errors as they are."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.engines import embedded
from cluster.engines.exchange import Input, partitions, place
from cluster.engines.in_process import OPEN_FILES, Local
from cluster.engines.on_ray import Ray
from cluster.engines.on_spark import Spark
from cluster.shards import Shard
from cluster.spark import session as spark_session
from curation.annotations.join import annotate
from curation.annotations.table import Annotation

NUMBERS = pa.schema([("n", pa.int64())])
NAMES = pa.schema([("n", pa.int64()), ("name", pa.string()), ("data", pa.binary()), ("list", pa.list_(pa.int64()))])
FOUND = pa.schema([("p", pa.int32()), ("n", pa.int64()), ("count", pa.int64()), ("name", pa.string())])


@pytest.fixture(scope="module", params=["local", "ray", "spark"])
def engine(request, tmp_path_factory):
    if request.param == "local":
        with Local() as local:
            yield local
    elif request.param == "ray":
        embedded.start(cpus=2)
        yield Ray()
    else:
        session = spark_session.session(cores=2, memory="1g", temp_dir=str(tmp_path_factory.mktemp("spark")))
        yield Spark(session)
        spark_session.stop(session)


def functions():
    """Functions that pickle by value, for workers cannot import this test."""
    numbers, names, found = NUMBERS, NAMES, FOUND

    def count_to(n):
        for first in range(0, n, 7):
            yield pa.record_batch([pa.array(np.arange(first, min(n, first + 7)))], schema=numbers)

    def sent(n_partitions, names_too):
        def prepare(batch):
            p = pa.array((batch["n"].to_numpy() % n_partitions).astype(np.int32))
            columns = [batch[name] for name in (names.names if names_too else ["n"])]
            schema = pa.schema([("p", pa.int32()), *(names if names_too else numbers)])
            return pa.record_batch([p, *columns], schema=schema)

        return prepare, pa.schema([("p", pa.int32()), *(names if names_too else numbers)])

    def joined(p, left, right):
        left = left.group_by("n").aggregate([("n", "count")]).sort_by("n")
        name = dict(zip(right["n"].to_pylist(), right["name"].to_pylist(), strict=True))
        keys = left["n"].to_pylist()
        columns = [[p] * len(keys), keys, left["n_count"].to_pylist(), [name.get(k) for k in keys]]
        assert all(k % 5 == p for k in keys)
        return pa.table(columns, schema=found)

    def double(n):
        if n < 0:
            raise ValueError("a number below zero: give another")
        return {"n": 2 * n}

    return count_to, sent, joined, double


def test_rows_of_a_partition_meet_whatever_task_made_them(engine):
    count_to, sent, joined, _ = functions()
    numbers = engine.tasks(count_to, [20, 0, 12, 3], NUMBERS)
    assert engine.count(numbers) == 35
    table = pa.table([[1, 3, 9], ["satu", "tiga", None], [b"\x00", b"", None], [[1, 2], [], None]], schema=NAMES)
    names = engine.rows(table)
    assert engine.table(names, NAMES).sort_by("n").equals(table)
    result = engine.by_key([Input(numbers, *sent(5, False)), Input(names, *sent(5, True))], joined, FOUND, 5)
    found = engine.table(result, FOUND).sort_by("n")
    assert found["n"].to_pylist() == list(range(20))
    assert found["p"].to_pylist() == [n % 5 for n in range(20)]
    assert found["count"].to_pylist() == [3] * 3 + [2] * 9 + [1] * 8
    assert [name for name in found["name"].to_pylist() if name] == ["satu", "tiga"]
    assert engine.table(result, FOUND).num_rows == engine.count(result) == 20
    engine.release(numbers, names, result)


@pytest.mark.parametrize("n", [1, 4])
def test_nothing_in_gives_nothing_out_and_the_function_is_not_called(engine, n):
    count_to, sent, _, _ = functions()
    empty = engine.tasks(count_to, [0], NUMBERS)

    def never(p, table):
        raise AssertionError

    result = engine.by_key([Input(empty, *sent(n, False))], never, FOUND, n)
    assert engine.table(result, FOUND).equals(FOUND.empty_table()) and engine.count(result) == 0
    again = engine.by_key([Input(result, lambda batch: batch, FOUND)], never, FOUND, n)
    assert engine.count(again) == 0
    assert engine.count(engine.rows(NUMBERS.empty_table())) == 0


def test_one_input_may_be_empty(engine):
    count_to, sent, joined, _ = functions()
    inputs = [Input(engine.tasks(count_to, [6], NUMBERS), *sent(5, False))]
    inputs.append(Input(engine.rows(NAMES.empty_table()), *sent(5, True)))
    found = engine.table(engine.by_key(inputs, joined, FOUND, 5), FOUND)
    assert sorted(found["n"].to_pylist()) == list(range(6)) and found["name"].null_count == 6


def test_tasks_run_in_order_and_report(engine):
    *_, double = functions()
    seen = []
    assert engine.run(double, range(5), seen.append) == [{"n": 2 * n} for n in range(5)]
    assert seen[-1] == 5 and seen == sorted(seen)
    assert engine.run(double, []) == []
    with pytest.raises(Exception, match="a number below zero: give another"):
        engine.run(double, [1, -1, 2])


def test_local_writes_more_partitions_than_files_may_be_open():
    count_to, sent, _, _ = functions()
    n = OPEN_FILES + 44
    with Local() as engine:
        numbers = engine.tasks(count_to, [n, n], NUMBERS)
        result = engine.by_key(
            [Input(numbers, *sent(n, False))],
            lambda p, table: pa.table([[p], [p], [table.num_rows], [None]], schema=FOUND),
            FOUND,
            n,
        )
        found = engine.table(result, FOUND)
        assert found["p"].to_pylist() == list(range(n)) and set(found["count"].to_pylist()) == {2}
        engine.release(numbers, result)
        assert not list(engine.folder.iterdir())
    assert not engine.folder.exists()


def test_partitions_are_powers_of_two_and_nest():
    assert [partitions(rows, 10, 100) for rows in (0, 1, 10, 11, 20, 21, 1000)] == [1, 1, 1, 2, 2, 4, 128]
    keys = np.random.default_rng(0).integers(-(2**62), 2**62, 10_000)
    wide, narrow = (place(keys, n).to_numpy() for n in (32, 8))
    assert (wide % 8 == narrow).all() and np.bincount(wide, minlength=32).min() > 200
    assert np.bincount(place(np.arange(1000) << 40, 8).to_numpy(), minlength=8).min() > 50


def test_annotations_meet_their_documents_in_equal_bytes(engine, tmp_path):
    """The join of `curation.annotations` in many partitions, beside that of one process in one."""
    urls = [f"https://x.example/{n % 37}" for n in range(90)]
    for part in range(3):
        mine = {"doc_id": [f"{part}-{i}" for i in range(30)], "url": urls[part::3], "lang": ["id", "th", None] * 10}
        pq.write_table(pa.table(mine), tmp_path / f"part-{part}.parquet")
    columns = {"score": "score", "good": "good", "kind": "kind"}
    for number in range(2):
        n = [number + 2 * i for i in range(40)]
        notes = {"url": [f"http://www.x.example/{i % 30}/" for i in n], "score": [i / 7 for i in n]}
        notes |= {"good": [i % 3 == 0 for i in n], "kind": [("blog", None, "สาร")[i % 3] for i in n]}
        pq.write_table(pa.table(notes), tmp_path / f"notes-{number}.parquet")
    files = tuple(str(tmp_path / f"notes-{number}.parquet") for number in range(2))
    types = {"score": "number", "good": "boolean", "kind": "string"}
    asked = [Annotation("notes", files, "url", "url", columns, types)]
    found = []
    for name, on, partition_bytes in (("one", Local(), 1 << 20), ("many", engine, 600)):
        shards = [
            Shard(
                f"part-{i}", str(tmp_path / f"part-{i}.parquet"), str(tmp_path / name), str(tmp_path / f"{name}-l"), "f"
            )
            for i in range(3)
        ]
        counts = annotate(on, shards, asked, partition_bytes=partition_bytes)
        found.append((counts, [Path(shard.part).read_bytes() for shard in shards]))
    assert found[0] == found[1]
    assert found[0][0][0]["rows"] == 80 and sum(found[0][0][0]["matched"].values()) == sum(
        n % 37 < 30 for n in range(90)
    )
