"""Language of answers: the wrong one is named; code, formulas, short answers and related languages are left alone."""

import pytest

from curation.lid.answers import letters, prose, wrong

ENGLISH = "The harbour is full of boats this morning, and the fishermen are selling what they caught during the night."
CODE = "```python\nfor boat in harbour:\n    print(boat.name, boat.captain, boat.length_in_metres, boat.year)\n```"


@pytest.mark.parametrize(
    ("answer", "lang", "said"),
    [
        (ENGLISH, "en", None),
        (ENGLISH, "th", "en"),
        (ENGLISH, "id", "en"),
        (ENGLISH, "zh", "en"),
        ("ใช่", "vi", None),
        ("Yes, of course.", "th", None),
        (CODE, "th", None),
        (f"{CODE}\n{ENGLISH}", "th", "en"),
        ("$$\\sum_{harbour} boats \\times fishermen = \\frac{morning}{night} + selling what they caught$$", "th", None),
        ("https://example.org/the/harbour/is/full/of/boats/this/morning/and/the/fishermen/are/selling", "th", None),
        (
            "Kapal-kapal itu berlayar ke pelabuhan pada pagi hari membawa beras, ikan dan buah-buahan untuk dijual.",
            "ms",
            None,
        ),
        ("เรือประมงหลายลำแล่นเข้ามาจอดที่ท่าเรือในตอนเช้าพร้อมกับปลาและกุ้งสดๆ ที่จับได้เมื่อคืนนี้", "lo", "th"),
        (ENGLISH, "xx", None),
    ],
)
def test_wrong_language(answer, lang, said):
    (found,) = wrong([answer], [lang])
    assert (found and found[0]) == said
    assert found is None or 0.8 <= found[1] <= 1


def test_results_keep_the_order_of_the_answers():
    assert [one and one[0] for one in wrong([ENGLISH, "ya", ENGLISH], ["en", "id", "th"])] == [None, None, "en"]
    assert wrong([], []) == []


def test_prose_and_letters():
    assert prose("a `x = 1` b ``` open\nend").split() == ["a", "b"]
    assert letters("ab1 漢字 ກ") == 2 + 6 + 1
