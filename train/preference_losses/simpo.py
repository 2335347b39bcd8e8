"""SimPO (Meng et al. 2024, Eq. 6), which has no reference:

loss = - log sigmoid( beta (log pi(y_w|x) / |y_w| - log pi(y_l|x) / |y_l|) - gamma )
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from train.preference_losses.answers import Answers


def loss(chosen: Answers, rejected: Answers, beta: float, gamma: float) -> Tensor:
    return -logsigmoid(beta * (chosen.logp_P / chosen.length_P - rejected.logp_P / rejected.length_P) - gamma)
