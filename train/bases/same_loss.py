"""The loss of a model on two packed documents, through our loss, attention and packing, is that of plain `transformers`.

It is measured, for any kind of model, before anything is trained: on a small random model of the same config (`of_kind`), whose
windows are short enough to be reached and whose weights are large enough for soft caps to bend, and on the weights of a base
themselves (`check`). A kind whose difference is above `TOLERANCE` would be trained towards another function than the one that
is saved, so it is refused.
"""

from __future__ import annotations

import copy
import json
from functools import cache

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from train.bases import shape
from train.batches.decoder import CausalLM
from train.kernels import attention, head
from train.kernels.cross_entropy import linear_cross_entropy

TOLERANCE = 1e-5
LENGTHS = (25, 15)  # tokens of the two documents
SMALL = 20_000_000  # parameters of a model that is tried at its own size
WINDOW = 8  # positions; shorter than a document
VOCABULARY = 512


def of_kind(config) -> None:
    """Raises ValueError where a model of `config` cannot be trained as the function that it is. Asked again, it remembers."""
    _of_kind(json.dumps(_plain(config), sort_keys=True))


def check(net: CausalLM) -> None:
    """The same of a model with our attention, in fp32 on any device, with the weights that it has."""
    _equal(net.config, difference(net))


def _equal(config, found: float) -> None:
    if not found < TOLERANCE:
        raise shape.refused(
            config, f"on two packed documents its loss here is off from that of plain transformers by {found:.1e}"
        )


@torch.no_grad()
def difference(net: CausalLM) -> float:
    """Relative difference of our loss and that of plain `transformers`, the larger of positions that begin anew in each
    document and positions of the row."""
    device, training, own = next(net.parameters()).device, net.training, net.config._attn_implementation
    net.eval()
    generator = torch.Generator().manual_seed(1)
    first = min(3, net.config.vocab_size - 1)
    documents = [torch.randint(first, net.config.vocab_size, (n,), generator=generator).to(device) for n in LENGTHS]
    try:
        net.config._attn_implementation = "eager"
        want = sum(_plain_loss(net, ids) for ids in documents)
    finally:
        net.config._attn_implementation = own
    row = torch.cat([ids[:-1] for ids in documents])[None]
    labels = torch.cat([ids[1:] for ids in documents])[None]
    numbers = torch.cat([torch.full((n - 1,), i) for i, n in enumerate(LENGTHS)])[None].to(device)
    anew = torch.cat([torch.arange(n - 1) for n in LENGTHS])[None].to(device)
    off = []
    for positions in (anew, torch.arange(row.shape[1], device=device)[None]):
        hidden = net.model(input_ids=row, position_ids=positions, doc_ids=numbers, use_cache=False).last_hidden_state
        got, _ = linear_cross_entropy(head.scaled(net, hidden), net.lm_head.weight, labels, softcap=head.softcap(net))
        off.append(abs(float(got) - want) / want)
    net.train(training)
    return max(off)


def _plain_loss(net: nn.Module, ids: Tensor) -> float:
    logits = net(input_ids=ids[None, :-1], use_cache=False).logits
    return float(nn.functional.cross_entropy(logits[0].float(), ids[1:], reduction="sum"))


@cache
def _of_kind(values: str) -> None:
    config = AutoConfig.for_model(**json.loads(values))
    whole = shape.on_meta(config)
    shape.check(whole)
    net = _random(_small(config, sum(p.numel() for p in whole.parameters())))
    attention.attach(net)
    try:
        found = difference(net)
    except Exception as error:  # whatever the code of a model does with documents that it does not know
        raise shape.refused(config, f"it cannot read packed documents ({shape.first_line(error)})") from error
    _equal(config, found)


def _plain(config) -> dict:
    """The config as `AutoConfig.for_model` takes it, without what does not decide the function."""
    left_out = (
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "_name_or_path",
        "auto_map",
        "id2label",
    )
    return {key: value for key, value in config.to_dict().items() if key not in left_out and key != "label2id"}


def _small(config, parameters: int):
    """`config` at a size that takes no time, with a window that two short documents reach over."""
    small = copy.deepcopy(config)
    for name in ("sliding_window", "attention_chunk_size"):
        if isinstance(window := getattr(small, name, None), int) and window:
            setattr(small, name, min(window, WINDOW))
    if parameters <= SMALL:
        return small
    layers, kinds = small.num_hidden_layers, getattr(small, "layer_types", None) or []
    kept = min(layers, max([3, *(kinds.index(kind) for kind in set(kinds))]) + 1)
    for name, value in vars(small).items():
        if isinstance(value, list) and len(value) == layers:  # one value a layer
            setattr(small, name, value[:kept])
    small.num_hidden_layers = kept
    heads, keys = small.num_attention_heads, getattr(small, "num_key_value_heads", None) or small.num_attention_heads
    width = getattr(small, "head_dim", None) or small.hidden_size // heads  # rotation depends on it, so it stays
    small.num_key_value_heads = min(keys, 2)
    small.num_attention_heads = heads // keys * small.num_key_value_heads
    small.hidden_size = small.num_attention_heads * width
    small.intermediate_size = 2 * width
    small.vocab_size = min(small.vocab_size, VOCABULARY)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, name, None)
    return small


def _random(config) -> CausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            net = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention.NAME)
        except Exception as error:
            raise shape.refused(
                config, f"no small model of its config can be made ({shape.first_line(error)})"
            ) from error
        with torch.no_grad():
            for p in net.parameters():
                if p.ndim > 1:
                    nn.init.normal_(p, std=1.5 * p.shape[-1] ** -0.5)
                else:
                    p += 0.05 * torch.randn_like(p)
    return net
