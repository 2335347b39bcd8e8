"""Recipes without documents, without expansion, without pre-training: which stages they have, and what is refused."""

from pathlib import Path

import pytest

from cluster.deploy import spec
from ray_jobs import cli
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.plan import cost as plan
from ray_jobs.plan import training as plan_training
from ray_jobs.run.graph import enabled


def stages(name, *overrides):
    return {stage.name: stage.inputs for stage in enabled(recipes.load(name, list(overrides)))}


def test_a_finished_model_is_aligned_without_documents():
    found = stages("align")
    assert list(found) == [
        "tokenize", "base", "reward", "sft/data", "sft/stage1", "sft/select", "sft/stage2",
        "dpo/off_policy", "dpo/on_policy", "dpo/watch", "export", "report",
    ]  # fmt: skip
    assert found["tokenize"] == ()
    assert found["sft/stage1"] == ("sft/data", "base")
    assert found["dpo/on_policy"] == ("dpo/off_policy", "reward", "base")


def test_sft_alone():
    assert list(stages("align", "train.reward=null", "train.dpo=null")) == [
        "tokenize", "base", "sft/data", "sft/stage1", "export", "report",
    ]  # fmt: skip
    assert stages("align", "train.reward=null", "train.dpo=null")["export"] == ("sft/stage1",)  # becomes export/chat


def test_a_reward_model_alone_exports_nothing():
    found = stages("align", "train.sft=null", "train.dpo=null")
    assert list(found) == ["tokenize", "base", "reward", "report"]


def test_documents_without_pretraining_measure_the_base_and_the_chat_model():
    found = stages("demo", "train.pretrain=null", "train.expand=null", "train.prune=null")
    assert not [name for name in found if name.startswith(("pretrain", "control", "expand"))]
    assert found["sft/stage1"] == ("sft/data", "base")
    assert found["evaluate"] == ("tokenize", "base", "sft/stage2", "dpo/on_policy")


def test_pretraining_without_expansion_starts_from_the_base():
    found = stages("demo", "train.expand=null", "train.pretrain.control=false")
    assert found["pretrain/stage1"] == ("base", "tokenize", "regmix/weights")  # and it waits for mixture
    recipe = recipes.load("demo", ["train.expand=null", "train.pretrain.control=false"])
    base, trained = plan_training.model(recipe)
    assert base == trained


def test_the_stages_of_a_whole_recipe_are_named_as_ever():
    found = stages("demo")
    assert found["pretrain/stage1"] == ("expand", "tokenize", "regmix/weights")
    assert found["reward"] == ("pretrain/stage2",)
    assert found["evaluate"][1:] == (
        "base", "expand", "pretrain/stage1", "pretrain/stage2", "control/stage2", "sft/stage2",
        "dpo/on_policy", "prune",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tokenize.tokenizer=train"], "tokenize.tokenizer: without sources there is no text to train one on"),
        (["train.sft=null", "train.reward=null", "train.dpo=null"], "train: nothing is trained; give `pretrain`"),
        (["train.expand.new_layers=2"], "train: expand needs `pretrain`"),
        (
            ["train.reward=null"],
            "train: dpo needs `reward`, whose model its answers are scored by; give it, or set `dpo",
        ),
        (["train.sft=null"], "train: dpo needs `sft`, whose model it starts from; give it, or set `dpo: null`"),
        (["train=null"], "sources: there is none; only a recipe that aligns"),
    ],
)
def test_what_cannot_be_is_one_sentence(overrides, message):
    with pytest.raises(UserError) as error:
        recipes.load("align", overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_control_compares_with_expansion():
    with pytest.raises(UserError, match=r"pretrain\.control compares with expansion, so it needs `expand`"):
        recipes.load("demo", ["train.expand=null"])


def test_the_dry_run_shows_the_model_that_is_aligned(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "align", "--dry-run"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert said.startswith("model: 24 layers, 494 M parameters") and "no pre-training" in said


def test_the_plan_has_alignment_alone():
    cluster = spec.load(str(Path(spec.__file__).parents[1] / "cluster.yaml"))
    made = plan.make(recipes.load("align"), cluster)
    assert [phase.name for phase in made.phases] == [
        "reward", "sft/stage1", "sft/select", "sft/stage2", "dpo/perplexity", "dpo/off_policy", "dpo/samples", "dpo/rewards",
        "dpo/on_policy", "dpo/watch",
    ]  # fmt: skip
    assert not [row for row in made.rows if row.what == "parameters before expansion"]
    with pytest.raises(
        ValueError, match=r"train\.sft\.stage1\.optimiser\.micro_rows: 64 rows .* set it to \d+ or less"
    ):
        plan.make(recipes.load("align", ["train.sft.stage1.optimiser.micro_rows=64"]), cluster)
