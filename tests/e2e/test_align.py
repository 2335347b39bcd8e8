"""A finished model is aligned with chats and pairs alone: no documents, no pre-training, one command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from shapes import TINY
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config.reader import SAMPLE
from train import model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
PREFERENCE = str(SAMPLE / "preference/*.jsonl")
OPTIMISER = {"rows_per_step": 8, "micro_rows": 4, "lr": 1e-3, "warmup_steps": 0}


def pinisi(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ray_jobs.cli", *arguments],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PINISI_SAMPLE_DIR": str(SAMPLE)}, timeout=500,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with its tokenizer, as others publish one, and a recipe that aligns it."""
    folder = tmp_path_factory.mktemp("align")
    chats = [json.loads(line) for path in sorted((SAMPLE / "instruct").glob("*.jsonl")) for line in path.open()]
    texts = [turn["content"] for row in chats for turn in row["messages"]]
    tokenizer = tokenizers.train_bpe(texts, 600, str(folder / "finished"))
    model.save(
        model.build({**TINY, "vocab_size": len(tokenizer) + 8}, 7), tokenizer, str(folder / "finished"), context=256
    )
    recipe = {
        "name": "mine",
        "base": "align",
        "tokenize": {"tokenizer": str(folder / "finished")},
        "train": {
            "context": 256,
            "precision": "fp32",
            "device": "cpu",
            "base": {"model": str(folder / "finished")},
            "reward": {"preference": PREFERENCE, "max_rows": 80, "optimiser": OPTIMISER, "eval_every": 0},
            "sft": {
                "instruct": str(SAMPLE / "instruct/*.jsonl"),
                "max_rows": 120,
                "stage1": {"optimiser": OPTIMISER},
                "select": {"per_cell": 3},
                "stage2": {"epochs": 1, "optimiser": OPTIMISER},
            },
            "dpo": {
                "preference": PREFERENCE,
                "max_rows": 60,
                "eval_every": 0,
                "optimiser": {**OPTIMISER, "lr": 1e-4},
                "on_policy": {"prompts": 4, "samples": 3, "max_new_tokens": 8},
                "watch": {"per_language": 1, "every": 1},
            },
        },
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def run(folder):
    uri = str(folder / "run")
    done = pinisi("run", str(folder / "mine.yaml"), "--run-dir", uri, "--without-ray")
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(uri)


def test_the_chat_model_is_the_finished_one_trained_on(run, folder):
    assert not (run / "crawl").exists() and not (run / "pretrain").exists()
    chat = AutoModelForCausalLM.from_pretrained(run / "export" / "chat", dtype=torch.float32)
    before = AutoModelForCausalLM.from_pretrained(folder / "finished", dtype=torch.float32)
    assert {name: p.shape for name, p in chat.named_parameters()} == {
        name: p.shape for name, p in before.named_parameters()
    }
    moved = sum((a - b).square().sum() for a, b in zip(chat.parameters(), before.parameters(), strict=True))
    assert moved.sqrt() > 0.1, "the chat model is the base"
    tokenizer = AutoTokenizer.from_pretrained(run / "export" / "chat")
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Halo"}], tokenize=False, add_generation_prompt=True
    )
    assert said == "<|im_start|>user\nHalo<|im_end|>\n<|im_start|>assistant\n"


def test_report_and_card_say_what_was_done_and_nothing_else(run):
    page = (run / "report" / "index.html").read_text()
    for part in ('id="chats"', 'id="reward"', 'id="selection"', 'id="alignment"', 'id="watch"'):
        assert part in page, part
    for part in ("corpus", "drops", "mixture", "bits"):
        assert f'href="#{part}"' not in page and f'id="{part}"' not in page, part
    card = (run / "export" / "chat" / "README.md").read_text()
    assert "No text was read beside the conversations" in card
    assert "expanded from" not in card and "continual" not in card
    assert "| `sft/stage1` |" in card and "rounded from the fp32 of training" in card


def test_again_there_is_nothing_to_do_and_commands_of_documents_say_why(run, folder):
    again = pinisi("run", str(folder / "mine.yaml"), "--run-dir", str(run))
    assert again.returncode == 0 and "nothing to do" in again.stdout
    trace = pinisi("trace", str(run), "1")
    assert trace.returncode == 2 and "aligns a finished model" in trace.stderr
    assert "Traceback" not in trace.stderr
    status = pinisi("status", str(run), "--json")
    assert {row["state"] for row in json.loads(status.stdout)} == {"done"}


def test_a_tokenizer_that_the_model_has_no_embeddings_for_is_named(folder):
    large = folder / "large"
    tokenizers.train_bpe(["a b c d " * 50, "kata kata yang lain lagi"], 300, str(large))
    shape = {**TINY, "vocab_size": 100}
    model.save(model.build(shape, 7), AutoTokenizer.from_pretrained(large), str(folder / "small"), context=256)
    done = pinisi(
        "run", str(folder / "mine.yaml"), "--run-dir", str(folder / "other"), "--until", "base",
        "--set", f"train.base.model={folder / 'small'}", "--set", f"tokenize.tokenizer={large}",
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "name the model's own tokenizer" in done.stderr and "Traceback" not in done.stderr
