"""Peak memory of one forward and backward pass: the real modules run on tensors without memory, and what would live is counted.

PyTorch's FakeTensorMode runs every operation for its shapes alone. `Live` sees each result, adds the bytes of its storage, and
takes them off when nothing holds it any more: autograd's graph, autocast's casts of weights, buffers of the loss. So no formula
knows what a family keeps; a change of a kernel changes the count. What a library takes inside one operation is not seen.

Layers are alike, so models of one and of two layers are enough: the peak is linear in layers.
"""

from __future__ import annotations

import copy
import weakref
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode  # what torch.compile traces with
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, PreTrainedConfig

from ray_jobs.config.training import Update
from ray_jobs.training.update import begun
from train.distributed import data_parallel, vocabulary
from train.kernels import attention, cross_entropy, distillation, head, layers, precision
from train.methods.prune import Pruning
from train.methods.prune_target import Target

ON_GPU = "pinisi_on_gpu"  # attention as flex and varlen compute it: nothing of T x T, keys that are not repeated
What = Literal["packed", "pairs", "reward", "masks", "read"]
_aten = torch.ops.aten


class Pass(NamedTuple):
    """`rows` of `length` positions through a model. `what`: packed text, preference pairs (`rows` of them lie in so many rows),
    conversations that a reward is read from, packed text through masks that are learnt, or packed text without gradients."""

    rows: int
    length: int
    what: What = "packed"
    bf16: bool = False
    sharded: bool = False  # by FSDP: weights are gathered in the precision of the products
    checkpointing: str = "none"
    gpu: bool = True
    z_loss: bool = False
    taught: int = 0  # width of the teacher that packed text is learnt from, if there is one
    update: Update | None = None  # by which a part of the weights learns


class Live(TorchDispatchMode):
    """Bytes of the storages that operations have made and that live: `now`, and the most until now, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # what depends on values, which there are none of: every position has a label, no check fails
        if func is _aten.nonzero.default:
            return self._seen(args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64))
        if func is _aten._local_scalar_dense.default:
            return 0
        return self._seen(func(*args, **(kwargs or {})))

    def _seen(self, result):
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self._known:
                    self._known[key] = weakref.ref(storage, partial(self._gone, key, size))
                    self.now += size
                    self.peak = max(self.peak, self.now)
        return result

    def _gone(self, key: int, size: int, _: object) -> None:
        del self._known[key]
        self.now -= size


def peak(config: PreTrainedConfig, one: Pass, target: Target | None = None) -> float:
    """Bytes that a pass takes at its peak, beyond weights, the gradients of whole ones, and the optimiser's state. `target`: of
    masks that are learnt."""
    return _peak(config.to_json_string(), type(config), one, target)  # type: ignore[arg-type]  # classes have a hash


@lru_cache(maxsize=256)
def _peak(text: str, kind: type[PreTrainedConfig], one: Pass, target: Target | None) -> float:
    import json

    config = kind.from_dict(json.loads(text))
    first, second = (_of_layers(config, count, one, target) for count in (1, 2))
    return first + (config.num_hidden_layers - 1) * (second - first)


def _of_layers(config: PreTrainedConfig, count: int, one: Pass, target: Target | None) -> float:
    """The peak of a model like that of `config` with so many layers."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = count
    if types := getattr(config, "layer_types", None):
        config.layer_types = types[:count]
    with FakeTensorMode(), Live() as live:
        name = ON_GPU if one.gpu else attention.NAME
        small = one.bf16 and one.sharded
        dtype = torch.bfloat16 if small else torch.float32
        net = AutoModelForCausalLM.from_config(config, attn_implementation=name, dtype=dtype)
        if one.gpu:
            precision.attach(net)
        else:
            attention.attach(net)
        return _run(net, one, target, live)


def _run(net, one: Pass, target: Target | None, live: Live) -> float:
    shape = (one.rows, one.length)
    vocabulary.attach(net)
    if one.update:
        begun(net, one.update)
    net.train()
    layers.checkpoint_activations(net, one.checkpointing)
    gradients = None
    pruning = Pruning(net, target, 1) if target else None
    if one.sharded:
        for parameter in net.parameters():  # a layer's gradients go to their shards when they are done
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_dropped)
    else:
        extra = [p for group in pruning.extra_params() for p in group["params"].values()] if pruning else ()
        gradients = data_parallel.Gradients(net.parameters(), extra)
    ids, inputs = _inputs(shape, one.gpu)
    teacher = None  # its head, which lies there or is gathered; what runs before it has gone but its last states
    if one.taught:
        teacher = torch.empty(net.config.vocab_size, one.taught, dtype=torch.bfloat16 if one.bf16 and one.gpu else None)
    live.peak = before = live.now
    if one.what == "read":
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=one.bf16 and not one.sharded):
            net.model(**inputs, use_cache=False)
        return live.peak - before
    # gathered weights are in bf16 already, but masks are fp32, and so is what they are multiplied with
    with torch.autocast("cpu", torch.bfloat16, enabled=one.bf16 and (not one.sharded or pruning is not None)):
        masked = pruning.loss_fn(lambda model, batch: _parts(model, inputs, ids, one, teacher)) if pruning else None
        loss = (
            masked(net, {"step": torch.zeros((), dtype=torch.int64)})
            if masked
            else _parts(net, inputs, ids, one, teacher)
        )
    loss[0].backward()
    del loss, gradients
    return live.peak - before


def _parts(net, inputs: dict[str, Tensor], ids: Tensor, one: Pass, teacher: Tensor | None = None):
    """The loss of a pass, as train/methods compute it, as the fields of a `LossParts`."""
    taught = None if teacher is None else torch.empty(*ids.shape, one.taught, dtype=teacher.dtype)
    hidden = net.model(**inputs, use_cache=False).last_hidden_state
    if one.what == "reward":
        return hidden[:, -1].float().sum(), 1, {}, None
    # FSDP gathers the head whole, in the precision of the products
    weight = net.lm_head.weight.clone() if one.sharded else net.lm_head.weight
    size = cross_entropy.default_chunk(torch.empty(len(weight), 0, device="meta")) if one.gpu else None
    scaled, cap = head.scaled(net, hidden), head.softcap(net)
    if one.what == "pairs":
        return cross_entropy.token_logprobs(scaled, weight, ids, softcap=cap).sum(), 1, {}, None
    if teacher is not None and taught is not None:
        aim = distillation.Aim(softcap=cap, softcap_of_teacher=cap)
        return distillation.distil(scaled, weight, taught, teacher, ids, aim, size).loss, 1, {}, None
    z_loss = 1e-4 if one.z_loss else 0.0
    return cross_entropy.linear_cross_entropy(scaled, weight, ids, size, z_loss, softcap=cap)[0], 1, {}, None


def _inputs(shape: tuple[int, int], gpu: bool) -> tuple[Tensor, dict[str, Tensor]]:
    ids = torch.zeros(shape, dtype=torch.int64)
    inputs = {"input_ids": ids, "position_ids": torch.arange(shape[1]).expand(shape).contiguous()}
    return ids, inputs if gpu else inputs | {"doc_ids": torch.zeros(shape, dtype=torch.int64)}


def _dropped(parameter: nn.Parameter) -> None:
    parameter.grad = None


class _Kernel(torch.autograd.Function):
    """What a fused kernel keeps: its inputs, its output, and the log-sum-exp of each query."""

    @staticmethod
    def forward(ctx, query_BHTN: Tensor, key_BKTN: Tensor, value_BKTN: Tensor) -> Tensor:
        out, lse_BHT = torch.empty_like(query_BHTN), query_BHTN.new_empty(query_BHTN.shape[:3], dtype=torch.float32)
        ctx.save_for_backward(query_BHTN, key_BKTN, value_BKTN, out, lse_BHT)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _on_gpu(
    module, query_BHTN: Tensor, key_BKTN: Tensor, value_BKTN: Tensor, attention_mask, **kwargs
) -> tuple[Tensor, None]:
    query_BHTN, key_BKTN = query_BHTN.to(value_BKTN.dtype), key_BKTN.to(value_BKTN.dtype)
    return _Kernel.apply(query_BHTN, key_BKTN, value_BKTN).transpose(1, 2).contiguous(), None


AttentionInterface.register(ON_GPU, _on_gpu)
AttentionMaskInterface.register(ON_GPU, lambda *args, **kwargs: None)
