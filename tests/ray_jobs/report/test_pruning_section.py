"""What pruning cost each language, as the report and its warning say it."""

import pytest

from ray_jobs.report import notices, pruning
from train.monitor import damage

BEFORE, MASKS, HEALED = (
    {"en": 2.984, "zh": 2.828, "th": 1.0},
    {"en": 3.5, "zh": 4.0, "th": 0.9},
    {"en": 3.012, "zh": 3.034},
)


def manifest():
    found = damage.by_language(BEFORE, MASKS, HEALED | {"th": 0.95})
    return {
        "damage": found,
        "parameters_before": 5_509_440,
        "parameters": 3_280_000,
        "removed_share": 0.4046,
        "healed_by": "the text",
    }


def test_the_worst_language_comes_first():
    found = pruning.section(manifest())
    assert [round(lost, 3) for _, _, lost, _ in found["table"]] == [0.206, 0.028, -0.05]
    assert list(manifest()["damage"]) == ["zh", "en", "th"]
    shares = [share for *_, share in found["table"]]
    assert shares[0] == pytest.approx(1 - 0.206 / 1.172) and shares[2] is None
    assert "<svg" in found["plot"] and found["removed"] == 0.4046


def test_only_what_is_measured_in_all_three_counts():
    assert set(damage.by_language(BEFORE, MASKS, HEALED)) == {"en", "zh"}
    assert pruning.section({}) is None and pruning.section({"damage": {}}) is None


@pytest.mark.parametrize(("alarm", "langs"), [(0.02, ["zh 0.206", "en 0.028"]), (0.05, ["zh 0.206"]), (0.3, [])])
def test_the_alarm_is_one_sentence_and_a_notice_of_its_own(alarm, langs):
    said = damage.warnings(damage.by_language(BEFORE, MASKS, HEALED), alarm)
    assert len(said) == bool(langs)
    assert all(f"healed: {', '.join(langs)};" in one for one in said)
    for one in notices.grouped([f"prune: {one}" for one in said]):
        assert one.title == "Pruning has cost languages much"
