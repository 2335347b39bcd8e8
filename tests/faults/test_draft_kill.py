"""A draft through Ray: killed with SIGKILL while it trains, the same command gives the bytes of an undisturbed run, and one
worker gives those of two."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import draft_talks
import pytest
from killed import kill
from safetensors.torch import load_file

from cluster import storage
from ray_jobs.alignment import chats
from ray_jobs.config import reader as recipes
from ray_jobs.run.run import Run
from train import model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parent.parent.parent
DRAFT = """{vocabulary: 120, answers: {max_new_tokens: 16}, eval_prompts_per_language: 2, epochs: 12,
optimiser: {rows_per_step: 2, micro_rows: 1, lr: 1e-3, weight_decay: 0.0, checkpoint_every: 3}}"""


def build(folder: Path, workers: int, tokenizer, net) -> None:
    """A run whose aligned model and conversations are done, made by hand."""
    own = ["train.exact=true", "train.parallel=replicate", "train.device=cpu", f"train.workers={workers}"]
    sets = ["languages=[id, th]", "train.reward=null", "train.dpo=null", "train.context=128", "train.precision=fp32"]
    run = Run(str(folder), recipes.load("demo", ["cluster.cpus=2", *sets, *own, f"train.draft={DRAFT}"]))
    tokenizer.save_pretrained(folder / "tokenize" / "tokenizer")
    model.save(net, tokenizer, str(folder / "sft/stage1/model"), 128)
    chats.write_rows(str(folder / "sft/data/rows.jsonl"), draft_talks.rows(id=9, th=9))
    for name in ("tokenize", "sft/data", "sft/stage1"):
        made = {"stage": name, "fingerprint": run.fingerprints()[name], "seconds": 1.0, "versions": {}}
        storage.write_json(str(folder / name / "_manifest.json"), made)
    storage.write_text(str(folder / "recipe.yaml"), recipes.resolved(run.recipe))


def start(folder: Path, *stages: str) -> subprocess.Popen:
    code = "import sys\nfrom ray_jobs.run.run import open_run\nrun = open_run(sys.argv[1])\n"
    code += "for name in sys.argv[2:]:\n    run.execute(only=name, say=print)\n"
    code += "from ray_jobs.work import trainer\ntrainer.stop()"
    return subprocess.Popen([sys.executable, "-c", code, str(folder), *stages], cwd=ROOT)


def test_killed_and_continued_and_with_one_worker(tmp_path, chatml_tokenizer, tiny_model):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    net = tiny_model(vocab_size=len(chatml_tokenizer))
    build(whole, 2, chatml_tokenizer, net)
    build(killed, 1, chatml_tokenizer, net)
    assert start(whole, "draft_answers", "draft").wait(timeout=400) == 0
    run = start(killed, "draft_answers", "draft")
    deadline = time.monotonic() + 350
    while not list((killed / "draft/checkpoints").glob("*")):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    kill(run)
    assert not (killed / "draft/model").exists()
    answers = (killed / "draft_answers/rows.jsonl").stat().st_mtime_ns
    assert start(killed, "draft").wait(timeout=400) == 0
    assert (killed / "draft_answers/rows.jsonl").stat().st_mtime_ns == answers
    for name in (
        "draft_answers/rows.jsonl",
        "draft/rows.jsonl",
        "draft/model/draft.safetensors",
        "draft/model/draft.json",
    ):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    trained = load_file(whole / "draft/model/draft.safetensors")
    copied = net.model.layers[-1].mlp.gate_proj.weight
    assert not (trained["mlp.gate_proj.weight"] == copied).all()
    found = [storage.read_json(str(folder / "draft/acceptance.json"))["languages"] for folder in (whole, killed)]
    for of in found:
        for one in of.values():
            assert one["equal"] == one["prompts"] and one.pop("seconds")["plain"] > 0
    assert found[0] == found[1] and [*found[0]] == ["id", "th"]
    shutil.rmtree(tmp_path)
