"""How much of each pool a training stage reads: tempered token weights under an epoch cap, and the two-stage plan.

A pool of n tokens gets a weight in proportion to n**(1/temperature): 1 keeps the natural sizes, larger values move
towards equal shares. Reading a pool more than `max_epochs` times (mixture/readings.py: of all pools, by language, or by how
scarce they are) is forbidden: what it may not take flows to the others in proportion to their weights, again and again
until nobody is over (water filling). Stages as in Sailor2, sections 3.4
and 4.4 and tables 4-5 (arXiv 2502.12982): first all pools with a replay share for the languages that must not be
forgotten; then the high-quality pools, with a share of the first blend and of instructions.

A budget may be a number of tokens or follow from the pools (`Auto`). Let w_i be the weights that a recipe asks for and
l_i = the cap x the tokens of pool i. At B tokens the caps take max(0, w_i - l_i / B) from pool i, since what flows to
a pool never takes it below w_i. The sum over the pools, which is the total variation between the weights at B and the w_i,
rises with B. The budget is the largest B at which it is at most `MOVED` and no pool is over its cap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mixture import readings
from mixture.readings import Asked


class Pool(NamedTuple):
    """What a pool holds."""

    tokens: int
    bytes: int


MOVED = 0.1  # of the weights that a recipe asks for: as much as caps may move where a budget follows from the pools

BESIDE = "the pools of parallel text"

ABOVE_0 = "temperature, max_epochs and budget must be above 0"


class Auto(NamedTuple):
    """A budget that follows from the pools: whole updates of `update` tokens, no more than `most` tokens, at least one update."""

    update: int
    most: int | None = None


class Beside(NamedTuple):
    """Pools that stand beside the others of a stage, with a share of its tokens: those of parallel text.

    `asked`: weights of them in proportion, before their caps; empty: tempered tokens."""

    pools: dict[str, Pool]
    share: float
    asked: dict[str, float]


class Row(NamedTuple):
    """What a stage reads of one pool. `tokens` and `bytes` count repeats; `epochs` = tokens / those in the pool."""

    pool: str
    weight: float
    tokens: float
    bytes: float
    epochs: float


class Stage(NamedTuple):
    """A stage of `tokens` in all. `rows` in the order of the pools' names; `warnings` are sentences for the user.

    `allowed`: the tokens that `Auto` would take without a bound, in whole updates where these are known. `bound`: what set
    `tokens`, one of "the recipe", "the pools", "max_tokens" and "one update". `caps`: how often each pool may be read."""

    tokens: int
    rows: list[Row]
    warnings: list[str]
    allowed: int
    bound: str
    caps: dict[str, float]

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
    wanted = _wanted(tokens, temperature)
    if max_epochs <= 0:
        raise ValueError(ABOVE_0)
    weights = _capped(wanted, {name: max_epochs * tokens[name] for name in wanted}, budget)
    return {name: weights.get(name, 0.0) for name in sorted(tokens)}


def _wanted(tokens: dict[str, int], temperature: float) -> dict[str, float]:
    """What the pools get without a cap, in proportion; only those that hold any tokens."""
    if temperature <= 0:
        raise ValueError(ABOVE_0)
    names = sorted(name for name, count in tokens.items() if count > 0)
    if not names:
        raise ValueError("no pool has any tokens")
    largest = max(tokens.values())
    return {name: (tokens[name] / largest) ** (1.0 / temperature) for name in names}


def _capped(wanted: dict[str, float], limits: dict[str, float], budget: float) -> dict[str, float]:
    """Weights in proportion to `wanted`, none above its share of `limits` (tokens that each may give in all) in `budget`; in
    proportion to `limits` when these cannot be kept."""
    if budget <= 0:
        raise ValueError(ABOVE_0)
    total = sum(limits[name] for name in wanted)
    if budget >= total:
        return {name: limits[name] / total for name in wanted}
    return _fill(wanted, {name: limits[name] / budget for name in wanted})


def overdraw(tokens: Mapping[str, int], budget: float, max_epochs: float | Mapping[str, float]) -> float:
    """`budget` over what the pools can give under their caps: above 1.0 these cannot be kept."""
    caps = max_epochs if isinstance(max_epochs, Mapping) else dict.fromkeys(tokens, max_epochs)
    capacity = sum(caps[name] * count for name, count in tokens.items())
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
    budget: int | Auto,
    *,
    temperature: float,
    max_epochs: Asked,
    replay: Sequence[str] = (),
    replay_share: float = 0.0,
    fixed: dict[str, float] | None = None,
    beside: Beside | None = None,
) -> Stage:
    """All pools, tempered; the pools named in `replay` together get exactly `replay_share` of the tokens.

    Sailor2: 450 B tokens, of which 101 B (22 %) are English and Chinese. When there is nothing on one side of the
    split, the other side gets everything. `fixed` are weights from elsewhere (RegMix) that replace all of this, but not an
    `Auto` budget: they were sought for that of the tempered weights. What stands `beside` takes its share first.
    """
    if fixed is not None:
        group: Group = ("the pools of stage 1", 1.0, pools, fixed)
        if not isinstance(budget, Auto):
            return _stage(pools, budget, max_epochs, [group], temperature, beside)
        plain = stage1(
            pools,
            budget,
            temperature=temperature,
            max_epochs=max_epochs,
            replay=replay,
            replay_share=replay_share,
            beside=beside,
        )
        stage = _stage(pools, budget._replace(most=plain.tokens), max_epochs, [group], temperature, beside)
        return stage._replace(allowed=plain.allowed, bound=plain.bound) if stage.tokens == plain.tokens else stage
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
        beside,
    )


def stage2(
    high_quality: dict[str, Pool],
    instructions: dict[str, Pool],
    pools: dict[str, Pool],
    stage1_weights: dict[str, float],
    budget: int | Auto,
    *,
    temperature: float,
    max_epochs: Asked,
    replay_share: float = 0.2,
    instruction_share: float = 0.04,
    beside: Beside | None = None,
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
        beside,
    )


def in_phases(
    stage: Stage, phases: Sequence[dict[str, float]], pools: dict[str, Pool], beside: Sequence[str]
) -> list[dict[str, float]]:
    """The weights of each phase of a stage 1 whose mean is `fixed` weights of `pools`: the pools that stand `beside` have in each
    what they have of the stage. With an `Auto` budget no phase reads a pool faster than its cap allows over the stage."""
    own = {name: weight for name, weight in stage.weights.items() if name in beside and weight > 0}
    left = 1.0 - sum(own.values())
    if stage.bound != "the recipe":
        limits = {name: stage.caps[name] * pool.tokens for name, pool in pools.items() if pool.tokens}
        phases = [_capped(phase, limits, left * stage.tokens) for phase in phases]
    return [{name: left * weight for name, weight in phase.items()} | own for phase in phases]


Group = tuple[str, float, dict[str, Pool], dict[str, float] | None]  # what it is, share, pools, fixed weights or None


def _stage(  # noqa: PLR0917
    pools: dict[str, Pool],
    budget: int | Auto,
    max_epochs: Asked,
    groups: list[Group],
    temperature: float,
    beside: Beside | None = None,
) -> Stage:
    """Groups with a share each; inside a group the weights are given, or tempered under the cap.

    With `Auto` caps go before shares and given weights: what a group or a pool may not take flows to the others."""
    if beside and beside.share:
        own: Group = (BESIDE, beside.share, beside.pools, beside.asked)
        left = 1.0 - beside.share
        groups = [*((name, left * share, members, fixed) for name, share, members, fixed in groups), own]
        pools = pools | beside.pools
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
    shares = {name: share / total for name, share, _, _ in present}
    sizes = {name: {pool: size.tokens for pool, size in members.items()} for name, _, members, _ in present}
    wanted = {name: _asked(fixed, sizes[name], temperature) for name, _, _, fixed in present}
    if readings.most(max_epochs) <= 0:
        raise ValueError(ABOVE_0)
    held = {name: pool.tokens for name, pool in pools.items() if pool.tokens}

    def limits(budget: float) -> dict[str, float]:
        """Tokens that each pool may give to a stage of `budget` tokens."""
        caps = readings.caps(max_epochs, held, budget)
        return {name: caps[name] * held[name] if name in held else 0.0 for name in pools}

    whole: dict[str, float] = {}
    for name, inside in wanted.items():
        for pool, weight in inside.items():  # one may be in two groups: pairs in the replay and beside it
            whole[pool] = whole.get(pool, 0.0) + shares[name] * weight
    in_all = sum(readings.most(max_epochs) * held.get(pool, 0) for pool in whole)
    allowed = _allowed(whole, limits, int(in_all))
    auto = isinstance(budget, Auto)
    tokens, allowed, bound = _in_updates(budget, allowed)
    room = limits(tokens)
    if auto:
        shares = _capped(shares, {name: sum(room[pool] for pool in wanted[name]) for name in wanted}, tokens)
    weights = dict.fromkeys(pools, 0.0)
    for name, _, _, fixed in present:
        inside = wanted[name]
        if (auto or not fixed or name == BESIDE) and any(room[pool] for pool in inside):
            inside = _capped(inside, room, shares[name] * tokens)
        for pool, weight in inside.items():
            weights[pool] += shares[name] * weight
            room[pool] = max(0.0, room[pool] - shares[name] * weight * tokens)
    given = limits(tokens)
    if auto and any(weight * tokens > given[pool] * (1 + 1e-9) for pool, weight in weights.items()):
        # groups that share a pool had less room than by themselves
        weights |= _capped({pool: weight for pool, weight in weights.items() if weight > 0}, given, tokens)
    rows = [_row(name, weights[name], tokens, pools[name]) for name in sorted(pools)]
    caps = readings.caps(max_epochs, held, tokens)
    often = [row for row in rows if row.epochs > caps.get(row.pool, 0.0) * (1 + 1e-9)]
    if often:
        asked = "the least, one update" if bound == "one update" else "asked for"
        same = len(set(caps.values())) == 1
        named = [f"{row.pool} ({row.epochs:.1f}{'' if same else f' of {caps[row.pool]:.3g}'})" for row in often]
        said = f"more than {readings.times(caps)} times"
        warnings.append(f"read {said}, as {tokens:,} tokens are {asked}: {', '.join(named)}")
    return Stage(tokens, rows, warnings, allowed, bound, caps)


def sentence(stage: Stage) -> str:
    """What set the tokens of a stage whose budget was an `Auto`."""
    if stage.bound == "max_tokens":
        return f"auto: {stage.tokens:,} tokens, by max_tokens; the pools would allow {stage.allowed:,}"
    if stage.bound == "one update":
        return f"auto: {stage.tokens:,} tokens, one update, though the pools allow less"
    capped = [row.pool for row in stage.rows if row.epochs > stage.caps.get(row.pool, 1.0) * (1 - 1e-6)]
    named = ", ".join(capped) if len(capped) < 5 else f"{len(capped)} of {len(stage.rows)} pools"
    limits = f"; {named} {'are' if len(capped) > 1 else 'is'} read so often" if capped else ""
    return f"auto: {stage.tokens:,} tokens, what the pools allow in {readings.times(stage.caps)} passes{limits}"


def _asked(fixed: dict[str, float] | None, tokens: dict[str, int], temperature: float) -> dict[str, float]:
    """The weights of a group without caps, summing to 1, of the pools that get any."""
    if fixed:
        return {name: weight for name, weight in fixed.items() if weight > 0}
    wanted = _wanted(tokens, temperature)
    total = sum(wanted.values())
    return {name: weight / total for name, weight in wanted.items()}


def _allowed(wanted: dict[str, float], limits: Callable[[float], dict[str, float]], most: int) -> int:
    """The most tokens at which caps move no more than `MOVED` of the weights `wanted`, and all pools can give them.

    `limits`: tokens that each pool may give in all to a stage of so many; `most`: what they give together at most."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        given = limits(middle)
        moved = sum(max(0.0, weight - given[name] / middle) for name, weight in wanted.items())
        fits = moved <= MOVED and middle <= sum(given[name] for name in wanted)
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _in_updates(budget: int | Auto, allowed: int) -> tuple[int, int, str]:
    """`tokens`, `allowed` and `bound` of a Stage."""
    if not isinstance(budget, Auto):
        return budget, allowed, "the recipe"
    allowed -= allowed % budget.update
    most = allowed if budget.most is None else budget.most - budget.most % budget.update
    bound = "one update" if allowed < budget.update else "max_tokens" if most < allowed else "the pools"
    return max(budget.update, min(allowed, most)), allowed, bound


def _row(name: str, weight: float, budget: int, pool: Pool) -> Row:
    tokens = weight * budget
    epochs = tokens / pool.tokens if pool.tokens else 0.0
    return Row(name, weight, tokens, epochs * pool.bytes, epochs)
