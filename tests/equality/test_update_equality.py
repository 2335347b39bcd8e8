"""Partial updates give the same run over ranks: replicated or sharded, from memory or from a folder, stopped and resumed."""

import dataclasses
import json
from pathlib import Path

import pytest
import ranks
import torch
import torch.distributed as dist
from test_loop_equality import CONFIG, batch_fn, build

from ray_jobs.training import update
from train import model
from train.kernels import chosen, low_rank
from train.loop import fit, place
from train.methods import contrast, plasticity, pretrain

pytestmark = pytest.mark.slow

SHARED = {"schedule": "constant", "micro_rows": 2}
RUNS = {
    "lora": {"parallel": "replicate"},
    "contrast": {"parallel": "replicate"},
    "contrast-exact": {"parallel": "replicate", "exact": True},
    "contrast-fsdp": {"parallel": "fsdp"},
    "contrast-fsdp-tied-full": {"parallel": "fsdp", "activation_checkpointing": "full"},
    "lora-exact": {"parallel": "replicate", "exact": True},
    "lora-fsdp": {"parallel": "fsdp"},
    "lora-fsdp-tied-selective": {"parallel": "fsdp", "activation_checkpointing": "selective"},
}


CHOICE = [
    {"units": [3, 5, 6, 40, 63], "heads": [0, 3], "kv_heads": [1]},
    {"units": [*range(20, 64)], "heads": [1], "kv_heads": []},
]
"""Of the one layer rows of both ranks, of the other mostly those of the second."""


def begin(net, name: str):
    if "contrast" in name:
        return chosen.attach(net, CHOICE, vocabulary="tied" in name)
    return low_rank.attach(net, 5, vocabulary="tied" in name)


def one_run(folder: str, name: str, load=None, **more):
    net, records = begin(load() if load else build("tied" in name), name), []
    config = dataclasses.replace(CONFIG, **SHARED | more)
    cpu = torch.device("cpu")
    more = {"on_log": records.append, "after_step": update.after_step}
    fit(net, batch_fn, pretrain.loss, config, folder, device=cpu, **more)
    update.finish(net)
    model.save(net, None, f"{folder}/hf", 32)
    return [{"step": r["step"], "loss": r["loss"], "grad_norm": r["grad_norm"]} for r in records]


def rank_main(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    for name, more in RUNS.items():
        got = one_run(f"{folder}/{name}", name, steps=4, **more)
        got += one_run(f"{folder}/{name}", name, lambda n=name: model.on_meta(f"{folder}/{'tied' in n}"), **more)
        if rank == 0:
            Path(f"{folder}/{name}.json").write_text(json.dumps(got))
    for kind in ("replicate", "fsdp"):
        found = measured(kind, f"{folder}/False", f"{folder}/probe-{kind}", world)
        if rank == world - 1:
            torch.save(found, f"{folder}/{kind}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("ranks"))
    for tied in (False, True):
        model.save(build(tied), None, f"{folder}/{tied}", 32)
    ranks.run(rank_main, (2, folder), 2)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_are_one_also_after_resuming(tmp_path, two_ranks, name):
    more = {"exact": True} if "exact" in name else {}
    records = one_run(str(tmp_path), name, **more)
    weights, got = (model.load(f"{folder}/hf").state_dict() for folder in (tmp_path, f"{two_ranks}/{name}"))
    found = json.loads(Path(f"{two_ranks}/{name}.json").read_text())
    assert [r["step"] for r in found] == [r["step"] for r in records] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(found, records, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=2e-5)
    for key, weight in weights.items():
        assert (got[key] - weight).norm() <= 1e-4 * weight.norm() + 1e-5, key
    if "exact" in name:
        assert found == records
        assert all(torch.equal(got[key], weight) for key, weight in weights.items())


def measured(kind: str, folder: str, out: str, world: int) -> tuple[dict, dict]:
    """What contrast measures of the model in a folder, on rows of which the ranks do not have equally many, and its plasticity
    on some of them."""
    config = dataclasses.replace(CONFIG, parallel=kind, rows_per_step=world, checkpoint_every=0, steps=3)
    load = model.on_meta if world > 1 else model.load
    net, device = load(folder), torch.device("cpu")
    place(net, config, device)
    target, replay = ([lambda row=row: batch_fn([row]) for row in group] for group in ((1, 2, 3, 4, 5), (6, 7, 8)))
    found = contrast.measure(net, pretrain.loss, target, replay, torch.autocast("cpu", enabled=False))
    return found._asdict(), dict(plasticity.measure(load(folder), target, pretrain.loss, config, out, device=device))


def test_what_is_measured_has_the_same_bits_on_any_number_of_ranks(tmp_path, two_ranks):
    want, gains = measured("replicate", f"{two_ranks}/False", str(tmp_path), 1)
    for kind in ("replicate", "fsdp"):
        got, gained = torch.load(f"{two_ranks}/{kind}.pt")
        assert got["never"] == want["never"]
        for name in ("target", "replay"):
            for one, other in zip(got[name], want[name], strict=True):
                assert all(torch.equal(one[key], other[key]) and other[key].any() for key in other), (kind, name)
        assert gained == pytest.approx(gains, rel=1e-3) and gained["loss_drop"] > 0  # up to the order of sums
