"""Rows that four ranks share are trained as rows that each lie on one; test_loop_equality.py has the same of two ranks."""

import json
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
import torch.distributed as dist
from test_loop_equality import assert_same_run, batch_fn, build, train
from torch.distributed.tensor import DTensor

from train.batches import long_rows
from train.kernels import attention
from train.kernels import context_parallel as context
from train.kernels.cross_entropy import linear_cross_entropy
from train.methods import pretrain
from train.monitor.heldout_rows import LossValidation, batches

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
PARTS = (("intra_document", 4), ("anchor", 4), ("anchor", 2))
"""Mask, and how many ranks share a row."""
SIZES = ((4, 2), (6, 4), (8, 1))
"""Up to which update how many ranks share a row: a run of 2 x 2 ranks, then of 1 x 4, then of 4 x 1."""


def backward(net, name: str, part: context.Part | None) -> float:
    batch = batch_fn([1, 2])
    batch |= {key: batch[key][:, 1:] for key in context.CUT} | {"doc_ids": (torch.arange(31) // 11).expand(2, -1)}
    batch = long_rows.with_anchor(batch, 3, "anchor") | {"count": (batch["labels"] >= 0).sum()}
    batch = part.of(batch) if part else batch
    inputs = {key: batch[key] for key in ("input_ids", "position_ids", "doc_ids")}
    hidden = net.model(**inputs, mask=name, use_cache=False).last_hidden_state
    loss, _ = linear_cross_entropy(hidden, net.lm_head.weight, batch["labels"])
    loss.backward()
    return float(loss)


def heldout() -> LossValidation:
    return LossValidation(batches("en", batch_fn, 5, 2) + batches("lo", batch_fn, 2, 1), pretrain.loss, every=1)


def rank_main(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    context.CHUNK = 4  # two parts of a row of 32 then have four chunks each, four have two
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    found = {"losses": {}, "records": []}
    for name, n in PARTS:
        net = build()
        with context.shared(net, n, CPU) as part:
            loss = torch.tensor(backward(net, name, part))
        dist.all_reduce(loss)
        for p in net.parameters():
            dist.all_reduce(p.grad)
            p.grad /= world // n  # groups that have the same rows
        found["losses"][f"{name}-{n}"] = float(loss) / (world // n)
        if rank == 0:
            np.savez(f"{folder}/{name}-{n}.npz", **{key: p.grad.numpy() for key, p in net.named_parameters()})
    net, validation = build(), heldout()
    with context.shared(net, 2, CPU):
        validation.begin(net)
    found["validation"] = validation.start
    for steps, n in SIZES:
        more = {"steps": steps, "context_parallel": n, "schedule": "constant", "parallel": "fsdp", "micro_rows": 2}
        records, weights, _ = train(f"{folder}/run", build(), **more)
        found["records"] += records
    whole = {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in weights.items()}
    weights = {key: value.numpy() for key, value in whole.items()}
    if rank == 0:
        np.savez(f"{folder}/weights.npz", **weights)
        Path(f"{folder}/found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def four_ranks(tmp_path_factory) -> tuple[str, dict]:
    folder = str(tmp_path_factory.mktemp("ranks"))
    ranks.run(rank_main, (4, folder), 4)
    return folder, json.loads(Path(f"{folder}/found.json").read_text())


@pytest.mark.parametrize(("name", "n"), PARTS)
def test_loss_and_gradients_of_parts_are_those_of_the_row(four_ranks, name, n):
    folder, found = four_ranks
    net = build()
    whole = backward(net, name, None)
    assert name in attention.MASKS and found["losses"][f"{name}-{n}"] == pytest.approx(whole, rel=2e-6)
    gradients = np.load(f"{folder}/{name}-{n}.npz")
    for key, p in net.named_parameters():
        torch.testing.assert_close(torch.from_numpy(gradients[key]), p.grad, rtol=1e-4, atol=1e-5, msg=key)
    assert len({round(loss, 3) for loss in found["losses"].values()}) == 2  # the anchor was seen


def test_held_out_rows_are_measured_in_parts(four_ranks):
    validation = heldout()
    validation.begin(build())
    for field, values in validation.start.items():
        assert four_ranks[1]["validation"][field] == pytest.approx(values, rel=2e-6)


def test_a_run_goes_on_while_the_number_of_parts_changes(tmp_path, four_ranks):
    folder, found = four_ranks
    records, weights, _ = train(str(tmp_path), schedule="constant", steps=8)
    saved = {key: torch.from_numpy(value) for key, value in np.load(f"{folder}/weights.npz").items()}
    assert_same_run((found["records"], saved), (records, weights))
