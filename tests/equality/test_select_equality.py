"""Blockwise selection against the loop over single candidates."""

import numpy as np
import pytest

from train.selection.diverse import greedy
from train.selection.select import Decision, select


def naive_greedy(rows, quota, max_cosine):
    """One row at a time against each one taken; cosines to 12 decimals, 0 with a row of zeros."""
    unit = [row.astype(np.float64) / (np.linalg.norm(row.astype(np.float64)) or 1.0) for row in rows]
    taken, why = [], []
    for i in range(len(unit)):
        if len(taken) >= quota:
            break
        cosines = [round(float(np.dot(unit[i], unit[j])), 12) for j in taken]
        if not cosines or max(cosines) <= max_cosine:
            why.append(("taken", max(cosines, default=None), taken[int(np.argmax(cosines))] if cosines else None))
            taken.append(i)
        else:
            why.append(("too_similar", max(cosines), taken[int(np.argmax(cosines))]))
    return why + [("quota", None, None)] * (len(unit) - len(why))


def naive_select(  # noqa: PLR0917
    ids, langs, categories, rewards, perplexities, embeddings, quotas, max_cosine
):
    def percentile(values, i):
        if len(values) == 1:
            return 1.0
        below, equal = sum(v < values[i] for v in values), sum(v == values[i] for v in values)
        return (below + (equal - 1) / 2) / (len(values) - 1)

    decisions = {}
    for cell in set(zip(langs, categories, strict=True)):
        members = [i for i in range(len(ids)) if (langs[i], categories[i]) == cell]
        r = {i: percentile([rewards[j] for j in members], k) for k, i in enumerate(members)}
        p = {i: percentile([perplexities[j] for j in members], k) for k, i in enumerate(members)}
        s = {i: r[i] * p[i] / (r[i] + p[i]) if r[i] + p[i] else 0.0 for i in members}
        members.sort(key=lambda i: (-s[i], ids[i]))
        found = naive_greedy(embeddings[members], quotas.get(cell, 0), max_cosine)
        for rank, (i, why) in enumerate(zip(members, found, strict=True)):
            decisions[ids[i]] = (
                why[0],
                rank + 1,
                s[i],
                r[i],
                p[i],
                why[1],
                None if why[2] is None else ids[members[why[2]]],
            )
    return decisions


def seen(decision: Decision) -> tuple:
    names = ("rule", "rank", "score", "reward_percentile", "perplexity_percentile", "cosine", "nearest")
    return tuple(getattr(decision, name) for name in names)


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_the_naive_loop(seed):
    rng = np.random.default_rng(seed)
    n = 400
    ids = [f"{i:04}" for i in rng.permutation(n)]
    langs = rng.choice(["th", "lo", "km"], n).tolist()
    categories = rng.choice(["qa", "chat"], n, p=[0.9, 0.1]).tolist()
    rewards = rng.integers(0, 60, n).astype(np.float64)  # with ties
    perplexities = rng.exponential(size=n)
    centres = rng.normal(size=(25, 6))
    embeddings = (centres[rng.integers(0, 25, n)] + 0.5 * rng.normal(size=(n, 6))).astype(np.float32)
    quotas = {("th", "qa"): 20, ("lo", "qa"): 1000, ("km", "qa"): 3, ("th", "chat"): 5}
    found = [d for of in select(ids, langs, categories, rewards, perplexities, embeddings, quotas, 0.6) for d in of]
    expected = naive_select(ids, langs, categories, rewards, perplexities, embeddings, quotas, 0.6)
    assert {d.id: seen(d) for d in found} == expected
    assert len(found) == n
    assert {d.rule for d in found} == {"taken", "too_similar", "quota"}


def cell(kind: str) -> np.ndarray:
    """Embeddings [300, 8] of one cell that holds all rows."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(300, 8)).astype(np.float32)
    if kind == "zeros":
        rows[rng.random(300) < 0.3] = 0
    if kind == "all_zeros":
        rows[:] = 0
    if kind == "repeated":  # many cosines of exactly 1
        rows = rows[rng.integers(0, 40, 300)]
    if kind == "lattice":  # many equal cosines, many at the limit itself: 3-4-5 and -1, 0, 1
        rows = np.zeros((300, 8), np.float32)
        for row in rows:
            row[rng.choice(8, 2, replace=False)] = ((3, 4), (1, 0), (4, -3), (0, 0))[rng.integers(4)]
    return rows * rng.choice([1e-3, 1.0, 1e4], (300, 1)).astype(np.float32)


@pytest.mark.parametrize("kind", ["random", "zeros", "all_zeros", "repeated", "lattice"])
@pytest.mark.parametrize("max_cosine", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("quota", [0, 1, 30, 300])
def test_blocks_do_not_change_the_result(kind, max_cosine, quota, monkeypatch):
    monkeypatch.setattr("train.selection.diverse.COLUMNS", 13)
    rows = cell(kind)
    expected = naive_greedy(rows, quota, max_cosine)
    for block in (1, 7, 64, 1000):
        found = greedy(lambda numbers: rows[numbers], len(rows), quota, max_cosine, block)
        for i, (rule, best, nearest) in enumerate(expected):
            assert (rule == "quota") == (i >= found.seen)
            assert (rule == "taken") == found.taken_N[i]
            assert found.cosine_N[i] == (-np.inf if best is None else best)
            assert found.nearest_N[i] == (-1 if nearest is None else nearest)


def test_of_a_mapped_file_only_what_is_needed_is_read():
    rows = cell("random")
    asked = []

    def read(numbers):
        asked.extend(numbers.tolist())
        return rows[numbers]

    found = greedy(read, len(rows), 5, 0.6, block=16)
    assert asked == list(range(-(-found.seen // 16) * 16))
    assert found.seen < 100
