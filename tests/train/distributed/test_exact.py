"""The same bits at any number of ranks: the tree alone, then whole runs of the loop in processes over gloo."""

import dataclasses
import hashlib
import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import FORKS
from torch import nn

from train import model
from train.batches.examples import Example
from train.checkpoint import checkpoint
from train.distributed import exact
from train.kernels.adamw import STATES
from train.loop import LoopConfig, fit
from train.methods import distil, dpo, pretrain, reward, sft
from train.methods.prune import Pruning
from train.methods.prune_target import Target
from train.monitor.heldout_rows import LossValidation, batches
from train.monitor.throughput import MEASURED

WORLDS = (1, 2, 3, 4)


def naive(node, leaves):
    """The definition: the left half is the largest power of two below the whole."""
    first, stop = node
    if stop - first == 1:
        return leaves[first]
    left = max(2**k for k in range(16) if 2**k < stop - first)
    return naive((first, first + left), leaves) + naive((first + left, stop), leaves)


@pytest.mark.parametrize("seed", range(40))
def test_any_blocks_of_leaves_add_up_to_the_bits_of_the_tree(seed, monkeypatch):
    """Ranks one after another, and what they exchange put together by hand."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 70))
    cuts = [0, *sorted(rng.integers(0, n + 1, int(rng.integers(0, 6)))), n]
    blocks = [range(int(a), int(b)) for a, b in pairwise(cuts)]
    monkeypatch.setattr(exact, "block", lambda leaves, rank, world: blocks[rank])
    monkeypatch.setattr(exact, "leaves", lambda rows, micro_rows: [range(i, i + 1) for i in range(n)])
    values = torch.from_numpy(rng.standard_normal((n, 37)) * 10.0 ** rng.integers(-6, 6, (n, 37))).float()
    known = {}
    for rank, mine in enumerate(blocks):
        tree, flat = exact.Sum(n, 1, rank, len(blocks)), torch.zeros(37)
        most = 0
        for i, leaf in enumerate(mine):
            flat += values[leaf]
            tree.added(i, flat)
            most = max(most, len(tree._open))
        found = [*tree._open, flat] if mine else []
        nodes = exact.subtrees((0, n), mine)
        assert most == tree.most_open <= min(max(0, len(mine) - 1), 2 * n.bit_length())
        known |= dict(zip(nodes, found, strict=True))
    assert sorted(leaf for node in known for leaf in range(*node)) == list(range(n))
    assert torch.equal(exact._sum((0, n), known), naive((0, n), values))
    if n > 20:
        assert not torch.equal(values.flip(0).sum(0), naive((0, n), values))  # the order matters to these values


@pytest.mark.parametrize("seed", range(60))
def test_each_row_is_in_one_micro_batch_of_one_rank_and_leaves_do_not_depend_on_ranks(seed):
    rng = np.random.default_rng(seed)
    rows, micro, world = (int(rng.integers(1, limit)) for limit in (400, 40, 80))
    each = [exact.micro_batches(rows, micro, rank, world) for rank in range(world)]
    together = [call for of_rank in each for call in of_rank]
    assert [row for _, call in together for row in call] == list(range(rows))
    assert together == exact.micro_batches(rows, micro, 0, 1)
    assert all(0 < len(call) <= micro for _, call in together)
    counts = [len({leaf for leaf, _ in of_rank}) for of_rank in each]
    assert max(counts) - min(counts) <= 1 and counts[0]
    assert min(rows, exact.LEAST) <= sum(counts) <= max(exact.LEAST, exact.MOST)


def test_a_rank_with_all_leaves_keeps_a_buffer_for_each_open_level():
    tree, flat = exact.Sum(64, 1, 0, 1), torch.zeros(3)
    for i in range(64):
        flat += i
        tree.added(i, flat)
    tree.total(flat)
    assert flat.tolist() == [64 * 63 / 2] * 3
    assert len(tree._free) == 6 == tree.most_open and not tree._open


CONFIG = LoopConfig(
    steps=6,
    rows_per_step=8,
    micro_rows=2,
    lr=3e-3,
    schedule="cosine",
    warmup_steps=2,
    eps=1e-8,
    log_every=3,  # so that checkpoints hold sums of records
    checkpoint_every=2,
    keep_checkpoints=9,
    exact=True,
)


def build(rng: np.random.Generator, vocabulary: int, dropout: float = 0.0):
    heads = int(rng.choice([2, 4]))
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": int(rng.choice([16, 40, 64])) * heads // 2,
        "intermediate_size": int(rng.integers(30, 200)),
        "num_hidden_layers": int(rng.integers(1, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": int(rng.choice([1, 2])),
        "max_position_embeddings": 256,
        "tie_word_embeddings": bool(rng.integers(2)),
        "attention_dropout": dropout,
        "initializer_range": 0.1,
    }
    return model.build(shape, seed=int(rng.integers(1000)))


def rows_fn(vocabulary: int, length: int):
    """Row r has about r mod 5 / 5 of its positions without a label; documents are 11 positions long."""

    def batch(rows: list[int]) -> dict[str, torch.Tensor]:
        one = [
            torch.randint(0, vocabulary, (length + 1,), generator=torch.Generator().manual_seed(row)) for row in rows
        ]
        ids = torch.stack(one)
        labels = ids[:, 1:].clone()
        for i, row in enumerate(rows):
            labels[i, : row % 5 * length // 5] = -100
        places = torch.arange(length).expand(len(rows), -1)
        return {
            "input_ids": ids[:, :-1],
            "labels": labels,
            "doc_ids": places // 11,
            "position_ids": places,
            "count": (labels != -100).sum(),
            "pool": torch.tensor(rows) % 3,
        }

    return batch


def example(rng: np.random.Generator, prompt: np.ndarray, vocabulary: int) -> Example:
    answer = rng.integers(0, vocabulary, int(rng.integers(1, 20)))
    scored = np.arange(len(prompt) + len(answer)) >= len(prompt)
    return Example("x", "en", np.concatenate([prompt, answer]), scored)


def examples(rng: np.random.Generator, n: int, vocabulary: int) -> list[list[Example]]:
    """Two answers to each of `n` prompts."""
    prompts = [rng.integers(0, vocabulary, int(rng.integers(1, 20))) for _ in range(n)]
    return [[example(rng, prompt, vocabulary) for prompt in prompts] for _ in range(2)]


def case(name: str, folder: str) -> tuple[nn.Module, dict]:
    """A random model with random data of the stage that the name begins with: (model, arguments of `fit`)."""
    kind, seed = name.split("-")
    rng = np.random.default_rng([int(seed), len(kind)])
    vocabulary = int(rng.integers(50, 700))
    # fewer rows than ranks, more rows than leaves, or any number
    rows, micro = {"1": (3, 2), "2": (70, 1)}.get(seed, (int(rng.integers(4, 40)), int(rng.integers(1, 9))))
    config = dataclasses.replace(CONFIG, rows_per_step=rows, micro_rows=micro, seed=int(seed))
    net = build(rng, vocabulary, float(rng.choice([0.0, 0.2])) if kind == "pretrain" else 0.0)
    if kind == "pretrain":
        numbers = {"optimiser_states": list(STATES)[int(seed) % 2], "precision": "bf16" if seed == "4" else "fp32"}
        config = dataclasses.replace(config, guard={"spike": 3.0}, clip=0.05, **numbers)
        made = rows_fn(vocabulary, int(rng.integers(20, 150)))
        held = [*batches("en", made, 5, 2), *batches("lo", made, 3, 2)]
        validation = LossValidation(held, pretrain.loss, 2)
        more = {"languages": ["en", "lo", "en"], "validation": validation}
        return net, {"batch_fn": made, "loss_fn": pretrain.loss, "config": config, **more}
    if kind == "guard":  # goes back from updates 4 and 5 and leaves them and the one before out
        config = dataclasses.replace(config, guard={"patience": 2})

        def loss_fn(net, batch):
            parts = pretrain.loss(net, batch)
            return parts._replace(loss_sum=parts.loss_sum + (math.nan if int(batch["step"]) in (3, 4) else 0))

        return net, {"batch_fn": rows_fn(vocabulary, 30), "loss_fn": loss_fn, "config": config}
    chosen, rejected = examples(rng, 30, vocabulary)
    if kind == "sft":
        packed = sft.pack([one.positions for one in chosen], 60)
        return net, {"batch_fn": sft.batch_fn(chosen, packed, 60, 1), "loss_fn": sft.loss, "config": config}
    if kind == "dpo":
        pairs = dpo.Pairs(chosen, rejected)
        objective = dpo.Objective(str(rng.choice(["dpo", "lr_dpo"])), 0.1)
        with exact.threads(1):  # as the workers of a group have it
            reference = dpo.reference_logprobs(net, pairs, folder)
        made = dpo.batch_fn(pairs, reference, 1)
        return net, {"batch_fn": made, "loss_fn": dpo.loss_fn(objective), "config": config}
    if kind == "reward":
        net = reward.build(net, vocabulary - 1)
        return net, {"batch_fn": reward.batch_fn(chosen, rejected, 1), "loss_fn": reward.loss, "config": config}
    if kind == "distil":
        teacher = distil.frozen(build(rng, vocabulary), config, torch.device("cpu"))
        return net, {"batch_fn": rows_fn(vocabulary, 40), "loss_fn": distil.loss_fn(teacher, 0.5), "config": config}
    assert kind == "prune"
    heads = net.config.num_key_value_heads  # of queries too
    width = heads * net.config.hidden_size // net.config.num_attention_heads
    pruning = Pruning(net, Target(width, heads, 20), 2, 0)
    more = {"extra_params": pruning.extra_params(1.0), "after_step": pruning.after_step}
    made = rows_fn(vocabulary, 40)
    return net, {"batch_fn": made, "loss_fn": pruning.loss_fn(pretrain.loss), "config": config, **more}


def sha(tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def rank_main(rank: int, world: int, folder: str, names: list[str]) -> None:
    """Every case in a folder of its own, with as many threads as this number of ranks would get of 4 cores."""
    torch.set_num_threads(max(1, 4 // world))
    if world > 1:
        store = f"file://{folder}/rendezvous-{world}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    states: dict[int, str] = {}
    save = checkpoint.Writer.save

    def noted(self, step, state, meta=None):
        states[step] = sha(state)
        save(self, step, state, meta)

    checkpoint.Writer.save = noted
    for name in names:
        own = f"{folder}/{name}"
        Path(own).mkdir(exist_ok=True)
        states.clear()
        net, arguments = case(name, own)
        records = []
        summary = fit(net, out_uri=own, on_log=records.append, **arguments)
        weights = [sha(net.state_dict())]
        if world > 1:
            weights = [None] * world
            dist.all_gather_object(weights, sha(net.state_dict()))
        records = [{k: v for k, v in r.items() if k not in (*MEASURED, "validation_seconds")} for r in records]
        found = {"weights": weights, "states": states, "records": records, "from": summary["resumed_from"]}
        found["rollbacks"] = summary.get("rollbacks", [])
        if rank == 0:
            Path(f"{own}.json").write_text(json.dumps(found))
    if world > 1:
        dist.destroy_process_group()


def start(world: int, folder: Path, names: list[str]) -> dict[str, dict]:
    ranks = [FORKS.Process(target=rank_main, args=(rank, world, str(folder), names)) for rank in range(world)]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(240)
        assert [process.exitcode for process in ranks] == [0] * world
    finally:
        for process in ranks:
            process.kill()
            process.join()
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


CASES = [f"pretrain-{seed}" for seed in range(5)]
CASES += [f"{kind}-{seed}" for kind in ("sft", "dpo", "reward", "prune", "distil") for seed in (1, 3)] + ["guard-1"]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[int, tuple[Path, dict[str, dict]]]:
    """By number of ranks: (folder, what each case found)."""
    folders = {world: tmp_path_factory.mktemp(f"world-{world}") for world in WORLDS}
    return {world: (folder, start(world, folder, CASES)) for world, folder in folders.items()}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CASES)
def test_weights_moments_and_records_are_the_same_bits_at_1_to_4_ranks(worlds, name):
    want = worlds[1][1][name]
    assert set(want["states"]) >= {"2", "4", "6"} and len(set(want["states"].values())) >= 2
    assert bool(want["rollbacks"]) == name.startswith("guard")
    for world in WORLDS[1:]:
        found = worlds[world][1][name]
        assert found["weights"] == want["weights"] * world
        assert found["states"] == want["states"]
        assert found["records"] == want["records"]
        assert found["rollbacks"] == want["rollbacks"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_from_two_ranks_to_one_to_three(worlds, tmp_path):
    folder, want = worlds[2]
    names = [name for name in CASES if not name.startswith("guard")]  # whose records are written twice
    for name in names:
        shutil.copytree(folder / name, tmp_path / name)
    for done, world in ((2, 1), (4, 3)):
        for name in names:
            for later in range(done + 1, CONFIG.steps + 1):
                shutil.rmtree(tmp_path / name / "checkpoints" / f"step_{later:08d}", ignore_errors=True)
        found = start(world, tmp_path, names)
        for name in names:
            assert found[name]["from"] == done
            assert found[name]["weights"] == want[name]["weights"][:1] * world
            assert found[name]["states"].items() <= want[name]["states"].items()
            assert found[name]["records"] == [r for r in want[name]["records"] if r["step"] > done]
