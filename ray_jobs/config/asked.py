"""Asked means done: a key that somebody gave and that no stage of the run reads is refused, before anything starts.

What a recipe names as its `base:`, or a shipped recipe says, nobody has asked for: there a stage may be turned off and its keys
stay. What turns something off that is off by itself (null, an empty list, false or 0 as by default) asks for nothing either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, get_args, get_origin

from cluster.strict_yaml import Section
from ray_jobs.config.recipe import Recipe
from train.preference_losses.table import LOSSES


class Rule(NamedTuple):
    """`keys`, and all below them, are read only by what needs `needs`, which `holds` for a recipe that has it."""

    keys: tuple[str, ...]
    needs: str
    holds: Callable[[Recipe], bool]


def _rule(keys: str, *needed: str) -> Rule:
    """`keys` with blanks between; each of `needed` is a key that must be on, or `key: value, value`; one of them is enough."""

    def holds(recipe: Recipe) -> bool:
        return any(_holds(recipe, one) for one in needed)

    return Rule(tuple(keys.split()), " or ".join(needed), holds)


def _holds(recipe: Recipe, condition: str) -> bool:
    key, _, wanted = condition.partition(": ")
    found = _values(recipe, key.split("."))
    if not wanted:
        return any(map(bool, found))
    return bool({"null" if value is None else str(value) for value in found} & set(wanted.split(", ")))


def _values(node: Any, path: list[str]) -> list:
    """What lies at a dotted path; of a list at that path in each of its items."""
    if isinstance(node, list) and path:
        return [value for item in node for value in _values(item, path)]
    if not path or node is None:
        return [node]
    return _values(getattr(node, path[0]), path[1:])


def _long(tasks: Iterable[str]) -> Callable[[Recipe], bool]:
    """Whether one of these long-context tasks is asked; without names all are."""
    return lambda recipe: (
        (long := recipe.evaluate.long) is not None and bool(not long.tasks or {*tasks} & {*long.tasks})
    )


OPTIMISERS = ("base", "reward", "sft.stage1", "sft.stage2", "dpo", "prune", "long_context", "draft")
DECAYS = ("cosine", "linear", "wsd")

RULES = (
    # from pages to rows
    _rule("fetch crawl.shard_bytes", "sources.type: commoncrawl"),
    Rule(
        ("fetch.anonymous", "fetch.region"), "fetch.base: s3://…", lambda recipe: recipe.fetch.base.startswith("s3://")
    ),
    _rule("crawl annotations filter dedup decontaminate quality synthesize mixture", "sources"),
    _rule("extract", "sources.type: warc, html, commoncrawl, wiki, pdf"),
    _rule("extract.pdf", "sources.type: pdf"),
    _rule(
        "languages",
        *("sources", "train.sft", "train.reward.preference", "train.eval_tasks"),
        *("evaluate.tasks", "evaluate.wildbench"),
    ),
    _rule("language", "sources", "train.sft"),
    _rule("language.min_score language.min_share", "sources"),
    Rule(("language.labels",), "language.model: FILE", lambda recipe: recipe.language.model != "lid.176"),
    _rule("filter.reference_min_documents", "filter.reference"),
    _rule("dedup.bands dedup.rows dedup.ngram dedup.threshold", "dedup.edit_share: null"),
    _rule("annotations", "annotations"),
    _rule("decontaminate", "decontaminate.against"),
    _rule("quality.native quality.per_side quality.min_examples quality.pooled", "quality.positives"),
    _rule("quality.top_share", "quality.positives", "quality.engine: encoder, signal"),
    _rule("quality.positives quality.negatives quality.labels", "quality.engine: fasttext"),
    _rule("quality.native quality.per_side quality.min_examples quality.pooled", "quality.engine: fasttext"),
    _rule("quality.model quality.label", "quality.engine: encoder"),
    _rule("quality.signal", "quality.engine: signal"),
    _rule("parallel", "parallel.sources"),
    _rule("parallel.encoder parallel.min_alignment", "parallel.encoder"),
    _rule("parallel.stage2_share", "train.pretrain"),
    _rule("tokenize.vocab_size tokenize.train_bytes tokenize.temperature", "tokenize.tokenizer: train"),
    _rule("tokenize.parity tokenize.parallel tokenize.pieces", "tokenize.tokenizer: train"),
    Rule(
        ("tokenize.add_chat_tokens",), "tokenize.tokenizer: FOLDER", lambda recipe: recipe.tokenize.tokenizer != "train"
    ),
    _rule("tokenize.dropout tokenize.heldout_share tokenize.heldout_bytes_per_language", "sources"),
    _rule("tokenize.seed", "tokenize.dropout"),
    Rule(
        ("mixture.replay_share",),
        "mixture.replay_languages",
        lambda recipe: bool(recipe.mixture.replay_languages) or recipe.mixture.replay_share == 0,
    ),
    _rule("mixture.stage2_replay_share mixture.stage2_instruction_share", "train.pretrain"),
    _rule("mixture.stage2_instruction_share", "train.sft"),
    # training
    _rule("train.cross_entropy train.context_parallel", "train.pretrain", "train.sft", "train.base.shape"),
    _rule("train.eval_every", "sources"),
    _rule("train.eval_every", "train.pretrain", "train.base.shape"),
    _rule("train.eval_tasks", "train.eval_every"),
    _rule("train.eval_bytes_per_language train.forgetting_alarm", "train.eval_every", "train.prune"),
    _rule("train.forgetting_alarm", "mixture.replay_languages", "train.prune"),
    _rule("train.base.languages train.base.tokens train.base.max_tokens train.base.optimiser", "train.base.shape"),
    *(
        _rule(f"train.{stage}.max_tokens", f"train.{stage}.tokens: auto")
        for stage in ("base", "pretrain.stage1", "pretrain.stage2")
    ),
    _rule("train.pretrain.update.rank", "train.pretrain.update.rule: lora"),
    _rule("train.pretrain.update.share train.pretrain.update.rows", "train.pretrain.update.rule: contrast"),
    _rule("train.pretrain.update.probe_updates", "train.pretrain.update.rule: contrast"),
    _rule("train.pretrain.update.vocabulary", "train.pretrain.update.rule: lora, contrast"),
    _rule("train.long_context.long_tokens", "train.long_context.long_share"),
    _rule("train.long_context.rope.original_max_position_embeddings", "train.long_context.rope.type: yarn"),
    _rule("train.long_context.align", "train.sft", "train.reward"),
    _rule("train.prune.max_heal_tokens", "train.prune.heal_tokens: auto"),
    _rule("train.prune.mask_steps train.prune.mask_lr train.prune.warmup_steps", "train.prune.method: masks"),
    _rule("train.prune.mask_tokens train.prune.mask_optimiser", "train.prune.method: masks"),
    _rule("train.prune.mask_steps", "train.prune.mask_tokens: null"),
    _rule("train.prune.steps", "train.prune.via: []"),
    _rule("train.prune.calibration_rows", "train.prune.method: activations"),
    *(
        _rule(f"{one}.min_lr", f"{one}.schedule: {', '.join(DECAYS)}")
        for one in (
            *(f"train.{stage}.optimiser" for stage in OPTIMISERS),
            "train.prune.mask_optimiser",
            *("train.pretrain.stage1", "train.pretrain.stage2"),
        )
    ),
    _rule("train.reward.epochs train.reward.max_rows train.reward.eval_every", "train.reward.model: null"),
    _rule("train.reward.eval_rows_per_language train.reward.optimiser", "train.reward.model: null"),
    _rule("train.reward.heldout_rows", "train.reward.preference"),
    _rule("train.sft.select train.sft.stage2", "train.reward"),
    _rule("train.sft.data.num_perm", "train.sft.data.similarity"),
    _rule("train.sft.data.min_letters", "train.sft.data.other_language"),
    _rule("train.sft.data.category.key", "train.sft.data.category.function: null"),
    Rule(
        ("train.sft.select.per_cell",),
        "train.sft.select.per_language without `default`",
        lambda recipe: "default" not in (_values(recipe, ["train", "sft", "select", "per_language"])[0] or ()),
    ),
    *(
        _rule(f"train.{stage}.eval_rows_per_language", f"train.{stage}.eval_every")
        for stage in ("reward", "sft", "dpo")
    ),
    *(
        _rule(
            f"train.dpo.{name}", f"train.dpo.loss: {', '.join(n for n, loss in LOSSES.items() if name in loss.numbers)}"
        )
        for name in ("alpha", "gamma")
    ),
    _rule("train.dpo.on_policy.vllm_python", "train.dpo.on_policy.engine: vllm"),
    _rule("train.draft.loss train.draft.final_norm", "train.draft.method: glide"),
    _rule("train.draft.answers.vllm_python", "train.draft.answers.engine: vllm"),
    # what becomes of it, and by what
    _rule(
        "evaluate.sample_prompt_chars evaluate.sample_tokens evaluate.sample_temperature evaluate.sample_top_p",
        "sources",
    ),
    _rule("evaluate", "train"),
    _rule("evaluate.sample_top_p", "evaluate.sample_temperature"),
    _rule("evaluate.tasks.lm_eval_tasks", "evaluate.tasks.lm_eval"),
    _rule("evaluate.wildbench.reference_column", "evaluate.wildbench.reference: column"),
    _rule("evaluate.wildbench.max_answer_chars", "evaluate.wildbench.judge"),
    _rule("evaluate.wildbench.vllm_python", "evaluate.wildbench.engine: vllm"),
    _rule("evaluate.long", "sources"),
    *(
        Rule((f"evaluate.long.{key}",), f"evaluate.long.tasks: {', '.join(tasks)}", _long(tasks))
        for key, tasks in (("rows", ("qa", "summary")), ("depths", ("needle", "keys", "pairs", "qa", "summary")))
    ),
    _rule("export", "train.pretrain", "train.sft"),
    _rule("cluster.engine", "sources"),
    _rule(
        "cluster.spark cluster.spark_memory cluster.spark_workers cluster.spark_cores cluster.spark_master", "sources"
    ),
    _rule(
        "cluster.spark cluster.spark_memory cluster.spark_workers cluster.spark_cores cluster.spark_master",
        "cluster.engine: spark",
    ),
    _rule("cluster.spark_memory", "cluster.spark: auto, local, ray"),
    _rule("cluster.spark_workers cluster.spark_cores", "cluster.spark: auto, ray"),
)
"""What is not named here some stage reads in every run (`tests/ray_jobs/config/test_asked.py` looks at each key)."""


def leaves(values: dict, model: type[Section] = Recipe, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of what a mapping says, down to the keys that are no sections of `model`."""
    for key, value in values.items():
        section = section_of(model, key)
        if section is not None and isinstance(value, dict):
            yield from leaves(value, section, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def section_of(model: type[Section], key: str) -> type[Section] | None:
    """The section that `key` of `model` is, None where it is none or is unknown."""
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    kinds = () if get_origin(annotation) is list else (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def not_read(recipe: Recipe, given: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """A sentence for each key of `given`, pairs of dotted key and value, that no stage of `recipe` reads."""
    for key, value in given:
        for rule in RULES if not _off(key, value) else ():
            if any(f"{key}.".startswith(f"{one}.") for one in rule.keys) and not rule.holds(recipe):
                yield f"{key}: nothing reads it without `{rule.needs}`; give that, or take {key} away"
                break


def _off(key: str, value: Any) -> bool:
    """Whether a value asks for nothing."""
    if value is None or value in ("", [], {}):
        return True
    *parents, last = key.split(".")
    section: type[Section] | None = Recipe
    for parent in parents:
        section = section and section_of(section, parent)
    field = section.model_fields.get(last) if section else None
    return not value and field is not None and value == field.default
