"""Ranges and shards of records, against the rule said plainly."""

import itertools

import numpy as np
import polars as pl
import pytest

from curation.commoncrawl import ranges
from curation.commoncrawl.select import FOUND


def records(places):
    rows = [{"file": f, "offset": o, "length": n, "digest": None, "url": f"u{o}", "key": 0} for f, o, n in places]
    return pl.DataFrame(rows, schema=FOUND)


def test_by_hand():
    places = [("b", 0, 10), ("a", 100, 10), ("a", 0, 10), ("a", 15, 5), ("a", 26, 4), ("a", 100, 10)]
    planned = ranges.plan(records(places), gap_bytes=5, max_range_bytes=25, shard_bytes=1000)
    assert planned.select("file", "offset", "range", "shard").rows() == [
        *(("a", 0, 0, 0), ("a", 15, 0, 0)),
        ("a", 26, 1, 0),  # a gap of 6
        *(("a", 100, 2, 0), ("b", 0, 3, 0)),
    ]
    [shard] = ranges.sizes(planned).to_dicts()
    assert shard == {"shard": 0, "first_row": 0, "rows": 5, "ranges": 4, "wanted_bytes": 39, "fetch_bytes": 44}


@pytest.mark.parametrize("seed", range(5))
def test_rules_hold_on_random_places(seed):
    chance = np.random.default_rng(seed)
    places = []
    for file in "abc":
        offset = 0
        for _ in range(200):
            length = int(chance.integers(1, 200))
            places.append((file, offset, length))
            offset += length + int(chance.choice([0, 3, 50, 500]))
    order = chance.permutation(len(places))
    gap, most, shard_bytes = 50, 1000, 3000
    planned = ranges.plan(records([places[i] for i in order]), gap, most, shard_bytes)
    rows = planned.select("file", "offset", "length", "range", "shard").rows()
    assert sorted((f, o, n) for f, o, n, _, _ in rows) == sorted(places)
    for (f1, o1, n1, r1, s1), (f2, o2, _, r2, s2) in itertools.pairwise(rows):
        assert (f1, o1) < (f2, o2) and r2 in (r1, r1 + 1) and s2 in (s1, s1 + 1)
        if r1 == r2:
            assert f1 == f2 and s1 == s2 and o2 - (o1 + n1) <= gap
    spans = planned.group_by("range").agg(
        start=pl.col("offset").min(), end=(pl.col("offset") + pl.col("length")).max(), n=pl.len()
    )
    assert spans.filter((pl.col("n") > 1) & (pl.col("end") - pl.col("start") > most)).is_empty()
    starts = {r: o for _, o, _, r, _ in reversed(rows)}
    for (f1, o1, n1, r1, s1), (f2, o2, n2, r2, s2) in itertools.pairwise(rows):
        if r1 != r2 and f1 == f2 and s1 == s2:  # no range ends without a reason
            assert o2 - (o1 + n1) > gap or o2 + n2 - starts[r1] > most
    sizes = ranges.sizes(planned)
    assert sizes["rows"].sum() == len(places) and sizes["wanted_bytes"].sum() == sum(n for _, _, n in places)
    assert (sizes["wanted_bytes"] <= shard_bytes + 200).all() and sizes.height >= sizes["wanted_bytes"].sum() / 3200
    assert sizes["first_row"].to_list() == [0, *np.cumsum(sizes["rows"].to_list())[:-1]]


def test_shards_do_not_depend_on_the_gap():
    places = [("f", 1000 * i, 10 + i) for i in range(100)]
    one = ranges.plan(records(places), 0, 10**6, 500)
    other = ranges.plan(records(places), 10**6, 10**6, 500)
    assert one["shard"].equals(other["shard"]) and not one["range"].equals(other["range"])


def test_a_record_longer_than_everything():
    planned = ranges.plan(records([("f", 0, 5), ("f", 5, 10_000), ("f", 10_005, 5)]), 100, 50, 100)
    assert planned["range"].to_list() == [0, 1, 2] and planned["shard"].to_list() == [0, 0, 1]


def test_nothing():
    planned = ranges.plan(records([]), 100, 50, 100)
    assert planned.height == 0 and ranges.sizes(planned).height == 0
