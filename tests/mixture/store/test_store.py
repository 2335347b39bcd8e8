import pickle
from pathlib import Path

import numpy as np
import pytest

from cluster import storage
from mixture.store import token_store
from mixture.store.token_store import TokenStore, append, write_store

DOCUMENTS = [
    ("a" * 32, "th", 30, np.array([5, 6, 7], np.uint32)),
    ("b" * 32, "lo", 0, np.array([], np.uint32)),
    ("c" * 32, "th", 11, np.array([9], np.uint32)),
]


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "store")
    else:
        uri = f"memory://test-store-{tmp_path.name}"
        yield uri
        storage.remove(uri)


def test_layout_of_three_documents(folder):
    meta = write_store(folder, iter(DOCUMENTS), vocab_size=100, eod=0)
    store = TokenStore(folder)
    assert (store.n_tokens, store.n_documents, store.n_bytes, store.eod, store.vocab_size) == (7, 3, 41, 0, 100)
    assert store.tokens[0:7].tolist() == [5, 6, 7, 0, 0, 9, 0]
    assert store.tokens[2:4].tolist() == [7, 0]
    assert store.tokens[5:5].tolist() == []
    assert store.starts.tolist() == [0, 4, 5, 7]
    assert store.documents.to_pylist()[2] == {"doc_id": "c" * 32, "lang": "th", "start": 5, "length": 2, "bytes": 11}
    assert meta["languages"] == {
        "lo": {"documents": 1, "tokens": 1, "bytes": 0},
        "th": {"documents": 2, "tokens": 6, "bytes": 41},
    }
    assert [ids.tolist() for _, ids in store] == [[5, 6, 7], [], [9]]
    store.verify()


def test_document_of_every_position(folder):
    write_store(folder, iter(DOCUMENTS), vocab_size=100, eod=0)
    store = TokenStore(folder)
    owners = [0, 0, 0, 0, 1, 2, 2]
    for start in range(7):
        for stop in range(start + 1, 8):
            assert store.documents_between(start, stop).tolist() == owners[start:stop]
        assert store.documents_within(start) == len(set(owners[:start]))


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "uint16"), (65_537, "uint32"), (151_936, "uint32")])
def test_dtype_follows_the_vocabulary(tmp_path, vocab_size, dtype):
    top = vocab_size - 1
    write_store(str(tmp_path), iter([("d", "en", 1, np.array([top]))]), vocab_size, eod=0)
    store = TokenStore(str(tmp_path))
    assert store.tokens[:].dtype == dtype
    assert store.tokens[:].tolist() == [top, 0]


def test_same_documents_give_the_same_bytes(tmp_path):
    rng = np.random.default_rng(0)
    documents = [(f"{i:032x}", "id", i, rng.integers(0, 900, rng.integers(0, 50))) for i in range(500)]
    for name in ("one", "two"):
        write_store(str(tmp_path / name), iter(documents), 1000, eod=3)
    for file in ("tokens.bin", "documents.parquet", "store.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_more_documents_than_a_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr("mixture.store.token_store.ROW_GROUP", 7)
    documents = [(str(i), "vi", 1, np.array([i])) for i in range(20)]
    write_store(str(tmp_path), iter(documents), 100, eod=99)
    store = TokenStore(str(tmp_path))
    assert store.documents["doc_id"].to_pylist() == [str(i) for i in range(20)]
    assert store.doc_ids([19, 3, 7, 3]) == {3: "3", 7: "7", 19: "19"} and store.doc_ids([]) == {}
    assert store.rows_of(["13", "0", "x"]) == {0: "0", 13: "13"}
    assert store.tokens[:].reshape(-1, 2).tolist() == [[i, 99] for i in range(20)]


def test_empty_store(folder):
    write_store(folder, iter([]), 100, eod=0)
    store = TokenStore(folder)
    assert (store.n_tokens, store.n_documents, list(store)) == (0, 0, [])
    assert len(store.tokens[0:5]) == 0


def test_a_copy_in_another_process_opens_the_files_again(tmp_path):
    write_store(str(tmp_path), iter([("d", "en", 1, np.arange(10_000) % 7)]), 100, eod=0)
    store = TokenStore(str(tmp_path))
    assert len(store.tokens) == 10_001
    data = pickle.dumps(store)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).tokens, store.tokens)


def test_truncated_or_changed_files_are_refused(tmp_path):
    write_store(str(tmp_path), iter(DOCUMENTS), 100, eod=0)
    tokens = Path(tmp_path / "tokens.bin")
    whole = tokens.read_bytes()
    tokens.write_bytes(whole[:-2])
    with pytest.raises(ValueError, match=r"tokens\.bin has 12 bytes instead of 14"):
        TokenStore(str(tmp_path))
    tokens.write_bytes(whole[:-2] + b"\x01\x00")
    store = TokenStore(str(tmp_path))
    with pytest.raises(ValueError, match=r"content of tokens\.bin"):
        store.verify()


def test_a_store_that_was_not_finished_is_not_a_store(tmp_path):
    write_store(str(tmp_path), iter(DOCUMENTS), 100, eod=0)

    def broken():
        yield DOCUMENTS[0]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_store(str(tmp_path), broken(), 100, eod=0)
    with pytest.raises(ValueError, match=r"store\.json is missing"):
        TokenStore(str(tmp_path))


@pytest.mark.parametrize("ids", [[100], [-1], [3, 2**32]])
def test_tokens_outside_the_vocabulary_are_refused(tmp_path, ids):
    with pytest.raises(ValueError, match="outside the vocabulary"):
        write_store(str(tmp_path), iter([("d", "en", 1, np.array(ids))]), 100, eod=0)
    with pytest.raises(ValueError, match="end-of-document"):
        write_store(str(tmp_path), iter([]), 100, eod=100)


def random_documents(n, seed=0, first=0):
    rng = np.random.default_rng(seed)
    return [(f"{first + i:032x}", "id", i, rng.integers(0, 900, rng.integers(0, 50))) for i in range(n)]


def test_appended_documents_follow_and_move_nothing(folder):
    old, new, newest = random_documents(40), random_documents(30, 1, 40), random_documents(3, 2, 70)
    write_store(folder, iter(old), 1000, eod=3)
    before = TokenStore(folder)
    tokens, starts = before.tokens[:].copy(), before.starts.copy()
    written = {name: storage.read_bytes(storage.join(folder, name)) for name in before.meta["files"]}
    append(folder, iter(new))
    assert append(folder, iter([])) == append(folder, iter([]))  # nothing to add changes nothing
    append(folder, iter(newest))
    store = TokenStore(folder)
    store.verify()
    assert store.segments == 3 and store.n_documents == 73
    np.testing.assert_array_equal(store.tokens[: before.n_tokens], tokens)
    np.testing.assert_array_equal(store.starts[: len(starts)], starts)
    assert all(storage.read_bytes(storage.join(folder, name)) == data for name, data in written.items())
    write_store(folder + "-whole", iter([*old, *new, *newest]), 1000, eod=3)
    whole = TokenStore(folder + "-whole")
    assert whole.documents == store.documents and whole.languages == store.languages
    flat = whole.tokens[:]
    for start, stop in [(0, len(flat)), (len(tokens) - 5, len(tokens) + 7), (len(tokens), len(tokens) + 1), (9, 9)]:
        np.testing.assert_array_equal(store.tokens[start:stop], flat[start:stop])
        assert store.tokens[start:stop].dtype == flat.dtype
    assert store.rows_of([f"{i:032x}" for i in (0, 39, 40, 72, 99)]) == {i: f"{i:032x}" for i in (0, 39, 40, 72)}
    assert store.doc_ids([0, 39, 40, 72]) == {i: f"{i:032x}" for i in (0, 39, 40, 72)}
    np.testing.assert_array_equal(before.tokens[:], tokens)  # who had it open sees what was there
    storage.remove(folder + "-whole")


@pytest.mark.parametrize("most", [1, 26, 27, 400, 10**6])
def test_a_large_store_is_written_in_segments(folder, monkeypatch, most):
    """No file is larger than about `SEGMENT_TOKENS`, one at a time lies on the local disk, and the addresses are the same."""
    old, new = random_documents(60), random_documents(40, 1, 60)
    write_store(folder, iter(old), 1000, eod=3)
    append(folder, iter(new))
    plain = TokenStore(folder)
    monkeypatch.setattr(token_store, "SEGMENT_TOKENS", most)
    cut = folder + "-cut"
    write_store(cut, iter(old), 1000, eod=3)
    append(cut, iter(new))
    append(cut, iter([]))
    store = TokenStore(cut)
    store.verify()
    lengths = [segment["tokens"] for segment in store.meta["segments"]]
    longest = max(len(ids) + 1 for *_, ids in old + new)
    assert max(lengths) < most + longest and store.segments >= min(100, plain.n_tokens // (most + longest))
    assert all(segment["documents"] for segment in store.meta["segments"])
    assert {n: store.meta[n] for n in ("tokens", "documents", "bytes", "languages")} == {
        n: plain.meta[n] for n in ("tokens", "documents", "bytes", "languages")
    }
    np.testing.assert_array_equal(store.tokens[:], plain.tokens[:])
    np.testing.assert_array_equal(store.starts, plain.starts)
    assert store.documents == plain.documents
    found = [uri.rsplit("/", 1)[-1] for uri in storage.glob(storage.join(cut, "*"))]
    assert sorted(found) == sorted([*store.meta["files"], "store.json"])  # nothing else is left there
    write_store(cut, iter([]), 1000, eod=3)
    assert TokenStore(cut).n_tokens == 0 and len(storage.glob(storage.join(cut, "*"))) == 4
    storage.remove(cut)


def test_an_append_that_was_cut_off_leaves_the_store_as_it_was(tmp_path):
    write_store(str(tmp_path), iter(DOCUMENTS), 100, eod=0)
    before = (tmp_path / "store.json").read_bytes()

    def broken():
        yield ("d" * 32, "th", 1, np.array([1]))
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        append(str(tmp_path), broken())
    assert (tmp_path / "store.json").read_bytes() == before
    with pytest.raises(ValueError, match="outside the vocabulary"):
        append(str(tmp_path), iter([("d" * 32, "th", 1, np.array([100]))]))
    append(str(tmp_path), iter([("e" * 32, "th", 1, np.array([8]))]))
    assert TokenStore(str(tmp_path)).tokens[:].tolist() == [5, 6, 7, 0, 0, 9, 0, 8, 0]
    write_store(str(tmp_path), iter(DOCUMENTS), 100, eod=0)  # written anew, nothing of the appended is left
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "documents.parquet",
        "store.json",
        "tokens.bin",
        "tokens.xxh3",
    ]


def test_a_changed_byte_is_found_and_its_block_named(folder):
    ids = np.random.default_rng(0).integers(0, 60_000, 150_000)
    write_store(folder, iter([("d" * 32, "th", 9, ids)]), 65_536, eod=0)
    assert TokenStore(folder).meta["files"]["tokens.xxh3"]["bytes"] == 5 * 8
    path = storage.join(folder, "tokens.bin")
    data = bytearray(storage.read_bytes(path))
    data[2 * 65_536 + 17] ^= 1
    storage.write_bytes(path, bytes(data))
    store = TokenStore(folder)
    with pytest.raises(ValueError, match=r"content of tokens\.bin .* in bytes 131072\.\.196607"):
        store.verify()
    if not storage.is_local(folder):
        np.testing.assert_array_equal(store.tokens[100:50_000], ids[100:50_000])
        for _ in range(2):  # a refused block is asked for again, not remembered
            with pytest.raises(ValueError, match=r"tokens\.bin: bytes 131072\.\.196607 are not what was written"):
                store.tokens[65_000:66_000]
        data[2 * 65_536 + 17] ^= 1
        storage.write_bytes(path, bytes(data))
        np.testing.assert_array_equal(store.tokens[65_000:66_000], ids[65_000:66_000])


def test_a_store_of_another_format_is_refused(tmp_path):
    meta = write_store(str(tmp_path), iter(DOCUMENTS), 100, eod=0)
    storage.write_json(str(tmp_path / "store.json"), {**meta, "format": 1})
    with pytest.raises(ValueError, match="format 1, not 2; tokenize again"):
        TokenStore(str(tmp_path))
