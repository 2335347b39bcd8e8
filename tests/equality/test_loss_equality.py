"""The chunked loss is the loss that torch and transformers compute from full logits."""

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from train import model
from train.batches.labels import IGNORE
from train.kernels.cross_entropy import linear_cross_entropy
from train.methods import pretrain

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

SHAPE = {
    "vocab_size": 1531,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def test_loss_and_gradients_equal_cross_entropy_on_full_logits():
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 50, 64, generator=g).requires_grad_()
    weight = (torch.randn(1531, 64, generator=g) / 8).requires_grad_()
    labels = torch.randint(0, 1531, (4, 50), generator=g)
    labels[:, ::7] = IGNORE
    loss, count = linear_cross_entropy(hidden, weight, labels, 32)
    got = torch.autograd.grad(loss / count, (hidden, weight))
    reference = cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten())
    want = torch.autograd.grad(reference, (hidden, weight))
    torch.testing.assert_close(loss / count, reference, rtol=1e-6, atol=0)
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


def test_a_batch_costs_what_transformers_own_loss_says_and_gives_its_gradients():
    for tied in (False, True):
        ours = model.build(SHAPE | {"tie_word_embeddings": tied}, seed=4)
        theirs = AutoModelForCausalLM.from_config(ours.config, attn_implementation="sdpa")
        theirs.load_state_dict(ours.state_dict())
        ids = torch.randint(0, 1531, (3, 40), generator=torch.Generator().manual_seed(1))
        labels = torch.cat([ids[:, 1:], torch.full((3, 1), IGNORE)], 1)  # transformers shifts by itself
        batch = {
            "input_ids": ids,
            "labels": labels,
            "doc_ids": torch.zeros_like(ids),
            "position_ids": torch.arange(40).expand(3, -1),
        }
        parts = pretrain.loss(ours, batch)
        (parts.loss_sum / parts.count).backward()
        reference = theirs(ids, labels=ids).loss
        reference.backward()
        torch.testing.assert_close(parts.loss_sum / parts.count, reference, rtol=1e-6, atol=0)
        grads = {name: p.grad for name, p in theirs.named_parameters()}
        for name, p in ours.named_parameters():
            assert (p.grad - grads[name]).norm() <= 1e-5 * grads[name].norm() + 1e-9, name
