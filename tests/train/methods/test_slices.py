"""A model cut out of files a tensor at a time: equal to slicing it whole, from any shards, within the memory of a tensor."""

import weakref

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from train import model as models
from train.checkpoint import checkpoint
from train.kernels import adamw
from train.loop import LoopConfig, named_tensors
from train.methods import prune, slices
from train.methods.prune import Pruning
from train.methods.prune_target import Target

torch.set_num_threads(1)

KINDS = {
    "qwen2": {},
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {"head_dim": 16},
}
IDS = torch.arange(24).view(2, 12) * 11 % 300


def whole_slices(state, masks, head_dim):
    """The slicing of a whole model in memory as it was before files were cut (the naive twin)."""
    z_D = masks.hidden_D
    d = z_D.nonzero().squeeze(1)
    tied = state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    embedding_VD = (state["model.embed_tokens.weight"] * z_D)[:, d]
    small = {
        "model.embed_tokens.weight": embedding_VD,
        "lm_head.weight": embedding_VD if tied else state["lm_head.weight"][:, d],
        "model.norm.weight": state["model.norm.weight"][d],
    }
    for i in range(len(masks.ffn_LF)):
        layer = f"model.layers.{i}"
        z_N = masks.heads_LKG[i].flatten().repeat_interleave(head_dim)
        z_F = masks.ffn_LF[i]
        n, f = z_N.nonzero().squeeze(1), z_F.nonzero().squeeze(1)
        attn, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            small[f"{layer}.{norm}.weight"] = state[f"{layer}.{norm}.weight"][d]
        small[f"{attn}.q_proj.weight"] = state[f"{attn}.q_proj.weight"][n][:, d]
        for name in ("k_proj", "v_proj"):
            small[f"{attn}.{name}.weight"] = state[f"{attn}.{name}.weight"][:, d]
        small[f"{attn}.o_proj.weight"] = (z_D[:, None] * state[f"{attn}.o_proj.weight"] * z_N)[d][:, n]
        small[f"{mlp}.gate_proj.weight"] = state[f"{mlp}.gate_proj.weight"][f][:, d]
        small[f"{mlp}.up_proj.weight"] = (z_F[:, None] * state[f"{mlp}.up_proj.weight"])[f][:, d]
        small[f"{mlp}.down_proj.weight"] = (z_D[:, None] * state[f"{mlp}.down_proj.weight"])[d][:, f]
        biases = {
            f"{attn}.q_proj.bias": (torch.ones_like(z_N), n),
            f"{attn}.o_proj.bias": (z_D, d),
            f"{mlp}.gate_proj.bias": (torch.ones_like(z_F), f),
            f"{mlp}.up_proj.bias": (z_F, f),
            f"{mlp}.down_proj.bias": (z_D, d),
        }
        for name, value in state.items():
            if name in biases:
                mask, kept = biases[name]
                small[name] = (value * mask)[kept]
            elif name.startswith(f"{layer}.") and name not in small:
                small[name] = value
    return small


def built(kind, seed, **own):
    """A random model of a random shape, and a target that it can be pruned to."""
    torch.manual_seed(seed)
    groups, per_group, width = 1 + seed % 3, 2 + seed % 2, KINDS[kind].get("head_dim", 8)
    heads, kept = groups * per_group, groups * (per_group - 1)
    hidden = 8 * heads
    config = AutoConfig.for_model(
        kind, vocab_size=300, num_hidden_layers=2, hidden_size=hidden, intermediate_size=90 + seed,
        num_attention_heads=heads, num_key_value_heads=groups, pad_token_id=0, **KINDS[kind], **own,
    )  # fmt: skip
    net = AutoModelForCausalLM.from_config(config, attn_implementation="pinisi").float().eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2) if p.ndim > 1 else p.data.add_(0.1 * torch.randn_like(p))
    hidden = 8 * kept if width == 8 else 8 * heads - 5 - seed
    return net, Target(hidden, kept, 60 + seed)


def masks_of(net, target, seed=0):
    pruning = Pruning(net, target, 1, seed)
    torch.manual_seed(seed)
    for p in pruning.log_alpha.values():
        p.data = (2 * torch.randn_like(p)).clamp(-4, 4)
    return pruning.final()


def saved(net, uri):
    named, _ = named_tensors(net, [])
    checkpoint.save(uri, 1, {n: t.detach() for n, t in named.items()}, {"config": net.config.to_dict()})
    return checkpoint.latest(uri)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_files_cut_by_tensor_are_the_model_sliced_whole(kind, tied, seed, tmp_path, monkeypatch):
    net, target = built(kind, seed, tie_word_embeddings=tied)
    masks = masks_of(net, target, seed)
    want = whole_slices(net.state_dict(), masks, prune.head_width(net.config))
    monkeypatch.setattr(slices, "FILE_BYTES", (1 << 40, 9_000)[seed % 2])  # one file, several
    with slices.of_checkpoint(saved(net, str(tmp_path / "ck"))) as source:
        slices.slice_checkpoint(source, masks, target, str(tmp_path / "a"), 512)
    models.save(net, None, str(tmp_path / "hf"), 512)
    with slices.of_folder(str(tmp_path / "hf")) as source:
        slices.slice_checkpoint(source, masks, target, str(tmp_path / "b"), 512)
    for folder in ("a", "b"):
        small = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        assert (small.lm_head.weight is small.model.embed_tokens.weight) == tied
        found = small.state_dict()
        assert found.keys() == want.keys()
        assert all(torch.equal(found[name], want[name]) for name in want)
        assert (tmp_path / folder / "model.safetensors.index.json").exists() == bool(seed % 2)
        whole, cut = (model.config.to_dict() for model in (net, small))
        changed = {key for key in whole if whole[key] != cut.get(key)} - {"_name_or_path"}
        assert changed <= {
            "hidden_size", "num_attention_heads", "intermediate_size", "dtype", "architectures", "max_position_embeddings",
        }  # fmt: skip


def test_memory_is_one_tensor_and_what_is_cut_from_it(tmp_path):
    """Counted: of the large model never more than one tensor lives, though its tensors together are several times that."""
    net, target = built("llama", 4)
    masks = masks_of(net, target)
    found = saved(net, str(tmp_path / "ck"))
    alive, most, total = 0, 0, 0

    def gone(size):
        nonlocal alive
        alive -= size

    with slices.of_checkpoint(found) as source:

        def read(name):
            nonlocal alive, most, total
            tensor = source.read(name)
            weakref.finalize(tensor.untyped_storage(), gone, tensor.nbytes)
            alive, total = alive + tensor.nbytes, total + tensor.nbytes
            most = max(most, alive)
            return tensor

        slices.slice_checkpoint(source._replace(read=read), masks, target, str(tmp_path / "small"), 512)
    sizes = [4 * p.numel() for p in net.parameters()]
    assert total == sum(sizes) > 4 * max(sizes)
    assert most == max(sizes)


def test_rates_of_masks_do_not_follow_those_of_the_weights(tiny_model, tmp_path):
    """In a warm-up, and at the end of a cosine to 0, masks would hardly learn."""
    pruning = Pruning(tiny_model(vocab_size=50), Target(32, 4, 40), warmup_steps=0)
    config = LoopConfig(steps=100, rows_per_step=2, micro_rows=2, lr=1e-3, warmup_steps=20, schedule="cosine")
    parameters = [dict(group, params=list(group["params"].values())) for group in pruning.extra_params(mask_lr=0.5)]
    optimizer = adamw.adamw(
        pruning.model.named_parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, extra=parameters
    )
    rates = []
    for step in (0, 50, 99):
        adamw.set_learning_rate(optimizer, step, config)
        rates.append([group["lr"] for group in optimizer.param_groups[-2:]])
    assert rates == [[0.5, 1.0]] * 3
