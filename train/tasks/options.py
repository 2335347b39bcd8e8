"""Log-probabilities of the options of many questions, where what questions have in common is read once.

Questions of a task share their solved examples, options of a question its prompt. A row holds a tree of both,

    doc_ids       0 … 0       64 … 64     65 … 65     66 … 66     128 … 128   129 …
                  examples    prompt 1    option 1    option 2    prompt 2    option 1
    position_ids  0 … e - 1   e … p - 1   p …         p …         e …

and the mask `tree` (train/kernels/attention.py) lets a token see itself, what is before it in its own part, its prompt and the
examples: every hidden state is that of a text of its own.

Axes: B row, T position, D width, N scored token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from train.batches.decoder import CausalLM
from train.kernels import head
from train.kernels.attention import BRANCHES


class Question(NamedTuple):
    """Token ids: `shared` with other questions (never empty: at least the token that documents begin with), then the prompt
    (may be empty), then one of the options."""

    shared: tuple[int, ...]
    prompt: Sequence[int]
    options: Sequence[Sequence[int]]

    @property
    def longest(self) -> int:
        """Tokens with the longest option, if there are options."""
        return len(self.shared) + len(self.prompt) + max(map(len, self.options), default=0)

    @property
    def positions(self) -> int:
        """Positions in a row, without what is shared: an option's last token predicts nothing."""
        return len(self.prompt) + sum(len(option) - 1 for option in self.options)


class OptionScores(NamedTuple):
    """Of the options of one question: `option` [options] log p of their tokens, in nats; `before` log p of all tokens before
    them but the first (nan where it was not asked for), the same for each option."""

    option: np.ndarray
    before: float


class Row(NamedTuple):
    """Questions number `numbers` of those given, as one row: arrays [T] that the model reads, and of each scored token the
    position that predicts it, the token, and its owner: 0 the shared tokens, then of each question its prompt and its options."""

    numbers: list[int]
    arrays: dict[str, np.ndarray]
    targets: tuple[list[int], list[int], list[int]]
    n_owners: int


def option_scores(
    model: CausalLM, questions: Sequence[Question], *, whole: bool = False, tokens_per_row: int | None = None
) -> list[OptionScores]:
    """The scores of every question, fp32, in the order given; leaves the model in evaluation mode.

    `whole`: also of the tokens before the options. `tokens_per_row`: at which a row is full; a longer question has one alone.
    Left out, it is what a CPU is fastest with (attention looks at a row's whole square), and more on a GPU.
    """
    model.eval()
    device = next(model.parameters()).device
    out: list[OptionScores] = [OptionScores(np.zeros(0), float("nan"))] * len(questions)
    before_shared: dict[tuple[int, ...], float] = {}
    for row in rows(questions, whole=whole, tokens_per_row=tokens_per_row or (256 if device.type == "cpu" else 4096)):
        found = sums(model, row)
        shared = questions[row.numbers[0]].shared
        before_shared.setdefault(shared, float(found[0]))
        for i, first in starts(row, questions):
            before = before_shared[shared] + float(found[first - 1]) if whole else float("nan")
            out[i] = OptionScores(found[first : first + len(questions[i].options)], before)
    return out


@torch.no_grad()
def sums(model: CausalLM, row: Row) -> np.ndarray:
    """Log p of each owner's tokens, in nats [owners]."""
    device = next(model.parameters()).device
    hidden_TD = model.model(
        **{name: torch.from_numpy(values)[None].to(device) for name, values in row.arrays.items()},
        mask="tree",
        use_cache=False,
    ).last_hidden_state[0]
    at_N, wanted_N, owner_N = (torch.from_numpy(np.asarray(column, np.int64)).to(device) for column in row.targets)
    logp_N = head.token_logprobs(model, hidden_TD[at_N][None], wanted_N[None])[0]
    found = torch.zeros(row.n_owners, dtype=torch.float64, device=device).index_add_(0, owner_N, logp_N.double())
    return found.cpu().numpy()


def starts(row: Row, questions: Sequence[Question]) -> Iterator[tuple[int, int]]:
    """(number of a question, owner that its first option is) of the questions of a row."""
    first = 2
    for i in row.numbers:
        yield i, first
        first += 1 + len(questions[i].options)


def rows(questions: Sequence[Question], *, whole: bool = False, tokens_per_row: int) -> list[Row]:
    """The questions in rows. Raises ValueError for one without options, with an empty one, or with too many."""
    out = []
    for numbers in _grouped(questions, tokens_per_row):
        arrays, targets = _row([questions[i] for i in numbers], whole)
        out.append(Row(numbers, arrays, targets, 1 + sum(1 + len(questions[i].options) for i in numbers)))
    return out


def _grouped(questions: Sequence[Question], tokens: int) -> list[list[int]]:
    """Numbers of questions that share a row: those with the same shared tokens, longest first, as many as fit."""
    groups: list[list[int]] = []
    left, of_row = 0, None
    order = sorted(range(len(questions)), key=lambda i: (questions[i].shared, -questions[i].positions, i))
    for i in order:
        question = questions[i]
        if question.shared != of_row or question.positions > left:
            groups.append([])
            # What is shared is read anew in each row: at most a third of it.
            of_row, left = question.shared, max(tokens, 3 * len(question.shared)) - len(question.shared)
        groups[-1].append(i)
        left -= question.positions
    return groups


def _row(
    questions: list[Question], whole: bool
) -> tuple[dict[str, np.ndarray], tuple[list[int], list[int], list[int]]]:
    """One row as arrays [T], and of its scored tokens (position that predicts it, token, owner)."""
    shared = questions[0].shared
    ids: list[int] = list(shared)
    documents, positions = [0] * len(shared), list(range(len(shared)))
    at: list[int] = []
    wanted: list[int] = []
    owners: list[int] = []

    def score(tokens: Sequence[int], before: int, start: int, owner: int) -> None:
        """`tokens` lie from `start` on; the first is predicted at `before`."""
        at.extend([before, *range(start, start + len(tokens) - 1)][: len(tokens)])
        wanted.extend(tokens)
        owners.extend([owner] * len(tokens))

    if whole:
        score(shared[1:], 0, 1, 0)
    owner = 1
    for number, question in enumerate(questions, 1):
        if len(question.options) >= BRANCHES or not all(len(option) for option in question.options):
            raise ValueError(f"A question needs fewer than {BRANCHES} options, of one token or more each.")
        start = len(ids)
        if whole:
            score(question.prompt, len(shared) - 1, start, owner)
        ids.extend(question.prompt)
        documents.extend([number * BRANCHES] * len(question.prompt))
        positions.extend(range(len(shared), len(shared) + len(question.prompt)))
        end = len(ids) - 1 if len(question.prompt) else len(shared) - 1
        first = len(shared) + len(question.prompt)
        for branch, option in enumerate(question.options, 1):
            score(option, end, len(ids), owner + branch)
            ids.extend(option[:-1])
            documents.extend([number * BRANCHES + branch] * (len(option) - 1))
            positions.extend(range(first, first + len(option) - 1))
        owner += 1 + len(question.options)
    arrays = {"input_ids": ids, "doc_ids": documents, "position_ids": positions}
    return {name: np.asarray(values, np.int64) for name, values in arrays.items()}, (at, wanted, owners)
