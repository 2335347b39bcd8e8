"""The training loop without Ray, on the stores that store_and_sampler.py has made: one process, or torchrun with any number.

    python examples/train_torchrun.py FOLDER
    torchrun --nproc-per-node 2 examples/train_torchrun.py FOLDER

The same command continues after a kill, also with another number of processes: rows, their order and the optimiser's state are
those of an undisturbed run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from mixture.order.sampler import Sampler, rows
from mixture.store.token_store import TokenStore
from mixture.tokenizer import tokenizer as tokenizers
from train import model
from train.loop import LoopConfig, fit
from train.methods import pretrain

CONTEXT = 64


def main(folder: Path) -> None:
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if "RANK" in os.environ:  # started by torchrun
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")

    tokenizer = tokenizers.load(str(folder / "tokenizer"))
    stores = {path.parent.name: TokenStore(str(path.parent)) for path in sorted(folder.glob("*/store.json"))}
    schedule = [{"from_sample": 0, "weights": {name: 1.0 for name in stores}}]
    sampler = Sampler(stores, schedule, CONTEXT, seed=42)

    def batch(numbers: list[int]) -> dict[str, torch.Tensor]:
        packed = {name: torch.from_numpy(values) for name, values in rows(sampler, numbers).items()}
        return {**packed, "count": (packed["labels"] >= 0).sum()}

    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    net = model.build({"vocab_size": len(tokenizer), **shape})
    config = LoopConfig(steps=20, rows_per_step=8, micro_rows=4, lr=1e-3, checkpoint_every=10, parallel="fsdp")
    out = str(folder / "trained")
    fit(net, batch, pretrain.loss, config, out, device=device, languages=list(sampler.names), on_log=print)
    model.save(net, tokenizer, f"{out}/model", context=CONTEXT)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
