"""Where a model rounds in bf16."""

import kept_bytes
import pytest
import torch
from shapes import TINY

from train import model
from train.kernels import attention

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

SHAPE = TINY | {"num_hidden_layers": 2, "initializer_range": 0.2}


def dtypes(net, autocast: bool) -> dict[str, set]:
    """Of what goes into layers, norms and attention."""
    found: dict[str, set] = {"layer": set(), "normed": set(), "rotation": set(), "query": set()}
    body = net.model
    handles = [
        *(layer.register_forward_pre_hook(lambda m, a: found["layer"].add(a[0].dtype)) for layer in body.layers),
        *(
            norm.register_forward_hook(lambda m, a, out: found["normed"].add(out.dtype))
            for norm in (body.norm, *(layer.input_layernorm for layer in body.layers))
        ),
        body.rotary_emb.register_forward_hook(lambda m, a, out: found["rotation"].update(x.dtype for x in out)),
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        net.model(torch.arange(9)[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def test_under_autocast_the_stream_is_bf16_and_rotation_fp32():
    net = model.build(SHAPE, seed=1)
    found = dtypes(net, autocast=True)
    assert found["layer"] == found["normed"] == {torch.bfloat16} and found["rotation"] == {torch.float32}
    found = dtypes(net, autocast=False)
    assert found["layer"] == found["normed"] == found["rotation"] == {torch.float32}
    assert dtypes(net.bfloat16(), autocast=False)["rotation"] == {torch.bfloat16}  # as `transformers` does it


def test_norms_and_rotation_are_hooked_once_for_each():
    net = model.build(SHAPE, seed=1)
    assert len(net.model.embed_tokens._forward_hooks) == len(net.model.norm._forward_hooks) == 1
    assert len(net.model.rotary_emb._forward_pre_hooks) == 1


@pytest.mark.parametrize("number", [2])
def test_what_a_layer_keeps_under_autocast_is_what_the_plan_counts(number):
    """A fp32 stream kept a quarter more (docs/decisions.md, 126)."""

    shape = SHAPE | {"num_key_value_heads": 4, "hidden_size": 64, "intermediate_size": 192}
    net = model.build(shape, seed=2).train()
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        cast = tensor.dtype == torch.bfloat16 and tensor.shape in weights
        if tensor.untyped_storage().data_ptr() not in own and not cast:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {s for p in net.parameters() if p.ndim == 2 for s in (p.shape, p.T.shape)}
    tokens = 211
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        ids = torch.arange(tokens)[None] % 60
        hidden = net.model(ids, doc_ids=torch.zeros_like(ids), use_cache=False).last_hidden_state
    measured = sum(kept.values()) / (2 * tokens)
    formula = kept_bytes.per_token(net.config, "none", number)
    print(measured, formula)
    assert hidden.requires_grad and attention.NAME
    assert 0.8 * measured < formula < 1.1 * measured
