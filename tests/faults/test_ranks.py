"""Two ranks, one of which meets a fault: both do the same about it, and none waits for the other for ever."""

import errno
import json
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import FORKS

from train.batches.parts import LossParts
from train.checkpoint import checkpoint
from train.loop import LoopConfig, fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def batch_fn(rows):
    x = torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(row)) for row in rows])
    return {"x": x, "rows": torch.tensor(rows), "count": torch.tensor(len(rows))}


def losses(bad):
    """`bad` steps throw the weights away, seen on rank 1 alone."""

    def loss(net, batch):
        value = (net(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().sum()
        if batch["step"] in bad and dist.get_rank() == 1:
            value = value * math.nan
        return LossParts(value, len(batch["x"]), {})

    return loss


def train(folder, bad=(), **more):
    torch.manual_seed(1)
    net = torch.nn.Linear(4, 1)
    settings = {"steps": 12, "rows_per_step": 4, "micro_rows": 2, "lr": 0.01, "log_every": 1, "checkpoint_every": 2}
    summary = fit(net, batch_fn, losses(bad), LoopConfig(**settings | more), folder)
    return {name: summary[name] for name in ("loss", "resumed_from", "failed_checkpoints", "skipped_steps")} | {
        "rollbacks": summary.get("rollbacks"),
        "weights": net.weight.flatten().tolist(),
    }


def full_disk(folder, rank):
    real = checkpoint._write_pieces

    def write(uri, owned):
        if rank == 1 and "step_00000006" in uri:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(uri, owned)

    checkpoint._write_pieces = write
    warned = train(f"{folder}/warn", checkpoint_errors="warn")
    try:
        train(f"{folder}/stop", checkpoint_errors="stop")
    except OSError as error:
        return warned, str(error)


def flipped_bit(folder, rank):
    whole = train(folder, steps=6)
    if rank == 0:
        file = Path(folder, "checkpoints", "step_00000006", "shard-00001.safetensors")
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    dist.barrier()
    return whole, train(folder, steps=6)


def guarded(folder, rank):
    limits = {"spike": 3.0, "patience": 2, "max_rollbacks": 3}
    return train(folder, bad=(7, 8), guard=limits)


def rank_main(rank: int, folder: str, name: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    Path(folder, f"{rank}.json").write_text(json.dumps(globals()[name](f"{folder}/run", rank)))
    dist.destroy_process_group()


def both(folder, name) -> list:
    ranks = [FORKS.Process(target=rank_main, args=(rank, str(folder), name)) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(120)
        assert [process.exitcode for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
            process.join()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_the_disk_of_one_is_full(tmp_path):
    (warned, stopped), (warned_too, stopped_too) = both(tmp_path, "full_disk")
    assert warned["failed_checkpoints"] == warned_too["failed_checkpoints"] == 1
    assert checkpoint.latest(str(tmp_path / "run" / "warn" / "checkpoints")).step == 12
    assert "update 6 was not written: another worker failed to write its part" in stopped
    assert "No space left on device" in stopped_too
    folder = tmp_path / "run" / "stop" / "checkpoints"
    assert checkpoint.latest(str(folder)).step == 4 and not (folder / "step_00000006").exists()


def test_a_bit_is_flipped_in_the_file_that_one_looks_at(tmp_path):
    results = both(tmp_path, "flipped_bit")
    assert results[0] == results[1]
    whole, again = results[0]
    assert again["resumed_from"] == 4 and again["weights"] == whole["weights"] and again["loss"] == whole["loss"]


def test_a_loss_that_one_has_sends_both_back(tmp_path):
    one, other = both(tmp_path, "guarded")
    assert one == other and one["skipped_steps"] == 3
    [note] = one["rollbacks"]
    assert (note["from"], note["to"], note["back_to"]) == (7, 9, 6)
