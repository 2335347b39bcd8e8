"""A recipe as a typed model that refuses unknown keys: its sections lie beside it. Each key is documented in docs/recipe.md."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from cluster.strict_yaml import Positive, Section, Share
from curation.policy.keys import nearest
from ray_jobs.config.curation import (
    Annotation,
    Crawl,
    Decontaminate,
    Dedup,
    Extract,
    Fetch,
    Filter,
    Language,
    Quality,
    Source,
)
from ray_jobs.config.mixture import Mixture, Tokenize
from ray_jobs.config.parallel import Parallel
from ray_jobs.config.synthesis import Synthesize
from ray_jobs.config.training import ItemRows, Train
from ray_jobs.config.wildbench import Wildbench

LANGUAGES = ("my", "ceb", "ilo", "id", "jv", "km", "lo", "ms", "su", "tl", "th", "vi", "war", "en", "zh")


LongTask = Literal["needle", "keys", "pairs", "absent", "values", "variables", "qa", "summary"]
LONG_TASKS = get_args(LongTask)


class Tasks(ItemRows):
    """Public tasks and one's own, asked of the models of a run."""

    models: list[str] = []  # stages whose models are asked; empty: all
    lm_eval: list[str] = []  # tasks of lm-eval by name, run by it (extra `eval`)
    lm_eval_tasks: str | None = None  # folder with tasks of lm-eval's own YAML, for its include_path


class Long(Section):
    """Long-context tasks, asked of the models of a run about its held-out documents."""

    lengths: Annotated[list[Annotated[int, Field(ge=128)]], Field(min_length=1)]  # of prompt and answer, in tokens
    samples: Positive = 20  # of a task, language, length and depth
    tasks: list[LongTask] = []  # empty: all
    depths: Annotated[list[Share], Field(min_length=1)] = [0, 0.25, 0.5, 0.75, 1]  # of what is asked
    models: list[str] = []  # stages whose models are asked; empty: all
    languages: list[str] = []  # empty: those of the recipe that have templates
    rows: list[str] = []  # of qa and summary: globs of files, or hf: data sets
    beyond: bool = False  # also lengths that a model was not trained on

    @property
    def asked(self) -> list[str]:
        """The tasks that are asked: without names all, those about rows where there are rows."""
        return [*self.tasks] or [task for task in LONG_TASKS if self.rows or task not in ("qa", "summary")]

    @model_validator(mode="after")
    def _rows(self) -> Long:
        if not self.rows and (needing := sorted({"qa", "summary"} & {*self.tasks})):
            raise ValueError(f"tasks: {needing[0]} needs `rows` with texts")
        return self


class Evaluate(Section):
    sample_prompt_chars: Positive = 60
    sample_tokens: Positive = 40
    sample_temperature: Annotated[float, Field(ge=0)] = 0.7  # 0: the most likely token each time
    sample_top_p: Annotated[float, Field(gt=0, le=1)] = 0.8
    tasks: Tasks | None = None
    wildbench: Wildbench | None = None
    long: Long | None = None


class Export(Section):
    """What the Hugging Face folders of a run are like."""

    dtype: Literal["bf16", "fp32"] = "bf16"  # of the weights
    licence: Annotated[str, Field(pattern=r"^[\w.+-]+$")] | None = None  # of the weights, by its Hugging Face name


class Cluster(Section):
    engine: Literal["spark", "ray", "local"] = "spark"  # of filter and dedup
    cpus: Positive | None = None  # of an embedded Ray; None = all cores
    spark: Literal["auto", "local", "ray", "submit"] = "auto"  # ray on a cluster (`--address`), else local
    spark_memory: str = "1g"  # Java heap of the embedded Spark, or of each worker in Ray
    spark_workers: Positive = 2  # of spark: ray
    spark_cores: Positive = 4  # of each
    spark_master: str | None = None  # of spark: submit

    @model_validator(mode="after")
    def _master(self) -> Cluster:
        if (self.spark == "submit") != (self.spark_master is not None):
            raise ValueError("spark: submit and spark_master (spark://HOST:7077) go together")
        return self


class Guarded(Section):
    guard_minutes: Annotated[float, Field(ge=0)] = 30.0  # a stage that took longer is not run again for code alone


class Recipe(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    seed: int = 42
    languages: list[str] = list(LANGUAGES)
    sources: list[Source]  # may be empty where a finished model is aligned
    fetch: Fetch = Fetch()
    crawl: Crawl = Crawl()
    extract: Extract = Extract()
    language: Language = Language()
    annotations: list[Annotation] = []
    filter: Filter = Filter()
    dedup: Dedup = Dedup()
    decontaminate: Decontaminate = Decontaminate()
    quality: Quality = Quality()
    parallel: Parallel = Parallel()
    synthesize: Synthesize | None = None  # None: no text is made by a model
    tokenize: Tokenize = Tokenize()
    mixture: Mixture = Mixture()
    train: Train | None = None  # None: curation and mixture only
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    cluster: Cluster = Cluster()
    run: Guarded = Guarded()

    @model_validator(mode="before")
    @classmethod
    def _own_tokenizer(cls, values: object) -> object:
        """`tokenize.tokenizer: base` becomes the name of the base, so that all that reads the recipe sees a folder or name."""
        if not isinstance(values, dict) or not isinstance(tokenize := values.get("tokenize"), dict):
            return values
        if tokenize.get("tokenizer") != "base":
            return values
        train = values.get("train")
        base = train.get("base") if isinstance(train, dict) else None
        model = base.get("model") if isinstance(base, dict) else None
        if model is None:
            raise ValueError("tokenize.tokenizer: base is that of `train.base.model`, which is not given")
        return {**values, "tokenize": {**tokenize, "tokenizer": model}}

    @model_validator(mode="before")
    @classmethod
    def _pairs_apart(cls, values: object) -> object:
        """Sources of `type: parallel` become `parallel.sources`, so that all that reads `sources` finds documents there."""
        if not isinstance(values, dict) or not isinstance(sources := values.get("sources"), list):
            return values
        pairs = [one for one in sources if isinstance(one, dict) and one.get("type") == "parallel"]
        own = values.get("parallel") or {}
        if not pairs or not isinstance(own, dict):
            return values
        documents = [one for one in sources if one not in pairs]
        return {**values, "sources": documents, "parallel": {**own, "sources": [*own.get("sources", ()), *pairs]}}

    @model_validator(mode="before")
    @classmethod
    def _own_seed(cls, values: object) -> object:
        """A seed of training that is the recipe's is none of its own, so that equal work has equal fingerprints."""
        if not isinstance(values, dict) or not isinstance(train := values.get("train"), dict):
            return values
        if train.get("seed") != values.get("seed", cls.model_fields["seed"].default):
            return values
        return {**values, "train": {**train, "seed": None}}

    @model_validator(mode="after")
    def _sources(self) -> Recipe:
        for label, code in self.language.labels.items():
            if code not in (*self.languages, "other"):
                near = nearest(code, [*self.languages, "other"])
                raise ValueError(f"language.labels: {label} is mapped to {code!r}, which is not in `languages`{near}")
        if isinstance(readings := self.mixture.max_epochs, dict):
            for code in readings:
                if code not in (known := (*self.languages, "default", "instructions")):
                    raise ValueError(f"mixture.max_epochs: {code!r} is not in `languages`{nearest(code, [*known])}")
        for code in self.parallel.min_score:
            if code not in (known := (*self.languages, "default")):
                raise ValueError(f"parallel.min_score: {code!r} is not in `languages`{nearest(code, [*known])}")
        if self.synthesize and (sentence := self.synthesize.outside(self.languages)):
            raise ValueError(sentence)
        names = [source.name for source in self.sources]
        pairs = [source.name for source in self.parallel.sources]
        if len({*names, *pairs}) != len(names) + len(pairs):
            raise ValueError("two sources have the same `name`")
        for pair in self.parallel.sources:
            if unknown := sorted(set(pair.langs) - set(self.languages)):
                raise ValueError(f"source {pair.name!r}: `sides` has {unknown[0]!r}, which is not in `languages`")
        if pairs and not names:
            raise ValueError("sources: those of type parallel stand beside documents; add a source of documents")
        if not names:
            self._finished_model()
        for name in self.filter.reference:
            if name not in names:
                raise ValueError(f"filter.reference names the source {name!r}, which is not in `sources`")
        for entry in self.annotations:
            for name in entry.sources:
                if name not in names:
                    raise ValueError(f"annotations.sources names the source {name!r}, which is not in `sources`")
        for key in ("positives", "negatives", "native"):
            for name in getattr(self.quality, key):
                if name not in names:
                    raise ValueError(f"quality.{key} names the source {name!r}, which is not in `sources`")
        if both := sorted(set(self.quality.native) & {*self.quality.positives, *self.quality.negatives}):
            raise ValueError(f"quality.native: {both[0]!r} is trained on too, so it can check nothing")
        return self

    @model_validator(mode="after")
    def _two_sides(self) -> Recipe:
        """What `contrast` compares."""
        if not self.train or not self.train.pretrain or self.train.pretrain.update.rule != "contrast":
            return self
        replay = set(self.mixture.replay_languages) & set(self.languages) if self.mixture.replay_share else set()
        if not replay or replay == set(self.languages):
            missing = "there is none of the first" if replay else "there is none of the second, with a share"
            raise ValueError(
                "train.pretrain.update.rule: contrast compares the other `languages` with mixture.replay_languages, and "
                f"{missing}; take lora, or change these"
            )
        return self

    def _finished_model(self) -> None:
        """What a recipe without documents must be. Raises ValueError."""
        if self.train is None or self.train.pretrain or self.train.base.model is None:
            raise ValueError(
                "sources: there is none; only a recipe that aligns a finished model (`train.base.model`, and no "
                "`train.pretrain`) needs no documents"
            )
        if self.tokenize.tokenizer == "train":
            raise ValueError(
                f"tokenize.tokenizer: without sources there is no text to train one on; name that of the model "
                f"({self.train.base.model})"
            )
