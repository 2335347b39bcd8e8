"""Rounds of preference tuning without Ray: where each starts, what its reference is, its snapshots, and each of the losses."""

import math
from types import SimpleNamespace

import pytest

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.run.graph import enabled
from ray_jobs.run.job import Job
from ray_jobs.stages import dpo as dpo_job
from train import model
from train.monitor import metrics
from train.preference_losses.table import LOSSES

ROWS = [
    {
        "id": f"p{i}",
        "lang": "id",
        "prompt": [{"role": "user", "content": "perahu " * (i % 3 + 1)}],
        "chosen": "ikan " * (i % 4 + 1),
        "rejected": "ya " * (i % 3 + 2),
    }
    for i in range(12)
]


@pytest.fixture
def stage_of(tmp_path, chatml_tokenizer, tiny_model, monkeypatch):
    """`stage_of(name, *overrides)` runs one stage in this process. `stage_of.asked` are the (policy, seed) of on-policy pairs."""
    chatml_tokenizer.save_pretrained(tmp_path / "tokenize" / "tokenizer")
    model.save(tiny_model(), chatml_tokenizer, str(tmp_path / "sft/stage2/model"), 256)
    asked = []
    monkeypatch.setattr(dpo_job.pairs, "off_policy", lambda job: (ROWS, {}))
    monkeypatch.setattr(dpo_job.device, "here", lambda: model.torch.device("cpu"))

    def on_policy(job, policy, seed):
        asked.append((policy.removeprefix(f"{tmp_path}/"), seed))
        dpo_job.chats.write_rows(job.path("pairs.jsonl"), ROWS)
        return ROWS, {}

    monkeypatch.setattr(dpo_job.pairs, "on_policy", on_policy)

    monkeypatch.setattr(dpo_job, "launch", lambda job, function, settings: function(settings))

    def run(name, *overrides):
        settings = [
            "train.dpo.optimiser={rows_per_step: 4, micro_rows: 4, lr: 1e-3}",
            "train.precision=fp32",
            "train.dpo.eval_every=0",
            "train.dpo.beta=0.1",
        ]
        recipe = recipes.load("demo", [*settings, "train.dpo.on_policy.rounds=2", *overrides])
        stage = next(stage for stage in enabled(recipe) if stage.name == name)
        result = dpo_job.run(Job(recipe, str(tmp_path), stage, "f", SimpleNamespace()))
        return result, metrics.read(f"{tmp_path}/metrics/{name.replace('/', '-')}.jsonl")

    run.asked = asked
    return run


def test_each_round_samples_from_the_one_before_and_begins_at_its_own_reference(stage_of, tmp_path):
    for name in ("dpo/off_policy", "dpo/on_policy", "dpo/on_policy_2"):
        result, records = stage_of(name, "train.dpo.loss=dpo", "train.dpo.watch.every=2")
        assert result["steps"] == 3
        assert records[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # the policy is its reference again
        assert records[-1]["loss"] < records[0]["loss"]
    assert stage_of.asked == [("dpo/off_policy/model", 42), ("dpo/on_policy/model", 43)]
    caches = [path.split("/")[-2] for path in storage.glob(f"{tmp_path}/dpo/*/reference_*/part-*.parquet")]
    assert len(set(caches)) == 3
    found = [path.split("/")[-2] for path in storage.glob(f"{tmp_path}/dpo/*/snapshots/*/config.json")]
    assert found == ["000002"] * 3
    weights = [model.load(f"{tmp_path}/dpo/on_policy{part}").lm_head.weight for part in ("/snapshots/000002", "/model")]
    assert not weights[0].equal(weights[1])


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_can_be_asked_for(loss, stage_of, tmp_path):
    own = [f"train.dpo.{name}=0.02" for name in LOSSES[loss].numbers if name != "beta"]
    result, records = stage_of("dpo/off_policy", f"train.dpo.loss={loss}", *own)
    assert result["pairs"] == 12 and math.isfinite(result["loss"])
    start = records[0]["loss"]
    assert (start == pytest.approx(math.log(2), abs=1e-5)) == (loss in ("dpo", "ln_dpo"))
    assert bool(storage.glob(f"{tmp_path}/dpo/off_policy/reference_*/*")) == (loss != "simpo")


def test_a_round_without_pairs_passes_its_model_on(stage_of, tmp_path, monkeypatch):
    monkeypatch.setattr(dpo_job.pairs, "on_policy", lambda job, policy, seed: ([], {"samples": 5}))
    stage_of("dpo/off_policy")
    result, _ = stage_of("dpo/on_policy")
    assert result["pairs"] == 0 and result["samples"] == 5
    ours, theirs = (model.load(f"{tmp_path}/dpo/{name}/model").state_dict() for name in ("on_policy", "off_policy"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
