"""A packed row with the intra-document mask is its documents, one at a time: the same loss and the same gradients."""

import pytest
import torch

from train import model
from train.methods import pretrain

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

LENGTHS = [[17, 5, 30, 12], [1, 63]]


def build():
    shape = {
        "vocab_size": 211,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.1,
    }
    return model.build(shape, seed=8)


def row(ids: torch.Tensor, lengths: list[int], positions: str) -> dict[str, torch.Tensor]:
    """One row [1, T]; the label of a document's last token would be in the next document, so it has none."""
    labels = torch.cat([ids[1:], torch.tensor([-100])])
    ends = torch.tensor(lengths).cumsum(0)
    labels[ends - 1] = -100
    doc_ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    position_ids = torch.arange(len(ids))
    if positions == "reset":
        position_ids = torch.cat([torch.arange(n) for n in lengths])
    return {
        "input_ids": ids[None],
        "labels": labels[None],
        "doc_ids": doc_ids[None],
        "position_ids": position_ids[None],
    }


def gradients(net, batches):
    net.zero_grad()
    total = 0.0
    for batch in batches:
        parts = pretrain.loss(net, batch)
        parts.loss_sum.backward()
        total += parts.loss_sum.item()
    return total, {name: p.grad.clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("positions", ["continuous", "reset"])
def test_packed_equals_separate_documents(positions):
    net = build()
    ids = torch.randint(0, 211, (2, 64), generator=torch.Generator().manual_seed(2))
    rows = [row(ids[i], LENGTHS[i], positions) for i in range(2)]
    packed = {name: torch.cat([r[name] for r in rows]) for name in rows[0]}
    alone = [row(document, [len(document)], positions) for i in range(2) for document in ids[i].split(LENGTHS[i])]
    loss, grads = gradients(net, [packed])
    reference, expected = gradients(net, alone)
    assert loss == pytest.approx(reference, rel=1e-6)
    for name, gradient in grads.items():
        assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm() + 1e-7, name
    # the mask is what makes it so: as one long document the loss is another
    unmasked, _ = gradients(net, [packed | {"doc_ids": torch.zeros_like(packed["doc_ids"])}])
    assert abs(unmasked - reference) > 1e-2
