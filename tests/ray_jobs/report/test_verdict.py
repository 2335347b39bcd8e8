"""The report's sentences say what the numbers say, whichever way they fell."""

import pytest

from ray_jobs.config import reader as recipes
from ray_jobs.report import verdict


def sentences(base, final, control):
    models = {"base": base, "pretrain/stage2": final, "control/stage2": control}
    return verdict.sentences({"bits_per_byte": models}, recipes.load("demo"), 230_000)


def test_better_and_protected():
    said = sentences(
        {"th": 3.0, "en": 2.0, "zh": 2.0}, {"th": 2.0, "en": 2.1, "zh": 1.9}, {"th": 2.0, "en": 2.3, "zh": 2.1}
    )
    assert said[0].startswith("Continual pre-training made the model better in 1 of 1 new languages (th 3.00 → 2.00)")
    assert "en: the expanded model forgot (+0.100" in said[1]
    assert "less than the control without expansion (+0.300)" in said[1]
    assert "did not forget; it improved (-0.100" in said[2]
    assert "0.200 bits per byte better than the control" in said[3]
    assert len(said) == 4


@pytest.mark.parametrize(("final", "words"), [(2.301, "did not protect"), (2.5, "harm to")])
def test_not_protected_is_said_plainly_with_the_reason(final, words):
    said = sentences({"th": 3.0, "en": 2.0}, {"th": 3.5, "en": final}, {"th": 2.0, "en": 2.3})
    assert "better in 0 of 1 new languages" in said[0]
    assert "not in th 3.00 → 3.50" in said[0]
    assert words in said[-1]
    assert "Why: a base trained on 230,000 tokens" in said[-1]


def test_without_control_there_is_no_comparison():
    models = {"base": {"th": 3.0, "en": 2.0}, "pretrain/stage2": {"th": 2.0, "en": 2.1}}
    said = verdict.sentences({"bits_per_byte": models}, recipes.load("demo"))
    assert not any("control" in sentence for sentence in said)
