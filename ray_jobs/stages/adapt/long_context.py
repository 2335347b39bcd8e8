"""long_context: the model of stage 2 trained in a longer context (paper section 6.1; AnchorAttention, arXiv 2411.13476).

plan.json      what is read: the mixture of stage 2, with long documents up-sampled in each language
order.json     in which order
tokenizer      puts the anchor before each text and chat; with the mask `anchor` only
model          the Hugging Face folder

Held-out text of each language is measured by position before the first update and after the last: whether bits per byte go
on falling, or rise where the model has never been.
"""

from __future__ import annotations

import functools

from transformers import AutoConfig

from cluster import document_tokens, storage
from mixture import long_weights
from mixture.store.long_documents import SIGN, open_pool
from mixture.store.token_store import TokenStore
from mixture.tokenizer import anchor as anchors
from mixture.tokenizer import tokenizer as tokenizers
from mixture.weights import Pool
from ray_jobs.config.given import given
from ray_jobs.config.training import LongContext
from ray_jobs.run import adopted
from ray_jobs.run.graph import MIXTURE, PRETRAIN_2, TOKENIZE
from ray_jobs.run.job import Job
from ray_jobs.training import data_order, fit, longer, watch
from ray_jobs.training.tokenizer import load_tokenizer
from ray_jobs.work.trainer import launch
from train import model
from train.bases.rotation import Rotation
from train.batches import long_rows
from train.loop import HeldOut
from train.methods import pretrain
from train.monitor import heldout_positions
from train.scores import evaluate

EDGES = 6  # of buckets of positions: the context, and halves of it


class Settings(fit.PackedSettings):
    model: str
    short: int  # the context of the stages before
    mask: str
    anchor: int
    rotation: dict | None  # fields of a Rotation
    eval_rows: int


def run(job: Job) -> dict:
    own, start = given(job.train.long_context), job.input(PRETRAIN_2, "model")
    optimiser = own.optimiser
    steps = fit.steps_for(own.tokens, optimiser.rows_per_step, own.context)
    tokenizer = tokenizers.load(storage.localize(adopted.path(job.run_uri, TOKENIZE, "tokenizer")))
    anchor = anchors.anchor(tokenizer)
    if own.mask == "anchor":
        with storage.atomic_folder(job.path("tokenizer")) as folder:
            anchors.with_anchor(tokenizer).save_pretrained(folder)
    rotation, warning = longer.rotation(job.train, AutoConfig.from_pretrained(storage.localize(start)))
    plan = _plan(job, own, steps * optimiser.rows_per_step * own.context)
    storage.write_json(job.path("plan.json"), {job.stage.name: plan})
    settings: Settings = {
        **fit.settings(job, fit.loop_config(job, optimiser, steps) | {"context_parallel": own.context_parallel}),
        **data_order.settle(job, job.seed + 4, own.context - 1),  # the anchor is the first position of a row
        "context": own.context,
        "short": job.train.context,
        "model": start,
        "mask": own.mask,
        "anchor": anchor,
        "rotation": rotation and rotation._asdict(),
        "eval_rows": own.eval_rows_per_language,
    }
    result = launch(job, train_worker, settings, steps)
    warnings = [f"long_context: {said}" for said in plan["warnings"]]
    if own.eval_rows_per_language and not result.get("positions_after"):
        warnings.append(
            f"long_context: no language has {own.context:,} tokens of held-out text, so nothing is measured by position; raise "
            "tokenize.heldout_bytes_per_language"
        )
    share = sum(row["weight"] for row in plan["rows"] if SIGN in row["pool"])
    return {
        **result,
        "context": own.context,
        "mask": own.mask,
        "anchor": tokenizer.convert_ids_to_tokens(anchor) if own.mask == "anchor" else None,
        "rope": settings["rotation"],
        "long_share": round(share, 4),
        "warnings": [*([warning] if warning else []), *warnings, *result.get("warnings", [])],
    }


def _plan(job: Job, own: LongContext, tokens: int) -> dict:
    """What is read of each pool, as plan.json of `mixture` says it of a stage."""
    before = storage.read_json(job.input(MIXTURE, "plan.json"))["stage2"]["weights"]
    folder = data_order.pools_uri(job.run_uri)
    stores = {name: TokenStore(storage.join(folder, name)) for name in before}
    own_text = [name for name in before if not name.startswith(long_weights.PARALLEL)]
    languages = sorted({name.split("/")[-1] for name in own_text} - {long_weights.INSTRUCTIONS})
    long = {}
    for lang in languages if own.long_share else ():
        name = f"all/{lang}{SIGN}{own.long_tokens}"
        found, store = open_pool(folder, name).n_tokens, TokenStore(storage.join(folder, "all", lang))
        if found:
            long[name] = Pool(found, round(store.n_bytes * found / store.n_tokens))
    made = long_weights.long_context(
        before,
        {name: Pool(store.n_tokens, store.n_bytes) for name, store in stores.items()},
        long,
        tokens,
        share=own.long_share,
        max_epochs=job.recipe.mixture.max_epochs,
    )
    sizes = {name: store.n_tokens for name, store in stores.items()} | {
        name: pool.tokens for name, pool in long.items()
    }
    rows = [{**row._asdict(), "pool_tokens": sizes[row.pool]} for row in made.rows]
    return {"tokens": tokens, "weights": made.weights, "rows": rows, "warnings": made.warnings}


def train_worker(settings: Settings) -> dict:
    mask = settings["mask"]
    rotation = Rotation(**settings["rotation"]) if settings["rotation"] else None
    net = fit.start_model(settings, rotation)
    order: data_order.OrderOfPools = {
        "pools": settings["pools"],
        "context": settings["context"] - 1,
        "sample_seed": settings["sample_seed"],
        "rows_per_step": settings["rows_per_step"],
        "schedule": settings["schedule"],
        "removed": settings["removed"],
    }
    rows, pools = long_rows.batch_fn(fit.packed_rows(order), settings["anchor"], mask), data_order.pool_names(order)
    objective = functools.partial(pretrain.loss, mask=long_rows.attended(mask))
    summary = fit.fit_and_save(net, rows, objective, settings, pools=pools, validation=_heldout(settings))
    return {**summary, "parameters": model.parameters(net)}


def _heldout(settings: Settings) -> HeldOut | None:
    """Held-out text of each language by position, beside that which other stages are measured by."""
    tokenizer = load_tokenizer(settings)
    within = watch.validation(settings["watch"], settings["short"], tokenizer)
    if not settings["eval_rows"]:
        return within
    length = settings["context"]
    begin, eod = document_tokens.begin(tokenizer), document_tokens.end(tokenizer)
    texts: dict[str, list[str]] = {}
    for row in storage.read_table(settings["watch"]["heldout"], ["doc_id", "lang", "text"]).to_pylist():
        texts.setdefault(row["lang"], []).append(row["text"])
    heldout = evaluate.pack_by_position(
        {lang: _joined(tokenizer, of, length * settings["eval_rows"]) for lang, of in texts.items()},
        edges=edges(length),
        eod=eod,
        begin=begin,
    )
    return heldout_positions.Positions(heldout, within)


def edges(length: int) -> list[int]:
    """Where buckets of positions end: a quarter of 1,024 is 256, so 256, 512, 1024; of longer rows at most `EDGES`."""
    return sorted({length >> k for k in range(min(EDGES, max(1, length.bit_length() - 8)))})


def _joined(tokenizer, texts: list[str], tokens: int) -> evaluate.Tokens:
    """The longest texts first, one after another, until there are `tokens`."""
    ids, sizes, eod = [], [], document_tokens.end(tokenizer)
    for text in sorted(texts, key=lambda text: (-len(text), text)):
        found, counts = anchors.encode_with_bytes(tokenizer, text)
        ids += [*found, eod]
        sizes += [*counts, 0]
        if len(ids) >= tokens:
            break
    return evaluate.Tokens(ids[:tokens], sizes[:tokens])
