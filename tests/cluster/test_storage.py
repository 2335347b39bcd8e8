"""Storage at local paths and `memory://`: whole files or none."""

import http.server
import shutil
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
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


def test_what_killed_writers_left_goes_when_its_folder_is_complete(tmp_path):
    """Of every way of writing; a file of a like name that is none of theirs stays."""
    kill = (
        "import os, sys\nfrom cluster import storage\nroot = sys.argv[1]\n"
        "storage.write_text(f'{root}/model/old', 'old')\n"
        "file, folder = storage.atomic(f'{root}/sub/part.parquet'), storage.atomic_folder(f'{root}/model')\n"
        "open(file.__enter__(), 'w').close()\nfolder.__enter__()\n"
        "os.link = lambda *_: os.kill(os.getpid(), 9)\nstorage.create_json(f'{root}/lock.json', {})"
    )
    subprocess.run([sys.executable, "-c", kill, str(tmp_path)], check=False, timeout=60)
    (tmp_path / "sub" / "notes.tmp").write_text("mine")
    assert len(list(tmp_path.rglob("*.tmp"))) == 4
    storage.remove_unfinished(str(tmp_path))
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["model/old", "sub/notes.tmp"]
    assert not list(tmp_path.glob(".model*"))


def test_a_folder_is_whole_while_the_old_one_goes(tmp_path, monkeypatch):
    """Deleting a model takes seconds, in which a reader would find half of it."""
    going, rmtree = [], shutil.rmtree

    def watched(path, **options):
        assert [p.name for p in (tmp_path / "model").iterdir()] == ["second"]
        going.append(sorted(p.name for p in Path(path).iterdir()) if Path(path).exists() else [])
        rmtree(path, **options)

    with storage.atomic_folder(str(tmp_path / "model")) as folder:
        (Path(folder) / "first").touch()
    monkeypatch.setattr(shutil, "rmtree", watched)
    with storage.atomic_folder(str(tmp_path / "model")) as folder:
        (Path(folder) / "second").touch()
    assert ["first"] in going
    assert [p.name for p in tmp_path.iterdir()] == ["model"]  # and the old one is gone


def test_a_download_that_broke_off_leaves_nothing_behind(monkeypatch):
    """The second try gives what lies there, not that inside of what the first left."""
    uri = f"memory://{uuid.uuid4().hex}/model"
    storage.write_text(storage.join(uri, "sub", "weights"), "whole")
    fs, _ = storage.filesystem(uri)
    get = type(fs).get

    def breaks_off(self, path, target, **options):
        (Path(target) / "sub").mkdir(parents=True)
        (Path(target) / "sub" / "weights").write_text("ha")
        raise ConnectionError("lost")

    monkeypatch.setattr(type(fs), "get", breaks_off)
    with pytest.raises(ConnectionError):
        storage.localize(uri)
    monkeypatch.setattr(type(fs), "get", get)
    local = Path(storage.localize(uri))
    assert [path.relative_to(local).as_posix() for path in local.rglob("*")] == ["sub", "sub/weights"]
    assert (local / "sub" / "weights").read_text() == "whole"


def test_threads_that_want_the_same_file_download_it_once(monkeypatch):
    uri = f"memory://{uuid.uuid4().hex}/model"
    storage.write_text(storage.join(uri, "weights"), "whole")
    fs, _ = storage.filesystem(uri)
    get, asked = type(fs).get, []

    def slow(self, path, target, **options):
        asked.append(path)
        time.sleep(0.1)
        get(self, path, target, **options)

    monkeypatch.setattr(type(fs), "get", slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(storage.localize, [uri] * 4))
    assert len(set(found)) == 1 and len(asked) == 1
    assert (Path(found[0]) / "weights").read_text() == "whole"


def test_downloads_go_with_their_process(tmp_path):
    code = (
        "from cluster import storage; storage.write_text('memory://x/y', 'z'); print(storage.localize('memory://x/y'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not Path(ran.stdout.strip()).exists()


def test_a_listing_is_not_followed_by_a_request_for_each_file(monkeypatch):
    root = f"memory://{uuid.uuid4().hex}"
    for number in range(20):
        storage.write_text(storage.join(root, f"part-{number:02d}.parquet"), "")
    storage.write_text(storage.join(root, "part-folder.parquet", "x"), "")
    fs, _ = storage.filesystem(root)
    monkeypatch.setattr(type(fs), "isfile", lambda self, path: pytest.fail(f"{path} is asked for by itself"))
    expected = [storage.join(root, f"part-{number:02d}.parquet") for number in range(20)]
    assert storage.glob(storage.join(root, "part-*.parquet")) == expected


def test_a_listing_follows_links_of_a_local_disk(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    (tmp_path / "a").symlink_to(tmp_path / "other" / "x")
    (tmp_path / "b").symlink_to(tmp_path / "other")
    (tmp_path / "c").symlink_to(tmp_path / "nothing")
    assert storage.glob(str(tmp_path / "*")) == [str(tmp_path / "a")]


def test_what_clients_of_stores_raise_is_a_fault_of_the_store():
    """s3fs and gcsfs hand on what aiohttp raises when an answer is cut short at every try."""
    aiohttp = pytest.importorskip("aiohttp")
    exceptions = pytest.importorskip("botocore.exceptions")
    for error in (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, exceptions.ReadTimeoutError, OSError):
        assert issubclass(error, storage.faults())


def test_files_are_what_a_user_means(tmp_path, monkeypatch):
    """A name with any signs, a folder as Spark or Hive writes it, a glob that matches folders; the same as `//` URIs."""
    names = [
        "a[1].jsonl",
        "b::c.jsonl",
        "d e#1.jsonl",
        "f?.jsonl",
        "g*.jsonl",
        "h%20.jsonl",
        "ไทย.jsonl",
        "{i}.jsonl",
        "!j.jsonl",
    ]
    for name in names:
        (tmp_path / name).write_text("x")
        assert list(storage.files(str(tmp_path / name))) == [str(tmp_path / name)]
        assert list(storage.files(f"file://{tmp_path / name}")) == [str(tmp_path / name)]
        assert storage.read_bytes(str(tmp_path / name)) == b"x"
    assert list(storage.files(str(tmp_path / "*.jsonl"))) == sorted(str(tmp_path / name) for name in names)
    spark = tmp_path / "out" / "year=2024" / "month=05"
    spark.mkdir(parents=True)
    for name in ("part-0.parquet", ".part-0.parquet.crc", "_SUCCESS", "_temporary"):
        (spark / name).write_text("x")
    (tmp_path / "out" / "_spark_metadata").mkdir()
    (tmp_path / "out" / "_spark_metadata" / "0").write_text("x")
    (tmp_path / "out" / "_SUCCESS").write_text("")
    for place in ("out", "out/", "o*", "out/*", "out/**", "out/year=*/month=*", "out/*/*/*"):
        assert list(storage.files(str(tmp_path / place))) == [str(spark / "part-0.parquet")], place
    monkeypatch.chdir(tmp_path)
    assert list(storage.files("out")) == [str(spark / "part-0.parquet")]
    assert list(storage.files(str(tmp_path / "none"))) == [] and list(storage.files(str(tmp_path / "none*"))) == []
    fs = fsspec.filesystem("memory")
    for name in ("year=1/part-0.parquet", "year=1/_SUCCESS", "a[1].jsonl"):
        fs.pipe_file(f"/means/{name}", b"x")
    assert list(storage.files("memory://means/year=1")) == ["memory://means/year=1/part-0.parquet"]
    assert list(storage.files("memory://means/*/*.parquet")) == ["memory://means/year=1/part-0.parquet"]


def test_an_http_address_is_a_file_in_which_one_can_seek(tmp_path):
    class Handler(http.server.SimpleHTTPRequestHandler):  # gives no parts of files
        def __init__(self, *args, **options):
            super().__init__(*args, directory=str(tmp_path), **options)

        def log_message(self, *args):
            pass

    (tmp_path / "a b.jsonl").write_bytes(b"0123456789")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        uri = f"http://127.0.0.1:{server.server_port}/a%20b.jsonl?version=1"
        assert list(storage.files(uri)) == [uri]
        with storage.opened(uri) as file:
            assert file.read() == b"0123456789" and file.seek(3) == 3 and file.read(2) == b"34"
        assert list(storage.files(uri.replace("b.jsonl", "c.jsonl"))) == []
    finally:
        server.shutdown()
