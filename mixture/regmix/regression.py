"""Losses of a mixture from the losses of proxy runs: one regressor for each target (RegMix, arXiv 2407.01492, section 3).

`linear` and `lightgbm` are the published ones; LightGBM's rounds are chosen by folds of the training runs, never by test runs.
`best` is the geometric mean of a law of data (mixture/regmix/mixing_law.py) and a Gaussian process
(mixture/regmix/gaussian_process.py): the law needs few runs and holds at other scales, the process learns what the law's
form leaves out when there are many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from mixture.regmix.gaussian_process import GaussianProcess
from mixture.regmix.mixing_law import MixingLaw

LIGHTGBM = {
    "objective": "regression",
    "metric": "l2",
    "learning_rate": 0.01,
    "seed": 42,
    "verbosity": -1,
    "num_threads": 1,
}
ROUNDS, PATIENCE = 1000, 3
FOLDS = 5


class Model(Protocol):
    """A regressor of one target: float64 [N, D] -> [N]."""

    def predict(self, weights_ND: np.ndarray) -> np.ndarray: ...


class Predictor:
    """Regressors of all targets, as `fit` returns them."""

    def __init__(self, kind: str, models: list[Model]):
        self.kind, self.models = kind, models

    def predict(self, weights_ND: np.ndarray) -> np.ndarray:
        """Losses, float64 [N, L]; the rows of `weights_ND` are brought to the sum 1."""
        weights_ND = _shares(weights_ND)
        with _one_thread():
            return np.stack([model.predict(weights_ND) for model in self.models], axis=1)


def fit(weights_ND: np.ndarray, losses_NL: np.ndarray, kind: str = "lightgbm", *, seed: int = 42) -> Predictor:
    """A regressor for each column of `losses_NL` (positive losses of the runs whose mixtures are the rows of `weights_ND`).

    `kind` is `linear` (ordinary least squares), `lightgbm` (the published settings) or `best` (see above).
    Raises ValueError for an
    unknown kind, different numbers of rows, or under 8 runs.
    """
    weights_ND, losses_NL = _shares(weights_ND), np.asarray(losses_NL, dtype=np.float64)
    if losses_NL.ndim != 2 or len(losses_NL) != len(weights_ND):
        raise ValueError(f"{len(weights_ND)} mixtures and losses of shape {losses_NL.shape} do not belong together")
    if len(weights_ND) < 8:
        raise ValueError(f"{len(weights_ND)} proxy runs are too few for a regression, 8 are the least")
    if not np.isfinite(losses_NL).all() or (losses_NL <= 0).any():
        raise ValueError("losses must be positive numbers: leave out runs that failed")
    if kind not in KINDS:
        raise ValueError(f"no regression of kind {kind!r}; there are {', '.join(KINDS)}")
    with _one_thread():
        return Predictor(kind, [KINDS[kind](weights_ND, loss_N, seed) for loss_N in losses_NL.T])


def cross_validate(
    weights_ND: np.ndarray, losses_NL: np.ndarray, kind: str = "lightgbm", *, seed: int = 42, folds: int = FOLDS
) -> np.ndarray:
    """Held-out predictions, float64 [N, L]: each run's by regressors that were fitted without its fold."""
    weights_ND, losses_NL = _shares(weights_ND), np.asarray(losses_NL, dtype=np.float64)
    predicted_NL = np.empty_like(losses_NL)
    for held_out, others in _folds(len(weights_ND), folds, seed):
        model = fit(weights_ND[others], losses_NL[others], kind, seed=seed)
        predicted_NL[held_out] = model.predict(weights_ND[held_out])
    return predicted_NL


def spearman(measured_NL: np.ndarray, predicted_NL: np.ndarray) -> np.ndarray:
    """Rank correlation of each column, [L]; 0 where one side is constant."""
    from scipy.stats import rankdata

    a_NL, b_NL = (rankdata(x, axis=0) - (len(x) + 1) / 2 for x in (measured_NL, predicted_NL))
    scale_L = np.sqrt((a_NL**2).sum(axis=0) * (b_NL**2).sum(axis=0))
    return (a_NL * b_NL).sum(axis=0) / np.where(scale_L > 0, scale_L, 1.0)


def _one_thread() -> threadpool_limits:
    """Matrices of 512 x 512 gain nothing from more BLAS threads; on busy cores these wait for each other: 212 s, not 9."""
    return threadpool_limits(1, "blas")


def _shares(weights_ND: np.ndarray) -> np.ndarray:
    weights_ND = np.asarray(weights_ND, dtype=np.float64)
    if weights_ND.ndim != 2 or not np.isfinite(weights_ND).all() or (weights_ND < 0).any():
        raise ValueError("mixtures must be rows of weights that are not negative")
    sums_N1 = weights_ND.sum(axis=1, keepdims=True)
    if (sums_N1 <= 0).any():
        raise ValueError("a mixture has no weight above 0")
    return weights_ND / sums_N1


def _folds(n: int, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(held out, others) index arrays of `folds` parts of nearly equal size."""
    order = np.random.default_rng(seed).permutation(n)
    return [(np.sort(order[k::folds]), np.sort(np.delete(order, np.s_[k::folds]))) for k in range(folds)]


class Linear:
    """Ordinary least squares with an intercept."""

    def __init__(self, weights_ND: np.ndarray, loss_N: np.ndarray, seed: int):
        self.coefficients = np.linalg.lstsq(_with_one(weights_ND), loss_N, rcond=None)[0]

    def predict(self, weights_ND: np.ndarray) -> np.ndarray:
        return _with_one(weights_ND) @ self.coefficients


def _with_one(weights_ND: np.ndarray) -> np.ndarray:
    return np.concatenate([weights_ND, np.ones((len(weights_ND), 1))], axis=1)


class LightGBM:
    """Gradient-boosted trees with the published settings: as many rounds as serve runs that the trees have not seen.

    Every fold is trained for all rounds; the mean of their held-out errors is followed until it has not improved for
    `PATIENCE` rounds. The published code follows the error on the test runs instead. With few runs a leaf may be
    smaller than LightGBM's 20 runs, else no tree would have a split.
    """

    def __init__(self, weights_ND: np.ndarray, loss_N: np.ndarray, seed: int):
        import lightgbm

        n = len(weights_ND)
        settings = LIGHTGBM | {"min_data_in_leaf": max(2, min(20, n // 25)), "deterministic": True}
        curves = []
        for held_out, others in _folds(n, min(FOLDS, n), seed):
            data = lightgbm.Dataset(weights_ND[others], loss_N[others], params=settings)
            check = lightgbm.Dataset(weights_ND[held_out], loss_N[held_out], reference=data, params=settings)
            curve: dict = {}
            record = lightgbm.record_evaluation(curve)
            lightgbm.train(settings, data, ROUNDS, valid_sets=[check], valid_names=["held out"], callbacks=[record])
            curves.append(curve["held out"]["l2"])
        self.rounds = _stop(np.mean(curves, axis=0), PATIENCE)
        self.trees = lightgbm.train(settings, lightgbm.Dataset(weights_ND, loss_N, params=settings), self.rounds)

    def predict(self, weights_ND: np.ndarray) -> np.ndarray:
        return np.asarray(self.trees.predict(weights_ND, num_threads=1))


def _stop(errors: np.ndarray, patience: int) -> int:
    """Rounds up to the best error that `patience` more rounds do not beat."""
    best = 0
    for at in range(len(errors)):
        if errors[at] < errors[best]:
            best = at
        elif at - best >= patience:
            break
    return best + 1


class Best:
    """The geometric mean of the law and the Gaussian process."""

    def __init__(self, weights_ND: np.ndarray, loss_N: np.ndarray, seed: int):
        self.parts: list[Model] = [MixingLaw(weights_ND, loss_N), GaussianProcess(weights_ND, loss_N)]

    def predict(self, weights_ND: np.ndarray) -> np.ndarray:
        return np.exp(np.mean([np.log(part.predict(weights_ND)) for part in self.parts], axis=0))


KINDS: dict[str, Callable[[np.ndarray, np.ndarray, int], Model]] = {
    "linear": Linear,
    "lightgbm": LightGBM,
    "best": Best,
}
