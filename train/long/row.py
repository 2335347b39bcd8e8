"""A row of tokens that a model reads bit by bit: what was read once stays, as keys and values, and the row goes on behind it.

The row is a tree, as in train/tasks/options.py: document 0 is the text that all questions share, 64 i question i, 64 i + b its
branch b, an option. A token sees itself, what is before it in its own document, its question and the text (mask `tree`). So all
questions about a text, their options and the answers that are being written lie in one row, and the text is kept once however
many they are. Only the hidden states that are asked for are kept, and what is read at a time is bounded by `PAIRS`.

Axes: K key/value heads, C place in the row, N head width, Q token that is read, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from train.batches.decoder import CausalLM
from train.kernels import attention

PAIRS = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Of a token that is read and one that it may see: as many at a time, so that masks stay small in long rows."""


class Cache:
    """Keys and values of each layer [1, K, C, N], as the layers of `transformers` fill them; the first `used` are read."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.used = 0

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        end = self.used + key.shape[2]
        if layer == len(self.layers):
            self.layers.append((_room(key, 0, end), _room(value, 0, end)))
        elif self.layers[layer][0].shape[2] < end:
            grown = tuple(_room(kept, self.used, end) for kept in self.layers[layer])
            self.layers[layer] = (grown[0], grown[1])
        for kept, new in zip(self.layers[layer], (key, value), strict=True):
            kept[:, :, self.used : end] = new
        keys, values = self.layers[layer]
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, *_: object, **__: object) -> int:
        """`transformers` counts positions from here where it is given none."""
        return 0


def _room(kept: Tensor, used: int, places: int) -> Tensor:
    """A buffer with room for `places` and a quarter more, which begins with the first `used` of `kept`."""
    made = kept.new_zeros(*kept.shape[:2], places + places // 4, kept.shape[3])
    made[:, :, :used] = kept[:, :, :used]
    return made


class Row:
    """`ids`, documents and positions of what `model` has read. The model must be in evaluation mode."""

    def __init__(self, model: CausalLM, pairs: int | None = None) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.pairs = pairs or PAIRS.get(self.device.type, PAIRS["cpu"])
        self.windows = attention.windows(model.config)
        self.cache = Cache()
        self.ids: list[int] = []
        self.documents_C = torch.zeros(0, dtype=torch.int64, device=self.device)
        self.positions_C = self.documents_C

    def keep(self, n: int) -> None:
        """Forget all but the first `n` tokens."""
        self.cache.used = n
        del self.ids[n:]
        self.documents_C, self.positions_C = self.documents_C[:n], self.positions_C[:n]

    def begin(self, ids: Sequence[int]) -> None:
        """The row is `ids`, one text. What it has in common with what was read is not read again."""
        same = next((i for i, (a, b) in enumerate(zip(self.ids, ids, strict=False)) if a != b), None)
        n = min(len(self.ids), len(ids)) if same is None else same
        self.keep(n)
        self.read(ids[n:], [0] * (len(ids) - n), range(n, len(ids)), ())

    @torch.no_grad()
    def read(
        self, ids: Sequence[int], documents: Sequence[int], positions: Sequence[int], wanted: Sequence[int]
    ) -> Tensor:
        """Tokens behind the row; the hidden states [wanted, D] of those at the places `wanted` among them, sorted."""
        found: list[Tensor] = []
        first = 0
        while first < len(ids):
            end = min(len(ids), first + self._at_once(len(ids) - first))
            states_QD = self._some(ids[first:end], documents[first:end], positions[first:end])
            here = [i - first for i in wanted if first <= i < end]
            if here:
                found.append(states_QD[torch.tensor(here, device=self.device)])
            first = end
        if found:
            return torch.cat(found)
        return torch.zeros(0, self.model.config.hidden_size, device=self.device)

    def _at_once(self, left: int) -> int:
        return max(1, min(left, self.pairs // (len(self.ids) + left)))

    def _some(self, ids: Sequence[int], documents: Sequence[int], positions: Sequence[int]) -> Tensor:
        start = len(self.ids)
        self.ids += ids
        self.documents_C, self.positions_C = (
            torch.cat([kept, torch.tensor(new, dtype=torch.int64, device=self.device)])
            for kept, new in ((self.documents_C, list(documents)), (self.positions_C, list(positions)))
        )
        documents_1C, positions_1C = self.documents_C[None], self.positions_C[None]
        at_Q = torch.arange(start, len(self.ids), device=self.device)
        masks = {}
        for window in self.windows:
            mask = attention.tree(documents_1C)
            if window is not None:
                mask = attention.windowed(mask, window, positions_1C)
            mask = attention.of_queries(mask, at_Q)
            masks[window] = attention.dense_mask(mask, 1, len(self.ids), self.device, len(ids))
        states_1QD = self.model.model(
            input_ids=torch.tensor([list(ids)], device=self.device),
            position_ids=positions_1C[:, start:],
            attention_mask=next(iter(masks.values())),
            document_masks=masks,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.cache.used = len(self.ids)
        return states_1QD[0]
