"""Proxies trained together against one by one: CPU seconds per million tokens, training and measuring included.

    python benchmarks/mixture_proxy.py [--device cpu] [--repeats 3]

Ours: all models of a group as one stack of tensors. Peer: the same models one after the other through `transformers`, on the same
rows and with the same losses (tests/equality/test_proxy_equality.py). CPU time on one thread, so that other work on the machine
counts little; wall time on a GPU. Small steps show what Python and dispatch cost, large ones the arithmetic.
"""

from __future__ import annotations

import argparse
import time

import torch
from table import row, write

from train.methods import proxy

DEMO = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 128}
PAPER = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 512}
CASES = (  # name, shape, vocabulary, context, rows of a step, models, steps
    ("demo's proxies", DEMO, 1024, 128, 8, 6, 8),
    ("demo's proxies, steps of 256 tokens", DEMO, 1024, 128, 2, 6, 16),
    ("demo's proxies, steps of 4096 tokens", DEMO, 1024, 128, 32, 6, 2),
    ("1M proxies, vocabulary 16,384", PAPER, 16_384, 256, 4, 4, 2),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for name, shape, vocabulary, context, rows, models, steps in CASES:
        shape = {
            **shape,
            "num_hidden_layers": 2,
            "vocab_size": vocabulary,
            "tie_word_embeddings": True,
            "max_position_embeddings": context,
            "rope_theta": 1e4,
        }
        batches = [batch_fn(number, vocabulary, context) for number in range(models)]
        heldout = {"xx": [batches[0]([10**6])]}
        precision = "fp32" if args.device == "cpu" else "bf16"
        config = proxy.ProxyConfig(steps, rows, rows, warmup_steps=0, precision=precision)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(args.repeats + 1):  # the first round warms up
            for batched in (False, True):
                began = clock(args.device)
                proxy.losses(shape, batches, heldout, config, device=args.device, batched=batched)
                seconds[batched].append(clock(args.device) - began)
        millions = models * steps * rows * context / 1e6
        together, alone = (sorted(seconds[way][1:])[args.repeats // 2] / millions for way in (True, False))
        peer = ("one by one, transformers", alone)
        results.append(row(f"{name}, {models} together", "s per M tokens", together, peer=peer))
    write("mixture-proxy", results, tuned_on="nothing")


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def batch_fn(number: int, vocabulary: int, context: int):
    def batch(rows: list[int]) -> dict[str, torch.Tensor]:
        draws = [torch.Generator().manual_seed(1000 * number + row) for row in rows]
        ids = torch.stack([torch.randint(0, vocabulary, (context + 1,), generator=g) for g in draws])
        return {
            "input_ids": ids[:, :-1],
            "labels": ids[:, 1:],
            "doc_ids": (torch.arange(context) // 50).expand(len(rows), -1),
            "position_ids": torch.arange(context).expand(len(rows), -1),
        }

    return batch


if __name__ == "__main__":
    main()
