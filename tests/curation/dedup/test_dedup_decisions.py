"""What deduplication decides of rows that are together: order by length, pairs with what is known of their documents."""

import numpy as np
import pyarrow as pa

from curation.dedup import decisions
from curation.dedup.schema import PAIRS, RANKED, SIDES


def test_classes_of_length_fall_and_equal_lengths_share_one():
    lengths = np.unique(np.concatenate([np.arange(5000), np.geomspace(5000, 2**31 - 1, 5000).astype(np.int64)]))
    classes = decisions.length_class(lengths)
    assert (np.diff(classes) <= 0).all() and classes.min() >= 0
    np.testing.assert_array_equal(classes, decisions.length_class(lengths.astype(np.int32)))
    assert len(np.unique(classes[lengths < 4096])) == 4096  # a short length is a class of its own


def test_no_class_holds_much_of_a_corpus():
    """Documents of one class are ranked by one worker, which can hold some millions: a thousandth of billions."""
    lengths = np.random.default_rng(0).lognormal(np.log(2000), 1.0, 1_000_000).astype(np.int64)
    assert np.bincount(decisions.length_class(lengths)).max() < 1000


def test_ids_are_in_range_and_in_order():
    lengths = np.array([0, 1, 4095, 2**31 - 1])
    ids = decisions.length_class(lengths) * decisions.STEP
    assert (np.diff(ids) < 0).all() and ids.min() >= 0
    meeting = decisions.meeting(ids + decisions.STEP - 1, ids)  # a * MEETINGS must fit too
    assert (meeting >= 0).all() and len(set(meeting.tolist())) == len(ids)


def test_a_star_of_many_pairs_comes_in_chunks(monkeypatch):
    """A sketch of 256 bytes for each of nine million pairs would not fit offsets of 32 bits."""
    monkeypatch.setattr(decisions, "PAIRS_AT_ONCE", 10)
    n = 35
    documents = pa.table(
        {
            "id": np.arange(n),
            "part": np.zeros(n, np.int32),
            "row": np.arange(n),
            "doc_id": [f"d{i}" for i in range(n)],
            "sketch": [bytes([i] * 4) for i in range(n)],
        },
        schema=pa.schema([field for field in RANKED if field.name != "bands"]),
    )
    a, b = np.repeat([0, 3], [30, 4]), np.concatenate([np.arange(1, 31), np.arange(4, 8)])
    shuffled = np.random.default_rng(1).permutation(len(a))
    found = decisions.with_first(pa.table([a[shuffled], b[shuffled]], schema=PAIRS), documents)
    assert found.schema == SIDES and found.num_rows == 34
    assert found["b"].to_pylist() == b.tolist() and found["a"].to_pylist() == a.tolist()
    assert found["sketch_a"].to_pylist() == [bytes([i] * 4) for i in a] and found["row"].null_count == 34
    assert max(chunk.nbytes for chunk in found["sketch_a"].chunks) <= 10 * 4 + 11 * 4
    assert decisions.with_first(PAIRS.empty_table(), documents).num_rows == 0


def test_values_that_are_taken_often_come_in_pieces(monkeypatch):
    """Sets of shingles of one part, each for all pairs of its document, may be more than an Arrow array of 2 GB holds."""
    monkeypatch.setattr(decisions, "PIECE_BYTES", 100)
    values = [bytes([i]) * (i * 7 % 60) for i in range(40)]
    column = pa.chunked_array([values[:15], values[15:]], pa.binary())
    at = np.random.default_rng(3).integers(0, 40, 300)
    taken = decisions.taken(column, at)
    assert taken.type == pa.binary() and taken.to_pylist() == [values[i] for i in at]
    assert max(sum(map(len, chunk.to_pylist())) for chunk in taken.chunks) < 200
    assert decisions.taken(column, at[:0]).to_pylist() == []
