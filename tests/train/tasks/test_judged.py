"""The scores of SEA-WildBench against arithmetic by hand, and their intervals against draws from known distributions."""

import json
import random

import numpy as np
import pytest

from train.generation.win_rate import with_length_rule
from train.tasks import judged
from train.tasks.categories import WEIGHTS, category

OUTCOMES = (-1.0, -0.5, 0.0, 0.5, 1.0)


def row(lang, categories, verdict, answer_chars=100, reference_chars=100, *, how="judge", problem=None):
    """A row of results.parquet, the length rule applied as the stage does."""
    reward = None if verdict is None else with_length_rule(verdict, "x" * answer_chars, "x" * reference_chars)
    how = "length rule" if reward != verdict else how
    return {
        "lang": lang,
        "categories": categories,
        "verdict": verdict,
        "reward": reward,
        "how": how,
        "problem": problem,
    }


# A file of judgements, as a judge might have left it.
JUDGEMENTS = [
    row("th", ["coding"], 1.0),
    row("th", ["coding", "math"], 0.5),
    row("th", ["math"], -0.5),
    row("th", ["creative"], 0.5, 701, 200),  # over 500 longer: a tie
    row("th", ["creative"], 0.5, 700, 200),  # 500 longer: not over it
    row("lo", ["coding"], -0.5, 200, 701),  # the reference is longer: a tie
    row("lo", ["coding"], -1.0, 200, 5000),  # much better is never touched
    row("lo", ["planning"], -1.0, 0, 50, how="empty"),
    row("lo", ["information"], None, problem="no verdict"),
    row("lo", ["law"], 0.0),
]


def test_the_table_is_that_of_hand_arithmetic():
    table = judged.table(json.loads(json.dumps(JUDGEMENTS)), WEIGHTS)
    # th: 1, .5, -.5, 0, .5 ; lo: 0, -1, -1, (invalid), 0
    assert table["all"]["value"] == pytest.approx(100 * ((-0.5 / 9) + 1) / 2)
    assert table["all"]["judged"] == 9 and table["invalid"] == 1
    assert table["languages"]["th"]["all"]["value"] == pytest.approx(100 * (1.5 / 5 + 1) / 2)
    assert table["languages"]["lo"]["all"]["value"] == pytest.approx(100 * (-2 / 4 + 1) / 2)
    assert table["languages"]["lo"]["all"]["judged"] == 4
    means = {"coding": (1 + 0.5 + 0 - 1) / 4, "math": 0.0, "creative": 0.25, "planning": -1.0, "law": 0.0}
    for name, mean in means.items():
        assert table["categories"][name]["value"] == pytest.approx(100 * (mean + 1) / 2), name
    assert table["categories"]["information"] is None
    # information has no verdict, law no weight: the other four weights sum to 4
    macro = (1.25 * means["coding"] + 1.0 * means["math"] + 0.5 * means["creative"] + 1.25 * means["planning"]) / 4
    assert table["macro"]["value"] == pytest.approx(100 * (macro + 1) / 2)
    assert table["rewards"] == {"+1": 1, "+0.5": 2, "0": 3, "-0.5": 1, "-1": 2}
    assert (table["length_rule"], table["empty"]) == (2, 1)
    assert judged.without_weight([one["categories"] for one in JUDGEMENTS], WEIGHTS) == ["law"]


def test_the_weights_are_those_of_the_paper():
    assert WEIGHTS == {"creative": 0.5, "planning": 1.25, "math": 1.0, "information": 0.75, "coding": 1.25}
    names = (
        "Creative Tasks",
        "Planning & Reasoning",
        "Math & Data Analysis",
        "Information/Advice seeking",
        "Coding & Debugging",
    )
    assert [category(name) for name in names] == list(WEIGHTS)
    tags = ("Information seeking", "Creative Writing", "Coding & Debugging", "Reasoning", "Editing", "Math")
    tags += ("Planning", "Brainstorming", "Role playing", "Advice seeking", "Data Analysis", "Others")
    assert {category(tag) for tag in tags} == set(WEIGHTS)


def test_an_answer_and_its_reference_turned_round_give_the_mirrored_score():
    rng = random.Random(3)
    for _ in range(50):
        rewards = rng.choices(OUTCOMES, k=rng.randint(1, 40))
        one, other = judged.score(rewards), judged.score([-reward for reward in rewards])
        assert one.value == pytest.approx(100 - other.value)
        assert (one.low, one.high) == pytest.approx((100 - other.high, 100 - other.low))


def test_an_interval_holds_its_score_and_stays_on_the_scale():
    rng = random.Random(4)
    for _ in range(500):
        rewards = (
            rng.choices(
                OUTCOMES, rng.choices([0, 1, 5, 100], k=5) if rng.random() < 0.9 else None, k=rng.randint(1, 30)
            )
            if rng.random() < 0.9
            else [1.0] * 3
        )
        found = judged.score(rewards)
        assert 0 <= found.low <= found.value <= found.high <= 100
        assert found.value == pytest.approx(50 * (np.mean(rewards) + 1))
        assert found.high - found.low > 0


def test_one_row_says_nothing():
    found = judged.score([1.0])
    assert found.value == 100 and found.low < 50 and not found.certain
    assert not judged.score([1.0] * 9).certain and judged.score([1.0] * 10).certain
    assert judged.score([]) is None and judged.macro([0.5], [["law"]], WEIGHTS) is None


SHAPES = {
    "even": (0.2, 0.2, 0.2, 0.2, 0.2),
    "a weak model": (0.85, 0.1, 0.03, 0.01, 0.01),
    "a strong one": (0.05, 0.05, 0.1, 0.3, 0.5),
    "ties": (0.02, 0.05, 0.86, 0.05, 0.02),
    "rare": (0.0, 0.03, 0.97, 0.0, 0.0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_intervals_hold_the_truth_in_95_of_100_draws(shape):
    """t about the mean alone: 26 of 100 for `rare` and 80 for a weak model at ten rows."""
    rng = np.random.default_rng(5)
    truth = 50 * (np.dot(SHAPES[shape], OUTCOMES) + 1)
    for n in (8, 16, 60):
        drawn = rng.choice(OUTCOMES, (1000, n), p=SHAPES[shape])
        found = [judged.score(rewards) for rewards in drawn.tolist()]
        assert np.mean([one.low - 1e-9 <= truth <= one.high + 1e-9 for one in found]) > 0.933, n


def test_the_interval_of_the_macro_score_allows_for_rows_of_two_categories():
    """Categories of which each has its own mean; half of the rows are in two of them."""
    rng = np.random.default_rng(6)
    names, held = list(WEIGHTS), []
    leaning = {name: 0.2 * i for i, name in enumerate(names)}
    of_rows = [[names[i % 5]] if i % 2 else [names[i % 5], names[(i + 1) % 5]] for i in range(60)]

    def drawn():
        lean = [np.mean([leaning[name] for name in of]) for of in of_rows]
        return [float(rng.choice([-1.0, 0.0, 1.0], p=[0.5 - p / 2, 0.5 - p / 2, p])) for p in lean]

    truth = judged.macro(np.mean([drawn() for _ in range(4000)], 0).tolist(), of_rows, WEIGHTS).value
    for _ in range(600):
        found = judged.macro(drawn(), of_rows, WEIGHTS)
        held.append(found.low <= truth <= found.high)
    assert 0.93 < np.mean(held) <= 0.995


def test_two_models_are_compared_on_the_same_rows():
    rng = random.Random(8)
    first = [row("th", ["coding"], rng.choice(OUTCOMES)) for _ in range(30)]
    second = [{**one, "reward": min(1.0, one["reward"] + 0.5)} for one in first]
    second[3] = {**second[3], "reward": None}
    whole, macro = judged.differences(first, second, WEIGHTS)
    pairs = [(a["reward"], b["reward"]) for i, (a, b) in enumerate(zip(first, second, strict=True)) if i != 3]
    assert whole.judged == 29
    assert whole.value == pytest.approx(50 * np.mean([b - a for a, b in pairs]))
    assert whole.certain and whole.low <= whole.value <= whole.high
    assert macro.value == pytest.approx(whole.value)
    same, _ = judged.differences(first, first, WEIGHTS)
    assert same.value == 0 and not same.certain
    assert judged.differences(first[:1], [{**first[0], "reward": None}], WEIGHTS) == (None, None)
