"""Documents that hold passages of evaluation sets, found by runs of units that both have (GPT-3, appendix C: 13-grams).

Units are those of `curation.text.units`, in every script: lower-cased words, and in scripts without spaces a letter with its
marks. A run is 13 words long, or 48 letters, or 21 Han characters, or a mixture: each word counts 1/13, each letter 1/48,
each Han character 1/21, and a run ends with the unit that brings the sum to 1. As the end follows from the units alone, a
passage and a document that quotes it have the same runs. These are equal lengths: the same news have 3.77 letters for each
English word in Thai, 3.67 in Lao, 3.57 in Khmer, 2.85 in Burmese and 1.61 in Chinese (88 articles, translated by people).
With 30 letters, names of ministries alone condemned 4 % of the Thai government's news; with 48, nothing of it.

A passage shorter than one run is searched for as a whole, when it is at least 8/13 of one (GPT-3's least n is 8).

Items that are edited, or made of several short strings, share no run with a copy. So the pieces of an item are looked for too:
stretches of 3 words, 8 letters or 4 Han characters, of all its strings one after another. A document has the item when, within a
window of twice its length, the pieces found cover `SHARE` of what its pieces cover, and at least `FLOOR` (of a shorter item
`SHORT_SHARE`), and as much of the document: a phrase that all strings of an item begin with is no item. Pieces of more than
`MOST_OWNERS` items say nothing ("Which of the following"), nor do whole strings of so many ("CC BY 4.0"). Each passage of 8/13
of a run is held to the same rule alone. Digits of all scripts are one, and so are full-width letters and the plain ones.

What is shorter still ("Yes.", "Jakarta") says nothing and is counted. The whole document goes, not the passage: what stands
around a test question is its context or its answer, and the share of documents is small.
"""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections import Counter
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
PIECE_OF = {WORD: 3, LETTER: 8, HAN: 4}  # units of a piece
LEAST, FLOOR = (
    2 / 13,
    7 / 13,
)  # of a run: the least item of several strings that is searched for, the least that is found
SHARE, SHORT_SHARE = 0.6, 0.75  # of an item; of one shorter than the floor
MOST_OF_ITEM = 0.75  # of an item's characters: a passage of so many stands for the item
MOST_OWNERS = 16  # items with a piece, beyond which it is a phrase
WINDOW, SLACK = 2, 30  # units of a document in which an item must stand: so many times its own, and some more


def _folded() -> np.ndarray:
    """`LOWER`, with digits of all scripts and full-width letters as the plain ones."""
    folded = LOWER.copy()
    for code in np.flatnonzero(CLASSES == WORD).tolist():
        char = chr(code)
        if 0xFF00 <= code <= 0xFF5E:
            char = unicodedata.normalize("NFKC", char).lower()
        digit = unicodedata.decimal(char, None)
        if digit is not None or ord(char) < 0x80:
            folded[code] = ord(char if digit is None else str(digit))
    return folded


FOLDED = _folded()


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
        in_piece = np.zeros(HAN + 1, np.int64)
        piece = int(np.prod(list(PIECE_OF.values())))
        for kind, units in PIECE_OF.items():
            in_piece[kind] = piece // units
        short, least, floor = -(-8 * run // 13), int(LEAST * run), int(FLOOR * run)
        most = max(self.words, self.letters, self.han, *PIECE_OF.values())
        return Weights(kinds, run, short, in_piece, piece, least, floor, most)


class Weights(NamedTuple):
    """Lengths as whole numbers for the kernels."""

    kinds: np.ndarray  # int64, weight of a unit of each kind
    run: int  # weight of a run
    short: int  # weight of the shortest passage that is searched for
    in_piece: np.ndarray  # int64, weight of a unit of each kind in a piece
    piece: int  # weight of a piece
    least: int  # weight of the shortest item that is searched for by its pieces
    floor: int  # weight of its pieces that must be found, of a longer one
    most_units: int  # of a run


class Table(NamedTuple):
    """Where a hash is among sorted ones."""

    keys: np.ndarray  # uint64, sorted
    bits: np.ndarray  # uint64, their filter: a bit for each by its upper bits
    begins: np.ndarray  # int32: keys whose upper bits are b begin at begins[b]


class Pieces(NamedTuple):
    """The pieces of targets: items, and long passages of items that have several."""

    table: Table
    stops: np.ndarray  # int32 [keys + 1]: places of key k are stops[k] to stops[k + 1]
    places: np.ndarray  # int32 [places, 3]: target, the first of its units that is covered, how many are
    starts: np.ndarray  # int64 [targets + 1]: units of target t are starts[t] to starts[t + 1]
    kinds: np.ndarray  # uint8 [units]
    needs: np.ndarray  # int64 [targets]: weight that must be covered
    items: np.ndarray  # int32 [targets]
    searched: np.ndarray  # bool [targets]: the others are too short


@dataclass(frozen=True)
class Index:
    """What is searched for. `keys` are sorted; owners are numbers of `items`, which are (file, id of the row)."""

    lengths: Lengths
    runs: Table
    owners: np.ndarray  # int32, the first item with this run
    starts: Table  # hashes of the first units of short passages
    wholes: np.ndarray  # uint64 [short], hash of the whole passage
    units: np.ndarray  # int32 [short], its number of units
    short_owners: np.ndarray  # int32 [short]
    pieces: Pieces
    items: list[tuple[str, str]]
    too_short: int  # items of which no passage is long enough to be searched for


def build(files: Sequence[str], fields: Sequence[str] = (), lengths: Lengths | None = None) -> Index:
    """The index of evaluation files: JSON Lines (`.gz` too, any URI), one item a row.

    Every string of a row is a passage, in lists and mappings too; with `fields` only those top-level fields. A string
    that is one URL is none. Raises ValueError naming file and line of a row that is no JSON object, and for no items.
    """
    items: list[tuple[str, str]] = []
    texts: list[list[str]] = []
    for uri in files:
        for number, row in _rows(uri):
            values = [row[field] for field in fields if field in row] if fields else list(row.values())
            texts.append(list(strings(values)))
            items.append((file_name(uri), str(row.get("id", number))))
    if not any(texts):
        named = f" in the fields {', '.join(fields)}" if fields else ""
        raise ValueError(f"decontaminate.against: the files hold no text{named}")
    return of_items(items, texts, lengths)


def of_items(items: list[tuple[str, str]], texts: Sequence[Sequence[str]], lengths: Lengths | None = None) -> Index:
    """The index of items, of which `texts` are the passages."""
    lengths = lengths or Lengths()
    passages = [text for some in texts for text in some]
    owners = [i for i, some in enumerate(texts) for _ in some]
    data, offsets = text_buffers(in_one_form(pa.array(passages, pa.large_string())))
    owner = np.array(owners, np.int32)
    count = np.zeros(len(passages), np.int64)
    keys, from_run, starts, wholes, units, from_short = _index(
        data, offsets, CLASSES, FOLDED, ASCII_WORD, lengths.weights, count
    )
    pieces = _pieces_of(passages, owner, lengths.weights)
    keys, first = np.unique(keys, return_index=True)
    order = np.lexsort((from_short, units, starts))
    found = np.zeros(len(items), bool)
    found[owner[count > 0]] = True
    found[pieces.items[pieces.searched]] = True
    return Index(
        lengths,
        _table(keys),
        owner[from_run[first]],
        _table(starts[order]),
        wholes[order],
        units[order],
        owner[from_short[order]],
        pieces,
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
        FOLDED,
        ASCII_WORD,
        index.lengths.weights,
        index.runs,
        index.owners,
        index.starts,
        index.wholes,
        index.units,
        index.short_owners,
        index.pieces,
        hits,
        first,
    )
    return hits, first


def items_in(texts: Sequence[str], index: Index) -> set[int]:
    """The items that texts hold, as numbers of `index.items`: of each text, and of each of its lines, the first. So of two
    items in one line the second may be missed."""
    whole, first = search(pa.array(texts, pa.large_string()), index)
    lines = [line for i in np.flatnonzero(whole).tolist() for line in texts[i].split("\n")]
    _, of_lines = search(pa.array(lines, pa.large_string()), index)
    return {*first.tolist(), *of_lines.tolist()} - {-1}


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


def strings(value: object) -> Iterator[str]:
    """Every text in a value of JSON, in lists and mappings too, but those that are one URL."""
    if isinstance(value, str):
        if "://" not in value or " " in value.strip():
            yield value.encode("utf-8", "replace").decode()  # half of a surrogate pair becomes a question mark
    elif isinstance(value, dict):
        yield from strings(list(value.values()))
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)


def _table(keys: np.ndarray) -> Table:
    """The table of sorted keys, with BITS_PER_KEY times as many bits as keys: most misses end at the filter."""
    power = max(7, int(BITS_PER_KEY * max(len(keys), 1) - 1).bit_length())
    bits = np.zeros(1 << (power - 6), np.uint64)
    places = keys >> np.uint64(64 - power)
    np.bitwise_or.at(bits, (places >> np.uint64(6)).astype(np.int64), np.uint64(1) << (places & np.uint64(63)))
    upper = np.arange(1, len(bits), dtype=np.uint64) << np.uint64(70 - power)
    begins = np.concatenate(([0], np.searchsorted(keys, upper), [len(keys)])).astype(np.int32)
    return Table(keys, bits, begins)


def _pieces_of(passages: list[str], owner: np.ndarray, weights: Weights) -> Pieces:
    """The pieces of all items; `owner[p]` is the item of passage p, rising.

    Targets are each item's passages one after another, where there are several, and each passage alone that is long enough.
    A single ASCII word is a label or a name, and what more than MOST_OWNERS items have is none of their text.
    """
    times = Counter(text for text, _ in set(zip(passages, owner.tolist(), strict=True)))
    own = [
        p
        for p, text in enumerate(passages)
        if times[text] <= MOST_OWNERS and not (text.isascii() and len(text.split()) < 2)
    ]
    of_item: dict[int, list[str]] = {}
    for p in own:
        of_item.setdefault(int(owner[p]), []).append(passages[p])
    several = [item for item, texts in of_item.items() if max(map(len, texts)) < MOST_OF_ITEM * sum(map(len, texts))]
    own = list({passages[p]: p for p in reversed(own)}.values())  # of equal passages the first
    targets = ["\n".join(of_item[item]) for item in several] + [passages[p] for p in own]
    items = np.array([*several, *owner[own]], np.int32)
    data, offsets = text_buffers(in_one_form(pa.array(targets, pa.large_string())))
    keys, every, firsts, lasts, kinds, starts = _all_pieces(data, offsets, CLASSES, FOLDED, ASCII_WORD, weights)
    distinct, number = np.unique(keys, return_inverse=True)
    pairs = np.unique(number.astype(np.int64) << 32 | items[every])
    told = np.bincount(pairs >> 32, minlength=len(distinct))[number] <= MOST_OWNERS
    covered = _covered(every[told], firsts[told], lasts[told], starts, kinds, weights.kinds)
    least = np.where(np.arange(len(targets)) < len(several), weights.least, weights.short)
    needs = np.maximum(SHARE * covered, np.minimum(SHORT_SHARE * covered, weights.floor))
    keep = told & (covered >= least)[every]
    order = np.argsort(keys[keep], kind="stable")
    keys, at = np.unique(keys[keep][order], return_index=True)
    stops = np.append(at, len(order)).astype(np.int32)
    places = np.stack([every, firsts, lasts - firsts], 1)[keep][order]
    return Pieces(_table(keys), stops, places, starts, kinds, needs.astype(np.int64), items, covered >= least)


@numba.njit(cache=True)
def _all_pieces(data, offsets, classes, lower, ascii_word, weights):  # noqa: PLR0917
    """(Key, passage, first and last unit within it of each piece; kind of each unit of all targets, where each one's begin)."""
    size, n_targets = _longest(offsets), len(offsets) - 1
    units, kinds = np.empty(size + 1, np.uint64), np.empty(size + 1, np.uint8)
    power = _powers(weights.most_units)
    found = np.empty(size + 1, np.uint64)
    total = offsets[-1] - offsets[0]  # no more units than bytes
    keys, targets = np.empty(total, np.uint64), np.empty(total, np.int32)
    firsts, lasts, every = np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.uint8)
    stops = np.zeros(n_targets + 1, np.int64)
    n_keys = 0
    for d in range(n_targets):
        n, _ = read_units(data, offsets[d], offsets[d + 1], classes, lower, ascii_word, units, kinds)
        every[stops[d] : stops[d] + n] = kinds[:n]
        stops[d + 1] = stops[d] + n
        made = _runs(units, kinds, n, weights.in_piece, weights.piece, power, found)
        last = weight = 0
        for start in range(made):
            while weight < weights.piece:
                weight += weights.in_piece[kinds[last]]
                last += 1
            keys[n_keys], targets[n_keys], firsts[n_keys], lasts[n_keys] = found[start], d, start, last
            n_keys += 1
            weight -= weights.in_piece[kinds[start]]
    return (
        keys[:n_keys], targets[:n_keys], firsts[:n_keys], lasts[:n_keys], every[: stops[-1]], stops
    )  # fmt: skip


@numba.njit(cache=True)
def _covered(targets, firsts, lasts, starts, kinds, weights):  # noqa: PLR0917
    """Weight of the units of each target that pieces cover."""
    seen = np.zeros(starts[-1], np.bool_)
    for k in range(len(targets)):
        seen[starts[targets[k]] + firsts[k] : starts[targets[k]] + lasts[k]] = True
    out = np.zeros(len(starts) - 1, np.int64)
    for t in range(len(out)):
        for unit in range(starts[t], starts[t + 1]):
            out[t] += seen[unit] * weights[kinds[unit]]
    return out


@numba.njit
def _items_in(hits, n_units, kinds, weights, pieces, scratch):  # noqa: PLR0917
    """(First item, number) of the targets whose pieces cover enough in a window; `hits` are (first unit, key) of pieces."""
    at, first, n_items = n_units, np.int32(-1), 0
    if len(hits) < 2:
        return first, n_items
    until, quoted, stops, touched, numbers = scratch
    for u in range(n_units):  # weight of the document before each unit
        until[u + 1] = until[u] + weights[kinds[u]]
    n_touched = 0
    for h in range(len(hits)):
        start, key = hits[h]
        for k in range(pieces.stops[key], pieces.stops[key + 1]):
            target, stop = pieces.places[k, 0], start + pieces.places[k, 2]
            last = stops[target]
            if last == 0:
                touched[n_touched] = target
                n_touched += 1
            if stop > last:
                quoted[target] += until[stop] - until[max(start, last)]
                stops[target] = stop
    n = 0
    for target in touched[:n_touched]:
        if quoted[target] >= pieces.needs[target]:
            touched[n] = target
            n += 1
            numbers[target] = n
        quoted[target] = stops[target] = 0
    if n == 0:
        return first, n_items
    begins, spots = _spots(hits, pieces, numbers, n)
    for c in range(n):
        target = touched[c]
        numbers[target] = 0
        unit = _window(spots[begins[c] : begins[c + 1]], until, weights, pieces, target)
        if unit >= 0:
            n_items += 1
            if unit < at:
                at, first = unit, pieces.items[target]
    return first, n_items


@numba.njit
def _spots(hits, pieces, numbers, n):
    """What is found of each of the targets whose `numbers` are 1 to n: (where they begin; unit of the document, unit of the
    target and number of units of each place), in the order of the document."""
    begins = np.zeros(n + 2, np.int64)
    for h in range(len(hits)):
        for k in range(pieces.stops[hits[h, 1]], pieces.stops[hits[h, 1] + 1]):
            begins[numbers[pieces.places[k, 0]] + 1] += numbers[pieces.places[k, 0]] > 0
    begins = np.cumsum(begins)
    ends, spots = begins.copy(), np.empty((begins[-1], 3), np.int64)
    for h in range(len(hits)):
        for k in range(pieces.stops[hits[h, 1]], pieces.stops[hits[h, 1] + 1]):
            c = numbers[pieces.places[k, 0]]
            if c > 0:
                spots[ends[c], 0], spots[ends[c], 1], spots[ends[c], 2] = (
                    hits[h, 0],
                    pieces.places[k, 1],
                    pieces.places[k, 2],
                )
                ends[c] += 1
    return begins[1:], spots


@numba.njit
def _window(spots, until, weights, pieces, target):
    """The first unit of a window in which pieces cover enough of a target, and of the document; -1 without one."""
    units, firsts, spans = spots[:, 0], spots[:, 1], spots[:, 2]
    begin, size = pieces.starts[target], pieces.starts[target + 1] - pieces.starts[target]
    count = np.zeros(size, np.int32)  # pieces on each unit of the target
    low = covered = quoted = stop = 0
    for k in range(len(spots)):
        while units[low] + WINDOW * size + SLACK < units[k]:
            quoted -= until[min(units[low] + spans[low], units[low + 1])] - until[units[low]]
            for u in range(firsts[low], firsts[low] + spans[low]):
                count[u] -= 1
                covered -= weights[pieces.kinds[begin + u]] if count[u] == 0 else 0
            low += 1
        if units[k] + spans[k] > stop:
            quoted += until[units[k] + spans[k]] - until[max(units[k], stop)]
            stop = units[k] + spans[k]
        for u in range(firsts[k], firsts[k] + spans[k]):
            covered += weights[pieces.kinds[begin + u]] if count[u] == 0 else 0
            count[u] += 1
        if min(covered, quoted) >= pieces.needs[target]:
            return units[low]
    return np.int64(-1)


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
def _look_up(found, n, table, hits):
    """Write (number, index of the first equal key) of those of `found[:n]` that are keys to `hits`; returns how many are."""
    keys, bits, begins = table
    bucket, size = np.uint64(64), len(bits)
    while size > 1:
        size >>= 1
        bucket -= np.uint64(1)
    shift = bucket - np.uint64(6)
    n_hits = 0
    for i in range(n):
        place = found[i] >> shift
        hits[n_hits, 0] = i
        n_hits += bits[place >> np.uint64(6)] >> (place & np.uint64(63)) & np.uint64(1) != np.uint64(0)
    n_maybe, n_hits = n_hits, 0
    for k in range(n_maybe):
        key = found[hits[k, 0]]
        at, end = begins[key >> bucket], begins[(key >> bucket) + np.uint64(1)]
        while at < end and keys[at] < key:
            at += 1
        if at < end and keys[at] == key:
            hits[n_hits, 0], hits[n_hits, 1] = hits[k, 0], at
            n_hits += 1
    return n_hits


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
    runs, owners, starts, wholes, lengths, short_owners, pieces, hits, first,
):  # fmt: skip
    size = _longest(offsets)
    units, kinds = np.empty(size + 1, np.uint64), np.empty(size + 1, np.uint8)
    found, matches = np.empty(size + 1, np.uint64), np.empty((size + 2, 2), np.int64)
    power = _powers(weights.most_units)
    n_targets = len(pieces.items)
    scratch = (
        np.zeros(size + 2, np.int64),
        np.zeros(n_targets, np.int64),
        np.zeros(n_targets, np.int32),
        np.empty(n_targets, np.int32),
        np.zeros(n_targets, np.int32),
    )  # fmt: skip
    for d in range(len(offsets) - 1):
        n, _ = read_units(data, offsets[d], offsets[d + 1], classes, lower, ascii_word, units, kinds)
        at = n
        made = _runs(units, kinds, n, weights.kinds, weights.run, power, found)
        hits[d] = _look_up(found, made, runs, matches)
        if hits[d]:
            at, first[d] = matches[0, 0], owners[matches[0, 1]]
        made = _runs(units, kinds, n, weights.kinds, weights.short, power, found) if len(starts.keys) else 0
        for start, place in matches[: _look_up(found, made, starts, matches)]:
            while place < len(starts.keys) and starts.keys[place] == found[start]:
                end = start + lengths[place]
                if end <= n and _whole(units, start, end) == wholes[place]:
                    hits[d] += 1
                    if start < at:
                        at, first[d] = start, short_owners[place]
                    break
                place += 1
        if hits[d] == 0:  # nothing in one piece: then in pieces
            made = _runs(units, kinds, n, weights.in_piece, weights.piece, power, found)
            made = _look_up(found, made, pieces.table, matches)
            first[d], hits[d] = _items_in(matches[:made], n, kinds, weights.kinds, pieces, scratch)
