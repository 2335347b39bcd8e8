"""GliDe: a draft of one layer that reads the target's own keys and values (Du et al. 2024, arXiv 2402.02082).

    x = E[token]
    x = x + self-attention(norm(x))                own q, k, v, o
    x = x + cross-attention(norm(x))               own q, o; keys and values are those of the target's last layer, rotated there
    x = x + SwiGLU(norm(x))
    logits = W norm(x)

E, W and the last norm are the target's and stay as they are. The rest starts as copies of the target's last layer; only it is
trained and saved. Keys and values of the self-attention depend on the token and its position alone, so what training computes
of them is what drafting computes.

Axes: B row, T position, C key, H query head, K key head, N head width, D width, V the draft's vocabulary.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig

from cluster import storage
from train.batches.decoder import CausalLM, layers_of
from train.kernels import attention

FAMILIES = ("qwen2", "qwen3", "llama")


def fault(config: PreTrainedConfig, method: str = "glide") -> str:
    """Why a model of `config` can have no draft of `method`, as a sentence; empty where it can."""
    if config.model_type not in FAMILIES:
        return f"a draft is made for models of the kinds {', '.join(FAMILIES)}, and this one is of the kind {config.model_type}"
    kinds = getattr(config, "layer_types", None)
    if method == "glide" and kinds and kinds[-1] == "sliding_attention":
        return "a GliDe draft reads all keys of the last layer, which here keeps a window of them; take method: eagle3"
    return ""


class Keys(NamedTuple):
    """Keys and values of the target's last layer, [B, K, C, N] each."""

    key: Tensor
    value: Tensor


class Cross(nn.Module):
    """Attention of the draft to the target's keys: a q and an o of its own."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.q_proj, self.o_proj = copy.deepcopy(like.q_proj), copy.deepcopy(like.o_proj)
        self.q_norm = copy.deepcopy(like.q_norm) if hasattr(like, "q_norm") else nn.Identity()  # Qwen3
        self.head_dim: Any = like.head_dim

    def forward(self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], keys: Keys, seen: Tensor) -> Tensor:
        """`seen` [B, 1, T, C]: a query that sees no key gets 0, not the mean over nothing."""
        q_BTHN = self.q_norm(self.q_proj(x_BTD).unflatten(-1, (-1, self.head_dim)))
        query = _rotated(q_BTHN.transpose(1, 2), *rotation).to(keys.value.dtype)
        some = seen.any(-1, keepdim=True)
        out_BTHN, _ = attention.attention(None, query, keys.key.to(query.dtype), keys.value, seen | ~some)
        out_BTHN = out_BTHN * some[:, 0, :, :, None]
        return self.o_proj(out_BTHN.flatten(2))


class Glide(nn.Module):
    """A draft of `target`, whose parts it uses and neither changes, trains, moves nor saves.

    `vocabulary`: the tokens [V] that it may propose; None is all. Raises ValueError for a family that it does not know.
    """

    vocabulary: Tensor | None
    head_VD: Tensor | None

    def __init__(self, target: CausalLM, vocabulary: Tensor | None = None, final_norm: bool = True) -> None:
        super().__init__()
        if said := fault(target.config):
            raise ValueError(said)
        last: Any = layers_of(target)[-1]
        self.self_norm = copy.deepcopy(last.input_layernorm)
        self.self_attn = copy.deepcopy(last.self_attn)
        self.cross_norm = copy.deepcopy(last.input_layernorm)
        self.cross_attn = Cross(last.self_attn)
        self.mlp_norm = copy.deepcopy(last.post_attention_layernorm)
        self.mlp = copy.deepcopy(last.mlp)
        for p in self.parameters():
            p.data, p.requires_grad = p.data.clone(), True
        self.final_norm = final_norm
        self._of = (target,)  # in a tuple no part of this module
        # not saved with the layer: they are the target's, or lie beside it
        self.register_buffer("vocabulary", vocabulary, persistent=False)
        head = (
            None if vocabulary is None else target.lm_head.weight.detach()[vocabulary.to(target.lm_head.weight.device)]
        )
        self.register_buffer("head_VD", head, persistent=False)

    @property
    def target(self) -> CausalLM:
        return self._of[0]

    @property
    def head(self) -> Tensor:
        """The rows of the target's head that it proposes by, frozen [V, D]."""
        return self.target.lm_head.weight.detach() if self.head_VD is None else self.head_VD

    def forward(  # noqa: PLR0917
        self,
        ids_BT: Tensor,
        position_ids_BT: Tensor,
        seen_self: Tensor,
        keys: Keys,
        seen_keys: Tensor,
        cache: Any = None,
    ) -> Tensor:
        """The last hidden states [B, T, D]. Masks are [B, 1, T, C], of the draft's own keys and of the target's; `cache` has the
        draft's own keys before these tokens, as the layers of `transformers` fill it."""
        body: Any = self.target.model
        with torch.no_grad():
            x_BTD = body.embed_tokens(ids_BT).detach()
            rotation = body.rotary_emb(x_BTD, position_ids_BT)
        mixed, _ = self.self_attn(
            self.self_norm(x_BTD), position_embeddings=rotation, attention_mask=seen_self, past_key_values=cache
        )
        x_BTD = x_BTD + mixed
        x_BTD = x_BTD + self.cross_attn(self.cross_norm(x_BTD), rotation, keys, seen_keys)
        x_BTD = x_BTD + self.mlp(self.mlp_norm(x_BTD))
        return body.norm(x_BTD) if self.final_norm else x_BTD

    def proposed(self, hidden_BD: Tensor) -> Tensor:
        """The token [B] of the target's vocabulary that each hidden state proposes."""
        best_B = (hidden_BD @ self.head.to(hidden_BD.dtype).T).argmax(-1)
        return best_B if self.vocabulary is None else self.vocabulary[best_B]


def save(draft: Glide, folder: str, gamma: int, more: dict | None = None) -> None:
    """Write the draft's own weights, its vocabulary and what it was trained for to `folder` (any URI)."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in draft.state_dict().items()}
    if draft.vocabulary is not None:
        tensors["vocabulary"] = draft.vocabulary.cpu()
    with storage.atomic_folder(folder) as path:
        save_file(tensors, str(Path(path, "draft.safetensors")), {"format": "pt"})
        config = {"method": "glide", "gamma": gamma, "final_norm": draft.final_norm, **(more or {})}
        storage.write_json(str(Path(path, "draft.json")), config)


def load(folder: str, target: CausalLM) -> tuple[Glide, int]:
    """(the draft of `folder` for `target`, gamma). Raises ValueError when its tensors are not of this target's shape."""
    path = storage.localize(folder)
    config = storage.read_json(storage.join(folder, "draft.json"))
    tensors = load_file(str(Path(path, "draft.safetensors")))
    draft = Glide(target, tensors.pop("vocabulary", None), config["final_norm"])
    wanted = {name: tuple(value.shape) for name, value in draft.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wrong := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise ValueError(f"{folder}: it is a draft for another model: {wrong[0]} is of another shape, or is not there.")
    draft.load_state_dict(tensors)
    like = target.model.embed_tokens.weight
    return draft.to(like.device, like.dtype).eval(), config["gamma"]


def _rotated(x_BHTN: Tensor, cos_BTN: Tensor, sin_BTN: Tensor) -> Tensor:
    first, second = x_BHTN.chunk(2, -1)
    return x_BHTN * cos_BTN[:, None] + torch.cat((-second, first), -1) * sin_BTN[:, None]
