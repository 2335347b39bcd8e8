"""Healing by a teacher in the loop."""

import pytest
import torch

from train.batches.examples import Example, collate
from train.loop import LoopConfig, fit
from train.methods import distil, pretrain

torch.set_num_threads(1)
CPU = torch.device("cpu")
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 40}


def rows(numbers):
    """Texts in which one of two tokens follows each, one twice as often."""
    examples = []
    for number in numbers:
        g = torch.Generator().manual_seed(number)
        steps = torch.where(torch.rand(25, generator=g) < 2 / 3, 7, 11)
        ids = steps.cumsum(0).add(number).remainder(50).numpy()
        examples.append([Example(str(number), "id", ids, ids >= 0)])
    return collate(examples)


def config(steps, **more):
    own = {"rows_per_step": 4, "micro_rows": 2, "lr": 3e-3, "log_every": 1, "weight_decay": 0.0}
    return LoopConfig(steps=steps, **own | more)


def test_a_student_comes_nearer_to_its_teacher(tiny_model, tmp_path):
    teacher = tiny_model(vocab_size=50)
    fit(teacher, rows, pretrain.loss, config(40), str(tmp_path / "teacher"))
    student = tiny_model(seed=3, vocab_size=50, **SMALL)
    for p in teacher.parameters():
        p.grad = None
    before = {name: p.clone() for name, p in teacher.named_parameters()}
    frozen = distil.frozen(teacher, config(60), CPU)
    records = []
    fit(student, rows, distil.loss_fn(frozen), config(60), str(tmp_path / "student"), on_log=records.append)
    assert records[-1]["divergence"] < 0.5 * records[0]["divergence"]
    assert records[-1]["cross_entropy"] < records[0]["cross_entropy"]
    assert records[-1]["loss"] == pytest.approx(records[-1]["divergence"])
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in teacher.named_parameters())
    half = []
    student = tiny_model(seed=3, vocab_size=50, **SMALL)
    fit(student, rows, distil.loss_fn(frozen, 0.5), config(1), str(tmp_path / "half"), on_log=half.append)
    assert half[0]["loss"] == pytest.approx((half[0]["divergence"] + half[0]["cross_entropy"]) / 2)


def test_losses_of_languages_are_those_of_the_text(tiny_model):
    """Whatever the teacher says, a curve by language is cross-entropy."""
    teacher, student = tiny_model(), tiny_model(seed=3, **SMALL)
    batch = rows([0, 1]) | {"pool": torch.tensor([0, 1])}
    found = distil.loss_fn(distil.frozen(teacher, config(1), CPU))(student, batch)
    plain = pretrain.loss(student, batch)
    torch.testing.assert_close(found.rows.loss, plain.rows.loss)
    assert torch.equal(found.rows.count, plain.rows.count) and int(found.count) == int(plain.count)
