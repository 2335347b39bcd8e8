"""Recipe sections of training: the base, its expansion, continual pre-training, pruning, and how all training is run.

Numbers are Sailor2's where it gives them (arXiv 2502.12982). Each key is documented in docs/recipe.md.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from cluster.strict_yaml import Positive, Rate, Section
from ray_jobs.config.alignment import Dpo, Reward, Sft
from ray_jobs.config.mixture import Shape
from ray_jobs.config.optimiser import Optimiser
from train.methods import prune_target
from train.methods.prune_target import Target


def _budget(value: object) -> object:
    try:
        return value if value == "auto" else TypeAdapter(Positive).validate_python(value)
    except ValidationError:
        raise ValueError("give a number of tokens above 0, or `auto`") from None


Budget = Annotated[int | Literal["auto"], BeforeValidator(_budget)]  # tokens; auto: what the pools allow


class Base(Section):
    """The model that is continued: `model` (a folder or Hugging Face name), or a new one of `shape` trained on `languages`."""

    model: str | None = None
    shape: Shape | None = None
    languages: list[str] = ["en", "zh"]
    tokens: Budget = 1_000_000
    max_tokens: Positive | None = None  # of `tokens: auto`
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
    tokens: Budget
    max_tokens: Positive | None = None  # of `tokens: auto`
    rows_per_step: Positive
    lr: Rate | None = None  # None: `pretrain.lr` in stage 1, a tenth of it in stage 2
    min_lr: Annotated[float, Field(ge=0.0)] | None = None
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0


class Update(Section):
    """Which weights of the base continual pre-training changes, without growing it."""

    rule: Literal["all", "lora", "contrast"] = "all"
    rank: Positive = 256  # of lora
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.15  # of units and heads, of contrast
    rows: Positive = 8  # of each language, that contrast measures
    probe_updates: Annotated[int, Field(ge=0)] = 0  # of contrast: updates that measure what the base still learns
    vocabulary: bool | None = None  # embedding, head and norms learn whole too; None: with lora, or a share of 1

    @property
    def whole_vocabulary(self) -> bool:
        return self.vocabulary if self.vocabulary is not None else self.rule == "lora" or self.share == 1


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
    update: Update = Update()


def _theta(value: object) -> object:
    try:
        return value if value == "auto" else TypeAdapter(Rate).validate_python(value)
    except ValidationError:
        raise ValueError("give a base above 0, such as 1e7, or `auto`") from None


class Rope(Section):
    """How positions are rotated in a longer context."""

    theta: Annotated[float | Literal["auto"], BeforeValidator(_theta)] = "auto"  # the bound for its width
    type: Literal["default", "yarn"] = "default"
    factor: Annotated[float, Field(gt=1.0)] | None = None  # of YaRN
    original_max_position_embeddings: Positive | None = None  # of YaRN; None: train.context

    @model_validator(mode="after")
    def _yarn(self) -> Rope:
        if (self.type == "yarn") != (self.factor is not None):
            raise ValueError("`type: yarn` and `factor` belong together; give both, or neither")
        return self


class LongContext(Section):
    """Training in a longer context, after stage 2 (Sailor2 section 6.1; AnchorAttention, arXiv 2411.13476)."""

    context: Positive
    tokens: Positive
    mask: Literal["anchor", "intra_document", "full", "reset"] = "anchor"
    rope: Rope | None = Rope()  # None: as it is
    long_tokens: Positive = 8192  # of a long document
    long_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.6  # of each language's tokens, from long documents
    context_parallel: Positive = 1  # of this stage alone
    align: bool = False  # SFT, rewards and preferences start from its model
    eval_rows_per_language: Annotated[int, Field(ge=0)] = 2  # of held-out text, measured by position; 0 = none
    optimiser: Optimiser


class Distil(Section):
    """Healing by the model that was pruned: its distribution of each next token is what the small one learns."""

    above: Annotated[float, Field(ge=0.0, lt=1.0)] = (
        0.3  # of the parameters, removed; fewer are healed by the text alone
    )
    weight: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # of the teacher; the rest is of the text's own tokens
    temperature: Rate = 1.0


class Width(Section):
    hidden_size: Positive
    num_attention_heads: Positive
    intermediate_size: Positive

    @property
    def target(self) -> Target:
        return Target(self.hidden_size, self.num_attention_heads, self.intermediate_size)


class Prune(Width):
    start: Literal["pretrain", "long_context"] = "pretrain"  # whose model becomes smaller
    method: Literal["masks", "activations"] = "masks"  # learnt, or chosen by how active units are
    steps: Positive = 1  # rounds of pruning and healing, each a part of the way
    via: list[Width] = []  # the shapes of the rounds before the last, in the place of `steps`
    calibration_rows: Positive = 1024  # of `method: activations`, of all languages together, equally many of each
    mask_steps: Positive = 60  # of a round
    mask_tokens: Positive | None = None  # of a round, in the place of `mask_steps`
    mask_lr: Rate = 1.0
    mask_optimiser: Optimiser | None = None  # of the weights while masks are learnt; None: `optimiser`
    warmup_steps: Positive = 20
    heal_tokens: Budget  # auto: what stage 2 reads, less what the masks are learnt on
    max_heal_tokens: Positive | None = None  # of `heal_tokens: auto`
    distil: Distil | None = Distil()  # None: healed by the text alone
    optimiser: Optimiser

    @model_validator(mode="after")
    def _rows(self) -> Prune:
        own = self.mask_optimiser
        if own and own.rows_per_step != self.optimiser.rows_per_step:
            raise ValueError(
                f"mask_optimiser.rows_per_step {own.rows_per_step} is not optimiser.rows_per_step "
                f"{self.optimiser.rows_per_step}, in which all updates of the stage are counted; set both to the same"
            )
        return self

    @property
    def rounds(self) -> int:
        return len(self.via) + 1 if self.via else self.steps

    def targets(self, config) -> list[Target]:
        """The shapes of the rounds, from a model of `config`. Raises ValueError for what it cannot be pruned to."""
        if self.via:
            return prune_target.checked(config, [*(one.target for one in self.via), self.target])
        return prune_target.rounds(config, self.target, self.steps)

    def mask_updates(self, context: int) -> int:
        """Updates of a round that learn masks, on rows of `context`."""
        if self.method != "masks":
            return 0
        return (
            math.ceil(self.mask_tokens / (self.optimiser.rows_per_step * context))
            if self.mask_tokens
            else self.mask_steps
        )

    def teaching(self, removed: float) -> Distil | None:
        """How a model of which this share of the parameters was removed is taught, if it is."""
        return self.distil if self.distil and removed > self.distil.above else None


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


class ItemRows(Section):
    """Which items of which tasks are asked."""

    rows: list[str]  # globs of files, or hf: data sets; a row's task and language are what it or its path names
    include: list[str] = []  # names of tasks; empty: all that rows are found for
    own: list[str] = []  # globs of YAML files with tasks of one's own
    shots: Annotated[int, Field(ge=0)] | None = None  # solved examples; None: what each task says
    limit: Positive | None = None  # items of a task and language, chosen by a hash of their id


class EvalTasks(ItemRows):
    limit: Positive | None = 20


class DraftAnswers(Section):
    """What a draft learns from: the model's own greedy answers to prompts of the conversations of SFT."""

    prompts_per_language: Positive = 2000
    max_new_tokens: Positive = 512
    engine: Literal["hf", "vllm"] = "hf"
    vllm_python: str | None = None  # of an environment with vLLM; None: this one


class Draft(Section):
    """A draft for the last aligned model (GliDe, arXiv 2402.02082): it proposes tokens, the model says which are right."""

    method: Literal["glide", "eagle3"] = "glide"  # eagle3: for vLLM
    gamma: Annotated[int, Field(ge=1, le=16)] = 4  # tokens proposed at a time
    vocabulary: Positive | None = 32_000  # tokens that it may propose, balanced over languages; None: all
    loss: Literal["ce", "kl", "lk"] = "ce"
    final_norm: bool = True  # the model's last norm before its head
    epochs: Positive = 1
    eval_prompts_per_language: Positive = 8  # answered with and without it, and never trained on
    answers: DraftAnswers = DraftAnswers()
    optimiser: Optimiser


class Train(Section):
    seed: int | None = None  # of every training after the base; None: the recipe's
    context: Positive = 4096
    context_parallel: Positive = 1  # neighbouring workers that share each row of pre-training and SFT
    precision: Literal["fp32", "bf16", "auto", "fp8"] = "fp32"  # auto: bf16 where the device computes it natively
    parallel: Literal["replicate", "fsdp"] = "replicate"
    shard_within: Positive | None = None  # with fsdp: neighbouring workers that have the model between them; none: all
    optimiser_states: Literal["fp32", "8bit"] = "fp32"  # Adam's moments in 8 bytes a parameter, or in 2
    attention: Literal["auto", "sdpa", "flex", "varlen"] = "auto"  # within documents
    cross_entropy: Literal["auto", "chunked", "liger"] = "auto"  # of pre-training and SFT
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    compile: bool = False
    deterministic: bool = False
    exact: bool = False  # the same weights at any number of workers
    exact_threads: Positive = 1  # of each worker on a CPU, with `exact`
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
    eval_tasks: EvalTasks | None = None  # items with options that are asked in such a measurement too
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
    long_context: LongContext | None = None
    draft: Draft | None = None

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
        longer = self.long_context.context_parallel if self.long_context else 1
        if self.eval_tasks and self.eval_every and max(n, longer) > 1:
            key = "context_parallel" if n > 1 else "long_context.context_parallel"
            raise ValueError(f"eval_tasks asks whole rows, which {key} {max(n, longer)} shares among workers; set one")
        if self.exact and (n > 1 or self.parallel == "fsdp"):
            key, instead = ("context_parallel", "1") if n > 1 else ("parallel", "replicate")
            raise ValueError(
                f"exact sums whole gradients of whole rows, which {key}: {getattr(self, key)} cuts among workers; "
                f"set {key} to {instead}, or exact to false"
            )
        if self.exact and self.compile:
            raise ValueError(
                "exact wants the same kernels in each worker, and compile chooses them by the shapes that a worker has seen; "
                "set compile to false, or exact"
            )
        if self.exact_threads > 1 and not self.exact:
            raise ValueError("exact_threads has no effect without `exact: true`; take it away")
        if self.shard_within and self.parallel != "fsdp":
            raise ValueError("shard_within says how `parallel: fsdp` shards; set that, or leave it out")
        for key, value in (("workers", self.workers), ("min_workers", self.min_workers)):
            if self.shard_within and value and value % self.shard_within:
                raise ValueError(f"shard_within {self.shard_within} does not divide {key}, {value}")
        if self.guard and self.checkpoints.keep < 2:
            raise ValueError("guard may need the checkpoint before the last, so checkpoints.keep must be at least 2")
        if self.attention == "varlen" and self.precision == "fp32":
            raise ValueError("attention: varlen needs precision bf16, as its kernel takes 16-bit numbers only")
        if self.cross_entropy == "liger" and self.pretrain and self.pretrain.z_loss:
            raise ValueError("cross_entropy: liger cannot tell the z-loss from the loss; set pretrain.z_loss to 0")
        return self

    @model_validator(mode="after")
    def _long_context(self) -> Train:
        own = self.long_context
        if own is None:
            return self
        if own.context <= self.context:
            raise ValueError(f"long_context.context {own.context} is not longer than context {self.context}; raise it")
        n, key = own.context_parallel, "long_context.context_parallel"
        for name, value, step in (
            ("workers", self.workers, n),
            ("min_workers", self.min_workers, n),
            ("long_context.context", own.context, 2 * n),
            *((("context", self.context, 2 * n),) if self.eval_every else ()),  # of held-out text
        ):
            if n > 1 and value and value % step:
                raise ValueError(f"{key} {n} needs {name} to be a multiple of {step}, not {value}")
        if n > 1 and self.attention == "varlen":
            raise ValueError(f"attention: varlen cannot share a row among workers; with {key} leave it at auto")
        if n > 1 and self.exact:
            raise ValueError(f"exact sums whole gradients of whole rows, which {key}: {n} cuts; set it to 1")
        return self

    @model_validator(mode="after")
    def _something_to_do(self) -> Train:
        if self.prune and self.prune.start == "long_context" and self.long_context is None:
            raise ValueError("prune.start: long_context needs `long_context`, whose model it makes smaller; give it")
        if not (self.pretrain or self.sft or self.reward):
            raise ValueError("nothing is trained; give `pretrain`, or `sft` to align the base as it is")
        for key, why in (("sft", "it starts from"), ("reward", "its answers are scored by")):
            if self.dpo and getattr(self, key) is None:
                raise ValueError(f"dpo needs `{key}`, whose model {why}; give it, or set `dpo: null`")
        if self.draft and self.sft is None:
            raise ValueError("draft needs `sft`, whose prompts its model answers; give it, or set `draft: null`")
        if self.draft and self.draft.answers.max_new_tokens >= self.context:
            raise ValueError(
                f"draft.answers.max_new_tokens {self.draft.answers.max_new_tokens} leaves no room for a prompt in context "
                f"{self.context}; lower it"
            )
        if self.sft and self.reward and self.sft.stage2 is None:
            raise ValueError("sft.stage2 is required with `reward`, by which its rows are selected; give it")
        if self.pretrain is None:
            for key, why in (
                ("expand", "fills the new blocks"),
                ("prune", "has the text that a pruned model learns from"),
                ("long_context", "has the model and the text that it goes on with"),
            ):
                if getattr(self, key):
                    raise ValueError(f"{key} needs `pretrain`, which {why}")
        elif self.pretrain.control and self.expand is None:
            raise ValueError("pretrain.control compares with expansion, so it needs `expand`")
        elif (rule := self.pretrain.update.rule) != "all":
            if self.expand:
                raise ValueError(
                    f"pretrain.update.rule: {rule} trains a part of the base as it is; set `expand: null`, or the rule to all"
                )
            if self.precision == "fp8":
                raise ValueError(
                    f"pretrain.update.rule: {rule} has matrix products of its own, which precision: fp8 does not know; take bf16"
                )
        return self
