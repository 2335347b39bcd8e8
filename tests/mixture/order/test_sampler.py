import pickle
from collections import Counter, defaultdict

import numpy as np
import pytest

from cluster import storage
from mixture.order.sampler import IGNORE, Address, Sampler, Share, rows
from mixture.order.schedule import quotas
from mixture.store.token_store import TokenStore, write_store

EOD = 0
CONTEXT = 16


def make_store(uri, n_documents, seed, vocab_size=1000):
    """Documents of 0..39 tokens; token ids rise through the pool, so that a token tells where it lay."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 40, n_documents)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    documents = (
        (f"{seed:04x}{d:028x}", "xx", int(n), 1 + np.arange(edges[d], edges[d + 1]) % (vocab_size - 1))
        for d, n in enumerate(lengths)
    )
    write_store(uri, documents, vocab_size, EOD)
    return TokenStore(uri)


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pools")
    sizes = {"th": 400, "vi": 900, "lo": 30, "en": 200}
    return {name: make_store(str(folder / name), n, seed) for seed, (name, n) in enumerate(sizes.items())}


WEIGHTS = {"th": 0.4, "vi": 0.33, "lo": 0.02, "en": 0.25}
SCHEDULE = [
    {"from_sample": 0, "weights": WEIGHTS},
    {"from_sample": 700, "weights": {"th": 0.1, "lo": 0.9}},
    {"from_sample": 701, "weights": {"en": 3.0, "vi": 1.0}},
]


def same(a, b):
    return a.pool == b.pool and np.array_equal(a.tokens, b.tokens) and np.array_equal(a.doc_index, b.doc_index)


def test_the_sequence_is_the_same_for_every_world_size(pools):
    batch, steps = 24, 40
    reference = rows(Sampler(pools, SCHEDULE, CONTEXT, seed=1), list(range(batch * steps)))
    for world in (1, 2, 3, 8):
        seen = {name: np.full_like(value, -1) for name, value in reference.items()}
        for rank in range(world):
            sampler = Sampler(pools, SCHEDULE, CONTEXT, seed=1)  # a process of its own
            for step in range(steps):
                mine = list(range(step * batch + rank, (step + 1) * batch, world))
                for name, value in rows(sampler, mine).items():
                    assert (seen[name][mine] == -1).all()
                    seen[name][mine] = value
        for name in reference:
            np.testing.assert_array_equal(seen[name], reference[name])


def test_any_row_can_be_asked_for_at_any_time(pools):
    forward = [Sampler(pools, SCHEDULE, CONTEXT, seed=1).sample(i) for i in range(900)]
    sampler = pickle.loads(pickle.dumps(Sampler(pools, SCHEDULE, CONTEXT, seed=1)))
    for i in np.random.default_rng(0).permutation(900):
        assert same(sampler.sample(int(i)), forward[i])


@pytest.mark.parametrize("seed", range(5))
def test_realised_proportions_never_drift(pools, seed):
    rng = np.random.default_rng(seed)
    weights = dict(zip(pools, rng.dirichlet(np.ones(4) * 0.3), strict=True))
    sampler = Sampler(pools, [{"from_sample": 0, "weights": weights}], CONTEXT, seed)
    for n in (256, 256 * 7, 256 * 1000, 256 * 10**9):
        counts = sampler.counts(n)
        assert sum(counts.values()) == n
        for name, weight in weights.items():
            # Half a row for each pool that is rounded, and what rounding the weight itself to 2**-40 costs.
            assert abs(counts[name] - weight * n) <= len(weights) / 2 + n * 2.0**-40
    tally = Counter(sampler.address(i).pool for i in range(1000))
    assert {name: tally[name] for name in weights} == sampler.counts(1000)
    for name, weight in weights.items():  # inside a block the order is random, so a little more
        assert abs(tally[name] - weight * 1000) <= 32


def test_quotas_are_monotone_and_sum_to_n():
    rng = np.random.default_rng(0)
    for _ in range(50):
        units = [int(u) for u in rng.integers(0, 50, 12) ** 3] + [1]
        before = [0] * len(units)
        for n in range(200):
            counts = quotas(units, n)
            assert sum(counts) == n
            assert all(b >= a for a, b in zip(before, counts, strict=True))
            assert all(count == 0 for count, unit in zip(counts, units, strict=True) if unit == 0)
            before = counts


def test_a_tiny_weight_is_not_lost(pools):
    sampler = Sampler(pools, [{"from_sample": 0, "weights": {"vi": 1.0, "lo": 1e-4}}], CONTEXT, seed=0)
    assert abs(sampler.counts(10**6)["lo"] - 100) <= 1


def test_every_window_once_per_epoch_across_weight_changes(pools):
    schedule = [
        {"from_sample": 0, "weights": WEIGHTS},
        {"from_sample": 333, "weights": {"lo": 0.2, "en": 0.8}},  # in the middle of a block
        {"from_sample": 1001, "weights": {"lo": 0.3, "en": 0.6, "th": 0.1}},
    ]
    sampler = Sampler(pools, schedule, CONTEXT, seed=5)
    windows = defaultdict(list)
    for i in range(3000):
        at = sampler.address(i)
        windows[at.pool, at.epoch].append(at.start)
    last = {pool: max(epoch for p, epoch in windows if p == pool) for pool in pools}
    assert last["lo"] > 3 and last["en"] > 3
    offsets = set()
    for (pool, epoch), starts in windows.items():
        assert len(set(starts)) == len(starts)
        assert len({start % CONTEXT for start in starts}) == 1
        offsets.add((pool, min(starts) % CONTEXT))
        if epoch < last[pool]:
            n_tokens = pools[pool].n_tokens
            assert len(starts) == (n_tokens - 1) // CONTEXT
            assert min(starts) >= 0 and max(starts) + CONTEXT + 1 <= n_tokens
            assert np.ptp(starts) == (len(starts) - 1) * CONTEXT
    assert len(offsets) > len(pools)  # the epochs of a pool are cut at different places
    first, second = windows["lo", 0], windows["lo", 1]
    assert [s // CONTEXT for s in first] != [s // CONTEXT for s in second]


def test_rows_are_the_tokens_at_their_address(pools):
    sampler = Sampler(pools, SCHEDULE, CONTEXT, seed=2)
    for i in (0, 1, 5, 699, 700, 701, 12_345):
        sample, at = sampler.sample(i), sampler.address(i)
        store = pools[at.pool]
        positions = np.arange(at.start, at.start + CONTEXT + 1)
        assert sample.pool == at.pool
        np.testing.assert_array_equal(sample.tokens, store.tokens[at.start : at.start + CONTEXT + 1])
        owners = np.searchsorted(store.starts, positions, side="right") - 1
        np.testing.assert_array_equal(sample.doc_index, owners)


def test_a_change_of_weights_leaves_the_rows_before_it_alone(pools):
    with_change = Sampler(pools, SCHEDULE, CONTEXT, seed=3)
    without = Sampler(pools, SCHEDULE[:1], CONTEXT, seed=3)
    assert all(same(with_change.sample(i), without.sample(i)) for i in range(700))
    assert with_change.address(700).pool in ("th", "lo")
    assert {with_change.address(i).pool for i in range(701, 1500)} == {"en", "vi"}
    counts = with_change.counts(701 + 3 * 256)
    assert counts["en"] - with_change.counts(701)["en"] == 3 * 192
    # The pools go on where they stopped: no window of the first epoch is read twice, and none is left out.
    ranks = Counter(
        at for at in (with_change.address(i) for i in range(701 + 3 * 256)) if at.epoch == 0 and at.pool == "vi"
    )
    assert max(ranks.values()) == 1
    assert len(ranks) == min(counts["vi"], (pools["vi"].n_tokens - 1) // CONTEXT)


def test_different_seeds_give_different_orders(pools):
    one, two = (Sampler(pools, SCHEDULE, CONTEXT, seed) for seed in (1, 2))
    assert sum(same(one.sample(i), two.sample(i)) for i in range(300)) < 15
    assert [one.address(i).pool for i in range(300)] != [two.address(i).pool for i in range(300)]


def test_known_rows_never_change(pools):
    """A change here silently reorders the data of every run."""
    sampler = Sampler(pools, SCHEDULE, CONTEXT, seed=42)
    got = [tuple(sampler.address(i)) for i in (0, 1, 255, 256, 700, 10_000)]
    assert got == [("th", 0, 6545), ("th", 0, 3425), ("vi", 0, 17777), ("vi", 0, 97), ("lo", 0, 355), ("en", 27, 1504)]


def test_packed_rows_by_hand(tmp_path):
    documents = [
        ("a", "th", 3, np.array([11, 12, 13])),
        ("b", "th", 1, np.array([21])),
        ("c", "th", 9, np.arange(31, 39)),
    ]
    write_store(str(tmp_path), iter(documents), 100, EOD)  # 11 12 13 0 | 21 0 | 31 .. 38 0
    schedule = [{"from_sample": 0, "weights": {"th": 1}}]
    sampler = Sampler({"th": TokenStore(str(tmp_path))}, schedule, context=7, seed=0)
    i = next(i for i in range(50) if sampler.address(i).start == 0)
    batch = rows(sampler, [i])
    assert batch["pool"].tolist() == [0]
    assert {name: (value.shape, value.dtype) for name, value in batch.items() if name != "pool"} == dict.fromkeys(
        ("input_ids", "labels", "doc_ids", "position_ids"), ((1, 7), np.dtype(np.int64))
    )
    assert batch["input_ids"][0].tolist() == [11, 12, 13, 0, 21, 0, 31]
    assert batch["labels"][0].tolist() == [12, 13, 0, IGNORE, 0, IGNORE, 32]
    assert batch["doc_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert batch["position_ids"][0].tolist() == list(range(7))


def test_labels_are_ignored_exactly_after_an_end_of_document(pools):
    sampler = Sampler(pools, SCHEDULE, CONTEXT, seed=4)
    batch = rows(sampler, list(range(400)))
    assert [sampler.names[pool] for pool in batch["pool"]] == [sampler.sample(i).pool for i in range(400)]
    assert len(set(batch["pool"])) > 1
    np.testing.assert_array_equal(batch["labels"] == IGNORE, batch["input_ids"] == EOD)
    inside = batch["labels"][:, :-1] != IGNORE
    np.testing.assert_array_equal(batch["labels"][:, :-1][inside], batch["input_ids"][:, 1:][inside])
    np.testing.assert_array_equal(np.diff(batch["doc_ids"]) > 0, batch["input_ids"][:, :-1] == EOD)
    assert (batch["doc_ids"][:, 0] == 0).all()


def test_a_pool_shorter_than_a_row_is_repeated(tmp_path):
    documents = [("a", "war", 3, np.array([11, 12])), ("b", "war", 1, np.array([21]))]
    write_store(str(tmp_path), iter(documents), 100, EOD)
    schedule = [{"from_sample": 0, "weights": {"war": 1}}]
    sampler = Sampler({"war": TokenStore(str(tmp_path))}, schedule, context=8, seed=0)
    sample = sampler.sample(3)
    assert sample.tokens.tolist() == [11, 12, 0, 21, 0, 11, 12, 0, 21]
    assert sample.doc_index.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3]
    assert sampler.address(3) == Address("war", 3, 0)
    assert rows(sampler, [3])["labels"][0].tolist() == [12, 0, IGNORE, 0, IGNORE, 12, 0, IGNORE]


def test_a_pool_of_exactly_one_row(tmp_path):
    write_store(str(tmp_path), iter([("a", "war", 3, np.arange(1, 9))]), 100, EOD)
    sampler = Sampler({"war": TokenStore(str(tmp_path))}, [{"from_sample": 0, "weights": {"war": 1}}], 8, seed=0)
    assert [sampler.sample(i).tokens.tolist() for i in range(3)] == [[1, 2, 3, 4, 5, 6, 7, 8, 0]] * 3


def test_object_storage_gives_the_same_rows(pools, tmp_path):
    folder = f"memory://sampler-{tmp_path.name}"
    remote = {name: make_store(f"{folder}/{name}", 50, seed) for seed, name in enumerate(("th", "vi"))}
    local = {name: make_store(str(tmp_path / name), 50, seed) for seed, name in enumerate(("th", "vi"))}
    schedule = [{"from_sample": 0, "weights": {"th": 0.5, "vi": 0.5}}]
    a, b = (rows(Sampler(stores, schedule, CONTEXT, seed=1), list(range(100))) for stores in (local, remote))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    storage.remove(folder)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([], "starts at sample 0"),
        ([{"from_sample": 5, "weights": {"th": 1}}], "starts at sample 0"),
        ([{"from_sample": 0, "weights": {"th": 1}}] * 2, "rises"),
        ([{"from_sample": 0, "weights": {"th": 0}}], "nor all 0"),
        ([{"from_sample": 0, "weights": {"th": float("nan")}}], "from sample 0"),
        ([{"from_sample": 0, "weights": {"xx": 1}}], "do not exist: xx"),
        ([{"from_sample": 0, "weights": {"empty": 1}}], "without tokens: empty"),
    ],
)
def test_wrong_schedules_are_refused(pools, tmp_path, schedule, message):
    write_store(str(tmp_path / "empty"), iter([]), 100, EOD)
    stores = pools | {"empty": TokenStore(str(tmp_path / "empty"))}
    with pytest.raises(ValueError, match=message):
        Sampler(stores, schedule, CONTEXT, seed=0)


def test_a_pool_without_weight_may_be_empty(pools, tmp_path):
    write_store(str(tmp_path / "empty"), iter([]), 100, EOD)
    stores = pools | {"empty": TokenStore(str(tmp_path / "empty"))}
    weights = {"th": 1.0, "empty": 0.0}
    assert Sampler(stores, [{"from_sample": 0, "weights": weights}], CONTEXT, seed=0).sample(0).pool == "th"
    with pytest.raises(ValueError, match="counted from 0"):
        Sampler(pools, SCHEDULE, CONTEXT, seed=0).sample(-1)


def documents_of(sampler, i):
    return [(share.document, share.tokens) for share in sampler.documents(i)]


def test_the_documents_of_a_row_are_counted(pools, tmp_path):
    sampler = Sampler(pools, SCHEDULE, CONTEXT, seed=2)
    for i in range(50):
        index = sampler.sample(i).doc_index[:-1].tolist()
        assert documents_of(sampler, i) == [(d, index.count(d)) for d in dict.fromkeys(index)]
    write_store(str(tmp_path), iter([("a", "war", 3, np.array([11, 12])), ("b", "war", 1, np.array([21]))]), 100, EOD)
    tiny = Sampler({"war": TokenStore(str(tmp_path))}, [{"from_sample": 0, "weights": {"war": 1}}], 8, seed=0)
    assert tiny.documents(3) == [Share(document=0, tokens=6), Share(document=1, tokens=2)]


def test_a_document_is_taken_down_by_hand(tmp_path):
    documents = [("a", "th", 3, np.array([11, 12])), ("b", "th", 1, np.array([21, 22])), ("c", "th", 9, np.array([31]))]
    write_store(str(tmp_path), iter(documents), 100, EOD)  # 11 12 0 | 21 22 0 | 31 0
    schedule = [{"from_sample": 0, "weights": {"th": 1}}]
    sampler = Sampler(
        {"th": TokenStore(str(tmp_path))}, schedule, context=7, seed=0, removed=[{"from_sample": 5, "doc_id": "b"}]
    )
    before, after = (rows(sampler, [i]) for i in (4, 5))
    assert before["input_ids"][0].tolist() == [11, 12, 0, 21, 22, 0, 31]
    assert before["labels"][0].tolist() == [12, 0, IGNORE, 22, 0, IGNORE, 0]
    assert after["input_ids"][0].tolist() == [11, 12, 0, 0, 0, 0, 31]
    assert after["labels"][0].tolist() == [12, 0, IGNORE, IGNORE, IGNORE, IGNORE, 0]
    np.testing.assert_array_equal(before["doc_ids"], after["doc_ids"])
    # A pool shorter than a row: the document goes in each repetition.
    longer = Sampler(
        {"th": TokenStore(str(tmp_path))}, schedule, context=12, seed=0, removed=[{"from_sample": 0, "doc_id": "a"}]
    )
    batch = rows(longer, [0])
    assert batch["input_ids"][0].tolist() == [0, 0, 0, 21, 22, 0, 31, 0, 0, 0, 0, 21]
    assert batch["labels"][0].tolist() == [-100, -100, -100, 22, 0, -100, 0, -100, -100, -100, -100, 22]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([{"th": 10**9}], "reads 1,000,000,000 tokens of pool th, which has"),
        ([{"th": 500}, {"th": 400}], "pool th cannot shrink from 500 to 400"),
        ([{"th": 0}], "without tokens: th"),
    ],
)
def test_wrong_lengths_are_refused(pools, tokens, message):
    schedule = [{"from_sample": 10 * k, "weights": {"th": 1, "vi": 1}, "tokens": t} for k, t in enumerate(tokens)]
    with pytest.raises(ValueError, match=message):
        Sampler(pools, schedule, CONTEXT, seed=0)
