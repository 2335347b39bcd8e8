"""Two filters, small models, shared rows: a bad filter is found, one that chooses among equal documents is not.

How often that goes wrong is counted by benchmarks/experiment_ablate.py, in 120 trials."""

import grammars
import numpy as np
import pytest
import torch

from ray_jobs.experiment import ablate
from ray_jobs.experiment.statistics import difference

SEEDS = (42, 43, 44)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    return {
        "good": grammars.documents(rng, 300, "good"),
        "rubbish": grammars.documents(rng, 75, "rubbish", good=False),
        "heldout": grammars.documents(rng, 15, "held"),
    }


def compared(ours, other, heldout):
    return difference(*ablate.scores(ours, other, heldout, grammars.setting(60), SEEDS))


def test_a_bad_filter_is_found(corpus):
    good, rng = corpus["good"], np.random.default_rng(1)
    bad = grammars.without(rng, good, 0.2) | corpus["rubbish"]
    found = compared(bad, good, corpus["heldout"])
    assert found.shown and found.value > 0.02
    assert (found.seeds, found.items) == (3, 30)


def test_filters_that_choose_among_equal_documents_do_not_differ(corpus):
    rng = np.random.default_rng(2)
    sides = [grammars.without(rng, corpus["good"], 0.2) for _ in range(2)]
    assert not compared(*sides, corpus["heldout"]).shown


def test_a_filter_beside_itself_is_0(corpus):
    found = difference(
        *ablate.scores(corpus["good"], corpus["good"], corpus["heldout"], grammars.setting(3), SEEDS[:2])
    )
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_rows_differ_only_where_documents_do(corpus, tmp_path, share):
    """Of the rows of both arms those that are not equal are made of documents that one arm alone has, or stand in for such."""
    rng, setting = np.random.default_rng(3), grammars.setting(40)
    ours = corpus["good"]
    other = grammars.without(rng, ours, share)
    batches = [one(list(range(setting.rows))) for one in ablate.shared_batches(ours, other, str(tmp_path), setting, 1)]
    alike = torch.stack([ours == other for ours, other in zip(*(b["input_ids"] for b in batches), strict=True)]).all(1)
    assert abs((~alike).float().mean() - share) < 0.06
    for batch in batches:
        assert (batch["labels"] >= -100).all() and batch["input_ids"].shape == (160, 32)
    again = ablate.shared_batches(ours, other, str(tmp_path / "again"), setting, 1)[0]([7, 3])
    assert torch.equal(again["input_ids"], batches[0]["input_ids"][[7, 3]])


def test_every_seed_has_documents_of_its_own_and_no_held_out_one(corpus):
    good = corpus["good"]
    heldout = dict(list(good.items())[:50])
    parts = [set(ablate.part(good, number, 3, heldout)) for number in range(3)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(good) - 50
    assert not set.union(*parts) & set(heldout)
    assert min(map(len, parts)) > len(good) / 4


def test_bits_per_byte_count_every_token_and_the_end(corpus):
    """A model that knows nothing has ln(vocabulary) nats a token."""
    heldout = corpus["heldout"]
    test = ablate.measured(heldout, grammars.setting())
    key, document = next(iter(heldout.items()))
    assert sum(batch["labels"].numel() for batch in test[key]) == len(document.ids) + 1
    assert torch.cat([batch["labels"][0] for batch in test[key]]).tolist() == [*document.ids, grammars.EOD]
    found = ablate.bits_per_byte(np.full(len(heldout), np.log(48)), heldout)
    assert found[key] == pytest.approx(np.log2(48) * (len(document.ids) + 1) / document.bytes)


def test_a_filter_that_leaves_a_language_without_documents_is_said(corpus, tmp_path):
    good = corpus["good"]
    other = {key: one for key, one in good.items() if one.lang == "aa"}
    with pytest.raises(ValueError, match="keeps no document of bb"):
        ablate.shared_batches(good, other, str(tmp_path), grammars.setting(2), 1)
