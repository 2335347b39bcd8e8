import json
from pathlib import Path

import pytest

from cluster.deploy import spec
from ray_jobs import cli
from ray_jobs.config import reader as recipes
from ray_jobs.plan import dry_run
from ray_jobs.plan import training as plan_training

PAPER = {
    # recipe: layers of the base and the model, billions of parameters of both (recipe.md, section 4), tied base
    "sailor2-1b": (24, 48, 0.494, 0.988, True),
    "sailor2-8b": (28, 32, 7.616, 8.547, False),
    "sailor2-20b": (48, 64, 14.770, 19.173, False),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_models_stages_and_tokens(name):
    base_layers, layers, base_billions, billions, tied = PAPER[name]
    found = dry_run.describe(recipes.load(name, []))
    base, model = found["models"]["base"], found["models"]["model"]
    assert (base["layers"], model["layers"]) == (base_layers, layers)
    assert (base["parameters"] / 1e9, model["parameters"] / 1e9) == pytest.approx((base_billions, billions), abs=6e-4)
    assert base["tied"] == tied and not model["tied"] and model["vocabulary"] == 151_936
    assert model["tensors"]["lm_head.weight"] == model["tensors"]["model.embed_tokens.weight"]
    first, second = found["stages"]
    assert (first["steps"], second["steps"]) == (107_289, 3_577)
    assert (first["tokens_per_step"], second["tokens_per_step"]) == (1024 * 4096, 4096 * 4096)
    assert first["tokens"] >= 450e9 > first["tokens"] - first["tokens_per_step"]
    assert first["checkpoints"] == 107 and first["checkpoint_bytes"] == 12 * model["parameters"]


def memory(*overrides):
    return dry_run.describe(recipes.load("sailor2-1b", list(overrides)))["memory"]


def test_memory_follows_sharding_checkpointing_and_freezing():
    whole = memory("train.parallel=replicate")
    sharded = memory("train.workers=16", "train.parallel=fsdp")
    within = memory("train.workers=16", "train.parallel=fsdp", "train.shard_within=8")
    assert within["weights (fp32)"] == pytest.approx(2 * sharded["weights (fp32)"])
    assert whole["weights (fp32)"] == pytest.approx(4 * 0.988, abs=2e-3) == 16 * sharded["weights (fp32)"]
    assert whole["gathered by FSDP"] == 0 < sharded["gathered by FSDP"]
    kept = [memory(f"train.activation_checkpointing={m}")[f"activations ({m})"] for m in ("none", "selective", "full")]
    assert kept[0] > 2 * kept[1] > 4 * kept[2] > 0
    small = memory("train.optimiser_states=8bit", "train.parallel=replicate")
    assert small["Adam's moments (8bit)"] == pytest.approx(whole["Adam's moments (fp32)"] * (2 + 12 / 256) / 8)
    keys_and_values = 48 * 4096 * 2 * 128 * 2 * 3 / 4 / 1e9  # of the other three parts of a row, in bf16
    split = memory("train.context_parallel=4", "train.pretrain.micro_rows=1")["activations (none)"]
    assert split == pytest.approx(memory("train.pretrain.micro_rows=1")["activations (none)"] / 4 + keys_and_values)
    frozen = memory("train.parallel=fsdp", "train.expand.trainable=new_blocks")
    assert frozen["gradients (fp32)"] == pytest.approx(sharded["gradients (fp32)"] * 24 * 14.91e6 / 0.988e9, rel=1e-2)
    exact = memory(
        "train.parallel=replicate", "train.compile=false", "train.exact=true"
    )  # 64 leaves, 4 for each of 16 workers
    assert exact["sums that wait (exact)"] == pytest.approx(2 * whole["gradients (fp32)"])
    for made in (whole, sharded, frozen, exact):
        assert made["in all"] == pytest.approx(sum(value for name, value in made.items() if name != "in all"))


def test_states_are_of_what_an_update_changes():
    """Of the 0.5B base by hand: 24 layers of 14.91 M, of which 15 % are chosen; rank x both sides of each matrix of LoRA."""
    off = ("train.expand=null", "train.pretrain.control=false", "train.parallel=replicate")
    plain = memory(*off)
    some = memory(*off, "train.pretrain.update.rule=contrast")
    low = memory(*off, "train.pretrain.update={rule: lora, rank: 16, vocabulary: false}")
    layers = 24 * 14.91e6
    assert some["gradients (fp32)"] == pytest.approx(4 * 0.15 * layers / 1e9, rel=5e-3)
    assert some["Adam's moments (fp32)"] == 2 * some["gradients (fp32)"]
    assert some["weights (fp32)"] == pytest.approx(plain["weights (fp32)"] + some["gradients (fp32)"])
    sides = 2 * (896 + 896) + 2 * (896 + 128) + 3 * (896 + 4864)
    assert low["gradients (fp32)"] == pytest.approx(4 * 24 * 16 * sides / 1e9)
    assert low["weights (fp32)"] == pytest.approx(plain["weights (fp32)"] + low["gradients (fp32)"])


@pytest.mark.parametrize("name", PAPER)
def test_the_plan_checks_the_memory_that_the_dry_run_prints(name):
    recipe = recipes.load(name, ["train.activation_checkpointing=selective"])
    group = next(
        group for group in spec.load(str(Path(spec.__file__).parents[1] / "cluster.yaml")).groups if group.gpus
    )
    needed, _ = plan_training.check_memory(recipe, group)
    assert needed == pytest.approx(dry_run.describe(recipe)["memory"]["in all"])


def test_the_command_prints_and_starts_nothing(tmp_path, capsys):
    run = ["run", "sailor2-1b", "--dry-run", "--run-dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as ended:
        cli.main(run)
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and not (tmp_path / "run").exists()
    assert "48 layers, 988 M parameters" in printed and "151,936 x 896" in printed and "107,289 steps" in printed
    assert "memory of each of 16 GPUs" in printed
    with pytest.raises(SystemExit):
        cli.main([*run, "--json"])
    assert json.loads(capsys.readouterr().out)["models"]["model"]["layers"] == 48


def test_a_budget_of_auto_is_unknown_or_bounded_until_the_mixture_is_planned(tmp_path):
    auto = "train.pretrain.stage1.tokens=auto"
    recipe = recipes.load("sailor2-1b", [auto])
    first = dry_run.describe(recipe)["stages"][0]
    assert first["steps"] is first["tokens"] is first["checkpoints"] is None and first["at_most"]
    bounded = recipes.load("sailor2-1b", [auto, "train.pretrain.stage1.max_tokens=1000000000"])
    first = dry_run.describe(bounded, str(tmp_path))["stages"][0]
    assert (first["steps"], first["at_most"]) == (239, True)
    (tmp_path / "mixture").mkdir()
    (tmp_path / "mixture" / "plan.json").write_text(json.dumps({"stage1": {"tokens": 10 * 1024 * 4096}}))
    first = dry_run.describe(recipe, str(tmp_path))["stages"][0]
    assert (first["steps"], first["at_most"]) == (10, False)


def test_what_is_printed_of_auto(capsys):
    keys = [
        "train.pretrain.stage1.tokens=auto",
        "train.pretrain.stage2.tokens=auto",
        "train.pretrain.stage2.max_tokens=1e9",
    ]
    dry_run.show(dry_run.describe(recipes.load("sailor2-1b", keys)))
    printed = " ".join(capsys.readouterr().out.split())
    assert "pretrain/stage1: auto, known after tokenize, in steps of 4,194,304 tokens" in printed
    assert "pretrain/stage2: auto, known after tokenize, at most 60 steps of 16,777,216 tokens" in printed


def test_what_models_are_asked_is_said_without_training(tmp_path, capsys):
    line = {"base_url": "http://127.0.0.1:1", "model": "big-1"}
    task = {"name": "en-id", "engine": "endpoint", "endpoint": line, "licence": "mit", "prompt": "translate"}
    asked = json.dumps({"tasks": [{**task, "languages": ["en"], "to": ["id"], "documents": 7}]})
    words = ["run", "demo", "--dry-run", "--run-dir", str(tmp_path), "--set", "train=null"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--set", f"synthesize={asked}"])
    assert ended.value.code == 0
    assert "task en-id: at most 7 texts by big-1" in " ".join(capsys.readouterr().out.split())


def test_a_recipe_without_training_is_told_so(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "commoncrawl", "--dry-run"])
    assert ended.value.code == 2 and "has no `train`" in capsys.readouterr().err
