"""Which models of a run `evaluate.wildbench` compares, and with what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cluster import storage
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.wildbench import COLUMN
from ray_jobs.errors import UserError
from ray_jobs.run import hub
from ray_jobs.run.graph import REWARD, ROUNDS, SFT_1, SFT_2, TOKENIZE, foundation


def models(recipe: Recipe, inputs: Iterable[str]) -> list[str]:
    """The stages whose models answer: those that the recipe names, else the tuned one and the last of preference tuning, else
    the last that was pre-trained. Raises UserError."""
    own = given(recipe.evaluate.wildbench)
    there = [name for name in dict.fromkeys(inputs) if name not in (TOKENIZE, REWARD)]
    for name in own.models:
        if name not in there:
            raise UserError(
                f"evaluate.wildbench.models: this run has no model of {name!r} to ask; it has {', '.join(there)}"
            )
    rounds = [name for name in there if name in ROUNDS]
    chosen = own.models or [name for name in there if name in (SFT_1, SFT_2)] + rounds[-1:] or [foundation(recipe)]
    chosen = [name for name in there if name in chosen and name != own.reference]
    if not chosen:
        raise UserError(f"evaluate.wildbench: no model is left to compare with {own.reference}; name one in `models`")
    return chosen


def reference(recipe: Recipe, inputs: Iterable[str]) -> str | None:
    """The stage, or the place of a model, that gives the reference answers; None for those of the rows. Raises UserError."""
    name = given(recipe.evaluate.wildbench).reference
    if name == COLUMN:
        return None
    there = [one for one in dict.fromkeys(inputs) if one not in (TOKENIZE, REWARD)]
    if name in there or storage.exists(storage.join(name, "config.json")) or ("/" in name and hub.is_name(name)):
        return name
    raise UserError(
        f"evaluate.wildbench.reference: {name} is neither `column`, nor a stage of this run with a model ({', '.join(there)}), "
        "nor the folder of a model"
    )


def faults(recipe: Recipe, inputs: Iterable[str]) -> Iterator[str]:
    """What the recipe asks of `evaluate.wildbench` and this run cannot give, a sentence each."""
    inputs = list(inputs)
    for function in (models, reference):
        try:
            function(recipe, inputs)
        except UserError as error:
            yield str(error)
    own = given(recipe.evaluate.wildbench).reward
    if own and own.model is None and REWARD not in inputs:
        yield "evaluate.wildbench.reward: this run has no reward model (`train.reward`); name one in its `model`"
