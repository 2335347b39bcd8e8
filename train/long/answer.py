"""What a model answers to the questions about one long text, and how right that is.

    score    of the written answer, greedy, to the end of the line. RULER's (Hsieh et al. 2024) string matches, in NFC and without
             case: `all` is the share of right answers that stand in it, `part` whether one of them does. chrF2 of summaries,
             0 to 1
    choice   of k right ones among the options the share that is among the k most probable, by log-probability per byte. It asks
             for no skill in writing, so it says something of small models too; one who guesses has k / options in the mean

Options and the written answer go on behind the same tokens, which are read once; so are the tokens of the text.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cluster import document_tokens
from train.batches.decoder import CausalLM
from train.kernels import head
from train.kernels.attention import BRANCHES
from train.long.row import Row
from train.tasks import answers
from train.tasks.measure import line_ends

TOGETHER = 16  # questions about one text that lie in a row


class Question(NamedTuple):
    """One question about a text. `ids` go on behind the text's tokens and end in what the answer begins with; `options` go on
    behind them, `right` are the numbers of the right ones. `depth` is None where what is asked for has no one place."""

    id: str
    task: str
    depth: float | None
    ids: Sequence[int]
    golds: tuple[str, ...]
    match: str  # all | part | chrf
    room: int  # tokens of an answer
    option_texts: tuple[str, ...] = ()
    options: tuple[Sequence[int], ...] = ()
    right: tuple[int, ...] = ()


class Prompt(NamedTuple):
    """The tokens of a text, and the questions about it. Prompts of one `group` hide things in the same documents."""

    ids: list[int]
    questions: list[Question]
    group: str = ""


class Result(TypedDict):
    """`tokens` with room for the answer; `prompt` a digest of the tokens that were read. `choice` and `chance`, what one who
    guesses has of it, are None without options."""

    id: str
    group: str
    task: str
    depth: float | None
    tokens: int
    prompt: str
    answer: str
    gold: list[str]
    score: float
    choice: float | None
    chance: float | None
    logprobs: list[float]


def string_match(answer: str, golds: Sequence[str], match: str) -> float:
    """RULER's string_match_all (`all`: the share of `golds` that stand in the answer) or string_match_part (`part`: 1.0 where
    one does), in NFC and lower case.

    >>> string_match("12 and 56", ["12", "34"], "all"), string_match("12 and 56", ["12", "34"], "part")
    (0.5, 1.0)
    """
    there = [_plain(gold) in _plain(answer) for gold in golds]
    return float(any(there)) if match == "part" else sum(there) / len(there)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())


def chosen(per_byte: Sequence[float], right: Sequence[int]) -> float:
    """The share of the `right` options that is among the len(right) best; of equal ones the first are taken."""
    best = np.argsort(-np.asarray(per_byte), kind="stable")[: len(right)]
    return len({*best.tolist()} & {*right}) / len(right)


def answered(row: Row, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, together: int = TOGETHER) -> list[Result]:
    """The model's answers, in the order of the questions. `row` may have read another text; what both begin with stays."""
    row.begin(prompt.ids)
    out: list[Result] = []
    for first in range(0, len(prompt.questions), together):
        questions = prompt.questions[first : first + together]
        states_QD = _ask(row, questions)
        asked = len(row.ids)
        logprobs = _options(row, states_QD, questions)
        row.keep(asked)
        texts = _written(row, tokenizer, states_QD, questions)
        row.keep(len(prompt.ids))
        out += [_result(prompt, *one) for one in zip(questions, texts, logprobs, strict=True)]
    return out


def _ask(row: Row, questions: Sequence[Question]) -> Tensor:
    """Reads the questions; the hidden state [questions, D] at the end of each."""
    n = len(row.ids)
    ids = [token for question in questions for token in question.ids]
    documents = [BRANCHES * i for i, question in enumerate(questions, 1) for _ in question.ids]
    positions = [n + k for question in questions for k in range(len(question.ids))]
    ends = np.cumsum([len(question.ids) for question in questions]) - 1
    return row.read(ids, documents, positions, ends.tolist())


@torch.no_grad()
def _options(row: Row, states_QD: Tensor, questions: Sequence[Question]) -> list[list[float]]:
    """log p of each option of each question, in nats."""
    n = len(row.ids) - sum(len(question.ids) for question in questions)
    ids: list[int] = []
    documents: list[int] = []
    positions: list[int] = []
    before: list[int] = []  # the state that predicts a token: of a question's end, then of a token of an option
    tokens: list[int] = []
    owners: list[int] = []
    owner = 0
    for i, question in enumerate(questions):
        for branch, option in enumerate(question.options, 1):
            before += [i, *range(len(questions) + len(ids), len(questions) + len(ids) + len(option) - 1)]
            tokens += option
            owners += [owner] * len(option)
            ids += option[:-1]
            documents += [BRANCHES * (i + 1) + branch] * (len(option) - 1)
            positions += range(n + len(question.ids), n + len(question.ids) + len(option) - 1)
            owner += 1
    if not owner:
        return [[] for _ in questions]
    states_SD = torch.cat([states_QD, row.read(ids, documents, positions, range(len(ids))).to(states_QD.dtype)])
    before_N, tokens_N, owner_N = (torch.tensor(x, device=row.device) for x in (before, tokens, owners))
    logp_N = head.token_logprobs(row.model, states_SD[before_N][None], tokens_N[None])[0]
    sums = torch.zeros(owner, dtype=torch.float64, device=row.device).index_add_(0, owner_N, logp_N.double()).tolist()
    ends = np.cumsum([len(question.options) for question in questions]).tolist()
    return [sums[a:b] for a, b in zip([0, *ends], ends, strict=False)]


@torch.no_grad()
def _written(
    row: Row, tokenizer: PreTrainedTokenizerBase, states_QD: Tensor, questions: Sequence[Question]
) -> list[str]:
    """What the model writes behind each question, the most likely token each time."""
    n = len(row.ids) - sum(len(question.ids) for question in questions)
    stop = {*line_ends(tokenizer), document_tokens.end(tokenizer)}
    texts: list[list[int]] = [[] for _ in questions]
    going = list(range(len(questions)))
    while going:
        next_Q = head.logits(row.model, states_QD).argmax(-1).tolist()
        for i, token in zip(going, next_Q, strict=True):
            texts[i].append(token)
        going = [i for i in going if texts[i][-1] not in stop and len(texts[i]) < questions[i].room]
        if going:
            states_QD = row.read(
                [texts[i][-1] for i in going],
                [BRANCHES * (i + 1) for i in going],
                [n + len(questions[i].ids) + len(texts[i]) - 1 for i in going],
                range(len(going)),
            )
    said = [tokenizer.decode(ids, skip_special_tokens=True) for ids in texts]
    return [str(text).strip(" ").split("\n", 1)[0].strip() for text in said]


def _result(prompt: Prompt, question: Question, text: str, logprobs: list[float]) -> Result:
    if question.match == "chrf":
        score = answers.sentence_chrf(text, question.golds) / 100
    else:
        score = string_match(text, question.golds, question.match)
    sizes = [len(option.strip().encode()) for option in question.option_texts]
    per_byte = [logp / size for logp, size in zip(logprobs, sizes, strict=True)]
    return {
        "id": question.id,
        "task": question.task,
        "depth": question.depth,
        "group": prompt.group,
        "tokens": len(prompt.ids) + len(question.ids) + question.room,
        "prompt": hashlib.blake2b(
            np.array([*prompt.ids, *question.ids], np.int64).tobytes(), digest_size=8
        ).hexdigest(),
        "answer": text,
        "gold": list(question.golds),
        "score": score,
        "choice": chosen(per_byte, question.right) if question.options else None,
        "chance": len(question.right) / len(question.options) if question.options else None,
        "logprobs": logprobs,
    }


def row_of(model: CausalLM) -> Row:
    """An empty row of a model, which is left in evaluation mode."""
    model.eval()
    return Row(model)
