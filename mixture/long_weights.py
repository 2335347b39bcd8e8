"""How much of each pool a stage of longer context reads: what stage 2 read, with long documents up-sampled in each language."""

from __future__ import annotations

from mixture.store.long_documents import SIGN
from mixture.weights import Pool, Row, Stage

INSTRUCTIONS = "instructions"  # the pool of chats as text, which has no language


def long_context(
    weights: dict[str, float],
    pools: dict[str, Pool],
    long: dict[str, Pool],
    tokens: int,
    *,
    share: float,
    max_epochs: float,
) -> Stage:
    """`weights` of stage 2, with `share` of each language read from its `long` pool of long documents, such as `all/th>=8192`.

    So every language, replay too, keeps its share of the tokens; what a long pool cannot give in `max_epochs` passes, and a
    pool of chats, stays as it was."""
    total = sum(weights.values())
    after = {name: weight / total for name, weight in weights.items() if weight > 0}
    of_language: dict[str, float] = {}
    for name, weight in after.items():
        of_language[_language(name)] = of_language.get(_language(name), 0.0) + weight
    short = []
    for name, pool in long.items():
        lang = _language(name)
        asked = share * of_language.get(lang, 0.0)
        given = min(asked, max_epochs * pool.tokens / tokens)
        if given < asked * (1 - 1e-9):
            short.append(f"{lang} ({given / asked:.0%})")
        if given > 0:
            kept = 1.0 - given / of_language[lang]
            after = {n: w * kept if _language(n) == lang else w for n, w in after.items()} | {name: given}
    without = sorted(set(of_language) - {_language(name) for name in long} - {INSTRUCTIONS})
    warnings = []
    if short:
        said = f"have less in long documents than asked, read {max_epochs:g} times: {', '.join(sorted(short))} of it"
        warnings.append(f"languages that {said}")
    if without and share:
        warnings.append(f"languages without long documents: {', '.join(without)}")
    rows = [_row(name, after[name], tokens, (pools | long)[name]) for name in sorted(after)]
    return Stage(tokens, rows, warnings, tokens, "the recipe")


def _language(pool: str) -> str:
    return pool.rsplit("/", maxsplit=1)[-1].partition(SIGN)[0]


def _row(name: str, weight: float, tokens: int, pool: Pool) -> Row:
    epochs = weight * tokens / pool.tokens
    return Row(name, weight, weight * tokens, epochs * pool.bytes, epochs)
