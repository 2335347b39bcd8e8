"""Recipe section of judged answers: SEA-WildBench, its judges, and what they cost.

Numbers are those of SEA-WildBench where it gives them (Sailor2, arXiv 2502.12982, section 7.2). Each key is documented in
docs/recipe.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cluster.strict_yaml import Positive, Rate, Section
from ray_jobs.config.alignment import Judge
from train.tasks.categories import WEIGHTS

COLUMN = "column"  # of `reference`
PEOPLE, REWARD = "people", "reward"  # what these judges are called

Price = Annotated[float, Field(ge=0.0)]


class Endpoint(Judge):
    """A judge behind an OpenAI-compatible endpoint, and its prices."""

    name: str | None = None  # in tables; None: the model's
    input_per_million: Price | None = None  # of tokens, in any currency
    output_per_million: Price | None = None

    @property
    def called(self) -> str:
        return self.name or self.model

    @model_validator(mode="after")
    def _address(self) -> Endpoint:
        if not self.base_url.startswith(("https://", "http://")):
            raise ValueError(f"base_url must begin with https:// or http://, not be {self.base_url!r}")
        return self


class RewardJudge(Section):
    """A reward model as judge: by how much the two rewards differ. A model of Bradley and Terry gives a difference of 0.25 a
    probability of 56 %, and 1 one of 73 %."""

    model: str | None = (
        None  # a sequence classifier with one label: a folder or Hugging Face name; None: that of the run
    )
    slight: Annotated[float, Field(ge=0.0)] = 0.25  # up to here a tie
    strong: Rate = 1.0  # above it much better

    @model_validator(mode="after")
    def _in_order(self) -> RewardJudge:
        if self.slight > self.strong:
            raise ValueError(f"slight {self.slight:g} is more than strong {self.strong:g}")
        return self


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, dict | str) else value


class Wildbench(Section):
    """Answers of the run's models to rows with a checklist, compared with reference answers by one judge or more."""

    rows: Annotated[list[str], BeforeValidator(_one_or_more)]  # globs of files, or hf: data sets
    reference: str = COLUMN  # or a stage of the run, or a model's folder or Hugging Face name
    reference_column: str | None = None  # dotted; None: reference, or the only one in references
    models: list[str] = []  # stages; empty: the tuned model and the last one of preference tuning
    limit: Positive | None = None  # rows of a language, chosen by a hash of their id
    judge: Annotated[list[Endpoint], BeforeValidator(_one_or_more)] = []
    reward: RewardJudge | None = None
    people: str | None = None  # glob of what `pinisi inspect RUN --pairs RUN/wildbench/pairs.jsonl` has written
    max_new_tokens: Positive = 4096
    max_answer_chars: Positive = 8000  # of each answer that an endpoint gets to see
    longer_chars: Annotated[int, Field(ge=0)] = 500  # a slight win of an answer longer by more is a tie
    weights: dict[str, Annotated[float, Field(ge=0.0)]] = dict(WEIGHTS)  # of categories in the macro score
    engine: Literal["hf", "vllm"] = "hf"
    vllm_python: str | None = None

    @model_validator(mode="after")
    def _judges(self) -> Wildbench:
        names = [one.called for one in self.judge]
        if twice := sorted({name for name in names if names.count(name) > 1} | {REWARD, PEOPLE} & {*names}):
            raise ValueError(f"judge: two judges are called {twice[0]!r}; give one a `name`")
        if self.weights and not any(self.weights.values()):
            raise ValueError("weights: at least one must be above 0")
        return self
