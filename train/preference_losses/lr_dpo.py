"""Length-regularised DPO (Park et al. 2024, Eq. 9; Sailor2), with r_w and r_l the log-ratios of either answer:

loss = - log sigmoid( beta (r_w - r_l) + alpha (|y_w| - |y_l|) )

A longer winner has part of its margin for free, so its gradient is smaller: little is learned from pairs that length explains.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from train.preference_losses.answers import Answers


def loss(chosen: Answers, rejected: Answers, beta: float, alpha: float) -> Tensor:
    longer_P = chosen.length_P - rejected.length_P
    return -logsigmoid(beta * (chosen.ratio_P - rejected.ratio_P) + alpha * longer_P)
