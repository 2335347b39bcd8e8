"""What each stage takes from each language: bytes of text, of which the manifests have exact sums, and tokens.

Tokens are counted in what is left at the end alone. So the tokens that a stage took are its bytes by the bytes of a token of
the language in the end: an estimate, and the page says so.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from ray_jobs.run.graph import DECONTAMINATE, DEDUP, LANGUAGE, POLICY, SIGNALS, TOKENIZE

CHAIN = (LANGUAGE, SIGNALS, POLICY, DEDUP, DECONTAMINATE, TOKENIZE)
WHAT = {
    SIGNALS: "masked and edited",
    POLICY: "dropped by a rule",
    DEDUP: "duplicates and repeated lines",
    DECONTAMINATE: "quotes of tests",
    TOKENIZE: "held out",
}


class Row(NamedTuple):
    """`lost`: bytes that each stage took, below 0 where it added; `tokens`: of what is left, None as long as none are counted."""

    lang: str
    came: int
    lost: list[int]
    left: int
    tokens: int | None

    @property
    def lost_tokens(self) -> list[int | None]:
        """About how many tokens each stage took."""
        rate = self.tokens / self.left if self.tokens and self.left else None
        return [None if rate is None else round(n * rate) for n in self.lost]

    def share(self, n: int) -> float:
        return n / self.came if self.came else 0.0


class Losses(NamedTuple):
    stages: list[tuple[str, str]]  # name, what it takes
    rows: list[Row]
    total: Row
    total_tokens: list[int | None]  # that each stage took; None where one language's rate is not known


def section(manifests: dict[str, dict]) -> Losses | None:
    """None until two stages know the language."""
    done = [name for name in CHAIN if "bytes_per_lang" in manifests.get(name, {})]
    if len(done) < 2 or done[0] != LANGUAGE:
        return None
    sizes = [manifests[name]["bytes_per_lang"] for name in done]
    counted = manifests.get(TOKENIZE, {}).get("tokens_per_lang")
    rows = [
        _row(lang, [one.get(lang, 0) for one in sizes], None if counted is None else counted.get(lang, 0))
        for lang in sorted({lang for one in sizes for lang in one})
    ]
    sums = [sum(one.values()) for one in sizes]
    total = _row("all", sums, None if counted is None else sum(counted.values()))
    tokens = []
    for number in range(len(done) - 1):
        of = [row.lost_tokens[number] for row in rows if row.lost[number]]
        tokens.append(None if None in of else sum(n for n in of if n is not None))
    return Losses([(name, WHAT[name]) for name in done[1:]], rows, total, tokens)


def _row(lang: str, sizes: list[int], tokens: int | None) -> Row:
    lost = [before - after for before, after in pairwise(sizes)]
    return Row(lang, sizes[0], lost, sizes[-1], tokens)
