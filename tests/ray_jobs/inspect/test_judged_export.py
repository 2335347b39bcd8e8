"""Labels as examples: what is exported, that the quality classifier learns from it, and what a wrong row is told."""

from __future__ import annotations

import inspected_run
import pytest

from cluster import storage
from ray_jobs import cli
from ray_jobs.errors import UserError
from ray_jobs.inspect import export, judgements, samples
from ray_jobs.run import files
from ray_jobs.run.graph import DEDUP, QUALITY, STAGES
from ray_jobs.run.job import Job
from ray_jobs.stages import quality


@pytest.fixture
def run(tmp_path):
    run = inspected_run.run_at(str(tmp_path / "run"), ("km",), quality={"labels": str(tmp_path / "labels/*.jsonl")})
    words = {True: "river boat market rice rain", False: "login cart menu sale cookie"}
    documents = [
        {"doc_id": f"{'gn'[i % 2]}{i:03}", "lang": "km", "text": f"{words[i % 2 == 0]} {i}", "fate": None}
        for i in range(120)
    ]
    inspected_run.write(run, documents)
    return run


def test_labels_are_examples(run, tmp_path, capsys):
    for name in "ab":
        for row in samples.drawn(run, 100)[0].to_pylist():
            good = row["doc_id"].startswith("g") and not (name == "b" and row["doc_id"].endswith("0"))
            line = {"key": row["key"], "label": "CC" if good else "CB", "at": name}
            judgements.append(judgements.file(run.uri, name), line)
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", run.uri, "--export", str(tmp_path / "labels")])
    assert ended.value.code == 0
    good, noise = (files.rows(str(tmp_path / "labels" / name)) for name in (export.GOOD, export.NOISE))
    drawn = {row["doc_id"] for row in samples.drawn(run, 100)[0].to_pylist()}
    assert {row["doc_id"] for row in good} == {
        one for one in drawn if one[0] == "g" and not one.endswith("0")
    }  # else divided
    assert {row["doc_id"] for row in noise} == {one for one in drawn if one[0] == "n"}
    assert good[0] == {**good[0], "good": True, "label": "CC", "source": "judged", "lang": "km"}
    stage = next(one for one in STAGES if one.name == QUALITY)
    job = Job(run.recipe, run.uri, stage, "f", progress=None)
    ((lang, (positives, negatives, native)),) = quality._examples(job, DEDUP).items()
    assert (lang, native) == ("km", [])
    assert sorted(positives) == sorted(row["text"] for row in good)
    assert sorted(negatives) == sorted(row["text"] for row in noise)
    model = str(tmp_path / "km.bin")
    report = quality._train(("km", positives, negatives, [], model, {"per_side": 100, "min_examples": 20}))
    assert report["auc"] == 1.0 and storage.exists(model)


def test_other_labels_run_quality_again(run, tmp_path):
    (tmp_path / "labels").mkdir()
    file = tmp_path / "labels/good.jsonl"
    file.write_text('{"lang": "km", "text": "x", "good": true}\n')
    before = files.listing(run.recipe, "quality.labels")
    file.write_text('{"lang": "km", "text": "xy", "good": true}\n')
    assert files.listing(run.recipe, "quality.labels") != before
    assert "quality.labels" in next(one for one in STAGES if one.name == QUALITY).files


WRONG = ('{"lang": "km", "text": "x"}', '{"lang": 3, "text": "x", "good": true}', '{"text": "x", "good": 1}')


@pytest.mark.parametrize("row", WRONG)
def test_a_wrong_row_is_named(run, tmp_path, row):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/good.jsonl").write_text('{"lang": "km", "text": "x", "good": true}\n' + row)
    stage = next(one for one in STAGES if one.name == QUALITY)
    with pytest.raises(
        UserError, match=r"quality\.labels: row 2 of .* must have `lang`, `text`, and `good` true or false"
    ):
        quality._examples(Job(run.recipe, run.uri, stage, "f", progress=None), DEDUP)


def test_nothing_judged_and_flags_that_do_not_go_together(run, tmp_path, capsys):
    for words, said in [
        (["--export", str(tmp_path / "x")], "nothing has been judged yet"),
        (["--export", "x", "--scores"], "--export goes neither with --scores"),
    ]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["inspect", run.uri, *words])
        assert ended.value.code == 2 and said in capsys.readouterr().err
