"""What pruning costs: distillation beside whole logits, slicing beside a model in memory, activations beside masks.

    python benchmarks/pruning.py            # about a minute of a CPU

Both sides of a row take turns in one process, and seconds are of the CPU. Memory of a loss is counted (every storage that an
operation makes, while it lives); that of slicing is the growth of a process's peak resident size.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from table import row, write

from ray_jobs.plan.traced import Live
from train import model as models
from train.batches.examples import Example, collate
from train.kernels.distillation import Aim, distil
from train.loop import LoopConfig, fit
from train.methods import activation_scores, pretrain, slices
from train.methods.prune import Pruning, deterministic
from train.methods.prune_target import Target

POSITIONS, VOCABULARY, WIDTH, TEACHER = 2048, 16_384, 128, 192
TIMES = 3
SHAPE = {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 768, "num_attention_heads": 8}
SHAPE |= {"num_key_value_heads": 4, "vocab_size": 4096, "max_position_embeddings": 512}
LARGE = {**SHAPE, "hidden_size": 1024, "intermediate_size": 3072, "vocab_size": 49_152, "num_hidden_layers": 6}
TARGET = Target(128, 4, 384)
CUT = Target(512, 4, 1536)  # of `LARGE`
LENGTH, ROWS = 128, 16


def naive(hidden, weight, taught, teacher, labels) -> torch.Tensor:
    """KL and cross-entropy of whole logits, by autograd."""
    z, log_q = hidden @ weight.T, F.log_softmax(taught @ teacher.T, -1)
    divergence = F.kl_div(F.log_softmax(z, -1), log_q, log_target=True, reduction="sum")
    return 0.5 * divergence + 0.5 * F.cross_entropy(z, labels, reduction="sum")


class Counted(Live):
    """As `Live`, of tensors that have values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self._seen(func(*args, **(kwargs or {})))


def paired(*sides: Callable[[], None], times: int = TIMES) -> list[float]:
    """Median CPU seconds of each, taken in turns, after one turn that does not count."""
    found: list[list[float]] = [[] for _ in sides]
    for number in range(times + 1):
        for one, seconds in zip(sides, found, strict=True):
            began = time.process_time()
            one()
            if number:
                seconds.append(time.process_time() - began)
    return [statistics.median(seconds) for seconds in found]


def distillation() -> list[dict]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(POSITIONS, WIDTH), torch.randn(VOCABULARY, WIDTH) / 16
    taught, teacher = torch.randn(POSITIONS, TEACHER), torch.randn(VOCABULARY, TEACHER) / 16
    labels = torch.randint(0, VOCABULARY, (POSITIONS,))
    hidden.requires_grad_()
    weight.requires_grad_()

    def ours() -> None:
        hidden.grad = weight.grad = None
        distil(hidden[None], weight, taught[None], teacher, labels[None], Aim(0.5)).loss.backward()

    def whole() -> None:
        hidden.grad = weight.grad = None
        naive(hidden, weight, taught, teacher, labels).backward()

    memory = []
    for one in (ours, whole):
        with Counted() as live:
            one()
        memory.append(live.peak / 1e6)
    seconds = paired(ours, whole)
    difference = abs(
        float(distil(hidden[None], weight, taught[None], teacher, labels[None], Aim(0.5)).loss.detach())
        - float(naive(*(one.double() for one in (hidden, weight, taught, teacher)), labels).detach())
    )
    what, peer = f"distillation, {POSITIONS:,} positions of {VOCABULARY:,} tokens", "whole logits"
    size, speed = (peer, memory[1]), (peer, seconds[1])
    error = difference / POSITIONS
    return [
        row(f"{what}: peak memory", "MB", memory[0], peer=size, target=round(memory[1] / 3, 2), least=False),
        row(
            f"{what}: loss and gradients",
            "CPU s",
            seconds[0],
            peer=speed,
            target=round(1.1 * seconds[1], 2),
            least=False,
        ),
        row("distillation: error of the mean loss beside fp64", "nats", error, target=1e-6, least=False),
    ]


def masks_of(net, target: Target) -> slices.Masks:
    pruning = Pruning(net, target, 1)
    generator = torch.Generator().manual_seed(0)
    found = [
        deterministic(torch.randn(p.shape, generator=generator), pruning.keep[name])
        for name, p in pruning.log_alpha.items()
    ]
    return slices.Masks(*found)


def sliced(how: str, folder: str) -> None:
    """In a process of its own: print by how many bytes its resident size grew at its peak."""
    masks = slices.Masks(**torch.load(f"{folder}/masks.pt"))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    if how == "files":
        with slices.of_folder(f"{folder}/large") as source:
            slices.slice_checkpoint(source, masks, CUT, f"{folder}/small", 512)
    else:
        pruning = Pruning(models.load(f"{folder}/large"), CUT, 1)
        pruning.final = lambda: masks  # type: ignore[method-assign]
        models.save(pruning.sliced(), None, f"{folder}/whole", 512)
    print(status("VmHWM") - before)


def status(field: str) -> int:
    """Bytes of a field of this process's status."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(field))
    return 1024 * int(line.split()[1])


def slicing() -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        net = models.build({**LARGE, "tie_word_embeddings": False})
        largest = max(4 * p.numel() for p in net.parameters())
        total = sum(4 * p.numel() for p in net.parameters())
        models.save(net, None, f"{folder}/large", 512)
        torch.save(vars(masks_of(net, CUT)), f"{folder}/masks.pt")
        del net
        grown = {}
        for how in ("files", "whole"):
            command = [sys.executable, __file__, "--slice", how, folder]
            grown[how] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    what = f"slicing a model of {total / 1e6:.0f} MB whose largest tensor has {largest / 1e6:.0f}: peak memory"
    peer = ("the model in memory", grown["whole"] / 1e6)
    return [row(what, "MB", grown["files"] / 1e6, peer=peer, target=round(2 * largest / 1e6, 2), least=False)]


def rows_of(numbers: list[int]) -> dict:
    examples = []
    for number in numbers:
        ids = torch.randint(0, 4096, (LENGTH + 1,), generator=torch.Generator().manual_seed(number)).numpy()
        examples.append([Example(str(number), "x", ids, ids >= 0)])
    return collate(examples)


def choosing() -> list[dict]:
    made = {number: rows_of([number]) for number in range(ROWS)}
    config = LoopConfig(steps=ROWS // 4, rows_per_step=4, micro_rows=1, lr=1e-4, log_every=100)

    def masks() -> None:
        net = models.build({**SHAPE, "tie_word_embeddings": True})
        pruning = Pruning(net, TARGET, 10)
        with tempfile.TemporaryDirectory() as out:
            fit(
                net, lambda numbers: made[numbers[0]], pruning.loss_fn(pretrain.loss), config, out,
                extra_params=pruning.extra_params(), after_step=pruning.after_step,
            )  # fmt: skip

    def plain() -> None:
        net = models.build({**SHAPE, "tie_word_embeddings": True})
        with tempfile.TemporaryDirectory() as out:
            fit(net, lambda numbers: made[numbers[0]], pretrain.loss, config, out)

    def scores() -> None:
        net = models.build({**SHAPE, "tie_word_embeddings": True}).eval()
        activation_scores.scores(net, {"x": [made[number] for number in range(ROWS)]})

    learnt, trained, scored = paired(masks, plain, scores, times=2)
    what, with_masks = f"{ROWS} rows of {LENGTH}", ("masks learnt on as many", learnt)
    plainly = ("plain training on as many", trained)
    return [
        row(f"activation scores of {what}", "CPU s", scored, peer=with_masks, target=round(learnt / 2, 2), least=False),
        row(f"masks learnt on {what}", "CPU s", learnt, peer=plainly, target=round(1.5 * trained, 2), least=False),
    ]


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--slice"]:
        sliced(*sys.argv[2:])
        return
    write("training-pruning", [*distillation(), *slicing(), *choosing()], tuned_on="nothing: random weights and rows")


if __name__ == "__main__":
    main()
