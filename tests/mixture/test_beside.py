"""Parallel text beside the other pools: its share, its caps, and nothing changed where there is none."""

import numpy as np
import pytest

from mixture.weights import Auto, Beside, Pool, in_phases, stage1, stage2

POOLS = {"all/en": Pool(9000, 1), "all/th": Pool(1000, 1), "all/lo": Pool(100, 1)}
PAIRS = {"parallel/en-lo": Pool(100, 1), "parallel/en-th": Pool(900, 1)}
KEYS = {"temperature": 2.0, "max_epochs": 4.0}


def of(stage, begin):
    return sum(weight for name, weight in stage.weights.items() if name.startswith(begin))


@pytest.mark.parametrize("fixed", [None, {"all/en": 0.5, "all/th": 0.4, "all/lo": 0.1}])
def test_pairs_take_their_share_first(fixed):
    plain = stage1(POOLS, 5000, **KEYS, replay=["all/en"], replay_share=0.2, fixed=fixed)
    found = stage1(POOLS, 5000, **KEYS, replay=["all/en"], replay_share=0.2, fixed=fixed, beside=Beside(PAIRS, 0.1, {}))
    assert of(found, "parallel/") == pytest.approx(0.1) and sum(found.weights.values()) == pytest.approx(1)
    assert found.weights["parallel/en-th"] == pytest.approx(
        3 * found.weights["parallel/en-lo"]
    )  # 900 ** .5 : 100 ** .5
    for name in POOLS if fixed else ():
        assert found.weights[name] == pytest.approx(0.9 * plain.weights[name])
    none = stage1(POOLS, 5000, **KEYS, replay=["all/en"], replay_share=0.2, fixed=fixed, beside=Beside(PAIRS, 0.0, {}))
    assert {n: w for n, w in none.weights.items() if w} == plain.weights


def test_weights_of_the_recipe_hold_under_the_cap():
    asked = {"parallel/en-lo": 0.9, "parallel/en-th": 0.1}
    found = stage1(POOLS, 5000, **KEYS, beside=Beside(PAIRS, 0.2, asked))
    assert {row.pool: row.epochs for row in found.rows}["parallel/en-lo"] == pytest.approx(
        4
    )  # 0.18 would be nine readings
    assert of(found, "parallel/") == pytest.approx(0.2)
    assert stage1(POOLS, 400, **KEYS, beside=Beside(PAIRS, 0.2, asked)).weights["parallel/en-lo"] == pytest.approx(0.18)


def test_a_budget_from_the_pools_caps_them_too():
    found = stage1(POOLS, Auto(100), **KEYS, replay=["all/en"], replay_share=0.2, beside=Beside(PAIRS, 0.5, {}))
    assert max(row.epochs for row in found.rows) <= 4 * (1 + 1e-9)
    second = stage2(
        {"high_quality/th": Pool(500, 1)}, {}, POOLS | PAIRS, found.weights, 400, **KEYS, beside=Beside(PAIRS, 0.25, {})
    )
    replayed = 0.75 * 0.2 / 0.96 * of(found, "parallel/")
    assert of(second, "parallel/") == pytest.approx(0.25 + replayed, rel=0.05)


@pytest.mark.parametrize("budget", [5000, Auto(100)])
def test_every_phase_of_a_stage_reads_its_pairs(budget):
    fixed = {"all/en": 0.6, "all/th": 0.3, "all/lo": 0.1}
    stage = stage1(POOLS, budget, **KEYS, fixed=fixed, beside=Beside(PAIRS, 0.1, {}))
    given = [{"all/en": 0.9, "all/th": 0.1}, {"all/en": 0.3, "all/th": 0.5, "all/lo": 0.2}]
    for before, phase in zip(given, in_phases(stage, given, POOLS, [*PAIRS]), strict=True):
        assert {n: w for n, w in phase.items() if n in PAIRS} == {n: stage.weights[n] for n in PAIRS}
        assert sum(phase.values()) == pytest.approx(1)
        if budget == 5000:
            assert {n: w / 0.9 for n, w in phase.items() if n in POOLS} == pytest.approx(before)
        else:
            assert all(phase[n] * stage.tokens <= 4 * POOLS[n].tokens * (1 + 1e-9) for n in before)


@pytest.mark.parametrize("seed", range(20))
def test_pairs_in_the_replay_and_beside_it_keep_their_cap(seed):
    rng = np.random.default_rng(seed)
    pairs = {name: Pool(int(rng.integers(20, 900)), 1) for name in PAIRS}
    blend = stage1(POOLS, 5000, **KEYS, beside=Beside(pairs, 0.3, {})).weights
    beside = Beside(pairs, float(rng.uniform(0.1, 0.5)), {})
    best = {"high_quality/th": Pool(int(rng.integers(100, 5000)), 1)}
    keys = {**KEYS, "replay_share": float(rng.uniform(0.1, 0.8)), "instruction_share": 0.04}
    found = stage2(best, {}, POOLS | pairs, blend, Auto(10), **keys, beside=beside)
    assert max(row.epochs for row in found.rows) <= 4 * (1 + 1e-9)
    assert sum(found.weights.values()) == pytest.approx(1) and not any("read more" in text for text in found.warnings)
    stage2(best, {}, POOLS | pairs, blend, 10**6, **keys, beside=beside)
