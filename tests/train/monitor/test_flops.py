import pytest
import torch
from torch_flops import counted

from train import model
from train.kernels.attention import dense_mask, shared_prompt
from train.methods import expand, reward
from train.monitor import flops, throughput

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("trainable", ["all", "new_blocks"])
def test_operations_are_those_that_torch_counts(tied, trainable):
    net = model.build({**SHAPE, "tie_word_embeddings": tied}, seed=0)
    if trainable == "new_blocks":
        net = expand.expand(net, 3)
        expand.set_trainable(net, 3, "new_blocks")
    per_token, per_pair = flops.of_step(net)
    for rows, length in ((2, 16), (1, 48)):
        assert counted(net, rows, length) == rows * (length * per_token + length * length * per_pair)


def test_a_model_that_is_trained_whole_costs_six_per_weight():
    net = model.build({**SHAPE, "tie_word_embeddings": False}, seed=0)
    per_token, per_pair = flops.of_step(net)
    shape = net.config.to_dict()
    assert per_token == 6 * flops.matmul_parameters(shape, 64)
    assert per_token + 40 * per_pair == flops.per_token(shape, 64, 40)


def test_answers_that_share_a_prompt_attend_as_their_mask_says():
    doc_ids = torch.tensor([[0, 0, 1, 2, 2, 2, 3, 4, 5, 9], [6, 6, 6, 7, 8, 9, 9, 9, 9, 9]])
    mask = dense_mask(shared_prompt(doc_ids), 2, 10)
    assert flops.attended({"doc_ids": doc_ids, "example_ids": doc_ids}) == int(mask.sum())
    assert flops.attended({"doc_ids": doc_ids}) == flops.attention_pairs(doc_ids) < int(mask.sum())
    assert flops.attended({"x": doc_ids}) == 0


def test_attention_pairs_are_those_of_the_mask():
    g = torch.Generator().manual_seed(1)
    doc_ids = torch.randint(0, 3, (4, 33), generator=g).cumsum(1) // 4
    doc_ids[1] = 0
    doc_ids[2] = torch.arange(33)
    same = doc_ids[:, :, None] == doc_ids[:, None, :]
    assert flops.attention_pairs(doc_ids) == int(same.tril().sum())
    assert flops.attention_pairs(torch.zeros(2, 5, dtype=torch.long)) == 2 * 15


def test_a_reward_model_has_no_head_at_every_token():
    base = model.build({**SHAPE, "tie_word_embeddings": False}, seed=0)
    net = reward.build(base, pad_token_id=0)
    head = 6 * SHAPE["vocab_size"] * SHAPE["hidden_size"]
    per_token, per_pair = flops.of_step(base)
    assert flops.of_step(net) == (per_token - head, per_pair)
    record = {"tokens_per_second": 1000.0, "attended_per_token": 64.0}
    got = throughput.utilisation(net, 64, 1, 1e9)(record)
    assert got["mfu"] == pytest.approx(got["mfu_doc"]) and got["mfu_6n"] == pytest.approx((per_token - head) / 1e6)


def test_peaks_by_name():
    names = {"NVIDIA H200": 989e12, "NVIDIA H20": 148e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA L4": 121e12}
    assert {name: flops.peak(name) for name in names} == names
    assert flops.peak("AMD EPYC") is None and throughput.device_peak(torch.device("cpu")) is None


def test_three_ways_of_the_share_of_the_peak():
    net = model.build(SHAPE, seed=0)
    record = {"tokens_per_second": 1000.0, "attended_per_token": 5.0}
    per_token, per_pair = flops.of_step(net)
    got = throughput.utilisation(net, 64, 2, 1e9)(record)
    assert got["mfu_6n"] == pytest.approx(500 * per_token / 1e9)
    assert got["mfu"] == pytest.approx(500 * (per_token + 64 * per_pair) / 1e9)
    assert got["mfu_doc"] == pytest.approx(500 * (per_token + 5 * per_pair) / 1e9)
    assert got["teraflops"] == pytest.approx(got["mfu_doc"] / 1000)
    assert throughput.utilisation(net, 64, 2, None)(record) == {"teraflops": got["teraflops"]}
    assert set(got) == set(throughput.UTILISATION) <= set(throughput.MEASURED)
    assert throughput.memory_bytes(torch.device("cpu")) > 1e8
