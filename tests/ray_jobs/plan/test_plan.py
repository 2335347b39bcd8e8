"""The plan: numbers by hand, a source for each, refusals that name the key."""

import json
import math
from pathlib import Path

import pytest

from cluster.deploy import spec
from ray_jobs import cli
from ray_jobs.config import reader as recipes
from ray_jobs.plan import corpus as plan_corpus
from ray_jobs.plan import cost as plan
from ray_jobs.plan import model as sizes
from ray_jobs.plan import rates as plan_rates
from ray_jobs.plan import training as plan_training
from ray_jobs.run import bases, graph

CLUSTER = Path(spec.__file__).parents[1] / "cluster.yaml"
GB = 1e9
PRODUCTS = 6 * (48 * (2 * 896**2 + 2 * 896 * 128 + 3 * 896 * 4864) + 896 * 151_936)  # of a token of the 1B
PAIR = 12 * 48 * 896  # of a position that it attends to


@pytest.fixture(scope="module")
def cluster():
    return spec.load(str(CLUSTER))


MANY = ["fetch.requests_per_second=2000", "fetch.gap_bytes=500000"]
"""A crawl of many small requests, which waits for them."""


def value(made, part, what):
    (found,) = [row.value for row in made.rows if (row.part, row.what) == (part, what)]
    return found


def test_sailor2_1b_by_hand(cluster):
    """Every line of this test can be followed with a pocket calculator from the paper's tables and cluster.yaml."""
    made = plan.make(recipes.load("sailor2-1b"), cluster)
    tokens = sum(plan_rates.SEA_TOKENS.values())
    assert value(made, "corpus", "tokens after deduplication") == pytest.approx(tokens)  # 96 snapshots of 96
    text = tokens * 4.0
    extracted = text / (0.5 * 0.89 * 0.95) / 0.69
    pages = extracted / 4000 / 0.85 / 0.97
    assert value(made, "crawl", "documents in") == pytest.approx(pages)
    assert value(made, "crawl", "bytes in") == pytest.approx(pages * 30e3)
    requests, crossing = pages * 0.1088, pages * 30e3 * 18.46  # gaps of 2 MB
    assert crossing / 2e9 > requests / 500 > requests * (0.05 + crossing / requests / 85e6) / 64 > crossing / 4e9
    assert value(made, "crawl", "requests") == pytest.approx(requests)
    assert value(made, "crawl", "least time") == pytest.approx(
        crossing / 2e9 / 86400, rel=1e-3
    )  # the network of two nodes
    assert value(made, "corpus", "read from outside") == pytest.approx(crossing, rel=1e-3)
    assert value(made, "tokenize", "core-hours") == pytest.approx(tokens / 1e6 / 0.6 / 3600)
    assert value(made, "model", "parameters") == pytest.approx(0.988e9, rel=1e-3)
    assert value(made, "model", "parameters before expansion") == pytest.approx(0.494e9, rel=1e-3)
    gpu_hours = 450e9 * 7.2247e9 / (989e12 * 0.35) / 3600
    assert value(made, "pretrain/stage1", "GPU-hours") == pytest.approx(gpu_hours, rel=1e-3)
    days = value(made, "time", "wall time, mean")
    training = gpu_hours * (1 + 60 / 450) / 16 / 24
    assert days > value(made, "crawl", "least time") + training
    assert value(made, "time", "wall time, 90th percentile") >= days
    money = [
        value(made, "money", what)
        for what in ("CPU nodes, mean", "GPU nodes, mean", "head", "disks", "storage", "traffic", "requests")
    ]
    assert value(made, "money", "total, mean") == pytest.approx(sum(money))
    assert money[1] >= gpu_hours * (1 + 60 / 450) / 8 * 32.0
    stored = value(made, "storage", "files of the run")
    assert money[6] == pytest.approx(stored / 8e6 * (5.0 + 0.4) / 1e6)
    hours = (
        sum(s.paid_node_seconds / 3600 for s in made.spans) + days * 24 / 5
    )  # all disks are 1 TB but the head's 200 GB
    assert money[3] == pytest.approx(hours * 1000 * 0.08 / 730, rel=0.02)
    watts = {"curate": 300, "train": 10_200}
    paid = zip(made.phases, made.spans, strict=True)
    kwh = (sum(s.paid_node_seconds / 3600 * watts[p.group.name] for p, s in paid) + days * 24 * 60) / 1000
    assert value(made, "energy", "energy") == pytest.approx(1.2 * kwh, rel=0.02)
    assert value(made, "energy", "carbon") == pytest.approx(value(made, "energy", "energy") * 0.0004)
    assert all(row.source for row in made.rows)


@pytest.mark.parametrize(("recipe", "billions"), [("sailor2-8b", 8.547), ("sailor2-20b", 19.173)])
def test_larger_models_have_the_papers_sizes(cluster, recipe, billions):
    made = plan.make(recipes.load(recipe), cluster)
    assert value(made, "model", "parameters") / 1e9 == pytest.approx(billions, abs=1e-3)
    assert value(made, "model", "memory of a GPU") < 0.92 * 141 * GB


def test_proxies_and_post_training_by_hand(cluster):
    made = plan.make(recipes.load("sailor2-1b"), cluster)
    speed = 989e12 * 0.35 * 3600  # an hour of a GPU
    flops, text = PRODUCTS + 300 * PAIR, 7.2247e9  # a token of a chat sees 300 others, one of a row of text 4,096
    proxy = 6 * (5 * (2 * 512**2 + 2 * 512**2 + 3 * 512 * 1408) + 512 * 16_384) + 12 * 5 * 512 * 2048
    by_hand = {
        "regmix/proxies": 232 * 1e9 * proxy / (989e12 * 0.27 * 3600),
        "reward": 2 * 53_813 * 600 * flops / speed,
        "sft/stage1": 300_000 * 600 * flops / speed,
        "sft/select": 300_000 * 600 * 2 * flops / 3 / speed,
        "sft/stage2": 3 * 300_000 * 600 * flops / speed,
        "dpo/perplexity": 2 * 53_813 * 600 * flops / 3 / speed,
        "dpo/off_policy": 2 * 53_813 * 600 * (1 + 1 / 3) * flops / speed,
        "dpo/samples": 53_813 * 5 * 600 / 2000 / 3600,
        "dpo/rewards": 53_813 * 5 * 600 * flops / 3 / speed,
        "dpo/on_policy": 2 * 53_813 * 600 * (1 + 1 / 3) * flops / speed,
        "evaluate": 5 * 15 * 2e6 / 4 * text / 3 / speed,
    }
    for stage, hours in by_hand.items():
        assert value(made, stage, "GPU-hours") == pytest.approx(hours, rel=1e-3), stage
    assert [p.name for p in made.phases if p.group.role == "gpu"] == [
        "regmix/proxies", "pretrain/stage1", "pretrain/stage2", "reward", "sft/stage1", "sft/select", "sft/stage2",
        "dpo/perplexity", "dpo/off_policy", "dpo/samples", "dpo/rewards", "dpo/on_policy", "dpo/watch", "evaluate",
    ]  # fmt: skip
    gangs = {p.name: p.gang for p in made.phases}
    assert gangs["sft/stage1"] and not gangs["sft/select"] and not gangs["regmix/proxies"]
    select = next(p for p in made.phases if p.name == "sft/select")
    assert select.nodes == min(select.group.max_nodes, math.ceil(2 * math.ceil(300_000 / 4096) / select.group.gpus))
    seconds = by_hand["sft/select"] * 3600 / min(select.group.gpus, 2 * math.ceil(300_000 / 4096) / select.nodes)
    assert select.node_seconds == pytest.approx(seconds, rel=1e-3)


def test_long_context_tasks_by_hand(cluster):
    """base, stage 2, SFT and preference tuning; 5 depths x 20 needles, 10 texts of ten keys, 20 of absent ones."""
    long = "evaluate.long={lengths: [1000, 3000], tasks: [needle, pairs, absent], languages: [th, id]}"
    made = plan.make(recipes.load("sailor2-1b", [long]), cluster)
    texts = [(1000, PRODUCTS + 500 * PAIR), (3000, PRODUCTS + 1500 * PAIR)]
    each = sum(length * flops for length, flops in texts)
    hours = 4 * 2 * (100 + 10 + 20) * each / 3 / (989e12 * 0.35 * 3600)
    assert value(made, "long", "GPU-hours") == pytest.approx(hours, rel=1e-3)


def test_a_budget_of_auto_is_counted_at_its_bound_or_by_the_corpus(cluster):
    auto = ["train.pretrain.stage1.tokens=auto", "train.pretrain.stage2.tokens=auto"]
    made = plan.make(recipes.load("sailor2-1b", [*auto, "train.pretrain.stage2.max_tokens=7e9"]), cluster)
    tokens = value(made, "corpus", "tokens after deduplication")
    assert value(made, "pretrain/stage1", "tokens") == pytest.approx(4 * tokens)
    assert value(made, "pretrain/stage2", "tokens") == 7e9
    (source,) = [row.source for row in made.rows if (row.part, row.what) == ("pretrain/stage2", "tokens")]
    assert source == "train.pretrain.stage2.tokens is auto: known after tokenize, at most max_tokens"


def test_what_is_left_out_costs_nothing(cluster):
    less = ["mixture.regmix=null", "train.reward=null", "train.dpo=null", "train.sft.max_rows=1000"]
    made = plan.make(recipes.load("sailor2-1b", less), cluster)
    names = {p.name for p in made.phases}
    assert "sft/stage1" in names and not names & {
        "regmix/proxies",
        "reward",
        "sft/select",
        "sft/stage2",
        "dpo/off_policy",
    }
    assert value(made, "sft/stage1", "tokens") == 1000 * 600


def test_every_round_is_planned_and_simpo_has_no_reference(cluster):
    made = plan.make(recipes.load("sailor2-1b", ["train.dpo.on_policy.rounds=2"]), cluster)
    for first in ("dpo/samples", "dpo/rewards", "dpo/on_policy"):
        assert value(made, f"{first}_2", "tokens") == value(made, first, "tokens") > 0
    without = plan.make(recipes.load("sailor2-1b", ["train.dpo.loss=simpo"]), cluster)
    seconds = [{p.name: p.node_seconds for p in one.phases}["dpo/on_policy"] for one in (made, without)]
    assert seconds[0] / seconds[1] == pytest.approx(4 / 3)


def test_a_pruned_model_is_planned(cluster):
    shape = "hidden_size: 512, num_attention_heads: 8, intermediate_size: 2048"
    own = f"train.prune={{{shape}, mask_steps: 100, heal_tokens: 1000000, optimiser: {{rows_per_step: 64, lr: 1e-4}}}}"
    made = plan.make(recipes.load("sailor2-1b", [own]), cluster)
    assert value(made, "prune/masks", "tokens") == 100 * 64 * 4096
    small = 6 * (48 * (2 * 512**2 + 2 * 512 * 128 + 3 * 512 * 2048) + 512 * 151_936) + 12 * 48 * 512 * 4096
    assert value(made, "prune/heal", "GPU-hours") == pytest.approx(
        1e6 * (small + 7.2247e9 / 3) / (989e12 * 0.35 * 3600), rel=1e-3
    )
    alone = plan.make(recipes.load("sailor2-1b", [own, "train.prune.distil=null"]), cluster)
    assert value(alone, "prune/heal", "GPU-hours") == pytest.approx(1e6 * small / (989e12 * 0.35 * 3600))


@pytest.mark.parametrize(
    ("recipe", "changes", "nodes", "message"),
    [
        (
            "20b",
            ["train.context=2048"],
            {"train": {"gpu_memory_gb": 40}},
            "groups (train).gpu_memory_gb: evaluation, scoring and sampling hold the whole model on one GPU, ",
        ),
        ("20b", [], {"train": {"memory_gb": 512}}, "groups (train).memory_gb: the workers of a node read 1,227 GB"),
        (
            "8b",
            ["train.sft.select.per_language={default: 100, en: 290000}"],
            {"head": {"memory_gb": 16}},
            "train.sft.select.per_language: the head compares 290,000 conversations",
        ),
    ],
)
def test_models_and_embeddings_that_do_not_fit(cluster, recipe, changes, nodes, message):
    groups = [one.model_copy(update=nodes.get(one.name, {})) for one in cluster.groups]
    head = cluster.head.model_copy(update=nodes.get("head", {}))
    with pytest.raises(ValueError) as error:
        plan.make(
            recipes.load(f"sailor2-{recipe}", changes), cluster.model_copy(update={"groups": groups, "head": head})
        )
    assert str(error.value).startswith(message), error.value
    assert "\n" not in str(error.value)


def test_a_reference_of_20b_fits_a_card_of_80_gb_in_two_bytes(cluster):
    (group,) = [one for one in cluster.groups if one.gpus]
    small = group.model_copy(update={"gpu_memory_gb": 80})
    plan_training._check_whole_models(recipes.load("sailor2-20b"), small)
    with pytest.raises(ValueError, match="gpu_memory_gb: evaluation, scoring and sampling"):
        plan_training._check_whole_models(recipes.load("sailor2-20b", ["train.precision=fp32"]), small)


def test_watching_is_models_times_prompts_times_answers(cluster):
    own = ["train.dpo.watch.per_language=2", "train.dpo.watch.every=100", "train.dpo.on_policy.rounds=2"]
    made = plan.make(recipes.load("sailor2-1b", own), cluster)
    updates = [math.ceil(53_813 * 0.9 / 128), math.ceil(53_813 / 128), math.ceil(53_813 / 128)]
    models = 1 + 3 + sum(count // 100 for count in updates)
    assert value(made, "dpo/watch", "tokens") == models * 2 * 15 * 600


def test_parameters_are_those_of_transformers():
    from transformers import AutoModelForCausalLM, Qwen2Config

    from train.monitor import flops

    shape = dict(zip(bases.FIELDS, (64, 3, 4, 2, 96, False), strict=True))
    for tied in (True, False):
        shape["tie_word_embeddings"] = tied
        model = AutoModelForCausalLM.from_config(Qwen2Config(vocab_size=300, **shape))
        assert flops.parameters(shape, 300) == sum(p.numel() for p in model.parameters())


def test_half_the_snapshots_are_half_the_tokens(cluster):
    changes = [f"sources.{i}.snapshots=[{name}]" for i, name in ((0, "CC-MAIN-2024-18"), (1, "CC-MAIN-2013-20"))]
    made = plan.make(recipes.load("sailor2-1b", changes), cluster)
    assert value(made, "corpus", "tokens after deduplication") == pytest.approx(
        sum(plan_rates.SEA_TOKENS.values()) / 48
    )


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (
            ["train.parallel=replicate", "train.base.model=Qwen/Qwen2.5-14B", "train.expand.new_layers=16"],
            "train.parallel",
        ),
        (["train.workers=65"], "train.workers: 65 workers need a GPU each"),
        (["train.pretrain.micro_rows=64"], "train.pretrain.micro_rows"),
        (["train.context=131072"], "train.context"),
        (
            [
                "train.parallel=fsdp",
                "train.workers=2",
                "train.base.model=Qwen/Qwen2.5-14B",
                "train.expand.new_layers=16",
            ],
            "train.workers",
        ),
        (["dedup.max_driver_edges=2000000000"], "dedup.max_driver_edges"),
    ],
)
def test_what_cannot_fit_is_refused(cluster, changes, key):
    with pytest.raises(ValueError, match=r"^(train|dedup)\.") as error:
        plan.make(recipes.load("sailor2-1b", changes), cluster)
    assert str(error.value).startswith(key)
    assert "\n" not in str(error.value)


def test_the_refusal_says_what_would_fit(cluster):
    for parallel, most in (("fsdp", 11), ("replicate", 9)):
        changes = [f"train.parallel={parallel}", "train.pretrain.micro_rows={}"]
        with pytest.raises(ValueError, match=f"set it to {most} or less"):
            plan.make(recipes.load("sailor2-1b", [change.format(64) for change in changes]), cluster)
        plan.make(recipes.load("sailor2-1b", [change.format(most) for change in changes]), cluster)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("memory_gb: 128", "memory_gb: 32", "groups (curate).memory_gb"),
        ("disk_gb: 1000                 # shuffle and spill", "disk_gb: 20", "groups (curate).disk_gb"),
        ("price_per_hour: 0.60", "start_seconds: 100", "groups (curate).price_per_hour"),
        ("gpu_tflops: 989", "idle_seconds: 500", "groups (train): a plan of training needs gpu_tflops"),
        ("prices:", "assume: {moon: 3}\nprices:", "assume.moon: no such number"),
    ],
)
def test_the_command_exits_2_with_one_sentence(tmp_path, capsys, old, new, key):
    path = tmp_path / "cluster.yaml"
    text = CLUSTER.read_text()
    assert old in text
    path.write_text(
        text.replace("    start_seconds: 180\n", "").replace("    idle_seconds: 600\n", "").replace(old, new)
    )
    with pytest.raises(SystemExit) as exit_:
        cli.main(["plan", "sailor2-1b", "--cluster", str(path)])
    err = capsys.readouterr().err
    assert exit_.value.code == 2
    assert err.startswith(f"pinisi: {key}")
    assert err.count("\n") == 1


def test_numbers_can_be_assumed(cluster):
    faster = plan.make(recipes.load("sailor2-1b"), cluster.model_copy(update={"assume": {"mfu": 0.7}}))
    slower = plan.make(recipes.load("sailor2-1b"), cluster)
    ratio = value(slower, "pretrain/stage1", "GPU-hours") / value(faster, "pretrain/stage1", "GPU-hours")
    assert ratio == pytest.approx(2.0)
    assert [row.source for row in faster.rows if row.what == "mfu"] == ["cluster file, assume.mfu"]


def test_without_compile_the_plan_counts_on_less(cluster):
    hours = {
        c: value(plan.make(recipes.load("sailor2-8b", [f"train.compile={c}"]), cluster), "pretrain/stage1", "GPU-hours")
        for c in ("true", "false")
    }
    assert hours["false"] / hours["true"] == pytest.approx(0.40 / 0.34)
    own = cluster.model_copy(update={"assume": {"mfu": 0.8}})
    both = [plan.make(recipes.load("sailor2-8b", [f"train.compile={c}"]), own) for c in ("true", "false")]
    assert value(both[0], "pretrain/stage1", "GPU-hours") == value(both[1], "pretrain/stage1", "GPU-hours")


def test_the_recipes_train_as_the_plan_assumes():
    trains = {name: recipes.load(name).train for name in ("sailor2-1b", "sailor2-8b", "sailor2-20b")}
    assert all(train.compile for train in trains.values())
    assert [train.parallel for train in trains.values()] == ["replicate", "fsdp", "fsdp"]


def test_wider_gaps_are_fewer_requests_and_more_bytes(cluster):
    made = {
        gap: plan.make(recipes.load("sailor2-1b", [*MANY, f"fetch.gap_bytes={gap}"]), cluster)
        for gap in (0, 499_999, 3_000_000)
    }
    found = {
        gap: (value(one, "number", "requests_per_record"), value(one, "number", "fetched_per_wanted"))
        for gap, one in made.items()
    }
    assert found == {0: (1.0, 1.0), 499_999: (0.8369, 1.221), 3_000_000: (0.1088, 18.46)}
    days = {gap: value(one, "crawl", "least time") for gap, one in made.items()}
    read = {gap: value(one, "corpus", "read from outside") for gap, one in made.items()}
    assert days[0] > days[499_999] > days[3_000_000]
    assert days[3_000_000] == pytest.approx(
        read[3_000_000] / 2e9 / 86400
    )  # the network of two nodes is the limit there
    many = plan.make(recipes.load("sailor2-1b", [*MANY, "fetch.gap_bytes=3000000", "fetch.concurrency=1000"]), cluster)
    assert value(many, "crawl", "least time") == pytest.approx(
        read[3_000_000] / 4e9 / 86400
    )  # there the bytes are the limit
    assert all(
        "measured: benchmarks/results/cluster-crawl.json" in r.source
        for r in made[0].rows
        if r.what == "fetched_per_wanted"
    )


def test_spot_gpus_take_longer(cluster):
    def days(losses):
        groups = [g.model_copy(update={"spot": True, "spot_losses_per_hour": losses}) for g in cluster.groups]
        made = plan.make(recipes.load("sailor2-1b"), cluster.model_copy(update={"groups": groups}))
        return value(made, "time", "wall time, mean"), value(made, "time", "wall time, 90th percentile")

    (calm, calm_90), (rough, rough_90) = days(0.0), days(0.2)
    assert rough > calm + 1
    assert rough_90 > rough
    assert calm_90 < calm + 0.1


def test_rates_come_from_a_finished_run(tmp_path):
    from ray_jobs.run.run import Run

    run = Run(str(tmp_path), recipes.load("demo", ["cluster.cpus=4"]))
    for stage, manifest in {
        "extract": {"docs_in": 8000, "docs_out": 6000, "seconds": 10.0},
        "tokenize": {"docs_in": 100, "bytes": 300_000, "tokens": 60_000, "seconds": 5.0},
    }.items():
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "_manifest.json").write_text(json.dumps({"stage": stage, **manifest}))
    found = plan_rates.numbers("cascade", {}, run)
    assert (found["extract"].value, found["extract_kept"].value) == (200.0, 0.75)
    assert (found["tokenize_rate"].value, found["bytes_per_token"].value) == (3000.0, 5.0)
    assert found["bytes_per_document"].value == 3000.0
    assert "run demo on 4 CPUs: extract/_manifest.json" in found["extract"].source
    assert found["signals_rate"].source.startswith("measured: ")


def test_files_are_counted(tmp_path, cluster):
    (tmp_path / "pages.warc.gz").write_bytes(b"x" * 3_000_000)
    sources = f"sources=[{{name: w, type: warc, path: '{tmp_path}/*.gz'}}]"
    made = plan.make(recipes.load("sailor2-1b", [sources, "quality.positives=[]", "quality.negatives=[]"]), cluster)
    assert value(made, "crawl", "bytes in") == pytest.approx(3_000_000)
    with pytest.raises(ValueError, match="sources: no file is there"):
        plan_corpus.plan(
            recipes.load(
                "demo",
                ["sources=[{name: w, type: warc, path: /no/*.gz}]", "quality.positives=[]", "quality.negatives=[]"],
            ),
            plan_rates.numbers("cascade", {}),
        )


def test_what_is_not_counted_is_said():
    tasks = "{tasks: [{name: t, model: m, prompt: simplify, licence: mit}]}"
    (said,) = plan.left_out(recipes.load("sailor2-1b", [f"synthesize={tasks}"]))
    assert said.startswith("synthesize is not in this plan") and plan.left_out(recipes.load("sailor2-1b")) == []


def test_json_has_every_number_and_the_nodes(capsys):
    with pytest.raises(SystemExit):
        cli.main(["plan", "sailor2-1b", "--cluster", str(CLUSTER), "--set", MANY[0], "--set", MANY[1], "--json"])
    made = json.loads(capsys.readouterr().out)
    assert {"part", "what", "value", "unit", "source", "low", "high"} == set(made["numbers"][0])
    assert made["proposals"][0]["keys"] == {} and set(made["proposals"][1]) == {"keys", "total", "days"}
    assert next(row["stage"] for row in made["nodes"]) == "crawl"
    ends = [row["end_seconds"] for row in made["nodes"]]
    assert ends == sorted(ends)


def test_a_model_of_1b_is_planned_at_what_others_have_measured(cluster):
    """nanotron's Llama 1B on 8 H100: 30 % of the peak; 40 % is the friendly end."""
    made = plan.make(recipes.load("sailor2-1b"), cluster)
    (row,) = [row for row in made.rows if (row.part, row.what) == ("pretrain/stage1", "GPU-hours")]
    for hours, mfu in ((row.low, 0.40), (row.value, 0.35), (row.high, 0.30)):
        assert hours == pytest.approx(450e9 * 7.2247e9 / (989e12 * mfu) / 3600, rel=1e-3)
    tokens = 989e12 * 0.30 / 7.2247e9
    assert tokens == pytest.approx(33_300 * 300e12 / 33_300 / 7.2247e9, rel=0.02)  # 300 TFLOP/s of a GPU
    assert row.low * (1 + 60 / 450) == pytest.approx(2587, rel=0.005)
    assert row.high * (1 + 60 / 450) == pytest.approx(3450, rel=0.005)
    large = plan.make(recipes.load("sailor2-8b"), cluster)
    assert "MFU 40%" in next(r.source for r in large.rows if (r.part, r.what) == ("pretrain/stage1", "GPU-hours"))


def test_low_likely_and_high_are_by_mfu_latency_and_price(cluster):
    made = plan.make(recipes.load("sailor2-1b", MANY), cluster)
    rows = {(row.part, row.what): row for row in made.rows}
    for what in (
        ("time", "wall time, mean"),
        ("money", "total, mean"),
        ("money", "GPU nodes, mean"),
        ("energy", "energy"),
    ):
        assert rows[what].low < rows[what].value < rows[what].high, what
    storage = rows["money", "storage"]
    assert (storage.low, storage.high) == pytest.approx((0.9 * storage.value, 1.35 * storage.value))
    assert rows["crawl", "least time"].high == pytest.approx(
        rows["crawl", "least time"].value * (0.15 + 0.0033) / (0.05 + 0.0033), rel=1e-3
    )
    sure = {"mfu": 0.35, "proxy_mfu": 0.27, "generate_rate": 2000, "answer_rate": 25, "request_latency": 0.05}
    prices = cluster.prices.model_copy(update={"low": 1.0, "high": 1.0})
    known = plan.make(recipes.load("sailor2-1b", MANY), cluster.model_copy(update={"assume": sure, "prices": prices}))
    assert not [row.what for row in known.rows if row.low is not None and row.part != "number"]


def test_more_nodes_than_a_crawl_may_use_are_not_rented(cluster):
    made = {
        n: plan.make(recipes.load("sailor2-1b", [*MANY, f"fetch.concurrency={n}"]), cluster).phases[0]
        for n in (1, 64, 65, 4096)
    }
    assert {n: phase.nodes for n, phase in made.items()} == {1: 1, 64: 2, 65: 3, 4096: 64}
    seconds = {n: phase.node_seconds / phase.limit for n, phase in made.items()}
    assert seconds[1] == pytest.approx(64 * seconds[64])  # requests are served one by one
    assert seconds[4096] == pytest.approx(10.54 * 86400, rel=1e-2)  # 2,000 requests a second
    one = cluster.model_copy(update={"groups": [g.model_copy(update={"max_nodes": 1}) if g.role == "cpu" else g for g in
    cluster.groups]})  # fmt: skip
    phase = plan.make(
        recipes.load("sailor2-1b", [*MANY, "fetch.concurrency=4096", "dedup.max_driver_edges=1000"]), _large_disk(one)
    )
    assert phase.phases[0].nodes == 1
    assert phase.phases[0].node_seconds / phase.phases[0].limit > seconds[64] / 3  # 32 tasks of four requests, 1 GB/s


def _large_disk(cluster):
    groups = [group.model_copy(update={"disk_gb": 10_000}) for group in cluster.groups]
    return cluster.model_copy(update={"groups": groups})


def test_the_case_that_a_reader_found_is_proposed(cluster):
    """64 nodes that wait for 2,000 requests a second cost 30,400 dollars; fewer nodes and wider gaps 21,000, and are quicker."""
    as_then = {"mfu": 0.40, "request_latency": 1e-6, "request_rate": 1e12}
    prices = cluster.prices.model_copy(update={"disk_gb_month": 0.0, "write_requests": 0.0, "read_requests": 0.0})
    then = cluster.model_copy(update={"assume": as_then, "prices": prices})
    made = plan.make(recipes.load("sailor2-1b", ["fetch.concurrency=2048", *MANY]), then)
    assert made.phases[0].nodes == 64
    asked, *better = made.proposals
    assert (
        asked.keys == {}
        and asked.total == pytest.approx(30_400, rel=0.01)
        and asked.days == pytest.approx(17.6, abs=0.1)
    )
    assert better[0].total == pytest.approx(21_000, rel=0.01) and better[0].days <= 17.6
    assert better[0].keys["groups (curate).max_nodes"] <= 4 and better[0].keys["fetch.gap_bytes"] == 2_000_000
    changed = recipes.load("sailor2-1b", ["fetch.concurrency=2048", "fetch.requests_per_second=2000"])
    fewer = [
        g.model_copy(update={"max_nodes": better[0].keys["groups (curate).max_nodes"]}) if g.role == "cpu" else g
        for g in then.groups
    ]
    followed = plan.make(changed, then.model_copy(update={"groups": fewer}))
    assert value(followed, "money", "total, mean") == pytest.approx(better[0].total, rel=0.01)
    assert len(followed.proposals) == 1  # there is nothing left to gain


def test_watts_that_are_missing_are_named(cluster):
    groups = [group.model_copy(update={"watts": None}) if group.gpus else group for group in cluster.groups]
    made = plan.make(recipes.load("sailor2-1b"), cluster.model_copy(update={"groups": groups}))
    assert [(r.what, r.source) for r in made.rows if r.part == "energy"] == [
        ("not counted", "add groups (train).watts")
    ]


def test_new_stages_by_hand(cluster):
    """A longer context, a draft, masks in two rounds with a teacher, and a choice of what learns."""
    longer = "train.long_context={context: 16384, tokens: 1000000000, optimiser: {rows_per_step: 64, micro_rows: 1, lr: 2e-5}}"
    draft = "train.draft={optimiser: {rows_per_step: 64, micro_rows: 1, lr: 1e-3}}"
    made = plan.make(recipes.load("sailor2-1b", [longer, draft]), cluster)
    speed = 989e12 * 0.35 * 3600
    own = recipes.load("sailor2-1b", [longer]).train.long_context
    attended = (own.long_share * min(2 * own.long_tokens, 16_384) + (1 - own.long_share) * 1000) / 2
    assert value(made, "long_context", "GPU-hours") == pytest.approx(
        1e9 * (PRODUCTS + attended * PAIR) / speed, rel=1e-3
    )
    assert value(made, "draft_answers", "GPU-hours") == pytest.approx(15 * 2000 * 512 / 2000 / 3600)
    layer = 2 * 896**2 + 2 * 896 * 128 + 3 * 896 * 4864
    step = (PRODUCTS + 300 * PAIR) * (1 / 3 + 6 * (layer + 896 * 32_000) / PRODUCTS)
    assert value(made, "draft", "GPU-hours") == pytest.approx(15 * 2000 * 600 * step / speed, rel=1e-3)
    assert value(made, "draft/acceptance", "GPU-hours") == pytest.approx(2 * 15 * 8 * 512 / 25 / 3600)
    shape = "hidden_size: 512, num_attention_heads: 8, intermediate_size: 2048"
    optimiser = "optimiser: {rows_per_step: 64, lr: 1e-4}"
    prune = f"train.prune={{{shape}, steps: 2, mask_steps: 100, heal_tokens: 1000000, {optimiser}}}"
    made = plan.make(recipes.load("sailor2-1b", [prune]), cluster)
    students = [one.flops_per_token for one in sizes.students(recipes.load("sailor2-1b", [prune]))]
    assert students[0] > students[1]
    assert value(made, "prune/masks", "GPU-hours") == pytest.approx(
        100 * 64 * 4096 * (7.2247e9 + students[0]) / speed, rel=1e-3
    )
    assert value(made, "prune/heal", "GPU-hours") == pytest.approx(
        1e6 * (sum(students) / 2 + 7.2247e9 / 3) / speed, rel=1e-3
    )
    update = ["train.expand=null", "train.pretrain.update={rule: contrast, rows: 4}"]
    made = plan.make(recipes.load("sailor2-1b", update), cluster)
    assert value(made, "pretrain/choice", "tokens") == 4 * 15 * 4096


def test_every_trained_stage_of_the_graph_is_planned(cluster):
    """A stage that runs on GPUs and is not in the plan costs a treasurer what nobody told."""
    own = [
        "train.long_context={context: 16384, tokens: 1000000000, optimiser: {rows_per_step: 64, micro_rows: 1, lr: 2e-5}}",
        "train.draft={optimiser: {rows_per_step: 64, micro_rows: 1, lr: 1e-3}}",
        "train.prune={hidden_size: 512, num_attention_heads: 8, intermediate_size: 2048, heal_tokens: 1000000, "
        "optimiser: {rows_per_step: 64, lr: 1e-4}}",
        "train.pretrain.control=true",
        "train.dpo.on_policy.rounds=2",
        "evaluate.long={lengths: [1000]}",
    ]
    recipe = recipes.load("sailor2-1b", own)
    planned = {phase.name.partition("/")[0] for phase in plan.make(recipe, cluster).phases}
    whole = {phase.name for phase in plan.make(recipe, cluster).phases}
    on_cpus = {"sft/data", "mixture", "regmix/weights", "expand", "export", "report", "base", "decontaminate"}
    for stage in graph.enabled(recipe):
        assert stage.name in whole | on_cpus or stage.name in planned, stage.name
