"""Greedy decoding with a draft: the text of greedy decoding, with fewer passes of the target.

    repeat: the draft proposes gamma tokens; the target reads its last token and these in one pass, so it says the next token
            after each; they are accepted as long as they are what it says, and what it says after the last of them is kept too

Each pass gives 1 to gamma + 1 tokens. In exact arithmetic, and in fp32 or fp64 but for ties in the last bit, the text is that
of greedy decoding. In bf16 a pass over gamma + 1 tokens rounds unlike one over a single token, so where two tokens are as good
as equal the text may go another way (`gap`).

A key of position p of a text lies at place p of the cache. So to take tokens back is nothing: their places are written over
before anything sees them. Texts of a batch accept unequal numbers and simply stand at unequal positions.

Axes: B text, T token of a pass, C place, K key head, N head width, G = gamma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from train.batches.decoder import CausalLM
from train.drafts.glide import Glide, Keys
from train.generation.decode import decode, read
from train.kernels import attention, head

ROOM = 64
"""Places by which a cache grows."""


class Cache:
    """Keys and values of each layer, [B, K, C, N]; of token t of text b at place `at_BT[b, t]`."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.layers: dict[int, Keys] = {}
        self.at_BT = torch.zeros(0, 0, dtype=torch.int64)

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        if layer not in self.layers:
            batch, heads, width = key.shape[0], key.shape[1], key.shape[3]
            # zeros: what is masked must be a number
            self.layers[layer] = Keys(*(x.new_zeros(batch, heads, self.places, width) for x in (key, value)))
        b_B1 = torch.arange(len(key), device=key.device)[:, None]
        for kept, new in zip(self.layers[layer], (key, value), strict=True):
            kept[b_B1, :, self.at_BT] = new.transpose(1, 2).to(kept.dtype)
        return self.layers[layer]

    def get_seq_length(self, *_: object) -> int:
        """`transformers` counts positions from here where it is given none."""
        return 0

    def grow(self, places: int) -> None:
        more, self.places = places - self.places, places
        pad = torch.nn.functional.pad
        self.layers = {i: Keys(*(pad(x, (0, 0, 0, more)) for x in kv)) for i, kv in self.layers.items()}

    def select(self, texts: Tensor) -> None:
        self.layers = {i: Keys(*(x[texts] for x in kv)) for i, kv in self.layers.items()}

    def seen(self, position_BT: Tensor) -> Tensor:
        """[B, 1, T, C]: places up to each position."""
        at_C = torch.arange(self.places, device=position_BT.device)
        return (at_C <= position_BT[:, :, None])[:, None]


class Proposer(Protocol):
    """What proposes tokens; `length_B` is how many tokens each text has, of which the target has read all but the last."""

    def read(self, text_BC: Tensor, length_B: Tensor, places: int) -> None:
        """The prompts, once; rows are filled up behind their length."""

    def propose(self, text_BC: Tensor, length_B: Tensor, keys: Keys, gamma: int) -> Tensor:
        """gamma tokens [B, G] to follow each text. `keys` are those of the target's last layer."""

    def grow(self, places: int) -> None: ...
    def select(self, texts: Tensor) -> None: ...


class GlideProposer:
    """Proposes by a GliDe draft, whose own keys it keeps."""

    def __init__(self, draft: Glide) -> None:
        self.draft = draft
        self.cache = Cache(0)

    def read(self, text_BC: Tensor, length_B: Tensor, places: int) -> None:
        self.cache = Cache(places)
        at_BC = torch.arange(text_BC.shape[1], device=text_BC.device).expand_as(text_BC)
        body: Any = self.draft.target.model
        attn: Any = self.draft.self_attn
        # its keys depend on tokens and positions alone, so the rest of the layer is left out
        x_BCD = body.embed_tokens(text_BC)
        self.cache.at_BT = at_BC
        attn(
            self.draft.self_norm(x_BCD),
            position_embeddings=body.rotary_emb(x_BCD, at_BC),
            attention_mask=self.cache.seen(at_BC),
            past_key_values=self.cache,
        )

    def propose(self, text_BC: Tensor, length_B: Tensor, keys: Keys, gamma: int) -> Tensor:
        # After gamma accepted tokens two were never read: the last of them, and the target's own. A text of one token reads
        # it twice.
        at_BT = (length_B[:, None] + torch.arange(-2, 0, device=length_B.device)).clamp(min=0)
        token_BT = text_BC.gather(1, at_BT)
        known = torch.arange(keys.key.shape[2], device=length_B.device) < (length_B - 1)[:, None]
        found = []
        for _ in range(gamma):
            self.cache.at_BT = at_BT
            seen_keys = known[:, None, None].expand(-1, 1, at_BT.shape[1], -1)
            hidden = self.draft(token_BT, at_BT, self.cache.seen(at_BT), keys, seen_keys, self.cache)
            found.append(self.draft.proposed(hidden[:, -1]))
            token_BT, at_BT = found[-1][:, None], at_BT[:, -1:] + 1
        return torch.stack(found, 1)

    def grow(self, places: int) -> None:
        self.cache.grow(places)

    def select(self, texts: Tensor) -> None:
        self.cache.select(texts)


class Nothing:
    """Proposes nothing, with gamma 0: greedy decoding, a token a pass."""

    def read(self, text_BC: Tensor, length_B: Tensor, places: int) -> None: ...

    def propose(self, text_BC: Tensor, length_B: Tensor, keys: Keys, gamma: int) -> Tensor:
        return text_BC.new_zeros(len(text_BC), gamma)

    def grow(self, places: int) -> None: ...
    def select(self, texts: Tensor) -> None: ...


@dataclass
class Spoken:
    """The answer to one prompt: its tokens, with the one that ended it, and how many proposals of each pass were accepted and
    are in it. The first token is of the pass that reads the prompt, which none counts."""

    ids: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    @property
    def tokens_per_call(self) -> float:
        """Tokens that a pass of the target yields, between 1 and gamma + 1."""
        return (len(self.ids) - 1) / len(self.accepted) if self.accepted else 1.0


class Target:
    """The model that says which tokens are right, with its keys."""

    def __init__(self, model: CausalLM, places: int) -> None:
        self.model, self.cache = model, Cache(places)
        self.windows = attention.windows(model.config)
        self.last = model.config.num_hidden_layers - 1

    @property
    def keys(self) -> Keys:
        return self.cache.layers[self.last]

    def read(self, ids_BT: Tensor, at_BT: Tensor) -> Tensor:
        """The hidden states [B, T, D] of tokens at these positions; their keys are kept."""
        self.cache.at_BT = at_BT
        seen, at_C = self.cache.seen(at_BT), torch.arange(self.cache.places, device=at_BT.device)
        masks = {w: seen if w is None else seen & (at_C > at_BT[:, None, :, None] - w) for w in self.windows}
        return read(self.model, ids_BT, at_BT, masks, self.cache)


@torch.no_grad()
def speculate(  # noqa: PLR0917
    model: CausalLM,
    proposer: Proposer,
    prompts: list[list[int]],
    stop: list[int],
    most: int,
    gamma: int,
    hear: Callable[[int, list[int]], None] | None = None,
) -> list[Spoken]:
    """The greedy answer to each prompt of at least one token, of at most `most` tokens or up to a token of `stop`.

    `gamma` tokens are proposed at a time. `hear` is called with the number of a prompt and each piece of its answer, as soon
    as there is one."""
    device = next(model.parameters()).device
    longest, size = max(map(len, prompts)), len(prompts)
    places = longest + min(most, ROOM) + gamma + 1
    target, spoken = Target(model, places), [Spoken() for _ in prompts]
    text_BC = torch.zeros(size, longest + most + gamma + 2, dtype=torch.int64, device=device)
    for b, ids in enumerate(prompts):
        text_BC[b, : len(ids)] = torch.tensor(ids)
    length_B = torch.tensor([len(ids) for ids in prompts], device=device)
    left = list(range(size))
    rows_B = torch.arange(size, device=device)

    at_BT = torch.arange(longest, device=device).expand(size, -1)
    hidden_BTD = target.read(text_BC[:, :longest], at_BT)
    proposer.read(text_BC[:, :longest], length_B, places)
    said_BT = head.logits(model, hidden_BTD[rows_B, length_B - 1]).argmax(-1)[:, None]
    accepted_B: Tensor | None = None
    while True:
        taken: list[list[int]] = []
        right = [0] * len(left) if accepted_B is None else accepted_B.tolist()
        for b, said in zip(left, said_BT.tolist(), strict=True):
            new = said[: right[len(taken)] + 1][: most - len(spoken[b].ids)]
            end = next((i + 1 for i, token in enumerate(new) if token in stop), len(new))
            spoken[b].ids += new[:end]
            if accepted_B is not None:
                spoken[b].accepted.append(min(right[len(taken)], end))
            taken.append(new[:end])
            if hear:
                hear(b, new[:end])
        ended = [len(spoken[b].ids) >= most or spoken[b].ids[-1] in stop for b in left]
        number_B = torch.tensor([len(new) for new in taken], device=device)
        width = said_BT.shape[1]
        # what is behind the taken tokens is written over by the next ones
        at_BT = length_B[:, None] + torch.arange(width, device=device)
        text_BC.scatter_(1, at_BT, said_BT)
        length_B = length_B + number_B
        if any(ended):
            going = [i for i, over in enumerate(ended) if not over]
            if not going:
                return spoken
            chosen = torch.tensor(going, device=device)
            text_BC, length_B, left = text_BC[chosen], length_B[chosen], [left[i] for i in going]
            target.cache.select(chosen)
            proposer.select(chosen)
        if int(length_B.max()) + gamma > target.cache.places:
            more = int(length_B.max()) + gamma + ROOM
            target.cache.grow(more)
            proposer.grow(more)
        proposed_BG = proposer.propose(text_BC, length_B, target.keys, gamma)
        last_B1 = text_BC.gather(1, length_B[:, None] - 1)
        at_BT = (length_B - 1)[:, None] + torch.arange(gamma + 1, device=device)
        said_BT = head.logits(model, target.read(torch.cat((last_B1, proposed_BG), 1), at_BT)).argmax(-1)
        accepted_B = (proposed_BG == said_BT[:, :-1]).long().cumprod(1).sum(1)


def greedy(model: CausalLM, prompts: list[list[int]], stop: list[int], most: int) -> list[list[int]]:
    """The same answers a token at a time: what `speculate` is compared with."""
    return [
        ids for ids, _ in decode(model, prompts, torch.zeros(len(prompts), most, dtype=torch.float64), 1, stop, 0, 1)
    ]


@torch.no_grad()
def gap(model: CausalLM, ids: list[int], token: int, other: int) -> float:
    """How far apart the logits of two tokens after `ids` are, over the spacing of the model's numbers at that size: about 1 or
    below where rounding alone decides between them."""
    device = next(model.parameters()).device
    hidden = model.model(input_ids=torch.tensor([ids], device=device), use_cache=False).last_hidden_state[:, -1]
    logits_V = head.logits(model, hidden)[0]
    size = float(logits_V[[token, other]].abs().max())
    return abs(float(logits_V[token] - logits_V[other])) / (max(size, 1e-6) * torch.finfo(model.dtype).eps)
