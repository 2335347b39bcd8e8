"""Selection by reward and perplexity, by hand."""

import numpy as np
import pytest

from train.selection import select


def test_percentiles_share_the_rank_of_equal_values():
    assert select.percentiles(np.array([3.0, 1.0, 3.0, 2.0, 9.0])).tolist() == [0.625, 0.0, 0.625, 0.25, 1.0]
    assert select.percentiles(np.array([4.0])).tolist() == [1.0]
    assert select.percentiles(np.array([2.0, 2.0])).tolist() == [0.5, 0.5]


def test_scores_are_half_the_harmonic_mean():
    assert select.scores(np.array([1.0, 0.5, 0.0, 0.0]), np.array([1.0, 0.25, 1.0, 0.0])).tolist() == [
        0.5,
        pytest.approx(1 / 6),
        0.0,
        0.0,
    ]


def decide(embeddings, quota=9, rewards=(4.0, 3.0, 2.0, 1.0), **more):
    n = len(embeddings)
    cells = select.select(
        [f"id{i}" for i in range(n)], ["th"] * n, ["qa"] * n, np.array(rewards[:n]), np.array(rewards[:n]),
        np.array(embeddings, np.float32), {("th", "qa"): quota}, **more,
    )  # fmt: skip
    return [decision for decisions in cells for decision in decisions]


def test_every_decision_says_why():
    taken, similar, other, over = decide([[1, 0], [9, 1], [0, 2], [1, -1]], quota=2)
    assert (taken.rule, taken.rank, taken.cosine, taken.nearest) == ("taken", 1, None, None)
    assert (taken.score, taken.reward_percentile, taken.perplexity_percentile) == (0.5, 1.0, 1.0)
    assert (similar.rule, similar.rank, similar.nearest) == ("too_similar", 2, "id0")
    assert similar.cosine == pytest.approx(9 / np.sqrt(82))
    assert (other.rule, other.nearest, other.cosine) == ("taken", "id0", 0.0)
    assert (over.rule, over.rank, over.nearest, over.cosine) == ("quota", 4, None, None)


def test_a_cosine_at_the_limit_is_allowed():
    assert [d.rule for d in decide([[1, 0], [3, 4]], max_cosine=0.6)] == ["taken", "taken"]
    rules = [d.rule for d in decide([[1, 0], [0.5, np.sqrt(0.75)]], max_cosine=0.5000001)]
    assert rules == ["taken", "taken"]
    assert [d.rule for d in decide([[1, 0], [0.5, np.sqrt(0.75)]], max_cosine=0.4999)] == ["taken", "too_similar"]


def test_a_row_of_zeros_is_similar_to_nothing():
    assert [d.rule for d in decide([[0, 0], [0, 0], [1, 0]])] == ["taken", "taken", "taken"]


def test_cells_are_apart_and_rows_may_come_in_any_order():
    rng = np.random.default_rng(0)
    n = 60
    ids = [f"{i:02}" for i in range(n)]
    langs, categories = rng.choice(["th", "lo"], n).tolist(), rng.choice(["qa", "chat"], n).tolist()
    rewards, perplexities = rng.integers(0, 5, n).astype(float), rng.integers(1, 5, n).astype(float)
    embeddings = rng.normal(size=(n, 3)).astype(np.float32)
    quotas = {("th", "qa"): 3, ("lo", "chat"): 2, ("th", "chat"): 100}
    cells = list(select.select(ids, langs, categories, rewards, perplexities, embeddings, quotas))
    assert [(of[0].lang, of[0].category) for of in cells] == [(a, b) for a in ("lo", "th") for b in ("chat", "qa")]
    assert all([d.rank for d in of] == list(range(1, len(of) + 1)) for of in cells)
    decisions = [d for of in cells for d in of]
    assert sorted(d.id for d in decisions) == ids
    taken = [(d.lang, d.category) for d in decisions if d.rule == "taken"]
    assert taken.count(("th", "qa")) == 3
    assert taken.count(("lo", "chat")) == 2
    assert taken.count(("lo", "qa")) == 0
    assert 1 < taken.count(("th", "chat")) < 15  # in 3 dimensions no more fit below a cosine of 0.6

    order = rng.permutation(n)
    shuffled = select.select(
        [ids[i] for i in order], [langs[i] for i in order], [categories[i] for i in order],
        rewards[order], perplexities[order], embeddings[order], quotas,
    )  # fmt: skip
    assert list(shuffled) == cells


def test_bad_values_are_clear_errors():
    with pytest.raises(ValueError, match="not a finite number"):
        decide([[1, 0]], rewards=[float("nan")])
    with pytest.raises(ValueError, match="same id"):
        select.select(["a", "a"], ["th"] * 2, ["qa"] * 2, np.ones(2), np.ones(2), np.ones((2, 2), np.float32), {})


def test_quotas_sum_to_the_languages_number():
    cells = [("th", "qa"), ("th", "chat"), ("th", "code"), ("lo", "qa"), ("th", "qa"), ("km", "other")]
    quotas = select.cell_quotas(cells, {"th": 10, "lo": 7}, {"qa": 25, "chat": 35, "code": 5})
    assert quotas == {("th", "chat"): 5, ("th", "qa"): 4, ("th", "code"): 1, ("lo", "qa"): 7}
