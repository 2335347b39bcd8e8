"""The rate limit against a clock that the test turns, and against threads."""

import random
import threading
import time

import pytest

from cluster.fetch.rate import Asked, Blocked, LocalLimiter, Rate, RateLimit


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def drive(limit, clock, seconds, n_bytes=lambda: 0, hold=lambda: 0.0):
    """Grant times when someone always wants the next request and sends it at once."""
    grants, leases, end, size = [], [], clock.now + seconds, n_bytes()
    while clock.now < end:
        for until, lease in [held for held in leases if held[0] <= clock.now]:
            limit.done(lease)
            leases.remove((until, lease))
        lease, wait = limit.try_ask(size, 1000.0)
        if lease is not None:
            grants.append(clock.now)
            size = n_bytes()
            leases.append((clock.now + hold(), lease))
        else:
            free = min((until for until, _ in leases if until > clock.now), default=end)
            clock.now = min(max(clock.now + min(wait, free - clock.now), clock.now + 1e-9), end)
    return grants


def most_in(times, seconds):
    return max(sum(1 for t in times if start <= t <= start + seconds) for start in times)


@pytest.mark.parametrize("rate", [0.5, 3.0, 40.0])
def test_requests_per_second_in_every_window(rate):
    clock = Clock()
    limit = RateLimit(Rate(rate, 1e9, 100), clock)
    grants = drive(limit, clock, 30.0)
    assert len(grants) == pytest.approx(rate * 30, abs=limit.rate.burst + 1)  # and no slower than allowed
    for window in (0.5, 2.0, 7.0):
        assert most_in(grants, window) <= rate * window + limit.rate.burst + 1e-6


def test_saved_up_time_is_worth_one_burst():
    clock = Clock()
    limit = RateLimit(Rate(50.0, 1e9, 100), clock)
    clock.now += 3600
    assert most_in(drive(limit, clock, 2.0), 0.001) == 5


def test_bytes_per_second_with_answers_larger_than_the_bucket():
    clock, chance, sizes = Clock(), random.Random(0), []
    limit = RateLimit(Rate(1e6, 1000.0, 100), clock)

    def n_bytes():
        sizes.append(chance.randint(1, 5000))
        return sizes[-1]

    grants = drive(limit, clock, 200.0, n_bytes)
    assert sum(sizes[: len(grants)]) / 200 == pytest.approx(1000, rel=0.05)


def test_concurrency_and_leases_of_the_dead():
    clock = Clock()
    limit = RateLimit(Rate(1e6, 1e12, 2), clock)
    first, _ = limit.try_ask(0, 10.0)
    assert limit.try_ask(0, 20.0)[0] is not None
    assert limit.try_ask(0, 10.0) == (None, pytest.approx(10.0))
    limit.done(first)
    assert limit.try_ask(0, 1000.0)[0] is not None
    clock.now += 19.9
    assert limit.try_ask(0, 10.0)[0] is None
    clock.now += 0.2  # the second holder never came back
    assert limit.try_ask(0, 10.0)[0] is not None
    limit.done(first)  # twice is no error


def test_a_lease_of_a_limit_that_was_lost_ends_none_of_the_next():
    """Ray starts the actor again where its node is lost; those who still read by the old one report to the new."""
    clock = Clock()
    old, new = (RateLimit(Rate(10.0, 1e9, 1), clock) for _ in range(2))
    before, _ = old.try_ask(1, 60.0)
    lease, _ = new.try_ask(1, 60.0)
    clock.now += 1.0
    new.done(before)
    assert new.try_ask(1, 60.0)[0] is None
    new.done(lease)
    assert new.try_ask(1, 60.0)[0] is not None


def test_a_pause_stops_all_then_halves_the_pace_which_comes_back():
    clock = Clock()
    limit = RateLimit(Rate(10.0, 1e9, 100), clock)
    drive(limit, clock, 5.0)
    limit.pause(7.0)
    begin = clock.now
    grants = [t - begin for t in drive(limit, clock, 7.0)]
    assert grants == []
    first = len(drive(limit, clock, 10.0))
    assert 50 <= first <= 72  # half of 100, and a little of the recovery
    clock.now += 60
    limit.try_ask(0, 0.0)
    assert len(drive(limit, clock, 10.0)) >= 99


def test_many_complaints_at_once_are_one_and_the_pace_has_a_floor():
    clock = Clock()
    limit = RateLimit(Rate(80.0, 1e9, 100), clock)
    for _ in range(50):
        limit.pause(0.0)
    assert limit._pace == 0.5
    for _ in range(50):
        clock.now += 1.0
        limit.pause(0.0)
    assert limit._pace == pytest.approx(1 / 8)


def test_what_was_asked_is_counted():
    clock = Clock()
    limit = RateLimit(Rate(10.0, 1e6, 1), clock)
    lease, _ = limit.try_ask(300, 5.0)
    assert limit.try_ask(1, 5.0)[0] is None  # refused for now, so not asked
    limit.done(lease)
    clock.now += 2.0
    limit.try_ask(50, 5.0)
    limit.pause(1.0)
    assert limit.asked == Asked(requests=2, bytes=350, pauses=1, seconds=2.0)


def test_stop_refuses_everyone():
    limit = RateLimit(Rate(10.0, 1e9, 100), Clock())
    limit.stop("blocked: wait")
    limit.stop("later")
    with pytest.raises(Blocked, match="blocked: wait"):
        limit.try_ask(0, 1.0)


def test_threads_share_a_local_limiter():
    rate = Rate(100.0, 1e9, 3)
    limiter, times, under_way, most = LocalLimiter(rate), [], [0], [0]
    lock = threading.Lock()

    def work():
        for _ in range(10):
            lease = limiter.ask(10, 60.0)
            with lock:
                times.append(time.monotonic())
                under_way[0] += 1
                most[0] = max(most[0], under_way[0])
            time.sleep(0.01)
            with lock:
                under_way[0] -= 1
            limiter.done(lease)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times) == 60 and most[0] <= 3
    assert most_in(times, 0.2) <= 100 * 0.2 + rate.burst + rate.concurrency


def test_a_stop_wakes_those_that_wait():
    limiter = LocalLimiter(Rate(0.01, 1e9, 3))
    limiter.ask(0, 60.0)
    errors = []

    def wait():
        try:
            limiter.ask(0, 60.0)
        except Blocked as error:
            errors.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    limiter.stop("enough")
    thread.join(5)
    assert errors == ["enough"]
