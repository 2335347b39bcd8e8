"""Length-normalised DPO (TRL's "sigmoid_norm"), with r_w and r_l the log-ratios of either answer:

loss = - log sigmoid( beta (r_w / |y_w| - r_l / |y_l|) )
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from train.preference_losses.answers import Answers


def loss(chosen: Answers, rejected: Answers, beta: float) -> Tensor:
    return -logsigmoid(beta * (chosen.ratio_P / chosen.length_P - rejected.ratio_P / rejected.length_P))
