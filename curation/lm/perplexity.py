"""Perplexity of documents under an n-gram model of SentencePiece pieces, one model a language (CCNet; SailCraft's last filter).

    perplexity = 10 ^ (-(sum over lines of log10 p(pieces, </s> | <s>)) / (sum over lines of (pieces + 1)))

The numbers are KenLM's (tests/equality), the reader is ours: normalise, cut and look up in one numba pass over Arrow
buffers. N-grams lie in an open hash table, 16 bytes a slot, 64-bit keys of their words from the last to the first; the
files are memory-mapped, so that the workers of a machine share one copy. Building: `pinisi train lm`.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import storage
from curation.lm import kenlm_files
from curation.lm.kenlm_files import KenLM
from curation.lm.kneser_ney import Grams
from curation.lm.pieces import BEGIN, END, NORMAL, UNKNOWN, Pieces, cut, line_room, pieces_of, read_line
from curation.text.units import PRIME, SEED, mix, text_buffers

PIECES, UNIGRAMS, NGRAMS, ABOUT = "pieces.parquet", "unigrams.npy", "ngrams.npy", "lm.json"


class Model(NamedTuple):
    """An n-gram model of pieces."""

    pieces: Pieces
    unigrams: (
        np.ndarray
    )  # float32 [vocabulary, 2], log10 probability and backoff; a piece never seen has those of UNKNOWN
    known: np.ndarray  # int32 [vocabulary], the piece itself, or UNKNOWN
    keys: np.ndarray  # uint64 [slots], hash of an n-gram of 2 words or more; 0 = free
    values: np.ndarray  # float32 [slots, 2], beside the key in memory
    order: int


def save(folder: str, vocabulary: list[str], scores: list[float], grams: Iterable[Grams], about: dict) -> None:
    """Write a model to the local `folder`; `grams` come by order from 1, `about` is kept as JSON."""
    orders = list(grams)
    unigrams = np.zeros((len(vocabulary), 2), np.float32)
    known = np.zeros(len(vocabulary), bool)
    first = orders[0]
    unigrams[first.words[:, 0]] = np.stack([first.prob, first.backoff], axis=1)
    known[first.words[:, 0]] = True
    unigrams[~known] = unigrams[UNKNOWN]
    total = sum(len(one.prob) for one in orders[1:])
    size = 1 << max(4, (3 * total // 2).bit_length())
    slots = np.zeros((size, 2), np.uint64)
    for one in orders[1:]:
        _insert(*_columns(slots), np.ascontiguousarray(one.words), np.stack([one.prob, one.backoff], axis=1))
    os.makedirs(folder, exist_ok=True)
    table = pa.table({"piece": vocabulary, "score": pa.array(scores, pa.float32()), "known": known})
    pq.write_table(table, os.path.join(folder, PIECES), compression="zstd")
    np.save(os.path.join(folder, UNIGRAMS), unigrams)
    np.save(os.path.join(folder, NGRAMS), slots)
    about = {**about, "order": len(orders), "ngrams": [len(one.prob) for one in orders]}
    Path(folder, ABOUT).write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load(folder: str) -> Model:
    """The model in a local folder. Raises ValueError when there is none."""
    try:
        table = pq.read_table(os.path.join(folder, PIECES))
        about = json.loads(Path(folder, ABOUT).read_text(encoding="utf-8"))
        arrays = [np.load(os.path.join(folder, name), mmap_mode="r") for name in (UNIGRAMS, NGRAMS)]
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no language model here ({error}); `pinisi train lm` makes one") from None
    pieces = pieces_of(table["piece"].to_pylist(), table["score"].to_pylist())
    known = np.where(table["known"].to_numpy(), np.arange(len(table)), UNKNOWN).astype(np.int32)
    unigrams, table = (np.asarray(array) for array in arrays)
    return Model(pieces, unigrams, known, *_columns(table), about["order"])


def _columns(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values of the slots, so laid that a look-up touches one line of the cache."""
    return table[:, 0], table.view(np.float32).reshape(-1, 4)[:, 2:]


def perplexity(text: pa.Array, model: Model) -> np.ndarray:
    """Perplexity of each text per piece, float64 [N]; NaN for a text without a piece."""
    data, offsets = text_buffers(text)
    out = np.empty(len(offsets) - 1)
    _score(data, offsets, NORMAL, model, out, np.zeros(len(offsets) - 1, np.int64))
    return out


def piece_counts(text: pa.Array, model: Model) -> np.ndarray:
    """Pieces of each text, with one for the end of each line, int64 [N]."""
    data, offsets = text_buffers(text)
    counts = np.zeros(len(offsets) - 1, np.int64)
    _score(data, offsets, NORMAL, model, np.empty(len(offsets) - 1), counts)
    return counts


def languages(folder: str) -> list[str]:
    """The languages that have a model below `folder` (any URI), sorted."""
    return sorted(uri.rsplit("/", 2)[-2] for uri in storage.glob(storage.join(folder, "*", ABOUT)))


class PerplexityColumn:
    """Fills the column `perplexity` (float32) of a batch with `text` and `lang` by the models in `folder`: ours, and KenLM's.

    Null for a language without a model and for an empty text. Can be pickled: a process loads the models that it needs.
    Raises ValueError when the folder has no model.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self.kenlm = kenlm_files.found(folder)
        ours = languages(folder)
        if both := sorted(set(ours) & self.kenlm.keys()):
            raise ValueError(
                f"filter.perplexity_models: {folder} has two models of {both[0]}, {both[0]}/ and KenLM's; keep one"
            )
        self.languages = sorted({*ours, *self.kenlm})
        self.models: dict[str, Model | KenLM] = {}
        if not self.languages:
            raise ValueError(
                f"filter.perplexity_models: no model in {folder}, neither of `pinisi train lm --out {folder}` nor "
                "<language>.arpa.bin with <language>.sp.model"
            )

    def __getstate__(self) -> dict:
        return {**vars(self), "models": {}}

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        langs = batch["lang"].to_pylist()
        values = np.full(batch.num_rows, np.nan)
        for lang in sorted(set(langs) & set(self.languages)):
            rows = np.array([i for i, one in enumerate(langs) if one == lang])
            values[rows] = self._of(lang, batch["text"].take(pa.array(rows)))
        column = pa.array(values.astype(np.float32), pa.float32(), mask=np.isnan(values))
        place = batch.schema.get_field_index("perplexity")
        return batch.set_column(place, batch.schema.field(place), column)

    def _of(self, lang: str, texts: pa.Array) -> np.ndarray:
        if lang not in self.models:
            of_kenlm = self.kenlm.get(lang)
            self.models[lang] = (
                KenLM(*of_kenlm) if of_kenlm else load(storage.localize(storage.join(self.folder, lang)))
            )
        model = self.models[lang]
        return model.perplexities(texts.to_pylist()) if isinstance(model, KenLM) else perplexity(texts, model)


def read_arpa(path: str, vocabulary: list[str]) -> list[Grams]:
    """The n-grams of an ARPA file (`.gz` too) whose words are pieces of `vocabulary`. Raises ValueError for another word."""
    opened = gzip.open if path.endswith(".gz") else open
    names = pa.array(["<unk>", "<s>", "</s>", *vocabulary[END + 1 :]], pa.large_string())
    grams: list[Grams] = []
    with opened(path, "rb") as file:
        data = file.read()
    for n in range(1, 10):
        start = data.find(b"\\%d-grams:\n" % n)
        if start < 0:
            break
        start = data.index(b"\n", start) + 1
        body = data[start : data.index(b"\n\\", start - 1) + 1].rstrip(b"\n")
        grams.append(_section(body, n, names))
    return grams


def _section(body: bytes, n: int, names: pa.Array) -> Grams:
    lines = pa.array(body.decode("utf-8").split("\n"), pa.large_string())
    fields = pc.split_pattern(lines, "\t")
    prob = pc.cast(pc.list_element(fields, 0), pa.float32()).to_numpy()
    backoff = np.zeros(len(prob), np.float32)
    has = np.flatnonzero(pc.list_value_length(fields).to_numpy() > 2)
    backoff[has] = pc.cast(pc.list_element(fields.take(pa.array(has)), 2), pa.float32()).to_numpy()
    words = pc.index_in(pc.list_flatten(pc.split_pattern(pc.list_element(fields, 1), " ")), names)
    if words.null_count:
        raise ValueError("the ARPA file has a word that is no piece of the vocabulary")
    return Grams(words.to_numpy().astype(np.int32).reshape(-1, n), prob, backoff)


@numba.njit(inline="always")
def _extend(h, word):
    """Hash of an n-gram with one more word before it; 0 means a free slot, so no n-gram has it."""
    return (h ^ np.uint64(word + 1)) * PRIME


@numba.njit(inline="always")
def _find(keys, h):
    key = mix(h) | np.uint64(1)
    mask = np.uint64(len(keys) - 1)
    slot = (key >> np.uint64(1)) & mask
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot, key


@numba.njit(cache=True)
def _insert(keys, values, words, new):
    for i in range(len(words)):
        h = SEED
        for k in range(words.shape[1] - 1, -1, -1):
            h = _extend(h, words[i, k])
        slot, key = _find(keys, h)
        keys[slot] = key
        values[slot, 0], values[slot, 1] = new[i, 0], new[i, 1]


@numba.njit(cache=True)
def _line(ids, first, n, model, context, backoff):  # noqa: PLR0917
    """log10 probability of the pieces `ids[first:n]` and END after BEGIN. The last two arrays are scratch [order - 1]."""
    total = 0.0
    context[0] = BEGIN  # the newest word first
    backoff[0] = model.unigrams[BEGIN, 1]  # [k]: of the n-gram of k + 1 words that ends at the newest word
    matched = 1  # words of the longest such n-gram that the model has, of `order` - 1 at most
    for i in range(first, n + 1):
        word = model.known[ids[i]] if i < n else np.int32(END)
        log, own = model.unigrams[word, 0], model.unigrams[word, 1]
        h = _extend(SEED, word)
        rest = 0.0  # what backing off costs
        for k in range(matched):
            rest += backoff[k]
        longest = 1
        for k in range(matched):
            h = _extend(h, context[k])
            slot, key = _find(model.keys, h)
            if model.keys[slot] != key:
                break
            rest -= backoff[k]
            backoff[k] = own
            log, own = model.values[slot, 0], model.values[slot, 1]
            longest = k + 2
        total += log + rest
        matched = min(longest, len(backoff))
        if longest <= len(backoff):
            backoff[longest - 1] = own
        for k in range(len(context) - 1, 0, -1):
            context[k] = context[k - 1]
        context[0] = word
    return total


@numba.njit(cache=True)
def _score(data, offsets, normal, model, out, counts):  # noqa: PLR0917
    room = line_room(offsets)
    codes, ids = np.empty(room, np.uint32), np.empty(room, np.int32)
    best, origin, piece = np.empty(room + 1, np.float32), np.empty(room + 1, np.int32), np.empty(room + 1, np.int32)
    context, backoff = np.zeros(model.order - 1, np.int32), np.zeros(model.order - 1)
    for d in range(len(offsets) - 1):
        i, end = offsets[d], offsets[d + 1]
        total = 0.0
        while i < end:
            n, i = read_line(data, i, end, normal, codes)
            if n:
                first = cut(codes, n, model.pieces, best, origin, piece, ids)
                total += _line(ids, first, n, model, context, backoff)
                counts[d] += n - first + 1
        out[d] = 10.0 ** (-total / counts[d]) if counts[d] else np.nan
