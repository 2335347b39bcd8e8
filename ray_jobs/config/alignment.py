"""Recipe sections of alignment: how chat rows are read and thinned before SFT (Sailor2, section 5.1), and the probe that watches
DPO with its judge."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, model_validator

from cluster.strict_yaml import Positive, Rate, Section, Share


class ChatCategory(Section):
    """How a row's category is found. A row that has one under `key` keeps it, unless `function` decides for all."""

    key: str = "category"
    rules: dict[str, list[str]] = {}  # category -> regular expressions on the user's turns; the first that fits
    function: str | None = None  # module:function of the user, rows -> names

    @model_validator(mode="after")
    def _sound(self) -> ChatCategory:
        if self.rules and self.function:
            raise ValueError("give either `rules` or `function`")
        for name, patterns in self.rules.items():
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"rules: {name}: {pattern!r} is not a regular expression: {error}") from None
        if self.function and not re.fullmatch(r"[\w.]+:\w+", self.function):
            raise ValueError(f"function: {self.function!r} is not of the form module:function")
        return self


class ChatData(Section):
    """From rows of any layout to the conversations that SFT reads."""

    language: str | None = None  # of rows that name none
    similarity: Annotated[float, Field(gt=0.0, lt=1.0)] | None = 0.8  # from which two are copies; None: keep copies
    num_perm: Positive = 128
    other_language: Share | None = (
        0.8  # probability of an unrelated language from which an answer is wrong; None: no check
    )
    min_letters: Positive = 50  # of an answer, without code and formulas, below which its language is not checked
    category: ChatCategory = ChatCategory()


class Judge(Section):
    """Any OpenAI-compatible endpoint (train/generation/judge.py)."""

    base_url: str  # without /chat/completions
    model: str
    key_variable: str = "OPENAI_API_KEY"  # the environment variable with the key; empty: none is sent
    request: dict[str, Any] = {"temperature": 0, "max_tokens": 1024}  # more fields of each request
    concurrency: Positive = 8
    attempts: Positive = 6  # of each request
    timeout_seconds: Rate = 120.0


class Watch(Section):
    """Prompts that no round trains on, answered by every round's model."""

    per_language: Positive = 8  # prompts, and at most a quarter of a language's
    every: Annotated[int, Field(ge=0)] = (
        0  # updates between snapshots that are watched too; 0 = only the end of each round
    )
    judge: Judge | None = None
