"""The rows of `evaluate.wildbench`: read and refused with a reason; and what judging them costs, said before it is paid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from cluster import storage, terminal
from curation.lid.tags import code
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.wildbench import COLUMN, Endpoint
from ray_jobs.errors import UserError
from ray_jobs.run import adopted, files, row_files
from ray_jobs.run.graph import TOKENIZE
from ray_jobs.work.rows import sampled
from train.generation import checklist
from train.tasks import checklist_rows, rows
from train.tasks.checklist_rows import Asked, RowError

KEY = "evaluate.wildbench.rows"
BYTES_PER_TOKEN = 3.0  # where there is no tokenizer yet
REPLY_SECONDS = 5.0  # assumed of a judge


class Count(NamedTuple):
    """`of`: texts -> their tokens in all; `by`: with what."""

    of: Callable[[list[str]], int]
    by: str


class Rows(NamedTuple):
    """Rows to ask; ledger rows of the others; how many were read, and how many of them `limit` left out."""

    kept: list[Asked]
    rejects: list[dict]
    read: int
    beyond: int


class Cost(NamedTuple):
    """What an endpoint will be asked. `bound`: tokens are those at most. `money` is None without prices."""

    judge: str
    requests: int
    input_tokens: int
    output_tokens: int  # at most
    money: float | None
    hours: float  # at `REPLY_SECONDS` a reply
    bound: bool
    by: str  # what counted the tokens

    def __str__(self) -> str:
        if not self.requests:
            return f"{self.judge}: no request, every reply is kept"
        tokens = f"{'at most ' if self.bound else 'about '}{terminal.short(self.input_tokens)} tokens in"
        money = "" if self.money is None else f", at most {self.money:,.2f} at the recipe's prices"
        return (
            f"{self.judge}: {self.requests:,} requests, {tokens}, at most {terminal.short(self.output_tokens)} out{money}; at "
            f"{REPLY_SECONDS:g} s a reply {terminal.duration(3600 * self.hours)} (tokens {self.by})"
        )


def key(row: Asked) -> str:
    """What a row is known by within the stage: rows of two languages may have one id."""
    return f"{row['lang']} {row['id']}"


def read(recipe: Recipe) -> Rows:
    """The rows of the recipe's languages, in their order. Raises UserError for a file that cannot be read."""
    own = given(recipe.evaluate.wildbench)
    kept: dict[str, Asked] = {}
    rejects: list[dict] = []
    n = 0
    for uri in files.named(own.rows, KEY):
        try:
            for where, raw, wrong in row_files.read(uri):
                n += 1
                if raw is None:
                    rejects.append({"doc_id": where, "rule": "not_a_row", "detail": wrong})
                    continue
                lang = rows.language_of(raw, uri, recipe.languages, code)
                named = {"doc_id": str(raw.get("session_id") or raw.get("id") or where), "lang": lang}
                if lang is None or lang not in recipe.languages:
                    detail = f"{where}: its language is {lang}" if lang else f"{where}: it names no language"
                    rejects.append({**named, "rule": "language_outside", "detail": detail})
                    continue
                try:
                    row = checklist_rows.asked(
                        raw, lang, reference=own.reference == COLUMN, column=own.reference_column
                    )
                except RowError as error:
                    rejects.append({**named, "rule": "not_an_item", "detail": f"{where}: {error}"})
                    continue
                if key(row) in kept:
                    rejects.append(
                        {**named, "rule": "repeated_id", "detail": f"{where}: an earlier row has the same id"}
                    )
                else:
                    kept[key(row)] = row
        except ValueError as error:
            raise UserError(f"{KEY}: {error}") from None
    places = {lang: [name for name, row in kept.items() if row["lang"] == lang] for lang in recipe.languages}
    chosen = {
        names[i] for names in places.values() for i in sampled([kept[name]["id"] for name in names], own.limit)
    }  # by the id alone, so that translations of one row are chosen together
    return Rows([row for name, row in kept.items() if name in chosen], rejects, n, len(kept) - len(chosen))


def none_left(rejects: Sequence[dict]) -> str:
    """What is said where no row can be asked."""
    rules = ", ".join(f"{rule} {n:,}" for rule, n in Counter(one["rule"] for one in rejects).most_common())
    return f"{KEY}: no row in the recipe's languages can be asked ({rules or 'the files are empty'})"


def counter(recipe: Recipe, run_uri: str | None) -> Count:
    """Counts tokens by the run's tokenizer, else by the recipe's where it lies here, else by bytes."""
    trained = adopted.path(run_uri, TOKENIZE, "tokenizer") if run_uri else None
    named = recipe.tokenize.tokenizer
    for place in (trained, named if named != "train" else None):
        if place and storage.exists(place):
            return Count(partial(_tokens, tokenizers.load(storage.localize(place))), "by the run's tokenizer")
    return Count(_by_bytes, f"at {BYTES_PER_TOKEN:g} bytes a token, as the run has no tokenizer yet")


def _by_bytes(texts: list[str]) -> int:
    return int(sum(len(text.encode()) for text in texts) / BYTES_PER_TOKEN)


def _tokens(tokenizer, texts: list[str]) -> int:
    return sum(map(len, tokenizers.encode(tokenizer, texts)))


def cost(judge: Endpoint, requests: Sequence[list[dict]], count: Count, more: int = 0) -> Cost:
    """Of sending `requests`, messages as they are. `more`: tokens that they will have besides, at most."""
    most = judge.request.get("max_completion_tokens", judge.request.get("max_tokens", 1024))
    texts = [turn["content"] for request in requests for turn in request]
    read_tokens, written = count.of(texts) + more, len(requests) * int(most)
    money = None
    if judge.input_per_million is not None or judge.output_per_million is not None:
        prices = (judge.input_per_million or 0.0, judge.output_per_million or 0.0)
        money = (read_tokens * prices[0] + written * prices[1]) / 1e6
    hours = len(requests) * REPLY_SECONDS / judge.concurrency / 3600
    return Cost(judge.called, len(requests), read_tokens, written, money, hours, bool(more), count.by)


def before(recipe: Recipe, found: Sequence[Asked], n_models: int, count: Count) -> list[Cost]:
    """What the endpoints will be asked at most, before there are answers: each as long as it may be."""
    own = given(recipe.evaluate.wildbench)
    unknown = 1 if own.reference == COLUMN else 2
    longest = min(own.max_new_tokens, own.max_answer_chars)
    empty = [
        checklist.messages(
            {
                **{**row, "answer": "", "reference": row["reference"] or ""},
                **{"finished": False, "reference_finished": unknown == 1},
            },
            True,
            own.max_answer_chars,
        )
        for row in found
        for _ in range(n_models)
    ]
    return [cost(judge, empty, count, more=len(empty) * unknown * longest) for judge in own.judge]


def announced(recipe: Recipe, run_uri: str | None, found: Sequence[Asked], models: Sequence[str]) -> list[str]:
    """Sentences that say before what will be generated and asked, and at which price."""
    own = given(recipe.evaluate.wildbench)
    speakers = len(models) + (own.reference != COLUMN)
    count = counter(recipe, run_uri)
    tokens = len(found) * speakers * own.max_new_tokens
    said = [
        f"wildbench: {len(found):,} rows, answered by {', '.join(models)}, {terminal.short(tokens)} new tokens at most; compared "
        f"with {'the reference answers of the rows' if own.reference == COLUMN else own.reference}"
    ]
    said += [f"wildbench: judge {one}" for one in before(recipe, found, len(models), count)]
    if own.reward:
        said.append(f"wildbench: judge {own.reward.model or 'reward model of the run'}: no request")
    if own.people:
        said.append(f"wildbench: people, whose choices lie in {own.people}")
    if not (own.judge or own.reward or own.people):
        said.append("wildbench: no judge; the answers are written for people (pairs.jsonl)")
    return said
