"""How much of each pool a training stage reads: tempered token weights under an epoch cap, and the two-stage plan.

A pool of n tokens gets a weight in proportion to n**(1/temperature): 1 keeps the natural sizes, larger values move
towards equal shares. Reading a pool more than `max_epochs` times is forbidden: what it may not take flows to the others
in proportion to their weights, again and again until nobody is over (water filling). Stages as in Sailor2, sections 3.4
and 4.4 and tables 4-5 (arXiv 2502.12982): first all pools with a replay share for the languages that must not be
forgotten; then the high-quality pools, with a share of the first blend and of instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Pool(NamedTuple):
    """What a pool holds."""

    tokens: int
    bytes: int


class Row(NamedTuple):
    """What a stage reads of one pool. `tokens` and `bytes` count repeats; `epochs` = tokens / those in the pool."""

    pool: str
    weight: float
    tokens: float
    bytes: float
    epochs: float


class Stage(NamedTuple):
    """A stage of `tokens` in all. `rows` in the order of the pools' names; `warnings` are sentences for the user."""

    tokens: int
    rows: list[Row]
    warnings: list[str]

    @property
    def weights(self) -> dict[str, float]:
        return {row.pool: row.weight for row in self.rows}


def tempered(tokens: dict[str, int], temperature: float, budget: float, max_epochs: float) -> dict[str, float]:
    """Weights of the pools, summing to 1, so that a stage of `budget` tokens reads none more than `max_epochs` times.

    When all pools together cannot give `budget` tokens (`overdraw` > 1), the weights are in proportion to the caps,
    that is to `tokens`, and every pool is repeated equally often. Empty pools get weight 0. Raises ValueError when all
    are empty.

    >>> tempered({"vi": 900, "lo": 100}, temperature=2.0, budget=100, max_epochs=4)
    {'lo': 0.25, 'vi': 0.75}
    >>> tempered({"vi": 900, "lo": 100}, temperature=2.0, budget=1000, max_epochs=1)
    {'lo': 0.1, 'vi': 0.9}
    """
    if temperature <= 0 or max_epochs <= 0 or budget <= 0:
        raise ValueError("temperature, max_epochs and budget must be above 0")
    names = sorted(name for name, count in tokens.items() if count > 0)
    if not names:
        raise ValueError("no pool has any tokens")
    if overdraw(tokens, budget, max_epochs) >= 1.0:
        total = sum(tokens[name] for name in names)
        weights = {name: tokens[name] / total for name in names}
    else:
        largest = max(tokens.values())
        wanted = {name: (tokens[name] / largest) ** (1.0 / temperature) for name in names}
        caps = {name: max_epochs * tokens[name] / budget for name in names}
        weights = _fill(wanted, caps)
    return {name: weights.get(name, 0.0) for name in sorted(tokens)}


def overdraw(tokens: dict[str, int], budget: float, max_epochs: float) -> float:
    """`budget` over what the pools can give in `max_epochs` passes: above 1.0 the cap cannot be kept."""
    capacity = max_epochs * sum(tokens.values())
    return budget / capacity if capacity else float("inf")


def _fill(wanted: dict[str, float], caps: dict[str, float]) -> dict[str, float]:
    """Shares in proportion to `wanted`, none over its cap; the caps sum to more than 1."""
    capped: dict[str, float] = {}
    while True:
        free = [name for name in wanted if name not in capped]
        level = (1.0 - sum(capped.values())) / sum(wanted[name] for name in free)
        over = [name for name in free if wanted[name] * level > caps[name]]
        if not over or len(over) == len(free):  # the latter only by rounding, when the caps sum to 1
            return capped | {name: wanted[name] * level for name in free}
        capped |= {name: caps[name] for name in over}


def stage1(
    pools: dict[str, Pool],
    budget: int,
    *,
    temperature: float,
    max_epochs: float,
    replay: Sequence[str] = (),
    replay_share: float = 0.0,
    fixed: dict[str, float] | None = None,
) -> Stage:
    """All pools, tempered; the pools named in `replay` together get exactly `replay_share` of the tokens.

    Sailor2: 450 B tokens, of which 101 B (22 %) are English and Chinese. When there is nothing on one side of the
    split, the other side gets everything. `fixed` are weights from elsewhere (RegMix) that replace all of this.
    """
    if fixed is not None:
        return _stage(pools, budget, max_epochs, [("the pools of stage 1", 1.0, pools, fixed)], temperature)
    unknown = [name for name in replay if name not in pools]
    if unknown:
        raise ValueError(f"replay pools that do not exist: {', '.join(unknown)}")
    new = {name: pool for name, pool in pools.items() if name not in replay}
    old = {name: pools[name] for name in replay}
    return _stage(
        pools,
        budget,
        max_epochs,
        [("the pools of stage 1", 1.0 - replay_share, new, None), ("the replay pools", replay_share, old, None)],
        temperature,
    )


def stage2(
    high_quality: dict[str, Pool],
    instructions: dict[str, Pool],
    pools: dict[str, Pool],
    stage1_weights: dict[str, float],
    budget: int,
    *,
    temperature: float,
    max_epochs: float,
    replay_share: float = 0.2,
    instruction_share: float = 0.04,
) -> Stage:
    """The high-quality pools, tempered; `replay_share` of the blend of stage 1; `instruction_share` of instructions.

    `pools` and `stage1_weights` are those of stage 1. Sailor2: 60 B tokens, 20 % replay (the text; its table adds up to
    10 B), 2.5 B instructions. A group with nothing in it leaves its share to the others. The epochs are those of this
    stage alone; stage 1 has read the replay pools too.
    """
    return _stage(
        high_quality | instructions | pools,
        budget,
        max_epochs,
        [
            ("the high-quality pools", 1.0 - replay_share - instruction_share, high_quality, None),
            ("the instruction pools", instruction_share, instructions, None),
            ("the replay of stage 1", replay_share, pools, stage1_weights),
        ],
        temperature,
    )


Group = tuple[str, float, dict[str, Pool], dict[str, float] | None]  # what it is, share, pools, fixed weights or None


def _stage(pools: dict[str, Pool], budget: int, max_epochs: float, groups: list[Group], temperature: float) -> Stage:
    """Groups with a share each; inside a group the weights are given, or tempered under the cap."""
    if any(not 0.0 <= share <= 1.0 for _, share, _, _ in groups):
        raise ValueError("the shares of a stage must lie between 0 and 1, and leave something for the other pools")
    present = [group for group in groups if group[1] > 0 and any(pool.tokens for pool in group[2].values())]
    if not present:
        raise ValueError("no pool has any tokens")
    warnings = [
        f"{name} should get {share:.0%} of the tokens but hold none; the others get that share"
        for name, share, members, _ in groups
        if share > 0 and not any(pool.tokens for pool in members.values())
    ]
    total = sum(share for _, share, _, _ in present)
    weights = dict.fromkeys(pools, 0.0)
    for _, share, members, fixed in present:
        share /= total
        sizes = {pool: size.tokens for pool, size in members.items()}
        for pool, weight in (fixed or tempered(sizes, temperature, share * budget, max_epochs)).items():
            weights[pool] += share * weight
    rows = [_row(name, weights[name], budget, pools[name]) for name in sorted(pools)]
    often = [f"{row.pool} ({row.epochs:.1f})" for row in rows if row.epochs > max_epochs * (1 + 1e-9)]
    if often:
        warnings.append(f"read more than {max_epochs:g} times, as {budget:,} tokens are asked for: {', '.join(often)}")
    return Stage(budget, rows, warnings)


def _row(name: str, weight: float, budget: int, pool: Pool) -> Row:
    tokens = weight * budget
    epochs = tokens / pool.tokens if pool.tokens else 0.0
    return Row(name, weight, tokens, epochs * pool.bytes, epochs)
