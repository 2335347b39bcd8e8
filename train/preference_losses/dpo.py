"""DPO (Rafailov et al. 2023, Eq. 7), with r_w and r_l the log-ratios of the chosen and the rejected answer:

loss = - log sigmoid( beta (r_w - r_l) )
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from train.preference_losses.answers import Answers


def loss(chosen: Answers, rejected: Answers, beta: float) -> Tensor:
    return -logsigmoid(beta * (chosen.ratio_P - rejected.ratio_P))
