"""The experiments that ship with Pinisi."""

import pytest

from ray_jobs.config import reader as recipes
from ray_jobs.config.training import Train
from ray_jobs.errors import UserError
from ray_jobs.experiment import compute, specification


@pytest.mark.parametrize("name", specification.shipped())
def test_each_has_arms_that_are_recipes(name):
    experiment, path = specification.load(name)
    assert experiment.name == name and experiment.question.endswith("?")
    if name == "long-context" and "long_context" not in Train.model_fields:
        with pytest.raises(UserError, match=r"train\.long_context: unknown key") as refused:
            specification.trials(experiment, path)
        assert "\n" not in str(refused.value)
        return
    trials = specification.trials(experiment, path)
    assert [trial.arm for trial in trials] == list(experiment.arms) * len(experiment.seeds)


def test_the_control_of_expansion_gets_the_tokens_that_cost_the_same():
    """Of Sailor2-8B by its shapes: 12 % more, the parameters of both models in matrix products and attention counted."""
    grown = recipes.load("sailor2-8b")
    plain = recipes.load("sailor2-8b", ["train.expand=null", "train.pretrain.control=false"])
    ratio = compute.planned(grown)[1] / compute.planned(plain)[1]
    assert ratio == pytest.approx(8.547 / 7.616, abs=0.03)


def test_low_ranks_get_more_tokens_for_the_same():
    """Of the 8B's base, by hand: 6.53 B parameters in layers at 4 operations, 0.65 B of rank 256 and 0.54 B of the head at 6,
    and 4.9 G of attention, beside 6 for all and the same attention."""
    off = ["train.expand=null", "train.pretrain.control=false"]
    plain, low = (recipes.load("sailor2-8b", [*off, *more]) for more in ([], ["train.pretrain.update.rule=lora"]))
    ratio = compute.planned(low)[1] / compute.planned(plain)[1]
    assert ratio == pytest.approx((4 * 6.53 + 6 * (0.65 + 0.54) + 4.9) / (6 * 7.07 + 4.9), abs=0.01)
    assert compute.planned(low)[0] == compute.planned(plain)[0]


def test_seeds_of_the_command_replace_those_of_the_file():
    experiment, path = specification.load("expansion", [1, 2, 3])
    found = specification.trials(experiment, path, ["train.workers=1"])
    assert [trial.seed for trial in found] == [seed for seed in (1, 2, 3) for _ in experiment.arms]
    assert {trial.recipe.train.workers for trial in found} == {1}
    assert {trial.recipe.train.seed for trial in found} == {1, 2, 3} and {trial.recipe.seed for trial in found} == {42}
