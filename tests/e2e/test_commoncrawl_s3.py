"""Common Crawl in a bucket of a local S3 server, and the run in another one: the same files as from disk to disk."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from commoncrawl_site import Snapshot, build, pages

from cluster import storage
from cluster.fetch import s3_request

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_from_bucket_to_bucket(s3, tmp_path):
    for bucket in ("commoncrawl", "runs"):
        s3.create_bucket(Bucket=bucket)
    site = tmp_path / "site"
    build(site, [Snapshot("CC-MAIN-2024-18", [pages(30, seed=i) for i in range(4)])])
    for path in site.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), "commoncrawl", f"mirror/{path.relative_to(site)}")
    recipe = {
        "name": "t",
        "cluster": {"cpus": 2},
        "crawl": {"shard_bytes": 50_000},
        "fetch": {"gap_bytes": 3000, "requests_per_second": 100.0},
        "sources": [
            {
                "name": "cc",
                "type": "commoncrawl",
                "snapshots": "CC-MAIN-2024-18",
                "select": {"languages": ["km", "lo"]},
            },
            {"name": "wet", "type": "commoncrawl", "snapshots": "CC-MAIN-2024-18", "kind": "wet", "max_files": 1},
        ],
    }
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(recipe))
    places = {str(tmp_path / "run"): str(site), "s3://runs/cc": "s3://commoncrawl/mirror"}
    for run, base in places.items():
        arguments = [
            "run",
            str(tmp_path / "t.yaml"),
            "--set",
            f"fetch.base={base}",
            "--run-dir",
            run,
            "--until",
            "crawl",
        ]
        subprocess.run(
            [sys.executable, "-m", "ray_jobs.cli", *arguments], cwd=ROOT, env=os.environ, check=True, timeout=180
        )
    files = [path for path in (tmp_path / "run").rglob("*.parquet") if "_plan" not in path.parts]
    assert len(files) > 8
    for file in files:
        name = file.relative_to(tmp_path / "run").as_posix()
        assert storage.read_bytes(storage.join("s3://runs/cc", name)) == file.read_bytes(), name


def test_addresses_and_signatures(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(s3_request, "_credentials", threading.local())
    path = "s3://commoncrawl/crawl-data/CC MAIN+x/a=b.gz"
    address = s3_request.url(path, "us-east-1")
    assert address == "https://commoncrawl.s3.us-east-1.amazonaws.com/crawl-data/CC%20MAIN%2Bx/a%3Db.gz"
    assert s3_request.url("s3://my.mirror/k", "eu-west-1") == "https://s3.eu-west-1.amazonaws.com/my.mirror/k"
    headers = s3_request.signed_headers(address, "us-east-1", {"Range": "bytes=0-9"})
    assert headers["Range"] == "bytes=0-9" and headers["Authorization"].startswith(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"
    )
    assert "/us-east-1/s3/aws4_request" in headers["Authorization"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9000/")
    assert s3_request.url("s3://b/k", "us-east-1") == "http://localhost:9000/b/k"


def test_missing_credentials_are_a_sentence(monkeypatch):
    nobody = threading.local()
    nobody.found = None
    monkeypatch.setattr(s3_request, "_credentials", nobody)
    with pytest.raises(ValueError, match=r"no AWS credentials.*fetch.anonymous: true"):
        s3_request.signed_headers("https://b.s3.amazonaws.com/k", "us-east-1", {})
