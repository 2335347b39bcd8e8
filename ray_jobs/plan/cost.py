"""`pinisi plan RECIPE --cluster cluster.yaml`: documents, tokens, core-hours, GPU-hours, storage, nodes, money and wall time
of a run before anything is spent. Every number has its source; what does not fit is refused.

Wall time and money are of the simulated run (ray_jobs/plan/simulate.py) over `SEEDS` seeds: mean and 90th percentile.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from rich.text import Text

from cluster import terminal
from cluster.deploy.spec import Cluster, Group, Node
from cluster.terminal import Column
from ray_jobs.config.given import given
from ray_jobs.config.recipe import Recipe
from ray_jobs.plan import alignment, rates, training
from ray_jobs.plan import corpus as plan_corpus
from ray_jobs.plan.rates import Number
from ray_jobs.plan.simulate import Phase, Span, simulate
from ray_jobs.run import bases
from ray_jobs.run.run import Run

SEEDS = 20
HOUR = 3600.0
DAY = 24 * HOUR
MIN_MEMORY_GB_PER_CPU = 2.0  # a worker with its language models, and a shard
DISK_SHARE = 0.8  # of a node's disk that shuffle and spill may fill
EDGE_BYTES = 24  # of a pair of documents in the driver's connected components


@dataclass(frozen=True)
class Row:
    """One number of the plan."""

    part: str
    what: str
    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Plan:
    """Rows of numbers, the phases that were simulated, and the spans of the first seed (nodes over time)."""

    rows: list[Row]
    phases: list[Phase]
    spans: list[Span]


def make(recipe: Recipe, cluster: Cluster, run: Run | None = None) -> Plan:
    """The plan of `recipe` on `cluster`; rates are those of `run` where it measured them.

    Raises ValueError with a sentence that names the key when the run cannot fit, or a price or a GPU's speed is missing.
    """
    for sentence in bases.faults(recipe, weights=False, elsewhere=True):
        raise ValueError(sentence)
    n = rates.numbers(recipe.extract.engine, cluster.assume, run, recipe.fetch.gap_bytes)
    cpus = _group(cluster, "cpu")
    corpus = plan_corpus.plan(recipe, n) if recipe.sources else plan_corpus.NONE
    _check_cpu_nodes(recipe, cluster, cpus, corpus)
    rows = [Row("number", name, n[name].value, n[name].unit, n[name].source) for name in sorted(_used(n))]
    rows.append(Row("corpus", "tokens after deduplication", corpus.tokens, "tokens", corpus.why))
    rows.append(
        Row(
            "corpus",
            "read from outside",
            corpus.fetched_bytes,
            "B",
            "crawl pages x bytes_per_page x fetched_per_wanted",
        )
    )
    phases = []
    for step in corpus.steps:
        hours = step.core_seconds / n["efficiency"].value / HOUR
        text = {"crawl": "pages x bytes_per_page", "extract": "crawl x html_ratio"}
        text_from = text.get(step.name, "documents x bytes_per_document")
        rows.append(Row(step.name, "documents in", step.documents, "documents", step.documents_from))
        rows.append(Row(step.name, "bytes in", step.text_bytes, "B", text_from))
        if step.least_seconds:
            limits = (
                "pages x requests_per_record / requests_per_second, or bytes in x fetched_per_wanted / bytes_per_second"
            )
            rows.append(Row(step.name, "least time", step.least_seconds / DAY, "days", limits))
        rows.append(Row(step.name, "core-hours", hours, "core-h", f"{step.source}; efficiency {n['efficiency'].value}"))
        if step.shuffle_bytes:
            rows.append(Row(step.name, "shuffle", step.shuffle_bytes, "B", n["shuffle_bytes_per_document"].source))
        phases.append(_shards(step, hours, cpus, n))
    stored = sum(step.stored_bytes for step in corpus.steps)
    rows.append(
        Row(
            "storage",
            "files of the run",
            stored,
            "B",
            "pages as fetched, texts as zstd Parquet (30 %), tokens as uint32",
        )
    )
    if recipe.train is not None:
        gpus = _group(cluster, "gpu")
        if gpus.gpu_tflops is None or gpus.gpu_memory_gb is None:
            raise ValueError(f"groups ({gpus.name}): a plan of training needs gpu_tflops and gpu_memory_gb; add them")
        alignment.check_head(recipe, n, cluster.head.memory_gb)
        trained, phases_of_training = _training(recipe, gpus, n, corpus.tokens)
        rows, phases = rows + trained, phases + phases_of_training
        rows += [Row("wildbench", *found) for found in alignment.judges(recipe)]
    runs = [simulate(phases, seed) for seed in range(SEEDS)]
    rows += _outcome(
        cluster, phases, runs, stored=stored, fetched=corpus.fetched_bytes, months=n["storage_months"].value
    )
    return Plan(rows, phases, runs[0])


def _used(n: dict[str, Number]) -> list[str]:
    """Every number but the extraction rates of other engines."""
    return [name for name in n if not name.startswith("extract_") or name == "extract_kept"]


def _group(cluster: Cluster, role: str) -> Group:
    """The group of the role with the most capacity."""
    groups = [group for group in cluster.of_role(role) if group.max_nodes]
    if not groups:
        raise ValueError(f"groups: this recipe needs nodes of role {role}, but the cluster file has none; add a group")
    return max(groups, key=lambda group: group.max_nodes * (group.gpus or group.cpus))


def _shards(step: plan_corpus.Step, core_hours: float, group: Group, n: dict[str, Number]) -> Phase:
    shard = n["shard_seconds"].value
    node_seconds = core_hours * HOUR / group.cpus
    nodes = max(1, min(group.max_nodes, math.ceil(node_seconds / shard)))
    limit = node_seconds / step.least_seconds if step.least_seconds else math.inf
    return Phase(step.name, group, nodes, node_seconds, shard, limit=limit)


def _training(recipe: Recipe, group: Group, n: dict[str, Number], corpus: float) -> tuple[list[Row], list[Phase]]:
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


def _price(node: Node) -> float:
    """Of one node, an hour. `_outcome` refuses a cluster that does not say it."""
    assert node.price_per_hour is not None
    return node.price_per_hour


def _outcome(
    cluster: Cluster, phases: list[Phase], runs: list[list[Span]], *, stored: float, fetched: float, months: float
) -> list[Row]:
    prices = cluster.prices
    for node, what in ((cluster.head, "head"), *((phase.group, f"groups ({phase.group.name})") for phase in phases)):
        if node.price_per_hour is None:
            raise ValueError(f"{what}.price_per_hour: a plan needs it; add what one node costs an hour")
    times = [spans[-1].end for spans in runs]

    def nodes(spans: list[Span], role: str) -> float:
        paid = zip(phases, spans, strict=True)
        return sum(s.paid_node_seconds / HOUR * _price(p.group) for p, s in paid if p.group.role == role)

    simulated = f"simulated with spot losses, {len(runs)} seeds"
    storage = stored / 1e9 * prices.storage_gb_month * months
    traffic = fetched / 1e9 * prices.egress_gb
    head = [t / HOUR * _price(cluster.head) for t in times]
    parts = {role: [nodes(spans, role) for spans in runs] for role in ("cpu", "gpu")}
    totals = [h + c + g + storage + traffic for h, c, g in zip(head, parts["cpu"], parts["gpu"], strict=True)]
    lost = [sum(span.lost for span in spans) for spans in runs]
    currency = prices.currency
    rows = [
        Row("time", "wall time, mean", statistics.mean(times) / DAY, "days", simulated),
        Row("time", "wall time, 90th percentile", _percentile(times) / DAY, "days", simulated),
        Row(
            "time", "spot nodes lost, mean", statistics.mean(lost), "nodes", "groups.spot_losses_per_hour; " + simulated
        ),
        Row("money", "CPU nodes, mean", statistics.mean(parts["cpu"]), currency, "node-hours x price_per_hour"),
        Row("money", "GPU nodes, mean", statistics.mean(parts["gpu"]), currency, "node-hours x price_per_hour"),
        Row("money", "head", statistics.mean(head), currency, "wall time x head.price_per_hour"),
        Row("money", "storage", storage, currency, f"prices.storage_gb_month x {months:g} months"),
        Row("money", "traffic", traffic, currency, "prices.egress_gb x what is read from outside"),
        Row("money", "total, mean", statistics.mean(totals), currency, "sum"),
        Row("money", "total, 90th percentile", _percentile(totals), currency, simulated),
    ]
    return rows


def _percentile(values: list[float]) -> float:
    return statistics.quantiles(values, n=10, method="inclusive")[-1]


def as_json(plan: Plan) -> dict:
    """The plan for a program: `numbers` and `nodes` over time."""
    return {
        "numbers": [vars(row) for row in plan.rows],
        "nodes": [
            {"stage": s.name, "group": p.group.name, "nodes": s.nodes, "begin_seconds": s.begin, "end_seconds": s.end}
            for p, s in zip(plan.phases, plan.spans, strict=True)
        ],
    }


def show(plan: Plan) -> None:
    """Print the plan: numbers with their sources, then nodes over time."""
    columns = [
        Column("what", style=lambda name: "" if name.startswith(" ") else "bold"),
        Column("value", right=True),
        Column("source", free=True, style=lambda _: "dim"),
    ]
    rows: list[tuple[str, str | None, str | None]] = []
    part = None
    for row in plan.rows:
        rows += [(row.part, None, None)] if row.part != part else []
        rows.append((f"  {row.what}", amount(row.value, row.unit), row.source))
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
    terminal.show([*terminal.table(columns, rows), Text(), *terminal.table(columns_over_time, over_time, title=title)])


def amount(value: float, unit: str) -> str:
    """A number of the plan as people write it.

    >>> amount(886e9, "tokens"), amount(3.54e12, "B"), amount(41234.4, "GPU-h"), amount(0.25, "days"), amount(988e6, "")
    ('886 B tokens', '3.54 TB', '41,234 GPU-h', '6 h', '988 M')
    """
    if unit == "B":
        return terminal.size(value)
    if unit in ("s", "days"):
        return terminal.duration(value * (DAY if unit == "days" else 1.0))
    if unit in ("tokens", "documents", "") and value >= 1e6:
        return f"{terminal.short(value)} {unit}".rstrip()
    text = terminal.count(value) if value >= 99.95 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()
