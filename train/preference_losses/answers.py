"""What a preference loss reads of either side of P pairs: sums over an answer's tokens, `<|im_end|>` included."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Answers(NamedTuple):
    """One side of P pairs: log pi(y|x) [P], log pi_ref(y|x) [P], |y| in tokens [P]."""

    logp_P: Tensor
    reference_P: Tensor
    length_P: Tensor

    @property
    def ratio_P(self) -> Tensor:
        """r = log pi(y|x) - log pi_ref(y|x)"""
        return self.logp_P - self.reference_P
