import json
import logging
import math

import pytest
import torch

from cluster import storage
from train.batches.parts import LossParts
from train.loop import LoopConfig, fit
from train.monitor import guard
from train.monitor.throughput import MEASURED

LIMITS = {"spike": 3.0, "patience": 2, "max_rollbacks": 2}


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([[0.5]]))


def batch_fn(rows):
    x = torch.ones(len(rows))
    return {
        "x": x,
        "rows": torch.tensor(rows),
        "input_ids": torch.zeros(len(rows), 4),
        "count": torch.tensor(len(rows)),
    }


def run(uri, loss, limits=LIMITS, **more):
    settings = {"steps": 60, "rows_per_step": 2, "micro_rows": 2, "lr": 0.01, "weight_decay": 0.0, "log_every": 5}
    settings |= {"checkpoint_every": 5, "clip": 0.0, "beta1": 0.0, "beta2": 0.5, "guard": limits} | more
    model, records = Line(), []
    summary = fit(model, batch_fn, loss, LoopConfig(**settings), str(uri), on_log=records.append)
    return model, [{k: v for k, v in r.items() if k not in MEASURED} for r in records], summary


def thrown(at, seen=None, kind="spike"):
    """|w - 1| + 1; in the updates `at` the weights are thrown away after the loss was made, which is as usual."""

    def loss(model, batch):
        step = int(batch["step"])
        if seen is not None:
            seen.append(step)
        term = ((batch["x"] * model.w[0, 0] - 1).abs() + 1).sum()
        if step in at:
            with torch.no_grad():
                model.w.add_(50.0 if kind == "spike" else math.nan)
        return LossParts(term, len(batch["x"]), {})

    return loss


@pytest.mark.parametrize("kind", ["spike", "nan"])
def test_it_goes_back_and_leaves_out_the_updates_that_did_it(tmp_path, kind, caplog):
    seen = []
    with caplog.at_level(logging.WARNING):
        model, records, summary = run(tmp_path, thrown({32}, seen, kind))
    # update 33 throws the weights away; 34 and 35 are bad; the last checkpoint before them is of 30 updates
    [note] = summary["rollbacks"]
    assert (note["from"], note["to"], note["back_to"]) == (33, 35, 30)
    assert "back to update 30, without updates 33 to 35" in caplog.text
    assert seen == [*range(35), 30, 31, *range(35, 60)]
    assert summary["skipped_steps"] == 3 and summary["steps"] == 60 and abs(model.w.item() - 1) < 0.1
    assert summary["tokens"] == 57 * 8
    assert json.loads((tmp_path / "checkpoints" / "rollbacks.json").read_text()) == summary["rollbacks"]
    # as a run that never saw those updates
    _, clean_records, _ = run(tmp_path / "clean", thrown(set()), limits=None, steps=30)
    assert records[:6] == clean_records


@pytest.mark.parametrize("stopped_at", [34, 36, 47])
def test_a_run_killed_around_a_rollback_ends_as_one_that_was_not(tmp_path, stopped_at):
    whole, records, summary = run(tmp_path / "whole", thrown({32}))

    class Killed(Exception):
        pass

    def killed(at):
        inner, calls = thrown({32}), []

        def loss(model, batch):
            calls.append(1)
            if len(calls) == at:
                raise Killed
            return inner(model, batch)

        return loss

    with pytest.raises(Killed):
        run(tmp_path / "cut", killed(stopped_at))
    again, later, resumed = run(tmp_path / "cut", thrown({32}))
    assert torch.equal(again.w, whole.w) and resumed["rollbacks"] == summary["rollbacks"]
    assert later == [r for r in records if r["step"] > resumed["resumed_from"]][-len(later) :]


def test_a_single_bad_loss_is_waited_out(tmp_path):
    def once(model, batch):
        parts = thrown(set())(model, batch)
        return parts._replace(loss_sum=parts.loss_sum * (100 if batch["step"] in (30, 40) else 1))

    _, _, summary = run(tmp_path, once)
    assert summary["rollbacks"] == [] and summary["skipped_steps"] == 0


def test_no_checkpoint_is_written_while_updates_are_bad(tmp_path):
    # written after updates 26 to 28, the bad ones, they would push out those of 23 and 24, the last good ones
    _, _, summary = run(tmp_path, thrown({24}), LIMITS | {"patience": 3}, checkpoint_every=1)
    assert [(r["from"], r["to"], r["back_to"]) for r in summary["rollbacks"]] == [(25, 28, 24)]


def test_a_checkpoint_between_cause_and_effect_is_not_gone_back_to(tmp_path):
    _, _, summary = run(tmp_path, thrown({24}))  # update 25, after which a checkpoint is written
    assert [(r["from"], r["to"], r["back_to"]) for r in summary["rollbacks"]] == [(25, 27, 20)]


def test_before_the_first_checkpoint_it_goes_back_to_the_start(tmp_path):
    _, _, summary = run(tmp_path, thrown({3}, kind="nan"))
    [note] = summary["rollbacks"]
    assert (note["from"], note["to"], note["back_to"], note["loss"]) == (4, 6, 0, None)


def test_too_many_rollbacks_end_the_run_in_one_sentence(tmp_path):
    with pytest.raises(FloatingPointError, match="after 2 rollbacks; lower the learning rate or look at the data"):
        run(tmp_path, thrown({20, 30, 40}))


def test_without_a_guard_nothing_changes(tmp_path):
    with_guard = run(tmp_path / "on", thrown(set()))
    without = run(tmp_path / "off", thrown(set()), limits=None)
    assert torch.equal(with_guard[0].w, without[0].w) and with_guard[1] == without[1]
    assert "rollbacks" not in without[2]
    assert not storage.exists(str(tmp_path / "off" / "checkpoints" / "rollbacks.json"))


def test_the_median_decides_not_the_mean():
    watch = guard.Guard(guard.Limits(spike=2.0, patience=1), "memory://none")
    assert not any(watch.due(loss, 1.0) for loss in [1.0] * 20 + [1.9] * 9)
    assert watch.due(2.1, 1.0) and watch.bad == 1
    assert not watch.due(1.5, 1.0) and watch.bad == 0
    assert watch.due(math.inf, 1.0)


def test_losses_below_zero_have_a_course_too():
    watch = guard.Guard(guard.Limits(spike=2.0, patience=1), "memory://none")
    assert not any(watch.due(-1.0, 1.0) for _ in range(20))
    assert not watch.due(-0.5, 1.0) and watch.due(0.1, 1.0)


@pytest.mark.parametrize(("factor", "went_back"), [(10.0, True), (None, False)])
def test_a_gradient_norm_that_leaves_its_course_is_gone_back_from_though_the_loss_does_not(
    tmp_path, factor, went_back, caplog
):
    seen = []

    def loss(model, batch):
        parts = thrown(set(), seen)(model, batch)
        if batch["step"] in (33, 34):  # a term of value 0 with a gradient 50 times as large as usual
            parts = parts._replace(loss_sum=parts.loss_sum + 100 * (model.w - model.w.detach()).sum())
        return parts

    with caplog.at_level(logging.WARNING):
        _, _, summary = run(tmp_path, loss, LIMITS | {"norm_spike": factor})
    if not went_back:
        assert summary["rollbacks"] == [] and seen == [*range(60)]
        return
    [note] = summary["rollbacks"]
    assert (note["from"], note["to"], note["back_to"]) == (33, 35, 30)
    assert note["loss"] < note["median"] and note["grad_norm"] > 40 and note["grad_norm_median"] == pytest.approx(1.0)
    assert "the gradient norm was" in caplog.text and "where 1 was usual at update 35: back to update 30" in caplog.text
    assert seen == [*range(35), 30, 31, *range(35, 60)]


def test_a_gradient_that_is_not_finite_is_bad_though_the_loss_is_finite():
    watch = guard.Guard(guard.Limits(patience=2), "memory://none")
    assert not watch.due(1.0, math.nan) and watch.due(1.0, math.inf)
    assert watch.note(1, 1.0, math.inf)["reason"] == "the gradient norm was not finite"


def test_norms_that_are_mostly_zero_have_no_course():
    watch = guard.Guard(guard.Limits(patience=1), "memory://none")
    assert not any(watch.due(1.0, 0.0) for _ in range(20)) and not watch.due(1.0, 5.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spike": 1.0}, "guard.spike must be above 1"),
        ({"norm_spike": 1.0}, "guard.norm_spike must be above 1"),
        ({"patience": 0}, "must be at least 1"),
    ],
)
def test_wrong_limits_are_one_clear_sentence(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, thrown(set()), limits=LIMITS | change)
    with pytest.raises(ValueError, match="checkpoint_every must be above 0"):
        LoopConfig(steps=1, rows_per_step=1, micro_rows=1, lr=0.1, guard=LIMITS)
    with pytest.raises(ValueError, match="keep_checkpoints must be at least 2"):
        run(tmp_path, thrown(set()), keep_checkpoints=1)
