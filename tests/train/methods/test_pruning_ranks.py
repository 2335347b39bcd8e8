"""Pruning on two ranks: masks, a teacher and scores of a sharded model are those of a whole one. The ranks run once."""

import math

import pytest
import torch
import torch.distributed as dist
from ranks import FORKS
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM

from train import model as models
from train.batches.examples import Example, collate
from train.checkpoint import checkpoint
from train.loop import LoopConfig, fit
from train.methods import activation_scores, distil, pretrain, slices
from train.methods.prune import Pruning
from train.methods.prune_target import Target

torch.set_num_threads(1)
CPU = torch.device("cpu")
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 40}
WAYS = ("replicate", "fsdp")
KINDS = {
    "qwen2": Target(32, 4, 40),
    "qwen3": Target(44, 4, 40),
}  # tied, and an own head width; of 64, 8 (2 KV heads), 96


def rows(numbers):
    examples = []
    for number in numbers:
        ids = torch.arange(25).mul(7).add(number * 13).remainder(50).numpy()
        examples.append([Example(str(number), "id", ids, ids >= 0)])
    return collate(examples)


def config(steps, **more):
    own = {"rows_per_step": 4, "micro_rows": 1, "lr": 1e-3, "log_every": 1, "weight_decay": 0.0}
    return LoopConfig(steps=steps, **own | more)


def learn(rank, folder):
    for kind, target in KINDS.items():
        for parallel in WAYS:
            own = f"{folder}/{kind}-{parallel}"
            net = models.on_meta(f"{folder}/{kind}")
            pruning = Pruning(net, target, 4, 0, CPU)
            records = []
            fit(
                net, rows, pruning.loss_fn(pretrain.loss), config(8, parallel=parallel), own, on_log=records.append,
                extra_params=pruning.extra_params(), after_step=pruning.after_step, device=CPU,
            )  # fmt: skip
            assert any(isinstance(p, DTensor) for p in net.parameters()) == (parallel == "fsdp")
            slices.save_weights(net, f"{own}/weights", 8)
            if rank == 0:
                with slices.of_checkpoint(checkpoint.latest(f"{own}/weights")) as source:
                    slices.slice_checkpoint(source, pruning.final().cpu(), target, f"{own}/small", 512)
                alphas = {name: p.detach() for name, p in pruning.log_alpha.items()}
                torch.save((alphas, records), f"{own}/learnt.pt")
            dist.barrier()


def gathered(rank, folder):
    """After a pass without gradients FSDP leaves the embedding gathered, in bf16; what is written is the fp32 shards."""
    net = models.on_meta(f"{folder}/qwen2")
    own = config(2, rows_per_step=2, lr=1e-2, parallel="fsdp", precision="bf16")
    fit(net, rows, pretrain.loss, own, f"{folder}/bf16", device=CPU)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        net.model(**{key: rows([0])[key] for key in ("input_ids", "position_ids", "doc_ids")}, use_cache=False)
    slices.save_weights(net, f"{folder}/bf16/weights", 2)
    want = {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value
        for name, value in net.state_dict().items()
    }
    if rank == 0:
        with slices.of_checkpoint(checkpoint.latest(f"{folder}/bf16/weights")) as source:
            assert source.names == want.keys() - {"lm_head.weight"}
            assert all(torch.equal(source.read(name), want[name]) for name in source.names)
        embedding = want["model.embed_tokens.weight"]
        assert not torch.equal(embedding, embedding.bfloat16().float())
    dist.barrier()


def heal(rank, folder):
    for tied in (True, False):
        for parallel in WAYS:
            own = config(4, lr=3e-3, parallel=parallel)
            teacher = distil.frozen(models.on_meta(f"{folder}/teacher-{tied}"), own, CPU)
            student = models.on_meta(f"{folder}/student-{tied}")
            records = []
            out = f"{folder}/healed-{tied}-{parallel}"
            fit(student, rows, distil.loss_fn(teacher), own, out, on_log=records.append, device=CPU)
            shards = [p for p in teacher.parameters() if isinstance(p, DTensor)]
            assert bool(shards) == (parallel == "fsdp")
            here = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in teacher.parameters())
            whole = sum(p.numel() for p in teacher.parameters())
            assert here <= (0.55 * whole if parallel == "fsdp" else whole)  # also after a pass
            if rank == 0:
                torch.save(records, f"{out}.pt")
            dist.barrier()


def score(rank, folder):
    text = {"lo": [rows([1 + rank])], "en": [rows([3 + rank]), rows([5 + rank])]}
    for parallel in WAYS:
        net = distil.frozen(models.on_meta(f"{folder}/qwen2"), config(1, parallel=parallel), CPU)
        found = activation_scores.scores(net, text)
        if rank == 0:
            torch.save(vars(found), f"{folder}/scores-{parallel}.pt")
    dist.barrier()


def rank_main(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    learn(rank, folder)
    gathered(rank, folder)
    heal(rank, folder)
    score(rank, folder)
    dist.destroy_process_group()


def built(kind, seed, **sizes):
    shape = {
        "vocab_size": 50,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
    }
    shape |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True}
    own = {"head_dim": 16} if kind == "qwen3" else {}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, pad_token_id=0, **{**shape, **own, **sizes})
    net = AutoModelForCausalLM.from_config(config, attn_implementation="pinisi").float()
    with torch.no_grad():
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.2) if p.ndim > 1 else p.add_(0.1 * torch.randn_like(p))
    return net


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    for kind in KINDS:
        models.save(built(kind, 2, tie_word_embeddings=kind == "qwen2"), None, str(folder / kind), 512)
    for tied in (True, False):
        for name, sizes in (("teacher", {}), ("student", SMALL)):
            net = built("qwen2", len(name), tie_word_embeddings=tied, **sizes)
            models.save(net, None, str(folder / f"{name}-{tied}"), 512)
    ranks = [FORKS.Process(target=rank_main, args=(rank, 2, str(folder))) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(240)
        assert [process.exitcode for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
            process.join()
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_a_sharded_model_are_those_of_a_whole_one(folder, kind):
    alphas, records, smalls = {}, {}, {}
    for parallel in WAYS:
        alphas[parallel], records[parallel] = torch.load(folder / f"{kind}-{parallel}" / "learnt.pt")
        smalls[parallel] = AutoModelForCausalLM.from_pretrained(folder / f"{kind}-{parallel}" / "small")
    for name, p in alphas["replicate"].items():
        assert p.min() < 4.0 < math.log(100)  # they have moved
        torch.testing.assert_close(alphas["fsdp"][name], p, rtol=1e-4, atol=1e-4)
    for one, other in zip(*records.values(), strict=True):
        for key in ("loss", "task_loss", "grad_norm", "hidden_share"):
            assert one[key] == pytest.approx(other[key], rel=1e-4), key
    for p, q in zip(*(small.parameters() for small in smalls.values()), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_a_sharded_teacher_teaches_as_a_whole_one(folder, tied):
    whole, sharded = (torch.load(folder / f"healed-{tied}-{parallel}.pt") for parallel in WAYS)
    assert len(whole) == 4
    for one, other in zip(whole, sharded, strict=True):
        for key in ("loss", "grad_norm", "cross_entropy"):
            assert one[key] == pytest.approx(other[key], rel=1e-5), key


def test_shards_and_ranks_change_no_score(folder):
    net = models.load(str(folder / "qwen2")).eval()
    text = {"lo": [rows([1]), rows([2])], "en": [rows([number]) for number in (3, 4, 5, 6)]}
    want = vars(activation_scores.scores(net, text))
    for parallel in WAYS:
        found = torch.load(folder / f"scores-{parallel}.pt")
        for name, value in want.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
