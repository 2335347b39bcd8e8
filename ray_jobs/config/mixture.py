"""Sections of a recipe for tokens and mixture. Numbers are RegMix's and Sailor2's (arXiv 2502.12982, 3.4 and 4.4)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.strict_yaml import Positive, Rate, Section, Share


class Tokenize(Section):
    tokenizer: str = "train"  # `train`, `base` (of `train.base.model`), or a folder or Hugging Face name
    add_chat_tokens: bool = False  # ChatML's two, where the given tokenizer lacks them
    vocab_size: Positive = 16_384
    train_bytes: Positive = 12_000_000
    temperature: Rate | None = None  # null: 2, but no text is read twice
    parity: bool = False  # each merge serves the language that is worst off
    parallel: str | None = None  # documents with `key`, `lang`, `text`: half to choose by, half to measure
    pieces: Literal["qwen2", "marks"] = "qwen2"  # marks: combining marks stay with their letter
    dropout: Share = 0.0  # BPE-dropout: the probability that a due merge is put aside
    seed: int = Field(0, ge=0)  # of the dropout
    heldout_share: Share = 0.02  # documents kept for evaluation, by a hash of their id
    heldout_bytes_per_language: Positive = 100_000


class Shape(Section):
    """A Qwen2 configuration."""

    hidden_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    intermediate_size: Positive
    tie_word_embeddings: bool = True
    rope_theta: Rate = 10_000.0


class Proxies(Section):
    """The proxy runs of RegMix: RegMix's 1M model, as many runs as Sailor2 (sections 3.4 and 4.4.1)."""

    runs: Annotated[int, Field(ge=10)] = 1000  # a regression wants 8, and one fold of five is held out
    heldout_runs: Annotated[int, Field(ge=0)] = 64  # more runs that the regression is only measured by
    group: Positive = 8  # models trained at a time by one task; 1 = one by one
    shape: Shape = Shape(
        hidden_size=256, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=8, intermediate_size=512
    )
    larger: Shape | None = None  # also trained on the held-out mixtures: do both sizes rank them alike?
    vocab_size: Positive = 16_384  # kept of the run's tokenizer
    context: Positive = 2048
    tokens: Positive = 1_000_000_000  # of each run
    rows_per_step: Positive = 512
    micro_rows: Positive = 16
    lr: Rate = 4e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    heldout_tokens: Positive = 200_000  # of each language, at most
    phases: Positive = 1  # of stage 1, each with weights of its own, from losses measured along the way

    @model_validator(mode="after")
    def _some_to_rank(self) -> Proxies:
        if self.larger and self.heldout_runs < 3:
            raise ValueError("larger: a rank correlation needs heldout_runs of 3 or more")
        return self


class Regmix(Section):
    """Weights of stage 1 from proxy runs; without this section they are tempered token counts."""

    proxies: Proxies = Proxies()
    match_repetition: bool = False  # proxies repeat each pool as often as stage 1 will
    reuse: str | None = None  # weights.json of an earlier run: its ratios stay, only new languages are sought
    regression: Literal["best", "lightgbm", "linear"] = "best"
    candidates: Positive = 100_000
    average: Positive = 128  # of the best candidates
    minimum: dict[str, Share] = {}  # a language, or `default` -> least share of stage 1
    min_correlation: Share = 0.5  # on unseen mixtures; below it the tempered weights stay


class Mixture(Section):
    temperature: Rate = 2.0  # weights ~ tokens^(1/temperature)
    max_epochs: Rate | Literal["auto"] | dict[str, Rate] = 4.0  # of each pool in a stage, or by language
    replay_languages: list[str] = ["en", "zh"]
    replay_share: Share = 0.2  # of stage 1, for the replay languages together
    stage2_replay_share: Share = 0.2  # of stage 2: the blend of stage 1
    stage2_instruction_share: Share = 0.04  # of stage 2: instruction texts
    regmix: Regmix | None = None

    @field_validator("max_epochs", mode="before")
    @classmethod
    def _readings(cls, value: object) -> object:
        """One sentence for three forms, where pydantic has one for each."""
        numbers = list(value.values()) if isinstance(value, dict) else [value]
        if not numbers or (
            value != "auto" and not all(isinstance(n, int | float) and n is not True and n > 0 for n in numbers)
        ):
            raise ValueError("a number above 0, `auto`, or languages with a number each: {lo: 16, default: 4}")
        return value
