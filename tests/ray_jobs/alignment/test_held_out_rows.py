"""Rows of the alignment stages that are held back: which, how many, and how their measurements are shown."""

import json

import pytest

from cluster import gauges, storage, terminal
from ray_jobs.alignment import chats, held_out
from ray_jobs.commands import status
from ray_jobs.report import curves
from train.methods.dpo import Objective, loss_fn


def rows(**counts: int) -> list[dict]:
    return [{"id": f"{lang}-{i}", "lang": lang} for lang, n in counts.items() for i in range(n)]


def test_a_few_rows_of_each_language_and_a_tenth_at_most():
    given = rows(en=1000, lo=57, su=9)
    seen, held = held_out.split(given, 5, 32)
    assert chats.per_language(held) == {"en": 32, "lo": 5}
    assert sorted(row["id"] for row in seen + held) == sorted(row["id"] for row in given)
    assert [row["id"] for row in seen] == [row["id"] for row in given if row not in held]
    more = held_out.split(given + rows(th=100), 5, 32)[1]
    assert [row for row in more if row["lang"] != "th"] == held  # what comes to the data moves nothing else
    assert held_out.split(list(reversed(given)), 5, 32)[1] == list(reversed(held))
    assert held_out.split(given, 0, 32) == (given, [])


def test_batches_are_of_one_language_and_cover_each_row_once(caplog):
    asked: list[tuple[tuple[int, ...], list[int]]] = []

    def rows_of(indices):
        return lambda numbers: asked.append((tuple(indices), numbers)) or {}, len(indices)

    settings = {"eval_every": 3, "loop": {"micro_rows": 2}}
    found = held_out.validation(["lo", "en", "lo", "lo"], rows_of, loss_fn(Objective()), settings, {"accuracy": "a"})
    assert asked == [((1,), [0]), ((0, 2, 3), [0, 1]), ((0, 2, 3), [2])]
    assert [lang for lang, _ in found.batches] == ["en", "lo", "lo"] and found.every == 3
    assert held_out.validation([], rows_of, loss_fn(Objective()), settings) is None
    assert "nothing is held out: no language has 10 rows" in caplog.text
    assert held_out.validation(["en"], rows_of, loss_fn(Objective()), settings | {"eval_every": 0}) is None


@pytest.fixture
def records() -> list[dict]:
    common = {"loss": 0.6, "tokens_per_second": 10.0}
    measured = {
        "validation_loss": {"en": 0.65, "lo": 0.5},
        "validation_loss_change": {"en": -0.05, "lo": -0.2},
        "validation_accuracy": {"en": 0.75, "lo": 1.0},
        "validation_margin": {"en": 0.125, "lo": 2.5},
    }
    return [{"step": 2, "tokens": 50, **common, **measured}, {"step": 3, "tokens": 70, **common}]


def test_they_are_in_status_in_the_report_and_on_the_gauges(records, tmp_path, capsys, monkeypatch):
    storage.write_text(
        str(tmp_path / "metrics" / "dpo-off_policy.jsonl"), "".join(json.dumps(r) + "\n" for r in records)
    )
    found = curves.records(str(tmp_path), "dpo/off_policy")
    newest = curves.newest(found)
    assert newest["step"] == 3 and newest["validation_accuracy"] == {"en": 0.75, "lo": 1.0}
    terminal.show(status._training("dpo/off_policy", newest))
    shown = capsys.readouterr().out
    assert "held-out loss" in shown and "accuracy" in shown and "0.125" in shown and "-0.200" in shown

    drawn = {}
    monkeypatch.setattr("ray_jobs.report.plots.lines", lambda series, *axes: drawn.setdefault(axes[1], series) and "")
    titles = [title for title, _ in curves.languages({"dpo/off_policy": found})]
    assert titles == [f"Held-out {what} by language: dpo/off_policy" for what in ("loss", "accuracy", "reward margin")]
    assert drawn["nats per token or pair"]["Lao (lo)"] == ([0, 50], [0.7, 0.5])  # begins with the model that came in
    assert drawn["share of pairs"]["Lao (lo)"] == ([50], [1.0])

    put: list[tuple] = []
    monkeypatch.setattr(gauges, "put", lambda name, value, **tags: put.append((name, value, tags.get("language"))))
    gauges.training("dpo-off_policy", records[0])
    assert ("pinisi_validation_margin", 2.5, "lo") in put and ("pinisi_validation_accuracy", 0.75, "en") in put
