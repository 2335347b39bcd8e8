"""What a training stage reads, in which order: from the plan of the mixture and the ledger of changes of that stage.

`order.json` in the stage's folder says what its training has read and will read; a run, its replay and `pinisi trace` all make
their sampler from it. The ledger, `RUN/ledger/<stage>.jsonl`, outlives the stage's folder: trained again, it is repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

from cluster import storage
from mixture.order import ledger
from mixture.order.sampler import Sampler
from mixture.store.long_documents import LongDocuments, open_pool
from mixture.store.token_store import TokenStore
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.training import Train
from ray_jobs.errors import UserError
from ray_jobs.run import adopted
from ray_jobs.run.graph import (
    BASE,
    CONTROL_1,
    CONTROL_2,
    LONG_CONTEXT,
    MIXTURE,
    PRETRAIN_1,
    PRETRAIN_2,
    PRUNE,
    TOKENIZE,
    enabled,
)
from ray_jobs.run.job import Job

FILE, LEDGER = "order.json", "ledger"
OPEN_THREADS = 16  # pools on object storage are opened together

STAGES: dict[str, Callable[[Train], int]] = {
    BASE: lambda train: given(train.base.optimiser).rows_per_step,
    PRETRAIN_1: lambda train: given(train.pretrain).stage1.rows_per_step,
    PRETRAIN_2: lambda train: given(train.pretrain).stage2.rows_per_step,
    CONTROL_1: lambda train: given(train.pretrain).stage1.rows_per_step,
    CONTROL_2: lambda train: given(train.pretrain).stage2.rows_per_step,
    LONG_CONTEXT: lambda train: given(train.long_context).optimiser.rows_per_step,
    PRUNE: lambda train: given(train.prune).optimiser.rows_per_step,
}
"""The stages that read the mixture, in their order -> their rows a step."""


class Order(TypedDict):
    """What a stage reads, in which order: `order.json` in its folder."""

    context: int
    sample_seed: int
    rows_per_step: int
    schedule: list[dict]
    removed: list[dict]


class OrderOfPools(Order):
    """The same, and the folder of the token stores that it is of."""

    pools: str


def settle(job: Job, seed: int, context: int | None = None) -> OrderOfPools:
    """The settings of a training worker that say what it reads, in rows of `context` tokens (`train.context` where it is left
    out); written to `order.json` too."""
    lines = ledger.read(ledger_uri(job.run_uri, job.stage.name))
    order: Order = {
        "context": context or job.train.context,
        "sample_seed": seed,
        "rows_per_step": rows_per_step(job.recipe, job.stage.name),
        "schedule": schedule(job.run_uri, job.stage.name, job.recipe, lines),
        "removed": ledger.removed(lines),
    }
    storage.write_json(job.path(FILE), order)
    return {"pools": pools_uri(job.run_uri), **order}


def schedule(run_uri: str, stage: str, recipe: Recipe, lines: list[dict]) -> list[dict]:
    """The `schedule` of the stage's Sampler: what the mixture planned, in equal phases where it planned some, then the changes
    of its ledger."""
    plan = storage.read_json(plan_uri(run_uri, stage))[plan_of(stage)]
    tokens = {row["pool"]: row["pool_tokens"] for row in plan["rows"]}
    if not (phases := plan.get("phases")):
        return ledger.schedule(plan["weights"], tokens, lines)
    rows = rows_per_step(recipe, stage)
    steps = max(1, -(-plan["tokens"] // (rows * given(recipe.train).context)))
    starts = {steps * k // len(phases) * rows: weights for k, weights in enumerate(phases)}
    later = [{"from_sample": at, "weights": weights} for at, weights in starts.items() if at]
    return ledger.schedule(phases[0], tokens, lines, later)


def pool_names(order: Order) -> list[str]:
    """The pools of an `order`, as its sampler numbers them."""
    return sorted({name for entry in order["schedule"] for name in entry["weights"]})


def sampler(order: Order, pools: str) -> Sampler:
    """The sampler of an `order`. `pools`: the folder of the token stores."""
    names = pool_names(order)
    with ThreadPoolExecutor(OPEN_THREADS) as threads:
        stores = dict(zip(names, threads.map(lambda name: _opened(pools, name), names), strict=True))
    return Sampler(stores, order["schedule"], order["context"], order["sample_seed"], order["removed"])


def _opened(pools: str, name: str) -> TokenStore | LongDocuments:
    store = open_pool(pools, name)
    len(store.starts)  # read now: every row needs it
    return store


def pools_uri(run_uri: str) -> str:
    return adopted.path(run_uri, TOKENIZE, "pools")


def ledger_uri(run_uri: str, stage: str) -> str:
    return storage.join(run_uri, LEDGER, f"{stage.replace('/', '-')}.jsonl")


def plan_uri(run_uri: str, stage: str) -> str:
    """Where the plan of a training stage lies: `mixture` makes all but that of the longer context, which needs to know which
    documents are long."""
    return adopted.path(run_uri, LONG_CONTEXT if stage == LONG_CONTEXT else MIXTURE, "plan.json")


def plan_of(stage: str) -> str:
    """The stage of plan.json that a training stage reads."""
    return "stage2" if stage == PRUNE else stage.rsplit("/", 1)[-1]


def stages(recipe: Recipe) -> list[str]:
    """The stages of this recipe that read the mixture. Raises UserError when it trains nothing."""
    found = [stage.name for stage in enabled(recipe) if stage.name in STAGES]
    if BASE in found and given(recipe.train).base.shape is None:
        found.remove(BASE)
    if not found:
        raise UserError("this run reads no mixture: its recipe has no `train`, or aligns a finished model")
    return found


def stage_named(recipe: Recipe, name: str) -> str:
    """The stage that a user calls `name`: `stage1` is `pretrain/stage1`."""
    found = stages(recipe)
    for stage in (name, f"pretrain/{name}"):
        if stage in found:
            return stage
    raise UserError(
        f"--stage {name}: no stage of this run reads the mixture under that name; it has {', '.join(found)}"
    )


def rows_per_step(recipe: Recipe, stage: str) -> int:
    return STAGES[stage](given(recipe.train))
