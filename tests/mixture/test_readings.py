"""How often a pool may be read: the law's equal gains, and what a stage makes of caps by language."""

import math

import numpy as np
import pytest

from mixture import readings
from mixture.weights import Auto, Pool, stage1, stage2


def pools(**tokens):
    return {name: Pool(count, 4 * count) for name, count in tokens.items()}


def test_effective_tokens_by_hand():
    assert readings.effective(100, 60) == 60
    assert readings.effective(100, 200) == pytest.approx(100 * (1 + 15.39 * (1 - math.exp(-1 / 15.39))))
    assert readings.effective(100, 1e9) == pytest.approx(1639)


@pytest.mark.parametrize("seed", range(20))
def test_caps_are_where_the_next_token_gains_the_same_in_every_pool(seed):
    rng = np.random.default_rng(seed)
    tokens = {f"p{i}": int(10 ** rng.uniform(3, 9)) for i in range(int(rng.integers(2, 12)))}
    budget = sum(tokens.values()) * 10 ** rng.uniform(-1, 1)
    caps = readings.caps("auto", tokens, budget)
    assert min(caps.values()) >= readings.PLAIN and max(caps.values()) <= readings.MOST
    gains = []
    for name, unique in tokens.items():
        if readings.PLAIN < caps[name] < readings.MOST:
            read = caps[name] * unique
            step = 1e-4 * read
            gains.append(math.log(readings.effective(unique, read + step) / readings.effective(unique, read)) / step)
    assert gains == pytest.approx(gains[:1] * len(gains), rel=1e-2)
    assert sum(caps[name] * count for name, count in tokens.items()) >= min(budget, 20 * sum(tokens.values())) * 0.999
    scarcest = sorted(tokens, key=lambda name: tokens[name])
    assert [caps[name] for name in scarcest] == sorted(caps.values(), reverse=True)
    more = readings.caps("auto", tokens, 2 * budget)
    assert all(more[name] >= caps[name] - 1e-6 for name in tokens)


def test_a_stage_keeps_caps_of_every_kind():
    some = pools(**{"all/th": 1_000_000, "all/lo": 10_000, "all/ilo": 1_000})
    how = {"temperature": 9.0, "replay": [], "replay_share": 0.0}
    four = stage1(some, 1_000_000, max_epochs=4, **how)
    assert four == stage1(some, 1_000_000, max_epochs={"default": 4}, **how) and "all/lo" in four.caps
    own = stage1(some, 1_000_000, max_epochs={"lo": 10, "ilo": 2}, **how)
    assert {row.pool: row.epochs for row in own.rows if row.pool != "all/th"} == pytest.approx(
        {"all/lo": 10, "all/ilo": 2}
    )
    auto = stage1(some, 1_000_000, max_epochs="auto", **how)
    assert {row.pool: row.epochs for row in auto.rows} == pytest.approx(
        {"all/th": 0.78, "all/lo": 20, "all/ilo": 20}, rel=0.01
    )
    asked = stage1(some, 1_000_000, max_epochs="auto", **how, fixed={"all/th": 0.5, "all/lo": 0.5})
    assert len(asked.warnings) == 1 and "all/lo (50.0 of 20)" in asked.warnings[0]
    with pytest.raises(ValueError, match="above 0"):
        stage1(some, 100, max_epochs=0, **how)


@pytest.mark.parametrize("seed", range(6))
def test_an_auto_budget_keeps_the_caps_that_it_makes(seed):
    rng = np.random.default_rng(seed)
    some = pools(**{f"all/p{i}": int(10 ** rng.uniform(2, 7)) for i in range(int(rng.integers(1, 9)))})
    asked = ("auto", {"p0": 15.5, "default": 3}, {"p1": 1.0})[seed % 3]
    first = stage1(some, Auto(10), temperature=float(rng.uniform(1, 5)), max_epochs=asked)
    best = {f"high_quality/{name.split('/')[1]}": Pool(pool.tokens // 3, 0) for name, pool in some.items()}
    second = stage2(best, {}, some, first.weights, Auto(10), temperature=2.0, max_epochs=asked, instruction_share=0)
    for stage in (first, second):
        assert stage.bound == "the pools" and stage.warnings == []
        for row in stage.rows:
            assert row.epochs <= stage.caps.get(row.pool, 0) * (1 + 1e-9)


def test_new_text_or_more_readings_by_hand():
    less = (1640 / 1639.0) ** -readings.BETA - 1  # a pool that is read out gains by new text alone
    assert readings.gain(100, 1e6, more_read=100) == pytest.approx(0, abs=1e-9)
    assert readings.gain(100, 1e6, more_unique=1 / 16.39) == pytest.approx(less, rel=1e-3)
    assert readings.gain(100, 50, more_unique=10) == 0  # there is text that nobody has read
    assert readings.gain(100, 50, more_read=1) == pytest.approx((51 / 50) ** -readings.BETA - 1)
    assert readings.gain(100, 0, more_unique=10) == 0
