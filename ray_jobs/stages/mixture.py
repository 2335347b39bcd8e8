"""mixture: how many tokens of each pool every training stage reads, in `plan.json` (Sailor2, sections 3.4 and 4.4).

Weights are tempered token counts under an epoch cap; English and Chinese get a fixed replay share. With `mixture.regmix` those of
stage 1 come from the proxy runs.
"""

from __future__ import annotations

from cluster import storage
from mixture import weights
from mixture.store.token_store import TokenStore
from mixture.weights import Auto, Pool, Stage
from ray_jobs.errors import UserError
from ray_jobs.run.graph import TOKENIZE, WEIGHTS
from ray_jobs.run.job import Job
from ray_jobs.training import budget


def run(job: Job) -> dict:
    train, mixture = job.recipe.train, job.recipe.mixture
    everything = _pools(job, "all")
    if not everything:
        raise UserError(
            "tokenize: no document is left to train on; `pinisi status` and the ledger show where they went"
        )
    pairs = _pools(job, "parallel")
    plans: dict[str, Stage] = {}
    if train and train.base.shape is not None:
        own = {name: pool for name, pool in everything.items() if name.split("/")[-1] in train.base.languages}
        if not own:
            raise UserError(f"train.base.languages: no tokens in {', '.join(train.base.languages)} to train a base on")
        plans["base"] = weights.stage1(
            own, budget.asked(train, "base"), temperature=mixture.temperature, max_epochs=mixture.max_epochs
        )
    pretrain = train and train.pretrain
    whole = sum(pool.tokens for pool in everything.values())
    plans["stage1"] = _stage1(job, everything, pairs, budget.asked(train, "stage1") if train and pretrain else whole)
    if train and pretrain:
        best = {
            n: p for n, p in _pools(job, "high_quality").items() if n.split("/")[-1] not in mixture.replay_languages
        }
        plans["stage2"] = weights.stage2(
            best,
            _pools(job, "instructions"),
            everything | pairs,
            plans["stage1"].weights,
            budget.asked(train, "stage2"),
            temperature=mixture.temperature,
            max_epochs=mixture.max_epochs,
            replay_share=mixture.stage2_replay_share,
            instruction_share=mixture.stage2_instruction_share,
            beside=weights.Beside(pairs, job.recipe.parallel.stage2_share, _asked(job, pairs)) if pairs else None,
        )
    sizes = everything | _pools(job, "high_quality") | _pools(job, "instructions") | pairs
    plan = {name: _as_json(stage, sizes) for name, stage in plans.items()}
    if job.has(WEIGHTS) and (phases := storage.read_json(job.input(WEIGHTS, "weights.json")).get("phases")):
        plan["stage1"]["phases"] = weights.in_phases(plans["stage1"], phases, everything, [*pairs])
    auto = {name: stage for name, stage in plans.items() if stage.bound != "the recipe"}
    storage.write_json(job.path("plan.json"), plan)
    return {
        "pools": len(sizes),
        "stages": {name: stage.tokens for name, stage in plans.items()},
        "budgets": {
            name: {
                "asked": "auto" if name in auto else stage.tokens,
                "allowed": stage.allowed,
                "tokens": stage.tokens,
                "bound": stage.bound,
            }
            for name, stage in plans.items()
        },
        "notes": [f"{name}: {weights.sentence(stage)}" for name, stage in auto.items()],
        "warnings": [f"{name}: {warning}" for name, stage in plans.items() for warning in stage.warnings],
    }


def _stage1(job: Job, pools: dict[str, Pool], pairs: dict[str, Pool], tokens: int | Auto) -> Stage:
    mixture, fixed = job.recipe.mixture, None
    if job.has(WEIGHTS):
        fixed = storage.read_json(job.input(WEIGHTS, "weights.json"))["weights"]
    replay = [name for name in pools if name.split("/")[-1] in mixture.replay_languages]
    share = mixture.replay_share if len(replay) < len(pools) else 1.0
    return weights.stage1(
        pools,
        tokens,
        temperature=mixture.temperature,
        max_epochs=mixture.max_epochs,
        replay=replay,
        replay_share=share,
        fixed=fixed,
        beside=weights.Beside(pairs, job.recipe.parallel.share, _asked(job, pairs)) if pairs else None,
    )


def _asked(job: Job, pairs: dict[str, Pool]) -> dict[str, float]:
    """The weights that the recipe gives to the pools of parallel text; none where it gives none."""
    asked = {name: job.recipe.parallel.weights.get(name.split("/")[-1], 0.0) for name in pairs}
    total = sum(asked.values())
    return {name: weight / total for name, weight in asked.items()} if total else {}


def _pools(job: Job, kind: str) -> dict[str, Pool]:
    return pools_below(job.input(TOKENIZE, "pools"), kind)


def pools_below(root: str, kind: str) -> dict[str, Pool]:
    """Sizes of the pools `kind` or `kind/<lang>` below `root`, the folder `pools` of a run, that hold any tokens."""
    found = storage.glob(storage.join(root, kind, "*", "store.json")) + storage.glob(
        storage.join(root, kind, "store.json")
    )
    stores = [TokenStore(uri.removesuffix("/store.json")) for uri in found]
    pools = {store.uri[store.uri.index("/pools/") + 7 :]: Pool(store.n_tokens, store.n_bytes) for store in stores}
    return {name: pool for name, pool in pools.items() if pool.tokens}


def _as_json(stage: Stage, sizes: dict[str, Pool]) -> dict:
    sized = [(row, sizes[row.pool].tokens) for row in stage.rows]
    rows = [{**row._asdict(), "pool_tokens": tokens, "max_epochs": stage.caps.get(row.pool)} for row, tokens in sized]
    used = {row.pool: row.weight for row in stage.rows if row.weight > 0}
    return {"tokens": stage.tokens, "weights": used, "rows": rows, "warnings": stage.warnings}
