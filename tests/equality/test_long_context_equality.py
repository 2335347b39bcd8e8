"""Rows behind an anchor are trained alike by one process and by two, apart or sharing each row, also after a stop, and what is
measured by position is the same."""

import functools
import json
from pathlib import Path

import pytest
import ranks
import torch
import torch.distributed as dist
from test_loop_equality import CONFIG, Killed, batch_fn, build

from train.batches import long_rows
from train.loop import fit
from train.methods import pretrain
from train.monitor.heldout_positions import Positions
from train.scores import evaluate

pytestmark = pytest.mark.slow

T, ANCHOR = 32, 3
RUNS = {
    "replicate": {},
    "fsdp": {"parallel": "fsdp"},
    "parts": {"context_parallel": 2, "parallel": "fsdp", "activation_checkpointing": "full"},
}


def packed(numbers):
    """One token less than a row has positions, and documents from 0."""
    batch = batch_fn(numbers)
    cut = {key: batch[key][:, 1:] for key in ("input_ids", "labels", "position_ids")}
    return batch | cut | {"doc_ids": batch["doc_ids"][:, :-1], "count": (cut["labels"] >= 0).sum()}


def train(uri, rows=packed, steps=8, mask="anchor", **more):
    """(records as far as they do not depend on the time, weights)"""
    ids = torch.randint(1, 127, (100,), generator=torch.Generator().manual_seed(4)).tolist()
    texts = {"lo": evaluate.Tokens(ids, [2] * 100), "th": evaluate.Tokens(ids[::-1][:70], [3] * 70)}
    validation = Positions(evaluate.pack_by_position(texts, edges=[8, 16, T], eod=0, begin=[ANCHOR]))
    settings = {"schedule": "constant", "micro_rows": 2, "steps": steps, **more}
    config = CONFIG.__class__(**{**CONFIG.__dict__, **settings})
    net, records = build(), []
    loss = functools.partial(pretrain.loss, mask=long_rows.attended(mask))
    fit(net, long_rows.batch_fn(rows, ANCHOR, mask), loss, config, uri, on_log=records.append, validation=validation)
    kept = ("step", "loss", "tokens", "attended_per_token", "positions_before", "positions_after")
    return [{key: r[key] for key in kept if key in r} for r in records], net


def rank_main(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    for name, more in RUNS.items():
        train(f"{folder}/{name}", steps=4, **more)
        records, _ = train(f"{folder}/{name}", **more)
        if rank == 0:
            Path(f"{folder}/{name}.json").write_text(json.dumps(records))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("ranks"))
    ranks.run(rank_main, (2, folder), 2)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(str(tmp_path_factory.mktemp("alone") / "run"))


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_that_were_stopped_are_one_that_was_not(two_ranks, alone, name):
    resumed = json.loads(Path(f"{two_ranks}/{name}.json").read_text())
    want = alone[0][4:]
    assert [r["step"] for r in resumed] == [5, 6, 7, 8] == [r["step"] for r in want]
    for got, one in zip(resumed, want, strict=True):
        assert got["loss"] == pytest.approx(one["loss"], rel=3e-6)
        assert (got["tokens"], got["attended_per_token"]) == (one["tokens"], one["attended_per_token"])
    for key in ("positions_before", "positions_after"):
        assert resumed[-1][key] == pytest.approx(want[-1][key], rel=2e-5)
        assert list(want[-1][key]) == [f"{lang} {at}" for lang in ("lo", "th") for at in ("0-7", "16-31", "8-15")]
    assert want[-1]["positions_before"] != want[-1]["positions_after"]


def test_a_killed_run_goes_on_bit_for_bit(tmp_path, alone):
    def killed(numbers):
        if numbers[0] >= 5 * CONFIG.rows_per_step:
            raise Killed
        return packed(numbers)

    with pytest.raises(Killed):
        train(str(tmp_path / "cut"), killed)
    records, net = train(str(tmp_path / "cut"))
    assert records == alone[0][4:]
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), alone[1].parameters(), strict=True))


def test_the_mask_matters(tmp_path, alone):
    for mask in ("intra_document", "full", "reset"):
        records, _ = train(str(tmp_path / mask), steps=2, mask=mask)
        assert records[0]["loss"] != pytest.approx(alone[0][0]["loss"], rel=1e-5), mask
