"""The stages of a run, in order: what each reads, which recipe keys it depends on, and the module that does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from ray_jobs.config.alignment import Dpo, OnPolicy
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Evaluate as EvaluateSection
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.training import Draft, LongContext, Pretrain


def _train(recipe: Recipe) -> bool:
    return recipe.train is not None


def _has(*keys: str) -> Callable[[Recipe], bool]:
    return lambda recipe: recipe.train is not None and all(getattr(recipe.train, key) for key in keys)


def _corpus(recipe: Recipe) -> bool:
    return bool(recipe.sources)


def _pairs(recipe: Recipe) -> bool:
    return bool(recipe.parallel.sources)


def _regmix(recipe: Recipe) -> bool:
    return _corpus(recipe) and recipe.mixture.regmix is not None


def _control(recipe: Recipe) -> bool:
    return _has("pretrain")(recipe) and given(given(recipe.train).pretrain).control


# The stages by name, in order; each is one row of STAGES below and one module of ray_jobs/stages.
CRAWL = "crawl"
EXTRACT = "extract"
LANGUAGE = "language"
ANNOTATE = "annotate"
SIGNALS = "filter/signals"
POLICY = "filter/policy"
DEDUP = "dedup"
DECONTAMINATE = "decontaminate"
QUALITY = "quality"
PARALLEL_PAIRS = "parallel/pairs"
PARALLEL_DEDUP = "parallel/dedup"
PARALLEL_ALIGN = "parallel/align"
PARALLEL_DECONTAMINATE = "parallel/decontaminate"
PARALLEL_DOCUMENTS = "parallel/documents"
SYNTHESIZE = "synthesize"
TOKENIZE = "tokenize"
PROXIES = "regmix/proxies"
WEIGHTS = "regmix/weights"
MIXTURE = "mixture"
BASE = "base"
EXPAND = "expand"
PRETRAIN_1 = "pretrain/stage1"
PRETRAIN_2 = "pretrain/stage2"
CONTROL_1 = "control/stage1"
CONTROL_2 = "control/stage2"
LONG_CONTEXT = "long_context"
REWARD = "reward"
SFT_DATA = "sft/data"
SFT_1 = "sft/stage1"
SFT_SELECT = "sft/select"
SFT_2 = "sft/stage2"
OFF_POLICY = "dpo/off_policy"
ON_POLICY = "dpo/on_policy"
DPO_WATCH = "dpo/watch"
DRAFT_ANSWERS = "draft_answers"
DRAFT = "draft"
PRUNE = "prune"
EVALUATE = "evaluate"
TASKS = "tasks"
WILDBENCH = "wildbench"
LONG = "long"
EXPORT = "export"
REPORT = "report"


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
    after: tuple[str, ...] = ()  # must be done too; `config` decides what is read of them, so they are no inputs
    keeps: bool = False  # under another fingerprint its job itself finds out what of the former result may stay


GROWN = "(expand, or base)"  # stands for the model that pre-training starts from
FOUNDATION = "(long_context, pretrain/stage2, or base)"  # stands for the model that is aligned
MIXED = ("base", "pretrain", "prune", "adapt.long_context")  # jobs that read the mixture
TRAINED_ON = (QUALITY, SYNTHESIZE, SFT_DATA)  # where texts lie that models read
PRUNED = "(pretrain/stage2, or long_context)"  # stands for the model that is pruned
TUNED = "(sft/stage2, or stage1)"  # stands for the last model of instruction tuning
ALIGNED = "(the last round, or the last of instruction tuning)"  # stands for the model that answers
ROUNDS = (ON_POLICY, *(f"{ON_POLICY}_{number}" for number in range(2, 10)))
PARTED = (CRAWL, EXTRACT, LANGUAGE, SIGNALS, POLICY, DECONTAMINATE)  # work part by part, so also a share of them
# What a round depends on: not how many there are, nor how they are judged, so a round more leaves the others as they are.
DPO = (
    *(f"train.dpo.{key}" for key in Dpo.model_fields if key not in ("on_policy", "watch")),
    "train.dpo.watch.per_language",
    "train.dpo.watch.every",
)
MEASURED = ("train.sft.eval_every",)  # decides what is held out, and when it is measured
PAIRS = ("languages", "train.sft.data.language")  # what decides which pairs are read
LENGTHENED = tuple(f"train.long_context.{key}" for key in LongContext.model_fields if key != "align")
DRAFTED = tuple(f"train.draft.{key}" for key in Draft.model_fields if key != "answers")
SAMPLING = tuple(f"train.dpo.on_policy.{key}" for key in OnPolicy.model_fields if key != "rounds")

# A stage of pre-training depends on its own section and on what both have; `control` only adds stages.
_APART = ("control", "update", "stage1", "stage2")
PRETRAIN = tuple(f"train.pretrain.{key}" for key in Pretrain.model_fields if key not in _APART)
BUDGETS = ("tokens", "max_tokens", "rows_per_step")  # of a stage, which decide how much it reads of what
READ_FIRST = (  # what decides the plan of stage 1
    *(f"mixture.{key}" for key in ("regmix", "temperature", "max_epochs", "replay_languages", "replay_share")),
    *(f"train.pretrain.stage1.{key}" for key in BUDGETS),
    "train.context",
)
SHARED_BY = {  # which stages read how much of the pairs; of recipes that have any
    MIXTURE: ("parallel.share", "parallel.stage2_share", "parallel.weights"),
    **dict.fromkeys((PRETRAIN_1, CONTROL_1), ("parallel.share", "parallel.weights")),
}
NEW = (  # of a new model
    *("seed", "train.context", "train.precision", "train.parallel", "train.workers", "train.guard"),
    *("train.optimiser_states", "train.exact"),
)
LOOP = (*NEW, "train.seed")  # of the training that follows

STAGES = (
    Stage(
        CRAWL,
        "crawl",
        (),
        ("sources", "crawl"),
        _corpus,
        files=("sources", "crawl.block_domains", "crawl.block_urls"),
        keeps=True,
    ),
    Stage(EXTRACT, "extract", (CRAWL,), ("extract",), _corpus, functions=("extract.pdf.ocr",)),
    Stage(LANGUAGE, "language", (EXTRACT,), ("languages", "language", "sources"), _corpus, ("language.model",)),
    Stage(
        ANNOTATE,
        "documents.annotate",
        (LANGUAGE,),
        ("annotations",),
        lambda recipe: _corpus(recipe) and bool(recipe.annotations),
        ("annotations",),
    ),
    Stage(
        SIGNALS,
        "filter_signals",
        (LANGUAGE, ANNOTATE),
        (
            *("languages", "filter.language_files", "filter.word_lists", "filter.mask_pii"),
            *("filter.perplexity_models", "filter.signals"),
        ),
        _corpus,
        ("filter.language_files", "filter.word_lists", "filter.perplexity_models"),
        ("filter.signals",),
    ),
    Stage(
        POLICY,
        "filter_policy",
        (SIGNALS,),
        ("languages", "filter.policy", "filter.language_files", "filter.reference", "filter.reference_min_documents"),
        _corpus,
        ("filter.language_files",),
    ),
    Stage(DEDUP, "dedup", (POLICY,), ("dedup", "seed"), _corpus, ("dedup.indexes",)),
    Stage(
        DECONTAMINATE,
        "decontaminate",
        (DEDUP,),
        ("decontaminate",),
        lambda recipe: _corpus(recipe) and bool(recipe.decontaminate.against),
        ("decontaminate.against",),
    ),
    Stage(
        QUALITY,
        "quality",
        (DEDUP, DECONTAMINATE),
        ("quality", "seed", "languages"),
        _corpus,
        ("quality.labels", "quality.model"),
    ),
    Stage(
        PARALLEL_PAIRS,
        "parallel.pairs",
        (),
        (
            *(
                f"parallel.{key}"
                for key in ("sources", "max_length_ratio", "max_similarity", "min_score", "min_letters")
            ),
            *("language.model", "language.labels", "crawl.max_record_bytes", "crawl.max_line_bytes"),
        ),
        _pairs,
        ("parallel.sources", "language.model"),
    ),
    Stage(PARALLEL_DEDUP, "parallel.dedup", (PARALLEL_PAIRS,), ("parallel.duplicates",), _pairs),
    Stage(
        PARALLEL_DECONTAMINATE,
        "parallel.decontaminate",
        (PARALLEL_DEDUP,),
        ("decontaminate",),
        lambda recipe: _pairs(recipe) and bool(recipe.decontaminate.against),
        ("decontaminate.against",),
    ),
    Stage(
        PARALLEL_ALIGN,
        "parallel.align",
        (PARALLEL_DEDUP, PARALLEL_DECONTAMINATE),
        ("parallel.encoder", "parallel.min_alignment"),
        lambda recipe: _pairs(recipe) and recipe.parallel.encoder is not None,
        ("parallel.encoder",),
    ),
    Stage(
        PARALLEL_DOCUMENTS,
        "parallel.documents",
        (PARALLEL_DEDUP, PARALLEL_DECONTAMINATE, PARALLEL_ALIGN),
        ("parallel.formats", "parallel.block", "parallel.templates"),
        _pairs,
        ("parallel.templates",),
    ),
    Stage(
        SYNTHESIZE,
        "synthetic.synthesize",
        (POLICY, QUALITY),
        ("synthesize", "languages", "language", "filter", "decontaminate", "seed"),
        lambda recipe: _corpus(recipe) and recipe.synthesize is not None,
        (
            *("synthesize.prompts", "synthesize.tasks.model", "decontaminate.against", "language.model"),
            *("filter.language_files", "filter.word_lists", "filter.perplexity_models"),
        ),
        ("filter.signals",),
        keeps=True,
    ),
    Stage(
        TOKENIZE,
        "tokenize",
        (QUALITY, PARALLEL_DOCUMENTS, SYNTHESIZE),
        ("tokenize", "seed", "quality.top_share", "train.sft.instruct"),
        files=("train.sft.instruct", "tokenize.parallel"),
    ),
    Stage(
        PROXIES,
        "regmix_proxies",
        (TOKENIZE,),
        (*(f"mixture.regmix.{key}" for key in ("proxies", "match_repetition", "reuse")), "seed", "train.device"),
        _regmix,
        ("mixture.regmix.reuse",),
    ),
    Stage(
        WEIGHTS,
        "regmix_weights",
        (TOKENIZE, PROXIES),
        (*READ_FIRST, "seed"),
        _regmix,
        ("mixture.regmix.reuse",),
    ),
    Stage(
        MIXTURE,
        "mixture",
        (TOKENIZE, WEIGHTS),
        (
            *("mixture", "languages", "train.context", "seed"),
            *(f"train.pretrain.{stage}.{key}" for stage in ("stage1", "stage2") for key in BUDGETS),
            *(f"train.base.{key}" for key in ("shape", "languages", "tokens", "max_tokens", "optimiser.rows_per_step")),
        ),
        _corpus,
    ),
    Stage(
        BASE,
        "base",
        (TOKENIZE,),
        ("train.base", "mixture.temperature", "mixture.max_epochs", *NEW),
        _train,
        after=(MIXTURE,),
    ),
    Stage(EXPAND, "expand", (BASE,), ("train.expand",), _has("expand")),
    Stage(
        PRETRAIN_1,
        "pretrain",
        (GROWN, TOKENIZE, WEIGHTS),
        (*PRETRAIN, "train.pretrain.stage1", "train.pretrain.update", "train.expand.trainable", *READ_FIRST, *LOOP),
        _has("pretrain"),
        after=(MIXTURE,),
    ),
    Stage(
        PRETRAIN_2,
        "pretrain",
        (PRETRAIN_1, MIXTURE),
        (*PRETRAIN, "train.pretrain.stage2", "train.pretrain.update", *LOOP),
        _has("pretrain"),
    ),
    Stage(
        CONTROL_1,
        "pretrain",
        (BASE, TOKENIZE, WEIGHTS),
        (*PRETRAIN, "train.pretrain.stage1", *READ_FIRST, *LOOP),
        _control,
        after=(MIXTURE,),
    ),
    Stage(CONTROL_2, "pretrain", (CONTROL_1, MIXTURE), (*PRETRAIN, "train.pretrain.stage2", *LOOP), _control),
    Stage(
        LONG_CONTEXT,
        "adapt.long_context",
        (PRETRAIN_2, MIXTURE),
        (*LENGTHENED, "mixture.max_epochs", *LOOP),
        _has("pretrain", "long_context"),
    ),
    Stage(
        REWARD,
        "reward",
        (FOUNDATION,),
        ("train.reward", *PAIRS, *LOOP),
        _has("reward"),
        ("train.reward.preference",),
    ),
    Stage(
        SFT_DATA,
        "sft_data",
        (TOKENIZE,),
        (
            "train.sft.instruct",
            "train.sft.data",
            "train.sft.max_rows",
            "languages",
            "language.model",
            "language.labels",
        ),
        _has("sft"),
        ("train.sft.instruct", "language.model"),
        ("train.sft.data.category.function",),
    ),
    Stage(
        SFT_1,
        "sft",
        (SFT_DATA, FOUNDATION),
        ("train.sft.stage1", *MEASURED, "train.sft.eval_rows_per_language", "languages", *LOOP),
        _has("sft"),
    ),
    Stage(
        SFT_SELECT,
        "sft_select",
        (SFT_1, FOUNDATION, REWARD),
        ("train.sft.select", *LOOP),
        _has("sft", "reward"),
    ),
    Stage(
        SFT_2,
        "sft",
        (SFT_1, SFT_SELECT),
        ("train.sft.stage2", *MEASURED, "languages", *LOOP),
        _has("sft", "reward"),
    ),
    Stage(
        OFF_POLICY,
        "dpo",
        (SFT_2, FOUNDATION),
        (*DPO, *PAIRS, *LOOP),
        _has("sft", "reward", "dpo"),
        ("train.dpo.preference",),
    ),
    Stage(
        ON_POLICY,
        "dpo",
        (OFF_POLICY, REWARD, FOUNDATION),
        (*DPO, *SAMPLING, "languages", "language", *LOOP),
        _has("sft", "reward", "dpo"),
    ),
    Stage(
        DPO_WATCH,
        "dpo_watch",
        (SFT_2, REWARD, OFF_POLICY, ON_POLICY),
        ("train.dpo.watch", "train.dpo.beta", *SAMPLING, "language", "train.context", "train.reward"),
        lambda recipe: _has("sft", "reward", "dpo")(recipe) and given(given(recipe.train).dpo).watch is not None,
        keeps=True,
    ),
    Stage(
        DRAFT_ANSWERS,
        "adapt.draft_answers",
        (SFT_DATA, ALIGNED),
        ("train.draft.answers", "languages", "train.context", "train.precision"),
        _has("sft", "draft"),
    ),
    Stage(DRAFT, "adapt.draft", (DRAFT_ANSWERS, ALIGNED), (*DRAFTED, *LOOP), _has("sft", "draft")),
    Stage(PRUNE, "prune", (PRUNED, MIXTURE), ("train.prune", *LOOP), _has("prune")),
    Stage(
        EVALUATE,
        "evaluation.bits_per_byte",
        (
            TOKENIZE,
            BASE,
            EXPAND,
            PRETRAIN_1,
            PRETRAIN_2,
            CONTROL_2,
            LONG_CONTEXT,
            TUNED,
            ON_POLICY,
            PRUNE,
        ),
        (
            *(f"evaluate.{key}" for key in EvaluateSection.model_fields if key not in ("tasks", "wildbench", "long")),
            *("languages", "train.context", "seed"),
        ),
        lambda recipe: _train(recipe) and _corpus(recipe),
    ),
    Stage(
        TASKS,
        "evaluation.tasks",
        (*TRAINED_ON, TOKENIZE, BASE, PRETRAIN_2, FOUNDATION, CONTROL_2, LONG_CONTEXT, TUNED, ON_POLICY, PRUNE),
        ("evaluate.tasks", "languages"),
        lambda recipe: _train(recipe) and recipe.evaluate.tasks is not None,
        ("evaluate.tasks.rows", "evaluate.tasks.own"),
    ),
    Stage(
        WILDBENCH,
        "evaluation.wildbench",
        (TOKENIZE, BASE, FOUNDATION, CONTROL_2, TUNED, OFF_POLICY, ON_POLICY, REWARD, PRUNE),
        ("evaluate.wildbench", "languages"),
        lambda recipe: _train(recipe) and recipe.evaluate.wildbench is not None,
        ("evaluate.wildbench.rows", "evaluate.wildbench.people"),
        keeps=True,
    ),
    Stage(
        LONG,
        "evaluation.long",
        (TOKENIZE, BASE, PRETRAIN_2, FOUNDATION, CONTROL_2, LONG_CONTEXT, TUNED, ON_POLICY, PRUNE),
        ("evaluate.long", "languages", "seed"),
        lambda recipe: _train(recipe) and _corpus(recipe) and recipe.evaluate.long is not None,
        ("evaluate.long.rows",),
    ),
    Stage(
        EXPORT,
        "export",
        (EVALUATE, PRETRAIN_2, LONG_CONTEXT, SFT_1, SFT_2, ON_POLICY, DRAFT, PRUNE),
        ("name", "export"),
        lambda recipe: _has("pretrain")(recipe) or _has("sft")(recipe),
    ),
    Stage(REPORT, "report", ("*",), ()),
)


def enabled(recipe: Recipe) -> list[Stage]:
    """The stages that this recipe asks for, inputs reduced to those among them (`*` = all before)."""
    chosen: list[Stage] = []
    asked = [stage for stage in STAGES if stage.when(recipe)]
    for one in (one for stage in asked for one in _resolved(stage, recipe)):
        names = [s.name for s in chosen]
        inputs = tuple(names) if one.inputs == ("*",) else tuple(i for i in one.inputs if i in names)
        after = tuple(name for name in one.after if name in names)
        config = (*one.config, *SHARED_BY.get(one.name, ())) if _pairs(recipe) else one.config
        chosen.append(dataclasses.replace(one, inputs=inputs, after=after, config=config))
    return chosen


def rounds(recipe: Recipe) -> tuple[str, ...]:
    """The stages of the on-policy rounds, in order; none without preference tuning."""
    return ROUNDS[: given(given(recipe.train).dpo).on_policy.rounds] if _has("sft", "reward", "dpo")(recipe) else ()


def grown(recipe: Recipe) -> str:
    """The stage whose model pre-training starts from."""
    return EXPAND if given(recipe.train).expand else BASE


def foundation(recipe: Recipe) -> str:
    """The stage whose model is aligned: of the last training on text, or the base as it is."""
    train = given(recipe.train)
    if train.long_context and train.long_context.align:
        return LONG_CONTEXT
    return PRETRAIN_2 if train.pretrain else BASE


def pruned(recipe: Recipe) -> str:
    """The stage whose model is pruned."""
    own = given(recipe.train).prune
    return LONG_CONTEXT if own and own.start == "long_context" else PRETRAIN_2


def aligned(recipe: Recipe) -> str:
    """The stage whose model answers: of the last round of preference tuning, or of instruction tuning."""
    return (*rounds(recipe)[-1:], SFT_2 if given(recipe.train).reward else SFT_1)[0]


def lengthened(recipe: Recipe, stage: str) -> LongContext | None:
    """The section by which the model of `stage` has a longer context; None where it has not."""
    own = recipe.train and recipe.train.long_context
    aligned = stage == REWARD or (stage != SFT_DATA and stage.partition("/")[0] in ("sft", "dpo"))
    if stage == PRUNE:
        return own if own and pruned(recipe) == LONG_CONTEXT else None
    return own if own and (stage == LONG_CONTEXT or (own.align and aligned)) else None


def _resolved(stage: Stage, recipe: Recipe) -> list[Stage]:
    """The stage with the names of this recipe as its inputs; the on-policy stage once for each round, from the model of the one
    before."""
    if stage.name == PROXIES and recipe.mixture.regmix and recipe.mixture.regmix.match_repetition:
        target = tuple(f"train.pretrain.stage1.{key}" for key in ("tokens", "max_tokens"))
        stage = dataclasses.replace(stage, config=(*stage.config, *target))
    if recipe.train is None:
        return [stage]
    names: dict[str, tuple[str, ...]] = {
        GROWN: (grown(recipe),),
        FOUNDATION: (foundation(recipe),),
        PRUNED: (pruned(recipe),),
        TUNED: (SFT_2 if recipe.train.reward else SFT_1,),
        ALIGNED: (aligned(recipe),),
    }
    if stage.name == ON_POLICY:
        start, *others = (name for one in stage.inputs for name in names.get(one, (one,)))
        return [
            dataclasses.replace(stage, name=name, inputs=(before, *others))
            for before, name in pairwise([start, *rounds(recipe)])
        ]
    names[ON_POLICY] = rounds(recipe)
    inputs = tuple(dict.fromkeys(name for one in stage.inputs for name in names.get(one, (one,))))
    return [dataclasses.replace(stage, inputs=inputs)]


def matches(stage: str, wanted: str) -> bool:
    """Whether `stage` is `wanted` or a step of it: `pretrain` means both `pretrain/stage1` and `pretrain/stage2`."""
    return stage == wanted or stage.startswith(f"{wanted}/")
