"""What a run misses on this machine, all of it before its first stage, each with what mends it.

Files are looked for and not read, packages looked up and not imported: it takes no time beside a stage. Only a base that is
given is looked at with its own code (ray_jobs/run/bases.py), which takes seconds.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence

from cluster import storage, terminal
from cluster.doctor import checks
from cluster.fetch import reachable
from cluster.spark import java
from curation.policy.keys import nearest
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import UserError
from ray_jobs.run import files, graph, hub
from ray_jobs.run.graph import ANNOTATE, CRAWL, LONG, PARALLEL_ALIGN, POLICY, QUALITY, TASKS, TOKENIZE, WILDBENCH, Stage

ON_ENGINE = ("documents.annotate", "filter_signals", "filter_policy", "dedup")  # jobs that cluster.engine does
TRAINS = ("base", "pretrain", "sft", "reward", "dpo", "dpo_watch", "prune", "adapt.long_context", "adapt.draft")
MIN_DISK_GB = 4  # a warning below it
LEAST_DISK_GB = 0.3  # Ray does not even start
LEAST_MEMORY_GB = 1.5  # neither


def check(
    recipe: Recipe,
    uri: str,
    chosen: Sequence[Stage],
    waiting: Sequence[Stage],
    *,
    say: Callable[[str], None],
    address: str | None = None,
) -> None:
    """Of `chosen` stages those `waiting` will run. With an `address` they run elsewhere, so only files count.

    Says what may be too little. Raises one UserError that lists all that is missing.
    """
    unread = list(hub.faults(recipe, chosen, waiting, elsewhere=address is not None))
    missing = [*absent(recipe, chosen, waiting), *unread, *languages(recipe, waiting)]
    if not address:
        missing += _unreachable(recipe, waiting)
    if not any(sentence.startswith(("tokenize.", "train.base.")) for sentence in unread):
        missing += _base(recipe, waiting, address)
    missing += [*_tasks(recipe, waiting), *_wildbench(recipe, waiting)]
    missing += [*_annotations(recipe, waiting), *_quality(recipe, waiting)]
    if waiting:
        missing += [*_java(recipe, waiting), *_packages(recipe, waiting, address)]
    if waiting and not address:
        found, scarce = _machine(uri)
        missing += found
        for sentence in scarce:
            say(f"warning: {sentence}")
    missing = list(dict.fromkeys(missing))
    if len(missing) == 1:
        raise UserError(missing[0])
    if missing:
        listed = "\n".join(f"- {sentence}" for sentence in missing)
        raise UserError(f"{len(missing)} things are missing; no stage has been started:\n{listed}")


def _said(function: Callable, *arguments: object) -> Iterator[str]:
    """The sentence of what `function` raises."""
    try:
        function(*arguments)
    except (UserError, ValueError) as error:
        yield str(error)


def _unreachable(recipe: Recipe, waiting: Sequence[Stage]) -> Iterator[str]:
    """A Common Crawl, or a mirror, whose host this machine does not reach."""
    asked = any(stage.name == CRAWL for stage in waiting)
    if asked and any(source.type == "commoncrawl" for source in recipe.sources):
        base = recipe.fetch.base
        if why := reachable.fault(base, recipe.fetch.region):
            yield f"fetch.base: {base} cannot be reached ({why}); mend the network or HTTPS_PROXY, or correct the key"


def _base(recipe: Recipe, waiting: Sequence[Stage], address: str | None) -> Iterator[str]:
    """What the base, a new model, or the tokenizer cannot give, and functions of the user that are not there."""
    trains = any(stage.job in TRAINS for stage in waiting)
    if trains or (recipe.tokenize.tokenizer != "train" and any(stage.name == TOKENIZE for stage in waiting)):
        from ray_jobs.run import bases  # takes seconds, so only where there is something to look at

        yield from bases.faults(
            recipe if trains else recipe.model_copy(update={"train": None}), elsewhere=address is not None
        )


def _tasks(recipe: Recipe, waiting: Sequence[Stage]) -> Iterator[str]:
    """What is wrong with the tasks that the models are asked."""
    for stage in waiting:
        if stage.name == TASKS and (settings := recipe.evaluate.tasks):
            from ray_jobs.run import task_choice  # takes seconds, so only where there are tasks

            yield from _said(task_choice.specifications, settings)
            yield from _said(task_choice.models, settings, stage.inputs)
            if settings.lm_eval and importlib.util.find_spec("lm_eval") is None:
                yield "evaluate.tasks.lm_eval: lm-eval is not installed: pip install 'pinisi[eval]', or leave the key out"
        if stage.name == LONG and (long := recipe.evaluate.long):
            from ray_jobs.run import long_choice, task_choice

            yield from _said(task_choice.models, long, stage.inputs)
            yield from _said(long_choice.languages, long, recipe.languages)
            yield from long_choice.too_long(recipe)
    asked = recipe.train.eval_tasks if recipe.train else None
    if asked and any(stage.job in graph.MIXED for stage in waiting):
        from ray_jobs.run import task_choice

        yield from _said(task_choice.with_options, asked, "train.eval_tasks")
        yield from _said(files.named, asked.rows, "train.eval_tasks.rows")


def _annotations(recipe: Recipe, waiting: Sequence[Stage]) -> Iterator[str]:
    """What is wrong with the annotations of others, and with bounds on them."""
    if recipe.annotations and any(stage.name in (ANNOTATE, POLICY) for stage in waiting):
        from ray_jobs.run import annotation_choice

        yield from annotation_choice.faults(recipe)


def _quality(recipe: Recipe, waiting: Sequence[Stage]) -> Iterator[str]:
    """A score that no document will have, or a classifier or encoder that cannot be used."""
    pairs = recipe.parallel.encoder
    if pairs and storage.exists(pairs) and any(stage.name == PARALLEL_ALIGN for stage in waiting):
        from curation import encoder

        yield from _said(encoder.config_of, storage.localize(pairs), "parallel.encoder")
    if not any(stage.name == QUALITY for stage in waiting):
        return
    own = recipe.quality
    if own.engine == "signal":
        known = importlib.import_module("ray_jobs.stages.filter_policy").known_signals(recipe)
        if own.signal not in known:
            yield f"quality.signal: no document has the signal {own.signal!r}{nearest(own.signal, known)}"
        elif own.signal == "perplexity" and not recipe.filter.perplexity_models:
            yield "quality.signal: no document has perplexity without filter.perplexity_models (`pinisi train lm` makes them)"
    if own.engine == "encoder" and storage.exists(own.model):
        from curation import encoder

        yield from _said(encoder.check, storage.localize(own.model), own.label)


def _wildbench(recipe: Recipe, waiting: Sequence[Stage]) -> Iterator[str]:
    """What judged answers want and this run cannot give."""
    for stage in waiting:
        if stage.name == WILDBENCH:
            from ray_jobs.run import wildbench_choice  # takes seconds, so only where it is asked

            yield from wildbench_choice.faults(recipe, stage.inputs)


def absent(recipe: Recipe, chosen: Sequence[Stage], waiting: Sequence[Stage]) -> Iterator[str]:
    """Inputs that no file matches or that may not be read, also those that training will read perhaps weeks from now.

    `languages` reads language.model and says more."""
    keys = {key for stage in chosen for key in stage.files if key.startswith("train.")}
    for key in sorted(keys | {key for stage in waiting for key in stage.files} - {"dedup.indexes", "language.model"}):
        if key == "sources":
            yield from _sources(recipe)
        elif key == "parallel.sources":
            yield from _pairs(recipe)
        else:
            for pattern in files.patterns(recipe, key):
                yield from _said(lambda pattern=pattern, key=key: _readable(files.named([pattern], key), key))
    if any("dedup.indexes" in stage.files for stage in waiting):
        for index in recipe.dedup.indexes:
            places = [storage.join(index, name) for name in files.INDEX_FILES]
            yield from _said(
                _one_of, f"dedup.indexes: {index} has no index; give a run directory or its dedup/index", places
            )


def _one_of(sentence: str, patterns: list[str]) -> None:
    if not any(files.expand(pattern) for pattern in patterns):
        raise UserError(sentence)


def _sources(recipe: Recipe) -> Iterator[str]:
    anything = not recipe.sources
    for source in recipe.sources:
        if source.type in ("commoncrawl", "hf"):  # of the hub `hub.faults` says more
            anything = True
            continue
        try:
            found = files.of_source(source)
            anything = anything or bool(found)
            _readable(found, f"sources: {source.name}")
        except UserError as error:
            anything = True  # said once is enough
            yield str(error)
    if not anything:
        patterns = ", ".join(source.path for source in recipe.sources)
        yield f"sources: no file matches any of {patterns}; set PINISI_SAMPLE_DIR or correct the paths"


def _pairs(recipe: Recipe) -> Iterator[str]:
    for pairs in recipe.parallel.sources:
        if pairs.kind != "hf":
            try:
                _readable([uri for some in files.of_parallel(pairs) for uri in some], f"sources: {pairs.name}")
            except UserError as error:
                yield str(error)


def _readable(uris: list[str], key: str) -> None:
    """Raises UserError for the first local file that this user may not read."""
    for uri in uris:
        if (
            storage.is_local(uri)
            and not files.row_files.is_hf(uri)
            and not os.access(path := storage.local(uri), os.R_OK)
        ):
            raise UserError(f"{key}: {path} may not be read by this user; chmod u+r {path}")


def languages(recipe: Recipe, waiting: Sequence[Stage]) -> Iterator[str]:
    """Languages, rules and models that a stage would refuse after all the crawling."""
    # of a language without a file the identifier does not know either, so that is said first, and alone
    for job in ("filter_policy", "language", "filter_signals", "synthetic.synthesize"):
        for stage in waiting:
            if stage.job == job:
                said = list(_said(importlib.import_module(f"ray_jobs.stages.{job}").check, recipe))
                if said:
                    yield f"{stage.name}: {said[0]}"
                    return


def _java(recipe: Recipe, waiting: Sequence[Stage]) -> Iterator[str]:
    on_spark = [stage for stage in waiting if stage.job in ON_ENGINE and recipe.cluster.engine == "spark"]
    if on_spark and "PYSPARK_GATEWAY_PORT" not in os.environ:  # where that is set, Java is our parent
        for sentence in _said(java.find):
            yield f"{on_spark[0].name}: {sentence}"


def _packages(recipe: Recipe, waiting: Sequence[Stage], address: str | None) -> Iterator[str]:
    """What the recipe's settings need beyond what Pinisi installs."""
    train = recipe.train
    if train is None or not any(stage.job in TRAINS for stage in waiting):
        return
    if train.trackers:
        from train.monitor import trackers

        yield from _said(trackers.check, train.trackers)
    if address:  # the rest is for its machines
        return
    if train.cross_entropy == "liger" and importlib.util.find_spec("liger_kernel") is None:
        yield "train.cross_entropy: liger is not installed: pip install 'pinisi[gpu]', or set it to chunked"
    if train.precision == "fp8":
        from ray_jobs.run import bases
        from train.kernels import fp8

        config = train.base.shape or bases.config_of(str(train.base.model))
        widths = [
            config.hidden_size if config else fp8.LEAST_WIDTH,
            *([train.prune.hidden_size] if train.prune else []),
        ]
        yield from _said(fp8.require, min(widths))
    generating = {
        "train.dpo.on_policy": train.dpo.on_policy if train.dpo else None,
        "train.draft.answers": train.draft.answers if train.draft else None,
        "evaluate.wildbench": recipe.evaluate.wildbench,
    }
    for key, own in generating.items():
        if own and own.engine == "vllm":
            if own.vllm_python and shutil.which(own.vllm_python) is None:
                yield f"{key}.vllm_python: {own.vllm_python} is no program here; correct it or take engine: hf"
            elif not own.vllm_python and importlib.util.find_spec("vllm") is None:
                yield f"{key}.engine: vLLM is not here; name the Python of an environment that has it in vllm_python"


def _machine(uri: str) -> tuple[list[str], list[str]]:
    """(what is missing, what may be too little) of this machine."""
    missing: list[str] = []
    scarce: list[str] = []
    python = checks.python()
    if python["state"] != "ok":
        missing.append(f"{python['name']} is needed, this is {python['found']}: {python['fix']}")
    memory = checks.total_memory()
    if memory < checks.MIN_MEMORY_GB * 1e9:
        said = f"this machine has {terminal.size(memory)} of memory, a run wants {checks.MIN_MEMORY_GB} GB"
        (missing if memory < LEAST_MEMORY_GB * 1e9 else scarce).append(f"{said}; use a larger machine or --address")
    places = {"the run directory": os.path.dirname(storage.local(uri))} if storage.is_local(uri) else {}
    places["temporary files"] = tempfile.gettempdir()
    seen = set()
    for what, folder in places.items():
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder) or "."
        free, device = shutil.disk_usage(folder).free, os.stat(folder).st_dev
        if free < MIN_DISK_GB * 1e9 and device not in seen:
            mend = "free some, or use --run-dir" if what == "the run directory" else "free some, or set TMPDIR"
            said = f"{terminal.size(free)} of disk are free for {what} ({folder}), a run wants {MIN_DISK_GB} GB; {mend}"
            (missing if free < LEAST_DISK_GB * 1e9 else scarce).append(said)
        seen.add(device)
    return missing, scarce
