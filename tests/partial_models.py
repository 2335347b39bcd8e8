"""A tiny model and its rows, for the tests of what trains a part of a model."""

import torch
from shapes import TINY

from train import model


def build(tied=False, seed=3, **more):
    net = model.build(TINY | {"tie_word_embeddings": tied, "initializer_range": 0.2} | more, seed=seed)
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 1:  # as after training: norms are not 1, biases not 0
                p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
    return net


def batch_fn(rows, first=0, last=61):
    ids = torch.stack([torch.randint(first, last, (25,), generator=torch.Generator().manual_seed(r)) for r in rows])
    places = torch.arange(24).expand(len(rows), -1)
    return {
        "input_ids": ids[:, :-1],
        "labels": ids[:, 1:],
        "doc_ids": places // 9,
        "position_ids": places,
        "count": torch.tensor(ids[:, 1:].numel()),
    }
