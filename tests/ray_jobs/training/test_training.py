from types import SimpleNamespace

import pytest

from ray_jobs.config import reader as recipes
from ray_jobs.run import graph as stages
from ray_jobs.training import fit as training


@pytest.mark.parametrize(
    ("names", "ranks"),
    [
        (("base", "pretrain/stage1", "pretrain/stage2", "control/stage1", "sft/stage1", "sft/stage2"), 4),
        (("reward", "dpo/off_policy", "dpo/on_policy", "prune"), 1),
    ],
)
def test_only_stages_whose_loss_is_a_sum_over_tokens_share_rows(names, ranks):
    recipe = recipes.load("sailor2-1b", ["train.context_parallel=4"])
    assert {*names} <= {stage.name for stage in stages.STAGES}
    for name in names:
        job = SimpleNamespace(recipe=recipe, train=recipe.train, stage=SimpleNamespace(name=name), seed=recipe.seed)
        assert training.loop_config(job, recipe.train.sft.stage1.optimiser)["context_parallel"] == ranks
