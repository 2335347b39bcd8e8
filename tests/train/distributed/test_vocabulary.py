import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from train import model
from train.distributed.data_parallel import Gradients
from train.kernels.cross_entropy import linear_cross_entropy
from train.methods import pretrain
from train.scores import logprobs

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

SHAPE = {
    "vocab_size": 997,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}


def batch():
    ids = torch.randint(0, 50, (2, 24), generator=torch.Generator().manual_seed(0))  # tokens repeat
    labels = ids.roll(-1, 1)
    labels[:, -3:] = -100
    return {
        "input_ids": ids,
        "labels": labels,
        "doc_ids": torch.zeros_like(ids),
        "position_ids": torch.arange(24).expand(2, -1),
    }


@pytest.mark.parametrize("tied", [True, False])
def test_the_buffer_holds_autograds_gradient_times_the_count(tied):
    net = model.build(SHAPE | {"tie_word_embeddings": tied}, seed=1)
    plain = copy.deepcopy(net)
    gradients = Gradients(net.parameters())
    gradients.zero()
    for part in (batch(), {name: value.flip(0) for name, value in batch().items()}):
        pretrain.loss(net, part, z_loss=1e-3).loss_sum.backward()
        (pretrain.loss(plain, part, z_loss=1e-3).loss_sum / 84).backward()
    gradients.reduce(84)
    for (name, p), q in zip(net.named_parameters(), plain.parameters(), strict=True):
        assert (p.grad / gradients.divisor() - q.grad).norm() <= 1e-6 * q.grad.norm(), name


@pytest.mark.parametrize("tied", [True, False])
def test_the_buffer_holds_the_gradient_of_any_function_of_log_probabilities(tied):
    net = model.build(SHAPE | {"tie_word_embeddings": tied}, seed=1)
    plain = copy.deepcopy(net)
    gradients = Gradients(net.parameters())
    gradients.zero()
    part = batch() | {"doc_ids": torch.tensor([[0] * 24, [1] * 24])}
    for network in (net, plain):
        logp_S = logprobs.example_logprobs(network, part, 2)
        torch.nn.functional.softplus(0.1 * (logp_S[0] - logp_S[1])).backward()  # as DPO's
    for (name, p), q in zip(net.named_parameters(), plain.parameters(), strict=True):
        assert q.grad.norm() > 0
        assert (p.grad - q.grad).norm() <= 1e-6 * q.grad.norm(), name


def test_frozen_matrices_stay_without_a_gradient():
    net = model.build(SHAPE | {"tie_word_embeddings": False}, seed=1)
    net.lm_head.weight.requires_grad_(False)
    net.model.embed_tokens.weight.requires_grad_(False)
    Gradients(net.parameters()).zero()
    pretrain.loss(net, batch()).loss_sum.backward()
    assert net.lm_head.weight.grad is None and net.model.embed_tokens.weight.grad is None
    assert net.model.layers[0].mlp.up_proj.weight.grad.any()


def test_a_scaled_loss_is_refused_rather_than_wrong():
    net = model.build(SHAPE, seed=1)
    Gradients(net.parameters()).zero()
    with pytest.raises(RuntimeError, match=r"takes 0\.5 times that sum"):
        (pretrain.loss(net, batch()).loss_sum / 2).backward()


@pytest.mark.parametrize(
    "loss",
    [lambda net: pretrain.loss(net, batch()).loss_sum, lambda net: logprobs.example_logprobs(net, batch(), 1).sum()],
    ids=["cross-entropy", "log-probabilities"],
)
def test_no_tensor_of_the_size_of_the_vocabulary_matrix_is_made(loss):
    class Matrices(TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            fresh = isinstance(out, torch.Tensor) and out._base is None and out.shape == (997, 16)
            self.made += fresh and out.data_ptr() not in kept
            return out

    net = model.build(SHAPE, seed=1)
    kept = {p.data_ptr() for p in net.parameters()}
    counts = []
    for buffered in (False, True):
        if buffered:
            Gradients(net.parameters()).zero()
        kept |= {p.grad.data_ptr() for p in net.parameters() if p.grad is not None}
        with Matrices() as matrices:
            loss(net).backward()
        counts.append(matrices.made)
    assert counts[0] >= 2 and counts[1] == 0


def test_without_training_the_head_and_the_embedding_are_as_ever():
    net = model.build(SHAPE, seed=1)
    Gradients(net.parameters()).zero()
    with torch.no_grad():
        loss, _ = linear_cross_entropy(torch.ones(1, 4, 16), net.lm_head.weight, torch.tensor([[1, 2, 3, 4]]))
        hidden = net.model(batch()["input_ids"]).last_hidden_state
    assert torch.isfinite(loss) and torch.isfinite(hidden).all()
    assert not any(p.grad.any() for p in net.parameters())
