"""A model that retrieves by exact lookup: what it writes next is what stood behind the longest earlier match of its last tokens.

It stands where a decoder of `transformers` stands, and sees what the masks and the cache that it is given let it see. So tests
know what a model that can retrieve must score, and one that sees only so many tokens back.
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

LONGEST = 24  # tokens that are compared


class Body(nn.Module):
    def __init__(self, vocabulary, window):
        super().__init__()
        self.vocabulary, self.window = vocabulary, window

    def forward(self, input_ids, position_ids, past_key_values, document_masks, **_):
        new = torch.stack([input_ids, position_ids], -1)[:, None].double()
        kept, _ = past_key_values.update(new, new, 0)
        ids, positions = kept[0, 0].long().numpy().T
        states = torch.zeros(1, input_ids.shape[1], self.vocabulary)
        if position_ids[0, 0]:  # else it is a text, of which nothing is asked for
            for q, see in enumerate(document_masks[self.window][0, 0].numpy()):
                if (found := following(ids[see][positions[see].argsort()])) is not None:
                    states[0, q, found] = 1.0
        return SimpleNamespace(last_hidden_state=states)


def following(path):
    """What stands behind the longest earlier match of the end of `path`, the last of equal ones; None without a match."""
    ends = np.arange(len(path) - 1)  # where a match may end
    found = None
    for back in range(LONGEST):
        ends = ends[ends >= back]
        ends = ends[path[ends - back] == path[-1 - back]]
        if not len(ends):
            break
        found = int(path[ends[-1] + 1])
    return found


class Lookup(nn.Module):
    def __init__(self, vocabulary, context=1024, window=None):
        super().__init__()
        self.config = SimpleNamespace(
            hidden_size=vocabulary,
            max_position_embeddings=context,
            sliding_window=window,
            layer_types=["sliding_attention"] if window else None,
        )
        self.model = Body(vocabulary, window)
        self.lm_head = nn.Linear(vocabulary, vocabulary, bias=False)
        self.lm_head.weight.data = 10 * torch.eye(vocabulary)
