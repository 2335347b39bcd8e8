"""Warnings of one kind are one notice, and each kind that a stage can give says what to do."""

from ray_jobs.report.notices import KINDS, grouped
from ray_jobs.stages import quality
from train.generation import probe
from train.monitor import forgetting


def test_equal_kinds_are_one_notice_with_stages_and_languages():
    often = "read more than 4 times, as 230,000 tokens are asked for: all/en (129.3)"
    lost = {"step": 9, "bits_per_byte": {"en": 2.0, "zh": 3.0}, "forgetting": {"en": 0.1, "zh": 0.2}}
    said = [
        f"base: {often}",
        *(f"pretrain-stage1: {one}" for one in forgetting.warnings(lost)),
        f"stage1: {often}",
        "new: x",
    ]
    found = grouped([*said, said[0]])
    assert [(one.title, one.where) for one in found] == [
        ("Pools are read too often", ["base", "stage1"]),
        ("Languages are being forgotten", ["pretrain-stage1 (en, zh)"]),
        ("Other warnings", ["new"]),
    ]
    assert [warning for one in found for warning in one.said] == [said[0], said[2], said[1], said[3]]
    assert all(one.advice for one in found[:2])
    assert grouped([]) == []


def test_what_the_code_says_is_of_a_known_kind():
    bad = {"stage": "dpo", "language_consistency": 0.1, "emoji_rate": 0.9, "judge_invalid": 0.9}
    said = probe.warnings(bad, {"language_consistency": 0.9, "emoji_rate": 0.0})
    said += quality.warnings({"th": {"above_median": 0.1, "native": 9, "shortcut": True}})
    found = grouped(said)
    assert len(said) == 4 == len(found) and "Other warnings" not in {one.title for one in found}
    assert found[-1].where == ["quality (th)"]
    assert len({title for _, title, _ in KINDS}) == len(KINDS)
