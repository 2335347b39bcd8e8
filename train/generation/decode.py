"""The decoding loop: the next token of every sample of a batch, again and again, without the host waiting for each.

Keys and values lie in buffers with room for tokens to come, and all that a step reads or writes keeps its place: so on a GPU the
step is one CUDA graph. Which samples have ended stays on the device too, and the host looks at it every `CHECK` tokens: samples
that have ended leave the batch, and where a nucleus was wider than a step looks at, decoding goes back to that token and draws
it from the whole vocabulary. Neither changes what is sampled.

Axes: B prompt, S sample (n a prompt), K key/value heads, C place in the cache, N head width, T token of the answer, D width,
V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from train.bases import rope
from train.batches.decoder import CausalLM
from train.generation import nucleus
from train.kernels import attention, cuda_graph, head

CHECK = {"cpu": 1, "cuda": 16}
"""Tokens between two looks of the host; a look costs a CPU nothing."""
LOOKS = ("cpu",)
"""Devices whose values cost nothing to look at within a step."""
ROOM = {"cpu": 64, "cuda": 512}
"""Places by which the cache grows; a GPU records its graph again each time."""
_NEVER = 1 << 40


class Cache:
    """Keys and values of each layer [B, K, C, N], as the layers of `transformers` fill them.

    While `column_1` is None a prompt is read, and what comes is kept as it is; then each token is put at place `column_1`."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.column_1: Tensor | None = None

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        if self.column_1 is None:
            self.layers.append((key, value))
        else:
            for kept, new in zip(self.layers[layer], (key, value), strict=True):
                kept.index_copy_(2, self.column_1, new)
        return self.layers[layer]

    def get_seq_length(self, *_: object) -> int:
        """`transformers` counts positions from here where it is given none."""
        return 0

    def repeat(self, n: int, places: int) -> None:
        """Each prompt `n` times, with room for `places`."""
        self.layers = [
            (_grown(key.repeat_interleave(n, 0), places), _grown(value.repeat_interleave(n, 0), places))
            for key, value in self.layers
        ]

    def grow(self, places: int) -> None:
        self.repeat(1, places)

    def select(self, samples: Tensor) -> None:
        self.layers = [(key[samples], value[samples]) for key, value in self.layers]


class Batch:
    """The samples that are still running, and the step that gives each its next token.

    `row_S` says which sample of the call each is. `step()` feeds `token_S` to the model and draws the next one, whose number
    in the answer is `t_1`; `tokens_ST` and `logprobs_ST` are what was drawn. `ended_S` is the number of the token that ended
    a sample, `wide_S` that of the first token whose nucleus was not seen whole."""

    def __init__(  # noqa: PLR0917
        self,
        model: CausalLM,
        prompts: list[list[int]],
        u_ST: Tensor,
        n: int,
        stop: list[int],
        temperature: float,
        top_p: float,
    ) -> None:
        self.model, self.temperature, self.top_p = model, temperature, top_p
        device = next(model.parameters()).device
        self.looks = device.type in LOOKS
        self.whole = top_p >= 1  # whether each nucleus is looked for in the whole vocabulary
        self.longest = max(map(len, prompts))
        self.windows = attention.windows(model.config)
        ids_BC = torch.zeros(len(prompts), self.longest, dtype=torch.int64)
        for b, ids in enumerate(prompts):  # padded on the left: the next token of every row is in the same column
            ids_BC[b, self.longest - len(ids) :] = torch.tensor(ids)
        begin_B = torch.tensor([self.longest - len(ids) for ids in prompts], device=device)
        self.ends = torch.tensor(stop, device=device)
        self.u_ST = u_ST.to(device)
        S, T = u_ST.shape
        self.row_S = torch.arange(S, device=device)
        self.begin_S = begin_B.repeat_interleave(n)
        self.token_S = torch.zeros(S, dtype=torch.int64, device=device)
        self.tokens_ST = torch.zeros(S, T, dtype=torch.int64, device=device)
        self.logprobs_ST = torch.zeros(S, T, dtype=torch.float32, device=device)
        self.ended_S = torch.full((S,), _NEVER, device=device)
        self.wide_S = torch.full((S,), _NEVER, device=device)
        self.t_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self.cache = Cache()
        hidden_BD = self._read(ids_BC.to(device), begin_B)
        self.cache.column_1 = torch.full((1,), self.longest - 1, device=device)
        self.cache.repeat(n, self.longest)
        self._draw(hidden_BD.repeat_interleave(n, 0), whole=True)

    def _read(self, ids_BC: Tensor, begin_B: Tensor) -> Tensor:
        """The last hidden state [B, D] of each prompt, which is read once for all its samples."""
        at_C = torch.arange(self.longest, device=ids_BC.device)
        begin_B11 = begin_B[:, None, None]
        seen_BCC = (at_C <= at_C[:, None]) & (at_C >= begin_B11)
        # a query that is padding sees itself: a softmax over nothing would not be a number
        seen_BCC = seen_BCC | torch.eye(self.longest, dtype=torch.bool, device=ids_BC.device)
        masks = {w: seen_BCC if w is None else seen_BCC & (at_C > at_C[:, None] - w) for w in self.windows}
        position_BC = (at_C - begin_B[:, None]).clamp(min=0)
        return self._hidden(ids_BC, position_BC, {w: mask[:, None] for w, mask in masks.items()})

    def step(self, whole: bool = False) -> None:
        """The next token of each sample; `whole`: from the whole vocabulary, however wide its nucleus."""
        column_1 = self.cache.column_1
        assert column_1 is not None
        self.t_1.add_(1)
        column_1.add_(1)
        at_C = torch.arange(self.cache.layers[0][0].shape[2], device=column_1.device)
        seen_SC = (at_C <= column_1) & (at_C >= self.begin_S[:, None])
        masks = {w: seen_SC if w is None else seen_SC & (at_C > column_1 - w) for w in self.windows}
        position_S1 = (column_1 - self.begin_S)[:, None]
        masks = {w: mask[:, None, None] for w, mask in masks.items()}
        self._draw(self._hidden(self.token_S[:, None], position_S1, masks), whole or self.whole)

    def _hidden(self, ids: Tensor, positions: Tensor, masks: dict[int | None, Tensor]) -> Tensor:
        return read(self.model, ids, positions, masks, self.cache)[:, -1]

    def _draw(self, hidden_SD: Tensor, whole: bool) -> None:
        logits_SV = head.logits(self.model, hidden_SD)
        u_S = self.u_ST.index_select(1, self.t_1).squeeze(1)
        if self.looks or whole:
            how = nucleus.draw if self.looks else nucleus.draw_whole
            token_S = how(logits_SV, u_S, self.temperature, self.top_p)
        else:
            token_S, wide_S = nucleus.draw_near(logits_SV, u_S, self.temperature, self.top_p)
            first = wide_S & (self.wide_S == _NEVER) & (self.ended_S == _NEVER)
            self.wide_S.copy_(torch.where(first, self.t_1, self.wide_S))
        logprob_S = logits_SV.gather(-1, token_S[:, None]).squeeze(-1) - logits_SV.logsumexp(-1)
        self.token_S.copy_(token_S)
        self.tokens_ST.index_copy_(1, self.t_1, token_S[:, None])
        self.logprobs_ST.index_copy_(1, self.t_1, logprob_S[:, None])
        ends_S = torch.isin(token_S, self.ends) & (self.ended_S == _NEVER)
        self.ended_S.copy_(torch.where(ends_S, self.t_1, self.ended_S))

    def back_to(self, t: int) -> None:
        """As it was before token `t` was drawn."""
        assert self.cache.column_1 is not None
        self.t_1.fill_(t - 1)
        self.cache.column_1.fill_(self.longest + t - 2)
        self.token_S.copy_(self.tokens_ST[:, t - 1])
        self.ended_S.masked_fill_(self.ended_S >= t, _NEVER)
        self.wide_S.fill_(_NEVER)

    def select(self, samples: Tensor) -> None:
        """Only these go on."""
        self.cache.select(samples)
        for name in ("u_ST", "row_S", "begin_S", "token_S", "tokens_ST", "logprobs_ST", "ended_S", "wide_S"):
            setattr(self, name, getattr(self, name)[samples])


def read(
    model: CausalLM, ids_BT: Tensor, position_BT: Tensor, masks: dict[int | None, Tensor], cache: object
) -> Tensor:
    """Hidden states [B, T, D] of tokens, whose keys go into `cache`. `masks`: window of a layer, None for no window -> what is
    seen."""
    return model.model(
        input_ids=ids_BT,
        position_ids=position_BT,
        attention_mask=next(iter(masks.values())),
        document_masks=masks,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state


@torch.no_grad()
def decode(  # noqa: PLR0917
    model: CausalLM,
    prompts: list[list[int]],
    u_ST: Tensor,
    n: int,
    stop: list[int],
    temperature: float,
    top_p: float,
    *,
    check: int | None = None,
    capture: cuda_graph.Capture | None = None,
) -> list[tuple[list[int], list[float]]]:
    """Of each of the `n` samples to each prompt the tokens, with the one that ended it, and their log-probabilities at
    temperature 1. `u_ST` in [0, 1), fp64, decides every token of every sample; T is the most of them.

    `check` is the number of tokens between two looks of the host, `capture` what records a step (train/kernels/cuda_graph.py);
    left out, both are those of the device."""
    batch = Batch(model, prompts, u_ST, n, stop, temperature, top_p)
    device, most = batch.t_1.device, u_ST.shape[1]
    check = check or CHECK[device.type]
    # some rotations look at the longest position, which waits for the device
    if capture is None and not rope.types(model.config) & set(rope.OF_THE_ROW):
        capture = cuda_graph.for_device(device)
    found: list[tuple[list[int], list[float]]] = [([], [])] * len(u_ST)
    t, looks, wide = 0, 0, 0
    room, step = batch.longest, cuda_graph.Repeated(batch.step, capture)
    while True:
        ended, widened = torch.stack([batch.ended_S, batch.wide_S]).tolist()
        looks += 1
        if (first := min(widened)) <= t:
            batch.back_to(first)
            batch.step(whole=True)
            t, wide = first, wide + 1
            if not batch.whole and wide >= 3 and 4 * wide > looks:  # going back so often costs more than to sort always
                batch.whole, step = True, cuda_graph.Repeated(batch.step, capture)
            continue
        done = t + 1 == most or all(at <= t for at in ended)
        left = [i for i, at in enumerate(ended) if at > t]
        # to record the step anew is worth it when half of the samples have ended
        if done or (len(left) < len(ended) if capture is None else 2 * len(left) <= len(ended)):
            gone = [i for i, at in enumerate(ended) if done or at <= t]
            _read_out(batch, gone, [min(ended[i], t) + 1 for i in gone], found)
            if done:
                return found
            batch.select(torch.tensor(left, device=device))
            step = cuda_graph.Repeated(batch.step, capture)
        until = min(t + check, most - 1)
        if batch.longest + until > room:
            room = batch.longest + min(until + ROOM[device.type], most - 1)
            batch.cache.grow(room)
            step = cuda_graph.Repeated(batch.step, capture)
        for _ in range(until - t):
            step()
        t = until


def _read_out(batch: Batch, samples: list[int], lengths: list[int], found: list[tuple[list[int], list[float]]]) -> None:
    """Put what was drawn for these samples where it belongs."""
    some = torch.tensor(samples, device=batch.t_1.device)
    rows, tokens, logprobs = (x[some].tolist() for x in (batch.row_S, batch.tokens_ST, batch.logprobs_ST))
    for row, ids, logps, length in zip(rows, tokens, logprobs, lengths, strict=True):
        found[row] = (ids[:length], logps[:length])


def _grown(x: Tensor, places: int) -> Tensor:
    """`x` [S, K, C, N] with room for `places`; what is not used yet is zero, as a masked place must be a number."""
    grown = x.new_zeros(*x.shape[:2], places, x.shape[3])
    grown[:, :, : x.shape[2]] = x
    return grown
