"""Models that are made without memory and filled from one reader: equal weights on every rank, and what memory that takes."""

import json
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from shapes import TINY
from transformers import AutoConfig, AutoModelForCausalLM

from train import model
from train.batches.examples import Example
from train.distributed import data_parallel, weights
from train.methods import dpo
from train.scores.logprobs import example_logprobs

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

CPU = torch.device("cpu")
MORE = {
    "head_dim": 8,
    "pad_token_id": 0,
    "sliding_window": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
KINDS = {
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, odd": ("qwen2", {"tie_word_embeddings": False, "vocab_size": 67, "intermediate_size": 37}),
    "gemma3": ("gemma3_text", {k: v for k, v in MORE.items() if k != "rope_parameters"}),
    "llama": ("llama", {"tie_word_embeddings": False, "rope_parameters": MORE["rope_parameters"]}),
}


def build_folder(folder: Path, kind: str) -> str:
    name, own = KINDS[kind]
    torch.manual_seed(1)
    net = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **TINY | {"pad_token_id": 0} | own))
    net.generation_config.max_new_tokens = 7
    net.save_pretrained(folder, max_shard_size="12KB")
    assert (folder / weights.INDEX).exists()
    return str(folder)


def whole(net) -> dict[str, torch.Tensor]:
    found = {name: p.full_tensor() if hasattr(p, "full_tensor") else p for name, p in net.named_parameters()}
    return {name: p.detach().clone() for name, p in (found | dict(net.named_buffers())).items()}


def start(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)


def fill_main(rank: int, world: int, folder: str) -> None:
    start(rank, world, folder)
    if rank:  # only the first reads tensors
        own = weights.safe_open
        weights.safe_open = lambda *of: only_shapes(own(*of))
    for kind in KINDS:
        made = str(Path(folder, kind))
        for parallel, dtype in (("replicate", torch.bfloat16), ("replicate", torch.float32), ("fsdp", torch.float32)):
            want, net = whole(model.load(made, dtype)), model.on_meta(made, dtype)
            assert all(p.is_meta for p in net.parameters())
            net.model.layers[0].requires_grad_(False)
            if parallel == "fsdp":
                data_parallel.shard(net, "fp32", CPU)
            weights.fill(net, CPU)
            found = whole(net)
            assert found.keys() == want.keys()
            for name in want:
                assert torch.equal(found[name], want[name]) and found[name].dtype == want[name].dtype, (kind, name)
            assert not any(p.requires_grad for p in net.model.layers[0].parameters())
            assert net.lm_head.weight.requires_grad and net.generation_config.max_new_tokens == 7
            assert (net.lm_head.weight is net.model.embed_tokens.weight) == net.config.tie_word_embeddings
            if dtype == torch.float32:
                model.save(net, None, f"{made}-{parallel}", 64)
    dist.destroy_process_group()


class only_shapes:
    def __init__(self, file) -> None:
        self.file = file

    def __enter__(self):
        self.open = self.file.__enter__()
        return self

    def __exit__(self, *of) -> None:
        self.file.__exit__(*of)

    def get_slice(self, name: str):
        return self.open.get_slice(name)


@pytest.mark.parametrize("world", [2, 3])
def test_one_reader_gives_every_rank_the_weights_of_the_folder(tmp_path, world):
    for kind in KINDS:
        build_folder(tmp_path / kind, kind)
    ranks.run(fill_main, (world, str(tmp_path)), world)
    for kind in KINDS:
        plain = model.load(str(tmp_path / kind))
        model.save(plain, None, str(tmp_path / f"{kind}-plain"), 64)
        for parallel in ("replicate", "fsdp"):
            for file in ("config.json", "generation_config.json"):
                ours, theirs = (json.loads((tmp_path / f"{kind}-{p}" / file).read_text()) for p in (parallel, "plain"))
                assert ours == theirs


def test_a_folder_with_other_names_or_shapes_is_loaded_as_ever(tmp_path):
    folder = build_folder(tmp_path / "m", "qwen2, tied")
    index = json.loads((tmp_path / "m" / weights.INDEX).read_text())
    index["weight_map"] = {name.removeprefix("model."): file for name, file in index["weight_map"].items()}
    (tmp_path / "m" / weights.INDEX).write_text(json.dumps(index))
    with weights.without_memory():
        net = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    assert not weights.from_folder(net, folder) and not weights.are_missing(net)
    assert not weights.from_folder(net, str(tmp_path))


BIG = TINY | {"vocab_size": 2000, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 10}


def memory(field: str) -> int:
    """VmRSS is what this process holds, VmHWM the most that it held, in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return 1024 * int(line.split()[1])


def memory_main(rank: int, world: int, folder: str, way: str) -> None:
    start(rank, world, folder)
    tiny = model.build(TINY)
    data_parallel.shard(tiny, "fp32", CPU)  # what libraries take once
    Path("/proc/self/clear_refs").write_text("5")  # the most from here on
    before = memory("VmRSS")
    net = model.on_meta(f"{folder}/m") if way == "one reader" else model.load(f"{folder}/m")
    data_parallel.shard(net, "fp32", CPU)
    weights.fill(net, CPU)
    Path(folder, f"{way}-{rank}.json").write_text(json.dumps((memory("VmHWM") - before) / (4 * model.parameters(net))))
    dist.destroy_process_group()


@pytest.mark.slow
def test_host_memory_holds_shards_and_not_a_copy_for_each_rank(tmp_path):
    net = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **BIG))
    net.save_pretrained(tmp_path / "m")
    most = {}
    for way in ("one reader", "each reads"):
        (tmp_path / "store").unlink(missing_ok=True)
        mp.spawn(memory_main, (2, str(tmp_path), way), nprocs=2)  # a fork has memory of the process that it came from
        most[way] = [json.loads((tmp_path / f"{way}-{rank}.json").read_text()) for rank in range(2)]
    print(most)
    # half of the weights, one tensor whole, and what sending takes
    assert max(most["one reader"]) < 0.8
    assert min(most["each reads"]) > 1.0


def reference_main(rank: int, world: int, folder: str) -> None:
    start(rank, world, folder)
    rng = np.random.default_rng(0)

    def side() -> list[Example]:
        return [Example(str(i), "id", rng.integers(1, 60, 30 + i), np.arange(30 + i) >= 9) for i in range(6)]

    pairs = dpo.Pairs(side(), side())
    policy = model.on_meta(f"{folder}/m")
    data_parallel.shard(policy, "bf16", CPU)
    weights.fill(policy, CPU)
    found = {}
    for name, autocast in (("bf16 matrices", "bf16"), ("fp32", "bf16"), ("all in bf16", "fp32")):
        frozen = model.load(f"{folder}/m", torch.bfloat16 if name == "all in bf16" else torch.float32)
        for p in frozen.parameters():
            if name == "bf16 matrices" and p.ndim > 1:
                p.data = p.data.to(torch.bfloat16)
        reference = dpo.reference_logprobs(frozen, pairs, f"{folder}/{name}", autocast)
        batch = dpo.batch_fn(pairs, reference, 0)(list(range(6)))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            own = example_logprobs(policy, batch, 12)
        found[name] = float((own - batch["reference"]).abs().max())
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_a_reference_in_bf16_is_the_policy_of_fsdp(tmp_path):
    """log pi - log pi_ref before the first update, which should be 0: with matrices in bf16, as FSDP gathers them, it is; with
    vectors rounded too it is not."""
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **TINY))
    with torch.no_grad():
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3) if p.ndim > 1 else p.add_(torch.randn_like(p) * 0.2)
    net.save_pretrained(tmp_path / "m")
    ranks.run(reference_main, (2, str(tmp_path)), 2)
    found = json.loads((tmp_path / "found.json").read_text())
    print(found)
    assert max(found["bf16 matrices"], found["fp32"]) < 1e-4 and found["all in bf16"] > 1e-2
