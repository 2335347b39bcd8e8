"""The worker of pre-training that changes a part of the base, without Ray: stopped at any place it gives the same bytes."""

import copy
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster import storage
from mixture.store.token_store import write_store
from ray_jobs.config.optimiser import Optimiser
from ray_jobs.config.training import Update
from ray_jobs.stages import pretrain
from ray_jobs.training import update
from train import model as models

torch.set_num_threads(1)
LOOP = {
    **Optimiser(rows_per_step=4, micro_rows=2, lr=1e-2, checkpoint_every=1).model_dump(),
    "log_every": 1,
    "steps": 3,
}


class Killed(Exception):
    pass


@pytest.fixture
def settings(tmp_path, tiny_model, chatml_tokenizer):
    """Of stage 1 of a made-up run, with a model of 64, 8 heads and FFNs of 96."""
    generator = np.random.default_rng(0)
    for name, count in {"all/lo": 400, "all/en": 4_000}.items():
        documents = [(f"{i:032}", name[-2:], 60, generator.integers(3, 300, 20)) for i in range(count // 20)]
        write_store(str(tmp_path / "pools" / name), documents, 300, eod=0)
    models.save(tiny_model(), None, str(tmp_path / "base"), 24)
    copy.deepcopy(chatml_tokenizer).save_pretrained(tmp_path / "tokenizer")
    columns = {"doc_id": ["1"], "lang": ["en"], "text": ["the boat"], "bytes": [8]}
    storage.write_table(str(tmp_path / "heldout.parquet"), pa.table(columns))
    (tmp_path / "metrics").mkdir()
    watched = {"trackers": [], "project": "mine", "peak": None, "eval_every": 0, "eval_bytes": 1000, "tasks": []}
    watched |= {"heldout": str(tmp_path / "heldout.parquet"), "replay": ["en"], "alarm": 0.01}
    return {
        "loop": LOOP,
        "out": str(tmp_path / "stage1"),
        "context": 24,
        "saved_context": 24,
        "tokenizer": str(tmp_path / "tokenizer"),
        "seed": 0,
        "watch": watched,
        "metrics_uri": str(tmp_path / "metrics" / "pretrain-stage1.jsonl"),
        "pools": str(tmp_path / "pools"),
        "sample_seed": 1,
        "rows_per_step": 4,
        "schedule": [{"from_sample": 0, "weights": {"all/lo": 0.5, "all/en": 0.5}}],
        "removed": [],
        "model": str(tmp_path / "base"),
        "trainable": "all",
        "new_layers": 0,
        "z_loss": 0.0,
        "update": Update(rule="contrast", share=0.2, rows=3).model_dump(),
        "choice": str(tmp_path / "stage1" / update.FILE),
        "replay": ["en", "zh"],
    }


def to(settings, folder):
    return settings | {"out": folder, "choice": f"{folder}/{update.FILE}"}


def stop_after(monkeypatch, owner, name, calls):
    own = getattr(owner, name)

    def stopped(*args, **more):
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise Killed
        return own(*args, **more)

    monkeypatch.setattr(owner, name, stopped)


def test_what_is_killed_while_measuring_and_training_gives_the_same_bytes(settings, monkeypatch):
    whole = to(settings, settings["out"] + "-whole")
    want = pretrain.train_worker(whole)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        stop_after(patched, update.pretrain, "loss", 4)  # of six rows that are measured
        pretrain.train_worker(settings)
    assert not Path(settings["choice"]).exists()
    with monkeypatch.context() as patched, pytest.raises(Killed):
        stop_after(patched, pretrain.update, "after_step", 2)
        pretrain.train_worker(settings)
    with monkeypatch.context() as patched:
        stop_after(patched, update, "_measured", 0)  # what was chosen is known
        found = pretrain.train_worker(settings)
    assert found["resumed_from"] == 2 and found["loss"] == want["loss"] and found["chosen"] == want["chosen"]
    for name in ("model/model.safetensors", update.FILE):
        one, other = (Path(own["out"], name).read_bytes() for own in (settings, whole))
        assert one == other
    base, trained = (
        models.load(f"{folder}").state_dict() for folder in (settings["model"], f"{settings['out']}/model")
    )
    changed = sum(int((trained[name] != weight).sum()) for name, weight in base.items())
    assert 0.9 * found["learning"] < changed <= found["learning"] < 0.25 * found["parameters"]
    assert found["update"] == {"rule": "contrast", "vocabulary": False, "share": 0.2} and 0 <= found["never_active"] < 1


def test_stage_2_changes_what_stage_1_has_chosen(settings, monkeypatch):
    pretrain.train_worker(settings)
    stop_after(monkeypatch, update, "_measured", 0)
    second = settings | {"model": f"{settings['out']}/model", "out": settings["out"][:-1] + "2", "sample_seed": 2}
    pretrain.train_worker(second)
    chosen = json.loads(Path(settings["choice"]).read_text())["chosen"]
    base, trained = (models.load(folder).state_dict() for folder in (settings["model"], f"{second['out']}/model"))
    for number, layer in enumerate(chosen):
        name = f"model.layers.{number}.mlp.down_proj.weight"
        differs = (base[name] != trained[name]).any(0).nonzero().flatten().tolist()
        assert differs == layer["units"]


def test_low_ranks_are_merged_and_the_next_stage_begins_with_them(settings):
    low = settings | {"update": Update(rule="lora", rank=2, vocabulary=False).model_dump()}
    found = pretrain.train_worker(low)
    base, trained = (models.load(folder).state_dict() for folder in (low["model"], f"{low['out']}/model"))
    assert base.keys() == trained.keys() and found["update"] == {"rule": "lora", "vocabulary": False, "rank": 2}
    for name, weight in base.items():
        change = trained[name] - weight
        assert bool(change.any()) == ("_proj.weight" in name), name
        if change.ndim == 2:
            assert torch.linalg.matrix_rank(change, rtol=1e-4) == (2 if "_proj" in name else 0), name
    second = pretrain.train_worker(low | {"model": f"{low['out']}/model", "out": low["out"][:-1] + "2"})
    assert second["learning"] == found["learning"] and not Path(low["choice"]).exists()
