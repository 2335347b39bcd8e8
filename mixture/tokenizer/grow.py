"""More tokens for some languages in a vocabulary that a model has: merges behind all old ones, chosen for who pays most.

A byte-level BPE carries out old merges first, whatever stands behind them, so text is cut into old tokens and these are merged
on. Each new merge is the most frequent pair of the language whose text costs most tokens (parity-aware BPE, 2508.04796), and is
carried out in all of them. A pair may only be merged where its bytes show a character of those languages' own scripts: two bytes
of UTF-8 name 64 code points (a row), and the row must be one that they write in. So any text without a character of these rows
keeps its tokens, to the last id; that is a property of the merges, not of a sample.

Qwen's and Llama 3's pieces end at every combining mark, and no token crosses a piece. With `marks` those of the chosen scripts
count as letters, and words of Burmese, Khmer, Lao or Thai are pieces; then old text in these scripts is cut into other old tokens
too, wherever old merges cross what was a border.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mixture.bpe import encode, patterns
from mixture.tokenizer.tokenizer import MAX_TRAINING_LETTERS

OWN_ROW = 0.01  # share of a language's own characters from which on a row is one that it writes in
OWN_TEXT = 0.5  # share of a language's letters that must be its own
MIN_COUNT = 5  # of a pair: a token that is seen less often learns nothing
FORBIDDEN = -2  # where the places of a pair would begin
APART = ((0x0370, 0x1E00), (0xA4D0, 0xAC00), (0xAC00, 0xD800))  # code points of scripts that are neither Latin nor Han
Pieces = dict[str, list[int]]  # a piece as tokenizer.json writes bytes -> how often it stands in each text


class Growth(NamedTuple):
    """What a vocabulary gains."""

    tokens: list[bytes]  # in the order of their ids
    merges: list[tuple[bytes, bytes]]  # by rank; more than tokens where two ways lead to one
    made_of: list[list[int]]  # of each token the old ids that it is merged from
    served: list[str]  # the language that each was chosen for


def spec_of(tokenizer: PreTrainedTokenizerFast) -> dict:
    """The tokenizer.json of a tokenizer that can grow. Raises ValueError for one that is no byte-level BPE with known pieces."""
    try:
        encode.ByteLevelBPE.of(tokenizer)
    except encode.Unsupported as reason:
        raise ValueError(
            f"only byte-level vocabularies with the pieces of GPT-2, Qwen2 or Llama 3 can grow, and {reason}"
        ) from reason
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    if spec["model"].get("ignore_merges"):
        backend = tokenizer.backend_tokenizer
        for token in (token["content"] for token in spec["added_tokens"]):
            if len(backend.pre_tokenizer.pre_tokenize_str(token)) == 1:
                raise ValueError(f"its added token {token} is a word, which would be found inside of texts")
    return spec


def own_rows(texts: Sequence[str]) -> set[int]:
    """The rows (code point >> 6) of a language's own script; empty for one that is written in Latin or Han letters."""
    found = Counter("".join(texts))
    rows: Counter[int] = Counter()
    for letter, count in found.items():
        if any(low <= ord(letter) < high for low, high in APART):
            rows[ord(letter) >> 6] += count
    total, letters = rows.total(), sum(n for letter, n in found.items() if letter.isalpha() or ord(letter) >> 6 in rows)
    if total < OWN_TEXT * letters:
        return set()
    return {row for row, count in rows.items() if count >= OWN_ROW * total}


def marks_of(rows: Iterable[int]) -> str:
    """The combining marks of some rows, as the engine of `tokenizers` knows them."""
    letters = "".join(chr(code) for row in sorted(rows) for code in range(row << 6, (row + 1) << 6))
    rest = pre_tokenizers.Split(Regex(r"\p{M}"), "removed").pre_tokenize_str(letters)
    kept = {i for _, (start, stop) in rest for i in range(start, stop)}
    return "".join(letter for i, letter in enumerate(letters) if i not in kept)


def joining_marks(spec: dict, marks: str) -> dict:
    """The tokenizer.json whose pieces keep `marks` in words; where they keep all marks already, as it is."""
    spec = json.loads(json.dumps(spec))
    steps = spec["pre_tokenizer"].get("pretokenizers", [])
    if not marks or keeps_marks(spec):
        return spec
    if len(steps) != 2:  # GPT-2's byte level cuts by itself
        byte_level = spec["pre_tokenizer"] | {"use_regex": False}
        split = {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex": patterns.GPT2}}
        steps = [split, byte_level]
        spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    pattern, before = patterns.without_marks(steps[0]["pattern"]["Regex"])
    steps[0]["pattern"]["Regex"] = patterns.with_marks(pattern, before + marks)
    return spec


def keeps_marks(spec: dict) -> bool:
    """Whether all combining marks are letters to its pieces, as those of our own tokenizers with `pieces: marks`."""
    base, _ = patterns.without_marks(encode.pattern_of(spec["pre_tokenizer"]))
    return patterns.RULES[base].marks


def count_pieces(spec: dict, texts: Mapping[str, Sequence[str]]) -> Pieces:
    """How often each piece stands in each of `texts`, long runs of letters cut as in training (MAX_TRAINING_LETTERS)."""
    backend = backend_of(spec)
    cutter = backend.pre_tokenizer
    steps = [cutter[0], cutter[1]] if isinstance(cutter, pre_tokenizers.Sequence) else [cutter]
    _, marks = patterns.without_marks(encode.pattern_of(spec["pre_tokenizer"]))
    marks = r"\p{M}" if keeps_marks(spec) else marks
    letter = rf"[\p{{L}}{marks}]" if marks else r"\p{L}"
    if len(steps) == 2:
        short = pre_tokenizers.Split(Regex(f"{letter}{{{MAX_TRAINING_LETTERS}}}"), "isolated")
        cutter = pre_tokenizers.Sequence([steps[0], short, steps[1]])
    counted: Pieces = {}
    for k, of_one in enumerate(texts.values()):
        for text in of_one:
            text = backend.normalizer.normalize_str(text) if backend.normalizer else text
            for piece, _ in cutter.pre_tokenize_str(text):
                counted.setdefault(piece, [0] * len(texts))[k] += 1
    return counted


def choose(  # noqa: PLR0917
    spec: dict,
    train: Mapping[str, Sequence[str]],
    judge: Mapping[str, Sequence[str]],
    size: Mapping[str, float],
    rows: set[int],
    add: int,
) -> Growth:
    """`add` new tokens, or as many as pairs are frequent enough for.

    `train`: texts of each language that merges are counted in; `judge`: texts of each whose tokens divided by `size` (bytes,
    documents) are its cost; `spec`: the tokenizer.json whose pieces count, see `joining_marks`; `rows`: of `own_rows`.
    """
    names = list(train)
    both = {f"t {name}": train[name] for name in names} | {f"j {name}": judge[name] for name in names}
    state = _State(spec, count_pieces(spec, both), rows)
    symbols = encode.byte_symbols()
    known = {
        bytes(symbols[c] for c in token): i for token, i in state.vocab.items() if all(map(symbols.__contains__, token))
    }
    spelled, made_of = {i: token for token, i in known.items()}, {i: [i] for i in known.values()}
    growth, fresh, tired, merged = Growth([], [], [], []), state.first, set[int](), set[int]()
    while len(growth.tokens) < add and len(tired) < len(names):
        costs = state.tokens[len(names) :] / [size[name] for name in names]
        worst = int(np.argmax([-1.0 if k in tired else costs[k] for k in range(len(names))]))
        pair = state.best(worst)
        if pair < 0:
            tired.add(worst)
            continue
        left, right = state.pair(pair)
        token = spelled[left] + spelled[right]
        number = known.get(token, fresh)
        if number < state.first:  # an old token: old merges would carry it on
            state.forbid(pair)
            continue
        if pair not in merged:
            merged.add(pair)
            growth.merges.append((spelled[left], spelled[right]))
        if number == fresh:
            fresh += 1
            known[token], spelled[number], made_of[number] = number, token, made_of[left] + made_of[right]
            growth.tokens.append(token)
            growth.made_of.append(made_of[number])
            growth.served.append(names[worst])
        state.merge(pair, number, token)
    return growth


def grown(spec: dict, growth: Growth) -> dict:
    """The tokenizer.json with what it gains. The added tokens become part of the vocabulary proper, as `tokenizers` gives the
    next one the number of tokens as its id."""
    spec = json.loads(json.dumps(spec))
    model, first = spec["model"], first_id(spec)
    names = {byte: letter for letter, byte in encode.byte_symbols().items()}

    def written(token: bytes) -> str:
        return "".join(names[byte] for byte in token)

    model["vocab"] |= {token["content"]: token["id"] for token in spec["added_tokens"]}
    model["vocab"] |= {written(token): first + i for i, token in enumerate(growth.tokens)}
    merges = [[written(left), written(right)] for left, right in growth.merges]
    strings = bool(model["merges"]) and isinstance(model["merges"][0], str)
    model["merges"] += [" ".join(merge) for merge in merges] if strings else merges
    missing = set(range(first)) - set(model["vocab"].values())
    if missing:
        raise ValueError(f"its ids leave a gap: no token has the id {min(missing)}")
    return spec


def save(tokenizer: PreTrainedTokenizerFast, spec: dict, folder: str) -> None:
    """Write `tokenizer` with another tokenizer.json to a local folder. Where pieces differ its class becomes the one that
    reads them from that file."""
    tokenizer.save_pretrained(folder)
    Path(folder, "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    if spec["pre_tokenizer"] != json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]:
        path = Path(folder, "tokenizer_config.json")
        path.write_text(
            json.dumps(json.loads(path.read_text("utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}), "utf-8"
        )


def first_id(spec: dict) -> int:
    """The id behind the last token."""
    return 1 + max([*spec["model"]["vocab"].values(), *(token["id"] for token in spec["added_tokens"])])


def backend_of(spec: dict) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(spec))


class _State:
    """The pieces as tokens in one row, -1 between two, and where each pair of neighbours stands, in arrays for numba."""

    def __init__(self, spec: dict, pieces: Pieces, rows: set[int]) -> None:
        backend, names = backend_of(spec), sorted(pieces)
        encoded = [[token.id for token in backend.model.tokenize(name)] for name in names]
        self.vocab: dict[str, int] = spec["model"]["vocab"]
        self.first = first_id(spec)
        self.weights_PC = np.array([pieces[name] for name in names], np.int64).reshape(len(names), -1)
        self.ids = np.array([i for ids in encoded for i in (*ids, -1)], np.int64)
        self.piece = np.repeat(np.arange(len(names)), [len(ids) + 1 for ids in encoded])
        n = len(self.ids)
        self.before, self.after = np.arange(-1, n - 1), np.arange(1, n + 1)
        self.tokens = np.array([len(ids) for ids in encoded], np.int64) @ self.weights_PC
        symbols = encode.byte_symbols()
        self.own = np.zeros((256, 256), np.bool_)  # pairs of bytes that begin a character of one of the rows
        for row in rows:
            for code in range(row << 6, (row + 1) << 6):
                first, second, *_ = chr(code).encode()
                self.own[first, second] = True
        self.marks = np.zeros(
            (max(1 << 16, 2 * self.first), 3), np.int16
        )  # of a token: first and last byte, shows a row
        for token, i in self.vocab.items():
            if token and all(map(symbols.__contains__, token)):
                self._note(i, bytes(symbols[c] for c in token))
        self.index = np.full(1 << 12, -1, np.int64)  # which pair, by open addressing
        self.pairs, self.counts = np.zeros((1024, 2), np.int64), np.zeros((1024, self.weights_PC.shape[1]), np.int64)
        self.heads, self.nodes = np.zeros(1024, np.int64), np.zeros((1024, 2), np.int64)
        self.used = np.zeros(2, np.int64)  # pairs, nodes
        self._room(n, n)
        _enter_all(*self._arrays())

    def best(self, column: int) -> int:
        """The pair that a language has most often; -1 where none is frequent."""
        counts = self.counts[: self.used[0], column]
        found = int(counts.argmax()) if len(counts) else -1
        return found if found >= 0 and counts[found] >= MIN_COUNT else -1

    def pair(self, number: int) -> tuple[int, int]:
        left, right = self.pairs[number].tolist()
        return left, right

    def merge(self, pair: int, product: int, token: bytes) -> None:
        if product >= len(self.marks):
            self.marks = _doubled(self.marks)
        self._note(product, token)
        places = _occurrences(self.heads[pair], self.nodes)
        self._room(2 * places, 2 * places)
        self.tokens -= _merge(pair, product, *self._arrays())

    def forbid(self, pair: int) -> None:
        self.heads[pair], self.counts[pair] = FORBIDDEN, 0

    def _note(self, number: int, token: bytes) -> None:
        shows = any(self.own[a, b] for a, b in pairwise(token))
        self.marks[number] = token[0], token[-1], shows

    def _room(self, pairs: int, nodes: int) -> None:
        while len(self.pairs) < self.used[0] + pairs:
            self.pairs, self.counts, self.heads = map(_doubled, (self.pairs, self.counts, self.heads))
            self.index = np.full(4 * len(self.pairs), -1, np.int64)
            _enter_index(self.pairs, self.index, self.used[0])
        while len(self.nodes) < self.used[1] + nodes:
            self.nodes = _doubled(self.nodes)

    def _arrays(self) -> tuple:
        row = (self.ids, self.before, self.after, self.piece, self.weights_PC)
        return (*row, self.own, self.marks, self.index, self.pairs, self.counts, self.heads, self.nodes, self.used)


def _doubled(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, np.zeros_like(array)])


@numba.njit
def _slot(left, right, pairs, index):
    """Where `index` has a pair, or would have it."""
    h = (np.uint64(left) << np.uint64(32) | np.uint64(right)) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64(h >> np.uint64(20)) & (len(index) - 1)
    while index[slot] >= 0 and (pairs[index[slot], 0] != left or pairs[index[slot], 1] != right):
        slot = (slot + 1) & (len(index) - 1)
    return slot


@numba.njit(cache=True)
def _enter_index(pairs, index, n):
    for pair in range(n):
        index[_slot(pairs[pair, 0], pairs[pair, 1], pairs, index)] = pair


@numba.njit
def _enter(place, ids, after, piece, weights_PC, own, marks, index, pairs, counts, heads, nodes, used):  # noqa: PLR0917
    """Count the pair that begins at a place, if it may be merged, and remember the place."""
    left, right = ids[place], ids[after[place]]
    if left < 0 or right < 0:
        return
    if not (marks[left, 2] or marks[right, 2] or own[marks[left, 1], marks[right, 0]]):
        return
    slot = _slot(left, right, pairs, index)
    pair = index[slot]
    if pair < 0:
        pair = used[0]
        index[slot] = pair
        pairs[pair, 0], pairs[pair, 1], heads[pair] = left, right, -1
        used[0] += 1
    if heads[pair] == FORBIDDEN:
        return
    counts[pair] += weights_PC[piece[place]]
    nodes[used[1], 0], nodes[used[1], 1] = place, heads[pair]
    heads[pair] = used[1]
    used[1] += 1


@numba.njit
def _leave(place, ids, after, piece, weights_PC, index, pairs, counts):  # noqa: PLR0917
    left, right = ids[place], ids[after[place]]
    if left >= 0 and right >= 0:
        pair = index[_slot(left, right, pairs, index)]
        if pair >= 0:
            counts[pair] -= weights_PC[piece[place]]


@numba.njit(cache=True)
def _enter_all(ids, before, after, piece, weights_PC, own, marks, index, pairs, counts, heads, nodes, used):  # noqa: PLR0917
    for place in range(len(ids) - 1):
        _enter(place, ids, after, piece, weights_PC, own, marks, index, pairs, counts, heads, nodes, used)


@numba.njit(cache=True)
def _occurrences(node, nodes):
    n = 0
    while node >= 0:
        n += 1
        node = nodes[node, 1]
    return n


@numba.njit(cache=True)
def _merge(pair, product, ids, before, after, piece, weights_PC, own, marks, index, pairs, counts, heads, nodes, used):  # noqa: PLR0917
    """Merge a pair wherever it stands, in each piece from the left; the tokens that are saved in each text."""
    left, right, node = pairs[pair, 0], pairs[pair, 1], heads[pair]
    saved = np.zeros(weights_PC.shape[1], np.int64)
    places = np.empty(_occurrences(node, nodes), np.int64)
    n = 0
    while node >= 0:
        places[n] = nodes[node, 0]
        n += 1
        node = nodes[node, 1]
    heads[pair] = -1
    places.sort()
    for place in places:
        other = after[place]
        if ids[place] != left or other >= len(ids) or ids[other] != right:
            continue  # merged with another neighbour since
        start = before[place]
        if start >= 0:
            _leave(start, ids, after, piece, weights_PC, index, pairs, counts)
        _leave(place, ids, after, piece, weights_PC, index, pairs, counts)
        _leave(other, ids, after, piece, weights_PC, index, pairs, counts)
        ids[place], ids[other] = product, -2
        after[place] = after[other]
        before[after[place]] = place
        saved += weights_PC[piece[place]]
        if start >= 0:
            _enter(start, ids, after, piece, weights_PC, own, marks, index, pairs, counts, heads, nodes, used)
        _enter(place, ids, after, piece, weights_PC, own, marks, index, pairs, counts, heads, nodes, used)
    counts[pair] = 0
    return saved
