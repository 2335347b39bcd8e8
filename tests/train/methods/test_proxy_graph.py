"""An update of all proxies as a graph: recorded on a CPU, where it may not look at a value, it trains the same models."""

import numpy as np
import pytest
import recorded_graph
import torch
from shapes import TINY

from train.kernels import cross_entropy, cuda_graph
from train.methods import proxy

torch.set_num_threads(1)  # tiny tensors: a second thread only waits


def batch_fn(number: int):
    def batch(rows: list[int]) -> dict:
        generator = torch.Generator().manual_seed(100 * number + rows[0])
        ids = torch.randint(61, (len(rows), 25), generator=generator)
        labels = ids[:, 1:].clone()
        labels[:, : 2 * number + rows[0] % 3] = -100  # as many as no other model and step has
        more = {"doc_ids": torch.arange(24).expand(len(rows), -1) // (5 + number)}
        return {
            "input_ids": ids[:, :-1],
            "labels": labels,
            "position_ids": torch.arange(24).expand(len(rows), -1),
            **more,
        }

    return batch


BATCHES = [batch_fn(number) for number in range(3)]
HELDOUT = {"id": [BATCHES[0]([900, 901])], "th": [BATCHES[2]([903])]}


def test_a_recorded_update_trains_the_same_models(monkeypatch):
    config = proxy.ProxyConfig(steps=9, rows_per_step=5, micro_rows=2, lr=1e-2, warmup_steps=4, eps=1e-5, clip=0.5)
    shape = TINY | {"tie_word_embeddings": True}
    want = proxy.losses(shape, BATCHES, HELDOUT, config)
    monkeypatch.setattr(cuda_graph, "for_device", lambda device: recorded_graph.capture)
    monkeypatch.setattr(proxy.Stack, "losses", as_on_a_gpu(proxy.Stack.losses))
    before = recorded_graph.captures
    found = proxy.losses(shape, BATCHES, HELDOUT, config)
    assert recorded_graph.captures == before + 1
    np.testing.assert_allclose(found, want, rtol=2e-5)
    assert len({float(x) for x in found[:, 0]}) == 3


def as_on_a_gpu(losses):
    """The loss does not choose positions that have a label, whose number the host would wait for."""

    def of(self, batch):
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(cross_entropy, "on_host", lambda labels: None)
            monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
            return losses(self, batch)

    return of
