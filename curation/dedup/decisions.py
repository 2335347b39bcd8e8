"""What deduplication decides once the rows of one key are together: functions of Arrow tables, the same on every engine.

No decision looks at which part a document came from or at the order of rows: any split of a corpus gives the same.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.dedup.components import connected_components, star_pairs
from curation.dedup.minhash import jaccard_estimate
from curation.dedup.schema import CUTS, DROPS, FREQUENT, JUDGED, PAGES, PAIRS, RANKED, SIDES
from curation.dedup.substring import repeats

STEPS = 4096  # classes of length in one octave: the largest then holds less than a thousandth of a corpus
OCTAVES = 32
STEP = 1 << 34  # ids of one class
UNSURE = 0.1  # estimates this far from the threshold are checked on texts: 3.5 standard errors of 256 functions at 0.7
EARLIER = 4  # those of an earlier run that share a band key are no near-duplicates of one another, so they are few
PAIRS_AT_ONCE = 1 << 20  # whose sketches lie in one Arrow array: it ends at 2 GB, and a document may have more pairs
PIECE_BYTES = 1 << 30
MEETINGS = 256  # places where the documents of one pair meet, so that a star of a million is spread

ORDER = [("length", "descending"), ("doc_id", "ascending"), ("tie", "ascending")]
"""The order of documents: the longest first, then the smallest id. `part` and `row` come last: what is equal in all
columns before is one record read twice."""


def length_class(length: np.ndarray) -> np.ndarray:
    """A number that falls to 0 as documents get longer, int64 [N]; equal lengths have equal classes."""
    fraction, octave = np.frexp(length.astype(np.float64) + 1)
    return OCTAVES * STEPS - 1 - (octave.astype(np.int64) - 1) * STEPS - ((fraction * 2 - 1) * STEPS).astype(np.int64)


def one_a_page(keys: pa.Table, earlier: list[pa.Table]) -> pa.Table:
    """KEYS of whole pages to PAGES: of the documents of one page the first in order stays.

    Rule `url_duplicate`, or `repeated_id` where the same record was read twice; value and threshold are the characters
    of the one that goes and of the one that stays, whose doc_id is the detail. A page that an earlier run kept
    (EARLIER_PAGES of each) loses all documents: `url_duplicate_earlier`, `repeated_id_earlier`.
    """
    keys = keys.sort_by([("page", "ascending"), *ORDER, ("part", "ascending"), ("row", "ascending")])
    page = keys["page"].to_numpy()
    new = np.concatenate([[True], page[1:] != page[:-1]])[: len(page)]
    winner = pa.array(np.flatnonzero(new)[np.cumsum(new) - 1])
    best = keys.select(["doc_id", "length"]).take(winner)
    rule = pc.if_else(pc.equal(keys["doc_id"], best["doc_id"]), "repeated_id", "url_duplicate")
    for index in reversed(earlier):  # the first index that has a page names its document
        at, found = _find(index["page"].to_numpy(), page)
        if not found.any():
            continue
        one = index.take(pa.array(at))
        same = pc.equal(keys["doc_id"], one["doc_id"])
        rule = pc.if_else(found, pc.if_else(same, "repeated_id_earlier", "url_duplicate_earlier"), rule)
        name = pc.binary_join_element_wise(one["snapshot"], one["doc_id"], ":")
        best = pa.table(
            [pc.if_else(found, name, best["doc_id"]), pc.if_else(found, one["length"], best["length"])],
            names=["doc_id", "length"],
        )
        new &= ~found
    stays = pa.array(new)
    verdict = {"rule": rule, "value": keys["length"], "threshold": best["length"], "detail": best["doc_id"]}
    for name, column in verdict.items():
        nothing = pa.scalar(None, PAGES.field(name).type)
        keys = keys.append_column(name, pc.if_else(stays, nothing, column.cast(nothing.type)))
    return keys


def _find(sorted_keys: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each key is, and whether it is."""
    if not len(sorted_keys):
        return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return at, sorted_keys[at] == keys


def ranked(pages: pa.Table) -> pa.Table:
    """Documents of whole classes of length to RANKED: ids rise in the order of documents."""
    pages = pages.sort_by([*ORDER, ("part", "ascending"), ("row", "ascending")])
    kind = length_class(pages["length"].to_numpy())
    place = np.arange(len(kind)) - np.searchsorted(kind, kind)
    return pages.append_column("id", pa.array(kind * STEP + place)).select(RANKED.names)


def candidates(bands: pa.Table, earlier: list[pa.Table]) -> pa.Table:
    """Pairs (PAIRS) of whole bands of `key` and `id`: the first document of a key with each of the others, once.

    And each document with the first `EARLIER` of the documents of every earlier run (EARLIER_BANDS) that have the key.
    """
    key, b = bands["key"].to_numpy(), bands["id"].to_numpy()
    pairs = [star_pairs(key, b)]
    for index in earlier:
        known, ids = index["key"].to_numpy(), index["id"].to_numpy()
        low, high = np.searchsorted(known, key), np.searchsorted(known, key, "right")
        for i in range(EARLIER):
            here = low + i < high
            pairs.append((ids[(low + i)[here]], b[here]))
    return distinct_pairs(*(np.concatenate(side) for side in zip(*pairs, strict=True)))


def distinct_pairs(a: np.ndarray, b: np.ndarray) -> pa.Table:
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    new = np.concatenate([[True], (a[1:] != a[:-1]) | (b[1:] != b[:-1])])[: len(a)]
    return pa.table([a[new], b[new]], schema=PAIRS)


def with_first(pairs: pa.Table, documents: pa.Table) -> pa.Table:
    """Pairs (PAIRS, perhaps repeated) with what RANKED documents say of `a`; SIDES with the columns of `b` null."""
    pairs = distinct_pairs(pairs["a"].to_numpy(), pairs["b"].to_numpy())
    found = _of(documents, pairs["a"].to_numpy())
    columns = {"part_a": found["part"], "row_a": found["row"], "detail": found["doc_id"], "sketch_a": found["sketch"]}
    return sides(pairs, columns)


def sides(pairs: pa.Table, columns: dict) -> pa.Table:
    """SIDES of pairs and of the columns that are known."""
    known = {**{name: pairs[name] for name in ("a", "b")}, **columns}
    return pa.table([known.get(f.name, pa.nulls(pairs.num_rows, f.type)) for f in SIDES], schema=SIDES)


def judged(pairs: pa.Table, documents: pa.Table) -> pa.Table:
    """SIDES and the RANKED documents of all `b` to JUDGED."""
    found = _of(documents, pairs["b"].to_numpy())
    estimate = np.zeros(0)
    if pairs.num_rows:
        estimate = jaccard_estimate(_sketches(pairs["sketch_a"]), _sketches(found["sketch"]))
    known = {"part": found["part"], "row": found["row"], "estimate": pa.array(estimate, pa.float64())}
    return pa.table([known[n] if n in known else pairs[n] for n in JUDGED.names], schema=JUDGED)


def _of(documents: pa.Table, ids: np.ndarray) -> pa.Table:
    """The RANKED documents of these ids, in their order."""
    known = documents["id"].to_numpy()
    order = np.argsort(known)
    at = order[np.searchsorted(known[order], ids)]
    starts = range(0, max(1, len(at)), PAIRS_AT_ONCE)
    return pa.concat_tables([documents.take(pa.array(at[start : start + PAIRS_AT_ONCE])) for start in starts])


def taken(column: pa.ChunkedArray, at: np.ndarray) -> pa.ChunkedArray:
    """The binary values at these places, in pieces of about `PIECE_BYTES`, as one may be taken often."""
    sizes = pc.binary_length(column).to_numpy()[at]
    piece = np.cumsum(sizes, dtype=np.int64) // PIECE_BYTES
    edges = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), len(at)]
    pieces = [column.take(pa.array(at[start:stop])) for start, stop in pairwise(edges)]
    return pa.chunked_array([chunk for one in pieces for chunk in one.chunks], column.type)


def _sketches(column: pa.ChunkedArray) -> np.ndarray:
    return np.concatenate([_sketches_of(chunk) for chunk in column.chunks if len(chunk)])


def _sketches_of(array: pa.BinaryArray) -> np.ndarray:
    _, offsets, data = array.buffers()
    offsets = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]].reshape(len(array), -1)


def near(pairs: pa.Table, threshold: float) -> pa.Table:
    """Edges of the JUDGED pairs whose estimate reaches the threshold."""
    return forest_of(pairs.filter(pc.greater_equal(pairs["estimate"], threshold)))


def forest_of(edges: pa.Table) -> pa.Table:
    """Edges (PAIRS) with the same components, `a` the smallest of each: never more of them than documents."""
    ids, labels = connected_components(edges["a"].to_numpy(), edges["b"].to_numpy())
    moved = ids != labels
    return pa.table([labels[moved], ids[moved]], schema=PAIRS)


def unsure(pairs: pa.RecordBatch, threshold: float) -> np.ndarray:
    """Which JUDGED pairs are to be checked on their texts."""
    estimate = pairs["estimate"].to_numpy()
    return (np.abs(estimate - threshold) < UNSURE) & (estimate < 1) & pairs["part_a"].is_valid().to_numpy(False)


def sure(pairs: pa.RecordBatch, threshold: float) -> np.ndarray:
    """Which JUDGED pairs are near-duplicates without a look at their texts."""
    return (pairs["estimate"].to_numpy() >= threshold) & ~unsure(pairs, threshold)


def meeting(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where the texts of a pair meet, int64 [N]: that of `a` goes to at most `MEETINGS` places."""
    return a * MEETINGS + b % MEETINGS


def asked_once(asked: pa.Table) -> pa.Table:
    """Without asking for the text of the same `a` twice for one place."""
    a, b, first = (asked[name].to_numpy() for name in ("a", "b", "first"))
    place = meeting(a, b)
    order = np.lexsort((b, place, first))
    place, first = place[order], first[order]
    again = np.concatenate([[False], first[1:] & first[:-1] & (place[1:] == place[:-1])])[: len(place)]
    return asked.take(pa.array(order[~again]))


def confirmed(answered: pa.Table, threshold: float) -> pa.Table:
    """Edges of the pairs whose shingle sets reach the threshold; rows of `a` (`first`) and of `b` are in any order."""
    a, b, first = (answered[name].to_numpy() for name in ("a", "b", "first"))
    place = meeting(a, b)
    sets = answered["shingles"]
    left, right = np.flatnonzero(first), np.flatnonzero(~first)
    left = left[np.argsort(place[left])]
    partner = left[np.searchsorted(place[left], place[right])]
    near = [exact_jaccard(sets[i].as_py(), sets[j].as_py()) >= threshold for i, j in zip(partner, right, strict=True)]
    keep = right[np.array(near, bool)]
    return forest_of(pa.table([a[keep], b[keep]], schema=PAIRS))


def near_drops(pairs: pa.Table, threshold: float) -> pa.Table:
    """DROPS of JUDGED pairs (survivor, document): value is their estimated Jaccard similarity.

    A chain of near-duplicates may join a document to its survivor, so its value can lie under the threshold.
    """
    earlier = pc.less(pairs["a"], 0)
    columns = {
        "rule": pc.if_else(earlier, "near_duplicate_earlier", "near_duplicate"),
        "value": pa.array(np.round(pairs["estimate"].to_numpy(), 4)),
        "threshold": pa.array(np.full(pairs.num_rows, threshold)),
    }
    return pa.table([columns[n] if n in columns else pairs[n] for n in DROPS.names], schema=DROPS)


def frequent(counted: pa.Table, most: int) -> pa.Table:
    """FREQUENT of LINES: lines seen more than `most` times in their bucket, once for each part that has them."""
    order = np.lexsort((counted["line"].to_numpy(), counted["bucket"].to_numpy()))
    counted = counted.take(pa.array(order))
    bucket, line, n = (counted[name].to_numpy() for name in ("bucket", "line", "n"))
    over = _sum_by(n, (bucket[1:] != bucket[:-1]) | (line[1:] != line[:-1])) > most
    return counted.filter(pa.array(over)).select(FREQUENT.names)


def repeated_anchors(counted: pa.Table) -> pa.Table:
    """ANCHORS seen more than once: those that copies can have."""
    counted = counted.sort_by("anchor")
    anchor = counted["anchor"].to_numpy()
    return counted.filter(pa.array(_sum_by(counted["n"].to_numpy(), anchor[1:] != anchor[:-1]) > 1))


def _sum_by(n: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """For each of the sorted rows the sum of `n` over its group; `changes` [N - 1] says where a new one begins."""
    if not len(n):
        return n
    starts = np.flatnonzero(np.concatenate([[True], changes]))
    return np.repeat(np.add.reduceat(n, starts), np.diff(np.append(starts, len(n))))


def copies(contexts: pa.Table, min_chars: int) -> pa.Table:
    """CUTS of CONTEXTS of whole anchors: the first in the order of documents stays."""
    order = [("anchor", "ascending"), *ORDER[:2], ("part", "ascending"), ("row", "ascending"), ("first", "ascending")]
    if not contexts.num_rows:
        return CUTS.empty_table()
    place = contexts.schema.get_field_index("text")
    large = contexts["text"].cast(pa.large_binary())  # an anchor that comes often may have more than 2 GB around it
    contexts = contexts.set_column(place, "text", large).sort_by(order)
    document = contexts["part"].to_numpy().astype(np.int64) * STEP + contexts["row"].to_numpy()
    anchor, first, windows = (contexts[name].combine_chunks().to_numpy() for name in ("anchor", "first", "windows"))
    text = contexts["text"].combine_chunks()
    at, start, stop, source = repeats(anchor, document, first, windows, text, min_chars)
    where = contexts.select(["part", "row"]).take(pa.array(at))
    names = contexts["doc_id"].take(pa.array(source))
    columns = [where["part"], where["row"], pa.array(start, pa.int32()), pa.array(stop, pa.int32()), names]
    return pa.table(columns, schema=CUTS)


def exact_jaccard(a: bytes, b: bytes) -> float:
    """Jaccard similarity of two SHINGLES sets."""
    of_a, of_b = np.frombuffer(a, np.uint64), np.frombuffer(b, np.uint64)
    common = len(np.intersect1d(of_a, of_b, assume_unique=True))
    return common / (len(of_a) + len(of_b) - common)
