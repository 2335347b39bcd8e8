import numpy as np
import pytest
import torch

from train.batches.examples import Example
from train.kernels import attention
from train.methods.shared_prompts import collate_pairs, n_shared, pair_logprobs
from train.scores import logprobs

torch.set_num_threads(1)  # tiny tensors: a second thread only waits


def example(prompt: list[int], answer: list[int]) -> Example:
    return Example("x", "id", np.array(prompt + answer), np.repeat([False, True], [len(prompt), len(answer)]))


PROMPTS = ([5, 6, 7, 8, 9], [5], [11, 12, 13], [5, 6, 7, 8, 9, 10, 11, 12])
ANSWERS = (([20, 21], [22, 23, 24]), ([20], [20, 21]), ([30, 31, 32], [30, 31, 33]), ([40] * 6, [41]))


def pairs() -> tuple[list[Example], list[Example]]:
    return tuple([example(p, a[side]) for p, a in zip(PROMPTS, ANSWERS, strict=True)] for side in (0, 1))


def test_shared_is_the_prompt_but_for_its_last_token_also_where_answers_begin_alike():
    assert [n_shared(*pair) for pair in zip(*pairs(), strict=True)] == [4, 0, 2, 7]
    other = example([5, 6, 1, 8, 9], [22])
    assert n_shared(example([5, 6, 7, 8, 9], [20]), other) == 2
    unscored = Example("x", "id", np.array([1, 2, 3]), np.zeros(3, bool))
    assert n_shared(unscored, unscored) == 2


def test_the_batch_of_one_pair_token_by_token():
    batch = collate_pairs([example([5, 6, 7], [20, 21])], [example([5, 6, 7], [22])])
    rows = {name: value.tolist() for name, value in batch.items()}
    assert rows == {
        "input_ids": [[5, 6, 7, 20, 7]],
        "labels": [[-100, -100, 20, 21, 22]],
        "doc_ids": [[0, 0, 1, 1, 2]],
        "position_ids": [[0, 1, 2, 3, 2]],
        "example_ids": [[2, 2, 0, 0, 1]],
    }


def test_pairs_are_packed_and_every_scored_token_is_there_once():
    chosen, rejected = pairs()
    batch = collate_pairs(chosen, rejected)
    assert batch["input_ids"].shape == (3, 14)  # 14, 9 + 3, 8
    for i, one in enumerate([*chosen, *rejected]):
        labels = batch["labels"][batch["example_ids"] == i]
        assert labels.tolist() == one.ids[one.scored].tolist()
    assert (batch["labels"][batch["example_ids"] == 8] == -100).all()


def test_the_mask_as_a_naive_loop_says():
    doc_ids = torch.tensor([[0, 0, 1, 2, 2, 3, 4, 5, 6, 6]])
    mask = attention.dense_mask(attention.shared_prompt(doc_ids), 1, 10)[0, 0]
    for q in range(10):
        for k in range(10):
            a, b = divmod(int(doc_ids[0, q]), 3), divmod(int(doc_ids[0, k]), 3)
            assert mask[q, k] == (k <= q and a[0] == b[0] and b[1] in {0, a[1]})


@pytest.mark.parametrize("backend", [None, "varlen"])
def test_log_probabilities_equal_those_of_rows_of_their_own(backend, tiny_model):
    net = tiny_model().eval()
    if backend:  # it cannot do this mask (nor run on a CPU), so another takes its place
        net.model.attention_backend = backend
    chosen, rejected = pairs()
    with torch.no_grad():
        together = logprobs.example_logprobs(net, collate_pairs(chosen, rejected), 8)
    net.model.attention_backend = "sdpa"
    alone = logprobs.logprobs(net, [*chosen, *rejected])
    np.testing.assert_allclose(together.numpy(), alone, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 17, 8192])
def test_pairs_in_any_batches_have_the_log_probabilities_of_their_sides(tokens, tiny_model):
    net = tiny_model()
    chosen, rejected = pairs()
    found = pair_logprobs(net, chosen, rejected, tokens)
    alone = logprobs.logprobs(net, [*chosen, *rejected]).reshape(2, -1)
    assert found.dtype == np.float32 and not net.training
    np.testing.assert_allclose(found, alone, rtol=1e-5)
