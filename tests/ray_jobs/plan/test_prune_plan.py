"""The recipes of pruned models: their shapes by count, and masks and healing in the dry run and the plan."""

from pathlib import Path

import pytest

from cluster.deploy import spec
from ray_jobs.config import reader as recipes
from ray_jobs.plan import dry_run, gpu_memory
from ray_jobs.plan import training as plan_training
from ray_jobs.plan.model import model, pruned, students

CLUSTER = Path(spec.__file__).parents[1] / "cluster.yaml"
PARAMETERS = {"sailor2-3b": 3_579_857_408, "sailor2-14b": 14_801_571_840}
BASES = {"sailor2-3b": "sailor2-8b", "sailor2-14b": "sailor2-20b"}


@pytest.fixture(scope="module")
def group():
    (found,) = [one for one in spec.load(str(CLUSTER)).groups if one.gpus]
    return found


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_by_count_and_by_formula(name):
    recipe = recipes.load(name)
    of, own = pruned(recipe), recipe.train.prune
    kv, layers = (model(recipe)[1].config.num_key_value_heads, of.shape["num_hidden_layers"])
    d, f, n = own.hidden_size, own.intermediate_size, 128
    heads = own.num_attention_heads
    layer = 2 * d * heads * n + 2 * d * kv * n + (heads + 2 * kv) * n + 3 * d * f + 2 * d
    assert of.parameters == PARAMETERS[name] == layers * layer + d + 2 * 151_936 * d
    assert heads * n == d and heads % kv == 0


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_pruned_recipe_is_its_base_and_no_more(name):
    ours, theirs = (recipes.load(one).model_dump() for one in (name, BASES[name]))
    ours_train, train = ours.pop("train"), theirs.pop("train")
    assert {key for key in ours if ours[key] != theirs[key]} == {"name"}
    assert {key for key in train if train[key] != ours_train[key]} == {"prune", "sft", "reward", "dpo"}
    optimiser = recipes.load(name).train.prune.optimiser
    assert recipes.load(name).train.prune.mask_updates(4096) == 1431  # 6 B tokens of masks (section 6.3)
    assert 1431 * optimiser.rows_per_step * 4096 == pytest.approx(6e9, rel=1e-3)


@pytest.mark.parametrize("name", PARAMETERS)
def test_masks_and_healing_are_in_the_dry_run_and_fit_a_card(name, group):
    recipe = recipes.load(name)
    made = {one["name"]: one for one in dry_run.describe(recipe)["training"]}
    assert made["prune/heal"]["parameters"] == PARAMETERS[name]
    masks = made["prune/masks"]
    assert masks["memory_by_part"]["weights (fp32)"] * 1e9 == pytest.approx(4 * masks["parameters"] / 64)
    heal = made["prune/heal"]["memory_by_part"]
    teacher = {"sailor2-3b": 2 * masks["parameters"] / 64, "sailor2-14b": None}[name]  # 58 % removed, 23 %
    assert heal.get("teacher") == (teacher and pytest.approx(teacher / 1e9))
    assert masks["memory"] < plan_training.usable_gb(group)
    plan_training.check_memory(recipe, group)


def test_masks_of_whole_models_that_no_card_holds_are_refused(group):
    own = ["train.parallel=replicate", "train.pretrain.micro_rows=1"]
    recipe = recipes.load("sailor2-3b", own)
    (masks,) = [work for work in gpu_memory.works(recipe) if work.stage == "prune/masks"]
    with pytest.raises(ValueError) as error:
        plan_training._check_stage(recipe.train, masks, group)
    assert str(error.value).startswith("train.parallel: every GPU holds all 137 GB of weights")
    assert "in prune/masks, but" in str(error.value) and str(error.value).endswith("set train.parallel: fsdp")
    assert "\n" not in str(error.value)


def test_a_teacher_is_counted_and_turned_off():
    taught, alone, always = (
        gpu_memory.works(recipes.load(name, own))[-1]
        for name, own in (
            ("sailor2-3b", []),
            ("sailor2-3b", ["train.prune.distil=null"]),
            ("sailor2-14b", ["train.prune.distil.above=0.2"]),
        )
    )
    assert taught.teacher.parameters == 8_546_930_176 and alone.teacher is None
    assert always.teacher.shape["hidden_size"] == 5120
    train = recipes.load("sailor2-3b").train
    with_it, without = (gpu_memory.of_worker(train, work) for work in (taught, alone))
    assert with_it.row == pytest.approx(without.row + 2 * 3584 * 4096 / 1e9, rel=0.2)
    chunk = 4 * 2048 * 151_936 / 1e9
    assert 1 < (sum(with_it.rest.values()) - sum(without.rest.values())) / chunk < 12


def test_the_dry_run_says_how_and_by_whom():
    said = [dry_run.describe(recipes.load(name, own))["pruning"] for name, own in (
        ("sailor2-3b", []),
        ("sailor2-14b", ["train.prune.method=activations"]),
        ("sailor2-3b", ["train.prune.steps=2"]),
        ("sailor2-8b", []),
    )]  # fmt: skip
    assert said[0] == [
        "prune: 8.55 B parameters to 3.58 B, 58% fewer, by masks that are learnt; healed by the model before pruning, whose "
        "memory counts too. It becomes 2,560 wide, 20 heads, FFNs of 9,352: 3,579,857,408 parameters"
    ]
    assert "by activations on 1,024 rows, equally many of each language; healed by the text alone" in said[1][0]
    assert said[2][0].startswith("prune: 8.55 B parameters to 5.81 B, then 3.58 B") and said[3] == []


def test_rounds_are_counted(group):
    recipe = recipes.load("sailor2-3b", ["train.prune.steps=2"])
    made = {one["name"]: one for one in dry_run.describe(recipe)["training"]}
    assert made["prune/masks"]["tokens"] == 2 * 1431 * 1024 * 4096
    assert made["prune/heal"]["parameters"] < made["prune/round 1"]["parameters"] < made["prune/masks"]["parameters"]
    plan_training.check_memory(recipe, group)
    shapes = recipes.load("sailor2-3b", [
        "train.prune.via=[{hidden_size: 3072, num_attention_heads: 24, intermediate_size: 14152}]"
    ])  # fmt: skip
    assert [one.parameters for one in students(shapes)] == [one.parameters for one in students(recipe)]
    assert made["prune/round 1"]["tokens"] == made["prune/heal"]["tokens"] / 2 and not made["prune/heal"]["at_most"]


def test_activations_take_less_than_masks_and_are_refused_where_they_do_not_fit(group):
    own = ["train.prune.method=activations"]
    recipe = recipes.load("sailor2-3b", own)
    works = {work.stage: work for work in gpu_memory.works(recipe)}
    assert "prune/masks" not in works
    read, masks = (
        gpu_memory.table(recipe.train, work)
        for work in (works["prune/activations"], gpu_memory.works(recipes.load("sailor2-3b"))[-2])
    )
    assert read["gradients (fp32)"] == 0 and 0 < read["in all"] < masks["in all"] / 2
    whole = recipes.load("sailor2-14b", [*own, "train.parallel=replicate"])
    (work,) = [work for work in gpu_memory.works(whole) if work.stage == "prune/activations"]
    with pytest.raises(ValueError, match=r"every GPU holds all 77 GB of weights.* in prune/activations"):
        plan_training._check_stage(whole.train, work, group.model_copy(update={"gpu_memory_gb": 80}))
