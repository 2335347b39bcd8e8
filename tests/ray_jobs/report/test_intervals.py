"""Intervals of the difference of two models, against Student's interval and against what is known by construction."""

import numpy as np
import pytest
from scipy import stats

from ray_jobs.report.intervals import Documents, change


def made(changes: dict[str, list[float]], size: int = 1000):
    """An evaluation of the models a and b: bits per byte of each document change from 2 by what is given."""
    rows, bpb = [], {"a": {}, "b": {}}
    for lang, of_lang in changes.items():
        for i, by in enumerate(of_lang):
            row = {"lang": lang, "doc_id": f"{lang}{i}", "bytes": size}
            rows += [{**row, "model": "b", "bits": (2 + by) * size}, {**row, "model": "a", "bits": 2.0 * size}]
        bpb["a"][lang], bpb["b"][lang] = 2.0, 2.0 + float(np.mean(of_lang))
    heldout = {lang: {"documents": len(of_lang)} for lang, of_lang in changes.items()}
    return {"bits_per_byte": bpb, "heldout": heldout}, Documents(rows[::-1])


@pytest.mark.parametrize("n", [3, 8, 100])
def test_documents_of_one_size_give_students_interval(n):
    by = np.random.default_rng(n).normal(-0.2, 0.3, n)
    evaluation, documents = made({"th": by.tolist()})
    found = change(evaluation, documents, "a", "b", ["th"])
    low, high = stats.t.interval(0.95, n - 1, by.mean(), stats.sem(by))
    assert found.value == pytest.approx(by.mean()) and found.documents == n
    assert (found.low, found.high) == (
        pytest.approx(low, abs=0.1 * (high - low)),
        pytest.approx(high, abs=0.1 * (high - low)),
    )
    assert found == change(evaluation, documents, "a", "b", ["th"])  # seeded


def test_how_often_no_difference_is_called_one():
    """Of 200 pairs of equal models about 5 % have an interval without 0, with three documents as with twenty."""
    rng = np.random.default_rng(0)
    for n in (3, 20):
        wrong = sum(change(*made({"th": rng.normal(0, 0.3, n).tolist()}), "a", "b", ["th"]).certain for _ in range(200))
        assert 2 <= wrong <= 20


def test_the_same_change_in_every_document_is_certain():
    evaluation, documents = made({"th": [-0.1] * 4, "lo": [-0.3] * 2})
    found = change(evaluation, documents, "a", "b", ["th", "lo"])
    assert found.value == pytest.approx(-0.2) and found.certain and found.documents == 6
    assert found.low == pytest.approx(-0.2, abs=1e-6)


def test_one_document_or_none_has_no_interval():
    evaluation, documents = made({"th": [-0.5], "lo": [-0.1, -0.2]})
    for known, langs in ((documents, ["th"]), (documents, ["th", "lo"]), (Documents([]), ["lo"])):
        found = change(evaluation, known, "a", "b", langs)
        assert found.low is None and not found.certain and "too few documents" in str(found)
    assert change(evaluation, documents, "a", "b", ["lo"]).low is not None
