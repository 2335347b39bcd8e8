"""Which stages a recipe key makes again: those that read it, and what follows."""

import hashlib
import json

import pytest

from ray_jobs.config import reader as recipes
from ray_jobs.run import graph
from ray_jobs.run import run as runs
from ray_jobs.run.run import Run

ALIGNED = {"reward", "sft/stage1", "sft/select", "sft/stage2", "dpo/off_policy", "dpo/on_policy", "dpo/watch"}
MEASURED = {"evaluate", "tasks", "export", "report"}
PRETRAINED = {"pretrain/stage1", "pretrain/stage2", "control/stage1", "control/stage2", "prune"}


@pytest.fixture
def changed(monkeypatch, tmp_path):
    """The stages whose fingerprint a change of the demo's keys changes, of those that both recipes have."""
    monkeypatch.setattr(runs, "code", lambda job, languages: {job: "as it is"})

    def of(*overrides):
        before, after = (Run(str(tmp_path), recipes.load("demo", keys)).fingerprints() for keys in ((), overrides))
        return {name for name in before.keys() & after.keys() if before[name] != after[name]}

    return of


def test_the_base_is_not_trained_again_for_what_follows_it(changed):
    tokens = {"regmix/weights", "mixture", *PRETRAINED, *ALIGNED, *MEASURED}
    assert changed("train.pretrain.stage1.max_tokens=400_000") == tokens
    assert changed("train.pretrain=null", "train.expand=null", "train.prune=null") >= {"mixture", *ALIGNED}
    assert "base" not in changed("train.pretrain=null", "train.expand=null", "train.prune=null")
    assert "base" not in changed("mixture.replay_share=0.2")


@pytest.mark.parametrize(
    "key",
    ["mixture.temperature=3", "mixture.max_epochs=5", "train.base.max_tokens=500_000", "train.context=128", "seed=7"],
)
def test_what_decides_the_plan_of_the_base_trains_it_again(changed, key):
    assert {"base", "expand", *PRETRAINED} <= changed(key)


def test_a_control_adds_stages_and_changes_no_other(changed):
    assert changed("train.pretrain.control=false") <= MEASURED


def test_which_weights_change_is_of_pre_training_and_what_follows(changed):
    keys = ("train.expand=null", "train.pretrain.control=false")
    assert not {"mixture", "base", "regmix/weights"} & changed(*keys, "train.pretrain.update.rule=lora")


def test_a_seed_of_training_is_of_what_follows_the_base(changed):
    assert changed("train.seed=7") == {*PRETRAINED, *ALIGNED, *MEASURED}
    assert changed("train.seed=42") == set()  # the recipe's own
    assert recipes.load("demo", ["train.seed=42"]).train.seed is None
    assert recipes.load("demo", ["seed=7", "train.seed=42"]).train.seed == 42


TRAINING = {
    *("pretrain/stage1", "pretrain/stage2", "control/stage1", "control/stage2", "long_context", "reward", "sft/stage1"),
    *("sft/select", "sft/stage2", "dpo/off_policy", "dpo/on_policy", "dpo/on_policy_2", "draft", "prune"),
}
ROUNDS = {"dpo/on_policy", "dpo/on_policy_2"}
FIRST = {"pretrain/stage1", "control/stage1"}
SECOND = {"pretrain/stage2", "control/stage2"}
PLANNED = {"regmix/weights", "mixture", *FIRST}
READERS = {  # of a key, or of all below it that have no row of their own: the stages that read it themselves
    "name": {"export"},
    "seed": {*("dedup", "quality", "tokenize", "regmix/proxies", "base", "evaluate", "long"), *PLANNED, *TRAINING},
    "languages": {
        *("language", "filter/signals", "filter/policy", "quality", "mixture", "reward", "sft/data", "sft/stage1"),
        *("sft/stage2", "dpo/off_policy", *ROUNDS, "draft_answers", "evaluate", "tasks", "wildbench", "long"),
    },
    "sources": {"crawl", "language"},
    "fetch": set(),
    "cluster": set(),
    "run": set(),
    "crawl": {"crawl"},
    **{f"crawl.{key}": {"crawl", "parallel/pairs"} for key in ("max_record_bytes", "max_line_bytes")},
    "extract": {"extract"},
    "language": {"language", *ROUNDS, "dpo/watch"},
    "language.model": {"language", "parallel/pairs", "sft/data", *ROUNDS, "dpo/watch"},
    "language.labels": {"language", "parallel/pairs", "sft/data", *ROUNDS, "dpo/watch"},
    "annotations": {"annotate"},
    "filter": {"filter/signals"},
    "filter.policy": {"filter/policy"},
    "filter.reference": {"filter/policy"},
    "filter.reference_min_documents": {"filter/policy"},
    "filter.language_files": {"filter/signals", "filter/policy"},
    "dedup": {"dedup"},
    "decontaminate": {"decontaminate", "parallel/decontaminate"},
    "quality": {"quality"},
    "quality.top_share": {"quality", "tokenize"},
    "parallel": {"parallel/pairs"},
    "parallel.duplicates": {"parallel/dedup"},
    "parallel.encoder": {"parallel/align"},
    "parallel.min_alignment": {"parallel/align"},
    **{f"parallel.{key}": {"parallel/documents"} for key in ("formats", "block", "templates")},
    **{f"parallel.{key}": {"mixture", *FIRST} for key in ("share", "weights")},
    "parallel.stage2_share": {"mixture"},
    "synthesize": {"synthesize"},
    "tokenize": {"tokenize"},
    "mixture": PLANNED,
    "mixture.temperature": {*PLANNED, "base"},
    "mixture.max_epochs": {*PLANNED, "base", "long_context"},
    "mixture.stage2_replay_share": {"mixture"},
    "mixture.stage2_instruction_share": {"mixture"},
    "mixture.regmix.proxies": {"regmix/proxies", *PLANNED},
    "mixture.regmix.match_repetition": {"regmix/proxies", *PLANNED},
    "mixture.regmix.reuse": {"regmix/proxies", *PLANNED},
    "train": set(),  # where and how exactly, and what is only measured
    "train.seed": TRAINING,
    "train.context": {*PLANNED, "base", *TRAINING, "dpo/watch", "draft_answers", "evaluate"},
    "train.precision": {"base", *TRAINING, "draft_answers"},
    "train.parallel": {"base", *TRAINING},
    "train.workers": {"base", *TRAINING},
    "train.guard": {"base", *TRAINING},
    "train.optimiser_states": {"base", *TRAINING},
    "train.exact": {"base", *TRAINING},
    "train.device": {"regmix/proxies"},
    "train.base": {"base"},
    **{f"train.base.{key}": {"base", "mixture"} for key in ("shape", "languages", "tokens", "max_tokens")},
    "train.base.optimiser.rows_per_step": {"base", "mixture"},
    "train.expand": {"expand"},
    "train.expand.trainable": {"expand", "pretrain/stage1"},
    "train.pretrain": {*FIRST, *SECOND},
    "train.pretrain.control": set(),
    "train.pretrain.update": {"pretrain/stage1", "pretrain/stage2"},
    "train.pretrain.stage1": FIRST,
    "train.pretrain.stage2": SECOND,
    **{f"train.pretrain.stage1.{key}": PLANNED for key in ("tokens", "max_tokens", "rows_per_step")},
    **{f"train.pretrain.stage2.{key}": {"mixture", *SECOND} for key in ("tokens", "max_tokens", "rows_per_step")},
    "train.long_context": {"long_context"},
    "train.long_context.align": set(),
    "train.reward": {"reward", "dpo/watch"},
    "train.sft.instruct": {"tokenize", "sft/data"},
    "train.sft.data": {"sft/data"},
    "train.sft.data.language": {"sft/data", "reward", "dpo/off_policy"},
    "train.sft.max_rows": {"sft/data"},
    "train.sft.eval_every": {"sft/stage1", "sft/stage2"},
    "train.sft.eval_rows_per_language": {"sft/stage1"},
    "train.sft.stage1": {"sft/stage1"},
    "train.sft.select": {"sft/select"},
    "train.sft.stage2": {"sft/stage2"},
    "train.dpo": {"dpo/off_policy", *ROUNDS},
    "train.dpo.beta": {"dpo/off_policy", *ROUNDS, "dpo/watch"},
    "train.dpo.watch": {"dpo/off_policy", *ROUNDS, "dpo/watch"},
    "train.dpo.watch.judge": {"dpo/watch"},
    "train.dpo.on_policy": {*ROUNDS, "dpo/watch"},
    "train.dpo.on_policy.rounds": set(),
    "train.draft": {"draft"},
    "train.draft.answers": {"draft_answers"},
    "train.prune": {"prune"},
    "evaluate": {"evaluate"},
    "evaluate.tasks": {"tasks"},
    "evaluate.wildbench": {"wildbench"},
    "evaluate.long": {"long"},
    "export": {"export"},
}


def leaves(value, at=""):
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from leaves(below, f"{at}.{key}" if at else key)
    else:
        yield at


def readers(key):
    while key not in READERS:
        key = key.rpartition(".")[0]
    return READERS[key]


class Changed:
    """A recipe of which one value is another, whatever its type allows."""

    def __init__(self, recipe, key):
        self.values = recipe.model_dump()
        *path, last = key.split(".")
        inner = self.values
        for name in path:
            inner = inner[name]
        inner[last] = f"other than {inner[last]}"

    def model_dump(self):
        return self.values


def test_every_key_changes_the_stages_that_read_it_and_no_other():
    """So that a rate of stage 2 does not train stage 1 again, nor another selection the model that it selects for."""
    recipe = recipes.load("demo-full")
    before = {
        stage.name: {key: recipes.fingerprinted(recipe, key) for key in stage.config} for stage in graph.enabled(recipe)
    }
    keys = list(leaves(recipe.model_dump()))
    assert len(keys) > 300 and {key.partition(".")[0] for key in keys} == {row.partition(".")[0] for row in READERS}
    wrong = {}
    for key in keys:
        changed = Changed(recipe, key)
        found = {
            name
            for name, config in before.items()
            if any(
                recipes.fingerprinted(changed, own) != value
                for own, value in config.items()
                if key == own or key.startswith(f"{own}.")
            )
        }
        if found != readers(key) & set(before):
            wrong[key] = (found, readers(key))
    assert not wrong


def test_what_reads_a_key_and_what_follows_run_again(changed, monkeypatch):
    """The same through whole runs, for keys by chance: readers, and whatever has them among its inputs."""
    monkeypatch.setattr(runs.files, "listing", lambda recipe, key: None)
    stages = graph.enabled(recipes.load("demo"))
    have = {stage.name for stage in stages}
    tried = {
        "train.pretrain.stage2.lr": "3e-5",
        "train.pretrain.stage2.max_tokens": "77_000",
        "train.sft.stage2.epochs": "7",
        "train.sft.select.per_cell": "31",
        "train.sft.select.max_similarity": "0.51",
        "train.dpo.on_policy.temperature": "0.81",
        "train.base.optimiser.lr": "1e-3",
        "mixture.stage2_replay_share": "0.31",
        "mixture.replay_share": "0.26",
        "train.prune.mask_lr": "0.51",
        "dedup.threshold": "0.61",
    }
    for key, value in tried.items():
        again = readers(key) & have
        for stage in stages:
            if set(stage.inputs) & again:
                again |= {stage.name}
        assert changed(f"{key}={value}") == again, key


BEFORE = {  # of what these recipes asked of their stages when keys of LATER were not there
    "commoncrawl": {
        "crawl": "054a2804",
        "extract": "d6694dd7",
        "language": "542ca08f",
        "filter/signals": "8eeb55fb",
        "filter/policy": "956bc01b",
        "dedup": "9837d37e",
        "quality": "a92036f0",
        "tokenize": "fbb94e24",
        "mixture": "4d1f0308",
        "report": "44136fa3",
    },
    "align": {
        "tokenize": "1e5f993a",
        "base": "0634d9f0",
        "reward": "5e6e391e",
        "sft/data": "bbe19a99",
        "sft/stage1": "8f703562",
        "sft/select": "e86df617",
        "sft/stage2": "c9fc7565",
        "dpo/off_policy": "6326d087",
        "dpo/on_policy": "9bd3f6a9",
        "dpo/watch": "12652ec5",
        "export": "892a60b2",
        "report": "44136fa3",
    },
}


@pytest.mark.parametrize("name", list(BEFORE))
def test_keys_that_came_later_leave_results_of_before(name):
    """A new key that nobody sets is one of `reader.LATER`; a changed default of a recipe is written down here."""
    recipe = recipes.load(name)
    asked = {stage.name: recipes.all_fingerprinted(recipe, stage.config) for stage in graph.enabled(recipe)}
    digests = {
        stage: hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
        for stage, config in asked.items()
    }
    assert digests == BEFORE[name]


def test_a_key_that_came_later_counts_once_it_is_set():
    of = {
        value: recipes.all_fingerprinted(recipes.load("commoncrawl", [f"tokenize.pieces={value}"]), ["tokenize"])[
            "tokenize"
        ]
        for value in ("qwen2", "marks")
    }
    assert of["marks"] == {**of["qwen2"], "pieces": "marks"} and "pieces" not in of["qwen2"]
    assert recipes.all_fingerprinted(recipes.load("demo"), ["mixture.regmix.reuse"]) == {}
