"""The sections of a recipe as typed models that refuse unknown keys. Numbers are the paper's where it gives them.

Sailor2, arXiv 2502.12982. Each key is documented in docs/recipe.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from cluster.strict_yaml import Positive, Rate, Section, Share
from ray_jobs.config.alignment import ChatData, Watch
from ray_jobs.config.curation import Crawl, Decontaminate, Dedup, Extract, Fetch, Filter, Language, Quality, Source
from ray_jobs.config.mixture import Mixture, Shape, Tokenize
from train.preference_losses.table import LOSSES

LANGUAGES = ("my", "ceb", "ilo", "id", "jv", "km", "lo", "ms", "su", "tl", "th", "vi", "war", "en", "zh")


class Optimiser(Section):
    """One training run of the loop. `rows` are packed sequences (or preference pairs) per optimiser step."""

    rows_per_step: Positive
    micro_rows: Positive = 8
    lr: Rate
    min_lr: Annotated[float, Field(ge=0.0)] = 0.0
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: Rate = 1e-8
    clip: Rate = 1.0
    checkpoint_every: Annotated[int, Field(ge=0)] = 50  # steps; 0 = only at the end


class Base(Section):
    """The model that is continued: `model` (a folder or Hugging Face name), or a new one of `shape` trained on `languages`."""

    model: str | None = None
    shape: Shape | None = None
    languages: list[str] = ["en", "zh"]
    tokens: Positive = 1_000_000
    optimiser: Optimiser | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Base:
        if (self.model is None) == (self.shape is None):
            both = " (`shape: null` takes away the one of the recipe below)" if self.model else ""
            raise ValueError(f"give either `model` or `shape`{both}")
        if self.shape is not None and self.optimiser is None:
            raise ValueError("a new model of `shape` needs an `optimiser`")
        return self


class Expand(Section):
    new_layers: Positive
    trainable: Literal["all", "new_blocks"] = "all"
    untie_embeddings: bool = False
    vocab_size: Positive | None = None


class PretrainStage(Section):
    tokens: Positive
    rows_per_step: Positive
    lr: Rate | None = None  # None: `pretrain.lr` in stage 1, a tenth of it in stage 2
    min_lr: Annotated[float, Field(ge=0.0)] | None = None
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0


class Pretrain(Section):
    """Continual pre-training in two stages (paper section 4.4)."""

    lr: Rate = 1e-4
    eps: Rate = 1e-5
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    micro_rows: Positive = 8
    z_loss: Annotated[float, Field(ge=0.0)] = 0.0
    checkpoint_every: Annotated[int, Field(ge=0)] = 50
    stage1: PretrainStage
    stage2: PretrainStage
    control: bool = False  # also train the base without expansion, to measure what expansion is worth


class Reward(Section):
    """Our own Bradley-Terry model, trained on `preference`, or `model`, which is then only measured on them."""

    model: str | None = None  # a sequence classifier with one label: a folder (any URI) or Hugging Face name
    preference: str | None = None  # glob of rows {id, lang, prompt, chosen, rejected}
    max_rows: Positive | None = None  # to train on, by a hash of their id
    heldout_rows: Positive = 1000  # to measure, at most; a tenth of the prompts is held out
    epochs: Positive = 1
    eval_every: Annotated[int, Field(ge=0)] = 0  # updates between measurements on held-out pairs; 0 = none
    eval_rows_per_language: Positive = 32  # of them, and at most a tenth of a language's
    optimiser: Optimiser | None = None

    @model_validator(mode="after")
    def _trained_or_given(self) -> Reward:
        if self.model is None and (self.preference is None or self.optimiser is None):
            raise ValueError("give either `model`, or `preference` and `optimiser` to train one")
        return self


class SftStage(Section):
    epochs: Positive = 1
    optimiser: Optimiser


class Select(Section):
    per_cell: Positive = 40  # examples kept for each (language, category), where `per_language` does not say
    per_language: dict[str, Annotated[int, Field(ge=0)]] = {}  # a language, or `default` -> examples kept of it
    shares: dict[str, Rate] = {}  # category -> its part of `per_language`; none: all alike
    max_similarity: Share = 0.6
    embedding_model: str | None = (
        None  # a sentence-embedding model: a folder or Hugging Face name; None: the base model
    )

    @model_validator(mode="after")
    def _shares_of_something(self) -> Select:
        if self.shares and not self.per_language:
            raise ValueError("`shares` divide the numbers of `per_language`, which is not given")
        return self


class Sft(Section):
    instruct: str  # glob of chat rows, or hf:NAME
    data: ChatData = ChatData()
    max_rows: Positive | None = None  # by a hash of their id
    eval_every: Annotated[int, Field(ge=0)] = 0  # updates between measurements on held-out conversations; 0 = none
    eval_rows_per_language: Positive = 32  # of them, and at most a tenth of a language's
    stage1: SftStage
    select: Select = Select()
    stage2: SftStage


class OnPolicy(Section):
    rounds: Annotated[int, Field(ge=1, le=9)] = 1  # each samples from the model of the one before, and starts from it
    engine: Literal["hf", "vllm"] = "hf"  # hf: ours, CPU or GPU; vllm: GPU
    vllm_python: str | None = None  # interpreter of an environment with vLLM; None: the one that runs Pinisi
    max_logprob_gap: Rate | None = None  # engine against trainer, nats per token; None: 1e-3 in fp32, 0.05 in bf16
    prompts: Positive = 64
    samples: Positive = 5
    temperature: Rate = 0.9
    top_p: Share = 0.95
    max_new_tokens: Positive = 2048


def _preference_loss(name: str) -> str:
    if name not in LOSSES:
        raise ValueError(f"must be one of {', '.join(LOSSES)}")
    return name


class Dpo(Section):
    preference: str  # glob of rows {id, lang, prompt, chosen, rejected}
    loss: Annotated[str, AfterValidator(_preference_loss)] = "lr_dpo"
    beta: Rate = 0.01
    alpha: Annotated[float, Field(ge=0.0)] = 1e-3
    gamma: Annotated[float, Field(ge=0.0)] = 0.5
    max_prompt_tokens: Positive = 1024
    drop_worst_perplexity: Share = 0.1  # of each language's pairs, by the base model
    max_rows: Positive | None = None
    eval_every: Annotated[int, Field(ge=0)] = 0  # updates between measurements on held-out pairs; 0 = none
    eval_rows_per_language: Positive = 32  # of them, and at most a tenth of a language's
    optimiser: Optimiser
    on_policy: OnPolicy = OnPolicy()
    watch: Watch | None = Watch()


class Prune(Section):
    hidden_size: Positive
    num_attention_heads: Positive
    intermediate_size: Positive
    mask_steps: Positive = 60
    mask_lr: Rate = 1.0
    warmup_steps: Positive = 20
    heal_tokens: Positive
    optimiser: Optimiser


class Checkpoints(Section):
    """How training checkpoints are written. Nothing here changes what is trained."""

    asynchronous: bool = True  # while training goes on, from a copy in host memory
    keep: Annotated[int, Field(ge=1)] = 2
    on_error: Literal["stop", "warn"] = "stop"  # a full disk


class Guard(Section):
    """When the loss leaves its course: back to the last good checkpoint, without the updates that did it."""

    spike: Annotated[float, Field(gt=1.0)] = 3.0  # of the loss, times the running median
    norm_spike: Annotated[float, Field(gt=1.0)] | None = 10.0  # of the gradient norm, times the running median
    patience: Positive = 3  # bad updates in a row
    max_rollbacks: Positive = 5


class Train(Section):
    context: Positive = 4096
    context_parallel: Positive = 1  # neighbouring workers that share each row of pre-training and SFT
    precision: Literal["fp32", "bf16", "auto"] = "fp32"  # auto: bf16 where the device computes it natively
    parallel: Literal["replicate", "fsdp"] = "replicate"
    optimiser_states: Literal["fp32", "8bit"] = "fp32"  # Adam's moments in 8 bytes a parameter, or in 2
    attention: Literal["auto", "sdpa", "flex", "varlen"] = "auto"  # within documents
    cross_entropy: Literal["chunked", "liger"] = "chunked"  # of pre-training and SFT
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    compile: bool = False
    deterministic: bool = False
    workers: Positive = 2
    min_workers: Positive | None = None  # on a cluster, go on with as few as this while nodes are missing
    resize_seconds: Rate = 60.0  # how often to look whether there are nodes for more
    max_failures: Annotated[int, Field(ge=0)] = (
        3  # lost nodes or processes of a stage that were not announced, before it fails
    )
    checkpoints: Checkpoints = Checkpoints()
    guard: Guard | None = None
    eval_every: Annotated[int, Field(ge=0)] = 0  # steps of pre-training between measurements on held-out text; 0 = none
    eval_bytes_per_language: Positive = 20_000  # of held-out text in such a measurement
    forgetting_alarm: Rate = 0.05  # bits per byte that a replay language may rise before a warning
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = []
    peak_tflops: Rate | None = None  # of a device, for the MFU of one that train/monitor/flops.py does not know
    device: Literal["auto", "cpu", "gpu"] = (
        "auto"  # one GPU for each worker; auto: where this machine or the cluster has one
    )
    base: Base
    expand: Expand | None = None  # None: the base as it is
    pretrain: Pretrain | None = None  # None: no continual pre-training; the base is aligned as it is
    reward: Reward | None = None
    sft: Sft | None = None
    dpo: Dpo | None = None
    prune: Prune | None = None

    @model_validator(mode="after")
    def _workers_and_guard(self) -> Train:
        if self.min_workers and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is more than workers {self.workers}")
        n = self.context_parallel
        if n > 1 and self.attention == "varlen":
            raise ValueError(
                "attention: varlen cannot share a row among workers; with context_parallel leave it at auto"
            )
        for key, value, step in (
            ("workers", self.workers, n),
            ("min_workers", self.min_workers, n),
            ("context", self.context, 2 * n),
        ):
            if n > 1 and value and value % step:
                raise ValueError(f"context_parallel {n} needs {key} to be a multiple of {step}, not {value}")
        if self.guard and self.checkpoints.keep < 2:
            raise ValueError("guard may need the checkpoint before the last, so checkpoints.keep must be at least 2")
        if self.attention == "varlen" and self.precision == "fp32":
            raise ValueError("attention: varlen needs precision bf16, as its kernel takes 16-bit numbers only")
        if self.cross_entropy == "liger" and self.pretrain and self.pretrain.z_loss:
            raise ValueError("cross_entropy: liger cannot tell the z-loss from the loss; set pretrain.z_loss to 0")
        return self

    @model_validator(mode="after")
    def _something_to_do(self) -> Train:
        if not (self.pretrain or self.sft or self.reward):
            raise ValueError("nothing is trained; give `pretrain`, or `sft` to align the base as it is")
        if self.pretrain is None:
            for key, why in (
                ("expand", "fills the new blocks"),
                ("prune", "has the text that a pruned model learns from"),
            ):
                if getattr(self, key):
                    raise ValueError(f"{key} needs `pretrain`, which {why}")
        elif self.pretrain.control and self.expand is None:
            raise ValueError("pretrain.control compares with expansion, so it needs `expand`")
        return self


class Evaluate(Section):
    sample_prompt_chars: Positive = 60
    sample_tokens: Positive = 40


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
    filter: Filter = Filter()
    dedup: Dedup = Dedup()
    decontaminate: Decontaminate = Decontaminate()
    quality: Quality = Quality()
    tokenize: Tokenize = Tokenize()
    mixture: Mixture = Mixture()
    train: Train | None = None  # None: curation and mixture only
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    cluster: Cluster = Cluster()
    run: Guarded = Guarded()

    @model_validator(mode="after")
    def _sources(self) -> Recipe:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError("two sources have the same `name`")
        if not names:
            self._finished_model()
        for name in self.filter.reference:
            if name not in names:
                raise ValueError(f"filter.reference names the source {name!r}, which is not in `sources`")
        for key in ("positives", "negatives", "native"):
            for name in getattr(self.quality, key):
                if name not in names:
                    raise ValueError(f"quality.{key} names the source {name!r}, which is not in `sources`")
        if both := sorted(set(self.quality.native) & {*self.quality.positives, *self.quality.negatives}):
            raise ValueError(f"quality.native: {both[0]!r} is trained on too, so it can check nothing")
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
