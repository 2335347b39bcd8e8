import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from shapes import TINY

from train import model
from train.scores import evaluate

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

EOD = 0


@pytest.fixture(scope="module")
def net():
    return model.build(TINY | {"initializer_range": 0.3}, seed=2)


def documents(lengths: dict[str, list[int]]) -> list[tuple[str, np.ndarray, int]]:
    rng = np.random.default_rng(0)
    return [(lang, rng.integers(1, 61, n), 3 * n + 1) for lang, ns in lengths.items() for n in ns]


@torch.no_grad()
def naive(net, documents, context: int) -> dict[str, tuple[float, int]]:
    """A loop over documents and windows with the full logits of transformers."""

    def bits(inputs: list[int], labels: list[int]) -> float:
        logp = net(torch.tensor([inputs])).logits[0].double().log_softmax(-1)
        return -sum(float(logp[i, label]) for i, label in enumerate(labels)) / math.log(2)

    out: dict[str, tuple[float, int]] = {}
    for lang, tokens, n_bytes in documents:
        ids = tokens.tolist()
        total, size = out.get(lang, (0.0, 0))
        total += bits([EOD], ids[:1])
        # the first window scores `context` tokens, one of them after the end-of-document token, which the rest do not see
        cuts = [1, *range(context, len(ids), context), len(ids)]
        for start, stop in pairwise(cuts):
            if stop > start:
                total += bits(ids[start - 1 : stop - 1], ids[start:stop])
        out[lang] = (total, size + n_bytes)
    return out


@pytest.mark.parametrize("batch_rows", [1, 8])
def test_equal_to_one_window_at_a_time(net, batch_rows):
    held_out = documents({"th": [5, 40, 1, 16], "lo": [33], "su": [16, 17, 2, 2, 9]})
    got = evaluate.bits_per_byte(net, held_out, context=16, eod=EOD, batch_rows=batch_rows)
    assert list(got) == ["lo", "su", "th"]
    for lang, (bits, size) in naive(net, held_out, 16).items():
        assert got[lang]["bits"] == pytest.approx(bits, rel=1e-5) and got[lang]["bytes"] == size
        assert got[lang]["bits_per_byte"] == pytest.approx(bits / size, rel=1e-5)
    assert got["th"]["tokens"] == 62 and got["th"]["documents"] == 4


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary_per_token():
    untrained = model.build(
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        }
    )
    torch.nn.init.zeros_(untrained.lm_head.weight)
    held_out = documents({"km": [50, 3]})
    got = evaluate.bits_per_byte(untrained, held_out, context=16, eod=EOD)["km"]
    assert got["bits"] == pytest.approx(53 * 6, rel=1e-6)
    assert got["bits_per_byte"] == pytest.approx(53 * 6 / (3 * 53 + 2), rel=1e-6)


def test_no_documents_and_empty_ones(net):
    assert evaluate.bits_per_byte(net, [], context=16, eod=EOD) == {}
    empty = evaluate.bits_per_byte(net, [("vi", [], 0)], context=16, eod=EOD)["vi"]
    assert empty["documents"] == 1 and empty["bits"] == 0 and math.isnan(empty["bits_per_byte"])


def test_the_model_is_left_in_the_mode_it_was_in(net):
    for mode in (True, False):
        net.train(mode)
        evaluate.bits_per_byte(net, documents({"ms": [4]}), context=16, eod=EOD)
        assert net.training == mode
