"""A law of loss and mixture: ln L = ln(c + k (1 + sum_j t_j w_j^b_j)^-a).

The bracket is the target's effective data, as in data-scaling laws L = c + k D^-a: pool j teaches the target at the rate t_j,
with returns that diminish by b_j < 1, and with no data at all the loss is c + k. Its form, not its numbers, is what holds
beyond the runs that it was fitted to: on the published 1B runs it ranks better than trees and Gaussian processes. Laws with
exp(-sum t w) (Ye et al. 2024, arXiv 2403.16952) and with b_j = 1 were tried and fit worse (docs/decisions.md).
"""

from __future__ import annotations

import numpy as np

PULL = 0.1  # of a parameter towards its prior, in units of 1 / (standard deviation of ln L): 2 D + 3 parameters, often few runs
PULL_RETURNS = 0.5
TEACHES = -0.2  # correlation of a pool's weight with ln L under which it is taken to help, to begin with


class MixingLaw:
    """The law of one target, fitted to `loss_N` by penalised least squares of ln L; all parameters are logarithms.

    Prior: t = 20 where weight and loss correlate negatively, else 2.7; b = 0.7; a = 0.3; c = 0.6 of the least loss.
    """

    def __init__(self, weights_ND: np.ndarray, loss_N: np.ndarray):
        from scipy.optimize import least_squares

        d = weights_ND.shape[1]
        log_N = np.log(loss_N)
        scale = max(float(log_N.std()), 1e-6)
        centred_ND = weights_ND - weights_ND.mean(axis=0)
        norm_D = np.sqrt((centred_ND**2).sum(axis=0)) * np.sqrt(((log_N - log_N.mean()) ** 2).sum())
        correlation_D = centred_ND.T @ (log_N - log_N.mean()) / np.where(norm_D > 0, norm_D, 1.0)
        floor = 0.6 * loss_N.min()
        prior = np.concatenate(
            [
                np.where(correlation_D < TEACHES, 3.0, 1.0),
                np.full(d, np.log(0.7)),
                np.log([floor, loss_N.max() - floor, 0.3]),
            ]
        )
        pull = np.concatenate([np.full(d, PULL), np.full(d, PULL_RETURNS), np.full(3, PULL)])
        least = np.concatenate([np.full(d, -8.0), np.full(d, np.log(0.1)), prior[2 * d :] - 5])
        most = np.concatenate([np.full(d, 12.0), np.full(d, np.log(1.5)), prior[2 * d :] + 5])

        def errors(p: np.ndarray) -> np.ndarray:
            return np.concatenate([(_log_loss(p, weights_ND)[0] - log_N) / scale, pull * (p - prior)])

        def slopes(p: np.ndarray) -> np.ndarray:
            return np.concatenate([_log_loss(p, weights_ND)[1] / scale, np.diag(pull)])

        self.parameters = least_squares(errors, prior, jac=slopes, bounds=(least, most), max_nfev=150).x

    def predict(self, weights_ND: np.ndarray) -> np.ndarray:
        """Losses, [N]."""
        return np.exp(_log_loss(self.parameters, weights_ND)[0])


def _log_loss(p: np.ndarray, weights_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln L, [N], and its derivatives by the parameters ln t, ln b, ln c, ln k, ln a: [N, 2 D + 3]."""
    d = weights_ND.shape[1]
    t_D, b_D, (c, k, a) = np.exp(p[:d]), np.exp(p[d : 2 * d]), np.exp(p[2 * d :])
    log_ND = np.log(np.where(weights_ND > 0, weights_ND, 1.0))
    term_ND = np.where(weights_ND > 0, t_D * np.exp(b_D * log_ND), 0.0)
    data_N = 1.0 + term_ND.sum(axis=1)
    learnt_N = k * data_N**-a
    loss_N = c + learnt_N
    by_data_N1 = (-a * learnt_N / data_N / loss_N)[:, None]
    others = [np.full(len(loss_N), c), learnt_N, -a * np.log(data_N) * learnt_N]
    slopes = [by_data_N1 * term_ND, by_data_N1 * term_ND * b_D * log_ND, np.stack(others, axis=1) / loss_N[:, None]]
    return np.log(loss_N), np.concatenate(slopes, axis=1)
