"""Union-find against scipy.sparse.csgraph on random graphs, chains and stars."""

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components as scipy_components

from curation.dedup.components import connected_components


def graph(kind: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    if kind == "chain":
        order = rng.permutation(n)
        return order[:-1], order[1:]
    if kind == "stars":
        centres = rng.permutation(n)[: max(1, n // 50)]
        return rng.choice(centres, n), np.arange(n)
    if kind == "chains and stars":
        a, b = graph("chain", n // 2, rng)
        c, d = graph("stars", n - n // 2, rng)
        return np.concatenate([a, c + n // 2]), np.concatenate([b, d + n // 2])
    return tuple(rng.integers(0, n, (2, int(n * float(kind)))))


@pytest.mark.parametrize("kind", ["0.1", "0.5", "0.6", "2", "chain", "stars", "chains and stars"])
@pytest.mark.parametrize("n", [2, 17, 20_000])
def test_labels_are_the_smallest_id_of_scipys_components(kind, n):
    rng = np.random.default_rng(n)
    a, b = graph(kind, n, rng)
    names = np.sort(rng.choice(2**40, n, replace=False)) - 2**39  # ids far apart, some negative
    ids, labels = connected_components(names[a], names[b])
    order = np.argsort(ids)
    ids, labels = ids[order], labels[order]
    _, component = scipy_components(coo_matrix((np.ones(len(a), np.int8), (a, b)), (n, n)), directed=False)
    smallest = np.full(n, 2**62)
    np.minimum.at(smallest, component, names)
    present = np.unique(np.concatenate([a, b]))
    assert (ids == names[present]).all()
    assert (labels == smallest[component[present]]).all()
