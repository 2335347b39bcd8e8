"""Recipe sections of alignment: reward model, SFT and the chat rows that it reads, DPO and the probe that watches it.

Numbers are Sailor2's where it gives them (arXiv 2502.12982, section 5). Each key is documented in docs/recipe.md.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from cluster.strict_yaml import Positive, Rate, Section, Share
from ray_jobs.config.optimiser import Optimiser
from train.preference_losses.table import LOSSES


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


class Reward(Section):
    """Our own Bradley-Terry model, trained on `preference`, or `model`, which is then only measured on them."""

    model: str | None = None  # a sequence classifier with one label: a folder (any URI) or Hugging Face name
    preference: str | None = None  # glob of rows {id, lang, prompt, chosen, rejected}
    max_rows: Positive | None = None  # to train on, by a hash of their id
    heldout_rows: Positive = 1000  # to measure, at most; a tenth of the prompts is held out
    epochs: Positive = 1
    eval_every: Annotated[int, Field(ge=0)] = 0  # updates between measurements on held-out pairs; 0 = none
    eval_rows_per_language: Positive = 32  # of them, and at most a tenth of a language's
    optimiser: Optimiser | None = None

    @model_validator(mode="after")
    def _trained_or_given(self) -> Reward:
        if self.model is None and (self.preference is None or self.optimiser is None):
            raise ValueError("give either `model`, or `preference` and `optimiser` to train one")
        return self


class SftStage(Section):
    epochs: Positive = 1
    optimiser: Optimiser


class Select(Section):
    per_cell: Positive = 40  # examples kept for each (language, category), where `per_language` does not say
    per_language: dict[str, Annotated[int, Field(ge=0)]] = {}  # a language, or `default` -> examples kept of it
    shares: dict[str, Rate] = {}  # category -> its part of `per_language`; none: all alike
    max_similarity: Share = 0.6
    embedding_model: str | None = (
        None  # a sentence-embedding model: a folder or Hugging Face name; None: the base model
    )

    @model_validator(mode="after")
    def _shares_of_something(self) -> Select:
        if self.shares and not self.per_language:
            raise ValueError("`shares` divide the numbers of `per_language`, which is not given")
        return self


class Sft(Section):
    instruct: str  # glob of chat rows, or hf:NAME
    data: ChatData = ChatData()
    max_rows: Positive | None = None  # by a hash of their id
    eval_every: Annotated[int, Field(ge=0)] = 0  # updates between measurements on held-out conversations; 0 = none
    eval_rows_per_language: Positive = 32  # of them, and at most a tenth of a language's
    stage1: SftStage
    select: Select = Select()
    stage2: SftStage | None = None  # of the selected rows; without a reward model nothing is selected


class OnPolicy(Section):
    rounds: Annotated[int, Field(ge=1, le=9)] = 1  # each samples from the model of the one before, and starts from it
    engine: Literal["hf", "vllm"] = "hf"  # hf: ours, CPU or GPU; vllm: GPU
    vllm_python: str | None = None  # interpreter of an environment with vLLM; None: the one that runs Pinisi
    max_logprob_gap: Rate | None = None  # engine against trainer, nats per token; None: 1e-3 in fp32, 0.05 in bf16
    prompts: Positive = 64
    samples: Positive = 5
    temperature: Rate = 0.9
    top_p: Share = 0.95
    max_new_tokens: Positive = 2048


def _preference_loss(name: str) -> str:
    if name not in LOSSES:
        raise ValueError(f"must be one of {', '.join(LOSSES)}")
    return name


class Dpo(Section):
    preference: str  # glob of rows {id, lang, prompt, chosen, rejected}
    loss: Annotated[str, AfterValidator(_preference_loss)] = "lr_dpo"
    beta: Rate = 0.01
    alpha: Annotated[float, Field(ge=0.0)] = 1e-3
    gamma: Annotated[float, Field(ge=0.0)] = 0.5
    max_prompt_tokens: Positive = 1024
    drop_worst_perplexity: Share = 0.1  # of each language's pairs, by the base model
    max_rows: Positive | None = None
    eval_every: Annotated[int, Field(ge=0)] = 0  # updates between measurements on held-out pairs; 0 = none
    eval_rows_per_language: Positive = 32  # of them, and at most a tenth of a language's
    optimiser: Optimiser
    on_policy: OnPolicy = OnPolicy()
    watch: Watch | None = Watch()
