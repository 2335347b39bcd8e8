"""Arms of an experiment on fakes of all stages: what is adopted, what is made, and that what is adopted is never written."""

import dataclasses
import json
import os
import uuid
from pathlib import Path

import pytest
import yaml

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.experiment import engine, sharing, specification
from ray_jobs.run import adopted, superseded
from ray_jobs.run.run import Run

QUESTION = {
    "name": "worth",
    "question": "What is continual pre-training worth?",
    "base": "demo",
    "set": {"train.prune": None, "evaluate.tasks.models": ["base", "dpo/on_policy"]},
    "arms": {
        "without": {"train.pretrain": None, "train.expand": None},
        "with": {"train.pretrain.control": False},
    },
    "seeds": [42, 43],
}
PAIRS = ["parallel/pairs", "parallel/dedup", "parallel/documents"]
CURATION = ["crawl", "extract", "language", "filter/signals", "filter/policy", "dedup", "quality", *PAIRS, "tokenize"]
ALIGNED = ["reward", "sft/stage1", "sft/select", "sft/stage2", "dpo/off_policy", "dpo/on_policy"]
MEASURED = ["evaluate", "tasks"]


@pytest.fixture(params=["local", "memory"])
def uri(request, tmp_path):
    return str(tmp_path / "runs") if request.param == "local" else f"memory://{uuid.uuid4().hex}/runs"


def loaded(tmp_path, **changes):
    file = tmp_path / "worth.yaml"
    file.write_text(yaml.safe_dump({**QUESTION, **changes}, sort_keys=False))
    return specification.load(str(file))


def execute(tmp_path, uri, donors=(), **changes):
    experiment, path = loaded(tmp_path, **changes)
    said = []
    done = engine.execute(experiment, specification.trials(experiment, path), uri, donors, say=said.append)
    return done, said


def test_what_is_equal_is_made_once(tmp_path, uri, faked):
    execute(tmp_path, uri)
    assert faked.of("without/42")[: len(CURATION)] == CURATION
    assert faked.of("without/42")[-9:] == ["reward", "sft/data", *ALIGNED[1:], *MEASURED]
    pretrained = ["expand", "pretrain/stage1", "pretrain/stage2"]
    assert faked.of("with/42") == ["regmix/weights", "mixture", *pretrained, *ALIGNED, *MEASURED]
    # a seed trains again what is trained after the base, and nothing else
    assert faked.of("without/43") == [*ALIGNED, *MEASURED]
    assert faked.of("with/43") == ["pretrain/stage1", "pretrain/stage2", *ALIGNED, *MEASURED]
    made = len(faked.ran)
    execute(tmp_path, uri)
    assert len(faked.ran) == made


def state(folder):
    """Of all files below a folder what is in them and when they were written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name not in ("recipe.yaml", "_lock.json")
    }


def test_what_is_adopted_is_never_written(tmp_path, faked):
    demo = str(tmp_path / "demo")
    Run(demo, recipes.load("demo")).execute(say=lambda _: None)
    before = state(demo)
    for path in Path(demo).rglob("*"):
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    execute(tmp_path, str(tmp_path / "runs"), [demo])
    assert state(demo) == before and len(before) > 30
    assert faked.of("without/42") == [*ALIGNED, *MEASURED]
    # `with` differs from the demo by its lack of a control and of pruning alone
    assert faked.of("with/42") == MEASURED
    for path in Path(demo).rglob("*"):
        os.chmod(path, 0o755 if path.is_dir() else 0o644)


def test_a_changed_key_runs_only_what_depends_on_it_and_only_in_its_arm(tmp_path, uri, faked):
    execute(tmp_path, uri)
    faked.ran.clear()
    arms = {**QUESTION["arms"], "with": {"train.pretrain.control": False, "train.dpo.beta": 0.2}}
    execute(tmp_path, uri, arms=arms)
    tuned = ["dpo/off_policy", "dpo/on_policy", *MEASURED]
    assert [stage for _, stage in faked.ran] == 2 * tuned
    assert faked.of("with/42") == faked.of("with/43") == tuned


def test_a_killed_experiment_goes_on(tmp_path, uri, faked):
    faked.fail = "sft/stage1"
    with pytest.raises(KeyboardInterrupt):
        execute(tmp_path, uri)
    assert faked.ran[-1][1] == "sft/stage1"
    faked.fail = None
    faked.ran.clear()
    _, said = execute(tmp_path, uri)
    assert faked.of("without/42") == [*ALIGNED[1:], *MEASURED]
    assert "sft/stage1: continues where it stopped" in said


def test_what_was_adopted_and_has_changed_is_adopted_no_longer(tmp_path, uri, faked):
    """The run that it was adopted from makes it under other settings: the arm makes its own, beside it."""
    donor = storage.join(uri, "donor")
    Run(donor, recipes.load("demo")).execute(say=lambda _: None)
    execute(tmp_path, uri, [donor], seeds=[42])
    assert adopted.home(storage.join(uri, "with/42"), "pretrain/stage1") == donor
    Run(donor, recipes.load("demo", ["train.pretrain.lr=1e-3"])).execute(say=lambda _: None)
    faked.ran.clear()
    execute(tmp_path, uri, [donor], seeds=[42])
    assert faked.of("with/42") == ["pretrain/stage1", "pretrain/stage2", *ALIGNED]
    assert adopted.home(storage.join(uri, "with/42"), "pretrain/stage1") == storage.join(uri, "with/42")
    assert {uri for uri, _ in faked.ran} == {storage.join(uri, "with/42")}


def test_an_arm_is_a_run_like_any_other(tmp_path, uri, faked):
    """`pinisi run` in its folder makes what it lacks, in its own folder, also of what it has adopted when that is changed."""
    (first, second, *_), _ = execute(tmp_path, uri)
    faked.ran.clear()
    run = Run(second.run.uri, second.run.recipe)
    assert {run.state(stage, run.fingerprints()) for stage in run.stages} == {"done", "waiting"}
    run.execute(say=lambda _: None)
    assert [stage for _, stage in faked.ran] == ["dpo/watch", "export", "report"]
    made = storage.read_json(storage.join(first.run.uri, "tokenize/_manifest.json"))
    changed = recipes.parse({**second.run.recipe.model_dump(), "seed": 7}, "test")
    Run(second.run.uri, changed).execute(until="tokenize", say=lambda _: None)
    assert faked.of("with/42")[3:] == ["dedup", "quality", "tokenize"]
    assert storage.read_json(storage.join(first.run.uri, "tokenize/_manifest.json")) == made


def test_equal_compute_is_counted_from_the_shapes(tmp_path, uri, faked):
    arms = {
        "with": {"train.pretrain.control": False},
        "more": {"train.expand": None, "train.pretrain.control": False, "equal_compute": "with"},
    }
    done, _ = execute(tmp_path, uri, arms=arms, seeds=[42])
    tokens = done[1].run.recipe.train.pretrain.stage1.tokens
    # a layer of 16 x (16 + 2 x 8 + 16) + 3 x 16 x 24 weights, 4 of them or 2, a head of 16 x 64; attention over 256 positions
    layer, head = 16 * (16 + 2 * 8 + 16) + 3 * 16 * 24, 16 * 64
    ratio = (6 * (4 * layer + head) + 12 * 4 * 16 * 256) / (6 * (2 * layer + head) + 12 * 2 * 16 * 256)
    step = 8 * 256
    assert tokens == round(8192 * ratio / step) * step > 8192


def test_a_result_that_took_long_is_not_made_again_for_code_alone(tmp_path, uri, faked):
    donor = storage.join(uri, "donor")
    run = Run(donor, recipes.load("demo"))
    run.execute(say=lambda _: None)
    path = storage.join(donor, "base", superseded.MANIFEST)
    made = storage.read_json(path)
    storage.write_json(path, {**made, "fingerprint": "of other code", "seconds": 9000.0})
    with pytest.raises(UserError, match=r"base took 150 minutes and would be made again for a change of code"):
        execute(tmp_path, uri, [donor])
    Run(donor, recipes.load("demo")).execute(keep=["base"], only="base", say=lambda _: None)
    faked.ran.clear()
    execute(tmp_path, uri, [donor], seeds=[42])
    assert "base" not in faked.of("without/42") and "reward" in faked.of("without/42")


def test_a_run_whose_training_was_changed_on_the_way_is_not_shared(tmp_path, uri, faked):
    donor = storage.join(uri, "donor")
    Run(donor, recipes.load("demo")).execute(say=lambda _: None)
    storage.write_text(storage.join(donor, "ledger/pretrain-stage1.jsonl"), "{}\n")
    with pytest.raises(UserError, match=r"its training was changed on the way \(pretrain-stage1.jsonl in ledger\)"):
        execute(tmp_path, uri, [donor])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"measure": ["bits_per_bite"]},
            r"measure: 'bits_per_bite' is no measure \(did you mean 'bits_per_byte'",
        ),
        ({"measure": ["wildbench"]}, "measure: wildbench is read from wildbench, which arm without does not have"),
        ({"control": "wiht"}, r"control: there is no arm 'wiht' \(did you mean 'with'\?\)"),
        ({"arms": {"only": {}}}, "arms: "),
        ({"base": "dmeo"}, "base: dmeo: no such recipe file"),
        ({"seeds": [1, 1]}, "seeds: one is there twice"),
        ({"sedes": [1]}, "sedes: unknown key; did you mean 'seeds'"),
        ({"arms": {"a": {}, "b": {"train.dpo.bta": 0.1}}}, r"arms.b: .*bta: unknown key; did you mean 'beta'"),
        ({"arms": {"a": {}, "b": {"equal_compute": "c"}}}, r"arms.b.equal_compute: 'c' is no arm before this one"),
        ({"arms": {"a": {}, "b": {"train.reward": None}}}, "arms.b: .*dpo needs `reward`"),
        (
            {"arms": {"without": {"train.pretrain": None, "train.expand": None}, "with": {"equal_compute": "without"}}},
            "arms.with.equal_compute: tokens of pre-training make compute equal, so with and without both need",
        ),
        ({"seed_keys": ["train.sed"]}, "arms.without: .*sed: unknown key"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_anything_runs(tmp_path, faked, changes, sentence):
    with pytest.raises(UserError, match=sentence) as found:
        execute(tmp_path, str(tmp_path / "runs"), **changes)
    assert "\n" not in str(found.value)
    assert faked.ran == [] and not (tmp_path / "runs").exists()


def test_what_an_arm_misses_is_said_before_the_first_one_runs(tmp_path, monkeypatch, faked):
    from ray_jobs.run import preflight

    def check(recipe, *_, **__):
        if recipe.train.pretrain:
            raise UserError("train.base.model: nowhere is no folder here")

    monkeypatch.setattr(preflight, "check", check)
    with pytest.raises(UserError, match=r"arm with, seed 42: train.base.model: nowhere is no folder here"):
        execute(tmp_path, str(tmp_path / "runs"))
    assert faked.ran == []


def test_an_arm_needs_what_its_measures_are_read_from(faked, tmp_path):
    run = Run(str(tmp_path / "run"), recipes.load("demo"))
    found = sharing.settle(run, {}, ["bits_per_byte"])
    assert "tasks" not in found.waiting and "evaluate" in found.waiting
    assert not {"export", "report", "dpo/watch"} & set(found.waiting)


def test_the_plan_is_what_is_then_done(tmp_path, uri, faked):
    experiment, path = loaded(tmp_path)
    trials = specification.trials(experiment, path)
    planned = engine.plan(experiment, trials, uri, [])
    assert faked.ran == []
    done = engine.execute(experiment, trials, uri, say=lambda _: None)
    assert [dataclasses.astuple(one.trial)[:2] for one in planned] == [(t.arm, t.seed) for t in trials]
    assert [one.shared for one in planned] == [one.shared for one in done]
    assert json.loads(json.dumps([engine.as_json(one, planned) for one in planned]))
