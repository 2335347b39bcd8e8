"""Which stages a recipe key makes again: those that read it, and what follows."""

import pytest

from ray_jobs.config import reader as recipes
from ray_jobs.run import run as runs
from ray_jobs.run.run import Run

ALIGNED = {"reward", "sft/stage1", "sft/select", "sft/stage2", "dpo/off_policy", "dpo/on_policy", "dpo/watch"}
MEASURED = {"evaluate", "tasks", "export", "report"}
PRETRAINED = {"pretrain/stage1", "pretrain/stage2", "control/stage1", "control/stage2", "prune"}


@pytest.fixture
def changed(monkeypatch, tmp_path):
    """The stages whose fingerprint a change of the demo's keys changes, of those that both recipes have."""
    monkeypatch.setattr(runs, "code", lambda job, languages: {job: "as it is"})

    def of(*overrides):
        before, after = (Run(str(tmp_path), recipes.load("demo", keys)).fingerprints() for keys in ((), overrides))
        return {name for name in before.keys() & after.keys() if before[name] != after[name]}

    return of


def test_the_base_is_not_trained_again_for_what_follows_it(changed):
    tokens = {"regmix/weights", "mixture", *PRETRAINED, *ALIGNED, *MEASURED}
    assert changed("train.pretrain.stage1.max_tokens=400_000") == tokens
    assert changed("train.pretrain=null", "train.expand=null", "train.prune=null") >= {"mixture", *ALIGNED}
    assert "base" not in changed("train.pretrain=null", "train.expand=null", "train.prune=null")
    assert "base" not in changed("mixture.replay_share=0.2")


@pytest.mark.parametrize(
    "key",
    ["mixture.temperature=3", "mixture.max_epochs=5", "train.base.max_tokens=500_000", "train.context=128", "seed=7"],
)
def test_what_decides_the_plan_of_the_base_trains_it_again(changed, key):
    assert {"base", "expand", *PRETRAINED} <= changed(key)


def test_a_control_adds_stages_and_changes_no_other(changed):
    assert changed("train.pretrain.control=false") <= MEASURED


def test_which_weights_change_is_of_pre_training_and_what_follows(changed):
    keys = ("train.expand=null", "train.pretrain.control=false")
    assert not {"mixture", "base", "regmix/weights"} & changed(*keys, "train.pretrain.update.rule=lora")


def test_a_seed_of_training_is_of_what_follows_the_base(changed):
    assert changed("train.seed=7") == {*PRETRAINED, *ALIGNED, *MEASURED}
    assert changed("train.seed=42") == set()  # the recipe's own
    assert recipes.load("demo", ["train.seed=42"]).train.seed is None
    assert recipes.load("demo", ["seed=7", "train.seed=42"]).train.seed == 42
