"""Storage at local paths and `memory://`: whole files or none."""

import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from cluster import storage


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    return str(tmp_path / "root") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def test_write_read_glob_remove(root):
    storage.write_json(storage.join(root, "a", "x.json"), {"ภาษา": 1})
    storage.write_text(storage.join(root, "a", "b", "y.txt"), "hello")
    assert storage.read_json(storage.join(root, "a", "x.json")) == {"ภาษา": 1}
    assert storage.glob(storage.join(root, "a", "*")) == [storage.join(root, "a", "x.json")]
    assert storage.size(storage.join(root, "a", "b", "y.txt")) == 5
    assert storage.size(storage.join(root, "nothing")) == 0
    storage.remove(storage.join(root, "a"))
    storage.remove(storage.join(root, "a"))
    assert not storage.exists(storage.join(root, "a", "x.json"))


def test_a_failed_write_leaves_the_old_file_and_no_other(root):
    uri = storage.join(root, "f")
    storage.write_text(uri, "old")
    with pytest.raises(RuntimeError), storage.atomic(uri) as path:
        Path(path).write_text("half")
        raise RuntimeError
    assert storage.read_bytes(uri) == b"old"
    assert storage.glob(storage.join(root, "*")) == [uri]


def test_parquet_is_deterministic(root):
    table = pa.table({"a": list(range(1000)), "b": ["x"] * 1000})
    one, two = storage.join(root, "part-0.parquet"), storage.join(root, "part-1.parquet")
    storage.write_table(one, table)
    storage.write_table(two, table)
    assert storage.read_bytes(one) == storage.read_bytes(two)
    assert storage.read_table(root).num_rows == 2000
    assert storage.read_table(one, ["a"]).column_names == ["a"]


def test_folders_are_replaced_whole(root):
    uri = storage.join(root, "model")
    for name in ("first", "second"):
        with storage.atomic_folder(uri) as folder:
            (Path(folder) / "sub").mkdir()
            (Path(folder) / "sub" / name).write_text(name)
    assert storage.glob(storage.join(uri, "sub", "*")) == [storage.join(uri, "sub", "second")]
    local = Path(storage.localize(uri))
    assert (local / "sub" / "second").read_text() == "second"
