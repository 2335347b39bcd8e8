"""Scores of judgements written by hand, against arithmetic on paper."""

from __future__ import annotations

import inspected_run
import pytest
from jinja2 import Environment, FileSystemLoader, select_autoescape

from cluster import storage
from ray_jobs.inspect import judgements, samples, scores, tables
from ray_jobs.inspect.statistics import Z, wilson
from ray_jobs.report import page
from ray_jobs.run.graph import DEDUP, LANGUAGE, POLICY

BROKEN = [["a_min"]] * 20 + [["a_min", "b_max"]] * 10 + [["b_max"]] * 30


def corpus():
    """Khmer: 40 documents stay, 10 of them noise; policy drops 60, of which those that broke only a_min are good."""
    kept = [{"doc_id": f"k{i:03}", "lang": "km", "text": f"t{i}", "noise": i < 10, "fate": None} for i in range(40)]
    dropped = [
        {"doc_id": f"d{i:03}", "lang": "km", "text": f"d{i}", "noise": rules != ["a_min"], "fate": (POLICY, rules)}
        for i, rules in enumerate(BROKEN)
    ]
    copies = [
        {"doc_id": f"c{i}", "lang": "km", "text": f"c{i}", "noise": False, "fate": (DEDUP, ["near"])} for i in range(4)
    ]
    return kept + dropped + copies


def judge(run, name, rows, say):
    for row in rows:
        if (label := say(row)) is not None:
            judgements.append(judgements.file(run.uri, name), {"key": row["key"], "label": label, "flags": []})


@pytest.fixture
def run(tmp_path):
    run = inspected_run.run_at(str(tmp_path / "run"), ("km",))
    inspected_run.write(run, corpus(), 3)
    return run


def test_every_number_by_hand(run):
    rows = samples.drawn(run, 30)[0].to_pylist()
    truth = {d["doc_id"]: d["noise"] for d in corpus()}
    judge(run, "a", rows, lambda row: "WL" if truth[row["doc_id"]] else "CS")
    found = scores.compute(run, 30)
    after = {layer: found["layers"][layer]["km"] for layer in found["layers"]}
    # strata of what policy dropped: a_min 30 documents, b_max 30; 15 are drawn of each
    drawn = [r for r in rows if (r["layer"], r["side"]) == (POLICY, "dropped")]
    by_a = [r for r in drawn if r["stratum"] == "a_min"]
    assert (len(drawn), len(by_a)) == (30, 15)
    noisy = sum(truth[r["doc_id"]] for r in by_a)
    share = (noisy * 2 + 15 * 2) / 60
    assert after[POLICY]["dropped"]["value"] == pytest.approx(share)
    assert after[POLICY]["dropped"]["effective"] == pytest.approx(30)
    assert (after[POLICY]["dropped"]["low"], after[POLICY]["dropped"]["high"]) == pytest.approx(wilson(share, 30))
    mine = [r for r in rows if (r["layer"], r["side"]) == (POLICY, "kept")]
    kept = sum(truth[r["doc_id"]] for r in mine) / 30
    assert after[POLICY]["kept"]["value"] == pytest.approx(kept)
    assert after[POLICY]["documents"] == {"kept": 44, "dropped": 60}
    assert after[POLICY]["caught"]["value"] == pytest.approx(60 * share / (60 * share + 44 * kept))
    low, high = (after[POLICY][side] for side in ("dropped", "kept"))
    assert after[POLICY]["caught"]["low"] == pytest.approx(60 * low["low"] / (60 * low["low"] + 44 * high["high"]))
    assert after[LANGUAGE]["change"] is None
    assert after[POLICY]["change"]["value"] == pytest.approx(kept - after[LANGUAGE]["kept"]["value"])
    rules = {(r["layer"], r["rule"]): r for r in found["rules"] if r["lang"] == "km"}
    good = sum(not truth[r["doc_id"]] for r in by_a)
    assert rules[POLICY, "a_min"]["good"]["value"] == pytest.approx(good / 15)
    assert rules[POLICY, "a_min"]["lost"] == pytest.approx(2 * good)
    assert rules[POLICY, "a_min"]["alone"]["value"] == 1 and rules[POLICY, "a_min"]["loosen"]
    assert rules[POLICY, "b_max"]["good"]["value"] == 0 and not rules[POLICY, "b_max"]["loosen"]
    assert rules[POLICY, "b_max"]["good"]["n"] == 15 + noisy
    assert (DEDUP, "near") not in rules  # one text does not say whether it is a copy
    every = {row["key"]: truth[row["doc_id"]] for row in rows}
    assert found["codes"]["km"] == {"CS": len(every) - sum(every.values()), "WL": sum(every.values())}


def test_agreement_unsure_and_flags(run):
    rows = {r["key"]: r for r in samples.drawn(run, 30)[0].to_pylist()}
    keys = sorted(rows)[:20]
    mine = [rows[key] for key in keys]
    judge(run, "a", mine, lambda row: "CC")
    judge(run, "b", mine[:10], lambda row: "WL" if keys.index(row["key"]) < 4 else "CC")
    judge(run, "b", mine[10:12], lambda row: "unsure")
    found = scores.compute(run, 30)
    (one,) = [row for row in found["agreement"] if row["lang"] == "km"]
    assert (one["annotators"], one["n"], one["alike"], one["kappa"]) == (["a", "b"], 10, 0.6, 0.0)
    assert found["judged"] == 20 and found["annotators"] == {"a": 20, "b": 12}
    said = scores.judged(judgements.everybody(run.uri))
    assert [said[key] for key in keys] == [0.5] * 4 + [0] * 16  # the mean of both
    assert scores.noise({"label": "CC", "flags": ["porn"]}) == 1 and scores.noise({"label": "CC"}) == 0
    assert scores.noise({"label": "unsure"}) is None


def test_the_report_shows_them_with_names_as_text(run):
    environment = Environment(loader=FileSystemLoader(page.TEMPLATES), autoescape=select_autoescape())
    template = environment.get_template("labels.html")
    assert template.render(labels=None).strip() == template.render(labels=tables.written(run, 30)).strip() == ""
    judge(run, "&b&", samples.drawn(run, 30)[0].to_pylist(), lambda row: "CB" if row["side"] == "kept" else "CC")
    found = tables.written(run, 30)
    assert found == storage.read_json(storage.join(run.uri, tables.FILE))
    shown = template.render(labels=found)
    assert "&amp;b&amp; (" in shown and "&b&" not in shown and "False drops by rule" in shown and "loosen" in shown
    assert '"labels.html"' in (page.TEMPLATES / "report.html").read_text("utf-8")


def test_nobody_has_judged(run):
    found = scores.compute(run, 30)
    assert found["judged"] == 0 and found["rules"] == [] and found["agreement"] == []
    assert found["layers"][POLICY]["km"]["kept"] is None and found["layers"][POLICY]["km"]["caught"] is None


def test_a_label_of_a_text_that_has_changed_since_does_not_count(run):
    rows = samples.drawn(run, 30)[0].to_pylist()
    judge(run, "a", rows, lambda row: "NL")
    inspected_run.write(run, [{**d, "text": d["text"] + "!"} for d in corpus()], 3)
    storage.write_json(storage.join(run.uri, DEDUP, "_manifest.json"), {"fingerprint": "another"})
    assert scores.compute(run, 30)["judged"] == 0


def test_all_languages_weigh_by_their_documents(tmp_path):
    run = inspected_run.run_at(str(tmp_path / "run"))
    documents = [
        {"doc_id": f"{lang}{i}", "lang": lang, "text": f"{lang}{i}", "fate": None}
        for lang, n in (("km", 90), ("en", 10))
        for i in range(n)
    ]
    inspected_run.write(run, documents)
    rows = samples.drawn(run, 10)[0].to_pylist()
    judge(run, "a", rows, lambda row: "WL" if row["lang"] == "en" else "CC")
    found = scores.compute(run, 10)["layers"][LANGUAGE]["all"]["kept"]
    assert found["value"] == pytest.approx(0.1)
    assert found["effective"] == pytest.approx(100**2 / (10 * 81 + 10 * 1))
    assert found["high"] - found["value"] < 1.5 * Z * 0.3
