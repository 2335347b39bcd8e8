"""What a longer context costs: attention by the length of documents, memory by that of rows."""

import pytest

from ray_jobs.config import reader as recipes
from ray_jobs.plan import dry_run, gpu_memory, rates
from ray_jobs.plan import training as plan_training
from ray_jobs.plan.model import model
from train.monitor import flops

HOURS = {  # of 4 B tokens at 400 TFLOP/s: rows of 131,072, documents of 16,384
    "sailor2-1b": (108, 26),
    "sailor2-8b": (384, 165),
    "sailor2-20b": (1022, 396),
}


ASKED_8B = [
    "train.long_context={context: 131072, tokens: 4000000000, context_parallel: 8, "
    "optimiser: {rows_per_step: 32, micro_rows: 1, lr: 2e-5}}"
]


def asked(name, mask="anchor", **more):
    own = {"context": 131_072, "tokens": 4_000_000_000, "mask": mask, "long_share": 1.0, "context_parallel": 8, **more}
    said = ", ".join(f"{key}: {value}" for key, value in own.items())
    optimiser = "{rows_per_step: 32, micro_rows: 1, lr: 2e-5}"
    return recipes.load(name, [f"train.long_context={{{said}, optimiser: {optimiser}}}"])


@pytest.mark.parametrize("name", HOURS)
def test_attention_is_counted_by_documents_unless_the_mask_is_full(name):
    numbers = rates.numbers("cascade", {})
    for mask, hours in zip(("full", "anchor"), HOURS[name], strict=True):
        recipe = asked(name, mask)
        of, own = model(recipe)[1], recipe.train.long_context
        attended, _ = plan_training.attended_per_token(own, numbers)
        found = flops.in_documents(of.shape, of.vocab_size, attended) * own.tokens / 400e12 / 3600
        assert found == pytest.approx(hours, rel=0.02), mask


def test_short_documents_and_the_assumption_count():
    numbers, own = rates.numbers("cascade", {}), asked("sailor2-8b", long_share=0.6).train.long_context
    attended, source = plan_training.attended_per_token(own, numbers)
    assert attended == pytest.approx((0.6 * 2 * 8192 + 0.4 * 1000) / 2)
    assert "60% of them in documents of 16,384 (long_document_ratio)" in source
    longer = rates.numbers("cascade", {"long_document_ratio": 100})
    assert plan_training.attended_per_token(own, longer)[0] == pytest.approx((0.6 * 131_072 + 0.4 * 1000) / 2)


def test_the_dry_run_says_the_rotation_and_a_base_that_is_too_small():
    assert dry_run.describe(asked("sailor2-8b"))["rotation"] == ["long_context: a rotation of base 1e+07"]
    (kept,) = dry_run.describe(recipes.load("sailor2-8b", [*ASKED_8B, "train.long_context.rope=null"]))["rotation"]
    assert kept.startswith("long_context: a rotation of base 1e+06 is below 8.9e+06, the least for 131,072 positions")
    yarn = "train.long_context.rope={type: yarn, factor: 4}"
    said, warned = dry_run.describe(recipes.load("sailor2-8b", [*ASKED_8B, yarn]))["rotation"]
    assert "YaRN stretches 4,096 positions to 16,384, and rows have 131,072; set rope.factor" in warned
    assert said == "long_context: a rotation of base 1e+06, YaRN 4 over 4,096 positions"
    assert dry_run.describe(recipes.load("sailor2-8b"))["rotation"] == []


def test_memory_is_that_of_its_rows_and_parts():
    found = {one["name"]: one for one in dry_run.describe(asked("sailor2-8b"))["training"]}
    own = found["long_context"]
    assert (own["tokens"], own["rows"], own["length"]) == (4_000_000_000, 1, 131_072)
    assert own["steps"] == -(-4_000_000_000 // (32 * 131_072))
    one, eight = (
        {work.stage: work for work in gpu_memory.works(asked("sailor2-8b", context_parallel=n))}["long_context"]
        for n in (1, 8)
    )
    train = asked("sailor2-8b").train
    kept = [gpu_memory.of_worker(train, work).row for work in (one, eight)]
    assert 4 < kept[0] / kept[1] < 8.5
    assert found["pretrain/stage1"]["memory"] == pytest.approx(
        {o["name"]: o for o in dry_run.describe(recipes.load("sailor2-8b"))["training"]}["pretrain/stage1"]["memory"]
    )
