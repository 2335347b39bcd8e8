"""EAGLE-3: a draft of one layer that reads hidden states of the target from three depths (Li et al. 2025, arXiv 2503.01840).

    row t, step 0: the token after position t, and fc of the target's states at t; it proposes the token after that
    row t, step k: the token that step k - 1 proposed, and that step's own state instead of the target's

The layer is Llama's, with queries, keys and values from both inputs, each normed, side by side. Training goes through `STEPS`
steps, so that it learns from its own states as it will have to (training-time test): a row of step k sees the rows of step 0 up
to its own, and of the later steps its own alone. Tokens of later steps are those of the answer.

`save` writes the layout that vLLM reads by `speculators_model_type` (vllm-project/speculators, models/eagle3): tensors `fc`,
`layers.0`, `norm`, `lm_head`, `d2t` (what to add to a token of the draft to have the target's) and `t2d` (which of the target's
tokens the draft has). The embedding is the target's, and vLLM takes it from there.

Axes: B row, T position, C key, D width, V the draft's vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

from cluster import storage
from train.batches.decoder import CausalLM, kv_heads, layers_of
from train.batches.labels import IGNORE
from train.batches.parts import Batch, LossParts
from train.drafts.glide import Keys, fault
from train.drafts.speculative import Cache
from train.kernels import attention
from train.kernels.cross_entropy import linear_cross_entropy

STEPS = 3  # of the training-time test
FIELDS = (
    *(
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    ),
    *("vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "attention_bias", "hidden_act"),
)
"""Of the layer's config, what vLLM is told."""


def depths(layers: int) -> list[int]:
    """The three layers whose input is read: early, middle and late, as vLLM has them by default; of a small model a quarter, a
    half and three quarters of the way."""
    return [2, layers // 2, layers - 3] if layers >= 8 else [layers * k // 4 for k in (1, 2, 3)]


class Eagle3(nn.Module):
    """A draft of `target`, whose embedding it uses. `vocabulary`: the tokens [V] that it may propose, ascending."""

    vocabulary: Tensor

    def __init__(self, target: CausalLM, vocabulary: Tensor) -> None:
        super().__init__()
        own, last = target.config, layers_of(target)[-1]
        if said := fault(own, "eagle3"):
            raise ValueError(said)
        width, head_dim = own.hidden_size, last.self_attn.head_dim
        self.config = LlamaConfig(
            hidden_size=width,
            intermediate_size=own.intermediate_size,
            num_hidden_layers=1,
            num_attention_heads=own.num_attention_heads,
            num_key_value_heads=kv_heads(own),
            head_dim=head_dim,
            vocab_size=own.vocab_size,
            max_position_embeddings=own.max_position_embeddings,
            rms_norm_eps=own.rms_norm_eps,
            rope_parameters=copy.deepcopy(own.rope_parameters),
            attention_bias=False,
        )
        self.config._attn_implementation = attention.NAME
        layer: Any = LlamaDecoderLayer(self.config, 0)
        layer.hidden_norm = LlamaRMSNorm(width, eps=own.rms_norm_eps)
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(
                layer.self_attn, name, nn.Linear(2 * width, getattr(layer.self_attn, name).out_features, bias=False)
            )
        self.fc = nn.Linear(3 * width, width, bias=False)
        self.layers = nn.ModuleList([layer])
        self.norm = LlamaRMSNorm(width, eps=own.rms_norm_eps)
        self.lm_head = nn.Linear(width, len(vocabulary), bias=False)
        like = target.lm_head.weight
        with torch.no_grad():
            for linear in (m for m in self.modules() if isinstance(m, nn.Linear)):
                nn.init.normal_(linear.weight, std=own.initializer_range)
            self.lm_head.weight.copy_(like[vocabulary.to(like.device)])
            self.norm.weight.copy_(target.model.norm.weight)
        self.register_buffer("vocabulary", vocabulary, persistent=False)
        self._of = (target,)
        self.to(like.device, like.dtype)

    @property
    def target(self) -> CausalLM:
        return self._of[0]

    def forward(self, ids_BT: Tensor, state_BTD: Tensor, position_ids_BT: Tensor, seen: Tensor, cache: Any) -> Tensor:
        """The states [B, T, D] of rows: what the next step takes, and, normed, the head."""
        layer: Any = self.layers[0]
        body: Any = self.target.model
        with torch.no_grad():
            x_BTD = body.embed_tokens(ids_BT).detach()
            rotation = body.rotary_emb(x_BTD, position_ids_BT)
        both = torch.cat((layer.input_layernorm(x_BTD), layer.hidden_norm(state_BTD)), -1)
        mixed, _ = layer.self_attn(both, position_embeddings=rotation, attention_mask=seen, past_key_values=cache)
        state_BTD = state_BTD + mixed
        return state_BTD + layer.mlp(layer.post_attention_layernorm(state_BTD))

    def proposed(self, state_BD: Tensor) -> Tensor:
        """The token [B] of the target's vocabulary that each state proposes."""
        return self.vocabulary[self.lm_head(self.norm(state_BD)).argmax(-1)]


class States:
    """What goes into the three layers of a target, side by side, while it reads."""

    def __init__(self, target: CausalLM) -> None:
        layers = layers_of(target)
        self.found: dict[int, Tensor] = {}
        self.at = depths(len(layers))
        self._hooks = [
            layers[i].register_forward_pre_hook(self._keep(i), with_kwargs=True) for i in dict.fromkeys(self.at)
        ]

    def _keep(self, i: int) -> Callable[[nn.Module, tuple, dict], None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self.found[i] = args[0] if args else kwargs["hidden_states"]

        return hook

    def joined(self) -> Tensor:
        """[B, T, 3 D]."""
        return torch.cat([self.found[i] for i in self.at], -1)

    def select(self, texts: Tensor) -> None:
        self.found = {i: x[texts] for i, x in self.found.items()}

    def __enter__(self) -> States:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


class Grown:
    """The keys of all steps so far, one after another."""

    def __init__(self) -> None:
        self.keys: Keys | None = None

    def update(self, key: Tensor, value: Tensor, *_: object, **__: object) -> Keys:
        if self.keys is not None:
            key, value = (torch.cat(pair, 2) for pair in zip(self.keys, (key, value), strict=True))
        self.keys = Keys(key, value)
        return self.keys


def read(target: CausalLM, batch: Batch) -> Tensor:
    """The target's states [B, T, 3 D] for packed rows."""
    with torch.no_grad(), States(target) as states:
        target.model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], doc_ids=batch["doc_ids"], use_cache=False
        )
        return states.joined()


def loss(draft: Eagle3, batch: Batch, steps: int = STEPS) -> LossParts:
    """Cross-entropy of the answer's tokens that each step proposes, summed over the steps, for batches of
    `train.drafts.learn.batch_fn`. What a step does not reach, near the end of a text, is not counted by it; `count` is that of
    the labels. Metrics: `agreed_1`, `agreed_2`, …: how often the step's first choice is the token."""
    doc_ids_BT, labels_BT = batch["doc_ids"], batch["labels"]
    batch_size, length = doc_ids_BT.shape
    states_BT = read(draft.target, batch)
    within = attention.dense_mask(attention.intra_document(doc_ids_BT), batch_size, length, doc_ids_BT.device)
    alone = torch.eye(length, dtype=torch.bool, device=doc_ids_BT.device).expand_as(within)
    state_BTD, cache, seen = draft.fc(states_BT), Grown(), within
    total, metrics = state_BTD.sum() * 0, {}
    for step in range(steps):
        # row t reads the token at t + step + 1 and proposes the one behind it, as long as both are of its text
        ids_BT, label_BT = (torch.roll(x, -step - 1, 1) for x in (batch["input_ids"], labels_BT))
        there = torch.roll(doc_ids_BT, -step - 1, 1) == doc_ids_BT
        there[:, length - step - 1 :] = False
        label_BT = torch.where(there, label_BT, IGNORE)
        state_BTD = draft(ids_BT, state_BTD, batch["position_ids"] + step, seen, cache)
        normed_BTD = draft.norm(state_BTD)
        part, _ = linear_cross_entropy(normed_BTD, draft.lm_head.weight, label_BT)
        total = total + part
        with torch.no_grad():
            best = (normed_BTD[label_BT != IGNORE] @ draft.lm_head.weight.T).argmax(-1)
            metrics[f"agreed_{step + 1}"] = (best == label_BT[label_BT != IGNORE]).sum()
        seen = torch.cat((seen, alone), -1)
    return LossParts(total, (labels_BT != IGNORE).sum(), metrics)


def save(draft: Eagle3, folder: str, gamma: int, model: str) -> None:
    """Write the folder that vLLM reads (docs/serving.md). `model` is the name or place of the target, `gamma` how many tokens
    are proposed at a time."""
    size = draft.config.vocab_size
    words = draft.vocabulary.cpu()
    t2d = torch.zeros(size, dtype=torch.bool)
    t2d[words] = True
    tensors = {name: value.detach().cpu().contiguous() for name, value in draft.state_dict().items()}
    tensors |= {"d2t": words - torch.arange(len(words)), "t2d": t2d}
    config = {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "draft_vocab_size": len(words),
        "eagle_aux_hidden_state_layer_ids": depths(draft.target.config.num_hidden_layers),
        "norm_before_residual": False,
        "target_hidden_size": None,
        "transformer_layer_config": {key: getattr(draft.config, key) for key in ("model_type", *FIELDS)},
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [
                {
                    "proposal_type": "greedy",
                    "speculative_tokens": gamma,
                    "accept_tolerance": 0.0,
                    "verifier_accept_k": 1,
                }
            ],
            "verifier": {"name_or_path": model, "architectures": [type(draft.target).__name__]},
        },
    }
    with storage.atomic_folder(folder) as path:
        save_file(tensors, str(Path(path, "model.safetensors")), {"format": "pt"})
        storage.write_json(str(Path(path, "config.json")), config)


def load(folder: str, target: CausalLM) -> tuple[Eagle3, int]:
    """(the draft of `folder` for `target`, gamma). Raises ValueError when its tensors are not of this target's shape."""
    tensors = load_file(str(Path(storage.localize(folder), "model.safetensors")))
    config = storage.read_json(storage.join(folder, "config.json"))
    offsets = tensors.pop("d2t")
    tensors.pop("t2d")
    draft = Eagle3(target, torch.arange(len(offsets)) + offsets)
    try:
        draft.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{folder}: it is a draft for another model: {str(error).splitlines()[-1].strip()}") from error
    gamma = config["speculators_config"]["proposal_methods"][0]["speculative_tokens"]
    return draft.eval(), gamma


class Eagle3Proposer:
    """Proposes by an EAGLE-3 draft, whose keys it keeps. It listens to what the target reads, which always comes before."""

    def __init__(self, draft: Eagle3) -> None:
        self.draft = draft
        self.states = States(draft.target)
        self.cache = Cache(0)
        self.at_BT = torch.zeros(0, 0, dtype=torch.int64)  # where the target's last pass read

    def read(self, text_BC: Tensor, length_B: Tensor, places: int) -> None:
        self.cache = Cache(places)
        self.at_BT = torch.arange(text_BC.shape[1], device=text_BC.device).expand_as(text_BC)

    def propose(self, text_BC: Tensor, length_B: Tensor, keys: Keys, gamma: int) -> Tensor:
        draft, at_BT, b_B = self.draft, self.at_BT, torch.arange(len(length_B), device=length_B.device)
        # rows behind the text, of proposals that were wrong, are written over before any other sees them
        ids_BT, state_BTD = text_BC.gather(1, at_BT + 1), draft.fc(self.states.joined())
        row_B = length_B - 2 - at_BT[:, 0]
        found = []
        for _ in range(gamma):
            self.cache.at_BT = at_BT
            state_BTD = draft(ids_BT, state_BTD, at_BT, self.cache.seen(at_BT), self.cache)[b_B, row_B][:, None]
            found.append(draft.proposed(state_BTD[:, 0]))
            ids_BT, at_BT, row_B = found[-1][:, None], at_BT[b_B, row_B][:, None] + 1, torch.zeros_like(row_B)
        self.at_BT = (length_B - 1)[:, None] + torch.arange(gamma + 1, device=length_B.device)
        return torch.stack(found, 1)

    def grow(self, places: int) -> None:
        self.cache.grow(places)

    def select(self, texts: Tensor) -> None:
        self.cache.select(texts)
        self.at_BT = self.at_BT[texts]
        self.states.select(texts)
