"""Families of models beside plain transformers: the loss and gradients of a packed row, expansion, pruning, saving.

    python benchmarks/training_families.py

Tiny random models, fp32, one thread; two documents of 31 and 18 tokens in one row, and transformers' eager attention reads each
alone. Differences are relative: of logits to the largest, of gradients to the norm of each parameter's, and the worst counts.
It also prints the matrix of docs/training.md.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import torch
import transformers
from table import row, write
from transformers import AutoModelForCausalLM

from train import model
from train.methods import expand, pretrain
from train.methods.prune import Pruning
from train.methods.prune_target import Target

sys.path.append(str(Path(__file__).parents[1] / "tests" / "train" / "bases"))
import test_families as tests

OTHERS = {
    "stablelm": ("stablelm", {}),
    "glm": ("glm", {"head_dim": 16}),
    "glm4": ("glm4", {"head_dim": 16}),
    "nemotron": ("nemotron", {}),
    "ministral": ("ministral", {"head_dim": 16, "sliding_window": 8}),
    "exaone4": ("exaone4", {"sliding_window": 8}),
    "seed_oss": ("seed_oss", {"head_dim": 16}),
    "helium": ("helium", {"head_dim": 16}),
    "starcoder2": ("starcoder2", {"sliding_window": 8}),
}
"""Kinds that no line of our code was written for."""
LIMITS = {"loss": 1e-5, "gradients": 1e-4, "expanded": 0.0, "exported": 0.0, "pruned": 1e-4}


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = []
    print(f"| family | {' | '.join(LIMITS)} |\n|---|{'--:|' * len(LIMITS)}")
    for name, (kind, more) in (tests.FAMILIES | OTHERS).items():
        found = measured(kind, more)
        cells = ["no" if what not in found else f"{found[what]:.0e}".replace("0e+00", "0") for what in LIMITS]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        rows += [
            row(f"{name}, {what}", "relative difference to plain transformers", off, target=LIMITS[what], least=False)
            for what, off in found.items()
        ]
    write("training-families", rows, tuned_on="nothing")


def measured(kind: str, more: dict) -> dict[str, float]:
    """{what: difference}; what a family is refused is left out."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        where, plain = tests.folder(Path(folder, "m"), kind, more)
        net = model.load(where).eval()
        got, want = pretrain.loss(net, tests.packed()).loss_sum, tests.plain_loss(plain)
        found["loss"] = float(abs(got - want) / want)
        got.backward()
        want.backward()
        wanted = {name: p.grad for name, p in plain.named_parameters()}
        pairs = [(p.grad, wanted[name]) for name, p in net.named_parameters() if wanted[name].norm() > 1e-3]
        found["gradients"] = max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)
        found["exported"] = _saved(net, f"{folder}/saved", logits(plain))
        for what, function in (("pruned", _pruned), ("expanded", _expanded)):
            with suppress(ValueError):
                found[what] = function(model.load(where).eval())
    return found


@torch.no_grad()
def logits(net) -> torch.Tensor:
    return net(torch.cat(tests.documents())[None]).logits


def _saved(net, folder: str, want: torch.Tensor) -> float:
    model.save(net, None, folder, context=48)
    return _off(logits(AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()), want)


def _expanded(net) -> float:
    before = logits(net)
    return _off(logits(expand.expand(net, 2, untie=True)), before)


def _pruned(net) -> float:
    """The sliced model beside the masked one."""
    width = getattr(net.config, "head_dim", None) or 16
    pruning = Pruning(net, Target(32 if width == 16 else 48, 2, 48), warmup_steps=1)
    torch.manual_seed(1)
    for p in pruning.log_alpha.values():
        p.data.copy_(2 * torch.randn_like(p))
    pruning.masks = pruning.final()
    return _off(logits(pruning.sliced().eval()), logits(net))


def _off(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


if __name__ == "__main__":
    main()
