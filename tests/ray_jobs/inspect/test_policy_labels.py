"""`pinisi policy RUN --from-labels` on signals and judgements written by hand."""

from __future__ import annotations

import json

import inspected_run
import pyarrow as pa
import pytest
import yaml

from cluster import storage
from curation.policy.signal_schema import FIELDS, SIGNALS
from ray_jobs import cli
from ray_jobs.commands import policy_labels
from ray_jobs.errors import UserError
from ray_jobs.inspect import judgements, samples
from ray_jobs.run.graph import POLICY

PASSES = {"word_count": 100, "stopword_ratio": 0.5, "script_share": 1.0, "stopword_kinds": 9, "word_order": 1.0}
SCHEMA = pa.schema([*inspected_run.DOCUMENT, *FIELDS])


def corpus(n=120):
    """Of texts with fewer than 80 words a policy that wants 140 drops good ones from 30 words on."""
    found = []
    for i in range(n):
        document = {name: PASSES.get(name, 0) for name in SIGNALS}
        document |= {"doc_id": f"d{i:03}", "lang": "en", "text": f"text {i}", "word_count": 2 * i}
        found.append({**document, "fate": (POLICY, ["word_count_min"]) if 2 * i < 140 else None})
    return found


@pytest.fixture
def run(tmp_path):
    run = inspected_run.run_at(str(tmp_path / "run"), ("en",), filter={"policy": {"en": {"word_count": {"min": 140}}}})
    inspected_run.write(run, corpus(), 3, SCHEMA)
    storage.write_json(storage.join(run.uri, POLICY, "_thresholds.json"), {})
    return run


def judge(run, n=None):
    rows = samples.drawn(run, 100)[0].to_pylist()[:n]
    for row in rows:
        label = "CB" if int(row["doc_id"][1:]) < 15 else "CC"
        judgements.append(judgements.file(run.uri, "a"), {"key": row["key"], "label": label})


def test_the_bound_moves_to_where_the_noise_ends(run, capsys):
    judge(run)
    found = policy_labels.propose(run)
    assert found["policy"].keys() == {"en"} and found["policy"]["en"].keys() == {"word_count"}
    assert 28 < found["policy"]["en"]["word_count"]["min"] <= 30
    (row,) = [one for one in found["rules"] if one["bound"] is not None]
    assert (row["signal"], row["side"], row["now"], row["good"] + row["noise"]) == ("word_count", "min", 140, 120)
    assert 40 < row["saved"] < 70 and row["low"] <= row["bound"] <= row["high"]  # 55 good ones are dropped now
    with pytest.raises(SystemExit) as ended:
        cli.main(["policy", run.uri, "--from-labels"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    text = out[out.index("filter:") : out.index("Add this")]
    assert yaml.safe_load(text)["filter"]["policy"] == found["policy"]
    with pytest.raises(SystemExit):
        cli.main(["policy", run.uri, "--from-labels", "--json"])
    assert json.loads(capsys.readouterr().out)["policy"] == found["policy"]


def test_too_few_labels_are_said(run, capsys):
    with pytest.raises(UserError, match="nothing has been judged yet"):
        policy_labels.propose(run)
    judge(run, 12)
    with pytest.raises(SystemExit) as ended:
        cli.main(["policy", run.uri, "--from-labels"])
    assert ended.value.code == 2 and "20 are the least" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["policy", run.uri])
    assert ended.value.code == 2 and "--from-labels" in capsys.readouterr().err


def test_no_bound_without_the_stage(tmp_path):
    run = inspected_run.run_at(str(tmp_path / "run"), ("en",))
    with pytest.raises(UserError, match="filter/policy is not done"):
        policy_labels.propose(run)
