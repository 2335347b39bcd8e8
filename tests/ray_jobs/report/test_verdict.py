"""The report's sentences say what the numbers say, whichever way they fell, and call no noise a difference."""

import pytest

from ray_jobs.config import reader as recipes
from ray_jobs.report import verdict
from ray_jobs.report.intervals import Documents

STAGES = ("base", "pretrain/stage2", "control/stage2")
SPREAD = (-0.02, 0.0, 0.02)  # of a language's three documents


def sentences(base, final, control=None, spread=SPREAD):
    models = {name: scores for name, scores in zip(STAGES, (base, final, control), strict=True) if scores}
    rows = [
        {"model": name, "lang": lang, "doc_id": str(i), "bytes": 1000, "bits": 1000 * (value + own * (name != "base"))}
        for name, scores in models.items()
        for lang, value in scores.items()
        for i, own in enumerate(spread if name != "control/stage2" else spread[::-1])
    ]
    heldout = {lang: {"documents": len(spread)} for lang in base}
    return verdict.sentences({"bits_per_byte": models, "heldout": heldout}, recipes.load("demo"), Documents(rows))


def test_better_and_protected():
    said = sentences(
        {"th": 3.0, "en": 2.0, "zh": 2.0}, {"th": 2.0, "en": 2.1, "zh": 1.9}, {"th": 2.0, "en": 2.3, "zh": 2.1}
    )
    assert said[0].startswith(
        "Continual pre-training lowered the bits per byte of held-out text in 1 of 1 new languages"
    )
    assert said[0].endswith("more than the choice of documents explains in Thai.")
    assert said[1].startswith("English: the expanded model forgot: +0.100 (95 % interval +0.0")
    assert "the control without expansion forgot: +0.300 (95 % interval +0.2" in said[1]
    assert "did not forget but improved: -0.100" in said[2]
    assert said[3].startswith("Expansion protected English, Chinese: -0.200 (95 % interval -0.2")
    assert len(said) == 4


def test_harm_is_said_plainly_with_the_reason():
    said = sentences({"th": 3.0, "en": 2.0}, {"th": 3.5, "en": 2.6}, {"th": 2.0, "en": 2.3})
    assert "in 0 of 1 new languages" in said[0] and "It became worse in Thai." in said[0]
    assert "did harm to English: +0.300" in said[-2] and "A likely reason:" in said[-1]


@pytest.mark.parametrize("gap", [-0.03, 0.03])
def test_noise_is_no_difference(gap):
    said = sentences({"th": 3.0, "en": 2.0}, {"th": 2.99, "en": 2.0 + gap}, {"th": 2.0, "en": 2.0})
    assert "to be sure in Thai" in said[0]
    assert "the expanded model shows no change that these 3 documents could show: " in said[1]
    assert "there is no difference that these 3 documents could show in English: " in said[-1]
    assert not any(word in " ".join(said) for word in ("harm", "protected"))


def test_a_small_difference_in_every_document_is_no_harm():
    """Documents are resampled, seeds are not: another seed may turn it round."""
    said = sentences({"th": 3.0, "en": 2.0}, {"th": 2.0, "en": 2.306}, {"th": 2.0, "en": 2.3}, spread=(0.0, 0.0, 0.0))
    assert "there is no difference beyond the 0.01 bits per byte that are called noise in English: +0.006" in said[-1]


def test_one_document_shows_nothing():
    said = sentences({"th": 3.0, "en": 2.0}, {"th": 2.0, "en": 2.6}, {"th": 2.0, "en": 2.3}, spread=(0.0,))
    assert "this 1 document could show: +0.600 (too few documents for an interval)" in said[1]
    assert "no difference that this 1 document could show in English: +0.300" in said[-1]


def test_without_control_there_is_no_comparison():
    said = sentences({"th": 3.0, "en": 2.0}, {"th": 2.0, "en": 2.1})
    assert not any("control" in sentence for sentence in said)
