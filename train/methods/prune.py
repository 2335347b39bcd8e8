"""Width pruning of decoders with grouped queries by learned masks (Sheared LLaMA, Xia et al. 2023; Sailor2 §6.3).

Hidden width, query heads and FFN width lose units until a target shape is met exactly; layers and KV heads all stay,
and each KV group loses equally many query heads. A unit's mask is a hard concrete variable (Louizos et al. 2018):

    s = sigmoid( (ln u - ln(1 - u) + log_alpha) / tau ),  u ~ U(0, 1);   z = clip(1.2 s - 0.1, 0, 1);   tau = 2/3
    P(z > 0) = sigmoid( log_alpha - tau ln(0.1 / 1.1) )

With e = mean of P(z > 0) over the units of a dimension and t its target share, which moves from 1 to the target during
warm-up, the loss is  L + sum over dimensions of  lambda_1 (e - t) + lambda_2 (e - t)^2,  averaged over layers; masks
descend and both lambdas ascend. At the end masks are deterministic: soft scores sigmoid(0.8 log_alpha / tau), the
lowest ones 0.

Where masks act: hidden z on all that is written to the residual stream (embedding, o_proj, down_proj); RMSNorm averages
over the dimensions that survive; head z on the attention output before o_proj; FFN z before down_proj. With tied
embeddings the head is the masked embedding, so the final norm's output has z too; an untied head is not scaled, for its
input already comes from masked dimensions (the reference code scales it once more). Slicing multiplies the masks into
the weights (train/methods/slices.py). Masks act on activations, so weights may be sharded.

Axes: B, T, D hidden width, L layer, K KV head, G query heads of a group, N head width, F FFN width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from train.batches.decoder import CausalLM, kv_heads, layers_of
from train.batches.parts import Batch, LossFn, LossParts
from train.kernels import attention
from train.methods import slices
from train.methods.prune_target import Target, head_width
from train.methods.slices import Masks
from train.monitor.heldout_text import Validation

TEMPERATURE = 2 / 3
LOW, HIGH = -0.1, 1.1
_CLAMP = math.log(100.0)
_START = 5.0
_NOISE = 1e-6


def sample(log_alpha: Tensor, u: Tensor) -> Tensor:
    """Hard concrete masks for uniform noise `u` of the same shape; differentiable in `log_alpha`."""
    s = torch.sigmoid((u.log() - (1 - u).log() + log_alpha) / TEMPERATURE)
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def p_open(log_alpha: Tensor) -> Tensor:
    """P(z > 0) of hard concrete masks."""
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))


def deterministic(log_alpha: Tensor, keep: int) -> Tensor:
    """Soft scores along the last axis, all but the `keep` highest set to 0; of equal ones the first stay."""
    soft = torch.sigmoid(log_alpha * 0.8 / TEMPERATURE)
    order = soft.argsort(stable=True, dim=-1, descending=True)
    return soft.scatter(-1, order[..., keep:], 0.0)


def check_layers(model: CausalLM) -> None:
    """Raises ValueError where a layer of `model` is not of the build that masks are folded into: two RMSNorms whose gain is a
    plain factor, q, k, v and o, gate, up and down, each a matrix that may have a bias; norms of queries and keys of one head."""
    kind, width = model.config.model_type, head_width(model.config)
    wanted = {f"self_attn.{name}_proj" for name in "qkvo"} | {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    layer = layers_of(model)[0]
    linear = {name for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    norms = {name: module for name, module in layer.named_modules() if name.endswith("norm")}
    of_heads = {name: norm for name, norm in norms.items() if name.startswith("self_attn.")}
    if odd := linear ^ wanted:
        raise ValueError(f"train.prune: a model of kind {kind} cannot be pruned, for its layers differ in {min(odd)}.")
    if odd := norms.keys() - of_heads.keys() ^ {"input_layernorm", "post_attention_layernorm"}:
        raise ValueError(f"train.prune: a model of kind {kind} cannot be pruned, for its layers differ in {min(odd)}.")
    for name, norm in {"norm": model.model.norm, **norms}.items():
        plain = len(list(norm.parameters())) == 1 and hasattr(norm, "variance_epsilon")
        if not plain or (name in of_heads and norm.weight.numel() != width):
            raise ValueError(
                f"train.prune: a model of kind {kind} cannot be pruned, for its {name} is no plain RMSNorm."
            )


class Pruning:
    """Learned masks on `model`, to be trained by the loop together with it.

    `fit(model, batch_fn, pruning.loss_fn(pretrain.loss), config, uri, extra_params=pruning.extra_params(),
    after_step=pruning.after_step)`, then what `pruning.final()` leaves is the small model, which a further run heals.
    The hooks on the model stay; set `pruning.masks` to None to see the model without masks. Noise comes from torch's
    global generator, which the loop seeds each step. `device` is where the model is trained; left out, where it is.
    """

    def __init__(
        self, model: CausalLM, target: Target, warmup_steps: int, seed: int = 0, device: torch.device | None = None
    ) -> None:
        target.check(model.config)
        check_layers(model)
        config, device = model.config, device or next(model.parameters()).device
        layers, groups = config.num_hidden_layers, kv_heads(config)
        shapes = {
            "hidden": (config.hidden_size,),
            "heads": (layers, groups, config.num_attention_heads // groups),
            "ffn": (layers, config.intermediate_size),
        }
        generator = torch.Generator().manual_seed(seed)
        self.log_alpha = {
            name: nn.Parameter((_START + 0.01 * torch.randn(shape, generator=generator)).to(device))
            for name, shape in shapes.items()
        }
        self.keep = {
            "hidden": target.hidden_size,
            "heads": target.num_attention_heads // groups,
            "ffn": target.intermediate_size,
        }
        self.lambda_1 = nn.Parameter(torch.zeros(len(shapes), device=device))
        self.lambda_2 = nn.Parameter(torch.zeros(len(shapes), device=device))
        self.model, self.target, self.warmup_steps = model, target, warmup_steps
        self.masks: Masks | None = None
        self._clamp()
        self._hook()

    def extra_params(self, mask_lr: float = 1.0, lambda_lr: float = 1.0) -> list[dict]:
        """Optimiser groups for `train.loop.fit`. The lambdas ascend. Both rates stay as they are: by a schedule of the weights
        that ends near 0 the masks would stop before they are at their target."""
        masks, lambdas = {f"log_alpha_{n}": p for n, p in self.log_alpha.items()}, (self.lambda_1, self.lambda_2)
        return [
            {"params": masks, "lr": mask_lr, "constant_lr": True},
            {
                "params": dict(zip(("lambda_1", "lambda_2"), lambdas, strict=True)),
                "lr": lambda_lr,
                "maximize": True,
                "constant_lr": True,
            },
        ]

    def after_step(self, step: int, model: CausalLM) -> None:
        self._clamp()

    @torch.no_grad()
    def _clamp(self) -> None:
        for p in self.log_alpha.values():
            p.clamp_(-_CLAMP, _CLAMP)

    def target_share(self, name: str, step: int) -> float:
        """Share of a dimension's units that should be open at update `step`: linear from 1 in the warm-up."""
        final = self.keep[name] / self.log_alpha[name].shape[-1]
        return 1 - (1 - final) * min(step / self.warmup_steps, 1.0) if self.warmup_steps else final

    def lagrangian(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """(penalty, expected share of open units by dimension)."""
        penalty, shares = torch.zeros((), device=self.lambda_1.device), {}
        for i, (name, log_alpha) in enumerate(self.log_alpha.items()):
            share = p_open(log_alpha).mean(-1)  # one value a layer (and KV group), each of which must end at the target
            gap = share - self.target_share(name, step)
            penalty = penalty + self.lambda_1[i] * gap.mean() + self.lambda_2[i] * gap.square().mean()
            shares[f"{name}_share"] = share.mean()
        return penalty, shares

    def loss_fn(self, task_loss: LossFn[CausalLM]) -> LossFn[CausalLM]:
        """`task_loss` of the masked model plus the Lagrangian. Metrics: shares and targets of open units, penalty, and the
        `task_loss` alone, as the sum rises with the lambdas."""

        def loss(model: CausalLM, batch: Batch) -> LossParts:
            u = {name: torch.rand_like(p).clamp(_NOISE, 1 - _NOISE) for name, p in self.log_alpha.items()}
            self.masks = Masks(*(sample(p, u[name]) for name, p in self.log_alpha.items()))
            loss_sum, count, metrics, rows = task_loss(model, batch)
            penalty, shares = self.lagrangian(int(batch["step"]))
            targets = {f"{name}_target": self.target_share(name, int(batch["step"])) for name in self.keep}
            # The loop divides by the step's count; what does not depend on it is multiplied by the micro-batch's own.
            terms: dict[str, Tensor | float] = {**shares, **targets, "penalty": penalty}
            own = {name: torch.as_tensor(value * count) for name, value in terms.items()}
            own["task_loss"] = loss_sum.detach()
            return LossParts(loss_sum + own["penalty"], count, {**metrics, **own}, rows)

        return loss

    @torch.no_grad()
    def final(self) -> Masks:
        """The deterministic masks: in every layer and group exactly as many units as the target are not 0."""
        return Masks(*(deterministic(p.detach(), self.keep[name]) for name, p in self.log_alpha.items()))

    @torch.no_grad()
    def open_by_layer(self) -> list[float]:
        """The expected share of open FFN units in each layer. Each keeps equally many in the end; these say where they were
        wanted."""
        return [round(share, 4) for share in p_open(self.log_alpha["ffn"]).mean(-1).tolist()]

    def _hook(self) -> None:
        body = self.model.model
        tied = self.model.lm_head.weight is body.embed_tokens.weight
        n = head_width(self.model.config)

        def write(module: nn.Module, args: tuple, output_BTD: Tensor) -> Tensor | None:
            return None if self.masks is None else output_BTD * self.masks.hidden_D

        def norm(scale_output: bool) -> Callable:
            def hook(module: nn.Module, args: tuple, output_BTD: Tensor) -> Tensor | None:
                if self.masks is None:
                    return None
                x_BTD, z_D = args[0].float(), self.masks.hidden_D
                mean_BT1 = x_BTD.square().sum(-1, keepdim=True) / (z_D > 0).sum()
                x_BTD = x_BTD * torch.rsqrt(mean_BT1 + module.variance_epsilon)
                out_BTD = module.weight * x_BTD.to(args[0].dtype)
                return out_BTD * z_D if scale_output else out_BTD

            return hook

        def heads(layer: int) -> Callable:
            def hook(module: nn.Module, args: tuple) -> tuple | None:
                if self.masks is None:
                    return None
                return (args[0] * self.masks.heads_LKG[layer].flatten().repeat_interleave(n),)

            return hook

        def ffn(layer: int) -> Callable:
            def hook(module: nn.Module, args: tuple) -> tuple | None:
                return None if self.masks is None else (args[0] * self.masks.ffn_LF[layer],)

            return hook

        body.embed_tokens.register_forward_hook(write)
        body.norm.register_forward_hook(norm(scale_output=tied))
        for i, layer in enumerate(layers_of(self.model)):
            layer.input_layernorm.register_forward_hook(norm(scale_output=False))
            layer.post_attention_layernorm.register_forward_hook(norm(scale_output=False))
            layer.self_attn.o_proj.register_forward_pre_hook(heads(i))
            layer.self_attn.o_proj.register_forward_hook(write)
            layer.mlp.down_proj.register_forward_pre_hook(ffn(i))
            layer.mlp.down_proj.register_forward_hook(write)

    @torch.no_grad()
    def sliced(self) -> CausalLM:
        """The pruned model, a plain Hugging Face one with our attention, of a model that is whole in memory; of one that is
        not, `train.methods.slices.slice_checkpoint` writes it."""
        masks, width = self.final(), head_width(self.model.config)
        config = slices.config_of(self.model.config, self.target)
        small = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)
        small = small.to(self.model.lm_head.weight)
        attention.attach(small)
        state = {name: slices.sliced(name, p, masks, width) for name, p in self.model.named_parameters()}
        for name, p in small.named_parameters():
            p.copy_(state.pop(name))
        assert not state, f"the small model has no place for {min(state)}"
        return small


class ThroughMasks:
    """Held-out text read while masks are learnt: before them whole, later by the model that the masks would leave now."""

    def __init__(self, pruning: Pruning, within: Validation) -> None:
        self.pruning, self.within = pruning, within

    @property
    def start(self) -> dict | None:
        return self.within.start

    @start.setter
    def start(self, found: dict | None) -> None:
        self.within.start = found

    def begin(self, model: CausalLM, precision: str = "fp32") -> None:
        self.pruning.masks = None
        self.within.begin(model, precision)

    def due(self, step: int, steps: int) -> bool:
        return self.within.due(step, steps)

    def measure(self, model: CausalLM, precision: str = "fp32") -> dict:
        self.pruning.masks = self.pruning.final()
        return self.within.measure(model, precision)
