"""The stages of a run, in order: what each reads, which recipe keys it depends on, and the module that does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from ray_jobs.config.alignment import Dpo, OnPolicy
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe


def _train(recipe: Recipe) -> bool:
    return recipe.train is not None


def _has(*keys: str) -> Callable[[Recipe], bool]:
    return lambda recipe: recipe.train is not None and all(getattr(recipe.train, key) for key in keys)


def _corpus(recipe: Recipe) -> bool:
    return bool(recipe.sources)


def _regmix(recipe: Recipe) -> bool:
    return _corpus(recipe) and recipe.mixture.regmix is not None


def _control(recipe: Recipe) -> bool:
    return _has("pretrain")(recipe) and given(given(recipe.train).pretrain).control


@dataclass(frozen=True)
class Stage:
    """`name` is the folder below the run, `job` the module in ray_jobs, `config` the recipe keys that change its result.

    `files` are the recipe keys whose values are globs of files from outside the run, `functions` those whose values name
    functions of the user, whose source counts as code of the stage.
    """

    name: str
    job: str
    inputs: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    when: Callable[[Recipe], bool] = lambda recipe: True
    files: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    keeps: bool = False  # under another fingerprint its job itself finds out what of the former result may stay


ON_POLICY = "dpo/on_policy"
GROWN = "(expand, or base)"  # stands for the model that pre-training starts from
FOUNDATION = "(pretrain/stage2, or base)"  # stands for the model that is aligned
ROUNDS = (ON_POLICY, *(f"{ON_POLICY}_{number}" for number in range(2, 10)))
# What a round depends on: not how many there are, nor how they are judged, so a round more leaves the others as they are.
DPO = (
    *(f"train.dpo.{key}" for key in Dpo.model_fields if key not in ("on_policy", "watch")),
    "train.dpo.watch.per_language",
    "train.dpo.watch.every",
)
SAMPLING = tuple(f"train.dpo.on_policy.{key}" for key in OnPolicy.model_fields if key != "rounds")

LOOP = ("seed", "train.context", "train.precision", "train.parallel", "train.workers", "train.guard")

STAGES = (
    Stage(
        "crawl",
        "crawl",
        (),
        ("sources", "crawl"),
        _corpus,
        files=("sources", "crawl.block_domains", "crawl.block_urls"),
        keeps=True,
    ),
    Stage("extract", "extract", ("crawl",), ("extract",), _corpus),
    Stage("language", "language", ("extract",), ("languages", "language", "sources"), _corpus, ("language.model",)),
    Stage(
        "filter/signals",
        "filter_signals",
        ("language",),
        ("languages", "filter.word_lists", "filter.mask_pii", "filter.perplexity_models", "filter.signals"),
        _corpus,
        ("filter.word_lists", "filter.perplexity_models"),
        ("filter.signals",),
    ),
    Stage(
        "filter/policy",
        "filter_policy",
        ("filter/signals",),
        ("languages", "filter.policy", "filter.reference", "filter.reference_min_documents"),
        _corpus,
    ),
    Stage("dedup", "dedup", ("filter/policy",), ("dedup", "seed"), _corpus, ("dedup.indexes",)),
    Stage(
        "decontaminate",
        "decontaminate",
        ("dedup",),
        ("decontaminate",),
        lambda recipe: _corpus(recipe) and bool(recipe.decontaminate.against),
        ("decontaminate.against",),
    ),
    Stage("quality", "quality", ("dedup", "decontaminate"), ("quality", "seed", "languages"), _corpus),
    Stage(
        "tokenize",
        "tokenize",
        ("quality",),
        ("tokenize", "seed", "quality.top_share", "train.sft.instruct"),
        files=("train.sft.instruct",),
    ),
    Stage(
        "regmix/proxies",
        "regmix_proxies",
        ("tokenize",),
        ("mixture.regmix.proxies", "seed", "train.device"),
        _regmix,
    ),
    Stage(
        "regmix/weights",
        "regmix_weights",
        ("tokenize", "regmix/proxies"),
        ("mixture", "train.pretrain.stage1.tokens", "seed"),
        _regmix,
    ),
    Stage(
        "mixture",
        "mixture",
        ("tokenize", "regmix/weights"),
        ("mixture", "languages", "train.context", "train.pretrain", "seed"),
        _corpus,
    ),
    Stage("base", "base", ("tokenize", "mixture"), ("train.base", *LOOP), _train),
    Stage("expand", "expand", ("base",), ("train.expand",), _has("expand")),
    Stage(
        "pretrain/stage1",
        "pretrain",
        (GROWN, "mixture"),
        ("train.pretrain", "train.expand.trainable", *LOOP),
        _has("pretrain"),
    ),
    Stage("pretrain/stage2", "pretrain", ("pretrain/stage1", "mixture"), ("train.pretrain", *LOOP), _has("pretrain")),
    Stage("control/stage1", "pretrain", ("base", "mixture"), ("train.pretrain", *LOOP), _control),
    Stage("control/stage2", "pretrain", ("control/stage1", "mixture"), ("train.pretrain", *LOOP), _control),
    Stage("reward", "reward", (FOUNDATION,), ("train.reward", *LOOP), _has("reward"), ("train.reward.preference",)),
    Stage(
        "sft/data",
        "sft_data",
        ("tokenize",),
        ("train.sft.instruct", "train.sft.data", "train.sft.max_rows", "languages", "language.model"),
        _has("sft"),
        ("train.sft.instruct", "language.model"),
        ("train.sft.data.category.function",),
    ),
    Stage("sft/stage1", "sft", ("sft/data", FOUNDATION), ("train.sft", "languages", *LOOP), _has("sft")),
    Stage(
        "sft/select",
        "sft_select",
        ("sft/stage1", FOUNDATION, "reward"),
        ("train.sft", *LOOP),
        _has("sft", "reward"),
    ),
    Stage("sft/stage2", "sft", ("sft/stage1", "sft/select"), ("train.sft", "languages", *LOOP), _has("sft", "reward")),
    Stage(
        "dpo/off_policy",
        "dpo",
        ("sft/stage2", FOUNDATION),
        (*DPO, *LOOP),
        _has("sft", "reward", "dpo"),
        ("train.dpo.preference",),
    ),
    Stage(
        ON_POLICY,
        "dpo",
        ("dpo/off_policy", "reward", FOUNDATION),
        (*DPO, *SAMPLING, "languages", "language", *LOOP),
        _has("sft", "reward", "dpo"),
    ),
    Stage(
        "dpo/watch",
        "dpo_watch",
        ("sft/stage2", "reward", "dpo/off_policy", ON_POLICY),
        ("train.dpo.watch", "train.dpo.beta", *SAMPLING, "language", "train.context", "train.reward"),
        lambda recipe: _has("sft", "reward", "dpo")(recipe) and given(given(recipe.train).dpo).watch is not None,
        keeps=True,
    ),
    Stage("prune", "prune", ("pretrain/stage2", "mixture"), ("train.prune", *LOOP), _has("prune")),
    Stage(
        "evaluate",
        "evaluate",
        (
            "tokenize",
            "base",
            "expand",
            "pretrain/stage1",
            "pretrain/stage2",
            "control/stage2",
            ON_POLICY,
            "prune",
        ),
        ("evaluate", "languages", "train.context"),
        lambda recipe: _train(recipe) and _corpus(recipe),
    ),
    Stage(
        "export",
        "export",
        ("evaluate", "pretrain/stage2", "sft/stage2", ON_POLICY, "prune"),
        ("name", "export"),
        _train,
    ),
    Stage("report", "report", ("*",), ()),
)


def enabled(recipe: Recipe) -> list[Stage]:
    """The stages that this recipe asks for, inputs reduced to those among them (`*` = all before)."""
    chosen: list[Stage] = []
    asked = [stage for stage in STAGES if stage.when(recipe)]
    for one in (one for stage in asked for one in _resolved(stage, recipe)):
        names = [s.name for s in chosen]
        inputs = tuple(names) if one.inputs == ("*",) else tuple(i for i in one.inputs if i in names)
        chosen.append(dataclasses.replace(one, inputs=inputs))
    return chosen


def rounds(recipe: Recipe) -> tuple[str, ...]:
    """The stages of the on-policy rounds, in order; none without preference tuning."""
    return ROUNDS[: given(given(recipe.train).dpo).on_policy.rounds] if _has("sft", "reward", "dpo")(recipe) else ()


def grown(recipe: Recipe) -> str:
    """The stage whose model pre-training starts from."""
    return "expand" if given(recipe.train).expand else "base"


def foundation(recipe: Recipe) -> str:
    """The stage whose model is aligned: of the last pre-training, or the base as it is."""
    return "pretrain/stage2" if given(recipe.train).pretrain else "base"


def _resolved(stage: Stage, recipe: Recipe) -> list[Stage]:
    """The stage with the names of this recipe as its inputs; the on-policy stage once for each round, from the model of the one
    before."""
    if recipe.train is None:
        return [stage]
    names: dict[str, tuple[str, ...]] = {GROWN: (grown(recipe),), FOUNDATION: (foundation(recipe),)}
    if stage.name == ON_POLICY:
        start, *others = (name for one in stage.inputs for name in names.get(one, (one,)))
        return [
            dataclasses.replace(stage, name=name, inputs=(before, *others))
            for before, name in pairwise([start, *rounds(recipe)])
        ]
    names[ON_POLICY] = rounds(recipe)
    inputs = tuple(name for one in stage.inputs for name in names.get(one, (one,)))
    return [dataclasses.replace(stage, inputs=inputs)]


def matches(stage: str, wanted: str) -> bool:
    """Whether `stage` is `wanted` or a step of it: `pretrain` means both `pretrain/stage1` and `pretrain/stage2`."""
    return stage == wanted or stage.startswith(f"{wanted}/")
