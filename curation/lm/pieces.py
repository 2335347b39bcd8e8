"""Texts cut into the pieces of a SentencePiece unigram model (Kudo 2018), line by line, in numba on Arrow buffers.

Normalisation is CCNet's as SailCraft has it: control and format characters go, every digit becomes 0, typographic
punctuation becomes ASCII, runs of spaces one space. Lines are split first (SailCraft deletes the newlines with
the control characters, so that the words at line ends fuse and a document is one sentence).

The segmentation is SentencePiece's own (`EncodeOptimized`: the path of the highest sum of scores in float32, an unknown
character costs 10 more than the worst piece, neighbouring unknown ones are one piece), but 20 times as fast as its Python
package, as nothing is built for a line. tests/equality compares the two.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa

from curation.text.characters import ASCII
from curation.text.units import PRIME, SIZE, decode, text_buffers

UNKNOWN, BEGIN, END = 0, 1, 2
"""Ids of SentencePiece's control pieces."""

SPACE_MARK = 0x2581  # stands for a space, and before the first word
NODE_BITS = 22
CODE_BITS, LOW_BITS, LOW_MASK = np.uint64(18), np.uint64(NODE_BITS), np.uint64((1 << NODE_BITS) - 1)
UNKNOWN_PENALTY = np.float32(10.0)
_DROP, _BREAK, _ELLIPSIS = 0, 0x0A, 0x2026
_BREAKS = (0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029)


def _normal() -> np.ndarray:
    table = np.arange(SIZE, dtype=np.uint32)
    for code in range(SIZE):
        category = unicodedata.category(chr(code))
        if code in _BREAKS:
            table[code] = _BREAK
        elif category[0] == "Z" or code in (0x09, SPACE_MARK):
            table[code] = 0x20
        elif category in ("Cc", "Cf", "Cs"):
            table[code] = _DROP
        elif category == "Nd":
            table[code] = ord("0")
        elif code < len(ASCII) and ASCII[code] and code != _ELLIPSIS:
            table[code] = ASCII[code]
    return table


NORMAL = _normal()
"""What each code point becomes: 0 = nothing, 0x0A = end of line."""


class Pieces(NamedTuple):
    """A vocabulary as a trie over code points in an open hash table. Node 0 is the root."""

    edges: np.ndarray  # uint64 [slots]: node (22 bits), code point (18), node that it leads to (22); 0 = free
    ids: np.ndarray  # int32 [nodes], piece that ends here, or -1
    scores: np.ndarray  # float32 [nodes]
    unknown: np.float32  # score of a character that is no piece


def pieces_of(vocabulary: Sequence[str], scores: Sequence[float]) -> Pieces:
    """The trie of the pieces with these ids (their places); the first three are control pieces and match nothing."""
    edges: dict[tuple[int, int], int] = {}
    ids, node_scores = [-1], [0.0]
    for number, (piece, score) in enumerate(zip(vocabulary, scores, strict=True)):
        if number <= END:
            continue
        node = 0
        for character in piece:
            key = (node, ord(character))
            if key not in edges:
                edges[key] = len(ids)
                ids.append(-1)
                node_scores.append(0.0)
            node = edges[key]
        ids[node], node_scores[node] = number, score
    size = 1 << max(4, (2 * len(edges)).bit_length())
    assert size <= 1 << NODE_BITS, "more nodes than an edge has bits for"
    table = np.zeros(size, np.uint64)
    triples = np.array([(node, code, target) for (node, code), target in edges.items()], np.uint64).reshape(-1, 3)
    _fill(table, triples)
    worst = min(scores[END + 1 :], default=0.0)
    return Pieces(
        table, np.array(ids, np.int32), np.array(node_scores, np.float32), np.float32(worst) - UNKNOWN_PENALTY
    )


def normal_lines(text: pa.Array) -> list[str]:
    """The normalised lines of all texts that have anything in them, in order."""
    data, offsets = text_buffers(text)
    codes = _normal_codes(data, offsets, NORMAL)
    joined = codes.tobytes().decode("utf-32-le", "replace").replace(chr(SPACE_MARK), " ")
    return [line.strip() for line in joined.split("\n") if line]


def encode(text: pa.Array, pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the pieces of all texts, int32, and the end of each line among them, int64; empty lines are left out."""
    data, offsets = text_buffers(text)
    return _encode(data, offsets, NORMAL, pieces)


@numba.njit(inline="always")
def _follow(edges, node, code):
    """The node that `code` leads to from `node`, or 0: no edge leads to the root."""
    key = np.uint64(node) << CODE_BITS | np.uint64(code)
    mask = np.uint64(len(edges) - 1)
    slot = (key * PRIME) >> np.uint64(40) & mask
    while edges[slot] and edges[slot] >> LOW_BITS != key:
        slot = (slot + np.uint64(1)) & mask
    return edges[slot] & LOW_MASK


@numba.njit(cache=True)
def _fill(edges, triples):
    mask = np.uint64(len(edges) - 1)
    for i in range(len(triples)):
        key = triples[i, 0] << CODE_BITS | triples[i, 1]
        slot = (key * PRIME) >> np.uint64(40) & mask
        while edges[slot]:
            slot = (slot + np.uint64(1)) & mask
        edges[slot] = key << LOW_BITS | triples[i, 2]


@numba.njit(cache=True)
def read_line(data, i, end, normal, codes):
    """Normalise from byte `i` to the end of a line: (code points written, index after it). A space mark comes first."""
    n = 0
    space = True
    while i < end:
        lead = data[i]
        if lead < 0x80:
            code, size = np.uint32(lead), 1
        else:
            wide, size = decode(data, i, end)
            code = np.uint32(wide)
        i += size
        plain = normal[code]
        if plain == 0x20:
            space = True
        elif plain == _BREAK:
            break
        elif plain != _DROP:
            if space:
                codes[n] = SPACE_MARK
                n += 1
                space = False
            for _ in range(3 if plain == _ELLIPSIS else 1):
                codes[n] = 0x2E if plain == _ELLIPSIS else plain
                n += 1
    return n, i


@numba.njit(cache=True)
def cut(codes, n, pieces, best, origin, piece, ids):  # noqa: PLR0917
    """Write the pieces of `codes[:n]` to the end of `ids[:n]`: index of the first. The other arrays are scratch [n + 1]."""
    for j in range(1, n + 1):
        origin[j] = -1
    best[0] = 0
    for start in range(n):
        so_far = best[start]
        node, single = np.uint64(0), False
        for j in range(start, n):
            node = _follow(pieces.edges, node, codes[j])
            if node == 0:
                break
            if pieces.ids[node] >= 0:
                score = np.float32(so_far + pieces.scores[node])
                if origin[j + 1] < 0 or score > best[j + 1]:
                    best[j + 1], origin[j + 1], piece[j + 1] = score, start, pieces.ids[node]
                single = single or j == start
        if not single:
            score = np.float32(so_far + pieces.unknown)
            if origin[start + 1] < 0 or score > best[start + 1]:
                best[start + 1], origin[start + 1], piece[start + 1] = score, start, UNKNOWN
    first, at = n, n
    while at > 0:
        if piece[at] != UNKNOWN or first == n or ids[first] != UNKNOWN:
            first -= 1
            ids[first] = piece[at]
        at = origin[at]
    return first


@numba.njit
def line_room(offsets):
    """The most code points that a line of these texts can have: one a byte (an ellipsis becomes three), and the first mark."""
    room = 0
    for d in range(len(offsets) - 1):
        room = max(room, offsets[d + 1] - offsets[d])
    return room + 2


@numba.njit(cache=True)
def _normal_codes(data, offsets, normal):
    codes = np.empty(2 * (offsets[-1] - offsets[0]) + len(offsets) + 2, np.uint32)
    n = 0
    for d in range(len(offsets) - 1):
        i, end = offsets[d], offsets[d + 1]
        while i < end:
            written, i = read_line(data, i, end, normal, codes[n:])
            if written:
                n += written
                codes[n] = _BREAK
                n += 1
    return codes[:n]


@numba.njit(cache=True)
def _encode(data, offsets, normal, pieces):
    room = line_room(offsets)
    codes, ids = np.empty(room, np.uint32), np.empty(room, np.int32)
    best, origin, piece = np.empty(room + 1, np.float32), np.empty(room + 1, np.int32), np.empty(room + 1, np.int32)
    size, n, lines = 1024, 0, 0
    out, ends = np.empty(size, np.int32), np.empty(size, np.int64)
    for d in range(len(offsets) - 1):
        i, end = offsets[d], offsets[d + 1]
        while i < end:
            written, i = read_line(data, i, end, normal, codes)
            if written == 0:
                continue
            first = cut(codes, written, pieces, best, origin, piece, ids)
            count = written - first
            while n + count > len(out):
                larger = np.empty(2 * len(out), np.int32)
                larger[:n] = out[:n]
                out = larger
            out[n : n + count] = ids[first:written]
            n += count
            if lines == len(ends):
                longer = np.empty(2 * lines, np.int64)
                longer[:lines] = ends
                ends = longer
            ends[lines] = n
            lines += 1
    return out[:n], ends[:lines]
