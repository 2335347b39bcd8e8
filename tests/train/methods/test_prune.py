"""Hard concrete masks, the Lagrangian, and the sliced model against the masked one."""

import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from train import model as models
from train.batches.examples import Example, collate
from train.loop import LoopConfig, fit
from train.methods import pretrain, prune
from train.methods.prune import Masks, Pruning
from train.methods.prune_target import Target

TARGET = Target(hidden_size=32, num_attention_heads=4, intermediate_size=40)  # of 64, 8 (2 KV heads), 96
IDS = torch.arange(24).view(2, 12) * 11 % 300


@torch.no_grad()
def random_alphas(pruning, seed=0):
    torch.manual_seed(seed)
    for p in pruning.log_alpha.values():
        p.copy_(2 * torch.randn_like(p))


def logits(net):
    with torch.no_grad():
        return net(input_ids=IDS % net.config.vocab_size).logits


def test_moments_of_the_hard_concrete():
    torch.manual_seed(0)
    u = torch.rand(1_000_000, dtype=torch.float64)
    for log_alpha, p_zero in ((4.605, 0.00202), (0.0, 0.168), (-4.605, 0.953)):
        z = prune.sample(torch.tensor(log_alpha, dtype=torch.float64), u)
        assert 0 <= z.min() <= z.max() <= 1
        expected = 1 - prune.p_open(torch.tensor(log_alpha, dtype=torch.float64)).item()
        assert expected == pytest.approx(p_zero, rel=5e-3)
        assert (z == 0).double().mean().item() == pytest.approx(expected, abs=1e-3)


def test_sampling_by_hand():
    # sigmoid((ln(.7 / .3) + 0.5) * 1.5) * 1.2 - 0.1
    z = prune.sample(torch.tensor([0.5, -9.0, 9.0]), torch.tensor([0.7, 0.5, 0.5]))
    assert z.tolist() == pytest.approx(
        [1.2 / (1 + math.exp(-1.5 * (math.log(0.7 / 0.3) + 0.5))) - 0.1, 0.0, 1.0], abs=1e-6
    )


def test_deterministic_masks_keep_exactly_the_highest():
    z = prune.deterministic(torch.tensor([[0.0, 3.0, -1.0, 3.0], [2.0, 2.0, 2.0, 2.0]]), keep=2)
    high = [torch.sigmoid(torch.tensor(x * 0.8 * 1.5)).item() for x in (3.0, 2.0)]
    assert z.tolist() == [[0, pytest.approx(high[0]), 0, pytest.approx(high[0])], [pytest.approx(high[1])] * 2 + [0, 0]]


def test_nearly_everything_is_open_at_the_start(tiny_model):
    pruning = Pruning(tiny_model(), TARGET, warmup_steps=10)
    for p in pruning.log_alpha.values():
        assert p.max().item() == pytest.approx(math.log(100))
        assert prune.p_open(p).mean() > 0.997


def test_masks_of_one_change_nothing(tiny_model):
    net = tiny_model()
    before = logits(net)
    pruning = Pruning(net, TARGET, warmup_steps=1)
    assert torch.equal(logits(net), before)
    pruning.masks = Masks(*(torch.ones_like(p) for p in pruning.log_alpha.values()))
    assert torch.allclose(logits(net), before, atol=1e-5)
    pruning.masks = None
    assert torch.equal(logits(net), before)


@pytest.mark.parametrize("tied", [False, True])
def test_sliced_logits_equal_masked_logits(tied, tiny_model, tmp_path):
    net = tiny_model(tie_word_embeddings=tied).eval()
    before = logits(net)
    pruning = Pruning(net, TARGET, warmup_steps=1)
    random_alphas(pruning)
    pruning.masks = pruning.final()
    masked = logits(net)
    assert (masked - before).abs().max() > 0.1
    small = pruning.sliced().eval()
    assert torch.allclose(logits(small), masked, atol=1e-5)

    config = small.config
    assert (config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.intermediate_size) == (
        32,
        4,
        2,
        40,
    )
    assert small.model.layers[1].self_attn.q_proj.weight.shape == (4 * 8, 32)
    assert (small.lm_head.weight is small.model.embed_tokens.weight) == tied
    models.save(small, None, str(tmp_path / "small"), 512)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert torch.allclose(logits(reloaded), masked, atol=1e-5)


def test_a_head_that_is_scaled_once_more_would_be_seen(tiny_model):
    """The reference code's known fault, as a mutation: this test's tolerance tells it from the right model."""
    net = tiny_model().eval()
    pruning = Pruning(net, TARGET, warmup_steps=1)
    random_alphas(pruning)
    pruning.masks = pruning.final()
    masked = logits(net)
    small = pruning.sliced().eval()
    with torch.no_grad():
        small.lm_head.weight.mul_(pruning.masks.hidden_D[pruning.masks.hidden_D > 0])
    assert (logits(small) - masked).abs().max() > 1e-2


def test_every_group_loses_equally_many_heads(tiny_model):
    pruning = Pruning(tiny_model(), TARGET, warmup_steps=1)
    random_alphas(pruning)
    masks = pruning.final()
    assert ((masks.heads_LKG > 0).sum(-1) == 2).all()
    assert ((masks.ffn_LF > 0).sum(-1) == 40).all()
    assert (masks.hidden_D > 0).sum() == 32
    assert not torch.equal(masks.heads_LKG[0, 0] > 0, masks.heads_LKG[0, 1] > 0)


def test_the_target_moves_linearly_in_the_warm_up(tiny_model):
    pruning = Pruning(tiny_model(), TARGET, warmup_steps=4)
    assert [pruning.target_share("hidden", step) for step in (0, 1, 2, 4, 9)] == [1.0, 0.875, 0.75, 0.5, 0.5]
    assert Pruning(tiny_model(), TARGET, warmup_steps=0).target_share("ffn", 0) == pytest.approx(40 / 96)


def test_the_lagrangian_by_hand_and_its_ascent(tiny_model):
    pruning = Pruning(tiny_model(), TARGET, warmup_steps=0)
    random_alphas(pruning)
    with torch.no_grad():
        pruning.lambda_1.copy_(torch.tensor([1.0, 2.0, 3.0]))
        pruning.lambda_2.copy_(torch.tensor([4.0, 5.0, 6.0]))
    penalty, shares = pruning.lagrangian(0)
    expected = 0.0
    gaps = []
    for i, (name, final) in enumerate((("hidden", 0.5), ("heads", 0.5), ("ffn", 40 / 96))):
        gap = prune.p_open(pruning.log_alpha[name]).mean(-1) - final
        assert shares[f"{name}_share"].item() == pytest.approx(gap.mean().item() + final)
        expected += (i + 1) * gap.mean().item() + (i + 4) * gap.square().mean().item()
        gaps.append(gap.mean().item())
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    penalty.backward()
    assert pruning.lambda_1.grad.tolist() == pytest.approx(gaps, rel=1e-5)  # ascends while too many are open


def rows(numbers):
    """A language of which every token follows from the one before."""
    examples = []
    for number in numbers:
        ids = torch.arange(25).mul(7).add(number * 13).remainder(50).numpy()
        examples.append([Example(str(number), "id", ids, ids >= 0)])
    return collate(examples)


def prune_in_the_loop(net, uri, steps=60, **more):
    pruning = Pruning(net, TARGET, warmup_steps=20)
    config = LoopConfig(steps=steps, rows_per_step=4, micro_rows=2, lr=1e-3, log_every=1, weight_decay=0.0, **more)
    records = []
    fit(
        net, rows, pruning.loss_fn(pretrain.loss), config, uri, on_log=records.append,
        extra_params=pruning.extra_params(), after_step=pruning.after_step,
    )  # fmt: skip
    return pruning, records


def test_pruning_in_the_loop_reaches_its_target_and_heals(tiny_model, tmp_path):
    net = tiny_model(vocab_size=50)
    plain = LoopConfig(steps=40, rows_per_step=4, micro_rows=4, lr=3e-3, log_every=1, weight_decay=0.0)
    fit(net, rows, pretrain.loss, plain, str(tmp_path / "base"))
    pruning, records = prune_in_the_loop(net, str(tmp_path / "prune"))
    assert records[0]["hidden_share"] > 0.99
    assert records[0]["hidden_target"] == 1.0
    for name, final in (("hidden", 0.5), ("heads", 0.5), ("ffn", 40 / 96)):
        assert records[-1][f"{name}_target"] == pytest.approx(final)
        assert records[-1][f"{name}_share"] == pytest.approx(final, abs=0.1)
    assert all(p.abs().max() <= math.log(100) + 1e-6 for p in pruning.log_alpha.values())

    small = pruning.sliced()
    healed = []
    fit(small, rows, pretrain.loss, plain, str(tmp_path / "heal"), on_log=healed.append)
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in net.parameters())
    assert healed[-1]["loss"] < 0.5 * healed[0]["loss"]


def test_masks_find_the_units_that_matter(tiny_model, tmp_path):
    """A trained model of the target's shape lies at random places of a larger one, whose other units give nothing. (Its heads are
    not asked for: these rows need no attention.)"""
    small = tiny_model(vocab_size=50, hidden_size=32, num_attention_heads=4, intermediate_size=40)
    plain = LoopConfig(steps=40, rows_per_step=4, micro_rows=4, lr=3e-3, log_every=40, weight_decay=0.0)
    fit(small, rows, pretrain.loss, plain, str(tmp_path / "base"))
    net, generator = tiny_model(seed=5, vocab_size=50), torch.Generator().manual_seed(3)
    some = lambda count, of: torch.randperm(of, generator=generator)[:count].sort().values  # noqa: E731
    hidden, ffn = some(32, 64), [some(40, 96) for _ in range(2)]
    heads = [torch.cat([some(2, 4), 4 + some(2, 4)]) for _ in range(2)]
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith(("norm.weight", "o_proj.weight", "down_proj.weight", "embed_tokens.weight")):
                p.zero_()  # of what is left nothing comes out
        for name, p in net.named_parameters():
            layer = int(name.split(".")[2]) if ".layers." in name else 0
            columns = (heads[layer][:, None] * 8 + torch.arange(8)).flatten()
            axes = {"embed_tokens": (None, hidden), "lm_head": (None, hidden), "q_proj": (columns, hidden)}
            axes |= {"k_proj": (None, hidden), "v_proj": (None, hidden), "o_proj": (hidden, columns)}
            axes |= {
                "gate_proj": (ffn[layer], hidden),
                "up_proj": (ffn[layer], hidden),
                "down_proj": (hidden, ffn[layer]),
            }
            value = small.get_parameter(name) * (32 / 64) ** 0.5 if "norm" in name else small.get_parameter(name)
            one, other = (hidden, None) if "norm" in name else axes[name.split(".")[-2]]
            places = torch.arange(len(p)) if one is None else one
            if p.ndim == 1:
                p[places] = value
            else:
                p[places[:, None], torch.arange(p.shape[1]) if other is None else other] = value
    torch.testing.assert_close(logits(net), logits(small), rtol=0, atol=0.01)  # eps weighs half
    pruning = Pruning(net, TARGET, warmup_steps=20)
    still = LoopConfig(steps=60, rows_per_step=4, micro_rows=1, lr=1e-9, log_every=60, weight_decay=0.0)
    fit(
        net, rows, pruning.loss_fn(pretrain.loss), still, str(tmp_path / "prune"),
        extra_params=pruning.extra_params(), after_step=pruning.after_step,
    )  # fmt: skip
    masks = pruning.final()
    found = [masks.hidden_D.nonzero().squeeze(1), *(z.nonzero().squeeze(1) for z in masks.ffn_LF)]
    for kept, wanted in zip(found, [hidden, *ffn], strict=True):
        assert len(set(kept.tolist()) & set(wanted.tolist())) >= 0.9 * len(wanted), (kept, wanted)  # half by chance
    assert len(pruning.open_by_layer()) == 2 and all(0.2 < share < 0.7 for share in pruning.open_by_layer())


def test_a_resumed_pruning_is_bit_identical(tiny_model, tmp_path):
    whole, _ = prune_in_the_loop(tiny_model(vocab_size=50), str(tmp_path / "whole"), steps=6)
    prune_in_the_loop(tiny_model(vocab_size=50), str(tmp_path / "cut"), steps=3, checkpoint_every=3)
    resumed, records = prune_in_the_loop(tiny_model(vocab_size=50), str(tmp_path / "cut"), steps=6, checkpoint_every=3)
    assert [r["step"] for r in records] == [4, 5, 6]
    for name, p in whole.log_alpha.items():
        assert torch.equal(p, resumed.log_alpha[name])
    assert torch.equal(whole.lambda_1, resumed.lambda_1)
    assert whole.lambda_1.abs().max() > 0
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(128, 16, 40), "hidden_size must be from 1 to the model's 64"),
        (Target(24, 3, 40), "must be a multiple of the model's 2 KV heads"),
        (Target(40, 4, 40), "4 x 8 = 32"),
        (Target(32, 4, 0), "intermediate_size must be from 1"),
    ],
)
def test_targets_that_cannot_be_reached_are_errors(target, message, tiny_model):
    with pytest.raises(ValueError, match=message):
        Pruning(tiny_model(), target, warmup_steps=1)


KINDS = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 8},
    "smollm3": {"no_rope_layer_interval": 2},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 6.0, "residual_multiplier": 0.3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_are_sliced_as_they_were_masked(kind):
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=300, num_hidden_layers=2, **shape, **KINDS[kind], pad_token_id=0)
    net = AutoModelForCausalLM.from_config(config, attn_implementation="pinisi").float().eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2) if p.ndim > 1 else p.data.add_(0.1 * torch.randn_like(p))
    before = logits(net)
    pruning = Pruning(net, TARGET, warmup_steps=1)
    random_alphas(pruning)
    pruning.masks = pruning.final()
    masked = logits(net)
    assert (masked - before).abs().max() > 0.1
    small = pruning.sliced().eval()
    torch.testing.assert_close(logits(small), masked, rtol=1e-4, atol=1e-4 * float(masked.abs().max()))
    assert small.config.hidden_size == 32


@pytest.mark.parametrize("kind", ["gemma2", "phi3", "olmo2", "cohere", "apertus", "glm4"])
def test_what_cannot_be_sliced_is_refused_before_masks_are_learnt(kind):
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=300, num_hidden_layers=2, **shape, head_dim=8, pad_token_id=0)
    net = AutoModelForCausalLM.from_config(config, attn_implementation="pinisi")
    with pytest.raises(ValueError, match=f"a model of kind {kind} cannot be pruned, for its"):
        Pruning(net, TARGET, warmup_steps=1)
