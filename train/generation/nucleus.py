"""One token of each row from its nucleus: the smallest set of most probable tokens that holds `top_p` of
softmax(logits / temperature) (Holtzman et al. 2020), whose distribution function is inverted at u. Temperature 0 is the argmax.

Axes: S row, V vocabulary, K tokens that are looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = {"cpu": 1024, "cuda": 4096}
"""Most probable tokens that are looked at first: a nucleus is mostly small, and to sort a whole vocabulary takes longer than the
model; on a GPU a wider one costs more than a wider look."""


def draw(logits_SV: Tensor, u_S: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token [S] of each row; rows with a wide nucleus are sorted, so it waits for the device."""
    token_S, wide_S = draw_near(logits_SV, u_S, temperature, top_p)
    if wide_S.any():
        token_S[wide_S] = draw_whole(logits_SV[wide_S], u_S[wide_S], temperature, top_p)
    return token_S


def draw_near(logits_SV: Tensor, u_S: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """(tokens [S], whether the nucleus of each is wider than `NEAR` tokens, so that its token is not the one)."""
    if temperature == 0:
        return logits_SV.argmax(-1), torch.zeros_like(u_S, dtype=torch.bool)
    p_SV = torch.softmax(logits_SV / temperature, -1)
    near = NEAR.get(p_SV.device.type, NEAR["cuda"])
    top_SK = p_SV.topk(min(near, p_SV.shape[-1]), -1)
    token_S = _invert(top_SK.values, top_SK.indices, u_S, top_p)
    if near >= p_SV.shape[-1]:
        return token_S, torch.zeros_like(u_S, dtype=torch.bool)
    return token_S, top_SK.values.double().sum(-1) < top_p


def draw_whole(logits_SV: Tensor, u_S: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token [S] of each row, however wide its nucleus."""
    if temperature == 0:
        return logits_SV.argmax(-1)
    sorted_SV = torch.softmax(logits_SV / temperature, -1).sort(stable=True, dim=-1, descending=True)
    return _invert(sorted_SV.values, sorted_SV.indices, u_S, top_p)


def _invert(p_SK: Tensor, token_SK: Tensor, u_S: Tensor, top_p: float) -> Tensor:
    """The token [S] at u of each row's nucleus, given its tokens in descending order of probability."""
    p_SK = p_SK.double()
    cumulative_SK = p_SK.cumsum(-1)
    # A token is in the nucleus when those before it hold less than top_p; so the first always is.
    kept_S1 = (cumulative_SK - p_SK < top_p).sum(-1, keepdim=True)
    mass_S1 = cumulative_SK.gather(-1, kept_S1 - 1)
    rank_S1 = torch.searchsorted(cumulative_SK, u_S.double().unsqueeze(-1) * mass_S1, right=True)
    return token_SK.gather(-1, rank_S1.minimum(kept_S1 - 1)).squeeze(-1)
