"""The simulated run: by hand without losses, right on average with them."""

import statistics

import pytest

from cluster.deploy.spec import Group
from ray_jobs.plan.simulate import START_SPREAD, Phase, simulate


def group(**more) -> Group:
    keys = {"name": "curate", "role": "cpu", "cpus": 8, "memory_gb": 32, "max_nodes": 10, "start_seconds": 1}
    return Group(**{**keys, "idle_seconds": 1, **more})


def test_without_losses_time_is_work_over_nodes():
    (span,) = simulate([Phase("extract", group(), 10, 10_000.0, 60.0)], seed=1)
    slowest, fastest = START_SPREAD[1], START_SPREAD[0]
    assert 1000 + fastest <= span.end <= 1000 + slowest
    assert span.lost == 0
    assert span.paid_node_seconds == pytest.approx(10 * (span.end + 1))


def test_phases_follow_one_another_and_the_seed_decides():
    phases = [Phase(name, group(spot=True, spot_losses_per_hour=0.5), 4, 40_000.0, 600.0) for name in "ab"]
    first = simulate(phases, seed=3)
    assert first[0].end == first[1].begin
    assert simulate(phases, seed=3) == first
    assert simulate(phases, seed=4) != first


def test_a_lost_node_costs_what_it_had_in_flight():
    """Expected losses: rate x node-hours; each loses half of redo_seconds and the time to start another."""
    spot = group(spot=True, spot_losses_per_hour=0.2, start_seconds=100)
    phase = Phase("extract", spot, 10, 3_600_000.0, 600.0)
    runs = [simulate([phase], seed)[0] for seed in range(60)]
    hours = 3_600_000 / 3600
    assert statistics.mean(run.lost for run in runs) == pytest.approx(0.2 * hours, rel=0.1)
    mean_start = 100 * sum(START_SPREAD) / 2
    expected = (3_600_000 + 0.2 * hours * (300 + mean_start)) / 10 + mean_start
    assert statistics.mean(run.end for run in runs) == pytest.approx(expected, rel=0.02)


def test_a_gang_waits_for_all_and_returns_to_its_checkpoint():
    spot = group(spot=True, spot_losses_per_hour=0.1, start_seconds=200)
    gang = [simulate([Phase("train", spot, 8, 8 * 360_000.0, 1800.0, gang=True)], s)[0].end for s in range(40)]
    free = [simulate([Phase("train", spot, 8, 8 * 360_000.0, 1800.0)], s)[0].end for s in range(40)]
    losses = 0.1 * 8 * 100  # expected in the 100 hours of work
    assert statistics.mean(gang) == pytest.approx(360_000 + losses * (900 + 230), rel=0.08)
    assert statistics.mean(gang) > 1.1 * statistics.mean(free)


def test_a_rate_limit_bounds_the_speed():
    (span,) = simulate([Phase("crawl", group(), 10, 10_000.0, 60.0, limit=2.0)], seed=0)
    assert span.end == pytest.approx(5000, abs=2)
    assert span.paid_node_seconds == pytest.approx(10 * span.end, rel=0.01)  # the nodes wait, and cost


def test_hopeless_losses_are_an_error(monkeypatch):
    monkeypatch.setattr("ray_jobs.plan.simulate.MAX_EVENTS", 1000)
    spot = group(spot=True, spot_losses_per_hour=50.0, start_seconds=600)
    with pytest.raises(ValueError, match=r"groups\.curate\.spot_losses_per_hour"):
        simulate([Phase("train", spot, 8, 1e9, 3600.0, gang=True)], seed=0)
