"""The whole chain on `sample/`, as a user runs it: one command, killed once on the way, then explained and reloaded."""

import gzip
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import judged_rows
import pytest
import yaml

from cluster import storage
from ray_jobs.config.reader import RECIPES, SAMPLE
from ray_jobs.run.graph import STAGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

ROOT = Path(__file__).parent.parent.parent
RECIPE = Path(__file__).parent / "tiny.yaml"
LEAKED = """Which of the four islands did the old captain mean when he told the children that the wind had never been kinder
than in the year of the long rains? They guessed for a whole evening. Nobody found the answer until his daughter showed
them the map, and on it they saw a small harbour that none of them had ever heard about before."""
DATA_STAGES = (
    "crawl",
    "extract",
    "language",
    "filter/signals",
    "filter/policy",
    "dedup",
    "decontaminate",
    "quality",
    "tokenize",
)


def pinisi(*arguments, check=True, home=None):
    environment = {**os.environ, "PINISI_SAMPLE_DIR": str(SAMPLE), **({"HOME": str(home)} if home else {})}
    result = subprocess.run(
        [sys.executable, "-m", "ray_jobs.cli", *arguments],
        capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1800, check=False,
    )  # fmt: skip
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def warc_record(url, body):
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:{url}>\r\nWARC-Target-URI: {url}\r\n"
    head += f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    return gzip.compress(head.encode() + http + b"\r\n\r\n")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The tiny recipe on `sample/` and on a folder of bad input: bombs, cut archives, endless lines, endless nesting."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "nested.warc.gz").write_bytes(
        warc_record("https://bad.example/nested", b"<html><body>" + b"<div>" * 100_000 + b"deep")
        + warc_record("https://bad.example/bomb", b"<html><body>" + b" " * 40_000_000)
    )
    (folder / "cut.warc.gz").write_bytes(warc_record("https://bad.example/cut", os.urandom(5000))[:-2000])
    rows = [
        json.dumps({"id": "long", "lang": "en", "text": "x" * 20_000_000}).encode(),
        b'{"id": "utf8", "lang": "en", "text": "\xff\xfe broken"}',
        b"{not json",
        json.dumps(
            {"id": "fine", "lang": "en", "text": "The boat came back late because the wind had turned. " * 2}
        ).encode(),
        json.dumps({"id": "leaked", "lang": "en", "text": LEAKED}).encode(),
    ]
    (folder / "quiz.jsonl").write_text(json.dumps({"id": "q7", "question": LEAKED.split("? ", maxsplit=1)[0]}) + "\n")
    (folder / "rows.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    values = yaml.safe_load(RECIPE.read_text())
    demo = yaml.safe_load((RECIPES / "demo.yaml").read_text())
    values["sources"] = [
        *demo["sources"],
        {"name": "bad-pages", "type": "warc", "path": str(folder / "*.warc.gz")},
        {"name": "bad-rows", "type": "jsonl", "path": str(folder / "rows.jsonl"), "trust_language": True},
    ]
    values["decontaminate"] = {"against": [str(folder / "quiz.jsonl")]}
    (folder / "wildbench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in judged_rows.ROWS))
    judged = {"rows": str(folder / "wildbench.jsonl"), "reward": {}, "max_new_tokens": 16}
    values["evaluate"] = {**values["evaluate"], "wildbench": judged}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory, home, recipe):
    """A finished run; the process was killed with SIGKILL in a Ray stage, in a Spark stage and in training."""
    uri = str(tmp_path_factory.mktemp("runs") / "tiny")
    for stage in ("extract", "dedup", "pretrain/stage1"):
        kill_in(stage, uri, home, recipe)
    pinisi("run", recipe, "--run-dir", uri, home=home)
    return uri


def kill_in(stage, uri, home, recipe):
    """Start the run, kill it hard once `stage` has begun."""
    environment = {**os.environ, "PINISI_SAMPLE_DIR": str(SAMPLE), "HOME": str(home)}
    command = [sys.executable, "-m", "ray_jobs.cli", "run", recipe, "--run-dir", uri]
    said = home / f"killed-in-{stage.replace('/', '-')}.log"
    with said.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    started = Path(uri) / stage / "_started.json"
    deadline = time.monotonic() + 300
    while not started.exists():
        assert process.poll() is None, f"the run ended before the stage began: {said.read_text('utf-8')[-2000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (Path(uri) / stage / "_manifest.json").exists(), f"{stage} ended before it was killed"


def test_every_stage_is_done(run):
    rows = json.loads(pinisi("status", run, "--json").stdout)
    others = ("annotate", "parallel/align", "synthesize")  # they want tables of others, or models that lie here
    wanted = [stage.name for stage in STAGES if stage.name not in others]
    assert [row["name"] for row in rows] == wanted
    assert {row["state"] for row in rows} == {"done"}
    by_name = {row["name"]: row for row in rows}
    assert by_name["crawl"]["docs_in"] > 500
    assert by_name["tokenize"]["tokens"] > 10_000


def test_bad_input_is_in_the_ledger_and_the_rest_of_its_file_is_read(run):
    ledger = (
        storage.read_table(f"{run}/dropped/crawl").to_pylist()
        + storage.read_table(f"{run}/dropped/extract").to_pylist()
    )
    rules = {row["url"] or row["detail"]: row["rule"] for row in ledger}
    by_rule = [row["rule"] for row in ledger]
    assert rules["https://bad.example/bomb"] == "record_too_large"
    # 100,000 elements deep, the page keeps its one word; what that is written in, nobody can say
    deep = [(e["stage"], e["outcome"], e["rule"]) for e in explain(run, "https://bad.example/nested")]
    assert deep == [("crawl", "kept", None), ("extract", "kept", None), ("language", "dropped", "language_score")]
    for rule in ("bad_record", "record_too_large", "invalid_utf8", "invalid_json"):
        assert rule in by_rule, rule
    assert [e["outcome"] for e in explain(run, "fine") if e["stage"] in ("crawl", "extract", "language")] == [
        "kept"
    ] * 3


def test_a_quoted_test_question_is_taken_out(run):
    event = explain(run, "leaked")[-1]
    assert (event["stage"], event["outcome"], event["rule"]) == ("decontaminate", "dropped", "contaminated")
    assert event["detail"] == "quiz.jsonl q7"
    manifest = storage.read_json(f"{run}/decontaminate/_manifest.json")
    assert manifest["documents_per_set"] == {"quiz.jsonl": 1} and manifest["items"] == 1


def test_running_again_does_nothing_in_seconds(run, home, recipe):
    begin = time.monotonic()
    result = pinisi("run", recipe, "--run-dir", run, home=home)
    assert result.stdout.splitlines()[0] == "nothing to do: every stage is done"
    assert time.monotonic() - begin < 20


def test_what_the_ending_proposes_works(run, home, recipe):
    said = pinisi("run", recipe, "--run-dir", run, home=home).stdout
    assert "pages read" in said and "learnt: most " in said and f"report: {run}/report/index.html" in said
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith(" " * 8)]
    assert [command[:3] for command in commands] == [["pinisi", name, run] for name in ("explain", "trace", "status")]
    dropped, trace, _ = [pinisi(*command[1:]).stdout for command in commands]
    assert "near_duplicate" in dropped and "largest of" in trace
    page = Path(run, "report/index.html").read_text()
    assert said.partition("learnt: most ")[2].partition(",")[0].replace("->", "→") in page


def test_data_stages_are_byte_identical_to_an_undisturbed_run(run, tmp_path, home, recipe):
    """Also to one that had neither Ray nor Spark."""
    uri = str(tmp_path / "undisturbed")
    alone = ("--without-ray", "--set", "cluster.engine=local")
    pinisi("run", recipe, "--run-dir", uri, "--until", "tokenize", *alone, home=home)
    for stage in DATA_STAGES:
        for folder in (stage, f"dropped/{stage}"):
            files = sorted(
                p
                for p in (Path(uri) / folder).rglob("*")
                if p.suffix in (".parquet", ".bin") and "_shards" not in p.parts
            )
            for file in files:
                twin = Path(run) / file.relative_to(uri)
                assert twin.read_bytes() == file.read_bytes(), file.relative_to(uri)
            assert files, folder
    assert (Path(uri) / "tokenize/tokenizer/tokenizer.json").read_bytes() == (
        Path(run) / "tokenize/tokenizer/tokenizer.json"
    ).read_bytes()


def explain(run, document):
    return json.loads(pinisi("explain", run, document, "--json").stdout)


def test_explain_a_kept_a_filtered_and_a_deduplicated_page(run):
    kept = storage.read_table(f"{run}/tokenize", ["doc_id", "url"]).to_pylist()[0]
    events = explain(run, kept["url"])
    assert [e["stage"] for e in events] == list(DATA_STAGES)
    assert {e["outcome"] for e in events} == {"kept"}
    assert {"stage", "outcome", "rule", "value", "threshold"} <= set(events[0])

    dropped = storage.read_table(f"{run}/dropped/filter/policy").to_pylist()[0]
    last = explain(run, dropped["doc_id"])[-1]
    assert (last["stage"], last["outcome"]) == ("filter/policy", "dropped")
    assert last["value"] is not None
    assert last["threshold"] is not None

    ledger = storage.read_table(f"{run}/dropped/dedup").to_pylist()
    for rule in ("url_duplicate", "near_duplicate"):
        duplicate = next(row for row in ledger if row["rule"] == rule)
        event = next(e for e in explain(run, duplicate["doc_id"]) if e["outcome"] == "dropped")
        assert event["rule"] == rule
        survivors = explain(run, event["detail"])  # the ledger names the document that won
        assert survivors[0]["doc_id"] == event["detail"]


def test_explain_knows_nothing_of_a_stranger(run):
    result = pinisi("explain", run, "https://nowhere.example/", check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1


def test_exported_models_load_with_plain_transformers(run):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name in ("base", "chat", "pruned"):
        folder = f"{run}/export/{name}"
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokens = tokenizer("The river market", return_tensors="pt")
        out = model.generate(**tokens, max_new_tokens=4, do_sample=False)
        assert out.shape[1] > tokens["input_ids"].shape[1]
        assert torch.isfinite(model(**tokens).logits).all()
        card = Path(folder, "README.md").read_text()
        assert "| th |" in card
    assert model.config.hidden_size == 32


def test_training_moved_what_it_should(run):
    bpb = json.loads(Path(run, "evaluate/metrics.json").read_text())["bits_per_byte"]
    assert bpb["expand"] == pytest.approx(bpb["base"], rel=1e-6)  # the same function
    assert bpb["pretrain/stage2"]["th"] < bpb["base"]["th"]


def test_what_was_measured_while_training_is_what_evaluate_measures(run):
    evaluated = json.loads(Path(run, "evaluate/metrics.json").read_text())
    assert max(entry["bytes"] for entry in evaluated["heldout"].values()) <= 20_000  # so both read the same text
    plan = json.loads(Path(run, "mixture/plan.json").read_text())
    for stage in ("base", "pretrain/stage1", "pretrain/stage2"):
        lines = Path(run, "metrics", f"{stage.replace('/', '-')}.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [r["step"] for r in records if "bits_per_byte" in r] == [
            s for s in (10, len(records)) if s <= len(records)
        ]
        want = evaluated["bits_per_byte"][stage]
        assert records[-1]["bits_per_byte"] == pytest.approx(want, rel=5e-4)  # the products of the loop may be in bf16
        read = {pool.split("/")[-1] for pool in plan[stage.split("/")[-1]]["weights"]}
        assert read >= {lang for record in records for lang in record["loss_by_language"]} != set()
        assert list(Path(run, "metrics", "tensorboard", stage.replace("/", "-")).iterdir())
        change = records[-1]["bits_per_byte_change"]
        before = {lang: value - change[lang] for lang, value in records[-1]["bits_per_byte"].items()}
        if stage == "pretrain/stage1":
            assert before == pytest.approx(evaluated["bits_per_byte"]["expand"], rel=5e-4)


def test_report_holds_every_part(run):
    page = Path(run, "report/index.html").read_text()
    data = ("losses", "provenance", "kept", "signals")
    for part in (
        *data,
        "corpus",
        "drops",
        "mixture",
        "training",
        "bits",
        "samples",
        "alignment",
        "watch",
        "throughput",
    ):
        assert f'id="{part}"' in page
    assert page.count("<svg") >= 8
    found = json.loads(Path(run, "evaluate/metrics.json").read_text())
    assert found["sampling"]["temperature"] == 0.7
    for one in found["samples"].values():
        assert one["greedy"].keys() == one["texts"].keys() >= {"base", "pretrain/stage2"}


def test_preference_tuning_is_watched(run):
    """Models from the SFT model on, by updates; one on the way. Answers to prompts that no round trained on."""
    records = [json.loads(line) for line in Path(run, "metrics/probe.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records]
    assert steps == sorted(steps) and len({r["stage"] for r in records}) == 3 < len(records)
    assert (records[0]["stage"], records[0]["reward_margin"], records[0]["win_rate"]) == ("sft/stage2", 0, 0.5)
    assert records[-1]["reward_margin"] != 0
    prompts, trained = (
        {json.dumps(json.loads(line)["prompt"]) for line in Path(run, "dpo", path).read_text().splitlines()}
        for path in ("off_policy/probe.jsonl", "off_policy/pairs.jsonl")
    )
    assert prompts and trained and not prompts & trained


def test_answers_are_judged_by_the_reward_model(run):
    found = json.loads(Path(run, "wildbench/metrics.json").read_text())
    assert found["models"] == ["sft/stage2", "dpo/on_policy"] and list(found["judges"]) == ["reward"]
    table = found["judges"]["reward"]["models"]["dpo/on_policy"]
    assert table["all"]["judged"] == found["rows"] > 2 and table["invalid"] == 0
    assert 0 <= table["all"]["low"] <= table["all"]["value"] <= table["all"]["high"] <= 100


def test_a_changed_threshold_runs_only_what_follows(run, tmp_path, home, recipe):
    import shutil

    uri = str(tmp_path / "copy")
    shutil.copytree(run, uri)
    result = pinisi("run", recipe, "--run-dir", uri, "--until", "dedup", "--set", "dedup.threshold=0.75", home=home)
    lines = result.stdout.splitlines()
    assert lines[0] == "dedup: runs again, recipe key dedup changed"
    assert not any(line.startswith(("crawl", "extract", "language", "filter")) for line in lines)


def test_nothing_is_left_in_home(run, home):
    assert not (home / ".ray").exists()
