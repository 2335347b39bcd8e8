"""The worked examples of docs/architecture.md run as they stand there."""

import json
import re
import sys
import types
from pathlib import Path

import pytest
import yaml

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.run import graph
from ray_jobs.run.graph import Stage
from ray_jobs.run.run import Run

PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text("utf-8")
TEXTS = {
    "a": "The ferry to the islands leaves from the old pier at seven every morning, and the captain keeps a notebook of "
    "who travels where, so that nobody is forgotten on the way back when the weather turns.",
    "b": "BUY NOW AND SAVE! All of the BEST OFFERS of the WHOLE YEAR are here for YOU, and ONLY THIS WEEK you will get a "
    "SECOND ONE FOR FREE with all that you BUY in our WONDERFUL NEW SHOP at the market",
}


def example(title, language):
    """The code blocks of a language below a heading."""
    section = PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"id": name, "text": text, "lang": "en"} for name, text in TEXTS.items()]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield tmp_path
    sys.path[:] = [place for place in sys.path if place != str(tmp_path)]


def recipe(folder, **more):
    source = {"name": "texts", "type": "jsonl", "path": f"{folder}/texts.jsonl", "trust_language": True}
    values = {"name": "mine", "languages": ["en"], "sources": [source], "cluster": {"engine": "local"}, **more}
    return recipes.parse(values, "example")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_signal_of_ones_own(folder, monkeypatch):
    (source,), (asked,) = example("Add a signal of your own", "python"), example("Add a signal of your own", "yaml")
    (folder / "my_signals.py").write_text(source)
    settings = yaml.safe_load(asked)["filter"]
    of_files = ("word_count", "char_repetition", "word_repetition", "special_ratio", "stopword_ratio", "flagged_ratio")
    settings["policy"]["default"] |= {signal: False for signal in of_files}
    run = Run(str(folder / "run"), recipe(folder, filter=settings))
    run.execute(until="filter", say=lambda line: None)
    kept = storage.read_table(str(folder / "run" / "filter" / "policy")).to_pylist()
    assert [row["source_id"] for row in kept] == ["a"] and kept[0]["capital_share"] < 0.1
    rules = {
        row["rule"]: row["value"]
        for path in storage.glob(str(folder / "run" / "dropped" / "filter" / "policy" / "*.parquet"))
        for row in storage.read_table(path).to_pylist()
    }
    assert rules["capital_share_max"] > 0.3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stage(folder, monkeypatch):
    module, row = example("Add a stage", "python")
    lengths = types.ModuleType("ray_jobs.stages.lengths")
    exec(module, lengths.__dict__)
    monkeypatch.setitem(sys.modules, "ray_jobs.stages.lengths", lengths)
    added = eval(row, {"Stage": Stage})
    before = [stage for stage in graph.STAGES if stage.name in ("crawl", "extract", "language")]
    monkeypatch.setattr(graph, "STAGES", (*before, added))
    run = Run(str(folder / "run"), recipe(folder))
    assert run.execute(say=lambda line: None)
    found = storage.read_json(str(folder / "run" / "lengths" / "lengths.json"))
    assert found == {"en": pytest.approx(sum(map(len, TEXTS.values())) / 2)}
    assert run.manifest("lengths")["docs_in"] == 2
    assert not run.execute(say=lambda line: None)


def test_a_preference_loss(monkeypatch):
    import torch

    from train.methods.dpo import Objective
    from train.preference_losses.answers import Answers
    from train.preference_losses.table import LOSSES, PreferenceLoss

    module, line, tried = example("Add a preference loss", "python")
    ipo = types.ModuleType("train.preference_losses.ipo")
    exec(module, ipo.__dict__)
    monkeypatch.setitem(sys.modules, "train.preference_losses.ipo", ipo)
    added = eval(f"{{{line}}}", {"PreferenceLoss": PreferenceLoss})
    monkeypatch.setitem(LOSSES, "ipo", added["ipo"])
    exec(tried, {"torch": torch, "Answers": Answers, "Objective": Objective})
    recipe = recipes.load("demo", ["train.dpo.loss=ipo"])
    assert recipe.train.dpo.loss == "ipo"
