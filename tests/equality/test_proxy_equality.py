"""A stack of proxies trains as each of its models would alone: through `transformers`, and through the training loop."""

import dataclasses

import numpy as np
import pytest
import torch

from train import model
from train.loop import LoopConfig, fit
from train.methods import pretrain, proxy

torch.set_num_threads(1)

VOCABULARY, CONTEXT = 61, 24
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
    "rope_theta": 1e4,
    "initializer_range": 0.1,
}
# eps: as in test_loop_equality, a gradient that is almost 0 must not become an update of rounding error
CONFIG = proxy.ProxyConfig(steps=6, rows_per_step=5, micro_rows=2, lr=1e-2, warmup_steps=3, eps=1e-5, clip=0.3, seed=3)


def batch_fn(proxy_number):
    """Rows of a process that differs by proxy, with positions that have no label, unlike many in each."""

    def batch(rows):
        seeds = [torch.Generator().manual_seed(1000 * proxy_number + row) for row in rows]
        ids = torch.stack(
            [torch.randint(0, VOCABULARY // (1 + proxy_number), (CONTEXT + 1,), generator=s) for s in seeds]
        )
        labels = ids[:, 1:].clone()
        labels[:, : 3 * proxy_number] = -100
        return {
            "input_ids": ids[:, :-1],
            "labels": labels,
            "doc_ids": (torch.arange(CONTEXT) // 7).expand(len(rows), -1),
            "position_ids": torch.arange(CONTEXT).expand(len(rows), -1),
            "count": (labels != -100).sum(),
        }

    return batch


BATCHES = [batch_fn(number) for number in range(3)]
HELDOUT = {"lo": [BATCHES[0]([900, 901]), BATCHES[0]([902])], "th": [BATCHES[2]([903])]}


@pytest.mark.parametrize("tied", [True, False])
def test_batched_equals_one_by_one(tied):
    shape = SHAPE | {"tie_word_embeddings": tied}
    together = proxy.losses(shape, BATCHES, HELDOUT, CONFIG)
    alone = proxy.losses(shape, BATCHES, HELDOUT, CONFIG, batched=False)
    np.testing.assert_allclose(together, alone, rtol=2e-5)
    assert len(set(together[:, 0].round(3))) == 3  # what they read matters
    along = dataclasses.replace(CONFIG, points=(2, 4))
    both = [proxy.trajectories(shape, BATCHES, HELDOUT, along, batched=batched) for batched in (True, False)]
    np.testing.assert_allclose(both[0], both[1], rtol=2e-5)
    assert (both[0][2] == together).all() and (both[1][2] == alone).all() and (both[0][0] != both[0][1]).all()


def test_grouping_does_not_matter():
    shape = SHAPE | {"tie_word_embeddings": True}
    three = proxy.losses(shape, BATCHES, HELDOUT, CONFIG)
    one = proxy.losses(shape, BATCHES[1:2], HELDOUT, CONFIG)
    np.testing.assert_allclose(three[1:2], one, rtol=2e-5)


@pytest.mark.parametrize("number", [0, 2])
def test_a_proxy_equals_the_training_loop(tmp_path, number):
    shape = SHAPE | {"tie_word_embeddings": True}
    net = model.build(shape, CONFIG.seed)
    loop = LoopConfig(
        steps=CONFIG.steps,
        rows_per_step=CONFIG.rows_per_step,
        micro_rows=CONFIG.micro_rows,
        lr=CONFIG.lr,
        warmup_steps=CONFIG.warmup_steps,
        eps=CONFIG.eps,
        clip=CONFIG.clip,
    )
    records = []
    fit(net, BATCHES[number], pretrain.loss, loop, str(tmp_path), on_log=records.append)
    assert records[-1]["grad_norm"] > CONFIG.clip  # clipping took part
    want = []
    with torch.no_grad():
        for batches in HELDOUT.values():
            parts = [pretrain.loss(net, batch) for batch in batches]
            want.append(float(sum(p.loss_sum for p in parts) / sum(p.count for p in parts)))
    got = proxy.losses(shape, BATCHES, HELDOUT, CONFIG)[number]
    np.testing.assert_allclose(got, want, rtol=2e-5)


def test_stack_equals_transformers_without_training():
    net = model.build(SHAPE | {"tie_word_embeddings": False}, seed=3)
    stack = proxy.Stack(SHAPE | {"tie_word_embeddings": False}, 2, 3, torch.device("cpu"))
    batch = BATCHES[0]([1, 2, 3])
    with torch.no_grad():
        want = net.model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], doc_ids=batch["doc_ids"], use_cache=False
        ).last_hidden_state
        got = stack.forward(batch["input_ids"].expand(2, -1, -1), batch["doc_ids"].expand(2, -1, -1))
    for hidden in got:
        torch.testing.assert_close(hidden.view(want.shape), want, rtol=1e-4, atol=1e-5)


def test_a_diverged_proxy_is_said():
    config = proxy.ProxyConfig(steps=3, rows_per_step=2, micro_rows=2, lr=1e30, warmup_steps=0)
    with pytest.raises(ValueError, match="not finite"):
        proxy.losses(SHAPE, BATCHES[:1], HELDOUT, config)


def test_flops_of_the_recipe_are_those_of_its_matrices():
    shape = {
        "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 8,
        "intermediate_size": 512,
    }  # fmt: skip
    one = proxy.training_flops(shape, 16_384, 2048, 1_000_000)
    layers = 2 * (4 * 256 * 256 + 3 * 256 * 512)
    assert one == pytest.approx(1e6 * (6 * (layers + 256 * 16_384) + 12 * 2 * 256 * 2048), rel=1e-6)
