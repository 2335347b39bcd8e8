"""Block lists in the crawl stage: what a reader hands on is refused by name, and a changed list runs the stage again."""

import json
import os

import pytest

from cluster import storage
from cluster.shards import Shard
from ray_jobs.commoncrawl.blocks import Lists
from ray_jobs.config import reader as recipes
from ray_jobs.config.curation import Crawl, Source
from ray_jobs.errors import UserError
from ray_jobs.run import files
from ray_jobs.run.run import Run
from ray_jobs.stages import crawl


@pytest.fixture
def source(tmp_path):
    urls = ["http://good.example/a", "http://ads.bad.example/b", None, "https://www.news.example/adult/c"]
    rows = [{"id": str(i), "url": url, "text": f"text {i}"} for i, url in enumerate(urls)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "not json\n")
    (tmp_path / "domains.txt").write_text("bad.example\n")
    (tmp_path / "urls.txt").write_text("news.example/adult\n")
    return Source(name="s", type="jsonl", path=str(tmp_path / "*.jsonl"))


def test_refused_records_are_in_the_ledger(source, tmp_path):
    out = str(tmp_path / "run" / "crawl")
    one = Shard("part-00000", source.path, out, str(tmp_path / "run" / "dropped" / "crawl"), "f")
    lists = Lists((str(tmp_path / "domains.txt"),), (str(tmp_path / "urls.txt"),))
    paths = [str(tmp_path / "rows.jsonl")]
    marker = crawl._read((str(tmp_path / "run"), source, Crawl(), lists, paths, one))
    assert marker["rules"] == {"blocked_domain": 1, "blocked_url": 1, "invalid_json": 1}
    assert storage.read_table(one.part)["source_id"].to_pylist() == ["0", "2"]
    ledger = {row["rule"]: row for row in storage.read_table(one.ledger_part).to_pylist()}
    assert ledger["blocked_domain"]["detail"] == "bad.example"
    assert ledger["blocked_url"]["url"] == "https://www.news.example/adult/c"
    assert ledger["blocked_url"]["stage"] == "crawl"


def test_a_changed_list_runs_the_stage_again(source, tmp_path):
    def prints(**crawl_keys):
        recipe = {"name": "t", "sources": [source.model_dump()], "crawl": crawl_keys}
        return Run(str(tmp_path / "run"), recipes.parse(recipe, "test")).fingerprints()["crawl"]

    lists = {"block_domains": [str(tmp_path / "d*.txt")]}
    first = prints(**lists)
    assert first == prints(**lists) != prints()
    (tmp_path / "domains.txt").write_text("bad.example\nworse.example\n")
    os.utime(tmp_path / "domains.txt", (1, 1))
    assert prints(**lists) != first


def test_a_glob_that_matches_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"crawl.block_urls: no file matches .*none"):
        files.named([str(tmp_path / "none*")], "crawl.block_urls")
