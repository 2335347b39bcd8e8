"""On-policy rounds as stages: what each reads, what changes when a round is added, and which model counts as the last."""

import pytest

from ray_jobs.config import reader as recipes
from ray_jobs.run.graph import enabled, rounds
from ray_jobs.run.run import Run


def stages(*overrides):
    return {stage.name: stage for stage in enabled(recipes.load("demo", list(overrides)))}


def test_each_round_starts_from_the_one_before():
    found = stages("train.dpo.on_policy.rounds=3")
    assert [name for name in found if name.startswith("dpo/o")] == [
        "dpo/off_policy", "dpo/on_policy", "dpo/on_policy_2", "dpo/on_policy_3",
    ]  # fmt: skip
    starts = {name: stage.inputs[0] for name, stage in found.items() if name.startswith("dpo/o")}
    assert starts == {
        "dpo/off_policy": "sft/stage2",
        "dpo/on_policy": "dpo/off_policy",
        "dpo/on_policy_2": "dpo/on_policy",
        "dpo/on_policy_3": "dpo/on_policy_2",
    }
    assert {"reward", "pretrain/stage2"} <= set(found["dpo/on_policy_3"].inputs)
    assert found["dpo/on_policy_3"].job == "dpo"


def test_those_who_read_the_aligned_model_read_every_round():
    found = stages("train.dpo.on_policy.rounds=2")
    for reader in ("evaluate", "export", "report"):
        assert {"dpo/on_policy", "dpo/on_policy_2"} <= set(found[reader].inputs)
    assert rounds(recipes.load("demo", ["train.dpo.on_policy.rounds=2"]))[-1] == "dpo/on_policy_2"
    assert rounds(recipes.load("demo", ["train.dpo=null"])) == ()
    assert "dpo/on_policy" not in stages("train.dpo=null")["evaluate"].inputs


def changed(tmp_path, *overrides):
    """The training stages whose results the overrides change."""
    one, two = (Run(str(tmp_path), recipes.load("demo", list(o))).fingerprints() for o in ((), overrides))
    return {name for name in one if one[name] != two.get(name)} & {"sft/stage2", "dpo/off_policy", "dpo/on_policy"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.dpo.on_policy.rounds=2", set()),
        ("train.dpo.on_policy.samples=7", {"dpo/on_policy"}),
        ("train.dpo.alpha=0.5", {"dpo/off_policy", "dpo/on_policy"}),
    ],
)
def test_a_round_more_leaves_the_others_as_they_are(override, expected, tmp_path):
    assert changed(tmp_path, override) == expected


@pytest.mark.parametrize("n", [0, 10])
def test_the_number_of_rounds_is_bounded(n):
    with pytest.raises(recipes.UserError, match="rounds"):
        recipes.load("demo", [f"train.dpo.on_policy.rounds={n}"])


def test_alpha_of_each_model_is_the_papers():
    """Sailor2 table 8."""
    found = {size: recipes.load(f"sailor2-{size}").train.dpo for size in ("1b", "8b", "20b")}
    assert {size: own.alpha for size, own in found.items()} == {"1b": 1e-3, "8b": 1e-2, "20b": 3e-3}
    for own in found.values():
        assert (own.loss, own.beta, own.optimiser.lr, own.optimiser.rows_per_step) == ("lr_dpo", 0.01, 5e-7, 128)
        assert own.optimiser.min_lr == pytest.approx(0.1 * own.optimiser.lr) and own.optimiser.schedule == "cosine"
