"""A run with `synthesize`, killed with SIGKILL amid its requests: the same bytes as undisturbed, and no reply asked for twice."""

import gzip
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from killed import kill
from model_server import one_of, say, serving

from cluster import storage
from mixture.store.token_store import TokenStore
from ray_jobs.commands import explain, trace
from ray_jobs.commands.data_changes import take_down
from ray_jobs.config.reader import SAMPLE
from ray_jobs.publish import corpus
from ray_jobs.report import page
from ray_jobs.run import made_from
from ray_jobs.run.run import open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def gold(lang):
    with gzip.open(f"{SAMPLE}/gold/{lang}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    return [row["text"] for row in rows if row["fate"] == "kept" and row["lang"] == lang and not row["near"]]


NATIVE, TRANSLATIONS = gold("id")[::2], gold("id")[1::2]
KILLED_AT = 12


def recipe(folder, url):
    rows = [{"id": f"{lang}{i}", "lang": lang, "url": f"https://{lang}.example/{i}", "text": text}
            for lang, texts in (("en", gold("en")), ("id", NATIVE)) for i, text in enumerate(texts)]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    endpoint = {"base_url": url, "model": "big-1", "key_variable": "", "concurrency": 2, "attempts": 1}
    task = {"name": "en-id", "engine": "endpoint", "endpoint": endpoint, "licence": "apache-2.0", "prompt": "translate",
            "languages": ["en"], "to": ["id"], "piece_chars": 100_000}  # fmt: skip
    bounds = {"min_length": 0, "max_length": 1000}
    train = {"context": 64, "base": {"shape": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 1, "intermediate_size": 24}, "languages": ["en", "id"], "tokens": 640,
             "optimiser": {"rows_per_step": 2, "lr": 1e-3}}, "pretrain": {
             "stage1": {"tokens": 640, "rows_per_step": 2}, "stage2": {"tokens": 640, "rows_per_step": 2}}}  # fmt: skip
    values = {
        "name": "synthetic",
        "languages": ["en", "id"],
        "sources": [{"name": "pages", "type": "jsonl", "path": str(folder / "rows.jsonl"), "trust_language": True}],
        "cluster": {"engine": "local", "cpus": 1},
        "tokenize": {"vocab_size": 600, "heldout_share": 0.1},
        "synthesize": {"tasks": [task], "accept": bounds, "max_share": {"default": 0.7}},
        "train": train,
    }
    (folder / "synthetic.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "synthetic.yaml")


def start(of, run, until):
    command = [
        sys.executable,
        "-m",
        "ray_jobs.cli",
        "run",
        of,
        "--run-dir",
        str(run),
        "--without-ray",
        "--until",
        until,
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(of, run, until):
    process = start(of, run, until)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()
    return said.decode()


def made(run):
    """What the stages from `synthesize` on have written, but for the replies."""
    paths = [path for stage in ("synthesize", "dropped/synthesize", "dropped/tokenize", "tokenize")
             for path in sorted((run / stage).rglob("*")) if path.is_file()]  # fmt: skip
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in paths
        if path.name[0] != "_" and not {"_replies", "_shards"} & {*path.parts}
    }


def test_killed_explained_taken_down(tmp_path):
    with serving(lambda n, text: say(one_of(TRANSLATIONS, text))) as server:
        of = recipe(tmp_path, server.url)
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        finish(of, whole, "quality")
        shutil.copytree(whole, killed)
        said = finish(of, whole, "tokenize")
        assert "texts of" in said and "requests" in said and server.bodies
        assert max(server.seen.values()) == 1
        whole_seen, server.seen = server.seen, Counter()

        def slow(n, text):
            time.sleep(0.02 if sum(server.seen.values()) <= KILLED_AT else 3)
            return say(one_of(TRANSLATIONS, text))

        server.behave = slow
        process = start(of, killed, "tokenize")
        while sum(server.seen.values()) < KILLED_AT + 2:
            assert process.poll() is None, process.stdout.read().decode()
            time.sleep(0.02)
        kill(process)
        in_flight = 2
        server.behave = lambda n, text: say(one_of(TRANSLATIONS, text))
        finish(of, killed, "tokenize")
        assert server.seen.keys() == whole_seen.keys()
        assert sum(n - 1 for n in server.seen.values()) <= in_flight
        assert made(killed) == made(whole)

    run = open_run(str(killed))
    kept = storage.read_table(str(killed / "synthesize/part-synthetic-00000.parquet")).to_pylist()
    stores = {lang: TokenStore(str(killed / f"tokenize/pools/all/{lang}")) for lang in ("en", "id")}
    trained = [row for row in kept if stores["id"].rows_of([row["doc_id"]])]
    assert 3 < len(trained) <= len(kept)
    one = trained[0]
    (url,) = {event["url"] for event in explain.events(run, one["made_from"]) if event["doc_id"] == one["made_from"]}
    for name in (url, one["made_from"], one["doc_id"]):
        mine = [event for event in explain.events(run, name) if event["doc_id"] == one["doc_id"]]
        assert [(event["stage"], event["outcome"]) for event in mine] == [("synthesize", "kept"), ("tokenize", "kept")]
        assert f"made from {one['made_from']} by big-1 by the prompt translate" in mine[0]["detail"]
    refused = storage.read_table(str(killed / "dropped/synthesize/part-synthetic-00000.parquet")).to_pylist()[0]
    assert explain.events(run, refused["doc_id"])[0]["rule"] == refused["rule"]
    found = trace.sources(run, {one["doc_id"]})[one["doc_id"]]
    assert (found["url"], found["made_by"], found["made_from"]) == (url, "big-1", one["made_from"])
    said = take_down(run, url, None, None)
    taken = {row["doc_id"] for row in made_from.of(run.uri, "made_from", {one["made_from"]})} | {one["made_from"]}
    lines = [json.loads(line) for line in next((killed / "ledger").glob("*.jsonl")).read_text().splitlines()]
    assert {line["remove"] for line in lines} == taken and any(one["doc_id"] in line for line in said)
    page.write(run)
    report = (killed / "report/index.html").read_text()
    assert "Texts that models made" in report and "apache-2.0" in report
    assert not set(storage.read_table(str(killed / "tokenize/heldout.parquet"))["doc_id"].to_pylist()) & {
        row["doc_id"] for row in kept
    }
    (tmp_path / "corpus").mkdir()
    corpus.write(run, str(tmp_path / "corpus"), name="isles", url="u", licence=None, leave_out=True)
    out = storage.read_table(str(tmp_path / "corpus/data/id/part-00000.parquet")).to_pylist()
    assert {row["doc_id"] for row in out if row["made_from"]} == {row["doc_id"] for row in kept} - taken
    assert {row["made_by"] for row in out} == {None, "big-1"}
    assert "| en-id | big-1 | apache-2.0 | translate |" in (tmp_path / "corpus/README.md").read_text()
