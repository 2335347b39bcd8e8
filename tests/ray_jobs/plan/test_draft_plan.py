"""A draft in the dry run and in the plan: its size, the whole model beside it, and what cannot be."""

from pathlib import Path

import pytest

from cluster.deploy import spec
from ray_jobs.config import reader as recipes
from ray_jobs.plan import dry_run, gpu_memory
from ray_jobs.plan import training as plan_training
from ray_jobs.plan.model import drafted, model
from ray_jobs.run import bases

CLUSTER = Path(spec.__file__).parents[1] / "cluster.yaml"
DRAFT = "train.draft={optimiser: {rows_per_step: 64, lr: 5e-4}}"


def works(recipe):
    return {work.stage: work for work in gpu_memory.works(recipe)}


@pytest.mark.parametrize(("name", "millions"), [("sailor2-1b", 16.5), ("sailor2-8b", 258.8), ("sailor2-20b", 327.7)])
def test_a_draft_has_the_parameters_of_a_layer_and_of_a_second_query(name, millions):
    recipe = recipes.load(name, [DRAFT])
    grown, draft = model(recipe)[1], drafted(recipe)
    width = grown.shape["hidden_size"]  # also that of all heads of these
    assert draft.parameters == grown.layer + 2 * width**2 + 2 * width  # with the query's bias, and a norm
    assert draft.parameters / 1e6 == pytest.approx(millions, abs=0.1)
    assert drafted(recipes.load(name, [DRAFT, "train.draft.method=eagle3"])).parameters > draft.parameters


def test_the_whole_model_lies_beside_the_draft_on_each_gpu():
    recipe = recipes.load("sailor2-8b", [DRAFT])
    (row,) = [one for one in dry_run.describe(recipe)["training"] if one["name"] == "draft"]
    parts, of = row["memory_by_part"], model(recipe)[1]
    assert recipe.train.parallel == "fsdp"  # which shards all but these
    assert parts["the model that it is for"] == pytest.approx(2 * of.parameters / 1e9)
    assert parts["weights (fp32)"] == pytest.approx(4 * 258.8e6 / 1e9, rel=1e-3)
    assert parts["its head (fp32)"] == pytest.approx(4 * 32_000 * 3584 / 1e9)
    assert row["tokens"] and row["steps"] and "activations (none)" in parts
    whole = recipes.load("sailor2-8b", [DRAFT, "train.draft.vocabulary=null"])
    assert drafted(whole).vocab_size == 151_936
    eagle = recipes.load("sailor2-8b", [DRAFT, "train.draft.method=eagle3"])
    assert "its head (fp32)" not in gpu_memory.of_worker(eagle.train, works(eagle)["draft"]).state


def test_what_no_card_holds_is_refused_in_one_sentence():
    (group,) = [one for one in spec.load(str(CLUSTER)).groups if one.gpus]
    recipe = recipes.load("sailor2-8b", [DRAFT])
    plan_training.check_memory(recipe, group)
    small = group.model_copy(update={"gpu_memory_gb": 24})
    with pytest.raises(ValueError) as error:
        plan_training._check_stage(recipe.train, works(recipe)["draft"], small)
    assert str(error.value).startswith("train.draft: every GPU holds the whole model beside its draft, ")
    assert str(error.value).endswith("take larger GPUs, or set draft: null") and "\n" not in str(error.value)


def test_kinds_that_have_no_draft_are_refused_before_a_run(tmp_path):
    from shapes import SMALL
    from transformers import AutoConfig

    sliding = {"use_sliding_window": True, "sliding_window": 6, "layer_types": ["sliding_attention"] * 4}
    for kind, own, method, said in (
        (
            "gemma2",
            {"head_dim": 16},
            "eagle3",
            "models of the kinds qwen2, qwen3, llama, and this one is of the kind gemma2",
        ),
        ("qwen2", sliding, "glide", "keeps a window of them; take method: eagle3"),
        ("qwen2", sliding, "eagle3", ""),
        ("qwen3", {"head_dim": 16}, "glide", ""),
    ):
        AutoConfig.for_model(kind, **SMALL | own).save_pretrained(tmp_path / kind)
        sets = [f"train.base.model={tmp_path / kind}", "train.base.shape=null", "train.context=1024"]
        recipe = recipes.load(
            "align", [*sets, DRAFT, f"train.draft.method={method}", "train.reward=null", "train.dpo=null"]
        )
        found = [one for one in bases.faults(recipe, weights=False) if one.startswith("train.draft: ")]
        assert [said in one for one in found] == ([True] if said else []), found
