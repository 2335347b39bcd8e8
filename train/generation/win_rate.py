"""Win rates of one model's answers against another's, from verdicts in [-1, 1] or from rewards.

    win rate                     mean of (verdict + 1) / 2: a slight win counts three quarters, a tie one half
                                 (WildBench; SEA-WildBench, Sailor2 section 7.2)
    length rule                  a slight win of an answer that is over 500 characters longer is a tie (the same)
    length-controlled win rate   sigmoid(theta) of the fit  outcome ~ sigmoid(theta + phi tanh(d / s))

where d is how many characters longer the answer is than the baseline's, and s the standard deviation of d: what the win rate
would be at equal lengths. This is AlpacaEval 2's model (Dubois et al. 2024, Eq. 1) without its term for how hard each
instruction is, which is fitted over many models. A normal prior of deviation 3 on theta and phi keeps them finite when one
side wins everything.
"""

from __future__ import annotations

import numpy as np

LONGER_CHARS = 500
PRIOR_DEVIATION = 3.0


def with_length_rule(verdict: float, answer: str, baseline: str, most: int = LONGER_CHARS) -> float:
    """`verdict` (of `answer` over `baseline`), or 0 where a slight win is by a text more than `most` characters longer."""
    winner_is_longer_by = (len(answer) - len(baseline)) * np.sign(verdict)
    return 0.0 if abs(verdict) == 0.5 and winner_is_longer_by > most else verdict


def outcomes(verdicts: list[float]) -> np.ndarray:
    """Verdicts in [-1, 1] as outcomes in [0, 1], float64."""
    return (np.asarray(verdicts, np.float64) + 1) / 2


def of_finished(rewards: np.ndarray, finished: np.ndarray) -> np.ndarray:
    """Rewards of answers as they are compared: one that was cut off has lost, and ties with another such one.

    A reward model reads its `<|im_end|>` behind any text, so what it says of a text that has no end is worth nothing."""
    return np.where(finished > 0, rewards, -np.inf)


def by_reward(rewards: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Outcomes: 1 where the reward is above the baseline's, one half where they are equal."""
    return (rewards > baseline) + 0.5 * (rewards == baseline)


def length_controlled(outcome: np.ndarray, longer: np.ndarray) -> float:
    """Win rate at equal lengths. `outcome` in [0, 1]; `longer`: characters by which the answer is longer than the baseline's.

    NaN when there is no outcome.
    """
    if not len(outcome):
        return float("nan")
    deviation = np.std(longer)
    design_N2 = np.stack([np.ones(len(outcome)), np.tanh(longer / deviation) if deviation else 0 * longer], 1)
    weights_2 = np.zeros(2)
    penalty = 1 / PRIOR_DEVIATION**2
    for _ in range(50):  # Newton's method; the penalised likelihood is strictly concave
        p_N = 1 / (1 + np.exp(-design_N2 @ weights_2))
        gradient_2 = design_N2.T @ (outcome - p_N) - penalty * weights_2
        hessian_22 = (design_N2 * (p_N * (1 - p_N))[:, None]).T @ design_N2 + penalty * np.eye(2)
        step_2 = np.linalg.solve(hessian_22, gradient_2)
        weights_2 += step_2 / max(1.0, np.abs(step_2).max())
        if np.abs(step_2).max() < 1e-10:
            break
    return float(1 / (1 + np.exp(-weights_2[0])))


def by_language(values: np.ndarray, languages: list[str]) -> dict[str, float]:
    """Mean of the values of each language."""
    found: dict[str, list[float]] = {}
    for lang, value in zip(languages, values, strict=True):
        found.setdefault(lang, []).append(float(value))
    return {lang: float(np.mean(found[lang])) for lang in sorted(found)}
