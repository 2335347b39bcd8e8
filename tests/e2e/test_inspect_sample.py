"""Simulated speakers judge the sample's pages, of which the truth is known, and err one time in ten. The run has a bound that
was planted too high for English and Chinese: the scores name it, the labels move it back, and hardly any noise is left after the
last layer."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import chromium
import pytest

from cluster import storage
from ray_jobs import cli
from ray_jobs.config.reader import SAMPLE
from ray_jobs.inspect import samples, tables
from ray_jobs.inspect.desk import Texts
from ray_jobs.inspect.judgements import CODES, NOISE
from ray_jobs.run.graph import DEDUP, LANGUAGE, POLICY
from ray_jobs.run.run import open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parent.parent.parent
PLANTED = {"en": {"word_count": {"min": 300}}, "zh": {"word_count": {"min": 390}}}
ERROR = 0.1
CODE = {"kept": "CC", "duplicate": "CC", "garbled": "NL", "language_outside": "WL", "short": "CS"}
"""What a speaker would say of a page by its fate; what is not here is boilerplate or spam."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("inspect") / "run")
    command = [sys.executable, "-m", "ray_jobs.cli", "run", "demo", "--run-dir", uri, "--until", "dedup"]
    command += ["--set", "cluster.engine=local", "--set", f"filter.policy={json.dumps(PLANTED)}"]
    environment = {**os.environ, "PINISI_SAMPLE_DIR": str(SAMPLE), "HOME": str(tmp_path_factory.mktemp("home"))}
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    return open_run(uri)


@pytest.fixture(scope="module")
def truth(run):
    """A function: doc_id and the language that a page was taken for -> the code that is right."""
    gold = {}
    for path in sorted((SAMPLE / "gold").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            gold.update(
                (row["id"], (row["lang"], row["fate"].removeprefix("dropped: "))) for row in map(json.loads, file)
            )
    crawled = storage.read_table(storage.join(run.uri, "crawl"), ["doc_id", "source_id"]).to_pylist()
    of = {row["doc_id"]: gold[row["source_id"]] for row in crawled}

    def right(doc_id, lang):
        written, fate = of[doc_id]
        return CODE.get(fate, "CB") if written == lang or fate == "language_outside" else "WL"

    return right


@pytest.fixture(scope="module")
def judged(run, truth):
    """The scores when two speakers have judged all there is."""
    storage.remove(storage.join(run.uri, "inspect"))
    sample, _ = samples.drawn(run, 100)
    for number, name in enumerate(("srey", "maria")):
        desk, chance = Texts(run, sample, name, [], 100), random.Random(number)
        while (page := desk.page(None))["view"] == "text":
            key = page["row"]["key"]
            right = truth(desk.rows[key]["doc_id"], desk.rows[key]["lang"])
            wrong = chance.choice(["CB", "WL", "NL"] if right in ("CC", "CS") else ["CC"])
            assert desk.judge({"key": [key], "label": [wrong if chance.random() < ERROR else right]}) is None
    return tables.written(run, 100)


def test_hardly_any_noise_is_left_after_the_last_layer(judged, run, truth):
    layers = {layer: judged["layers"][layer]["all"] for layer in (LANGUAGE, POLICY, DEDUP)}
    kept = storage.read_table(storage.join(run.uri, DEDUP), ["doc_id", "lang"]).to_pylist()
    left = sum(truth(**row) in NOISE for row in kept) / len(kept)
    assert left < 0.05  # the pages that tests/e2e/test_sample_funnel.py knows of
    last = layers[DEDUP]
    assert last["corrected"]["low"] <= left <= last["corrected"]["high"] and last["corrected"]["low"] == 0
    assert abs(last["corrected"]["value"] - left) < 0.04
    assert last["kept"]["value"] == pytest.approx(left + ERROR * (1 - 2 * left), abs=0.04)  # people's errors among it
    assert layers[POLICY]["corrected"]["value"] < layers[LANGUAGE]["corrected"]["value"]
    (agreed,) = [row for row in judged["agreement"] if row["lang"] == "all"]
    assert agreed["n"] == pytest.approx(0.2 * judged["sample"], rel=0.25) and 0.7 < agreed["alike"] < 0.9
    assert judged["judged"] == judged["sample"]


def test_the_planted_false_drops_are_named_and_no_others(judged):
    named = {(row["rule"], row["lang"]) for row in judged["rules"] if row["loosen"] and row["lang"] != "all"}
    planted = {("word_count_min", "en"), ("word_count_min", "zh")}
    assert planted <= named
    # lid.176 is unsure of good Javanese and Sundanese pages: tests/e2e/test_sample_funnel.py names them
    assert named - planted <= {("language_score", "jv"), ("language_score", "su")}


def test_labels_move_the_planted_bounds_back(judged, run, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["policy", run.uri, "--from-labels", "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)["policy"]
    assert "en" in found and found.keys() <= {"en", "zh"}, found
    assert all(set(rules) == {"word_count"} and rules["word_count"].keys() == {"min"} for rules in found.values()), (
        found
    )
    for lang, rules in found.items():
        assert rules["word_count"]["min"] < PLANTED[lang]["word_count"]["min"]
    with pytest.raises(SystemExit):
        cli.main(["policy", run.uri, "--from-labels"])
    out = capsys.readouterr().out
    assert "filter:" in out and "documents put right" in out


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium is installed: apt-get install chromium")
def test_a_stranger_judges_twenty_pages_by_keyboard_and_sees_scores(run, truth, tmp_path):
    from threading import Thread

    from ray_jobs.inspect.server import Server

    desk = Texts(run, samples.drawn(run, 100)[0], f"stranger {tmp_path.name}", ["en", "km"], 100)
    keys = dict(zip(CODES, "12345", strict=True))
    with Server(desk, 0) as server, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Thread(target=server.serve_forever, daemon=True).start()
        browser = chromium.Browser(Path(folder))
        try:
            browser.size(1280, 800)
            browser.open(server.address)
            for number in range(20):
                key = browser.value("document.querySelector('input[name=key]').value")
                browser.press(keys[truth(desk.rows[key]["doc_id"], desk.rows[key]["lang"])])
                browser.wait(
                    f"!!document.querySelector('.progress')?.innerText.startsWith('{number + 1} of ') "
                    "&& document.readyState == 'complete'"
                )
            rows = [desk.rows[key] for key in desk.said]
            assert [row["label"] for row in desk.said.values()] == [truth(row["doc_id"], row["lang"]) for row in rows]
            browser.open(f"{server.address}scores")
            assert "English (en)" in browser.value("document.body.innerText")
            assert browser.problems() == []
        finally:
            browser.close()
            server.shutdown()
    storage.remove(desk.file)
