"""Prompts of samples end with a word, and how readable a sample is."""

import pytest

from ray_jobs.stages.evaluation.bits_per_byte import beginning, readability


@pytest.mark.parametrize(
    ("text", "chars", "want"),
    [
        ("Ikan itu  besar\nsekali", 12, "Ikan itu"),
        ("Ikan itu besar", 14, "Ikan itu besar"),
        ("Ikan itu besar, kata orang.", 15, "Ikan itu besar"),
        ("ประเทศไทยอยู่ในเอเชีย", 11, "ประเทศไทย"),  # country, Thailand, is in, Asia
        ("ທີ່ນະຄອນຫຼວງ", 4, "ທີ່"),
        ("我们在北京大学学习", 4, "我们在"),
        ("x" * 50, 10, "x" * 10),
        ("", 10, ""),
    ],
)
def test_a_prompt_ends_behind_a_word(text, chars, want):
    assert beginning(text, chars) == want


def test_readability():
    found = readability({"th": "น้ำ fish \ufffd", "en": "a river", "km": "", "xx": "ok"})
    assert found["th"] == {"broken": pytest.approx(1 / 10), "right_script": pytest.approx(3 / 7)}
    assert found["en"] == {"broken": 0, "right_script": 1}
    assert found["km"] == {"broken": 0, "right_script": 0}
    assert found["xx"]["right_script"] == 1  # of whose scripts nothing is known
