"""How good rewards are on preference pairs that no model was trained on: accuracy, calibration, bias to length.

A Bradley-Terry model says p(chosen preferred) = sigmoid(margin), margin = r(chosen) - r(rejected). Read without knowing
which side was chosen, it is confident in its own pick by max(p, 1 - p), and right when the margin is positive. It is
calibrated when of the pairs with confidence c a share c is right; the expected calibration error (Guo et al. 2017, Eq. 3)
is the mean distance of the two over equal bins of confidence, each weighted by its pairs. A few hundred pairs make it
larger than it is, by about the error of each bin's share.

Axes: P pairs.
"""

from __future__ import annotations

import numpy as np

BINS = 10
Z95 = 1.96


def accuracy(margin_P: np.ndarray) -> float:
    """Share of pairs with a positive margin; a tie is half a hit."""
    return float(np.mean((margin_P > 0) + 0.5 * (margin_P == 0)))


def interval(share: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's 95 % interval of a share measured on n pairs, or on what n of equal weight are worth."""
    spread = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    middle, scale = share + z**2 / (2 * n), 1 + z**2 / n
    low, high = float((middle - spread) / scale), float((middle + spread) / scale)
    return max(0.0, min(share, low)), min(1.0, max(share, high))  # rounding must not put the share outside


def reliability(margin_P: np.ndarray, bins: int = BINS) -> list[dict]:
    """Bins of confidence from 0.5 to 1 that hold a pair: {confidence (mean), accuracy, pairs}."""
    confidence_P = 1 / (1 + np.exp(-np.abs(margin_P.astype(np.float64))))
    bin_P = np.minimum(((confidence_P - 0.5) * 2 * bins).astype(int), bins - 1)
    return [
        {
            "confidence": float(confidence_P[inside].mean()),
            "accuracy": accuracy(margin_P[inside]),
            "pairs": int(inside.sum()),
        }
        for inside in (bin_P == b for b in range(bins))
        if inside.any()
    ]


def calibration_error(margin_P: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of sigmoid(margin), 0 .. 1."""
    return float(
        sum(row["pairs"] * abs(row["accuracy"] - row["confidence"]) for row in reliability(margin_P, bins))
        / len(margin_P)
    )


def length_bias(
    chosen_P: np.ndarray, rejected_P: np.ndarray, chosen_length_P: np.ndarray, rejected_length_P: np.ndarray
) -> dict:
    """Does the model like long answers? Rewards and lengths (in any unit, above 0) of both sides.

    `correlation`: of margin and difference of log length, so that prompts and languages cancel; None when either does
    not vary. `accuracy_longer_chosen`, `accuracy_longer_rejected`: None without such pairs; a model that only likes
    length has 1 and 0. `accuracy_of_longer`: what choosing the longer answer would get.
    """
    margin_P = chosen_P.astype(np.float64) - rejected_P
    longer_P = np.log(chosen_length_P) - np.log(rejected_length_P)
    varies = len(margin_P) > 1 and margin_P.std() > 0 and longer_P.std() > 0

    def of(inside: np.ndarray) -> float | None:
        return accuracy(margin_P[inside]) if inside.any() else None

    return {
        "correlation": float(np.corrcoef(margin_P, longer_P)[0, 1]) if varies else None,
        "accuracy_longer_chosen": of(longer_P > 0),
        "accuracy_longer_rejected": of(longer_P < 0),
        "accuracy_of_longer": accuracy(longer_P),
    }
