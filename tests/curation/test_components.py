"""Union-find: labels are the smallest id of a component."""

import numpy as np

from curation.components import connected_components


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
    a, b = rng.integers(0, 5000, (2, 4000))
    ids, label = connected_components(a, b)
    order = rng.permutation(len(a))
    again_ids, again = connected_components(b[order], a[order])
    assert (ids == again_ids).all() and (label == again).all()
