"""The work of the stage prune without Ray: rounds, both methods, a resume, equal shares of languages, damage."""

import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM

from cluster import storage
from mixture.store.token_store import write_store
from ray_jobs.config import reader as recipes
from ray_jobs.config.optimiser import Optimiser
from ray_jobs.errors import UserError
from ray_jobs.plan import gpu_memory
from ray_jobs.run import graph
from ray_jobs.run.job import Job
from ray_jobs.stages import prune
from train import model as models
from train.loop import LoopConfig

torch.set_num_threads(1)
POOLS = {"all/lo": 400, "all/en": 9_000, "high_quality/en": 3_000}
LOOP = {**Optimiser(rows_per_step=4, micro_rows=2, lr=1e-3, checkpoint_every=2).model_dump(), "log_every": 1}
TARGETS = [
    {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 64},
    {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 40},
]


@pytest.fixture
def settings(tmp_path, tiny_model, chatml_tokenizer):
    """A made-up run with a model of 64, 8 heads and FFNs of 96."""
    generator = np.random.default_rng(0)
    for name, count in POOLS.items():
        documents = [(f"{i:032}", name[-2:], 60, generator.integers(3, 300, 20)) for i in range(count // 20)]
        write_store(str(tmp_path / "pools" / name), documents, 300, eod=0)
    models.save(tiny_model(), None, str(tmp_path / "base"), 24)
    copy.deepcopy(chatml_tokenizer).save_pretrained(tmp_path / "tokenizer")
    texts = {"lo": "ເຮືອແລ່ນໄປທ່າເຮືອ", "en": "the boat sails to the harbour"}
    columns = {"doc_id": ["1", "2"], "lang": list(texts), "text": list(texts.values())}
    sizes = [len(text.encode()) for text in texts.values()]
    storage.write_table(str(tmp_path / "heldout.parquet"), pa.table(columns | {"bytes": sizes}))
    weights = {"all/lo": 0.05, "all/en": 0.65, "high_quality/en": 0.3}
    (tmp_path / "metrics").mkdir()
    return {
        "loop": {**LOOP, "steps": 4},
        "out": str(tmp_path / "prune"),
        "context": 24,
        "saved_context": 24,
        "tokenizer": str(tmp_path / "tokenizer"),
        "seed": 0,
        "watch": {
            "trackers": [],
            "project": "mine",
            "peak": None,
            "eval_every": 0,
            "eval_bytes": 1000,
            "heldout": str(tmp_path / "heldout.parquet"),
            "replay": ["en"],
            "alarm": 0.01,
            "tasks": [],
        },
        "metrics_uri": str(tmp_path / "metrics" / "prune.jsonl"),
        "pools": str(tmp_path / "pools"),
        "sample_seed": 1,
        "rows_per_step": 4,
        "schedule": [{"from_sample": 0, "weights": weights}],
        "removed": [],
        "model": str(tmp_path / "base"),
        "teacher": str(tmp_path / "base"),
        "targets": TARGETS[1:],
        "method": "masks",
        "calibration_rows": 6,
        "mask_loop": {**LOOP, "steps": 4},
        "mask_lr": 1.0,
        "warmup_steps": 2,
        "long": None,
        "short": 24,
        "distil": {"weight": 1.0, "temperature": 1.0},
        "first_row": 0,
    }


def shape(folder):
    config = AutoModelForCausalLM.from_pretrained(folder).config
    return {key: getattr(config, key) for key in TARGETS[0]}


@pytest.mark.parametrize("method", ["masks", "activations"])
@pytest.mark.parametrize("mask", [None, "anchor"])
def test_a_round_measures_each_language_three_times(settings, method, mask, monkeypatch):
    seen, own = set(), prune.training.packed_rows

    def packed(settings):
        made = own(settings)
        return lambda numbers: seen.add(made(numbers)["input_ids"].shape[1]) or made(numbers)

    monkeypatch.setattr(prune.training, "packed_rows", packed)
    longer = {"context": 47, "saved_context": 48, "long": {"anchor": 2, "mask": mask}} if mask else {}
    behind, plain = [], prune.long_rows.with_anchor
    monkeypatch.setattr(
        prune.long_rows, "with_anchor", lambda *given: behind.append(plain(*given)["input_ids"]) or plain(*given)
    )
    found = prune.train_worker({**settings, **longer, "method": method})
    assert seen == {47 if mask else 24}
    assert bool(behind) == bool(mask) and all(ids.shape[1] == 48 and set(ids[:, 0].tolist()) == {2} for ids in behind)
    assert AutoModelForCausalLM.from_pretrained(f"{settings['out']}/model").config.max_position_embeddings == (
        48 if mask else 24
    )
    assert shape(f"{settings['out']}/model") == TARGETS[1]
    assert set(found["damage"]) == {"lo", "en"}
    for one in found["damage"].values():
        assert len({one["before"], one["masks"], one["healed"]}) == 3 and min(one.values()) > 0
    assert found["parameters"] < found["parameters_before"] and "forgetting" not in found and "rounds" not in found
    assert found["loss"] == pytest.approx(found["divergence"]) and found["cross_entropy"] > 0
    assert not any("alpha" in str(path) or "checkpoints" in str(path) for path in Path(settings["out"]).rglob("*"))


def test_rounds_read_on_and_each_begins_with_the_one_before(settings, monkeypatch):
    asked = []
    plain = prune.training.packed_rows

    def packed_rows(own):
        made = plain(own)
        return lambda rows: asked.extend(rows) or made(rows)

    monkeypatch.setattr(prune.training, "packed_rows", packed_rows)
    found = prune.train_worker({**settings, "targets": TARGETS})
    assert set(asked) == set(range(64))  # 4 updates of masks and 4 of healing, of 4 rows, twice
    first = f"{settings['out']}/rounds/1"
    assert shape(f"{first}/model") == TARGETS[0] and shape(f"{settings['out']}/model") == TARGETS[1]
    (before,) = found["rounds"]
    assert found["parameters"] < before["parameters"] < found["parameters_before"]
    for lang, one in found["damage"].items():
        assert one["before"] == before["damage"][lang]["before"]  # of the first model, not of the round's
    names = {path.name for path in Path(settings["metrics_uri"]).parent.iterdir()}
    assert names == {"prune.jsonl", "prune-masks.jsonl", "prune-round1.jsonl", "prune-round1-masks.jsonl"}


@pytest.fixture(scope="module")
def whole():
    """What a run that nobody stopped has made."""
    return {}


@pytest.mark.parametrize("after", [3, 6, 11])
def test_what_is_stopped_goes_on_to_the_same_model(settings, after, monkeypatch, whole):
    if not whole:
        out = settings["out"] + "-whole"
        whole |= prune.train_worker({**settings, "targets": TARGETS, "out": out})
        whole["model"] = AutoModelForCausalLM.from_pretrained(f"{out}/model")

    class Killed(Exception):
        pass

    count, own, masked = 0, prune.distil.loss_fn, prune.Pruning.loss_fn

    def counted():
        nonlocal count
        count += 1
        if count == 2 * after:  # two micro-batches an update
            raise Killed

    def loss_fn(*args, **more):
        loss = own(*args, **more)
        return lambda *given: counted() or loss(*given)

    monkeypatch.setattr(prune.distil, "loss_fn", loss_fn)
    monkeypatch.setattr(
        prune.Pruning, "loss_fn", lambda self, task: masked(self, lambda *given: counted() or task(*given))
    )
    with pytest.raises(Killed):
        prune.train_worker({**settings, "targets": TARGETS})
    count = -10_000
    found = prune.train_worker({**settings, "targets": TARGETS})
    assert found["damage"] == whole["damage"] and found["loss"] == whole["loss"]
    one, other = AutoModelForCausalLM.from_pretrained(f"{settings['out']}/model"), whole["model"]
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_what_is_stopped_between_slicing_and_healing_leaves_nothing_behind(settings, monkeypatch):
    """A model of which only a part was written is sliced again; one that is there is not, and what it was cut from goes."""

    class Killed(Exception):
        pass

    sliced, healed = prune.slices.slice_checkpoint, prune.training.fit_and_save

    def half(source, masks, target, folder, context):
        storage.write_json(f"{folder}/config.json", {})  # as an upload that was cut off
        raise Killed

    def killed(*args, **more):
        raise Killed

    monkeypatch.setattr(prune.slices, "slice_checkpoint", half)
    with pytest.raises(Killed):
        prune.train_worker(settings)
    monkeypatch.setattr(prune.slices, "slice_checkpoint", sliced)
    monkeypatch.setattr(prune.checkpoint, "clear", killed)
    with pytest.raises(Killed):
        prune.train_worker(settings)
    monkeypatch.undo()
    monkeypatch.setattr(prune.slices, "slice_checkpoint", killed)
    monkeypatch.setattr(prune.training, "fit_and_save", healed)
    assert shape(f"{settings['out']}/sliced") == TARGETS[1]
    assert prune.train_worker(settings)["loss"] > 0
    assert not any("checkpoints" in str(path) for path in Path(settings["out"]).rglob("*"))


def test_the_loop_of_masks_has_no_guard_and_its_own_optimiser(monkeypatch):
    """A loss that rises because masks close is no spike."""
    own = "{rows_per_step: 8, micro_rows: 2, lr: 1e-5}"
    recipe = recipes.load("demo", ["train.guard={}", "train.compile=true", f"train.prune.mask_optimiser={own}"])
    stage = next(one for one in graph.enabled(recipe) if one.name == "prune")
    job = Job(recipe, "", stage, "", None)
    loop = prune.mask_loop(job, recipe.train.prune, 256)
    assert (loop["guard"], loop["compile"], loop["lr"], loop["steps"]) == (None, False, 1e-5, 20)
    more = recipes.load("demo", ["train.prune.mask_tokens=10_000"]).train.prune
    assert prune.mask_loop(job, more, 256)["steps"] == 5 == more.mask_updates(256)


def test_a_longer_context_is_pruned_where_it_is_asked_for():
    long = "train.long_context={context: 1024, tokens: 8192, optimiser: {rows_per_step: 4, lr: 1e-3}}"
    for start, stage, context in (("pretrain", "pretrain/stage2", None), ("long_context", "long_context", 1024)):
        recipe = recipes.load("demo", [long, f"train.prune.start={start}"])
        (found,) = [one for one in graph.enabled(recipe) if one.name == "prune"]
        assert found.inputs == (stage, "mixture")
        own = graph.lengthened(recipe, "prune")
        assert (own and own.context) == context
        masks = next(work for work in gpu_memory.works(recipe) if work.stage == "prune/masks")
        assert masks.length == (context or 256)
    with pytest.raises(UserError, match=r"prune\.start: long_context needs `long_context`"):
        recipes.load("demo", ["train.prune.start=long_context"])


def test_every_language_gives_equally_many_rows_of_all_its_text(settings):
    found = prune._calibration(settings, LoopConfig(**settings["loop"]))
    assert list(found) == ["en", "lo"]  # 95 and 5 % of the mixture
    rows = {lang: [batch["input_ids"] for batch in batches] for lang, batches in found.items()}
    assert {lang: sum(len(ids) for ids in of) for lang, of in rows.items()} == {"en": 3, "lo": 3}
