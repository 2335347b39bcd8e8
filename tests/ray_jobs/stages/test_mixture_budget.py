"""`tokens: auto` from the recipe to the training stages: the mixture says how much, in plan.json and its manifest."""

import pytest
import regmix_run

from cluster import storage
from mixture.store.token_store import write_store
from ray_jobs import cli
from ray_jobs.config import reader as recipes
from ray_jobs.run.run import Run
from ray_jobs.stages import mixture
from ray_jobs.training import budget

RECIPE = """
name: budgets
languages: [th, lo, en]
sources: [{name: web, type: jsonl, path: /nowhere/*.jsonl, optional: true}]
mixture: {replay_languages: [en]}
train:
  context: 8
  base:
    shape: {hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 2, intermediate_size: 16}
    languages: [en]
    tokens: auto
    max_tokens: 4000
    optimiser: {rows_per_step: 4, lr: 1e-3}
  pretrain:
    stage1: {tokens: auto, rows_per_step: 4}
    stage2: {tokens: auto, rows_per_step: 8}
  prune:
    {hidden_size: 8, num_attention_heads: 2, intermediate_size: 8, mask_steps: 3, heal_tokens: auto,
     optimiser: {rows_per_step: 4, lr: 1e-3}}
"""
POOLS = {"all/th": 9_999, "all/lo": 99, "all/en": 4_999, "high_quality/th": 1_999}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run = Run(str(tmp_path / "run"), recipes.load(str(tmp_path / "recipe.yaml"), []))
    for name, count in POOLS.items():
        documents = [("d" * 32, name.split("/")[1], 3 * count, [1] * count)]
        write_store(storage.join(run.uri, "tokenize", "pools", name), documents, 100, eod=0)
    storage.write_text(storage.join(run.uri, "recipe.yaml"), recipes.resolved(run.recipe))
    return run


def test_the_plan_the_manifest_and_the_training_stages_agree(run):
    assert budget.known(run.uri, "stage1", run.recipe.train) is None
    result = mixture.run(regmix_run.job(run, "mixture"))
    plan = storage.read_json(storage.join(run.uri, "mixture", "plan.json"))
    train = run.recipe.train
    # replay: 5,000 x 4 are a fifth of 100,000; th gives 40,000 and lo 400 of the rest, so by caps the stage has 60,400, of
    # which th + lo are 0.669 of the 0.8 that they should be: 0.8 - 40,400 / B = 0.1 at 57,714
    assert plan["stage1"]["tokens"] == 57_696 == 32 * (57_714 // 32)
    assert result["budgets"]["stage1"] == {"asked": "auto", "allowed": 57_696, "tokens": 57_696, "bound": "the pools"}
    assert result["budgets"]["base"] == {"asked": "auto", "allowed": 20_000, "tokens": 4_000, "bound": "max_tokens"}
    assert result["warnings"] == [
        "stage2: the instruction pools should get 4% of the tokens but hold none; the others get that share"
    ]
    assert [note.split(" tokens")[0] for note in result["notes"]] == [
        f"{name}: auto: {stage['tokens']:,}" for name, stage in plan.items()
    ]
    assert max(row["epochs"] for stage in plan.values() for row in stage["rows"]) <= 4 + 1e-9
    for name, stage in plan.items():
        assert budget.of_stage(run.uri, name, train) == stage["tokens"] == result["stages"][name]
    healed = budget.of_healing(run.uri, train.prune, train.context)
    assert healed == plan["stage2"]["tokens"] // 32 * 32 - 3 * 32 and healed % 32 == 0
    bounded = train.prune.model_copy(update={"max_heal_tokens": 100})
    assert budget.of_healing(run.uri, bounded, train.context) == 96


def test_a_number_stays_what_it_is(run):
    train = run.recipe.train.model_copy(update={"base": run.recipe.train.base.model_copy(update={"tokens": 50_000})})
    run.recipe = run.recipe.model_copy(update={"train": train})
    result = mixture.run(regmix_run.job(run, "mixture"))
    assert result["budgets"]["base"] == {"asked": 50_000, "allowed": 20_000, "tokens": 50_000, "bound": "the recipe"}
    assert budget.of_stage(run.uri, "base", train) == 50_000
    assert "base: read more than 4 times, as 50,000 tokens are asked for: all/en (10.0)" in result["warnings"]


def test_tokens_of_the_run_shows_the_same(run, capsys):
    mixture.run(regmix_run.job(run, "mixture"))
    with pytest.raises(SystemExit) as end:
        cli.main(["tokens", "--run", run.uri])
    assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "stage1: 57.7 k tokens, 1,803 updates" in shown or "1,803 updates" in shown
    assert "stage1: auto: 57,696 tokens, what the pools allow in 4 passes" in shown


@pytest.mark.parametrize("value", ["all", "0", "-5", "2.5"])
def test_what_is_neither_a_number_nor_auto_is_one_sentence(value, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["run", "demo", "--dry-run", "--set", f"train.pretrain.stage1.tokens={value}"])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert "train.pretrain.stage1.tokens: give a number of tokens above 0, or `auto`" in said
    assert recipes.load("demo", ["train.base.tokens=2e5"]).train.base.tokens == 200_000
