"""The preference losses by the name that a recipe gives them (`train.dpo.loss`): one file each, and its line here.

A function `(chosen: Answers, rejected: Answers, beta, …) -> loss [P]` is named in a string, so that a recipe is read without
torch; the code hash of a stage follows such a string as it follows an import.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor  # heavy


class PreferenceLoss(NamedTuple):
    """`function`: "module:function". `numbers`: the keys of the recipe's section that it reads besides `beta`. `reference`:
    whether it reads log-probabilities of the reference model."""

    function: str
    numbers: tuple[str, ...] = ()
    reference: bool = True

    def load(self) -> Callable[..., Tensor]:
        module, _, name = self.function.partition(":")
        return getattr(import_module(module), name)


LOSSES = {
    "lr_dpo": PreferenceLoss("train.preference_losses.lr_dpo:loss", numbers=("alpha",)),
    "dpo": PreferenceLoss("train.preference_losses.dpo:loss"),
    "ln_dpo": PreferenceLoss("train.preference_losses.ln_dpo:loss"),
    "simpo": PreferenceLoss("train.preference_losses.simpo:loss", numbers=("gamma",), reference=False),
}
