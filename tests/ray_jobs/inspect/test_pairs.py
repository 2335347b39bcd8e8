"""Answers of two models: blind, by chance on either side; win rates by hand; pairs that the reward model's own reader takes."""

from __future__ import annotations

import json
import random

import inspected_run
import pytest

from cluster import storage
from ray_jobs import cli
from ray_jobs.errors import UserError
from ray_jobs.inspect import judgements, pairs
from ray_jobs.inspect.statistics import wilson
from ray_jobs.run import files
from train.selection import preference


def rows(n=40, judge=True):
    return [
        {
            **{"id": f"q{i}", "lang": "km" if i % 4 else "en", "prompt": f"សំណួរ {i}"},
            **{
                "answers": {"old": f"old {i}", "new": f"new {i} <b>"},
                "judge": ("new", "old", "tie")[i % 3] if judge else None,
            },
        }
        for i in range(n)
    ]


@pytest.fixture
def run(tmp_path):
    return inspected_run.run_at(str(tmp_path / "run"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows()), "utf-8")
    return str(path)


def work(run, found, name, choose):
    """`choose(row)`: a model, or a label without one."""
    desk = pairs.Pairs(run, found, name)
    sides = []
    while (page := desk.page(None))["view"] == "pair":
        key = page["row"]["key"]
        first = "new" if "new" in page["row"]["answers"][0][0].text else "old"
        choice = choose(found[key])
        label = {first: "first"}.get(choice, "second") if choice in ("new", "old") else choice
        assert desk.judge({"key": [key], "label": [label]}) is None
        sides.append(first)
    return sides


def test_wins_and_agreement_by_hand(run, file):
    found = pairs.read(file)
    number = {key: int(row["id"][1:]) for key, row in found.items()}
    key_of = {row["id"]: key for key, row in found.items()}
    sides = work(run, found, "a", lambda row: ("new", "new", "tie", "both bad")[number[key_of[row["id"]]] % 4])
    assert 10 <= sides.count("new") <= 30  # by chance
    result = pairs.written(run, found)
    overall = next(row for row in result["wins"] if row["lang"] == "all")
    assert overall["models"] == ["new", "old"]
    assert overall["rate"]["value"] == pytest.approx((20 + 20 * 0.5) / 40)
    assert (overall["rate"]["low"], overall["rate"]["high"]) == pytest.approx(wilson(0.75, 40))
    english = next(row for row in result["wins"] if row["lang"] == "en")
    assert english["rate"]["value"] == 1 and english["rate"]["n"] == 10
    people = [("new", "new", "tie", "tie")[i % 4] for i in range(40)]
    judge = [("new", "old", "tie")[i % 3] for i in range(40)]
    agreed = next(row for row in result["judge"] if row["lang"] == "all")
    assert agreed["alike"] == pytest.approx(sum(a == b for a, b in zip(people, judge, strict=True)) / 40)
    shown = pairs.tables(result)
    assert shown[0]["rows"][-1][-1] == "new is better" and "Judge and people" in shown[1]["title"]


def test_chosen_answers_are_preference_pairs_that_the_reader_takes(run, file, tmp_path):
    found = pairs.read(file)
    work(run, found, "a", lambda row: "new")
    work(run, found, "b", lambda row: "old" if int(row["id"][1:]) < 10 else "new")  # of these as many say either
    pairs.written(run, found)
    uri = storage.join(run.uri, pairs.PREFERENCE)
    written = [json.loads(line) for line in storage.read_bytes(uri).decode().splitlines()]
    assert {row["id"] for row in written} == {f"q{i}" for i in range(10, 40)}
    assert all(row["chosen"].startswith("new") and row["rejected"].startswith("old") for row in written)
    taken, wrong = preference.validate(files.rows(uri))  # as the reward stage reads them
    assert len(taken) == 30 and wrong == []


def test_blind_and_as_text(run, file):
    desk = pairs.Pairs(run, pairs.read(file), "a")
    chance = random.Random(0)
    for _ in range(5):
        page = desk.page(None)
        assert not ({"old", "new"} & set(json.dumps(page["row"]["turns"]).split())) and "judge" not in page["row"]
        desk.judge({"key": [page["row"]["key"]], "label": [chance.choice(["first", "second"])]})
        assert set(desk.page(None)["last"]) == {"key", "said"}
    again = pairs.Pairs(run, desk.rows, "a")
    assert again.said == desk.said
    last = list(again.said)[-1]
    assert again.undo(last) and not again.undo(last) and len(judgements.read(again.file)) == 4
    assert pairs.Pairs(run, desk.rows, "b").said == {}
    assert again.judge({"key": ["x"], "label": ["first"]}) and again.judge({"key": [last], "label": ["CC"]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answers": {"a": "x"}}, "`answers` must be two texts"),
        ({"answers": {"a": "x", "b": 3}}, "`answers` must be two texts"),
        ({"answers": {"tie": "x", "b": "y"}}, "no model can be named 'tie'"),
        ({"id": 3}, "`id` and `lang` must be texts"),
        ({"lang": None}, "`id` and `lang` must be texts"),
        ({"prompt": []}, "`prompt` must be a text or a list of messages"),
        ({"prompt": [{"role": "user"}]}, "`prompt` must be a text or a list of messages"),
        ({"judge": "third"}, "`judge` must be one of old, new, tie, not 'third'"),
    ],
)
def test_wrong_rows_are_named(tmp_path, change, said):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [rows()[0], {**rows()[1], **change}]))
    with pytest.raises(UserError, match="row 2") as error:
        pairs.read(str(path))
    assert said in str(error.value)


def test_the_command(run, file, capsys):
    work(run, pairs.read(file), "a", lambda row: "old")
    for words, code, said in [
        (["--pairs", file, "--scores"], 0, "old is better"),
        (["--pairs", file, "--scores", "--languages", "zz"], 2, "no row in zz"),
        (["--pairs", f"{file}x", "--scores"], 2, "no file matches"),
    ]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["inspect", run.uri, *words])
        out = capsys.readouterr()
        assert ended.value.code == code and said in " ".join((out.out + out.err).split())
