"""Bits per byte by position, against brute force; what is measured before and after."""

import math

import pytest
import torch
from shapes import TINY

from train import model
from train.monitor.heldout_positions import Positions
from train.monitor.heldout_text import Validation
from train.scores import evaluate
from train.scores.evaluate import Tokens

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

EOD, EDGES = 0, [4, 8, 16]


def texts(seed=0):
    g = torch.Generator().manual_seed(seed)
    found = {}
    for lang, n in (("lo", 50), ("th", 33), ("zz", 5)):
        ids = torch.randint(1, 61, (n,), generator=g)
        ids[torch.rand(n, generator=g) < 0.1] = EOD
        sizes = torch.randint(0, 5, (n,), generator=g)
        sizes[ids == EOD] = 0
        found[lang] = Tokens(ids.tolist(), sizes.tolist())
    return found


@torch.no_grad()
def brute_force(net, found, begin):
    """{bucket: (bits, bytes)}, token by token, each after those before it in its row."""
    sums = {}
    given = len(begin or [EOD]) - 1
    room = EDGES[-1] - given
    for lang, (ids, sizes) in found.items():
        for start in range(0, len(ids) - room + 1, room):
            row = [*begin, *ids[start : start + room]]
            for k in range(room):
                before = row[: len(begin) + k] or [EOD]
                logp = net(torch.tensor([before])).logits[0, -1].log_softmax(-1)[ids[start + k]]
                place = k + given  # of the position that predicts it
                first, end = next((a, b) for a, b in zip([0, *EDGES], EDGES, strict=False) if a <= place < b)
                bits, size = sums.get(f"{lang} {first}-{end - 1}", (0.0, 0))
                scored = ids[start + k] != EOD
                sums[f"{lang} {first}-{end - 1}"] = (
                    bits - scored * float(logp) / math.log(2),
                    size + sizes[start + k],
                )
    return sums


@pytest.mark.parametrize("begin", [[], [EOD], [7, 9]])
def test_buckets_are_those_of_brute_force(begin):
    net, found = model.build(TINY | {"initializer_range": 0.3}, seed=2).eval(), texts()
    rows = evaluate.pack_by_position(found, edges=EDGES, eod=EOD, begin=begin)
    got, want = evaluate.score(net, rows), brute_force(net, found, begin)
    assert got.keys() == want.keys() and {name.split()[0] for name in got} == {"lo", "th"}
    for name, (bits, size) in want.items():
        assert got[name]["bits"] == pytest.approx(bits, rel=1e-4) and got[name]["bytes"] == size, name


def test_positions_are_measured_before_the_first_update_and_after_the_last():
    net, other = (model.build(TINY | {"initializer_range": 0.3}, seed=seed) for seed in (2, 3))
    rows = evaluate.pack_by_position(texts(), edges=EDGES, eod=EOD)
    validation = Positions(rows)
    assert validation.start is None
    validation.begin(net)
    assert validation.start["within"] is None and list(validation.start["rows"])[:2] == ["lo 0-3", "lo 4-7"]
    again = Positions(rows)
    again.start = validation.start  # as a resumed run does
    assert not again.due(1, 3) and again.due(3, 3)
    found = again.measure(other)
    assert found["positions_before"] == validation.start["rows"] != found["positions_after"]
    assert not again.due(2, 3) and "positions_after" not in again.measure(other)


def test_what_is_asked_for_after_a_resume_begins_then():
    """Measuring within the ordinary context may be new: what was measured before stays."""
    net = model.build(TINY | {"initializer_range": 0.3}, seed=2).eval()
    rows = evaluate.pack_by_position(texts(), edges=EDGES, eod=EOD, begin=[])
    before = Positions(rows)
    before.begin(net)
    heldout = evaluate.pack([("lo", [1, 2, 3], 3)], context=8, eod=EOD)
    after = Positions(rows, Validation(heldout, 2))
    after.start = {"rows": {"kept": 1.0}, "within": None}
    assert after.start is None
    after.begin(net)
    assert after.start == {"rows": {"kept": 1.0}, "within": after.within.start} and after.within.start
    assert before.start["within"] is None
