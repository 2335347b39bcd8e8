"""How good a language identifier is: precision, recall and F1 of each label, confusions, calibration."""

from __future__ import annotations

from collections import Counter

import numpy as np

SENTENCE, PARAGRAPH = 100, 200  # characters: shorter than the first, and at least the second
BINS = 15


def scores(truth: np.ndarray, predicted: np.ndarray, labels: tuple[str, ...]) -> dict:
    """Per label of the truth {precision, recall, f1, texts}, their mean F1 and the confusions, most frequent first.

    truth, predicted: numbers of labels [N]. A label that is predicted and never true counts in the precision of none and
    in the confusions.
    """
    result = {}
    for number, label in enumerate(labels):
        right = int(np.sum((truth == number) & (predicted == number)))
        there, said = int(np.sum(truth == number)), int(np.sum(predicted == number))
        if there:
            precision, recall = right / max(1, said), right / there
            f1 = 2 * right / (there + said)
            result[label] = {
                "precision": round(precision, 4),
                "recall": round(recall, 4),
                "f1": round(f1, 4),
                "texts": there,
            }
    wrong = Counter((labels[t], labels[p]) for t, p in zip(truth, predicted, strict=True) if t != p)
    return {
        "texts": len(truth),
        "accuracy": round(float(np.mean(truth == predicted)), 4) if len(truth) else None,
        "macro_f1": round(float(np.mean([one["f1"] for one in result.values()])), 4) if result else None,
        "labels": result,
        "confusions": [{"true": t, "predicted": p, "texts": n} for (t, p), n in wrong.most_common(20)],
    }


def scores_by_length(truth: np.ndarray, predicted: np.ndarray, lengths: np.ndarray, labels: tuple[str, ...]) -> dict:
    """`scores` of all texts, of sentences (under 100 characters) and of paragraphs (200 and more)."""
    parts = {
        "all": np.ones(len(truth), bool),
        "sentences": lengths < SENTENCE,
        "paragraphs": lengths >= PARAGRAPH,
    }
    return {name: scores(truth[rows], predicted[rows], labels) for name, rows in parts.items()}


def expected_calibration_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of confidence and accuracy over 15 bins of confidence (Guo et al. 2017). probabilities: [N, C]."""
    best = probabilities.argmax(axis=1)
    confidence = probabilities[np.arange(len(best)), best]
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gap = sum(
        abs(float(np.sum(confidence[bins == b])) - float(np.sum(best[bins == b] == truth[bins == b])))
        for b in range(BINS)
    )
    return round(gap / max(1, len(truth)), 4)
