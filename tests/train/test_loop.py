import math

import pytest
import torch
from torch import nn

from cluster import storage
from train.batches.parts import LossParts
from train.checkpoint import checkpoint
from train.distributed import data_parallel as parallel
from train.loop import MAX_SKIPS, LoopConfig, fit
from train.monitor import stop

# A linear model y = w x on rows x = row number, y = 3 x: gradients can be written down by hand.


class Line(nn.Module):
    def __init__(self, start: float = 0.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[start]]))


def batch_fn(rows: list[int]) -> dict[str, torch.Tensor]:
    x = torch.tensor(rows, dtype=torch.float32)
    return {"x": x, "y": 3 * x, "input_ids": torch.zeros(len(rows), 4), "count": torch.tensor(len(rows))}


def loss_fn(model: nn.Module, batch: dict) -> LossParts:
    error = batch["x"] * model.w[0, 0] - batch["y"]
    return LossParts(error.square().sum(), len(error), {"error": error.detach().abs().sum()})


def config(**more) -> LoopConfig:
    return LoopConfig(
        **{"steps": 3, "rows_per_step": 4, "micro_rows": 2, "lr": 0.1, "weight_decay": 0.0, "log_every": 1} | more
    )


def run(tmp_path, model=None, batches=batch_fn, losses=loss_fn, more=None, **settings):
    records: list[dict] = []
    model = model or Line()
    summary = fit(model, batches, losses, config(**settings), str(tmp_path), on_log=records.append, **(more or {}))
    return model, records, summary


def test_every_step_takes_its_rows_in_micro_batches_and_logs_their_mean(tmp_path):
    seen = []
    _, records, summary = run(tmp_path, batches=lambda rows: seen.append(rows) or batch_fn(rows), micro_rows=3)
    assert seen == [[0, 1, 2], [3], [4, 5, 6], [7], [8, 9, 10], [11]]
    first = records[0]
    assert first["step"] == 1 and first["tokens"] == 16 and first["lr"] == 0.1
    assert first["loss"] == pytest.approx(9 * (0 + 1 + 4 + 9) / 4)
    assert first["error"] == pytest.approx(3 * (0 + 1 + 2 + 3) / 4)
    assert first["grad_norm"] == pytest.approx(2 * 3 * (0 + 1 + 4 + 9) / 4)
    assert first["tokens_per_second"] > 0 and first["skipped_steps"] == 0
    assert summary["steps"] == 3 and summary["tokens"] == 48 and summary["loss"] == records[-1]["loss"]
    assert summary["resumed_from"] == 0


def test_a_record_is_the_mean_since_the_last_one(tmp_path):
    _, each, _ = run(tmp_path / "each", steps=5)
    _, pairs, _ = run(tmp_path / "pairs", steps=5, log_every=2)
    assert [r["step"] for r in pairs] == [2, 4, 5]
    assert pairs[0]["loss"] == pytest.approx((each[0]["loss"] + each[1]["loss"]) / 2)
    assert pairs[2]["loss"] == pytest.approx(each[4]["loss"])


def test_rows_weigh_by_what_they_count_not_by_their_micro_batch(tmp_path):
    # Row 0 has 3 terms, rows 1-3 have one: a mean of micro-batch means would weigh them alike.
    def batches(rows):
        batch = batch_fn(rows)
        terms = torch.tensor([3.0 if r == 0 else 1.0 for r in rows])
        return batch | {"terms": terms, "count": terms.sum().long()}

    def losses(model, batch):
        return LossParts((batch["terms"] * model.w[0, 0] * (batch["x"] + 1)).sum(), int(batch["terms"].sum()), {})

    for micro in (1, 2, 4):
        _, records, _ = run(tmp_path / str(micro), batches=batches, losses=losses, steps=1, micro_rows=micro)
        assert records[0]["grad_norm"] == pytest.approx((3 * 1 + 2 + 3 + 4) / 6)


def test_count_fn_replaces_the_count_of_the_batch(tmp_path):
    more = {"count_fn": lambda batch: torch.tensor(10 * len(batch["x"]))}
    losses = lambda model, batch: LossParts(*loss_fn(model, batch)[:1], 10 * len(batch["x"]), {})  # noqa: E731
    _, records, _ = run(tmp_path, losses=losses, steps=1, more=more)
    assert records[0]["grad_norm"] == pytest.approx(2.1)


def test_a_loss_function_that_counts_otherwise_is_an_error(tmp_path):
    losses = lambda model, batch: LossParts(model.w.sum(), 1, {})  # noqa: E731
    with pytest.raises(ValueError, match="The batch counts 2, but its loss function counts 1"):
        run(tmp_path, losses=losses)


def test_gradients_are_clipped_and_reported_unclipped(tmp_path):
    def losses(model, batch):
        return LossParts(30.0 * model.w.sum() * len(batch["x"]), len(batch["x"]), {})

    # Adam ignores the scale of a gradient except against eps: with eps = 1 the update is lr * g / (g + 1).
    free, records, _ = run(tmp_path / "a", losses=losses, steps=1, eps=1.0, clip=0.0)
    clipped, _, _ = run(tmp_path / "b", losses=losses, steps=1, eps=1.0, clip=1.0)
    assert records[0]["grad_norm"] == pytest.approx(30)
    assert free.w.item() == pytest.approx(-0.1 * 30 / 31) and clipped.w.item() == pytest.approx(-0.1 * 1 / 2)


def test_an_update_that_is_not_finite_is_skipped_and_counted(tmp_path):
    def losses(model, batch):
        parts = loss_fn(model, batch)
        return parts._replace(loss_sum=parts.loss_sum * math.nan) if batch["step"] == 1 else parts

    weights = []
    more = {"after_step": lambda step, model: weights.append((step, model.w.item()))}
    _, records, summary = run(tmp_path, losses=losses, steps=4, log_every=2, more=more)
    assert [step for step, _ in weights] == [1, 2, 3, 4]
    assert weights[0][1] == weights[1][1] != weights[2][1]
    assert summary["skipped_steps"] == 1
    _, clean, _ = run(tmp_path / "clean", steps=1)
    assert records[0]["loss"] == pytest.approx(clean[0]["loss"])  # the skipped step is not in the mean


def test_ten_skipped_updates_in_a_row_stop_the_run(tmp_path):
    calls = []

    def losses(model, batch):
        calls.append(int(batch["step"]))
        return LossParts(model.w.sum() * math.inf, 2, {})

    with pytest.raises(FloatingPointError, match=f"{MAX_SKIPS} updates in a row, up to {MAX_SKIPS}"):
        run(tmp_path, losses=losses, steps=50)
    assert max(calls) == MAX_SKIPS - 1


def test_frozen_parameters_stay(tmp_path):
    model = Line(2.0)
    model.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    run(tmp_path, model=model)
    assert (model.frozen == 1).all() and model.w.item() != 2.0


def test_extra_parameters_climb_or_fall_and_come_back_with_a_checkpoint(tmp_path):
    def extra():
        p, q = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(1))
        return p, q, [{"params": {"mask": p}, "lr": 0.5}, {"params": {"multiplier": q}, "lr": 0.5, "maximize": True}]

    def losses(p, q):
        def loss(model, batch):
            loss_sum, count, metrics, _ = loss_fn(model, batch)
            return LossParts(loss_sum + count * 1e6 * (p.sum() + q.sum()), count, metrics)

        return loss

    p, q, groups = extra()
    settings = {"steps": 4, "checkpoint_every": 2}
    model, records, _ = run(tmp_path, losses=losses(p, q), more={"extra_params": groups}, **settings)
    assert (p < -1).all() and (q > 1).all()
    plain, plain_records, _ = run(tmp_path / "plain", steps=4)
    assert model.w.item() == pytest.approx(plain.w.item())  # a large extra gradient does not eat the clip
    assert [r["grad_norm"] for r in records] == pytest.approx([r["grad_norm"] for r in plain_records])

    storage.remove(str(tmp_path / "checkpoints" / "step_00000004"))
    p2, q2, groups = extra()
    again, _, summary = run(tmp_path, losses=losses(p2, q2), more={"extra_params": groups}, **settings)
    assert summary["resumed_from"] == 2
    assert torch.equal(p, p2) and torch.equal(q, q2) and torch.equal(model.w, again.w)


def test_a_finished_run_is_not_run_again(tmp_path):
    uri = f"memory://{tmp_path.name}"
    first, _, _ = run(uri, checkpoint_every=3)
    again, records, summary = run(uri, checkpoint_every=3, batches=None)
    assert summary["resumed_from"] == 3 and records == [] and torch.equal(first.w, again.w)
    assert summary["tokens"] == 48 and summary["loss"] == pytest.approx(run(tmp_path)[1][-1]["loss"])
    checkpoint.clear(f"{uri}/checkpoints")
    assert checkpoint.latest(f"{uri}/checkpoints") is None


@pytest.mark.parametrize("native", [True, False])
def test_auto_precision_is_bf16_only_where_the_hardware_has_it(tmp_path, monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    seen = []

    def losses(model, batch):
        product = batch["x"][:, None] @ model.w
        seen.append(product.dtype)
        return LossParts(product.float().sum(), len(product), {})

    _, _, summary = run(tmp_path, losses=losses, precision="auto", steps=1)
    assert summary["precision"] == ("bf16" if native else "fp32")
    assert set(seen) == {torch.bfloat16 if native else torch.float32}


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_that_only_emulates_bf16_takes_fp32(monkeypatch, native, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert parallel.native_precision(torch.device("cuda")) == precision


def test_a_date_is_a_seed(tmp_path):
    def noise(seed: int) -> list[float]:
        drawn = []
        losses = lambda model, batch: drawn.append(torch.rand(1).item()) or loss_fn(model, batch)  # noqa: E731
        run(tmp_path / str(len(list(tmp_path.iterdir()))), losses=losses, seed=seed)
        return drawn

    first = noise(20_241_124)
    assert len(set(first)) == 6 and noise(20_241_124) == first and not set(noise(20_241_125)) & set(first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"micro_rows": 0}, "micro_rows must be at least 1"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"schedule": "step"}, "schedule must be one of constant, cosine, linear, wsd, not 'step'"),
        ({"precision": "fp16"}, "precision must be one of fp32, bf16, auto"),
        ({"parallel": "pipeline"}, "parallel must be one of replicate, fsdp"),
        ({"exact": True, "parallel": "fsdp"}, "which parallel fsdp cuts among ranks; set parallel to replicate"),
        ({"exact": True, "context_parallel": 2}, "set context_parallel to 1, or exact to False"),
        ({"warmup_steps": 3, "decay_steps": 1}, "must not exceed the 3 steps"),
    ],
)
def test_a_wrong_setting_is_one_clear_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


def test_weights_must_be_fp32(tmp_path):
    with pytest.raises(ValueError, match="trains fp32 weights"):
        run(tmp_path, model=Line().to(torch.bfloat16))


def test_asked_to_stop_it_finishes_the_update_and_the_next_run_continues_there(tmp_path):
    whole, records, _ = run(tmp_path / "whole", steps=8, log_every=3, checkpoint_every=100)
    ask = {"after_step": lambda step, model: stop.requested.set() if step == 3 else None}
    try:
        with pytest.raises(stop.Stopped, match="stopped after update 4 of 8"):
            run(tmp_path / "asked", steps=8, log_every=3, checkpoint_every=100, more=ask)
    finally:
        stop.requested.clear()
    assert checkpoint.latest(str(tmp_path / "asked" / "checkpoints")).step == 4  # far from a multiple of 100
    again, later, summary = run(tmp_path / "asked", steps=8, log_every=3, checkpoint_every=100)
    assert summary["resumed_from"] == 4 and torch.equal(again.w, whole.w)
    assert [(r["step"], r["loss"], r["lr"]) for r in later] == [(r["step"], r["loss"], r["lr"]) for r in records[1:]]
