"""Proxy models: many tiny Qwen2-shaped models, each trained on its own mixture, for the losses that a mixture leads to.

RegMix (arXiv 2407.01492) trains hundreds of 1M models for one run. A model so small leaves a core waiting
for Python and a GPU almost idle, so models can be trained several at a time: every parameter of M models is one tensor
[M, ...], a matrix product is a batched one, and each model has its own rows, loss, gradient norm and clipping. On a GPU an
update of all of them is one CUDA graph. `one_by_one`
trains the same models through `transformers` instead; both give the same losses within fp32 rounding.
All start from the same weights, so that losses differ by the mixture alone.

Axes: M models, B rows, T positions, N = B x T, D width, H query heads, K key/value heads, E head width, F FFN width, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask

from train import model
from train.batches.decoder import kv_heads
from train.batches.labels import IGNORE
from train.batches.parts import Batch, BatchFn
from train.kernels import adamw, attention, cuda_graph
from train.kernels.cross_entropy import linear_cross_entropy
from train.loop import on_device
from train.methods import pretrain
from train.monitor import flops

UNDECAYED = ("norm", "bias")  # parameters whose names say this have no weight decay


@dataclass(frozen=True)
class ProxyConfig:
    """How every proxy is trained: RegMix's AdamW with a constant rate after warm-up. `micro_rows` rows of each model are in
    memory at a time; `points` are steps before the last after which losses are measured too; `precision` is "fp32" or "bf16"
    (fp32 weights, bf16 matrix products)."""

    steps: int
    rows_per_step: int
    micro_rows: int
    lr: float = 4e-4
    warmup_steps: int = 100
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    precision: str = "fp32"
    points: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "rows_per_step", "micro_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def losses(
    shape: Mapping,
    batches: Sequence[BatchFn],
    heldout: Mapping[str, Sequence[Batch]],
    config: ProxyConfig,
    *,
    device: torch.device | str = "cpu",
    batched: bool = True,
) -> np.ndarray:
    """Train one proxy on each of `batches`; held-out loss per token of each and each language, float64 [M, L].

    Arguments as of `trajectories`."""
    return trajectories(shape, batches, heldout, config, device=device, batched=batched)[-1]


def trajectories(
    shape: Mapping,
    batches: Sequence[BatchFn],
    heldout: Mapping[str, Sequence[Batch]],
    config: ProxyConfig,
    *,
    device: torch.device | str = "cpu",
    batched: bool = True,
) -> np.ndarray:
    """The same after each of `config.points` and at the end: float64 [P, M, L].

    `shape`: the fields of a Qwen2 config, `vocab_size` among them. `batches[m](rows)` gives rows of model m as
    {"input_ids", "labels" (shifted, -100 = none), "doc_ids"}, each [B, T], positions counted from 0. `heldout`: the batches
    of every language, the same for all models; the order of its keys is that of the columns. `batched` trains all
    models at once, else one after the other. Raises ValueError when a model diverges.
    """
    way = _batched if batched else _one_by_one
    found_PML = way(shape, batches, heldout, config, torch.device(device))
    if not np.isfinite(found_PML).all():
        raise ValueError(
            f"a proxy's loss is not finite after {config.steps} steps; lower its learning rate {config.lr:g}"
        )
    return found_PML


def training_flops(shape: Mapping, vocab_size: int, context: int, tokens: int) -> float:
    """Operations of training one proxy on `tokens`."""
    return tokens * flops.per_token(shape, vocab_size, context)


def _one_by_one(
    shape: Mapping, batches: Sequence[BatchFn], heldout: Mapping, config: ProxyConfig, device: torch.device
) -> np.ndarray:
    """The models of `transformers` with the loss and the optimiser of the training loop, without its checkpoints."""
    rows = []
    for batch_fn in batches:
        net = model.build(dict(shape), config.seed).to(device)
        optimizer = adamw.adamw(
            net.named_parameters(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            weight_decay=config.weight_decay,
        )

        def sums(batch: Batch, net=net) -> Tensor:
            return pretrain.loss(net, batch).loss_sum

        for step in range(config.steps):
            _set_rate(optimizer, step, config)
            net.zero_grad()
            micro = _step_batches(batch_fn, step, config, device)
            count = _labels(micro)
            for batch in micro:
                with _autocast(config, device):
                    parts = pretrain.loss(net, batch)
                (parts.loss_sum / count).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip)
            optimizer.step()
            if step + 1 in (*config.points, config.steps):
                rows.append([float(_heldout_loss(one, sums, config, device)) for one in heldout.values()])
    return np.array(rows, dtype=np.float64).reshape(len(batches), -1, len(heldout)).swapaxes(0, 1)


def _batched(
    shape: Mapping, batches: Sequence[BatchFn], heldout: Mapping, config: ProxyConfig, device: torch.device
) -> np.ndarray:
    stack = Stack(shape, len(batches), config.seed, device)
    decayed = [p for name, p in stack.parameters.items() if not name.endswith(UNDECAYED)]
    others = [p for name, p in stack.parameters.items() if name.endswith(UNDECAYED)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    capture = cuda_graph.for_device(device)
    betas, keeps = (config.beta1, config.beta2), capture is not None
    # a recorded step reads its rate from the device
    lr: Tensor | float = torch.tensor(config.lr, device=device) if keeps else config.lr
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=config.eps, fused=True, capturable=keeps)
    inputs: list[Batch] = []  # of a step: its micro-batches, and the number of labels of each model

    def update() -> None:
        optimizer.zero_grad(set_to_none=not keeps)
        *micro, counts = inputs
        for batch in micro:
            with _autocast(config, device):
                loss_M = stack.losses(batch)
            (loss_M / counts["labels_M"]).sum().backward()
        stack.clip(config.clip)
        optimizer.step()

    repeated, found = cuda_graph.Repeated(update, capture), []
    for step in range(config.steps):
        _set_rate(optimizer, step, config)
        each = [_step_batches(batch_fn, step, config, torch.device("cpu")) for batch_fn in batches]
        new = [
            {name: torch.stack([one[name] for one in micro]) for name in micro[0]} for micro in zip(*each, strict=True)
        ]
        new.append({"labels_M": torch.stack([_labels(micro) for micro in each])})
        if not _put(new, inputs):
            inputs[:] = [{name: value.to(device) for name, value in batch.items()} for batch in new]
            repeated = cuda_graph.Repeated(update, capture)
        repeated()
        if step + 1 in (*config.points, config.steps):
            everywhere = [_heldout_loss(one, stack.same_rows, config, device) for one in heldout.values()]
            found.append(torch.stack(everywhere, 1).double().cpu().numpy())
    return np.stack(found)


def _put(new: list[Batch], into: list[Batch]) -> bool:
    """Copy tensors to where others of their shape lie; False, and nothing is copied, where there are none."""
    if [_shapes(batch) for batch in new] != [_shapes(batch) for batch in into]:
        return False
    for source, target in zip(new, into, strict=True):
        for name, value in on_device(source, next(iter(target.values())).device).items():
            target[name].copy_(value)
    return True


def _shapes(batch: Batch) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in batch.items()}


def _autocast(config: ProxyConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def _labels(batches: Sequence[Batch]) -> Tensor:
    """How many positions have one."""
    return torch.stack([(batch["labels"] != IGNORE).sum() for batch in batches]).sum()


def _set_rate(optimizer: adamw.Optimizer, step: int, config: ProxyConfig) -> None:
    rate = adamw.learning_rate(step, lr=config.lr, steps=config.steps, warmup_steps=config.warmup_steps)
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _step_batches(batch_fn: BatchFn, step: int, config: ProxyConfig, device: torch.device) -> list[Batch]:
    rows = range(step * config.rows_per_step, (step + 1) * config.rows_per_step)
    parts = [batch_fn(list(rows[i : i + config.micro_rows])) for i in range(0, len(rows), config.micro_rows)]
    names = ("input_ids", "labels", "doc_ids", "position_ids")
    return [{name: part[name].to(device) for name in names} for part in parts]


@torch.no_grad()
def _heldout_loss(batches: Sequence[Batch], sums, config: ProxyConfig, device: torch.device) -> Tensor:
    """Loss per token over `batches`, of one model or [M] of all."""
    total, count = torch.zeros((), dtype=torch.float64, device=device), 0
    for batch in batches:
        with _autocast(config, device):
            total = total + sums({name: value.to(device) for name, value in batch.items()}).double()
        count += int((batch["labels"] != IGNORE).sum())
    return total / count


class Stack:
    """M copies of one Qwen2 model that then go their own ways. `parameters`: name -> fp32 tensor [M, ...].

    Matrices lie as [M, in, out]; those of query, key and value are one, as are those of gate and up.
    """

    def __init__(self, shape: Mapping, models: int, seed: int, device: torch.device) -> None:
        net = model.build(dict(shape), seed)
        self.config = net.config
        self.models = models
        self.device = device
        state = {name.removeprefix("model."): value for name, value in net.state_dict().items()}
        single = {"embed_tokens": state["embed_tokens.weight"], "norm": state["norm.weight"]}
        if not self.config.tie_word_embeddings:
            single["lm_head"] = state["lm_head.weight"]
        for layer in range(self.config.num_hidden_layers):
            own = {k.removeprefix(f"layers.{layer}."): v for k, v in state.items() if k.startswith(f"layers.{layer}.")}
            qkv = [f"self_attn.{name}_proj" for name in "qkv"]
            single |= {
                f"{layer}.input_norm": own["input_layernorm.weight"],
                f"{layer}.qkv": torch.cat([own[f"{name}.weight"] for name in qkv]).T,
                f"{layer}.qkv_bias": torch.cat([own[f"{name}.bias"] for name in qkv]),
                f"{layer}.out": own["self_attn.o_proj.weight"].T,
                f"{layer}.ffn_norm": own["post_attention_layernorm.weight"],
                f"{layer}.gate_up": torch.cat([own["mlp.gate_proj.weight"], own["mlp.up_proj.weight"]]).T,
                f"{layer}.down": own["mlp.down_proj.weight"].T,
            }
        self.parameters = {
            name: value.to(device).expand(models, *value.shape).contiguous().requires_grad_()
            for name, value in single.items()
        }

    def losses(self, batch: Batch) -> Tensor:
        """Sum of the losses of each model [M] on its own rows: `batch` holds [M, B, T]."""
        hidden_MND = self.forward(batch["input_ids"], batch["doc_ids"])
        head_MVD = self.parameters["embed_tokens" if self.config.tie_word_embeddings else "lm_head"]
        labels_MN = batch["labels"].flatten(1)
        each = zip(hidden_MND.unbind(), head_MVD.unbind(), labels_MN.unbind(), strict=True)
        return torch.stack([linear_cross_entropy(h_ND, w_VD, l_N)[0] for h_ND, w_VD, l_N in each])

    def same_rows(self, batch: Batch) -> Tensor:
        """Sum of the losses of each model [M] on rows that are the same for all: `batch` holds [B, T]."""
        return self.losses({name: value.expand(self.models, *value.shape) for name, value in batch.items()})

    def forward(self, ids_MBT: Tensor, doc_ids_MBT: Tensor) -> Tensor:
        """The last hidden states [M, N, D], after the final norm."""
        c, p = self.config, self.parameters
        models, rows, length = ids_MBT.shape
        heads, groups = c.num_attention_heads, kv_heads(c)
        width = c.hidden_size // heads
        mask = self._mask(doc_ids_MBT.flatten(0, 1))
        assert c.rope_parameters is not None
        theta = c.rope_parameters["rope_theta"]
        assert theta is not None
        rotate = _rotation(length, width, theta, self.device)
        offsets_M11 = torch.arange(models, device=self.device)[:, None, None] * c.vocab_size
        x_MND = F.embedding(ids_MBT + offsets_M11, p["embed_tokens"].flatten(0, 1)).flatten(1, 2)
        for layer in range(c.num_hidden_layers):
            h_MND = self._norm(x_MND, f"{layer}.input_norm")
            qkv = torch.baddbmm(p[f"{layer}.qkv_bias"].unsqueeze(1), h_MND, p[f"{layer}.qkv"])
            qkv = qkv.view(models * rows, length, heads + 2 * groups, width).transpose(1, 2)
            q, k, v = qkv.split([heads, groups, groups], 1)
            a, _ = attention.attention(None, rotate(q), rotate(k), v, mask)
            x_MND = x_MND + torch.bmm(a.view(models, rows * length, heads * width), p[f"{layer}.out"])
            h_MND = self._norm(x_MND, f"{layer}.ffn_norm")
            gate_MNF, up_MNF = torch.bmm(h_MND, p[f"{layer}.gate_up"]).chunk(2, -1)
            x_MND = x_MND + torch.bmm(F.silu(gate_MNF) * up_MNF, p[f"{layer}.down"])
        return self._norm(x_MND, "norm")

    def clip(self, most: float) -> None:
        """Scale the gradients of each model whose norm is over `most` down to it."""
        gradients = [p.grad.flatten(1) for p in self.parameters.values()]
        norm_M = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in gradients]).norm(dim=0)
        factor_M1 = (most / (norm_M + 1e-6)).clamp(max=1.0).unsqueeze(1)
        for g in gradients:
            g.mul_(factor_M1)

    def _norm(self, x_MND: Tensor, name: str) -> Tensor:
        normed_MND = F.rms_norm(x_MND.float(), x_MND.shape[-1:], eps=self.config.rms_norm_eps)
        return normed_MND * self.parameters[name].unsqueeze(1)

    def _mask(self, doc_ids_BT: Tensor):
        mask, (batch, length) = attention.intra_document(doc_ids_BT), doc_ids_BT.shape
        if attention.backend_of(doc_ids_BT.device) == "flex":
            return create_block_mask(mask, batch, None, length, length, device=doc_ids_BT.device)
        return attention.dense_mask(mask, batch, length)


def _rotation(length: int, width: int, theta: float, device: torch.device):
    """RoPE of positions 0 .. length - 1: a function of heads [..., T, E], the halves of E being the pairs."""
    frequencies = theta ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angles_TE = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies.repeat(2)
    cos_TE, sin_TE = angles_TE.cos(), angles_TE.sin()

    def rotate(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return (x * cos_TE + torch.cat((-second, first), -1) * sin_TE).to(x.dtype)

    return rotate
