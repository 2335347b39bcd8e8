"""The sampler against a naive one that deals windows from explicit decks, and against itself at other world sizes."""

import math
from fractions import Fraction

import numpy as np
import pytest

from mixture.order.permute import derive, permute
from mixture.order.sampler import BLOCK, IGNORE, Sampler, rows
from mixture.store.token_store import TokenStore, append, write_store

CONTEXT, SEED, EOD = 12, 7, 0
SIZES = {"en": 150, "lo": 4, "th": 60, "vi": 90}  # documents
GROWN = {"lo": (9, 30), "th": (25,)}  # documents appended, time after time
WEIGHTS = {"en": 0.4, "lo": 0.1, "th": 0.3, "vi": 0.2}


def some_documents(name, n, first=0):
    rng = np.random.default_rng([len(name), first, n, *name.encode()])
    for d in range(first, first + n):
        yield f"{name}-{d}", name, 1, rng.integers(1, 500, rng.integers(0, 40))


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """Stores that were appended to, and their lengths after each append."""
    folder, stores, lengths = tmp_path_factory.mktemp("pools"), {}, {}
    for name, n in SIZES.items():
        uri = str(folder / name)
        lengths[name] = [write_store(uri, some_documents(name, n), 500, EOD)["tokens"]]
        for more in GROWN.get(name, ()):
            lengths[name].append(append(uri, some_documents(name, more, n))["tokens"])
            n += more
        stores[name] = TokenStore(uri)
    return stores, lengths


@pytest.fixture(scope="module")
def changed(pools):
    """A run in which everything happens: weights change twice, pools grow (one of them twice), documents are taken down."""
    _, lengths = pools
    schedule = [
        {"from_sample": 0, "weights": WEIGHTS, "tokens": {name: sizes[0] for name, sizes in lengths.items()}},
        {"from_sample": 333, "weights": {"lo": 0.3, "th": 0.7}},
        {"from_sample": 700, "weights": {"lo": 0.2, "th": 0.3, "vi": 0.5}, "tokens": {"lo": lengths["lo"][1]}},
        {"from_sample": 705, "weights": WEIGHTS, "tokens": {"lo": lengths["lo"][2], "th": lengths["th"][1]}},
        {"from_sample": 1500, "weights": {"lo": 5, "th": 5, "en": 1}},
    ]
    removed = [{"from_sample": 100, "doc_id": f"th-{d}"} for d in (3, 4, 40, 70)]
    removed += [{"from_sample": 0, "doc_id": "lo-2"}, {"from_sample": 900, "doc_id": "lo-11"}]
    return schedule, removed


class Naive:
    """Row after row from the first: counts by fractions, windows dealt from lists, documents found token by token."""

    def __init__(self, stores, schedule, removed):
        self.stores, self.schedule, self.removed = stores, schedule, removed
        self.names = sorted(stores)
        self.tokens = {n: stores[n].tokens[0 : stores[n].n_tokens].tolist() for n in self.names}
        self.owner = {n: [] for n in self.names}  # the document of each token
        for n in self.names:
            for document, length in zip(
                *stores[n].documents.select(["doc_id", "length"]).to_pydict().values(), strict=True
            ):
                self.owner[n] += [document] * length
        first = schedule[0].get("tokens", {})
        self.length = {n: first.get(n, stores[n].n_tokens) for n in self.names}
        self.deck = {n: [] for n in self.names}
        self.epoch = dict.fromkeys(self.names, -1)
        self.phase = dict.fromkeys(self.names, 0)

    def windows(self, name, first, n, key):
        """(start, tokens of the pool then) of the windows from token `first` to the end."""
        length = self.length[name]
        slack = length - first - 1 - n * CONTEXT
        offset = key % (slack + 1) if slack > 0 else 0
        return [(first + offset + w * CONTEXT, length) for w in range(n)]

    def deal(self, name):
        if not self.deck[name]:
            self.epoch[name] += 1
            n = max(1, (self.length[name] - 1) // CONTEXT)
            key = derive(SEED, "window", name, self.epoch[name])
            ordered = self.windows(name, 0, n, key)
            self.deck[name] = [ordered[permute(k, n, key)] for k in range(n)]
        return self.deck[name].pop(0)

    def grow(self, name, length):
        if length == self.length[name]:
            return
        first, self.length[name] = self.length[name], length
        self.phase[name] += 1
        if self.deck[name]:
            new = self.windows(
                name, first, (length - first - 1) // CONTEXT, derive(SEED, "new", name, self.phase[name])
            )
            cards = [*self.deck[name], *new]
            key = derive(SEED, "deck", name, self.phase[name])
            self.deck[name] = [cards[permute(k, len(cards), key)] for k in range(len(cards))]

    def counts(self, weights, n):
        left, total, counts = n, sum(Fraction(w) for w in weights), []
        for w in weights:
            counts.append(math.floor(Fraction(w) * left / total + Fraction(1, 2)) if w else 0)
            left, total = left - counts[-1], total - Fraction(w)
        return counts

    def rows(self, n):
        for number, entry in enumerate(self.schedule):
            for name, length in entry.get("tokens", {}).items():
                self.grow(name, length)
            total = sum(entry["weights"].values())
            # Weights are whole multiples of 2^-40: this is the only thing taken over as it is.
            weights = [round(entry["weights"].get(name, 0) / total * 2**40) for name in self.names]
            start = entry["from_sample"]
            end = self.schedule[number + 1]["from_sample"] if number + 1 < len(self.schedule) else n
            order = []
            for i in range(start, min(end, n)):
                block, slot = divmod(i - start, BLOCK)
                if slot == 0:
                    a, b = (self.counts(weights, BLOCK * (block + k)) for k in (0, 1))
                    names = [name for name, x, y in zip(self.names, a, b, strict=True) for _ in range(y - x)]
                    key = derive(SEED, "block", start, block)
                    order = [names[permute(k, BLOCK, key)] for k in range(BLOCK)]
                yield self.row(i, order[slot])

    def row(self, i, name):
        start, length = self.deal(name)
        gone = {change["doc_id"] for change in self.removed if change["from_sample"] <= i}
        ids, labels, docs = [], [], []
        for k in range(start, start + CONTEXT):
            here, following = divmod(k, length), divmod(k + 1, length)
            document = here[0], self.owner[name][here[1]]
            after = following[0], self.owner[name][following[1]]
            ids.append(EOD if document[1] in gone else self.tokens[name][here[1]])
            keep = document == after and document[1] not in gone
            labels.append(self.tokens[name][following[1]] if keep else IGNORE)
            docs.append(document)
        seen = list(dict.fromkeys(docs))
        return {"input_ids": ids, "labels": labels, "doc_ids": [seen.index(d) for d in docs]}, name


def test_equal_to_the_naive_sampler(pools, changed):
    stores, _ = pools
    sampler = Sampler(stores, changed[0], CONTEXT, SEED, changed[1])
    n = 4000
    batch = rows(sampler, list(range(n)))
    naive = Naive(stores, *changed)
    for i, (row, pool) in enumerate(naive.rows(n)):
        assert sampler.names[batch["pool"][i]] == pool, i
        for name, values in row.items():
            assert batch[name][i].tolist() == values, (i, name)
    assert i == n - 1
    assert naive.phase == {"en": 0, "lo": 2, "th": 1, "vi": 0} and min(naive.epoch.values()) >= 1


@pytest.mark.parametrize("world", [1, 2, 3, 8, 64])
def test_the_union_over_ranks_is_the_sequence(pools, changed, world):
    """Each row by exactly one rank, whatever the world; ranks are samplers of their own and know nothing of each other."""
    stores, _ = pools
    per_step, steps = 64, 25
    reference = rows(Sampler(stores, changed[0], CONTEXT, SEED, changed[1]), list(range(per_step * steps)))
    times = np.zeros(per_step * steps, int)
    seen = {name: np.full_like(value, -1) for name, value in reference.items()}
    for rank in range(world):
        sampler = Sampler(stores, changed[0], CONTEXT, SEED, changed[1])
        for step in range(steps):
            mine = list(range(step * per_step + rank, (step + 1) * per_step, world))
            times[mine] += 1
            for name, value in rows(sampler, mine).items():
                seen[name][mine] = value
    assert (times == 1).all()
    for name, value in reference.items():
        np.testing.assert_array_equal(seen[name], value)


def test_stopped_at_any_step_and_continued_at_another_world_size(pools, changed):
    stores, _ = pools
    per_step, steps = 48, 40
    reference = rows(Sampler(stores, changed[0], CONTEXT, SEED, changed[1]), list(range(per_step * steps)))
    rng = np.random.default_rng(0)
    for _ in range(4):
        stops = [0, *sorted(rng.choice(np.arange(1, steps), 4, replace=False).tolist()), steps]
        for a, b, world in zip(stops[:-1], stops[1:], rng.permutation([1, 2, 3, 8, 64])[:5].tolist(), strict=True):
            for rank in range(world):
                sampler = Sampler(stores, changed[0], CONTEXT, SEED, changed[1])  # a new process
                for step in range(a, b):
                    mine = list(range(step * per_step + rank, (step + 1) * per_step, world))
                    for name, value in rows(sampler, mine).items():
                        np.testing.assert_array_equal(value, reference[name][mine])


def equal(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_no_row_before_a_change_notices_it(pools, changed):
    stores, _ = pools
    schedule, removed = changed
    whole = Sampler(stores, schedule, CONTEXT, SEED, removed)
    for entry in range(1, len(schedule)):
        without, row = Sampler(stores, schedule[:entry], CONTEXT, SEED, removed), schedule[entry]["from_sample"]
        before = list(range(row))
        assert equal(rows(whole, before), rows(without, before))
        assert not equal(rows(whole, list(range(row, row + 200))), rows(without, list(range(row, row + 200))))


def test_an_append_changes_nothing_for_a_run_that_has_begun(tmp_path):
    uri = str(tmp_path / "th")
    n = write_store(uri, some_documents("th", 60), 500, EOD)["tokens"]
    schedule = [{"from_sample": 0, "weights": {"th": 1.0}, "tokens": {"th": n}}]
    before = rows(Sampler({"th": TokenStore(uri)}, schedule, CONTEXT, SEED), list(range(400)))
    append(uri, some_documents("th", 30, 60))
    store = TokenStore(uri)
    assert store.n_tokens > n
    assert equal(rows(Sampler({"th": store}, schedule, CONTEXT, SEED), list(range(400))), before)
    grown = Sampler(
        {"th": store}, [*schedule, {**schedule[0], "from_sample": 30, "tokens": {"th": store.n_tokens}}], CONTEXT, SEED
    )
    # The epoch under way goes on: what it had not read comes, new windows among it, and each once.
    old, new = (n - 1) // CONTEXT, (store.n_tokens - n - 1) // CONTEXT
    first = [grown.address(i) for i in range(old + new)]
    assert {at.epoch for at in first} == {0} and grown.address(old + new).epoch == 1
    starts = [at.start for at in first]
    assert len(set(starts)) == len(starts) and sum(start >= n for start in starts) == new
    assert all(start < n for start in starts[:30]) and any(start >= n for start in starts[30:45])
    second = {grown.address(i).start for i in range(old + new, old + new + (store.n_tokens - 1) // CONTEXT)}
    assert len(second) == (store.n_tokens - 1) // CONTEXT and max(second) > n


def test_a_take_down_moves_nothing(pools, changed):
    stores, _ = pools
    schedule, removed = changed
    gone = {change["doc_id"]: change["from_sample"] for change in removed}
    n = 1600
    with_it = Sampler(stores, schedule, CONTEXT, SEED, removed)
    a, b = rows(with_it, list(range(n))), rows(Sampler(stores, schedule, CONTEXT, SEED), list(range(n)))
    ids = {name: store.documents["doc_id"].to_pylist() for name, store in stores.items()}
    hit = 0
    for i in range(n):
        sample = with_it.sample(i)
        size = stores[sample.pool].documents_within(1 << 60)
        names = [ids[sample.pool][d % size] for d in sample.doc_index] if max(sample.doc_index) < size else None
        if names is None:
            continue  # a pool shorter than a row: the naive sampler has it
        mask = np.array([gone.get(name, n) <= i for name in names])
        hit += mask.any()
        assert (a["input_ids"][i][mask[:-1]] == EOD).all() and (a["labels"][i][mask[1:]] == IGNORE).all()
        np.testing.assert_array_equal(a["input_ids"][i][~mask[:-1]], b["input_ids"][i][~mask[:-1]])
        np.testing.assert_array_equal(a["labels"][i][~mask[1:]], b["labels"][i][~mask[1:]])
    assert hit > 20
    for name in ("doc_ids", "position_ids", "pool"):
        np.testing.assert_array_equal(a[name], b[name])
    assert equal(rows(with_it, list(range(n))), a)


class Trillion:
    """What a sampler needs of a pool to say where a row lies; its tokens are nowhere."""

    is_local = True

    def __init__(self, n_tokens):
        self.n_tokens = n_tokens


LONG, WIDE = 10**12 + 77, 4096  # tokens of a pool, and of a row


def test_addresses_in_a_pool_of_a_trillion_tokens():
    """No two rows of an epoch share a window, the epoch ends with its last row, and a change takes the deck along."""
    pools = {"a": Trillion(LONG + 10**11), "b": Trillion(3 * 10**11)}
    change = 10**8 + 321
    schedule = [
        {"from_sample": 0, "weights": {"a": 0.7, "b": 0.3}, "tokens": {"a": LONG, "b": 3 * 10**11}},
        {"from_sample": change, "weights": {"a": 1.0}, "tokens": {"a": LONG + 10**11}},
    ]
    sampler, before = Sampler(pools, schedule, WIDE, SEED), Sampler(pools, schedule[:1], WIDE, SEED)
    given = sampler.counts(change)
    assert sum(given.values()) == change and all(abs(given[n] - change * w) <= 1 for n, w in (("a", 0.7), ("b", 0.3)))
    assert all(sampler.address(i) == before.address(i) for i in range(change - 200, change))

    windows, more = (LONG - 1) // WIDE, (10**11 - 1) // WIDE
    deck = windows - given["a"] + more  # rows from the change to the end of the epoch under way
    key, new = derive(SEED, "deck", "a", 1), derive(SEED, "new", "a", 1)
    epoch = derive(SEED, "window", "a", 0)
    offset = epoch % (LONG - 1 - windows * WIDE + 1), new % (10**11 - 1 - more * WIDE + 1)
    seen = set()
    for rank in [*range(3000), *range(deck // 2, deck // 2 + 3000), *range(deck - 3000, deck)]:
        at = sampler.address(change + rank)
        card = permute(rank, deck, key)
        if card < deck - more:
            window = permute(given["a"] + card, windows, epoch)
            assert at == ("a", 0, offset[0] + window * WIDE)
        else:
            assert at == ("a", 0, LONG + offset[1] + (card - (deck - more)) * WIDE)
        assert at.start >= 0 and at.start + WIDE < LONG + 10**11
        seen.add(at.start)
    assert len(seen) == 9000
    assert sampler.address(change + deck).epoch == 1
    assert {before.address(i).start for i in range(3000)}.isdisjoint(seen)


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int32])
def test_a_row_number_of_numpy_is_the_same_number(kind):
    """Counts are taken in integers of any size; NumPy's would overflow after four million rows without a word."""
    pools = {"a": Trillion(LONG), "b": Trillion(LONG)}
    sampler = Sampler(pools, [{"from_sample": 0, "weights": {"a": 0.7, "b": 0.3}}], WIDE, SEED)
    for i in (5, 10**9, 2**31 - 1):
        assert sampler.address(kind(i)) == sampler.address(i)
        assert sampler.counts(kind(i)) == sampler.counts(i)
