"""Bounds from judgements: found where planted, not invented where there is nothing, and said when there are too few."""

from __future__ import annotations

import numpy as np
import pytest

from ray_jobs.inspect import bounds

N = 160


def simulate(seed, *, edge, now, error=0.1, n=N, side="min", blind=False):
    """Documents whose signal is uniform; noise below `edge` (or anywhere, if the signal is blind); people err."""
    chance = np.random.default_rng(seed)
    values = chance.random(n)
    truth = chance.random(n) < 0.3 if blind else values < edge
    if side == "max":
        values = 1 - values
    said = truth ^ (chance.random(n) < error)
    dropped = values < now if side == "min" else values > now
    return bounds.propose(values, said.astype(float), np.full(n, 10.0), dropped, now, side)


@pytest.mark.parametrize("side", ["min", "max"])
def test_a_planted_bound_is_found(side):
    """The present bound drops half of all, of which three in five are good; people err one time in ten."""
    found = [simulate(seed, edge=0.2, now=0.5, side=side) for seed in range(20)]
    proposed = [one for one in found if one.bound is not None]
    assert len(proposed) == 20
    edge = 0.2 if side == "min" else 0.8
    assert np.median([abs(one.bound - edge) for one in proposed]) < 0.03
    assert sum(one.low <= edge <= one.high for one in proposed) >= 18
    # 30 % of 1,600 documents are wrong now; what people err by counts on both sides
    assert np.median([one.saved for one in proposed]) == pytest.approx(0.3 * 1600 * 0.8, rel=0.25)
    assert all(one.saved_low <= one.saved <= one.saved_high for one in proposed)


def test_nothing_is_proposed_where_nothing_is_wrong():
    """Where the bound is right, and where the signal says nothing: in at most one of twenty trials."""
    right = [simulate(seed, edge=0.3, now=0.3) for seed in range(60)]
    assert sum(one.bound is not None for one in right) <= 3
    blind = [simulate(seed, edge=0, now=0.05, blind=True) for seed in range(60)]
    assert sum(one.bound is not None for one in blind) <= 3


def test_too_few_are_said():
    one = simulate(0, edge=0.2, now=0.5, n=16)
    assert one.bound is None and "are the least" in one.why and one.saved is None
    nobody = bounds.propose(*(np.zeros(0),) * 3, np.zeros(0, bool), 0.5, "min")
    assert nobody.bound is None and nobody.good == nobody.noise == 0


def test_the_best_cut_is_that_of_brute_force():
    chance = np.random.default_rng(4)
    for _ in range(50):
        n = int(chance.integers(2, 30))
        values, noise = chance.integers(0, 8, n).astype(float), chance.choice([0.0, 0.5, 1.0], n)
        weights, now = chance.integers(1, 5, n).astype(float), float(chance.integers(0, 8))
        order = np.argsort(values, kind="stable")
        cuts = bounds._cuts(values[order], now)
        cost = ((1 - 2 * noise) * weights)[order]
        best = bounds._best(bounds._errors(cost[None], np.searchsorted(values[order], cuts)), cuts, now)[0]

        errors = {
            cut: (weights * np.where(values < cut, 1 - noise, noise)).sum() for cut in [*np.arange(-1, 8, 0.25), now]
        }
        least = min(errors[cut] for cut in errors if cut == now or (values >= cut).any())
        assert errors[cuts[best]] == pytest.approx(least)
        equal = [cut for cut in cuts if errors[cut] == pytest.approx(least)]
        assert abs(cuts[best] - now) == pytest.approx(min(abs(cut - now) for cut in equal))


def test_the_recipe_has_only_what_is_proposed_and_short_numbers():
    one = simulate(1, edge=0.2, now=0.5)
    none, whole = one._replace(bound=None), one._replace(bound=3.0)
    found = bounds.recipe({("km", "a", "min"): one, ("km", "b", "max"): none, ("en", "c", "max"): whole})
    assert found == {"en": {"c": {"max": 3}}, "km": {"a": {"min": one.bound}}}
    assert len(str(one.bound)) <= 6 and isinstance(found["en"]["c"]["max"], int)
    values = np.array([0.1234, 0.1236, 0.9])
    assert bounds._short(0.1235, values, "min") == 0.1235 and bounds._short(0.5, values, "max") == 0.5
    assert (
        bounds.depends([], "a_min")
        and bounds.depends(["a_min"], "a_min")
        and not bounds.depends(["a_min", "b"], "a_min")
    )
