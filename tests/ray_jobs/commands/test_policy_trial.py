"""`pinisi policy RUN --try FILE` on stored signals written by hand, and percentile thresholds of the job that decides."""

from __future__ import annotations

import json
import time

import grammars
import numpy as np
import pyarrow as pa
import pytest

from cluster import storage
from curation.policy.policy import load_all, policy_kernel
from curation.policy.signal_schema import FIELDS, SIGNALS
from ray_jobs import cli
from ray_jobs.commands import policy_models, policy_trial
from ray_jobs.config import reader as recipes
from ray_jobs.config.curation import Filter
from ray_jobs.run.run import Run
from ray_jobs.stages import filter_policy

RECIPE = {
    "name": "tiny",
    "languages": ["en", "lo"],
    "sources": [{"name": s, "type": "jsonl", "path": f"/nothing/{s}.jsonl", "optional": True} for s in ("good", "web")],
    "filter": {"policy": {"default": {"special_ratio": False}, "en": {"word_count": {"min": 50}}}},
}
PASSES = {"word_count": 100, "stopword_ratio": 0.5, "script_share": 1.0, "stopword_kinds": 9, "word_order": 1.0}


def signals(**columns) -> pa.Table:
    n = len(columns["lang"])
    keys = {"doc_id": [f"d{i}" for i in range(n)], "url": [f"https://x.example/{i}" for i in range(n)]}
    values = {name: [PASSES.get(name, 0)] * n for name in SIGNALS}
    every = {**keys, "source": ["web"] * n, "lang": ["en"] * n, "text": ["x"] * n, **values, **columns}
    schema = pa.schema([*((k, pa.string()) for k in ("doc_id", "url", "source", "lang", "text")), *FIELDS])
    return pa.Table.from_pydict(every, schema)


def make(tmp_path, table: pa.Table, recipe: dict = RECIPE) -> Run:
    run = Run(str(tmp_path / "run"), recipes.parse(recipe, "test"))
    half = table.num_rows // 2
    for i, part in enumerate((table.slice(0, half), table.slice(half))):
        storage.write_table(storage.join(run.uri, "filter/signals", f"part-{i:05}.parquet"), part)
    storage.write_json(storage.join(run.uri, "filter/signals", "_manifest.json"), {"fingerprint": "f"})
    storage.write_text(storage.join(run.uri, "recipe.yaml"), recipes.resolved(run.recipe))
    return run


def write(tmp_path, text: str) -> str:
    (tmp_path / "policy.yaml").write_text(text, encoding="utf-8")
    return str(tmp_path / "policy.yaml")


def test_who_changes_side_and_why(tmp_path):
    table = signals(
        lang=["en", "en", "en", "lo", None], word_count=[40, 60, 100, 100, 100], special_ratio=[0, 0, 0.9, 0.9, 0]
    )
    found = policy_trial.compare(make(tmp_path, table), write(tmp_path, "en: {word_count: {min: 70}}"))
    english = found["languages"]["en"]
    assert {k: v for k, v in english.items() if k != "rules"} == {
        "documents": 3,
        "kept_now": 2,
        "kept_tried": 0,
        "newly_dropped": 2,
        "newly_kept": 0,
    }
    assert english["rules"] == {
        "word_count_min": {"now": 1, "tried": 2, "threshold": 70.0},
        "special_ratio_max": {"now": 0, "tried": 1, "threshold": 0.4},
    }
    assert found["languages"]["lo"]["newly_dropped"] == 1
    assert found["languages"]["?"] | {"rules": {}} == {
        **{"documents": 1, "kept_now": 1, "kept_tried": 1, "newly_dropped": 0, "newly_kept": 0},
        "rules": {},
    }
    assert [(e["doc_id"], e["change"], [r["rule"] for r in e["rules"]]) for e in found["examples"]] == [
        ("d1", "newly_dropped", ["word_count_min"]),
        ("d2", "newly_dropped", ["special_ratio_max"]),
        ("d3", "newly_dropped", ["special_ratio_max"]),
    ]
    kept = policy_trial.compare(
        make(tmp_path, table), write(tmp_path, "default: {special_ratio: off}\nen: {word_count: off}"), examples=1
    )
    assert kept["languages"]["en"]["newly_kept"] == 1
    assert kept["examples"] == [
        {
            **{"doc_id": "d0", "url": "https://x.example/0", "lang": "en", "change": "newly_kept"},
            "rules": [{"rule": "word_count_min", "value": 40.0, "threshold": 50.0}],
        }
    ]


def test_the_same_policy_changes_nothing_and_an_empty_one_is_the_files(tmp_path):
    rng = np.random.default_rng(3)
    table = signals(
        lang=rng.choice(["en", "lo"], 500).tolist(),
        **{s: rng.random(500).astype(np.float32) for s in ("special_ratio", "char_repetition", "word_repetition")},
        word_count=rng.integers(1, 100, 500),
    )
    run = make(tmp_path, table)
    same = policy_trial.compare(run, write(tmp_path, json.dumps(RECIPE["filter"]["policy"])))
    assert not same["examples"]
    assert all(r["now"] == r["tried"] for row in same["languages"].values() for r in row["rules"].values())
    files = policy_trial.compare(run, write(tmp_path, ""))
    kept, _ = policy_kernel(["en", "lo"])(table.combine_chunks().to_batches()[0])
    assert sum(row["kept_tried"] for row in files["languages"].values()) == kept.num_rows
    assert files["examples"]


def test_percentiles_of_the_reference(tmp_path):
    values = (np.arange(400) / 400).astype(np.float32)
    table = signals(lang=["en"] * 300 + ["lo"] * 100, source=["good", "web"] * 200, char_repetition=values)
    rules = {"default": {"char_repetition": {"max": {"percentile": 90}}}}
    recipe = {**RECIPE, "filter": {"policy": {}, "reference": ["good"], "reference_min_documents": 100}}
    run = make(tmp_path, table, recipe)
    found = policy_trial.compare(run, write(tmp_path, json.dumps(rules)))
    good = values[:300:2].astype(np.float64)
    assert found["thresholds"]["en"]["char_repetition"]["max"] == {
        "percentile": 90.0,
        "documents": 150,
        "value": float(np.quantile(good, 0.9)),
    }
    assert found["thresholds"]["lo"]["char_repetition"]["max"] == {"percentile": 90.0, "documents": 50, "value": None}
    assert found["languages"]["en"]["rules"]["char_repetition_max"]["tried"] == int(
        (values[:300] > np.quantile(good, 0.9)).sum()
    )
    assert "char_repetition_max" not in {r for r, n in found["languages"]["lo"]["rules"].items() if n["tried"]}

    parts = storage.glob(storage.join(run.uri, "filter/signals", "part-*.parquet"))
    config = Filter(policy=rules, reference=["good"], reference_min_documents=100)
    numbers = filter_policy.thresholds(parts, load_all(["en", "lo"], rules), config)
    assert numbers == found["thresholds"]
    ledger = policy_kernel(["en", "lo"], rules, None, numbers)(table.combine_chunks().to_batches()[0])[1]
    broken = [row for row in ledger.to_pylist() if row["rule"] == "char_repetition_max"]
    assert {row["threshold"] for row in broken} == {float(np.quantile(good, 0.9))}
    assert filter_policy.thresholds(parts, load_all(["en"]), config) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("en: {word_cout: {min: 3}}", "unknown key 'word_cout' (did you mean 'word_count'?)"),
        ("tl: {word_count: {min: 3}}", "'tl' is not a language of the recipe"),
        ("en: {char_repetition: {max: {percentile: 99}}}", "filter.reference must name the sources"),
        ("[en]", "must be a mapping of languages"),
        ("en: [", "not YAML"),
    ],
)
def test_a_wrong_policy_is_one_sentence_and_code_2(tmp_path, capsys, text, message):
    run = make(tmp_path, signals(lang=["en"]))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["policy", run.uri, "--try", write(tmp_path, text)])
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_command(tmp_path, capsys):
    run = make(tmp_path, signals(lang=["en", "en"], word_count=[40, 60]))
    file = write(tmp_path, "en: {word_count: {min: 70}}")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["policy", run.uri, "--try", file, "--json"])
    assert exit_.value.code == 0
    assert json.loads(capsys.readouterr().out) == policy_trial.compare(run, file)
    with pytest.raises(SystemExit):
        cli.main(["policy", run.uri, "--try", file])
    out = capsys.readouterr().out
    assert "word_count_min" in out
    assert "https://x.example/1" in out
    with pytest.raises(SystemExit) as exit_:
        cli.main(["policy", str(tmp_path / "run"), "--try", str(tmp_path / "none.yaml")])
    assert exit_.value.code == 2


def test_a_hundred_thousand_documents_take_seconds(tmp_path):
    n = 100_000
    rng = np.random.default_rng(0)
    table = signals(lang=rng.choice(["en", "lo"], n).tolist(), word_count=rng.integers(1, 200, n))
    run = make(tmp_path, table)
    begin = time.process_time()
    found = policy_trial.compare(run, write(tmp_path, "en: {word_count: {min: 70}}"))
    assert time.process_time() - begin < 10
    assert sum(row["documents"] for row in found["languages"].values()) == n


def test_a_model_brings_a_bound_on_perplexity(tmp_path):
    """Four times the 99th percentile of its held-out documents, unless the recipe has one; a language without a model none."""
    for lang, worst in (("en", 250.0), ("my", None)):
        heldout = {"percentiles": {"99": worst} if worst else {}}
        storage.write_json(str(tmp_path / "models" / lang / "lm.json"), {"heldout": heldout})
    models, langs = str(tmp_path / "models"), ["en", "lo", "my"]
    found = filter_policy.with_perplexity({"lo": {"word_count": {"min": 3}}}, models, langs)
    assert found == {"en": {"perplexity": {"max": 1000.0}}, "lo": {"word_count": {"min": 3}}}
    assert load_all(langs, found)["en"].rules["perplexity"] == {"max": 1000.0}
    for own in ({"en": {"perplexity": {"max": 7}}}, {"default": {"perplexity": False}}, {"en": 5}):
        assert filter_policy.with_perplexity(own, models, langs) == own
    assert filter_policy.with_perplexity({"en": None}, None, langs) == {"en": None}


def test_small_models_say_whose_documents_are_better(tmp_path, capsys):
    """The tried policy drops half of the good texts and keeps the rubbish; the one that changes nothing differs by nothing."""
    rng = np.random.default_rng(0)
    good = [n % 3 > 0 for n in range(1520)]
    table = signals(
        lang=["en"] * 1500 + ["lo"] * 20,
        text=[grammars.sentences(rng, one) for one in good],
        word_count=[100 + n % 2 * one for n, one in enumerate(good)],
        special_ratio=[0.0 if one else 0.9 for one in good],
    )
    strict = {**RECIPE, "filter": {"policy": {"default": {"special_ratio": {"max": 0.5}}}}}
    run = make(tmp_path, table, strict)
    worse = write(tmp_path, "default: {special_ratio: false, word_count: {max: 100}}")
    options = ("--train", "--seeds", "3")
    with pytest.raises(SystemExit):
        cli.main(["policy", run.uri, "--try", worse, *options, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["all"]["shown"] and found["all"]["value"] > 0.02
    assert found["left_out"] == ["lo"] and list(found["languages"]) == ["en"]
    assert found["documents"] == {"now": 1000, "tried": 965, "both": 500}
    same = policy_models.compare(run, write(tmp_path, "default: {special_ratio: {max: 0.5}}"), (42, 43), steps=2)
    assert same["all"]["value"] == same["all"]["high"] == 0
    policy_models.show(same)
    assert "no difference shown" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--train", "--seeds", "9"], "no language of which both filters keep 45 documents"),
        (["--train", "--seeds", "1"], "must be 2 or more"),
    ],
)
def test_models_need_documents_and_seeds(tmp_path, capsys, flags, said):
    run = make(tmp_path, signals(lang=["en"] * 30))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["policy", run.uri, "--try", write(tmp_path, "{}"), *flags])
    assert exit_.value.code == 2 and said in capsys.readouterr().err
