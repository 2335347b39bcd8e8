"""`pinisi plan RECIPE --cluster cluster.yaml`: documents, tokens, core-hours, GPU-hours, storage, nodes, money and wall time
of a run before anything is spent. Every number has its source; what does not fit is refused.

Wall time and money are of the simulated run (ray_jobs/plan/simulate.py) over `SEEDS` seeds: mean and 90th percentile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from rich.text import Text

from cluster import storage, terminal
from cluster.deploy.spec import Cluster, Group
from cluster.terminal import Column
from ray_jobs.commoncrawl.read import THREADS
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.plan import alignment, money, proposals, rates, training
from ray_jobs.plan import corpus as plan_corpus
from ray_jobs.plan.money import DAY, HOUR, Costs, Row, Simulated
from ray_jobs.plan.proposals import Proposal
from ray_jobs.plan.rates import Number
from ray_jobs.plan.simulate import Phase, Span, simulate
from ray_jobs.run import bases
from ray_jobs.run.run import Run

SEEDS = 20
MIN_MEMORY_GB_PER_CPU = 2.0  # a worker with its language models, and a shard
DISK_SHARE = 0.8  # of a node's disk that shuffle and spill may fill
EDGE_BYTES = 24  # of a pair of documents in the driver's connected components


@dataclass(frozen=True)
class Plan:
    """Rows of numbers, the phases that were simulated, the spans of the first seed (nodes over time), what would be better."""

    rows: list[Row]
    phases: list[Phase]
    spans: list[Span]
    proposals: list[Proposal]


def make(recipe: Recipe, cluster: Cluster, run: Run | None = None) -> Plan:
    """The plan of `recipe` on `cluster`; rates are those of `run` where it measured them.

    Raises ValueError with a sentence that names the key when the run cannot fit, or a price or a GPU's speed is missing.
    """
    for sentence in bases.faults(recipe, weights=False, elsewhere=True):
        raise ValueError(sentence)
    n = _numbers(recipe, cluster, run)
    likely = _case(recipe, cluster, n)
    good = _case(recipe, cluster, rates.case(n, bad=False), cluster.prices.low)
    bad = _case(recipe, cluster, rates.case(n, bad=True), cluster.prices.high)
    rows = [_between(*of) for of in zip(likely.rows, good.rows, bad.rows, strict=True)]
    found = []
    if recipe.sources:
        trained = [phase for phase in likely.phases if phase.group.role == "gpu"]

        def costs(changed: Recipe, other: Cluster) -> Costs:
            numbers = _numbers(changed, other, run)
            corpus, phases = _curation(changed, other, numbers)
            return money.of(other, _simulated([*phases, *trained], proposals.SEEDS), corpus, numbers)

        found = proposals.better(recipe, cluster, _group(cluster, "cpu"), _fetches(recipe), costs)
    return replace(likely, rows=rows, proposals=found)


def _between(likely: Row, good: Row, bad: Row) -> Row:
    low, high = sorted((good.value, bad.value))
    return likely if low == high else replace(likely, low=min(low, likely.value), high=max(high, likely.value))


def _numbers(recipe: Recipe, cluster: Cluster, run: Run | None) -> dict[str, Number]:
    return rates.numbers(recipe.extract.engine, cluster.assume, run, recipe.fetch.gap_bytes)


def _fetches(recipe: Recipe) -> bool:
    """Whether something is asked of a host that limits it."""
    return any(source.type == "commoncrawl" for source in recipe.sources) and not storage.is_local(recipe.fetch.base)


def _curation(recipe: Recipe, cluster: Cluster, n: Mapping[str, Number]) -> tuple[plan_corpus.Corpus, list[Phase]]:
    cpus = _group(cluster, "cpu")
    corpus = plan_corpus.plan(recipe, n) if recipe.sources else plan_corpus.NONE
    _check_cpu_nodes(recipe, cluster, cpus, corpus)
    return corpus, [_shards(step, cpus, n, recipe.fetch.concurrency) for step in corpus.steps]


def _case(recipe: Recipe, cluster: Cluster, n: Mapping[str, Number], factor: float = 1.0) -> Plan:
    """The plan by the numbers `n`, at `factor` times the prices."""
    corpus, phases = _curation(recipe, cluster, n)
    rows = [Row("number", name, n[name].value, n[name].unit, n[name].source) for name in sorted(_used(n))]
    rows.append(Row("corpus", "tokens after deduplication", corpus.tokens, "tokens", corpus.why))
    source = "crawl pages x bytes_per_page x fetched_per_wanted"
    rows.append(Row("corpus", "read from outside", corpus.fetched_bytes, "B", source))
    for step, phase in zip(corpus.steps, phases, strict=True):
        hours = step.core_seconds / n["efficiency"].value / HOUR
        text = {"crawl": "pages x bytes_per_page", "extract": "crawl x html_ratio"}
        text_from = text.get(step.name, "documents x bytes_per_document")
        rows.append(Row(step.name, "documents in", step.documents, "documents", step.documents_from))
        rows.append(Row(step.name, "bytes in", step.text_bytes, "B", text_from))
        if step.limits:
            held = _held_up(step, phase.group, phase.nodes, n)
            longest = max(held, key=lambda what: held[what])
            rows.append(Row(step.name, "requests", step.requests, "requests", "pages x requests_per_record"))
            rows.append(Row(step.name, "least time", held[longest] / DAY, "days", longest))
        rows.append(Row(step.name, "core-hours", hours, "core-h", f"{step.source}; efficiency {n['efficiency'].value}"))
        if step.shuffle_bytes:
            rows.append(Row(step.name, "shuffle", step.shuffle_bytes, "B", n["shuffle_bytes_per_document"].source))
    stored = sum(step.stored_bytes for step in corpus.steps)
    kinds = "pages as fetched, texts as zstd Parquet (30 %), tokens as uint32"
    rows.append(Row("storage", "files of the run", stored, "B", kinds))
    if recipe.train is not None:
        gpus = _group(cluster, "gpu")
        if gpus.gpu_tflops is None or gpus.gpu_memory_gb is None:
            raise ValueError(f"groups ({gpus.name}): a plan of training needs gpu_tflops and gpu_memory_gb; add them")
        alignment.check_head(recipe, n, cluster.head.memory_gb)
        trained, phases_of_training = _training(recipe, gpus, n, corpus.tokens)
        rows, phases = rows + trained, phases + phases_of_training
        rows += [Row("wildbench", *found) for found in alignment.judges(recipe)]
    money.check(cluster, phases)
    simulated = _simulated(phases, SEEDS)
    costs = money.of(cluster, simulated, corpus, n, factor)
    rows += money.rows(cluster, simulated, costs, corpus, n)
    return Plan(rows, phases, list(simulated.runs[0]), [])


def _simulated(phases: list[Phase], seeds: int) -> Simulated:
    return Simulated(phases, [simulate(phases, seed) for seed in range(seeds)])


def _used(n: Mapping[str, Number]) -> list[str]:
    """Every number but the extraction rates of other engines."""
    return [name for name in n if not name.startswith("extract_") or name == "extract_kept"]


def _group(cluster: Cluster, role: str) -> Group:
    """The group of the role with the most capacity."""
    groups = [group for group in cluster.of_role(role) if group.max_nodes]
    if not groups:
        raise ValueError(f"groups: this recipe needs nodes of role {role}, but the cluster file has none; add a group")
    return max(groups, key=lambda group: group.max_nodes * (group.gpus or group.cpus))


def _shards(step: plan_corpus.Step, group: Group, n: Mapping[str, Number], concurrency: int) -> Phase:
    """A crawl has as many tasks as requests may be under way (`fetch.concurrency`), and its nodes wait for what it is held up
    by."""
    shard = n["shard_seconds"].value
    node_seconds = step.core_seconds / n["efficiency"].value / group.cpus
    nodes = max(1, min(group.max_nodes, math.ceil(node_seconds / shard)))
    if not step.limits:
        return Phase(step.name, group, nodes, node_seconds, shard)
    nodes = min(nodes, math.ceil(concurrency / group.cpus))
    held = max(_held_up(step, group, nodes, n).values())
    limit = min(node_seconds / held, min(concurrency, nodes * group.cpus) / group.cpus)
    return Phase(step.name, group, nodes, node_seconds, shard, limit=limit)


def _held_up(step: plan_corpus.Step, group: Group, nodes: int, n: Mapping[str, Number]) -> dict[str, float]:
    """What a crawl on so many nodes is held up by -> seconds that it takes at least."""
    cores = nodes * group.cpus
    each = f"{1000 * step.request_seconds:.0f} ms (request_latency, request_rate)"
    return {
        **step.limits,
        f"requests x {each} / {THREADS} at a time on each of {cores} cores": step.requests
        * step.request_seconds
        / (THREADS * cores),
        f"bytes / network_rate of {nodes} nodes": step.crossing_bytes / (nodes * n["network_rate"].value),
    }


def _training(recipe: Recipe, group: Group, n: Mapping[str, Number], corpus: float) -> tuple[list[Row], list[Phase]]:
    train = given(recipe.train)
    needed, made = training.check_memory(recipe, group)
    base, grown = training.model(recipe)
    shape = (
        f"{grown.shape['num_hidden_layers']} layers of {grown.shape['hidden_size']}, vocabulary {grown.vocab_size:,}"
    )
    rows = [
        *([Row("model", "parameters before expansion", base.parameters, "", "train.base")] if train.expand else []),
        Row("model", "parameters", grown.parameters, "", f"train.base{', train.expand' * bool(train.expand)}: {shape}"),
        Row("model", "FLOPs a token", grown.flops_per_token, "", "6 N + 12 L H T (train/monitor/flops.py)"),
        Row("model", "memory of a GPU", needed * 1e9, "B", made),
    ]
    phases = []
    trained = training.plan(recipe, n, group, corpus)
    for step in (*alignment.before(recipe, n, group), *trained, *alignment.after(recipe, n, group)):
        rows.append(Row(step.name, "tokens", step.tokens, "tokens", step.source.split(";")[0]))
        rows.append(Row(step.name, "GPU-hours", step.gpu_seconds / HOUR, "GPU-h", step.source))
        gpus = step.gpus or train.workers
        nodes = min(group.max_nodes, math.ceil(gpus / group.gpus))
        node_seconds = step.gpu_seconds / min(gpus, nodes * group.gpus) * nodes
        redo = n["checkpoint_seconds" if step.gpus is None else "shard_seconds"].value
        phases.append(Phase(step.name, group, nodes, node_seconds, redo, gang=step.gpus is None))
    return rows, phases


def _check_cpu_nodes(recipe: Recipe, cluster: Cluster, group: Group, corpus: plan_corpus.Corpus) -> None:
    if group.memory_gb / group.cpus < MIN_MEMORY_GB_PER_CPU:
        raise ValueError(
            f"groups ({group.name}).memory_gb: {group.memory_gb} GB for {group.cpus} CPUs are under the "
            f"{MIN_MEMORY_GB_PER_CPU:g} GB that a worker needs; set it to {math.ceil(group.cpus * MIN_MEMORY_GB_PER_CPU)}"
        )
    shuffle = sum(step.shuffle_bytes for step in corpus.steps) / group.max_nodes / 1e9
    if shuffle > group.disk_gb * DISK_SHARE:
        raise ValueError(
            f"groups ({group.name}).disk_gb: dedup spills {shuffle:,.0f} GB on each of {group.max_nodes} nodes, but "
            f"{group.disk_gb} GB have room for {group.disk_gb * DISK_SHARE:,.0f}; raise disk_gb or max_nodes"
        )
    edges = recipe.dedup.max_driver_edges * EDGE_BYTES / 1e9
    if edges > cluster.head.memory_gb / 2:
        raise ValueError(
            f"dedup.max_driver_edges: {recipe.dedup.max_driver_edges:,} pairs take {edges:,.0f} GB, more than half of the "
            f"head's {cluster.head.memory_gb} GB; lower it"
        )


def as_json(plan: Plan) -> dict:
    """The plan for a program: `numbers`, `proposals` and `nodes` over time."""
    return {
        "numbers": [vars(row) for row in plan.rows],
        "proposals": [vars(one) for one in plan.proposals],
        "nodes": [
            {"stage": s.name, "group": p.group.name, "nodes": s.nodes, "begin_seconds": s.begin, "end_seconds": s.end}
            for p, s in zip(plan.phases, plan.spans, strict=True)
        ],
    }


def show(plan: Plan, left_out: Iterable[str] = ()) -> None:
    """Print the plan: numbers with their sources, then nodes over time, then sentences of what is `left_out`."""
    columns = [
        Column("what", style=lambda name: "" if name.startswith(" ") else "bold"),
        Column("value", right=True),
        Column("source", free=True, style=lambda _: "dim"),
    ]
    rows: list[tuple[str, str | None, str | None]] = []
    part = None
    for row in plan.rows:
        rows += [(row.part, None, None)] if row.part != part else []
        between = ""
        if row.low is not None and row.high is not None:
            between = f"{amount(row.low, row.unit)} to {amount(row.high, row.unit)}; "
        rows.append((f"  {row.what}", amount(row.value, row.unit), f"{between}{row.source}"))
        part = row.part
    columns_over_time = [
        Column("stage"),
        Column("group"),
        terminal.numbers("nodes"),
        Column("after", terminal.duration, right=True),
        Column("takes", terminal.duration, right=True),
        terminal.numbers("lost", drop=1),
    ]
    over_time = [
        (span.name, phase.group.name, span.nodes, span.begin, span.end - span.begin, span.lost)
        for phase, span in zip(plan.phases, plan.spans, strict=True)
    ]
    title = "nodes over time (one simulated run)"
    lines = [*terminal.table(columns, rows), Text(), *terminal.table(columns_over_time, over_time, title=title)]
    if len(plan.proposals) > 1:
        unit = next(row.unit for row in plan.rows if row.part == "money")
        better = [
            Column("change"),
            Column(unit, terminal.count, right=True),
            Column("time", terminal.duration, right=True),
        ]
        changes = [
            (", ".join(f"{key}: {value}" for key, value in one.keys.items()) or "as it is", one.total, one.days * DAY)
            for one in plan.proposals
        ]
        lines += [Text(), *terminal.table(better, changes, title="what would be cheaper")]
    for sentence in left_out:
        lines += [Text(), *terminal.paragraph(sentence)]
    terminal.show(lines)


def left_out(recipe: Recipe) -> list[str]:
    """Sentences of what a recipe asks for and the plan does not count."""
    said = "synthesize is not in this plan: `pinisi run RECIPE --dry-run` says what its models are asked, and the price"
    return [said] if recipe.synthesize else []


def amount(value: float, unit: str) -> str:
    """A number of the plan as people write it.

    >>> amount(886e9, "tokens"), amount(3.54e12, "B"), amount(41234.4, "GPU-h"), amount(0.25, "days"), amount(988e6, "")
    ('886 B tokens', '3.54 TB', '41,234 GPU-h', '6 h', '988 M')
    """
    if unit == "B":
        return terminal.size(value)
    if unit in ("s", "days"):
        return terminal.duration(value * (DAY if unit == "days" else 1.0))
    if unit in ("tokens", "documents", "requests", "") and value >= 1e6:
        return f"{terminal.short(value)} {unit}".rstrip()
    text = terminal.count(value) if value >= 99.95 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()
