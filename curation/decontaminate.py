"""Documents that hold passages of evaluation sets, found by runs of units that both have (GPT-3, appendix C: 13-grams).

Units are those of `curation.text.units`, in every script: lower-cased words, and in scripts without spaces a letter with its
marks. A run is 13 words long, or 48 letters, or 21 Han characters, or a mixture: each word counts 1/13, each letter 1/48,
each Han character 1/21, and a run ends with the unit that brings the sum to 1. As the end follows from the units alone, a
passage and a document that quotes it have the same runs. These are equal lengths: the same news have 3.77 letters for each
English word in Thai, 3.67 in Lao, 3.57 in Khmer, 2.85 in Burmese and 1.61 in Chinese (88 articles, translated by people).
With 30 letters, names of ministries alone condemned 4 % of the Thai government's news; with 48, nothing of it.

A passage shorter than one run is searched for as a whole, when it is at least 8/13 of one (GPT-3's least n is 8); what is
shorter still ("Yes.", "Jakarta") says nothing and is counted. The whole document goes, not the passage: what stands around a
test question is its context or its answer, and the share of documents is small.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa

from cluster import storage
from cluster.shards import ledger_rows
from curation.schema import file_name
from curation.text.form import in_one_form
from curation.text.units import ASCII_WORD, CLASSES, HAN, LETTER, LOWER, PRIME, WORD, mix, read_units, text_buffers

STAGE = "decontaminate"
BITS_PER_KEY = 16


@dataclass(frozen=True)
class Lengths:
    """How long a run is: `words` of spaced scripts, `letters` of those without spaces, or `han` characters."""

    words: int = 13
    letters: int = 48
    han: int = 21

    def __post_init__(self):
        if min(self.words, self.letters, self.han) < 1:
            raise ValueError("decontaminate: words, letters and han must be at least 1")

    @property
    def weights(self) -> Weights:
        run = self.words * self.letters * self.han
        kinds = np.zeros(HAN + 1, np.int64)
        kinds[WORD], kinds[LETTER], kinds[HAN] = run // self.words, run // self.letters, run // self.han
        return Weights(kinds, run, -(-8 * run // 13), max(self.words, self.letters, self.han))


class Weights(NamedTuple):
    """Lengths as whole numbers for the kernels."""

    kinds: np.ndarray  # int64, weight of a unit of each kind
    run: int  # weight of a run
    short: int  # weight of the shortest passage that is searched for
    most_units: int  # of a run


@dataclass(frozen=True)
class Index:
    """What is searched for. `keys` are sorted; owners are numbers of `items`, which are (file, id of the row)."""

    lengths: Lengths
    keys: np.ndarray  # uint64, hashes of runs
    owners: np.ndarray  # int32, the first item with this run
    filter: np.ndarray  # uint64, one bit for the upper bits of each key
    starts: np.ndarray  # uint64, sorted: hashes of the first units of short passages
    wholes: np.ndarray  # uint64 [short], hash of the whole passage
    units: np.ndarray  # int32 [short], its number of units
    short_owners: np.ndarray  # int32 [short]
    short_filter: np.ndarray  # uint64
    items: list[tuple[str, str]]
    too_short: int  # items of which no passage is long enough to be searched for


def build(files: Sequence[str], fields: Sequence[str] = (), lengths: Lengths | None = None) -> Index:
    """The index of evaluation files: JSON Lines (`.gz` too, any URI), one item a row.

    Every string of a row is a passage, in lists and mappings too; with `fields` only those top-level fields. A string
    that is one URL is none. Raises ValueError naming file and line of a row that is no JSON object, and for no items.
    """
    lengths = lengths or Lengths()
    items: list[tuple[str, str]] = []
    passages: list[str] = []
    owners: list[int] = []
    for uri in files:
        for number, row in _rows(uri):
            values = [row[field] for field in fields if field in row] if fields else list(row.values())
            for text in _strings(values):
                passages.append(text)
                owners.append(len(items))
            items.append((file_name(uri), str(row.get("id", number))))
    if not passages:
        named = f" in the fields {', '.join(fields)}" if fields else ""
        raise ValueError(f"decontaminate.against: the files hold no text{named}")
    data, offsets = text_buffers(in_one_form(pa.array(passages, pa.large_string())))
    owner = np.array(owners, np.int32)
    count = np.zeros(len(passages), np.int64)
    keys, from_run, starts, wholes, units, from_short = _index(
        data, offsets, CLASSES, LOWER, ASCII_WORD, lengths.weights, count
    )
    keys, first = np.unique(keys, return_index=True)
    order = np.lexsort((from_short, units, starts))
    found = np.zeros(len(items), bool)
    found[owner[count > 0]] = True
    return Index(
        lengths,
        keys,
        owner[from_run[first]],
        _bits(keys),
        starts[order],
        wholes[order],
        units[order],
        owner[from_short[order]],
        _bits(starts),
        items,
        int((~found).sum()),
    )


def search(text: pa.Array, index: Index) -> tuple[np.ndarray, np.ndarray]:
    """(Number of places of each text that an item has too, int32 [N]; the item of the first of them, int32, -1 for none)."""
    data, offsets = text_buffers(in_one_form(text))
    hits = np.zeros(len(offsets) - 1, np.int32)
    first = np.full(len(offsets) - 1, -1, np.int32)
    _search(
        data,
        offsets,
        CLASSES,
        LOWER,
        ASCII_WORD,
        index.lengths.weights,
        index.keys,
        index.owners,
        index.filter,
        index.starts,
        index.wholes,
        index.units,
        index.short_owners,
        index.short_filter,
        hits,
        first,
    )
    return hits, first


def decontaminate_kernel(
    files: Sequence[str], fields: Sequence[str] = (), lengths: Lengths | None = None
) -> Callable[[pa.RecordBatch], tuple[pa.RecordBatch, pa.RecordBatch]]:
    """A kernel documents -> (those without a passage of an evaluation set, ledger).

    Rule `contaminated`: value = places found, threshold = 1, detail = evaluation file and id of the item found first.
    """
    index = build(files, fields, lengths)

    def kernel(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        hits, first = search(batch["text"], index)
        rows = []
        for row in np.flatnonzero(hits).tolist():
            who = {name: batch[name][row].as_py() for name in ("doc_id", "url", "lang")}
            detail = " ".join(index.items[first[row]])
            rows.append({**who, "rule": "contaminated", "value": float(hits[row]), "threshold": 1.0, "detail": detail})
        return batch.filter(pa.array(hits == 0)), ledger_rows(STAGE, rows)

    return kernel


def _rows(uri: str) -> Iterator[tuple[int, dict]]:
    raw = storage.read_bytes(uri)
    text = (gzip.decompress(raw) if uri.endswith(".gz") else raw).decode("utf-8", "replace")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{uri}, line {number}: not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{uri}, line {number}: a row of an evaluation set must be a JSON object")
        yield number, row


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if "://" not in value or " " in value.strip():
            yield value.encode("utf-8", "replace").decode()  # half of a surrogate pair becomes a question mark
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


def _bits(keys: np.ndarray) -> np.ndarray:
    """A bit for each key at its upper bits, BITS_PER_KEY times as many bits as keys: most misses end here."""
    power = max(6, int(BITS_PER_KEY * max(len(keys), 1) - 1).bit_length())
    bits = np.zeros(1 << (power - 6), np.uint64)
    places = keys >> np.uint64(64 - power)
    np.bitwise_or.at(bits, (places >> np.uint64(6)).astype(np.int64), np.uint64(1) << (places & np.uint64(63)))
    return bits


@numba.njit
def _powers(n):
    """PRIME^0 ... PRIME^n."""
    power = np.ones(n + 1, np.uint64)
    for i in range(1, n + 1):
        power[i] = power[i - 1] * PRIME
    return power


@numba.njit
def _runs(units, kinds, n, weights, least, power, keys):  # noqa: PLR0917
    """Hash of the shortest run of weight `least` that starts at each unit; returns how many starts have one."""
    first = weight = 0
    rolling = np.uint64(0)
    for j in range(n):
        rolling = rolling * PRIME + units[j]
        weight += weights[kinds[j]]
        while weight >= least:
            keys[first] = mix(rolling)
            rolling -= units[first] * power[j - first]
            weight -= weights[kinds[first]]
            first += 1
    return first


@numba.njit
def _whole(units, start, end):
    rolling = np.uint64(0)
    for i in range(start, end):
        rolling = rolling * PRIME + units[i]
    return mix(rolling)


@numba.njit
def _shift(bits):
    """By how much a key is shifted to give the number of its bit in the filter `bits`."""
    shift, size = 58, len(bits)
    while size > 1:
        size >>= 1
        shift -= 1
    return np.uint64(shift)


@numba.njit
def _find(keys, bits, shift, key):
    """Index of the first equal key, or -1."""
    place = key >> shift
    if not bits[place >> np.uint64(6)] >> (place & np.uint64(63)) & np.uint64(1):
        return -1
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low if low < len(keys) and keys[low] == key else -1


@numba.njit
def _longest(offsets):
    longest = 0
    for d in range(len(offsets) - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    return longest


@numba.njit(cache=True)
def _index(data, offsets, classes, lower, ascii_word, weights, count):  # noqa: PLR0917
    """Keys of all passages: (runs, passage of each; starts of short ones, their whole hash, units and passage)."""
    size = _longest(offsets)
    units, kinds = np.empty(size + 1, np.uint64), np.empty(size + 1, np.uint8)
    found = np.empty(size + 1, np.uint64)
    power = _powers(weights.most_units)
    n_passages = len(offsets) - 1
    keys, owners = np.empty(1024, np.uint64), np.empty(1024, np.int32)
    starts, wholes = np.empty(n_passages, np.uint64), np.empty(n_passages, np.uint64)
    lengths, short_owners = np.empty(n_passages, np.int32), np.empty(n_passages, np.int32)
    n_keys = n_short = 0
    for d in range(n_passages):
        n, _ = read_units(data, offsets[d], offsets[d + 1], classes, lower, ascii_word, units, kinds)
        made = _runs(units, kinds, n, weights.kinds, weights.run, power, found)
        count[d] = made
        if made == 0 and _runs(units, kinds, n, weights.kinds, weights.short, power, found):
            starts[n_short], wholes[n_short] = found[0], _whole(units, 0, n)
            lengths[n_short], short_owners[n_short] = n, d
            n_short += 1
            count[d] = 1
        if n_keys + made > len(keys):
            more = max(2 * len(keys), n_keys + made)
            larger, larger_owners = np.empty(more, np.uint64), np.empty(more, np.int32)
            larger[:n_keys], larger_owners[:n_keys] = keys[:n_keys], owners[:n_keys]
            keys, owners = larger, larger_owners
        keys[n_keys : n_keys + made] = found[:made]
        owners[n_keys : n_keys + made] = d
        n_keys += made
    return (
        keys[:n_keys], owners[:n_keys], starts[:n_short], wholes[:n_short], lengths[:n_short], short_owners[:n_short]
    )  # fmt: skip


@numba.njit(cache=True)
def _search(  # noqa: PLR0917
    data, offsets, classes, lower, ascii_word, weights,
    keys, owners, bits, starts, wholes, lengths, short_owners, short_bits, hits, first,
):  # fmt: skip
    size = _longest(offsets)
    units, kinds = np.empty(size + 1, np.uint64), np.empty(size + 1, np.uint8)
    found = np.empty(size + 1, np.uint64)
    power = _powers(weights.most_units)
    shift, short_shift = _shift(bits), _shift(short_bits)
    for d in range(len(offsets) - 1):
        n, _ = read_units(data, offsets[d], offsets[d + 1], classes, lower, ascii_word, units, kinds)
        at = n
        for start in range(_runs(units, kinds, n, weights.kinds, weights.run, power, found)):
            place = _find(keys, bits, shift, found[start])
            if place >= 0:
                hits[d] += 1
                if start < at:
                    at, first[d] = start, owners[place]
        if len(starts) == 0:
            continue
        for start in range(_runs(units, kinds, n, weights.kinds, weights.short, power, found)):
            place = _find(starts, short_bits, short_shift, found[start])
            while 0 <= place < len(starts) and starts[place] == found[start]:
                end = start + lengths[place]
                if end <= n and _whole(units, start, end) == wholes[place]:
                    hits[d] += 1
                    if start < at:
                        at, first[d] = start, short_owners[place]
                    break
                place += 1
