"""Blockwise selection against the loop over single candidates."""

import numpy as np
import pytest

from train.select import Decision, greedy, select


def naive_greedy(unit, quota, max_cosine):
    taken, why = [], []
    for i in range(len(unit)):
        if len(taken) >= quota:
            break
        cosines = [float(np.dot(unit[i], unit[j])) for j in taken]
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
        unit = [embeddings[i] / np.linalg.norm(embeddings[i]) for i in members]
        for rank, (i, why) in enumerate(zip(members, naive_greedy(unit, quotas.get(cell, 0), max_cosine), strict=True)):
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


def same(decision: Decision, expected) -> bool:
    rule, rank, s, r, p, cosine, nearest = expected
    numbers = (decision.score, decision.reward_percentile, decision.perplexity_percentile, decision.cosine)
    return (decision.rule, decision.rank, decision.nearest) == (rule, rank, nearest) and all(
        a == b or a == pytest.approx(b, abs=1e-6) for a, b in zip(numbers, (s, r, p, cosine), strict=True)
    )


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
    found = select(ids, langs, categories, rewards, perplexities, embeddings, quotas, 0.6)
    expected = naive_select(ids, langs, categories, rewards, perplexities, embeddings, quotas, 0.6)
    assert len(found) == len(expected) == n
    for decision in found:
        assert same(decision, expected[decision.id]), (decision, expected[decision.id])
    rules = {d.rule for d in found}
    assert rules == {"taken", "too_similar", "quota"}


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("quota", [0, 1, 30, 10_000])
def test_blocks_do_not_change_the_result(block, quota):
    rng = np.random.default_rng(5)
    unit = rng.normal(size=(300, 8)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    taken, cosine, nearest, seen = greedy(unit, quota, 0.6, block)
    for i, (rule, best, j) in enumerate(naive_greedy(unit, quota, 0.6)):
        assert (rule == "quota") == (i >= seen)
        assert taken[i] == (rule == "taken")
        if rule != "quota":
            assert nearest[i] == (-1 if j is None else j)
            assert (best is None and cosine[i] == -np.inf) or cosine[i] == pytest.approx(best, abs=1e-6)
