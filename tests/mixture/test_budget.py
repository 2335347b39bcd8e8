"""`tokens: auto`: the largest budget that keeps every pool under its cap and the weights near those that are asked for."""

import numpy as np
import pytest

from mixture.weights import MOVED, Auto, Pool, sentence, stage1, stage2

LIMITS = {"temperature": 2.0, "max_epochs": 4.0}


def pools(**tokens):
    return {name: Pool(count, 4 * count) for name, count in tokens.items()}


def moved(stage, uncapped):
    """Total variation, by its definition."""
    return sum(abs(stage.weights[name] - uncapped.weights[name]) for name in stage.weights) / 2


def test_one_thin_pool_by_hand():
    """Roots 100 : 100 : 10, so `lo` should get 1/21 and has 400 to give: less than a tenth can ever be moved, and the others
    end the stage. At B tokens they get (B - 400) / 2 each of their 40,000."""
    stage = stage1(pools(th=10_000, vi=10_000, lo=100), Auto(100), **LIMITS)
    assert (stage.tokens, stage.allowed, stage.bound, stage.warnings) == (80_400, 80_400, "the pools", [])
    assert [row.epochs for row in stage.rows] == pytest.approx([4, 4, 4])


def test_a_tenth_of_the_weights_by_hand():
    """Roots 2 : 1. `lo` should get 1/3 and has 4 x 2,500 to give. 1/3 - 10,000 / B = 1/10 at B = 42,857."""
    stage = stage1(pools(th=10_000_000, lo=2_500), Auto(1), **{**LIMITS, "temperature": 1e9})
    assert stage.tokens == int(10_000 / (1 / 2 - MOVED))
    stage = stage1(pools(th=10_000, lo=2_500), Auto(1), **LIMITS)
    assert stage.tokens == 42_857 and stage.weights["lo"] == pytest.approx(1 / 3 - 0.1, abs=1e-5)


def test_bounds_and_whole_updates():
    two = pools(th=10_000, lo=2_500)
    bounded = stage1(two, Auto(1000, 20_500), **LIMITS)
    assert (bounded.tokens, bounded.allowed, bounded.bound) == (20_000, 42_000, "max_tokens")
    assert sentence(bounded) == "auto: 20,000 tokens, by max_tokens; the pools would allow 42,000"
    free = stage1(two, Auto(1000, 10**9), **LIMITS)
    assert (free.tokens, free.bound) == (42_000, "the pools")
    assert sentence(free) == "auto: 42,000 tokens, what the pools allow in 4 passes; lo is read so often"
    least = stage1(two, Auto(100_000), **LIMITS)
    assert (least.tokens, least.bound) == (100_000, "one update")
    assert len(least.warnings) == 1 and "lo (8.0), th (8.0)" in least.warnings[0]
    short = stage1(two, Auto(1000, 999), **LIMITS)
    assert (short.tokens, short.bound) == (1_000, "max_tokens")
    spread = stage1(two, Auto(45_000), **LIMITS)  # more than a tenth is moved, but nobody is over
    assert spread.bound == "one update" and spread.warnings == []
    asked = stage1(two, 5_000, **LIMITS)
    assert (asked.tokens, asked.allowed, asked.bound) == (5_000, 42_857, "the recipe")


def test_few_chats_do_not_end_stage_2_but_few_replay_pages_do():
    first = stage1(pools(th=1_000_000, en=1_000_000), Auto(1), **LIMITS)
    best, few = pools(best=200_000), pools(chats=10)
    second = stage2(best, few, pools(th=1_000_000, en=1_000_000), first.weights, Auto(1), **LIMITS)
    assert second.tokens > 900_000 and second.weights["chats"] * second.tokens == pytest.approx(40)
    thin = stage1(pools(th=1_000_000, en=100), Auto(1), **LIMITS, replay=["en"], replay_share=0.2)
    assert thin.tokens == int(400 / (0.2 - MOVED)) and thin.weights["en"] == pytest.approx(0.1)


def test_weights_of_regmix_are_read_at_the_budget_that_they_were_sought_for():
    two = pools(th=10_000, lo=2_500)
    kept = stage1(two, Auto(100), **LIMITS, fixed={"th": 0.8, "lo": 0.2})  # alone they would allow 50,000
    assert (kept.tokens, kept.bound) == (42_800, "the pools") and kept.weights == {"lo": 0.2, "th": 0.8}
    over = stage1(two, Auto(100), **LIMITS, fixed={"th": 0.2, "lo": 0.8})
    assert over.tokens == 14_200 and over.weights["lo"] * over.tokens <= 10_000
    assert stage1(two, 42_800, **LIMITS, fixed={"th": 0.2, "lo": 0.8}).weights["lo"] == 0.8  # a number is obeyed


def drawn(rng):
    """Random pools of both stages, and how they are to be read."""
    size = int(rng.integers(1, 16))
    tokens = [int(np.exp(rng.uniform(0, 16))) if rng.random() > 0.15 else 0 for _ in range(size)]
    every = {f"p{i}": Pool(count, 4 * count) for i, count in enumerate(tokens)}
    best = {f"best/{n}": Pool(pool.tokens // 5, 0) for n, pool in every.items() if rng.random() > 0.4}
    chats = {"chats": Pool(int(np.exp(rng.uniform(0, 12))), 0)} if rng.random() > 0.3 else {}
    replay = [f"p{i}" for i in range(int(rng.integers(0, size + 1)))]
    share = float(rng.choice([0.0, 0.2, 0.9])) if len(replay) < size else 1.0
    weights = rng.dirichlet(np.full(size, 0.5)) * (np.array(tokens) > 0)
    fixed = (
        dict(zip(every, (weights / weights.sum()).tolist(), strict=True))
        if rng.random() < 0.3 and weights.sum()
        else None
    )
    budget = Auto(
        int(rng.choice([1, 256, 4096, 100_000])), int(np.exp(rng.uniform(0, 18))) if rng.random() < 0.5 else None
    )
    limits = {"temperature": float(rng.uniform(0.7, 5)), "max_epochs": float(rng.choice([0.5, 1, 4, 7.3]))}
    return every, best, chats, {"replay": replay, "replay_share": share, "fixed": fixed}, budget, limits


@pytest.mark.parametrize("seed", range(20))
def test_no_pool_is_read_more_often_than_its_cap(seed):
    rng = np.random.default_rng(seed)
    bounds = []
    for _ in range(60):
        every, best, chats, how, budget, limits = drawn(rng)
        if not any(pool.tokens for name, pool in every.items() if how["replay_share"] or name not in how["replay"]):
            continue
        first = stage1(every, budget, **limits, **how)
        second = stage2(best, chats, every, first.weights, budget, **limits)
        for stage in (first, second):
            assert stage.tokens % budget.update == 0 < stage.tokens
            assert stage.tokens <= max(budget.update, budget.most or stage.tokens)
            assert sum(stage.weights.values()) == pytest.approx(1)
            most = max(row.epochs for row in stage.rows)
            room = limits["max_epochs"] * sum(row.tokens / row.epochs for row in stage.rows if row.epochs)
            assert most <= limits["max_epochs"] * (1 + 1e-9) or room < stage.tokens == budget.update, (stage, limits)
            assert (most > limits["max_epochs"] * (1 + 1e-9)) == any("read more" in w for w in stage.warnings)
            bounds.append(stage.bound)
    assert {"the pools", "max_tokens", "one update"} <= set(bounds)


@pytest.mark.parametrize("seed", range(10))
def test_it_is_the_largest_budget_that_moves_a_tenth_or_runs_out(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        every, _, _, how, _, limits = drawn(rng)
        how["fixed"] = None
        if not any(pool.tokens for name, pool in every.items() if how["replay_share"] or name not in how["replay"]):
            continue
        uncapped = stage1({n: Pool(p.tokens * 10**6, 0) for n, p in every.items()}, 1, **limits, **how)
        found = stage1(every, Auto(1), **limits, **how)
        if found.allowed == 0:
            continue
        assert moved(found, uncapped) <= MOVED + 1e-9
        read = [pool for name, pool in every.items() if uncapped.weights[name]]
        if found.tokens + 2 < limits["max_epochs"] * sum(pool.tokens for pool in read):
            more = stage1(every, Auto(found.tokens + 1), **limits, **how)  # as one update
            assert more.tokens == found.tokens + 1 and moved(more, uncapped) > MOVED - 1e-12
