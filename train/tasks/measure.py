"""A model's answers to the items of one task and language, and how right they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypedDict

import numpy as np
from transformers import PreTrainedTokenizerBase

from cluster import document_tokens
from train.batches.decoder import CausalLM
from train.generation.generate import Sampling, sample_batch
from train.tasks import answers
from train.tasks.options import Question, option_scores
from train.tasks.task import Item, Task

Encode = Callable[[list[str]], Sequence[Sequence[int]]]
"""Token ids of texts, as training makes them: without tokens around, no text a control token."""


class Result(TypedDict):
    """One item. `scores` are by name: of options `sum`, `per_byte` (and `sequence_ppl`) are whether each would be right, and
    `correct` the one that the task counts; of answers exact_match and f1; of translations chrf and chrf++, 0 to 100."""

    id: str
    prompt: str  # a digest of all that the model reads
    answer: str
    gold: str
    correct: float
    scores: dict[str, float]
    logprobs: list[float]  # of options


def measure(
    model: CausalLM,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    shots: Sequence[Item],
    items: Sequence[Item],
    *,
    encode: Encode,
    split: answers.Split,
    max_tokens: int,
    batch_size: int = 16,
) -> tuple[list[Result], list[tuple[str, str]]]:
    """(results in the order of `items`, (id, reason) of items that were not asked: more than `max_tokens` tokens).

    Solved examples, prompt and option are encoded apart and laid end to end. The model is left in evaluation mode.
    """
    questions = tokenized(tokenizer, shots, items, encode)
    room = 0 if task.kind == "options" else task.max_new_tokens
    lengths = [question.longest + room for question in questions]
    fitting = [i for i, length in enumerate(lengths) if length <= max_tokens]
    long = [
        (item.id, f"{length} tokens, and the model reads {max_tokens}")
        for item, length in zip(items, lengths, strict=True)
        if length > max_tokens
    ]
    asked = [items[i] for i in fitting]
    digests = [_digest(solved(shots), item) for item in asked]
    if task.kind == "options":
        found = _options(model, task, [questions[i] for i in fitting], asked)
    else:
        texts = written(
            model,
            tokenizer,
            [[*questions[i].shared, *questions[i].prompt] for i in fitting],
            [item.id for item in asked],
            task.max_new_tokens,
            batch_size,
        )
        found = [_answer(task, item, text, split) for item, text in zip(asked, texts, strict=True)]
    return [{**result, "prompt": digest} for result, digest in zip(found, digests, strict=True)], long


def solved(shots: Sequence[Item]) -> str:
    """What stands before each prompt."""
    return "".join(f"{item.solved()}\n\n" for item in shots)


def tokenized(
    tokenizer: PreTrainedTokenizerBase, shots: Sequence[Item], items: Sequence[Item], encode: Encode
) -> list[Question]:
    """The items as token ids: solved examples, prompt and each option encoded apart."""
    begin = document_tokens.begin(tokenizer) or [document_tokens.end(tokenizer)]
    shared = (*begin, *_ids(encode, [solved(shots)])[0])
    prompts = _ids(encode, [item.prompt for item in items])
    options = iter(continued(encode, [option for item in items for option in item.options]))
    return [Question(shared, p, [next(options) for _ in i.options]) for i, p in zip(items, prompts, strict=True)]


def written(  # noqa: PLR0917
    model: CausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    names: list[str],
    max_new_tokens: int,
    batch_size: int = 16,
) -> list[str]:
    """What the model writes behind each prompt, the most likely token each time, up to the end of the line or the text."""
    model.eval()
    stop = sorted({*line_ends(tokenizer), document_tokens.end(tokenizer)})
    sampling = Sampling(n=1, temperature=0.0, top_p=1.0, max_new_tokens=max_new_tokens)
    out = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    for first in range(0, len(order), batch_size):
        some = order[first : first + batch_size]
        drawn = sample_batch(model, [prompts[i] for i in some], [names[i] for i in some], stop, sampling)
        for i, (one,) in zip(some, drawn, strict=True):
            text = tokenizer.decode(one.ids, skip_special_tokens=True)
            assert isinstance(text, str)  # of one sequence
            out[i] = text.strip(" ").split("\n", 1)[0].strip()
    return out


def _options(model: CausalLM, task: Task, questions: list[Question], items: list[Item]) -> list[Result]:
    whole = task.score == "sequence_ppl"
    out: list[Result] = []
    for item, question, found in zip(items, questions, option_scores(model, questions, whole=whole), strict=True):
        n_bytes = [len(option.strip().encode()) for option in item.options]
        ranked = {"sum": found.option, "per_byte": found.option / n_bytes}
        if whole:
            n = len(question.shared) - 1 + len(question.prompt)
            ranked["sequence_ppl"] = (found.before + found.option) / [n + len(option) for option in question.options]
        # Of equal options the first is taken, as numpy and lm-eval do.
        taken = {name: int(np.argmax(scores)) for name, scores in ranked.items()}
        gold = item.gold
        assert isinstance(gold, int)  # of options
        right = {name: float(number == gold) for name, number in taken.items()}
        texts = [option.strip() for option in item.options]
        out.append(
            {
                "id": item.id,
                "prompt": "",
                "answer": texts[taken[task.measure]],
                "gold": texts[gold],
                "correct": right[task.measure],
                "scores": right,
                "logprobs": [float(score) for score in found.option],
            }
        )
    return out


def _answer(task: Task, item: Item, text: str, split: answers.Split) -> Result:
    gold = item.gold
    assert isinstance(gold, tuple)  # of answers
    if task.kind == "numbers":
        scores = {"exact_match": answers.same_number(text, gold)}
    elif task.kind == "translation":
        scores = {"chrf": answers.sentence_chrf(text, gold), "chrf++": answers.sentence_chrf(text, gold, 2)}
    else:
        scores = {
            "exact_match": answers.exact_match(text, gold, item.lang),
            "f1": answers.f1(text, gold, item.lang, split),
        }
    found: Result = {
        "id": item.id,
        "prompt": "",
        "answer": text,
        "gold": gold[0],
        "correct": scores[task.measure],
        "scores": scores,
        "logprobs": [],
    }
    return found


def _ids(encode: Encode, texts: list[str]) -> list[list[int]]:
    return [list(map(int, ids)) for ids in encode(texts)] if texts else []


def continued(encode: Encode, texts: list[str]) -> list[list[int]]:
    """Tokens of texts that go on after others. Tokenizers like SentencePiece's put a space before a text: it is not there."""
    line = _ids(encode, ["\n"])[0]
    after = _ids(encode, [f"\n{text}" for text in texts])
    alone = _ids(encode, texts)
    return [ids[len(line) :] if ids[: len(line)] == line else own for ids, own in zip(after, alone, strict=True)]


@lru_cache(maxsize=2)
def line_ends(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that are white space with an end of a line in it."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return tuple(i for i, text in enumerate(texts) if "\n" in text and text.strip() == "")


def _digest(before: str, item: Item) -> str:
    text = "\0".join([before, item.prompt, *item.options])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
