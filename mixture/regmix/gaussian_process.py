"""Gaussian process regression of ln L on the square roots of weights, whose distance is Hellinger's between mixtures.

Matern 5/2 kernel with a length of its own for every pool, a constant, and noise; all are found by the marginal likelihood with
a weak prior (Rasmussen and Williams 2006, sections 5.1 and 5.4.1). O(N^3) for each of about 50 steps: 2 s for 512 runs.
"""

from __future__ import annotations

import numpy as np

STEPS = 60
CONSTANT = 100.0  # variance of the mean, in units of that of ln L
ROOT5 = 5**0.5


class GaussianProcess:
    """The process of one target."""

    def __init__(self, weights_ND: np.ndarray, loss_N: np.ndarray):
        from scipy.optimize import minimize

        log_N = np.log(loss_N)
        self.mean, self.scale = float(log_N.mean()), max(float(log_N.std()), 1e-6)
        roots_ND = np.sqrt(weights_ND)
        spread_D = roots_ND.std(axis=0)
        self.centre_D, self.spread_D = roots_ND.mean(axis=0), np.where(spread_D > 1e-9, spread_D, 1.0)
        self.points_ND = self._points(weights_ND)
        z_N = (log_N - self.mean) / self.scale
        d = weights_ND.shape[1]
        start = np.concatenate([[0.0], np.ones(d), [-2.5]])
        bounds = [(-4.0, 4.0)] + [(-2.5, 6.0)] * d + [(-6.0, 0.5)]
        options = {"maxiter": STEPS}
        found = minimize(
            evidence, start, (self.points_ND, z_N), jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
        self.height, self.lengths_D = np.exp(2 * found.x[0]), np.exp(found.x[1:-1])
        covariance_NN = self._covariance(self.points_ND) + np.exp(2 * found.x[-1]) * np.eye(len(z_N))
        self.alpha_N = np.linalg.solve(covariance_NN, z_N)

    def predict(self, weights_MD: np.ndarray) -> np.ndarray:
        """Losses, [M]: exp of the mean of ln L."""
        return np.exp(self.mean + self.scale * (self._covariance(self._points(weights_MD)) @ self.alpha_N))

    def _points(self, weights_MD: np.ndarray) -> np.ndarray:
        return (np.sqrt(weights_MD) - self.centre_D) / self.spread_D

    def _covariance(self, points_MD: np.ndarray) -> np.ndarray:
        squared_MN = _squared(points_MD / self.lengths_D, self.points_ND / self.lengths_D)
        return CONSTANT + self.height * _matern(squared_MN)[0]


def evidence(p: np.ndarray, points_ND: np.ndarray, z_N: np.ndarray) -> tuple[float, np.ndarray]:
    """Minus the log of (marginal likelihood x prior), without constants, and its gradient.

    `p` holds logarithms: of the kernel's standard deviation, of the D lengths, of the noise's standard deviation.
    """
    from scipy.linalg import lapack

    scaled_ND = points_ND * np.exp(-p[1:-1])
    squared_NN = _squared(scaled_ND, scaled_ND)
    shape_NN, fall_NN = _matern(squared_NN)
    height, noise = np.exp(2 * p[0]), np.exp(2 * p[-1])
    covariance_NN = height * shape_NN + CONSTANT
    covariance_NN[np.diag_indices(len(z_N))] += noise + 1e-8
    lower_NN, failed = lapack.dpotrf(covariance_NN, lower=1)
    if failed:
        return 1e10, np.zeros_like(p)
    inverse_NN = np.tril(lapack.dpotri(lower_NN, lower=1)[0])
    inverse_NN += np.tril(inverse_NN, -1).T
    alpha_N = inverse_NN @ z_N
    value = 0.5 * z_N @ alpha_N + np.log(np.diag(lower_NN)).sum()
    # d value / d covariance = residual / 2; d squared distance / d ln length_i = -2 (difference in i)^2
    residual_NN = inverse_NN - np.outer(alpha_N, alpha_N)
    pull_NN = height * residual_NN * fall_NN
    by_length_D = pull_NN.sum(axis=1) @ scaled_ND**2 - ((pull_NN @ scaled_ND) * scaled_ND).sum(axis=0)
    gradient = np.concatenate([[height * (residual_NN * shape_NN).sum()], by_length_D, [noise * np.trace(residual_NN)]])
    value += ((p[1:-1] - 1.5) ** 2).sum() / 8 + p[0] ** 2 / 18  # lengths of 4.5 within e^2, height 1 within e^3
    gradient[1:-1] += (p[1:-1] - 1.5) / 4
    gradient[0] += p[0] / 9
    return float(value), gradient


def _squared(a_MD: np.ndarray, b_ND: np.ndarray) -> np.ndarray:
    return np.maximum((a_MD**2).sum(axis=1)[:, None] + (b_ND**2).sum(axis=1) - 2 * a_MD @ b_ND.T, 0.0)


def _matern(squared_MN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Matern 5/2 kernel of squared distances, and minus twice its derivative by them."""
    root_MN = ROOT5 * np.sqrt(squared_MN)
    decay_MN = np.exp(-root_MN)
    return (1 + root_MN + 5 / 3 * squared_MN) * decay_MN, 5 / 3 * (1 + root_MN) * decay_MN
