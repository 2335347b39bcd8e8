"""The stage `long`: what is asked of which model, what is left out and why, and the map that shows where a model is blind."""

import json
import re

import pyarrow as pa
import pytest
from lookup_model import Lookup
from shapes import TINY
from silent import Silent

from cluster import storage
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config import reader as recipes
from ray_jobs.config.recipe import LANGUAGES
from ray_jobs.errors import UserError
from ray_jobs.report import long as section
from ray_jobs.report import page
from ray_jobs.run import long_choice
from ray_jobs.run.graph import LONG, enabled
from ray_jobs.run.job import Job
from ray_jobs.stages.evaluation import long as evaluate_long
from train import model
from train.long import templates

BASE, LATER = "base", "pretrain/stage2"
SENTENCE = "Kota itu terletak di tepi sungai besar dan penduduknya menanam padi nomor {}. "


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with held-out documents of two languages and two models, of contexts 1,024 and 512."""
    run = tmp_path_factory.mktemp("run")
    documents = [
        {
            "doc_id": f"{lang}{i}",
            "lang": lang,
            "bytes": 1000,
            "text": "".join(SENTENCE.format(i * 100 + k) for k in range(n)),
        }
        for lang, n, count in (("id", 12, 20), ("ms", 1, 6))
        for i in range(count)
    ]
    storage.write_table(str(run / "tokenize/heldout.parquet"), pa.Table.from_pylist(documents))
    said = [text for lang in ("id", "ms") for text in templates.of(lang) if isinstance(text, str)]
    texts = [row["text"] for row in documents] + 5 * said
    tokenizer = tokenizers.train_bpe(texts, 900, str(run / "tokenize/tokenizer"))
    for name, context in ((BASE, 1024), (LATER, 512)):
        net = model.build({**TINY, "vocab_size": len(tokenizer)}, context)
        model.save(net, tokenizer, str(run / name / "model"), context=context)
    return run


@pytest.fixture
def ask(finished, monkeypatch):
    monkeypatch.setattr(evaluate_long.device, "wants_gpus", lambda job: False)
    monkeypatch.setattr(evaluate_long, "map_on_ray", lambda job, do, items, *_, **__: [do(item) for item in items])
    storage.remove(str(finished / "long"))

    def asked(**settings):
        long = {"lengths": [400], "samples": 1, "models": [BASE, LATER], "languages": ["id", "ms"], **settings}
        recipe = recipes.load("demo", [f"evaluate.long={json.dumps(long)}"])
        stage = next(stage for stage in enabled(recipe) if stage.name == LONG)
        return Job(recipe, str(finished), stage, "x", Silent())

    return asked


def results(run):
    return storage.read_table(str(run / "long/results.parquet")).to_pylist()


def test_two_models_answer_the_same_items(ask, finished):
    made = evaluate_long.run(ask(tasks=["needle", "keys", "absent"]))
    found = results(finished)
    assert made["answers"] == len(found) == 2 * (5 + 5 + 1)  # nothing in Malay
    of = {name: {row["id"]: row["prompt"] for row in found if row["model"] == name} for name in (BASE, LATER)}
    assert of[BASE] == of[LATER]
    assert len({*of[BASE].values()}) == 11
    assert all(360 < row["tokens"] <= 400 for row in found)
    cells = json.loads((finished / "long/metrics.json").read_text())["needle"]["id"][BASE]
    assert [cell["depth"] for cell in sorted(cells, key=lambda cell: (cell["depth"] is not None, cell["depth"] or 0))] == [
        None, 0, 0.25, 0.5, 0.75, 1
    ]  # fmt: skip
    for cell in cells:
        here = [row for row in found if row["model"] == BASE and row["task"] == "needle"]
        here = [row for row in here if cell["depth"] in {None, row["depth"]}]
        assert cell["choice"]["value"] == pytest.approx(sum(row["choice"] for row in here) / len(here))
        assert cell["choice"]["items"] == len(here)


def test_a_language_with_too_little_text_is_named(ask, finished):
    made = evaluate_long.run(ask(tasks=["needle"], lengths=[400, 800], models=[BASE]))
    assert made["languages"] == ["id"]
    assert [said.split(", which")[0] for said in made["warnings"]] == [
        "ms has too little held-out text for long-context tasks of 400, 800 tokens"
    ]
    ledger = storage.read_table(str(finished / "dropped/long/part-items.parquet")).to_pylist()
    assert {(row["lang"], row["rule"]) for row in ledger} >= {("ms", "too_little_text")}


def test_lengths_beyond_what_a_model_was_trained_on(ask, finished):
    with pytest.raises(UserError, match=r"evaluate.long.lengths: 2,048 .* \(base: 1,024, pretrain/stage2: 512\)"):
        evaluate_long.run(ask(lengths=[400, 2048]))
    made = evaluate_long.run(ask(tasks=["needle"], lengths=[400, 800], languages=["id"]))
    assert made["dropped_by_rule"] == {"beyond_context": 1}
    assert {(row["model"], row["length"]) for row in results(finished)} == {(BASE, 400), (BASE, 800), (LATER, 400)}
    storage.remove(str(finished / "long"))
    evaluate_long.run(ask(tasks=["needle"], lengths=[800], languages=["id"], beyond=True))
    assert {(row["model"], row["length"]) for row in results(finished)} == {(BASE, 800), (LATER, 800)}


def test_a_killed_stage_goes_on_behind_the_last_length(ask, finished, monkeypatch):
    job = ask(tasks=["needle"], lengths=[400, 800], languages=["id"], models=[BASE])
    evaluate_long.run(job)
    before = results(finished)
    (finished / "long/models/base/id.800.json").unlink()
    (finished / "long/models/base/id.400.json").touch()
    asked = []
    make = evaluate_long.items.Maker.prompts

    def prompts(self, task, length, also):
        asked.append(length)
        return make(self, task, length, also)

    monkeypatch.setattr(evaluate_long.items.Maker, "prompts", prompts)
    evaluate_long.run(job)
    assert asked == [800]
    assert results(finished) == before


def test_rows_of_questions_and_summaries(ask, finished, tmp_path):
    rows = [
        {"lang": "id", "context": SENTENCE.format(i) * 2, "question": f"apa {i}?", "answers": [f"padi nomor {i}"]}
        for i in range(6)
    ] + [{"lang": "id", "text": SENTENCE.format(i) * 3, "summary": SENTENCE.format(i)} for i in range(50, 55)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"lang": "id", "context": "x"}, {"lang": "xx"}]))
    made = evaluate_long.run(ask(tasks=["qa", "summary"], rows=[str(path)], models=[BASE], languages=["id"]))
    assert made["dropped_by_rule"] == {"language_outside": 1, "not_an_item": 1}
    found = results(finished)
    assert {row["task"] for row in found} == {"qa", "summary"}
    assert {row["choice"] is None for row in found if row["task"] == "summary"} == {True}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"languages": ["xx"]}, "evaluate.long.languages: xx is not in `languages`; there are .*id"),
        ({"models": ["sft/stage9"]}, "evaluate.long.models: this run asks no model of 'sft/stage9'"),
    ],
)
def test_what_cannot_be_asked_is_said(ask, settings, said):
    with pytest.raises(UserError, match=said):
        evaluate_long.run(ask(**settings))


def test_texts_need_rows():
    with pytest.raises(UserError, match="qa needs `rows`"):
        recipes.load("demo", ['evaluate.long={"lengths": [400], "tasks": ["qa"]}'])


def test_every_language_of_the_project_is_asked_by_default():
    recipe = recipes.load("demo", ['evaluate.long={"lengths": [400]}'])
    assert set(long_choice.languages(recipe.evaluate.long, LANGUAGES)) == set(LANGUAGES)


def test_the_map_shows_where_a_model_is_blind(ask, finished, monkeypatch):
    """One model that retrieves, one that sees the last 128 tokens."""

    def load(folder, *_):
        return Lookup(900, window=128 if folder.endswith("pretrain/stage2/model") else None)

    monkeypatch.setattr(evaluate_long.model, "load", load)
    evaluate_long.run(ask(tasks=["needle"], samples=10, depths=[0, 1], languages=["id"]))
    shown = section.section(str(finished))
    ((_, _, (written, choice)),) = shown.languages
    assert written.depths == ["0", "1"]
    seen = {line.model: [cell.shown for cell in line.cells] for line in written.lines}
    assert seen == {BASE: ["100", "100", "100"], LATER: ["50", "0", "100"]}
    shades = {line.model: [cell.shade for cell in line.cells] for line in choice.lines}
    assert shades[BASE] == [1, 1, 1]
    assert shades[LATER][2] == 1
    assert shades[LATER][1] < 0.4
    assert not any(cell.few for line in written.lines for cell in line.cells)
    html = page.Environment(loader=page.FileSystemLoader(page.TEMPLATES), autoescape=True).get_template("long.html")
    drawn = html.render(long=shown)
    assert "<script" not in drawn
    colours = re.findall(r"rgba\(29, 111, 165, ([\d.]+)\)\">(\d+)", drawn)
    assert ("0.55", "100") in colours
    assert ("0.00", "0") in colours
