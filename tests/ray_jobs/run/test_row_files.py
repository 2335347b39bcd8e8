"""Rows from JSON Lines, JSON, Parquet and Hugging Face data sets; what is no row is named, and reading goes on."""

import bz2
import gzip
import json
import lzma

import datasets
import pyarrow as pa
import pytest

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.run import files
from ray_jobs.run.row_files import is_hf, read


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


ROWS = [{"id": "a", "messages": [{"role": "user", "content": "ສະບາຍດີ"}]}, {"id": "b", "messages": []}]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "a.jsonl").write_text(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "c.json").write_text(json.dumps(ROWS, indent=1))
    (folder / "d.json").write_text(lines)
    storage.write_table(str(folder / "e.parquet"), pa.Table.from_pylist(ROWS))
    found = datasets.Dataset.from_list(ROWS)
    found.save_to_disk(str(folder / "saved"))
    datasets.DatasetDict({"chat": found}).save_to_disk(str(folder / "splits"))
    (folder / "repo").mkdir()
    found.to_parquet(str(folder / "repo" / "train.parquet"))
    return folder


@pytest.mark.parametrize(
    "name", ["a.jsonl", "b.jsonl.gz", "c.json", "d.json", "e.parquet", "hf:saved", "hf:splits@chat", "hf:repo"]
)
def test_every_kind_gives_the_same_rows(places, name):
    uri = f"hf:{places}/{name[3:]}" if is_hf(name) else str(places / name)
    found = list(read(uri))
    assert [row for _, row, _ in found] == ROWS
    assert files.rows(uri) == ROWS
    assert len({where for where, _, _ in found}) == 2


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd])
@pytest.mark.parametrize("form", ["lines", "array", "array with a mark", "array in one line", "parquet"])
@pytest.mark.parametrize("name", ["chats", "chats.jsonl", "chats.json.gz", "chats.parquet.txt", "chats 2%.JSON"])
def test_bytes_say_what_a_file_is(places, tmp_path, pack, form, name):
    data = {
        "lines": (places / "a.jsonl").read_bytes(),
        "array": (places / "c.json").read_bytes(),
        "array with a mark": b"\xef\xbb\xbf" + (places / "c.json").read_bytes(),
        "array in one line": json.dumps(ROWS).encode(),
        "parquet": (places / "e.parquet").read_bytes(),
    }[form]
    (tmp_path / name).write_bytes(data if form == "parquet" else pack(data))
    assert [row for _, row, _ in read(str(tmp_path / name))] == ROWS


def test_a_packed_file_that_breaks_gives_the_rows_before(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps({"id": n}) + "\n" for n in range(20_000)).encode())[:-3000])
    found = list(read(str(path)))
    assert [row["id"] for _, row, _ in found if row] == list(range(sum(1 for _, row, _ in found if row)))
    assert "ends early" in found[-1][2] or found[-1][1] is None


def test_lines_that_are_no_rows_are_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": 1}\n\n[1]\n{"id"\n{"id": "\xff"}\n' + b"[" * 100_000 + b'\n{"id": 2}\n')
    found = list(read(str(path)))
    assert [row and row["id"] for _, row, _ in found] == [1, None, None, None, None, 2]
    assert [where.rsplit(" ", 1)[1] for where, _, _ in found] == ["1", "3", "4", "5", "6", "7"]
    with pytest.raises(UserError, match=r"x\.jsonl, line 3: a row must be a JSON object"):
        files.rows(str(path))


@pytest.mark.parametrize("name", ["broken.parquet", "broken.jsonl.gz", "broken.json"])
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"[nothing")
    with pytest.raises(UserError, match=f"{name}: "):
        files.rows(str(tmp_path / name))


def test_no_such_split(places):
    with pytest.raises(UserError, match="no such data set or split"):
        files.rows(f"hf:{places}/splits@none")


def test_a_data_set_is_its_own_name():
    assert files.expand("hf:owner/name@train") == ["hf:owner/name@train"]
    assert not is_hf("hf://datasets/owner/name/*.parquet")
