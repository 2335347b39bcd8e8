"""What the report says can be typed and read: names of rules as the recipe wants them, sentences with spaces between them."""

import re

import pytest

from curation.policy import policy
from ray_jobs.report.page import TEMPLATES, _links, environment


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"word_count_min": 5}, "word_count_min is a rule as reports name it; write word_count: {min: …}"),
        ({"mean_word_length_max": 5}, "write mean_word_length: {max: …}"),
        ({"rules": {"word_count": {"min": 5}}}, "write its signals right below the language, without `rules`"),
    ],
)
def test_a_rule_by_its_name_in_the_report_is_told_how_to_write(written, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        policy.load_all(["km"], {"km": written})


def test_every_sentence_has_a_space_behind_it():
    bias = {
        "accuracy_of_longer": 0.5,
        "correlation": 0.2,
        "accuracy_longer_chosen": 0.5,
        "accuracy_longer_rejected": 0.5,
    }
    reward = {
        "pairs": 9, "accuracy": 0.5, "interval": (0.4, 0.6), "calibration_error": 0.1, "bias": bias, "languages": [],
    }  # fmt: skip
    page = environment().get_template("selection.html").render(reward=reward, selection=None)
    text = re.sub(r"<[^>]+>", "", page)
    assert "Right where" in text
    assert re.findall(r"[a-z0-9%]\.[A-Z]\w*", text) == []


def test_bits_per_byte_are_not_called_comparable_between_scripts():
    assert "comparable across" not in (TEMPLATES / "report.html").read_text("utf-8")


def test_each_section_below_the_first_three_is_in_the_navigation():
    headings = [
        h2 for file in sorted(TEMPLATES.glob("*.html")) for h2 in re.findall(r"<h2 id=[^>]+>", file.read_text("utf-8"))
    ]
    assert len(headings) > 25
    assert {h2 for h2 in headings if "data-nav" not in h2} == {
        f'<h2 id="{one}">' for one in ("verdict", "warnings", "next")
    }
    assert _links('<h2 id="a" data-nav="One">Long</h2><h2 id="b">No</h2><h2 id="c-d" data-nav="Two &amp; more">') == (
        '<a href="#a">One</a><a href="#c-d">Two &amp; more</a>'
    )
