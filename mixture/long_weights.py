"""How much of each pool a stage of longer context reads: what stage 2 read, with long documents up-sampled in each language."""

from __future__ import annotations

from mixture import readings
from mixture.readings import Asked
from mixture.weights import Pool, Row, Stage

INSTRUCTIONS = "instructions"  # the pool of chats as text, which has no language
PARALLEL = "parallel/"  # what the pools of translations begin with, which have two


def long_context(
    weights: dict[str, float],
    pools: dict[str, Pool],
    long: dict[str, Pool],
    tokens: int,
    *,
    share: float,
    max_epochs: Asked,
) -> Stage:
    """`weights` of stage 2, with `share` of each language read from its `long` pool of long documents, such as `all/th>=8192`.

    So every language, replay too, keeps its share of the tokens; what a long pool cannot give in `max_epochs` passes, and a
    pool of chats, stays as it was."""
    total = sum(weights.values())
    after = {name: weight / total for name, weight in weights.items() if weight > 0}
    caps = readings.caps(max_epochs, {name: pool.tokens for name, pool in (pools | long).items()}, tokens)
    of_language: dict[str, float] = {}
    for name, weight in after.items():
        of_language[readings.language(name)] = of_language.get(readings.language(name), 0.0) + weight
    short = []
    for name, pool in long.items():
        lang = readings.language(name)
        asked = share * of_language.get(lang, 0.0)
        given = min(asked, caps[name] * pool.tokens / tokens)
        if given < asked * (1 - 1e-9):
            short.append(f"{lang} ({given / asked:.0%})")
        if given > 0:
            kept = 1.0 - given / of_language[lang]
            after = {n: w * kept if readings.language(n) == lang else w for n, w in after.items()} | {name: given}
    pairs = {readings.language(name) for name in weights if name.startswith(PARALLEL)}
    without = sorted(set(of_language) - {readings.language(name) for name in long} - {INSTRUCTIONS} - pairs)
    warnings = []
    if short:
        often = f"read {readings.times({name: caps[name] for name in long})} times"
        warnings.append(
            f"languages that have less in long documents than asked, {often}: {', '.join(sorted(short))} of it"
        )
    if without and share:
        warnings.append(f"languages without long documents: {', '.join(without)}")
    rows = [_row(name, after[name], tokens, (pools | long)[name]) for name in sorted(after)]
    return Stage(tokens, rows, warnings, tokens, "the recipe", caps)


def _row(name: str, weight: float, tokens: int, pool: Pool) -> Row:
    epochs = weight * tokens / pool.tokens
    return Row(name, weight, weight * tokens, epochs * pool.bytes, epochs)
