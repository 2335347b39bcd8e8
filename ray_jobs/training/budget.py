"""How many tokens a training stage reads: the number in its recipe, or what the stage `mixture` allowed where that is `auto`."""

from __future__ import annotations

from typing import Literal

from cluster import storage
from mixture.weights import Auto
from ray_jobs.config.given import given
from ray_jobs.config.training import Prune, Train
from ray_jobs.run import adopted
from ray_jobs.run.graph import MIXTURE

PlanStage = Literal["base", "stage1", "stage2"]


def asked(train: Train, stage: PlanStage) -> int | Auto:
    """What the recipe asks for a stage of plan.json."""
    if stage == "base":
        section, rows = train.base, given(train.base.optimiser).rows_per_step
    else:
        section = getattr(given(train.pretrain), stage)
        rows = section.rows_per_step
    return Auto(rows * train.context, section.max_tokens) if section.tokens == "auto" else section.tokens


def of_stage(run_uri: str, stage: PlanStage, train: Train) -> int:
    """Tokens of a training stage. Raises FileNotFoundError where they are `auto` and the mixture is not planned yet."""
    tokens = asked(train, stage)
    return planned(run_uri, stage) if isinstance(tokens, Auto) else tokens


def known(run_uri: str, stage: PlanStage, train: Train) -> int | None:
    """The same, None where it is not known yet."""
    try:
        return of_stage(run_uri, stage, train)
    except (FileNotFoundError, KeyError):
        return None


def planned(run_uri: str, stage: PlanStage) -> int:
    return storage.read_json(adopted.path(run_uri, MIXTURE, "plan.json"))[stage]["tokens"]


def of_healing(run_uri: str, prune: Prune, context: int) -> int:
    """Tokens of the healing after pruning. `auto`: with the masks' as many as stage 2 read, so no pool is read more often."""
    if prune.heal_tokens != "auto":
        return prune.heal_tokens
    update = prune.optimiser.rows_per_step * context
    left = planned(run_uri, "stage2") - prune.rounds * prune.mask_updates(context) * update
    most = left if prune.max_heal_tokens is None else min(left, prune.max_heal_tokens)
    least = prune.rounds * update
    return max(least, most - most % update)
