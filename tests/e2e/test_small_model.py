"""A small model goes through examples/small_model.yaml, step by step: loaded, expanded, trained on text and chats, exported.

`PINISI_TEST_MODEL` is the folder of a real one (examples/README.md). A tiny model of the same form is always taken: as an
instruct model has it, its `eos_token` ends a turn, and its config names a token of beginning that its tokenizer never writes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cluster.chatml import END_OF_TEXT, IM_END, IM_START
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config.reader import SAMPLE
from train import model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

ROOT = Path(__file__).parents[2]
REAL = os.path.abspath(os.environ.get("PINISI_TEST_MODEL", "")) if os.environ.get("PINISI_TEST_MODEL") else None
TEXT = "Pada 2023  12,5% warga pindah ke 東京.\n\n  It's x==1 ภาษา"
FEW = (  # tokens, so that a model of 135 M parameters takes minutes
    "train.pretrain.stage1.max_tokens=12288",
    "train.pretrain.stage2.max_tokens=2048",
    "train.sft.max_rows=40",
    "train.sft.eval_every=100",
    "tokenize.heldout_bytes_per_language=6000",
    "export.dtype=fp32",
    "cluster.engine=local",
    "train.device=cpu",
)
TINY = ("train.expand.new_layers=1", "train.pretrain.lr=3e-3", "train.sft.stage1.optimiser.lr=3e-3")


@pytest.fixture(
    scope="module",
    params=[
        "tiny",
        pytest.param(
            "real",
            marks=pytest.mark.skipif(
                not REAL, reason="PINISI_TEST_MODEL names no folder of a real small model (examples/README.md)"
            ),
        ),
    ],
)
def case(request, tmp_path_factory):
    """(folder of the model, of the run, what was said): one run of the recipe."""
    folder, run = REAL or "", tmp_path_factory.mktemp("run") / "run"
    if request.param == "tiny":
        folder = str(tmp_path_factory.mktemp("model") / "instruct")
        tiny(folder)
    few = FEW + (TINY if request.param == "tiny" else ())
    sets = [word for one in (f"train.base.model={os.path.relpath(folder, ROOT)}", *few) for word in ("--set", one)]
    command = [sys.executable, "-m", "ray_jobs.cli", "run", "examples/small_model.yaml", "--without-ray"]
    command += ["--run-dir", str(run), *sets]
    environment = {**os.environ, "PINISI_SAMPLE_DIR": str(SAMPLE)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2800, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder, run, done.stdout


def tiny(folder):
    pages = [json.loads(line) for path in sorted((SAMPLE / "instruct").glob("*.jsonl")) for line in path.open()]
    tokenizer = tokenizers.train_bpe((turn["content"] for row in pages for turn in row["messages"]), 900, folder)
    pieces = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = IM_START, IM_END, IM_END
    tokenizer.chat_template = "{% for message in messages %}You are Tiny.{{ message['content'] }}{% endfor %}"
    ids = tokenizer.convert_tokens_to_ids
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=ids(IM_START), eos_token_id=ids(IM_END), pad_token_id=ids(IM_END),
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits(net, tokenizer):
    return net(tokenizer(TEXT, return_tensors="pt")["input_ids"]).logits


def test_it_is_loaded_and_expanded_as_itself(case):
    folder, run, _ = case
    tokenizer = AutoTokenizer.from_pretrained(folder)
    wanted = logits(plain(folder), tokenizer)
    torch.testing.assert_close(logits(model.load(folder), tokenizer), wanted, rtol=1e-5, atol=1e-4)
    base, grown = plain(run / "base" / "model"), plain(run / "expand" / "model")
    assert torch.equal(logits(base, tokenizer), wanted)
    assert grown.config.num_hidden_layers > base.config.num_hidden_layers
    torch.testing.assert_close(logits(grown, tokenizer), wanted, rtol=1e-5, atol=1e-5)


def test_the_tokens_are_its_own_and_documents_end_as_it_was_trained(case):
    folder, run, _ = case
    own = AutoTokenizer.from_pretrained(folder)
    end, begin, turn = own.convert_tokens_to_ids([END_OF_TEXT, IM_START, IM_END])
    for written in ("tokenize/tokenizer", "base/model", "sft/stage1/model", "export/base", "export/chat"):
        assert AutoTokenizer.from_pretrained(run / written)(TEXT)["input_ids"] == own(TEXT)["input_ids"], written
    store = run / "tokenize" / "pools" / "all" / "id"
    assert json.loads((store / "store.json").read_text())["eod"] == end != turn
    documents = pq.read_table(sorted(run.glob("tokenize/part-*.parquet")), columns=["tokens"])["tokens"]
    assert not {end, begin, turn} & set(documents.combine_chunks().flatten().to_pylist())
    stops = json.loads((run / "export" / "chat" / "generation_config.json").read_text())["eos_token_id"]
    assert set(stops) == {end, turn}


def test_it_learns(case):
    _, run, _ = case
    bits = json.loads((run / "evaluate" / "metrics.json").read_text())["bits_per_byte"]
    assert bits["expand"] == pytest.approx(bits["base"], abs=1e-6)
    assert bits["pretrain/stage2"]["id"] < bits["base"]["id"] - 0.05
    heldout = pq.read_table(run / "tokenize" / "heldout.parquet")["doc_id"].to_pylist()
    trained = pq.read_table(sorted(run.glob("tokenize/part-*.parquet")), columns=["doc_id", "heldout"]).to_pylist()
    assert heldout and not set(heldout) & {row["doc_id"] for row in trained if not row["heldout"]}
    records = [json.loads(line) for line in (run / "metrics" / "sft-stage1.jsonl").open()]
    assert all(change < 0 for change in records[-1]["validation_loss_change"].values())


def test_what_is_exported_opens_in_plain_transformers(case):
    folder, run, _ = case
    tokenizer = AutoTokenizer.from_pretrained(run / "export" / "chat")
    for exported, stage in (("base", "pretrain/stage2"), ("chat", "sft/stage1")):
        found = logits(plain(run / "export" / exported), tokenizer)
        torch.testing.assert_close(
            found, logits(model.load(str(run / stage / "model")), tokenizer), rtol=1e-5, atol=1e-4
        )
    question = [{"role": "user", "content": "Hello"}]
    said = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert said == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    if folder != REAL:
        return
    net = plain(run / "export" / "chat")
    for content in ("Say hello in one short sentence.", "Sebutkan nama ibu kota Indonesia."):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        answer = net.generate(**prompt, max_new_tokens=200, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert tokenizer.convert_ids_to_tokens(answer[-1].item()) == IM_END, tokenizer.decode(answer)
