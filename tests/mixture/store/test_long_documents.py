import pickle

import numpy as np
import pytest

from mixture.order.sampler import IGNORE, Sampler, rows
from mixture.store.long_documents import LongDocuments, open_pool
from mixture.store.token_store import TokenStore, append, write_store

EOD, LEAST = 0, 40


def documents(first, n):
    rng = np.random.default_rng(first)
    for d in range(first, first + n):
        yield f"d{d}", "th", 1, rng.integers(1, 900, rng.integers(0, 80))


@pytest.fixture
def folder(tmp_path):
    write_store(str(tmp_path / "all" / "th"), documents(0, 60), 1000, EOD)
    return str(tmp_path)


def long_documents(store, least):
    """Naive: (row, tokens with the end token) of the documents that are long enough."""
    found = [(d, np.append(ids, EOD)) for d, (_, ids) in enumerate(store)]
    return [(d, ids) for d, ids in found if len(ids) >= least]


def test_its_tokens_are_those_of_the_long_documents_end_to_end(folder):
    store, pool = TokenStore(folder + "/all/th"), open_pool(folder, f"all/th>={LEAST}")
    found = long_documents(store, LEAST)
    flat = np.concatenate([ids for _, ids in found])
    owner = np.concatenate([np.full(len(ids), d) for d, ids in found])
    assert 5 < len(found) < 50 and pool.n_documents == len(found) and pool.n_tokens == len(pool.tokens) == len(flat)
    rng = np.random.default_rng(1)
    for start, stop in [(0, len(flat)), *np.sort(rng.integers(0, len(flat), (60, 2))).tolist()]:
        np.testing.assert_array_equal(pool.tokens[start:stop], flat[start:stop])
        if stop > start:
            np.testing.assert_array_equal(pool.long[pool.documents_between(start, stop)], owner[start:stop])
    for n in (0, 1, 200, len(flat)):
        assert pool.documents_within(n) == len(set(owner[:n]))
    assert pool.doc_ids([4, 1]) == {k: f"d{found[k][0]}" for k in (1, 4)}
    assert pool.rows_of([f"d{found[2][0]}", "x"]) == {2: f"d{found[2][0]}"}
    assert pickle.loads(pickle.dumps(pool)).n_tokens == len(flat)


def test_a_share_of_rows_is_of_long_documents(folder):
    names = ("all/th", f"all/th>={LEAST}")
    pools = {name: open_pool(folder, name) for name in names}
    assert isinstance(pools[names[1]], LongDocuments)
    schedule = [{"from_sample": 0, "weights": {names[0]: 0.25, names[1]: 0.75}}]
    removed = [{"from_sample": 600, "doc_id": f"d{pools[names[1]].long[3]}"}]
    sampler, n = Sampler(pools, schedule, 32, 7, removed), 1024
    assert sampler.counts(n) == {names[0]: 256, names[1]: 768}
    lengths = np.diff(pools["all/th"].starts)
    batch, hit = rows(sampler, list(range(n))), 0
    for i in range(n):
        sample = sampler.sample(i)
        if sample.pool == names[1]:
            assert (lengths[pools[names[1]].long[sample.doc_index]] >= LEAST).all()
            shares = sampler.documents(i)
            assert [s.document for s in shares] == list(dict.fromkeys(sample.doc_index[:-1].tolist()))
            mine = sample.doc_index == 3
            if i >= 600 and mine.any():
                hit += 1
                assert (sample.tokens[mine] == EOD).all() and (batch["labels"][i][mine[1:]] == IGNORE).all()
            assert len(shares) <= 2 and batch["doc_ids"][i].max() == len(shares) - 1
    assert hit


def test_appended_documents_follow(folder):
    before = open_pool(folder, "all/th>=40")
    tokens = before.tokens[:].copy()
    append(folder + "/all/th", documents(60, 30))
    after = open_pool(folder, "all/th>=40")
    assert after.n_tokens > before.n_tokens
    np.testing.assert_array_equal(after.tokens[: len(tokens)], tokens)


def test_names(folder):
    assert isinstance(open_pool(folder, "all/th"), TokenStore)
    assert open_pool(folder, "all/th>=100000").n_tokens == 0
    for wrong, message in (
        ("all/th>=", "comes a number"),
        ("all/th>=-3", "comes a number"),
        ("all/xx>=3", "no complete"),
    ):
        with pytest.raises(ValueError, match=message):
            open_pool(folder, wrong)
