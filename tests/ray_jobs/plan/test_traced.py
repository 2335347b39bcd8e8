"""The memory that the dry run and the plan count is what a step takes, measured on this machine's own allocations."""

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from ray_jobs.config import reader as recipes
from ray_jobs.config.training import Update
from ray_jobs.plan import gpu_memory, traced
from ray_jobs.plan import model as plan_model
from ray_jobs.training import update
from train.distributed import data_parallel, vocabulary
from train.kernels import adamw, attention, layers
from train.loop_config import LoopConfig
from train.methods import distil, pretrain
from train.methods.prune import Pruning
from train.methods.prune_target import Target

torch.set_num_threads(1)

SHAPE = {
    "vocab_size": 8000,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
}
ROWS, LENGTH = 3, 320


class Allocations:
    """The most bytes that lived at a time in the CPU's allocator while the block ran, beyond those at its beginning, from
    PyTorch's profiler: it also sees what an operation takes inside."""

    def __enter__(self):
        self._profile = torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU])
        self._profile.__enter__()
        return self

    def __exit__(self, *error):
        self._profile.__exit__(*error)
        events = self._profile.profiler.kineto_results.events()
        now = self.peak = 0
        for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
            now += event.nbytes()
            self.peak = max(self.peak, now)


def batch(rows=ROWS, length=LENGTH):
    ids = torch.randint(0, 8000, (rows, length), generator=torch.Generator().manual_seed(0))
    docs = (torch.arange(length) // 100).expand(rows, -1)
    return {"input_ids": ids, "labels": ids, "doc_ids": docs, "position_ids": torch.arange(length).expand(rows, -1)}


def made(config):
    net = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME, dtype=torch.float32)
    attention.attach(net)
    vocabulary.attach(net)
    return net.train()


def measured(net, mode, bf16, loss, extra=()):
    layers.checkpoint_activations(net, mode)
    gradients = data_parallel.Gradients(net.parameters(), extra)
    for _ in range(2):  # the first makes what stays, such as caches of libraries
        with Allocations() as found:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss_sum = loss(net, batch() | {"step": torch.tensor(1)})[0]
            loss_sum.backward()
            del loss_sum
    del gradients
    return found.peak


def config_of(kind, **more):
    return AutoConfig.for_model(kind, **SHAPE, **more)


@pytest.mark.parametrize("mode", layers.CHECKPOINTING)
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma3_text"])
def test_a_step_takes_what_is_counted(kind, bf16, mode):
    config = config_of(kind)
    counted = traced.peak(config, traced.Pass(ROWS, LENGTH, bf16=bf16, checkpointing=mode, gpu=False))
    assert counted == pytest.approx(measured(made(config), mode, bf16, pretrain.loss), rel=0.1)


@pytest.mark.parametrize("kind", ["gemma2", "olmo2", "qwen3", "phi3", "granite", "cohere"])
def test_other_families_too(kind):
    config = config_of(kind)
    counted = traced.peak(config, traced.Pass(ROWS, LENGTH, bf16=True, gpu=False))
    assert counted == pytest.approx(measured(made(config), "none", True, pretrain.loss), rel=0.1)


def test_masks_that_are_learnt():
    config, target = config_of("qwen2"), Target(64, 2, 192)
    del config.head_dim  # else its heads would not follow the width
    counted = traced.peak(config, traced.Pass(ROWS, LENGTH, "masks", bf16=True, gpu=False), target)
    net = made(config)
    pruning = Pruning(net, target, 1)
    extra = [p for group in pruning.extra_params() for p in group["params"].values()]
    plain = traced.peak(config, traced.Pass(ROWS, LENGTH, bf16=True, gpu=False))
    assert counted > 1.05 * plain
    assert counted == pytest.approx(measured(net, "none", True, pruning.loss_fn(pretrain.loss), extra), rel=0.1)


@pytest.mark.parametrize("mode", ["none", "full"])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_student_that_is_taught(bf16, mode):
    config, wide = config_of("qwen2"), config_of("qwen2")
    wide.hidden_size = 256
    counted = traced.peak(config, traced.Pass(ROWS, LENGTH, bf16=bf16, checkpointing=mode, gpu=False, taught=256))
    net, config = made(config), LoopConfig(steps=1, rows_per_step=1, micro_rows=1, lr=1e-3)
    teacher = distil.frozen(made(wide), config, torch.device("cpu"))
    assert counted == pytest.approx(measured(net, mode, bf16, distil.loss_fn(teacher)), rel=0.1)


@pytest.mark.parametrize("rule", ["{rule: lora, rank: 16}", "{rule: contrast, share: 0.3}"])
@pytest.mark.parametrize(("bf16", "mode"), [(False, "none"), (True, "none"), (True, "full")])
def test_a_part_that_learns(rule, bf16, mode):
    config, own = config_of("qwen2"), Update(**yaml.safe_load(rule))
    counted = traced.peak(config, traced.Pass(ROWS, LENGTH, bf16=bf16, checkpointing=mode, gpu=False, update=own))
    net = update.begun(made(config), own)
    assert counted == pytest.approx(measured(net, mode, bf16, pretrain.loss), rel=0.1)


def test_a_whole_update_of_a_recipe(tmp_path):
    """Weights, gradients, moments and the pass: all that a process allocates from the empty model to the end of an update."""
    shape = "{hidden_size: 128, num_hidden_layers: 5, num_attention_heads: 4, num_key_value_heads: 2, intermediate_size: 384}"
    own = [f"train.base.shape={shape}", "train.device=cpu", "train.precision=bf16", f"train.context={LENGTH}"]
    own += [
        "tokenize.vocab_size=8000",
        f"train.pretrain.micro_rows={ROWS}",
        "train.workers=1",
        "train.expand.new_layers=1",
    ]
    recipe = recipes.load("demo", own)
    work = gpu_memory.main(gpu_memory.works(recipe))
    assert (work.rows, work.length, work.model.shape["num_hidden_layers"]) == (ROWS, LENGTH, 6)
    with Allocations() as found:
        net = made(plan_model.nets(recipe)[1].config)
        gradients = data_parallel.Gradients(net.parameters())
        optimizer = adamw.adamw(net.named_parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                loss = pretrain.loss(net, batch()).loss_sum
            loss.backward()
            gradients.reduce(1.0)
            optimizer.step()
            del loss
    assert gpu_memory.table(recipe.train, work)["in all"] * 1e9 == pytest.approx(found.peak, rel=0.1)


def test_what_live_counts_goes_again():
    with traced.Live() as live:
        first = torch.empty(1000)
        view = first.view(10, 100)
        second = first + 1
        del first
        assert live.now == 8000  # the view keeps it
        del view, second
        assert (live.now, live.peak) == (0, 8000)


def test_the_peak_is_linear_in_layers():
    """So two small models tell of a large one: five layers counted whole are as many as two say."""
    config = config_of("qwen2")
    one = traced.Pass(ROWS, LENGTH, bf16=True)
    assert traced.peak(config, one) == pytest.approx(traced._of_layers(config, 5, one, None), rel=0.01)


def test_gpus_keep_no_mask_and_no_repeated_keys():
    config = config_of("qwen2")
    one = traced.Pass(1, 1024, "reward", bf16=True)
    assert traced.peak(config, one) < 0.95 * traced.peak(config, one._replace(gpu=False))
