"""Partial updates give the same run over ranks: replicated or sharded, from memory or from a folder, stopped and resumed."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_loop_equality import CONFIG, batch_fn, build

from train import model
from train.kernels import low_rank
from train.loop import fit
from train.methods import pretrain

pytestmark = pytest.mark.slow

SHARED = {"schedule": "constant", "micro_rows": 2}
RUNS = {
    "lora": {"parallel": "replicate"},
    "lora-exact": {"parallel": "replicate", "exact": True},
    "lora-fsdp": {"parallel": "fsdp"},
    "lora-fsdp-tied-selective": {"parallel": "fsdp", "activation_checkpointing": "selective"},
}


def begin(net, name: str):
    return low_rank.attach(net, 5, vocabulary="tied" in name)


def finish(net) -> None:
    low_rank.merge(net)


def one_run(folder: str, name: str, load=None, **more):
    net, records = begin(load() if load else build("tied" in name), name), []
    config = dataclasses.replace(CONFIG, **SHARED | more)
    fit(net, batch_fn, pretrain.loss, config, folder, device=torch.device("cpu"), on_log=records.append)
    finish(net)
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
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("ranks"))
    for tied in (False, True):
        model.save(build(tied), None, f"{folder}/{tied}", 32)
    mp.spawn(rank_main, (2, folder), nprocs=2)
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
