"""Encode texts with any byte-level BPE of the GPT-2, Qwen2, Qwen3.5 or Llama 3 kind: the ids of `tokenizers`, many times as fast.

A text is put in NFC (`mixture.bpe.nfc`), cut into pieces (`mixture.bpe.pretokenize`), and each piece is looked up
(`mixture.bpe.piece_cache`) or merged (`mixture.bpe.merges`), all in numba over the Arrow buffers, on one core. What a
tokenizer.json asks beyond that (other normalisers, other pieces, bytes without a token) is refused with the reason;
`mixture.tokenizer.encoder` leaves such tokenizers to `tokenizers`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerFast

from mixture.bpe import nfc, piece_cache, pretokenize
from mixture.bpe.merges import SHORT, addresses, build, merge, merge_long
from mixture.bpe.patterns import GPT2, QWEN2, RULES, without_marks
from mixture.bpe.pretokenize import next_piece
from mixture.bpe.utf8 import PADDING


class Unsupported(ValueError):
    """A tokenizer does something that `ByteLevelBPE` does not; the message says what."""


class Strings(NamedTuple):
    """Byte strings in a row: uint8 with PADDING after them, and int64 offsets [n+1]."""

    data: np.ndarray
    offsets: np.ndarray


class ByteLevelBPE:
    """The encoder of one vocabulary, with a cache of pieces of 36 MB. One thread at a time."""

    def __init__(
        self,
        byte_ids: np.ndarray,
        pairs_M2: np.ndarray,
        products_M: np.ndarray,
        *,
        pattern: str = QWEN2,
        in_nfc: bool = True,
        whole: dict[bytes, int] | None = None,
        marks: Sequence[bytes] = (),
    ) -> None:
        """`byte_ids` [256]: id of each byte; `pairs_M2`, `products_M`: ids of both halves and of the result of each merge, by
        rank. `pattern`: a key of `patterns.RULES`, or one that `with_marks` made of it. `in_nfc`: NFC first. `whole`:
        tokens that a piece becomes even where no merges lead to it (`ignore_merges`). `marks`: what `marked` looks for. Raises
        Unsupported."""
        known, joined = without_marks(pattern)
        if known not in RULES:
            raise Unsupported(f"its pieces are cut by another expression: {pattern}")
        try:
            self.merges = build(byte_ids, pairs_M2, products_M)
        except ValueError as error:
            raise Unsupported(str(error)) from error
        self.rules = RULES[known]
        self.tables = pretokenize.tables(self.rules.any_case, self.rules.marks, joined)
        self.form = nfc.tables() if in_nfc else None
        self.marks = strings(marks)
        self.cache = piece_cache.empty()
        self.whole, self.whole_ids = strings(()), np.zeros(0, np.uint32)
        if whole:
            apart = _unreachable(strings(list(whole)), np.array(list(whole.values()), np.uint32), self.merges)
            far = [token for token, is_apart in zip(whole, apart, strict=True) if is_apart]
            if any(len(token) > piece_cache.LONGEST for token in far):
                raise Unsupported(f"a token of more than {piece_cache.LONGEST} bytes that no merges lead to")
            self.whole, self.whole_ids = strings(far), np.array([whole[token] for token in far], np.uint32)
            _restore(self.cache, self.whole, self.whole_ids)
            if self.cache.used[0] < len(far):  # what is not kept would be cut into bytes
                raise Unsupported(f"{len(far):,} tokens that no merges lead to")

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> ByteLevelBPE:
        """The encoder of a Hugging Face tokenizer. Raises Unsupported."""
        return cls.of_spec(json.loads(tokenizer.backend_tokenizer.to_str()))

    @classmethod
    def of_spec(cls, spec: dict) -> ByteLevelBPE:
        """The encoder of a tokenizer.json. Raises Unsupported."""
        return cls(**_settings(spec))

    def encode(
        self, texts: pa.Array | pa.ChunkedArray, dropout: float = 0.0, seeds: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts in a row (uint32), and where each text's begin (int64 [D+1]). A null text has none.

        With `dropout`, each due merge is put aside with that probability (BPE-dropout): the tokens still spell the text, and
        depend on it and the text's seed (uint64 [D]) alone.
        """
        data, offsets = buffers(texts)
        text, starts = nfc.normalise(data, offsets, self.form)
        out = np.empty(starts[-1] + PADDING, np.uint32)
        seeds = np.zeros(len(starts) - 1, np.uint64) if seeds is None else seeds
        ends = _encode(
            text,
            starts,
            self.tables,
            self.rules,
            self.merges,
            self.cache,
            self.whole,
            self.whole_ids,
            dropout,
            seeds,
            out,
        )
        return out[: ends[-1]].copy(), ends

    def marked(self, texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Which texts hold one of the marks, before or after NFC: bool [D]."""
        data, offsets = buffers(texts)
        if len(self.marks.offsets) == 1:
            return np.zeros(len(offsets) - 1, bool)
        raw = nfc.normalise(data, offsets, None)
        found = _contains(*raw, self.marks)
        return found | _contains(*nfc.normalise(data, offsets, self.form), self.marks) if self.form else found


def buffers(texts: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of an Arrow column of strings and its offsets (uint8, int64 [D+1]); a null is empty."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if texts.null_count:
        texts = pc.fill_null(texts, "")
    texts = texts.cast(pa.large_string())
    _, starts, content = texts.buffers()
    offsets = (
        np.frombuffer(starts, np.int64)[texts.offset : texts.offset + len(texts) + 1] if len(texts) else np.zeros(1)
    )
    data = np.frombuffer(content, np.uint8) if content is not None and content.size else np.zeros(0, np.uint8)
    return data, offsets.astype(np.int64)


def strings(values: Sequence[bytes]) -> Strings:
    data = np.frombuffer(b"".join(values) + bytes(PADDING), np.uint8).copy()
    return Strings(data, np.cumsum([0, *map(len, values)], dtype=np.int64))


def byte_symbols() -> dict[str, int]:
    """The character that stands for each byte in a tokenizer.json -> the byte (Radford et al. 2019): itself where it can be
    seen, else the next one from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


def _settings(spec: dict) -> dict:
    """The arguments of `ByteLevelBPE` for a tokenizer.json. Raises Unsupported."""
    model, symbols = spec["model"], byte_symbols()
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise Unsupported("it is no byte-level BPE")
    if any(model.get(key) for key in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")):
        raise Unsupported("it has dropout, an unknown token, or affixes of its own")
    if spec["truncation"] or spec["padding"]:
        raise Unsupported("it truncates or pads")
    if spec["normalizer"] not in (None, {"type": "NFC"}):
        raise Unsupported(f"its normaliser is {spec['normalizer']['type']}")
    vocab = model["vocab"]
    if missing := [symbol for symbol in symbols if symbol not in vocab]:
        raise Unsupported(f"{len(missing)} bytes have no token")
    halves = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    whole, added = {}, {token["content"] for token in spec["added_tokens"]}
    if model.get("ignore_merges"):
        tokens = ((token, i) for token, i in vocab.items() if token not in added and all(c in symbols for c in token))
        whole = {bytes(symbols[c] for c in token): i for token, i in tokens if token}
    marks = [token["content"] for token in spec["added_tokens"] if not token["special"]]
    marks += [nfc.text(mark) for mark in marks]
    byte_ids = np.zeros(256, np.int64)
    byte_ids[list(symbols.values())] = [vocab[symbol] for symbol in symbols]
    return {
        "byte_ids": byte_ids,
        "pairs_M2": np.array([(vocab[a], vocab[b]) for a, b in halves], np.int64).reshape(-1, 2),
        "products_M": np.array([vocab[a + b] for a, b in halves], np.int64),
        "pattern": pattern_of(spec["pre_tokenizer"]),
        "in_nfc": spec["normalizer"] is not None,
        "whole": whole,
        "marks": [mark.encode() for mark in dict.fromkeys(marks)],
    }


def pattern_of(cutter: dict | None) -> str:
    """The expression that cuts pieces: of a ByteLevel step that cuts itself, or of the Split before it."""
    steps: list[dict] = [cutter or {"type": None}]
    if steps[0]["type"] == "Sequence":
        steps = steps[0]["pretokenizers"]
    last = steps[-1]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        raise Unsupported("its pre-tokeniser does not end in plain byte level")
    if len(steps) == 1 and last["use_regex"]:
        return GPT2
    if len(steps) == 2 and not last["use_regex"] and steps[0]["type"] == "Split":
        split = steps[0]
        if split["behavior"] == "Isolated" and not split["invert"] and "Regex" in split["pattern"]:
            return split["pattern"]["Regex"]
    raise Unsupported("its pre-tokeniser has other steps than one expression and byte level")


@numba.njit(cache=True)
def _encode(text, starts, tables, rules, merges, cache, whole, whole_ids, dropout, seeds, out):  # noqa: PLR0917
    base = np.int64(text.ctypes.data)
    classes, letters = np.int64(tables.classes.ctypes.data), np.int64(tables.letters.ctypes.data)
    ends, scratch, random = np.zeros(len(starts), np.int64), np.empty(4 * SHORT, np.uint32), np.zeros(1, np.uint64)
    pairs, written = addresses(merges), 0
    for d in range(len(starts) - 1):
        at, end = base + starts[d], base + starts[d + 1]
        random[0] = seeds[d]
        while at < end:
            stop = min(next_piece(at, end, classes, letters, rules), end)
            n = stop - at
            if dropout > 0 or n > piece_cache.LONGEST:
                written = merge_long(at, n, pairs, out, written, dropout, random)
            else:
                low, high = piece_cache.key_of(at, n)
                row = piece_cache.find(cache, low, high, at, n)
                if cache.rows[row, 2] != 0:
                    written = piece_cache.recall(cache, row, out, written)
                else:
                    start = written
                    written = merge(at, n, pairs, out, written, scratch, random)
                    if not piece_cache.remember(cache, row, low, high, at, n, out, start, written):
                        _restore(cache, whole, whole_ids)
            at = stop
        ends[d + 1] = written
    return ends


@numba.njit(cache=True)
def _restore(cache, whole, whole_ids):
    """Forget all pieces but those that are whole tokens by decree."""
    piece_cache.forget(cache)
    base = np.int64(whole.data.ctypes.data)
    for k in range(len(whole_ids)):
        at, n = base + whole.offsets[k], whole.offsets[k + 1] - whole.offsets[k]
        low, high = piece_cache.key_of(at, n)
        row = piece_cache.find(cache, low, high, at, n)
        piece_cache.remember(cache, row, low, high, at, n, whole_ids, k, k + 1)


@numba.njit(cache=True)
def _unreachable(tokens, ids, merges):
    """Which tokens the merges of their bytes do not lead to."""
    base, pairs = np.int64(tokens.data.ctypes.data), addresses(merges)
    apart, out = np.zeros(len(ids), np.bool_), np.empty(len(tokens.data), np.uint32)
    scratch, random = np.empty(4 * SHORT, np.uint32), np.zeros(1, np.uint64)
    for k in range(len(ids)):
        n = tokens.offsets[k + 1] - tokens.offsets[k]
        apart[k] = merge(base + tokens.offsets[k], n, pairs, out, 0, scratch, random) != 1 or out[0] != ids[k]
    return apart


@numba.njit(cache=True)
def _contains(text, starts, marks):
    """Which texts hold one of the strings: bool [D]."""
    found, first = np.zeros(len(starts) - 1, np.bool_), np.zeros(256, np.bool_)
    for m in range(len(marks.offsets) - 1):
        first[marks.data[marks.offsets[m]]] = True
    for d in range(len(starts) - 1):
        for i in range(starts[d], starts[d + 1]):
            if not first[text[i]]:
                continue
            for m in range(len(marks.offsets) - 1):
                n, k = marks.offsets[m + 1] - marks.offsets[m], 0
                while k < n and i + k < starts[d + 1] and text[i + k] == marks.data[marks.offsets[m] + k]:
                    k += 1
                found[d] |= k == n
    return found
