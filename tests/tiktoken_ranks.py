"""Vocabularies in the format of tiktoken: one line a token, its bytes in base64 and its rank. The merges follow from the ranks.

`tiktoken` merges the two neighbours whose joint bytes have the lowest rank. So a token is made, last, of the two tokens that
the ones before it leave of its bytes, and its rank is the rank of that merge.
"""

from __future__ import annotations

import base64

import numba
import numpy as np

from cluster import storage
from mixture.bpe.encode import Strings, Unsupported, strings
from mixture.bpe.merges import MAX_IDS, SHORT, add, addresses, empty, merge


def read(uri: str) -> list[bytes]:
    """The tokens of a `.tiktoken` file in the order of their rank. Raises ValueError for another file."""
    try:
        lines = [line.split() for line in storage.read_bytes(uri).splitlines() if line]
        tokens = [base64.b64decode(token, validate=True) for token, rank in lines]
        ranks = [int(rank) for _, rank in lines]
    except ValueError as error:
        raise ValueError(
            f"{uri}: is no vocabulary of tiktoken: a line is not a token in base64 and its rank"
        ) from error
    if ranks != list(range(len(tokens))) or set(map(bytes, np.arange(256, dtype=np.uint8)[:, None])) - set(tokens):
        raise ValueError(f"{uri}: the ranks must count from 0 on, and every byte be a token")
    return tokens


def merges(tokens: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`byte_ids` [256], `pairs_M2` and `products_M` of `mixture.bpe.encode.ByteLevelBPE` for tokens in the order of their
    rank, which is their id. Raises Unsupported for a token that the ones before it do not lead to."""
    if len(tokens) > MAX_IDS:
        raise Unsupported(f"a vocabulary of more than {MAX_IDS:,} tokens")
    byte_ids = np.zeros(256, np.int64)
    for i, token in enumerate(tokens):
        if len(token) == 1:
            byte_ids[token[0]] = i
    longer = [i for i, token in enumerate(tokens) if len(token) > 1]
    made = np.array(longer, np.int64)
    pairs_M2, failed = _derive(strings([tokens[i] for i in longer]), made, byte_ids, empty(byte_ids, len(longer)))
    if failed >= 0:
        raise Unsupported(f"its token {made[failed]} is not made of two tokens of lower rank")
    return byte_ids, pairs_M2, made


@numba.njit(cache=True)
def _derive(tokens: Strings, made, byte_ids, so_far):
    base, pairs = np.int64(tokens.data.ctypes.data), addresses(so_far)
    pairs_M2, byte_of = np.zeros((len(made), 2), np.int64), np.full(MAX_IDS, -1, np.int64)
    out, scratch, random = np.empty(len(tokens.data), np.uint32), np.empty(4 * SHORT, np.uint32), np.zeros(1, np.uint64)
    for byte in range(256):
        byte_of[byte_ids[byte]] = byte
    for k in range(len(made)):
        at, n = base + tokens.offsets[k], tokens.offsets[k + 1] - tokens.offsets[k]
        left = merge(at, n, pairs, out, 0, scratch, random)
        if left != 2:
            return pairs_M2, k
        pairs_M2[k, 0], pairs_M2[k, 1] = out[0], out[1]
        add(so_far, byte_of, pairs_M2[k, 0], pairs_M2[k, 1], k, made[k])
    return pairs_M2, -1
