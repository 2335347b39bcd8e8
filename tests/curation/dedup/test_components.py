"""Components: labels are the smallest id, in one process and on an engine; stars of buckets cost one edge each."""

import numpy as np
import pyarrow as pa
import pytest

from cluster.engines.in_process import Local
from curation.dedup.components import EDGES, connected_components, star_components, star_pairs


def labels(edges: list[tuple[int, int]]) -> dict[int, int]:
    a, b = np.array(edges, np.int64).reshape(-1, 2).T
    return dict(zip(*(x.tolist() for x in connected_components(a, b)), strict=True))


def test_small_graphs_by_hand():
    assert labels([]) == {}
    assert labels([(7, 7)]) == {7: 7}
    assert labels([(5, 3), (9, 5), (2, 8), (8, 2)]) == {3: 3, 5: 3, 9: 3, 2: 2, 8: 2}
    assert labels([(10, 20), (30, 40), (40, 20)]) == dict.fromkeys((10, 20, 30, 40), 10)
    assert labels([(-5, 2**62), (2**62, 1)]) == {-5: -5, 1: -5, 2**62: -5}


def test_a_chain_of_a_million_in_the_worst_order():
    n = 1_000_000
    a = np.arange(n - 1, 0, -1)
    ids, label = connected_components(a, a - 1)
    assert len(ids) == n and not label.any()


def test_order_of_edges_does_not_matter():
    rng = np.random.default_rng(0)
    for a, b in (rng.integers(0, 5000, (2, 4000)), rng.choice(rng.integers(-(2**62), 2**62, 5000), (2, 4000))):
        order = rng.permutation(len(a))
        found = [dict(zip(*connected_components(*edges), strict=True)) for edges in ((a, b), (b[order], a[order]))]
        assert found[0] == found[1] and len(found[0]) == len(np.unique([a, b]))


def test_star_pairs_join_each_id_to_the_smallest_of_its_key():
    rng = np.random.default_rng(1)
    keys = rng.choice(rng.integers(-(2**62), 2**62, 300), 2000)
    ids = rng.permutation(2000) * 1000 - 500
    first = {}
    for key, one in zip(keys.tolist(), ids.tolist(), strict=True):
        first[key] = min(first.get(key, one), one)
    expected = {(first[k], i) for k, i in zip(keys.tolist(), ids.tolist(), strict=True) if first[k] != i}
    a, b = star_pairs(keys, ids)
    assert len(a) == len(expected) and set(zip(a.tolist(), b.tolist(), strict=True)) == expected
    assert len(star_pairs(keys[:0], ids[:0])[0]) == 0


def test_a_bucket_of_a_million_equal_keys_is_a_star():
    ids = np.random.default_rng(0).permutation(1_000_000)
    a, b = star_pairs(np.full(1_000_000, 7), ids)
    assert len(a) == 999_999 and not a.any() and len(np.unique(b)) == 999_999


@pytest.mark.parametrize("graph", ["random", "chain", "star", "stars in a chain", "many", "none"])
def test_star_components_on_an_engine_equal_union_find(graph):
    rng = np.random.default_rng(0)
    n = 3000
    if graph == "chain":
        order = rng.permutation(n)
        a, b = order[:-1], order[1:]
    elif graph == "star":
        a, b = np.full(n - 1, n // 2), np.delete(np.arange(n), n // 2)
    elif graph == "stars in a chain":
        centres = np.arange(0, n, 100)
        a = np.concatenate([np.repeat(centres, 100), centres[:-1]])
        b = np.concatenate([np.arange(n), centres[1:]])
    else:
        a, b = rng.integers(0, n, (2, {"random": n, "many": n // 3, "none": 0}[graph]))
    a, b = a * (1 << 40) + 5, b * (1 << 40) + 5
    low, high = np.minimum(a, b), np.maximum(a, b)
    with Local() as engine:
        edges = engine.rows(pa.table([low, high], schema=EDGES).filter(pa.array(low < high)))
        found = engine.table(star_components(engine, edges, 4), EDGES)
    ids, labels = connected_components(a, b)
    moved = ids != labels
    expected = set(zip(labels[moved].tolist(), ids[moved].tolist(), strict=True))
    assert set(zip(found["a"].to_pylist(), found["b"].to_pylist(), strict=True)) == expected
    assert found.num_rows == len(expected)
