"""regmix/proxies: small models, each trained on a mixture of its own, and the loss of each in every language (paper section
3.4; RegMix, arXiv 2407.01492).

    pools/<lang>, heldout/<lang>   token stores in the proxies' small vocabulary
    runs/proxy-00000.json          one finished proxy: its mixture, its held-out losses
    mixtures.parquet               all of them: number, heldout, weight/<lang>…, loss/<lang>…, and with `phases` loss1/<lang>…
                                   after the first of them, and so on
    larger/, larger.parquet        the held-out mixtures once more, with models of the shape `larger`: number, loss/<lang>…

Proxies are Ray tasks of `group` models each; one that is killed loses its group. A mixture is stated in tokens of the run's own
tokenizer: a language that the small vocabulary spells with twice the tokens gives twice the tokens to a proxy.

With `mixture.regmix.match_repetition` each pool is cut to the same part, whole documents of it drawn by the seed and the last
one cut, so that a proxy repeats it as often as stage 1 will (mixture/regmix/repetition.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypedDict

import numpy as np
import pyarrow as pa
import torch

from cluster import storage
from cluster.engines import placement
from mixture.order.permute import derive, permute
from mixture.order.sampler import Sampler, rows
from mixture.regmix import repetition, reuse
from mixture.regmix.mixtures import MOST, sample_mixtures
from mixture.regmix.small_vocabulary import SmallVocabulary
from mixture.store.long_documents import LongDocuments
from mixture.store.token_store import TokenStore, write_store
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config.mixture import Proxies
from ray_jobs.errors import UserError
from ray_jobs.run.graph import TOKENIZE
from ray_jobs.run.job import Job
from ray_jobs.training import fit
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work import device
from ray_jobs.work.tasks import map_on_ray, written
from train.methods import proxy

BLOCK = 64  # documents that are read together
RUNS, LARGER = "runs", "larger"  # folders of results
COUNTED_TOKENS = 20_000_000  # of a language, for the choice of the vocabulary


class Copy(TokenizerSetting):
    """A pool that is to be copied in the small vocabulary."""

    lang: str
    store: str
    vocabulary: SmallVocabulary
    heldout: str
    tokens: int  # at most
    part: float | None  # of the pool's tokens, at most
    out: str
    seed: int


class Group(TypedDict):
    """Proxies that one task trains."""

    numbers: list[int]
    mixtures: list[list[float]]
    domains: list[str]
    languages: list[str]
    scale: list[float]
    vocab_size: int
    settings: Proxies
    out: str
    results: str  # the folder below `out`
    seed: int


def run(job: Job) -> dict:
    settings = job.regmix.proxies
    stores = _pools(job)
    prior: dict[str, float] = {lang: store.n_tokens for lang, store in stores.items()}
    tokenizer = load_tokenizer(tokenizer_of(job))
    counting = [(store.uri, len(tokenizer), job.recipe.seed) for store in stores.values()]
    counts = {lang: one["counts"] for lang, one in zip(stores, map_on_ray(job, _count, counting, "pools"), strict=True)}
    vocabulary = SmallVocabulary(tokenizer, counts, settings.vocab_size)
    target = _target(job, sum(store.n_tokens for store in stores.values()))
    part = None
    if target is not None:
        scale = repetition.mean_scale(prior, {lang: vocabulary.scale(count_V) for lang, count_V in counts.items()})
        read = _steps(settings) * settings.rows_per_step * settings.context
        part = repetition.kept(target, read, scale)
    copies: list[Copy] = [
        {
            "lang": lang,
            "store": store.uri,
            "vocabulary": vocabulary,
            **tokenizer_of(job),
            "heldout": job.input(TOKENIZE, "heldout.parquet"),
            "tokens": settings.tokens + settings.context,
            "part": part,
            "out": job.path(),
            "seed": job.recipe.seed,
        }
        for lang, store in stores.items()
    ]
    copied = dict(zip(stores, map_on_ray(job, _copy, copies, "pools"), strict=True))
    if settings.phases > _steps(settings):
        raise UserError(f"mixture.regmix.proxies.phases: a proxy has only {_steps(settings)} updates")
    languages = [lang for lang in stores if copied[lang]["heldout_tokens"]]
    if not languages:
        raise UserError("mixture.regmix: no held-out document to measure a proxy by; raise tokenize.heldout_share")
    n = settings.runs + settings.heldout_runs
    bounds = None if target is None else repetition.bounds(prior, target)
    if job.regmix.reuse:
        kept = reused(job.regmix.reuse, stores)
        most = _bounded(kept, bounds) if bounds else MOST
        mixtures = kept.unfold(sample_mixtures(kept.sums(prior), n, job.recipe.seed, most=most))
    else:
        mixtures = sample_mixtures(prior, n, job.recipe.seed, most=bounds or MOST)
    tasks: list[Group] = [
        {
            "numbers": list(range(first, min(first + settings.group, n))),
            "mixtures": mixtures[first : first + settings.group].tolist(),
            "domains": list(stores),
            "languages": languages,
            "scale": [copied[lang]["scale"] for lang in stores],
            "vocab_size": vocabulary.size,
            "settings": settings,
            "out": job.path(),
            "results": RUNS,
            "seed": job.recipe.seed,
        }
        for first in range(0, n, settings.group)
    ]
    shape = settings.shape.model_dump()
    sizes = [(n, shape)]
    if settings.larger:
        tasks += _once_more(tasks, settings.runs)
        sizes.append((settings.heldout_runs, settings.larger.model_dump()))
    before = written([_result(task, number) for number in task["numbers"]] for task in tasks)
    map_on_ray(job, _train, tasks, "groups of proxies", gpus=on_gpus(job), finished=before)
    _collect(job, n, settings.runs, list(stores), languages)
    tokens = _steps(settings) * settings.rows_per_step * settings.context
    few = [lang for lang in stores if part is not None and copied[lang]["tokens"] <= settings.context]
    return {
        **({} if target is None else {"matched_tokens": target, "pool_part": part}),
        "warnings": [
            f"regmix: of {', '.join(few)} proxies read less than a row again and again, which says little; give them "
            "more tokens (mixture.regmix.proxies.tokens)"
        ]
        if few
        else [],
        "proxies": n,
        "tokens": sum(runs for runs, _ in sizes) * tokens,
        "vocab_size": vocabulary.size,
        "parameters": proxy.flops.parameters(shape, vocabulary.size),
        "larger_parameters": proxy.flops.parameters(sizes[-1][1], vocabulary.size) if settings.larger else None,
        "flops": sum(
            runs * proxy.training_flops(one, vocabulary.size, settings.context, tokens) for runs, one in sizes
        ),
        "heldout_tokens_per_lang": {lang: copied[lang]["heldout_tokens"] for lang in languages},
    }


def _once_more(tasks: list[Group], training_runs: int) -> list[Group]:
    """The held-out proxies of `tasks` with the larger shape, a group each."""
    found: list[Group] = []
    for task in tasks:
        held = [k for k, number in enumerate(task["numbers"]) if number >= training_runs]
        if held:
            own = task["settings"].model_copy(update={"shape": task["settings"].larger})
            numbers, mixtures = [task["numbers"][k] for k in held], [task["mixtures"][k] for k in held]
            found.append({**task, "numbers": numbers, "mixtures": mixtures, "settings": own, "results": LARGER})
    return found


def reused(uri: str, languages: Iterable[str]) -> reuse.Reuse:
    """The mixture of `mixture.regmix.reuse`."""
    try:
        return reuse.read(uri, languages)
    except (ValueError, FileNotFoundError) as error:
        raise UserError(f"mixture.regmix.reuse: {error}") from None


def _bounded(kept: reuse.Reuse, bounds: Mapping[str, float]) -> dict[str, float]:
    """The largest weights of the kept mixture and of each new pool in a proxy's mixture. Raises UserError where they sum to
    less than 1."""
    most = kept.caps(bounds)
    if sum(most.values()) < 1:
        tight = min(kept.ratios, key=lambda lang: bounds[lang] / kept.ratios[lang])
        raise UserError(
            f"mixture.regmix.reuse: {kept.ratios[tight]:.0%} of the mixture to reuse is {tight}, of which proxies that match "
            f"the repetition may read {bounds[tight]:.0%} at most; leave `reuse` or `match_repetition` out, or add such text"
        )
    return most


def _target(job: Job, pools: int) -> int | None:
    """The tokens of stage 1 whose repetition proxies match; None where they read the pools as they are."""
    if not job.regmix.match_repetition:
        return None
    if not job.recipe.train or not (pretrain := job.recipe.train.pretrain):
        return pools
    tokens = pretrain.stage1.max_tokens if pretrain.stage1.tokens == "auto" else pretrain.stage1.tokens
    if tokens is None:
        raise UserError(
            "mixture.regmix.match_repetition: proxies are trained before `train.pretrain.stage1.tokens: auto` is known; "
            "give max_tokens beside it, or a number"
        )
    return tokens


def on_gpus(job: Job) -> bool:
    """Whether proxies are trained on GPUs; without a section `train`, where the cluster has some."""
    return device.wants_gpus(job) if job.recipe.train else placement.has_gpus()


def _pools(job: Job) -> dict[str, TokenStore]:
    """The pools `all/<lang>` that hold any tokens, by language."""
    root = job.input(TOKENIZE, "pools", "all")
    found = storage.glob(storage.join(root, "*", "store.json"))
    stores = {uri.split("/")[-2]: TokenStore(uri.removesuffix("/store.json")) for uri in found}
    stores = {lang: store for lang, store in sorted(stores.items()) if store.n_tokens > store.n_documents}
    if len(stores) < 2:
        raise UserError(f"mixture.regmix: {len(stores)} languages have tokens; a mixture needs two")
    return stores


def _some_documents(store: TokenStore, seed: int, block: int = BLOCK) -> Iterator[tuple[int, np.ndarray]]:
    """(row, tokens without the end token) of all documents, in blocks that come in random order: the first ones are a
    sample of the pool, whatever order it lies in."""
    blocks = -(-store.n_documents // block)
    for i in range(blocks):
        first = permute(i, blocks, derive(seed, "regmix", store.uri.rsplit("/", 1)[-1])) * block
        last = min(first + block, store.n_documents)
        starts = store.starts[first : last + 1]
        tokens = store.tokens[int(starts[0]) : int(starts[-1])]
        for row in range(first, last):
            yield row, tokens[starts[row - first] - starts[0] : starts[row - first + 1] - starts[0] - 1]


def _count(task: tuple[str, int, int]) -> dict:
    """How often each token occurs in a sample of the pool."""
    uri, vocab, seed = task
    counts, seen = np.zeros(vocab, np.int64), 0
    for _, ids in _some_documents(TokenStore(uri), seed):
        counts += np.bincount(ids, minlength=vocab)
        seen += len(ids)
        if seen >= COUNTED_TOKENS:
            break
    return {"counts": counts}


def _copy(task: Copy) -> dict:
    """The pool and the held-out documents of one language in the small vocabulary, the pool as far as a proxy reads it.

    `scale` is how many tokens of the small vocabulary one of the run's tokens becomes."""
    lang, vocabulary, store = task["lang"], task["vocabulary"], TokenStore(task["store"])
    pool, heldout = (storage.join(task["out"], kind, lang) for kind in ("pools", "heldout"))
    before = 0
    part = 1.0 if task["part"] is None else task["part"]
    limit = max(2, round(part * store.n_tokens))
    block = 1 if part * store.n_documents < BLOCK * BLOCK and part < 1 else BLOCK  # few are drawn one by one

    def documents() -> Iterator[tuple[str, str, int, np.ndarray]]:
        nonlocal before
        ids, sizes = store.documents["doc_id"], store.documents["bytes"]
        written = 0
        for row, tokens in _some_documents(store, task["seed"], block):
            tokens = tokens[: limit - before - 1]
            small = vocabulary.expand(tokens)
            before += len(tokens) + 1
            written += len(small) + 1
            yield ids[row].as_py(), lang, sizes[row].as_py(), small
            if written >= task["tokens"] or before >= limit - 1:
                return

    written = write_store(pool, documents(), vocabulary.size, vocabulary.eod)
    table = storage.read_table(task["heldout"]).to_pylist()
    held = [row for row in table if row["lang"] == lang]
    encoded = tokenizers.encode(load_tokenizer(task), [row["text"] for row in held])
    own = ((row["doc_id"], lang, row["bytes"], vocabulary.expand(ids)) for row, ids in zip(held, encoded, strict=True))
    measured = write_store(heldout, own, vocabulary.size, vocabulary.eod)
    sizes = {"tokens": written["tokens"], "heldout_tokens": measured["tokens"]}
    return {"scale": written["tokens"] / before, **sizes}


def _steps(settings: Proxies) -> int:
    return fit.steps_for(settings.tokens, settings.rows_per_step, settings.context)


def _train(task: Group) -> dict:
    """Train the proxies of one group that are not all there, and write one file for each."""
    done = [_result(task, number) for number in task["numbers"]]
    if all(storage.exists(uri) for uri in done):
        return {}
    settings = task["settings"]
    context, where = settings.context, device.here()
    if where.type == "cpu":
        torch.set_num_threads(1)  # Ray gave this task one core
    steps = _steps(settings)
    config = proxy.ProxyConfig(
        steps=steps,
        rows_per_step=settings.rows_per_step,
        micro_rows=settings.micro_rows,
        lr=settings.lr,
        warmup_steps=min(settings.warmup_steps, steps),
        seed=task["seed"],
        points=tuple(-(-steps * phase // settings.phases) for phase in range(1, settings.phases)),
        precision="fp32" if where.type == "cpu" else "bf16",  # of so small products bf16 is no faster on a CPU
    )
    shape = {**settings.shape.model_dump(), "vocab_size": task["vocab_size"], "max_position_embeddings": context}
    pools = {lang: TokenStore(storage.join(task["out"], "pools", lang)) for lang in task["domains"]}

    def batches(mixture: list[float]):
        weights = {lang: w * s for lang, w, s in zip(task["domains"], mixture, task["scale"], strict=True) if w > 0}
        return _batch_fn({lang: pools[lang] for lang in weights}, weights, context, task["seed"])

    heldout = {lang: _heldout(task, lang, settings) for lang in task["languages"]}
    found_PML = proxy.trajectories(
        shape,
        [batches(mixture) for mixture in task["mixtures"]],
        heldout,
        config,
        device=where,
        batched=len(task["numbers"]) > 1,
    )
    each = zip(done, task["numbers"], task["mixtures"], found_PML.swapaxes(0, 1).tolist(), strict=True)
    for uri, number, mixture, loss_PL in each:
        *before, last = (dict(zip(task["languages"], loss_L, strict=True)) for loss_L in loss_PL)
        result = {"number": number, "mixture": dict(zip(task["domains"], mixture, strict=True)), "loss": last}
        if before:
            result["before"] = before
        storage.write_json(uri, result)
    return {}


def _batch_fn(pools: dict[str, TokenStore | LongDocuments], weights: dict[str, float], context: int, seed: int):
    sampler = Sampler(pools, [{"from_sample": 0, "weights": weights}], context, seed)
    names = ("input_ids", "labels", "doc_ids", "position_ids")

    def batch(numbers: list[int]) -> dict[str, torch.Tensor]:
        found = rows(sampler, numbers)
        return {name: torch.from_numpy(found[name]).long() for name in names}

    return batch


def _heldout(task: Group, lang: str, settings: Proxies) -> list[dict[str, torch.Tensor]]:
    """The rows of a language that every proxy is measured by, each window of its held-out tokens once."""
    store = TokenStore(storage.join(task["out"], "heldout", lang))
    context, size = settings.context, settings.micro_rows
    windows = max(1, (store.n_tokens - 1) // context)
    count = min(windows, max(1, settings.heldout_tokens // context))
    batch = _batch_fn({lang: store}, {lang: 1.0}, context, task["seed"])
    return [batch(list(range(first, min(first + size, count)))) for first in range(0, count, size)]


def _result(task: Group, number: int) -> str:
    return _of(task["out"], task["results"], number)


def _of(out: str, results: str, number: int) -> str:
    return storage.join(out, results, f"proxy-{number:05}.json")


def _collect(job: Job, n: int, training_runs: int, domains: list[str], languages: list[str]) -> None:
    """`mixtures.parquet` of all results. `heldout` runs are those that no regression is fitted on."""
    found = [storage.read_json(_of(job.path(), RUNS, number)) for number in range(n)]
    columns: dict[str, list] = {
        "number": [one["number"] for one in found],
        "heldout": [one["number"] >= training_runs for one in found],
    }
    columns |= {f"weight/{lang}": [one["mixture"][lang] for one in found] for lang in domains}
    columns |= {f"loss/{lang}": [one["loss"][lang] for one in found] for lang in languages}
    for phase in range(job.regmix.proxies.phases - 1):
        columns |= {f"loss{phase + 1}/{lang}": [one["before"][phase][lang] for one in found] for lang in languages}
    storage.write_table(job.path("mixtures.parquet"), pa.table(columns))
    if job.regmix.proxies.larger:
        larger = [storage.read_json(_of(job.path(), LARGER, number)) for number in range(training_runs, n)]
        columns = {"number": [one["number"] for one in larger]}
        columns |= {f"loss/{lang}": [one["loss"][lang] for one in larger] for lang in languages}
        storage.write_table(job.path("larger.parquet"), pa.table(columns))
