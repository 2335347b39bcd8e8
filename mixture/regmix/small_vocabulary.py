"""A small vocabulary inside a large one: the tokens that matter most, and every other token as the sequence of its parts.

A proxy model of a million parameters would spend nearly all its work on a vocabulary of 150,000. Byte-pair encoding merges
tokens pair by pair, so a token that is left out can be taken apart again, down to bytes: a token store is translated without
its text and without another tokenizer. Kept are the bytes, the end token and the tokens of largest share, averaged over the
languages, so that a small language keeps its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from transformers import PreTrainedTokenizerFast

from cluster import document_tokens


class SmallVocabulary:
    """`size` ids in place of the tokenizer's: `expand(ids)` translates. `kept` int64 [size] are the old ids, rising.

    `counts`: language -> how often each token of the tokenizer occurs, [vocabulary]. A `size` that the tokenizer does
    not exceed keeps everything. Raises ValueError when `size` does not hold the bytes, and for a tokenizer that is not BPE.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, counts: Mapping[str, np.ndarray], size: int) -> None:
        parts = parts_of(tokenizer)
        total = len(tokenizer)
        share_V = sum(np.asarray(count) / max(1, np.sum(count)) for _, count in sorted(counts.items()))
        end, begin = document_tokens.end(tokenizer), document_tokens.begin(tokenizer)
        whole = {token for token in range(total) if token not in parts}  # bytes, and special tokens
        always = sorted(token for token in whole if token in (end, *begin) or not _is_added(tokenizer, token))
        if size < len(always):
            raise ValueError(f"a vocabulary of {size} does not hold the {len(always)} bytes and end token")
        ranked = np.lexsort((np.arange(total), -share_V))
        chosen = set(always)
        for token in ranked.tolist():
            if len(chosen) == min(size, total):
                break
            chosen.add(token)
        self.kept = np.array(sorted(chosen), np.int64)
        self.size = len(self.kept)
        self.eod = int(np.searchsorted(self.kept, end))
        new_id = {token: new for new, token in enumerate(self.kept.tolist())}
        spelled: dict[int, list[int]] = {}

        def spell(token: int) -> list[int]:
            if token not in spelled:
                if token in new_id:
                    spelled[token] = [new_id[token]]
                else:  # a special token that never occurs has no parts
                    spelled[token] = [piece for part in parts.get(token, ()) for piece in spell(part)]
            return spelled[token]

        pieces = [spell(token) for token in range(total)]
        self._length = np.array([len(one) for one in pieces], np.int64)
        self._start = np.cumsum(self._length) - self._length
        self._flat = np.array([piece for one in pieces for piece in one], np.int64)

    def scale(self, count_V: np.ndarray) -> float:
        """How many ids one token of the tokenizer becomes, on average over tokens that occur so often; 1 where none does."""
        return float(count_V @ self._length / count_V.sum()) if count_V.sum() else 1.0

    def expand(self, ids: np.ndarray) -> np.ndarray:
        """The ids [n] in the small vocabulary, int64 [m], m >= n."""
        ids = np.asarray(ids, np.int64)
        length = self._length[ids]
        ends = np.cumsum(length)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - length, length)
        return self._flat[np.repeat(self._start[ids], length) + within]


def parts_of(tokenizer: PreTrainedTokenizerFast) -> dict[int, tuple[int, int]]:
    """The two tokens that each merged token of a BPE tokenizer is made of, by its earliest merge."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] != "BPE":
        raise ValueError(f"only a byte-pair encoding can be made smaller, and this tokenizer is {model['type']}")
    ids = model["vocab"]
    parts: dict[int, tuple[int, int]] = {}
    for merge in model["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        parts.setdefault(ids[left + right], (ids[left], ids[right]))
    return parts


def _is_added(tokenizer: PreTrainedTokenizerFast, token: int) -> bool:
    return token in tokenizer.added_tokens_decoder
