"""Storage on S3: what a server of this machine sees of it."""

from pathlib import Path

import pytest

from cluster import storage


def test_a_bucket_that_is_not_there_is_an_error_and_is_not_made(s3):
    """A name mistyped in --run-dir must not become a bucket on somebody's bill."""
    with pytest.raises(FileNotFoundError, match="does not exist"):
        storage.write_text("s3://mistyped/run/recipe.yaml", "x")
    with (
        pytest.raises(FileNotFoundError, match="does not exist"),
        storage.atomic_folder("s3://mistyped/model") as folder,
    ):
        (Path(folder) / "weights").touch()
    assert "mistyped" not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}


def test_files_and_folders_come_and_go(s3):
    s3.create_bucket(Bucket="runs")
    for number in range(3):
        storage.write_text(f"s3://runs/a/part-{number}.parquet", "x" * number)
    assert storage.glob("s3://runs/a/part-*.parquet") == [f"s3://runs/a/part-{number}.parquet" for number in range(3)]
    assert storage.glob("s3://runs/a/part-1.parquet") == ["s3://runs/a/part-1.parquet"]
    assert storage.glob("s3://runs/none/*") == [] and storage.size("s3://runs/a") == 3
    with storage.atomic_folder("s3://runs/a/model") as folder:
        (Path(folder) / "sub").mkdir()
        (Path(folder) / "sub" / "weights").write_text("w")
    assert storage.glob("s3://runs/a/*") == [f"s3://runs/a/part-{number}.parquet" for number in range(3)]
    assert (Path(storage.localize("s3://runs/a/model")) / "sub" / "weights").read_text() == "w"
    assert Path(storage.localize("s3://runs/a/part-2.parquet")).read_text() == "xx"
    storage.remove("s3://runs/a")
    assert not storage.exists("s3://runs/a/part-0.parquet")


def test_what_is_created_is_not_written_over(s3, monkeypatch):
    """Two runs that begin at once: the second looks before the first has written, and is refused by the bucket itself."""
    s3.create_bucket(Bucket="locks")
    assert storage.create_json("s3://locks/run/_lock.json", {"first": 1})
    filesystem = type(storage.filesystem("s3://locks/run")[0])
    real, looked = filesystem.exists, []

    def late(self, path, **more):
        looked.append(path)
        return False if len(looked) == 1 else real(self, path, **more)

    monkeypatch.setattr(filesystem, "exists", late)
    assert not storage.create_json("s3://locks/run/_lock.json", {"second": 2}) and len(looked) == 2
    assert storage.read_json("s3://locks/run/_lock.json") == {"first": 1}
