"""GPU time of what a recipe does on GPUs beside pre-training: RegMix's proxies, reward model, SFT, preferences, evaluation.

A forward pass is a third of a training step. Stages that only read a model work on single GPUs (`Step.gpus`): as many as
there are tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from cluster.deploy.spec import Group
from ray_jobs.alignment import judged, measures
from ray_jobs.config.alignment import Dpo
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.training import Prune, Train
from ray_jobs.config.wildbench import COLUMN
from ray_jobs.plan.model import Model, context_of_pruning, model, students, teacher
from ray_jobs.plan.rates import Number
from ray_jobs.plan.training import Step, flops_per_second, utilisation
from ray_jobs.run import wildbench_choice
from ray_jobs.run.graph import (
    DPO_WATCH,
    DRAFT,
    DRAFT_ANSWERS,
    EVALUATE,
    LONG,
    OFF_POLICY,
    ON_POLICY,
    PROXIES,
    REWARD,
    ROUNDS,
    SFT_1,
    SFT_2,
    SFT_SELECT,
    TOKENIZE,
    WILDBENCH,
    enabled,
)
from train.long import sizes
from train.monitor import flops
from train.preference_losses.table import LOSSES

FORWARD = 1 / 3  # of a step
Stepper = Callable[..., Step]  # (name, tokens, source, times a step, of a model, gpus)
EMBEDDING_BYTES = 8  # of a number of what the head keeps in memory


def before(recipe: Recipe, n: Mapping[str, Number], group: Group) -> list[Step]:
    """The proxies, which come before training."""
    if recipe.mixture.regmix is None or not recipe.sources:
        return []
    own = recipe.mixture.regmix.proxies
    runs = own.runs + own.heldout_runs
    per_token = flops.per_token(own.shape.model_dump(), own.vocab_size, own.context)
    mfu = n["proxy_mfu"]
    seconds = runs * own.tokens * per_token / flops_per_second(group, mfu)
    source = f"mixture.regmix.proxies: {runs:,} runs x {own.tokens:,} tokens; {per_token / 1e6:,.0f} MFLOP a token"
    if own.larger:
        more = flops.per_token(own.larger.model_dump(), own.vocab_size, own.context) / per_token
        runs += own.heldout_runs
        seconds *= (runs - own.heldout_runs + own.heldout_runs * more) / (runs - own.heldout_runs)
        source += f"; {own.heldout_runs:,} of `larger`, {more:.1f} times as much each"
    tasks = math.ceil(runs / own.group)
    return [Step(PROXIES, runs * own.tokens, seconds, f"{source}; MFU {mfu.value:.0%}, {mfu.source}", tasks)]


def after(recipe: Recipe, n: Mapping[str, Number], group: Group) -> list[Step]:
    """What follows pre-training, in the order of the stages."""
    train = given(recipe.train)
    _, grown = model(recipe)
    chat = n["chat_tokens"].value
    used = utilisation(train, n, grown.parameters)
    speed = flops_per_second(group, used)
    mfu = f"MFU {used.value:.0%} of {group.gpu_tflops:,.0f} TFLOP/s; {used.source}"

    def attending(to: float) -> Stepper:
        def step(
            name: str, tokens: float, source: str, times: float = 1.0, *, of: Model = grown, gpus: int | None = None
        ) -> Step:
            each = flops.in_documents(of.shape, of.vocab_size, to)
            cost = f"{times:.3g} x {each / 1e9:,.1f} GFLOP a token"
            return Step(name, tokens, times * tokens * each / speed, f"{source}; {cost}; {mfu}", gpus)

        return step

    step = attending(min(chat, train.context) / 2)  # whatever the context, a chat sees no other
    rows_of_text = attending(train.context)

    def said(rows: float, what: str, key: str, name: str) -> str:
        source = n[name].source if rows == n[name].value else key
        return f"{rows:,.0f} {what} ({source}) x {chat:.0f} tokens ({n['chat_tokens'].source})"

    steps = []
    if train.reward and train.reward.model and train.reward.preference:
        rows = min(train.reward.heldout_rows, n["preference_rows"].value)
        source = f"{rows:,.0f} held-out pairs (train.reward.heldout_rows) x {chat:.0f} tokens; a forward pass"
        steps.append(step(REWARD, 2 * rows * chat, source, FORWARD, gpus=1))
    if train.reward and not train.reward.model:
        rows = _rows(n, "preference_rows", train.reward.max_rows)
        source = said(rows, "pairs of two answers", "train.reward.max_rows", "preference_rows")
        source = f"{source} x {train.reward.epochs} epochs"
        steps.append(step(REWARD, 2 * rows * chat * train.reward.epochs, source))
    if train.sft:
        rows = _rows(n, "chat_rows_stage1", train.sft.max_rows)
        read = said(rows, "conversations", "train.sft.max_rows", "chat_rows_stage1")
        epochs = train.sft.stage1.epochs
        steps.append(step(SFT_1, rows * chat * epochs, f"{read} x {epochs} epochs"))
        if train.reward:
            passes = f"{read}; a forward pass for rewards, one for perplexity and embeddings"
            tasks = 2 * math.ceil(rows / (measures.ROWS * measures.SHARDS))
            steps.append(step(SFT_SELECT, rows * chat, passes, 2 * FORWARD, gpus=tasks))
            rows, epochs = _rows(n, "chat_rows_stage2", rows), given(train.sft.stage2).epochs
            taken = said(rows, "conversations", "train.sft.max_rows, if all are taken", "chat_rows_stage2")
            steps.append(step(SFT_2, rows * chat * epochs, f"{taken} x {epochs} epochs"))
    if train.dpo and train.sft and train.reward:
        rows = _rows(n, "preference_rows", train.dpo.max_rows)
        steps += _preferences(
            train.dpo, n, step, rows, said(rows, "pairs of two answers", "train.dpo.max_rows", "preference_rows")
        )
        steps += _watching(train.dpo, n, step, rows, len(recipe.languages))
    steps += _drafting(recipe, n, step)
    steps += _pruning(recipe, rows_of_text)
    steps += _judged(recipe, n)
    if not recipe.sources:  # nothing is held out
        return steps
    aligned = train.dpo.on_policy.rounds if train.dpo and train.sft and train.reward else 0
    models = 1 + bool(train.expand) + aligned + bool(train.prune) + bool(train.long_context)
    models += 2 + train.pretrain.control if train.pretrain else 0
    heldout = recipe.tokenize.heldout_bytes_per_language * len(recipe.languages) / n["bytes_per_token"].value
    source = (
        f"{models} models x tokenize.heldout_bytes_per_language of {len(recipe.languages)} languages / bytes_per_token"
    )
    steps.append(
        rows_of_text(
            EVALUATE, models * heldout, f"{source}; a forward pass, a GPU for each model", FORWARD, gpus=models
        )
    )
    if (long := recipe.evaluate.long) is not None:
        there = next(stage.inputs for stage in enabled(recipe) if stage.name == LONG)
        asked = len(long.models or [name for name in there if name != TOKENIZE])
        languages, each = len(long.languages or recipe.languages), (long.samples, len(long.depths), long.asked)
        texts = sum(sizes.texts(task, *each) for task in long.asked)
        source = f"{asked} models x {languages} languages x {texts:,} texts of evaluate.long.lengths together"
        tokens, tasks = asked * languages * texts * sum(long.lengths), asked * languages
        attended = sum(length**2 for length in long.lengths) / sum(long.lengths) / 2
        steps.append(attending(attended)(LONG, tokens, source, FORWARD, gpus=tasks))
    return steps


def size(recipe: Recipe, stage: str, n: Mapping[str, Number]) -> tuple[float, float, int]:
    """(tokens, rows or pairs, how many of these an update has) of a stage of alignment or pruning, rows of chats packed. Where
    nothing says how many rows there are, as many as `n` assumes."""
    train, chat = given(recipe.train), n["chat_tokens"].value
    if stage == REWARD:
        reward = given(train.reward)
        rows = _rows(n, "preference_rows", reward.max_rows) * reward.epochs
        return 2 * rows * chat, rows, given(reward.optimiser).rows_per_step
    if stage in (SFT_1, SFT_2):
        sft = given(train.sft)
        own = sft.stage1 if stage == SFT_1 else given(sft.stage2)
        rows = _rows(n, "chat_rows_stage1" if stage == SFT_1 else "chat_rows_stage2", sft.max_rows) * own.epochs
        return rows * chat, rows * chat / train.context, own.optimiser.rows_per_step
    if stage == OFF_POLICY or stage in ROUNDS:
        dpo = given(train.dpo)
        rows = float(dpo.on_policy.prompts)
        if stage == OFF_POLICY:
            rows = _rows(n, "preference_rows", dpo.max_rows)
        return 2 * rows * chat, rows, dpo.optimiser.rows_per_step
    if stage == DRAFT:
        draft = given(train.draft)
        tokens: float = draft.answers.prompts_per_language * len(recipe.languages) * chat * draft.epochs
        return tokens, tokens / train.context, draft.optimiser.rows_per_step
    prune, context = given(train.prune), context_of_pruning(train)
    masked = prune.rounds * prune.mask_updates(context) * prune.optimiser.rows_per_step * context
    read = prune.rounds * prune.calibration_rows * context
    tokens = {"masks": masked, "activations": read}.get(stage.rsplit("/", 1)[-1], 0)
    tokens = tokens or _healing(prune, train, masked)[0] / (1 if stage.endswith("heal") else prune.rounds)
    return tokens, tokens / context, prune.optimiser.rows_per_step


def _rows(n: Mapping[str, Number], name: str, most: float | None) -> float:
    return min(n[name].value, most or math.inf)


def _preferences(dpo: Dpo, n: Mapping[str, Number], step: Stepper, rows: float, source: str) -> list[Step]:
    chat, own = n["chat_tokens"].value, dpo.on_policy
    times: float = 1
    passes = "the policy's steps"
    if LOSSES[dpo.loss].reference:
        times, passes = 1 + FORWARD, f"a forward pass of the reference, then {passes}"
    steps = [
        step("dpo/perplexity", 2 * rows * chat, f"{source}; a forward pass of the base, one task", FORWARD, gpus=1),
        step(OFF_POLICY, 2 * rows * chat, f"{source}; {passes}", times),
    ]
    answers = own.prompts * own.samples
    length = min(float(own.max_new_tokens), chat)
    rate = n["generate_rate"]
    tasks = math.ceil(own.prompts / 16)
    sampled = f"{own.prompts:,} prompts x {own.samples} answers of {length:.0f} tokens"
    sampled = f"{sampled}; {rate.value:,.0f} {rate.unit}, {rate.source}"
    scored = f"{own.prompts:,} prompts x {own.samples} answers x {chat:.0f} tokens; a forward pass of the reward model"
    pairs = f"{own.prompts:,} pairs at most of two answers (train.dpo.on_policy.prompts) x {chat:.0f} tokens"
    for stage in ROUNDS[: own.rounds]:
        number = stage.removeprefix(ON_POLICY)
        steps += [
            Step(f"dpo/samples{number}", answers * length, answers * length / rate.value, sampled, tasks),
            step(f"dpo/rewards{number}", answers * chat, scored, FORWARD, gpus=tasks),
            step(stage, 2 * own.prompts * chat, f"{pairs}; {passes}", times),
        ]
    return steps


def _watching(dpo: Dpo, n: Mapping[str, Number], step: Stepper, rows: float, languages: int) -> list[Step]:
    """The answers of each round's model, and of snapshots of it, to prompts that are held out, and their rewards."""
    own = dpo.watch
    if own is None:
        return []
    prompts, rate, size = own.per_language * languages, n["generate_rate"], dpo.optimiser.rows_per_step
    updates = [math.ceil(rows * (1 - dpo.drop_worst_perplexity) / size)]
    updates += [math.ceil(dpo.on_policy.prompts / size)] * dpo.on_policy.rounds
    models = 1 + len(updates) + (sum(count // own.every for count in updates) if own.every else 0)
    length = min(float(dpo.on_policy.max_new_tokens), n["chat_tokens"].value)
    tokens = models * prompts * length
    source = (
        f"{models:,} models x {prompts:,} prompts x {length:.0f} tokens; {rate.value:,.0f} {rate.unit}, {rate.source}"
    )
    scores = step(DPO_WATCH, tokens, "", FORWARD)
    seconds = tokens / rate.value + scores.gpu_seconds
    return [Step(DPO_WATCH, tokens, seconds, f"{source}, and a forward pass of the reward model", models)]


def _judged(recipe: Recipe, n: Mapping[str, Number]) -> list[Step]:
    """The answers that judges compare."""
    for stage in enabled(recipe):
        if stage.name == WILDBENCH:
            own, rate = given(recipe.evaluate.wildbench), n["generate_rate"]
            rows = len(judged.read(recipe).kept)
            models = len(wildbench_choice.models(recipe, stage.inputs)) + (own.reference != COLUMN)
            tokens = models * rows * min(own.max_new_tokens, given(recipe.train).context // 2)
            source = f"{models} models x {rows:,} rows x evaluate.wildbench.max_new_tokens at most"
            source = f"{source}; {rate.value:,.0f} {rate.unit}, {rate.source}"
            return [Step(WILDBENCH, tokens, tokens / rate.value, source, models * math.ceil(rows / 16) or 1)]
    return []


def judges(recipe: Recipe) -> list[tuple[str, float, str, str]]:
    """(what, number, unit, where it is from) of each endpoint that judges, before there are answers."""
    for stage in enabled(recipe):
        if stage.name == WILDBENCH:
            models = wildbench_choice.models(recipe, stage.inputs)
            count = judged.counter(recipe, None)
            rows: list[tuple[str, float, str, str]] = []
            for one in judged.before(recipe, judged.read(recipe).kept, len(models), count):
                rows.append((f"{one.judge}: requests", one.requests, "requests", f"rows x {len(models)} models"))
                rows.append((f"{one.judge}: tokens in, at most", one.input_tokens, "tokens", one.by))
                rows.append(
                    (f"{one.judge}: tokens out, at most", one.output_tokens, "tokens", "max_tokens of its request")
                )
                if one.money is not None:
                    source = "input_per_million and output_per_million, besides the cluster"
                    rows.append((f"{one.judge}: price, at most", one.money, "as in the recipe", source))
                rows.append((f"{one.judge}: time", one.hours, "h", f"{judged.REPLY_SECONDS:g} s a reply, assumed"))
            return rows
    return []


def _healing(prune: Prune, train: Train, masked: float) -> tuple[float, str]:
    """Tokens after pruning, and where that is from."""
    if prune.heal_tokens != "auto":
        return prune.heal_tokens, "train.prune.heal_tokens"
    stage2 = given(train.pretrain).stage2
    read = stage2.tokens if stage2.tokens != "auto" else stage2.max_tokens
    bounds = {
        "train.prune.max_heal_tokens": prune.max_heal_tokens,
        "what stage 2 reads, less the masks'": None if read is None else read - masked,
    }
    known = {what: most for what, most in bounds.items() if most is not None}
    if not known:
        raise ValueError(
            "train.prune.max_heal_tokens: heal_tokens and train.pretrain.stage2.tokens are auto; give a bound to plan"
        )
    what = min(known, key=lambda name: known[name])
    least = prune.rounds * prune.optimiser.rows_per_step * context_of_pruning(train)
    return max(least, known[what]), f"train.prune.heal_tokens is auto: at most {what}"


def _drafting(recipe: Recipe, n: Mapping[str, Number], step: Stepper) -> list[Step]:
    """The answers of the aligned model, and the draft that learns from them: a layer and its part of the head, behind a forward
    pass of the model."""
    own = given(recipe.train).draft
    if own is None:
        return []
    _, of = model(recipe)
    prompts, rate = own.answers.prompts_per_language * len(recipe.languages), n["generate_rate"]
    length = min(float(own.answers.max_new_tokens), n["chat_tokens"].value)
    said = f"{len(recipe.languages)} languages x {own.answers.prompts_per_language:,} prompts x {length:.0f} tokens"
    source = f"{said}; {rate.value:,.0f} {rate.unit}, {rate.source}"
    words = min(own.vocabulary or of.vocab_size, of.vocab_size)
    whole = flops.matmul_parameters(of.shape, of.vocab_size)
    part = (of.layer + of.shape["hidden_size"] * words) / whole
    read = prompts * n["chat_tokens"].value * own.epochs
    learnt = f"{len(recipe.languages)} languages x {own.answers.prompts_per_language:,} chats x {own.epochs} epochs"
    alone = n["answer_rate"]
    asked = len(recipe.languages) * min(own.eval_prompts_per_language, own.answers.prompts_per_language // 5)
    answered = 2 * asked * length
    how = f"{asked:,} prompts x {length:.0f} tokens, with the draft and without it; {alone.value:g} {alone.unit}, {alone.source}"
    return [
        Step(DRAFT_ANSWERS, prompts * length, prompts * length / rate.value, source, math.ceil(prompts / 16)),
        step(
            DRAFT, read, f"{learnt}; a forward pass of the model, and the draft's {part:.0%} of a step", FORWARD + part
        ),
        Step("draft/acceptance", answered, answered / alone.value, how, len(recipe.languages)),
    ]


def _pruning(recipe: Recipe, step: Stepper) -> list[Step]:
    train = given(recipe.train)
    own = train.prune
    if own is None:
        return []
    smaller, taught = students(recipe), teacher(recipe)
    rows_per_step, context = own.optimiser.rows_per_step, context_of_pruning(train)
    masked = own.rounds * own.mask_updates(context) * rows_per_step * context
    small, before = smaller[-1], [model(recipe)[1], *smaller[:-1]]  # what each round begins with
    larger = sum(one.flops_per_token for one in before) / own.rounds / before[0].flops_per_token
    heal, source = _healing(own, train, masked)
    times = sum(one.flops_per_token for one in smaller) / own.rounds / small.flops_per_token
    if taught:
        times += FORWARD * taught.flops_per_token / small.flops_per_token
        source += "; a forward pass of the teacher, the model before pruning"
    if own.method == "masks":
        key = (
            "train.prune.mask_tokens"
            if own.mask_tokens
            else "train.prune.mask_steps x optimiser.rows_per_step x context"
        )
        first = step("prune/masks", masked, f"{key}, {own.rounds} rounds" if own.rounds > 1 else key, larger)
    else:
        read = own.rounds * own.calibration_rows * context
        key = "train.prune.calibration_rows x steps x train.context; a forward pass"
        first = step("prune/activations", read, key, FORWARD * larger)
    return [first, step("prune/heal", heal, source, times, of=small)]


def check_head(recipe: Recipe, n: Mapping[str, Number], memory_gb: float) -> None:
    """Raises ValueError when what selection takes of one language and category, which the head compares, does not fit."""
    train = given(recipe.train)
    if not (train.sft and train.reward):
        return
    own = train.sft.select
    asked, key = max(own.per_language.values(), default=0), "per_language"
    if not own.per_language:
        asked, key = own.per_cell, "per_cell"
    width = model(recipe)[1].shape["hidden_size"]
    most = int(memory_gb / 2 * 1e9 / (width * EMBEDDING_BYTES))
    if (rows := min(asked, _rows(n, "chat_rows_stage1", train.sft.max_rows))) > most:
        raise ValueError(
            f"train.sft.select.{key}: the head compares {rows:,.0f} conversations by {width} numbers each, "
            f"{rows * width * EMBEDDING_BYTES / 1e9:,.0f} GB, more than half of its {memory_gb:.0f} GB; "
            f"set it to {most:,} or less"
        )
