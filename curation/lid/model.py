"""A trained language identifier: probabilities from the n-grams and words of a text, the vote of its lines, its alphabet.

The folder of a model holds `model.json` (labels, scale, temperature) and `weights.safetensors`.

- *Probability*: softmax(a * n^b * z), z = scale * sums / sqrt(n), n the number of n-grams; (a, b) is fitted on sources
  that the model had not seen.
- *Lines*: a passage (`curation.lid.ngrams`) that belongs to another language with a probability of `SURE` or more is of that
  language. The language with the most letters, the unsure ones counted with the whole text's, has the page; its share of the
  letters is reported.
- *Alphabet*: a text with clearly more letters that neither its language nor one of its lines' has than nearly all texts of that
  language is of none that the model knows: Shan is no Burmese and Japanese no Chinese, whatever their n-grams say. Clearly:
  more than the letters allowed, and two of their standard deviations, and one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa
import safetensors.numpy

from cluster import storage
from curation.lid.ngrams import FOLD, PASSAGE_LETTERS, SKIPPED, passage_scores
from curation.text.form import in_one_form
from curation.text.units import decode, text_buffers

OTHER = "other"
PREFIX_CHARS = 1000  # as accurate as the whole text, at a known cost
SURE = 0.9
CHUNK = 1024  # texts at a time, so that memory is bounded
FORMAT = 2  # 1 had no words
LARGEST = 32_000  # the largest weight as an int16


class Predictions(NamedTuple):
    """best: int64 [N], number of the label. probabilities: float32 [N, C]. share: float32 [N], of the letters."""

    best: np.ndarray
    probabilities: np.ndarray
    share: np.ndarray


@dataclass
class LanguageModel:
    """labels: C, the last is `OTHER`. weights: int16 [2^bits, C]. owners: uint32 [2^b] and words: int16 [2^b, C]: the table of
    words. alphabet: uint64 [0x40000]."""

    labels: tuple[str, ...]
    weights: np.ndarray
    owners: np.ndarray
    words: np.ndarray
    scale: float
    alphabet: np.ndarray
    least_known: np.ndarray  # float32 [C]: share of letters in the alphabet
    temperature: tuple[float, float] = (1.0, 0.0)

    @classmethod
    def of_floats(
        cls, labels: tuple[str, ...], weights: np.ndarray, owners: np.ndarray, words: np.ndarray, alphabet: np.ndarray
    ) -> LanguageModel:
        """With float weights rounded to 16 bits."""
        scale = float(max(np.abs(weights).max(), np.abs(words).max()) / LARGEST) or 1.0
        least_known = np.full(len(labels), 0.5, np.float32)
        weights, words = (np.rint(table / scale).astype(np.int16) for table in (weights, words))
        return cls(labels, weights, owners, words, scale, alphabet, least_known)

    def logits(self, sums: np.ndarray, features: np.ndarray) -> np.ndarray:
        """z [N, C] of sums of weights [N, C] over `features` [N] n-grams each."""
        return sums * (self.scale / np.sqrt(np.maximum(features, 1)))[:, None]

    def calibrated(self, z: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Probabilities float32 [N, C]."""
        a, b = self.temperature
        scaled = a * np.maximum(features, 1)[:, None].astype(np.float64) ** b * z
        scaled -= scaled.max(axis=1, keepdims=True)
        raised = np.exp(scaled)
        return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)

    def predict(self, texts: pa.Array) -> Predictions:
        """Label each text by its first `PREFIX_CHARS` characters; one without letters is `OTHER`, probabilities 0."""
        parts = [self._chunk(texts.slice(start, CHUNK)) for start in range(0, len(texts), CHUNK)]
        if not parts:
            width = len(self.labels)
            return Predictions(np.zeros(0, np.int64), np.zeros((0, width), np.float32), np.zeros(0, np.float32))
        return Predictions(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _chunk(self, texts: pa.Array) -> Predictions:
        data, offsets = text_buffers(in_one_form(texts))
        sums, features, letters, owners = _passages(self, data, offsets)
        sure = self.calibrated(self.logits(sums, features), features)
        best, total, n, share, present = _vote(sums, features, letters, owners, sure, len(texts))
        probabilities = self.calibrated(self.logits(total, n), n)
        other = len(self.labels) - 1
        unknown, read = unknown_letters(self, data, offsets, present)
        allowed = (1 - self.least_known[best]) * read
        foreign = (best != other) & (unknown > allowed + 2 * np.sqrt(allowed) + 1)
        probabilities[foreign] = 0
        probabilities[foreign, other] = 1
        empty = n == 0
        probabilities[empty] = 0
        best[foreign | empty] = other
        return Predictions(best, probabilities, share)

    def save(self, folder: str) -> None:
        """Write the model to a folder (any URI). Equal models give equal bytes."""
        letters = np.flatnonzero(self.alphabet)
        tensors = {
            "weights": self.weights,
            "owners": self.owners,
            "words": self.words,
            "least_known": self.least_known,
            "letters": letters.astype(np.uint32),
            "letters_labels": self.alphabet[letters],
        }
        data = safetensors.numpy.save(tensors)
        storage.write_bytes(storage.join(folder, "weights.safetensors"), data)
        facts = {
            "format": FORMAT,
            "labels": list(self.labels),
            "scale": self.scale,
            "temperature": list(self.temperature),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        storage.write_json(storage.join(folder, "model.json"), facts)


def load(folder: str) -> LanguageModel:
    """The model that `save` wrote. Raises ValueError when there is none, or it is another format or damaged."""
    path = storage.join(folder, "model.json")
    if not storage.exists(path):
        raise ValueError(f"{folder}: no language model here (no model.json); `pinisi train lid` makes one")
    facts = storage.read_json(path)
    if facts.get("format") != FORMAT:
        raise ValueError(f"{path}: format {facts.get('format')!r} is not {FORMAT}; train the model again")
    data = storage.read_bytes(storage.join(folder, "weights.safetensors"))
    if hashlib.sha256(data).hexdigest() != facts["sha256"]:
        raise ValueError(f"{folder}: weights.safetensors is not what model.json says; copy or train the model again")
    tensors = safetensors.numpy.load(data)
    alphabet = np.zeros(len(FOLD), np.uint64)
    alphabet[tensors["letters"]] = tensors["letters_labels"]
    return LanguageModel(
        tuple(facts["labels"]),
        tensors["weights"],
        tensors["owners"],
        tensors["words"],
        facts["scale"],
        alphabet,
        tensors["least_known"],
        tuple(facts["temperature"]),
    )


def features_and_sums(model: LanguageModel, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Sums of weights int64 [N, C] and numbers of features int64 [N] of the prefixes of whole texts."""
    sums = np.zeros((len(texts), len(model.labels)), np.int64)
    features = np.zeros(len(texts), np.int64)
    for start in range(0, len(texts), CHUNK):
        data, offsets = text_buffers(texts.slice(start, CHUNK))
        part, counts, _, owners = _passages(model, data, offsets)
        np.add.at(sums, start + owners, part)
        np.add.at(features, start + owners, counts)
    return sums, features


def unknown_letters(
    model: LanguageModel, data: np.ndarray, offsets: np.ndarray, present: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Letters of each prefix that are in no alphabet of its labels (bits of uint64 `present`), and all its letters: int64 [N]."""
    return _unknown(data, offsets, FOLD, PREFIX_CHARS, model.alphabet, present)


def _passages(model: LanguageModel, data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, ...]:
    most = (len(offsets) - 1) * (PREFIX_CHARS // PASSAGE_LETTERS + 1)
    sums = np.empty((most, len(model.labels)), np.int32)
    features, letters, owners = (np.empty(most, np.int32) for _ in range(3))
    tables = model.weights, model.owners, model.words
    n = passage_scores(data, offsets, FOLD, PREFIX_CHARS, *tables, sums, features, letters, owners)
    return sums[:n], features[:n], letters[:n], owners[:n]


@numba.njit(cache=True)
def _vote(sums, features, letters, owners, probabilities, n_texts):  # noqa: PLR0917
    """Of each text: its label, the sums and features of the passages that are not surely of another, the share of letters in
    these, and as bits the labels that it or a sure passage of it has."""
    width = sums.shape[1]
    best = np.zeros(n_texts, np.int64)
    total = np.zeros((n_texts, width), np.int64)
    n = np.zeros(n_texts, np.int64)
    share = np.zeros(n_texts, np.float32)
    present = np.zeros(n_texts, np.uint64)
    sure = np.zeros(width, np.int64)
    first = 0
    while first < len(owners):
        d = owners[first]
        last = first
        sure[:] = 0
        whole = 0
        while last < len(owners) and owners[last] == d:
            for c in range(width):
                total[d, c] += sums[last, c]
                if probabilities[last, c] >= SURE:
                    sure[c] += letters[last]
            n[d] += features[last]
            whole += letters[last]
            last += 1
        lang = np.argmax(total[d])
        unsure = whole - sure.sum()
        others = whole - unsure - sure[lang]
        rival = np.argmax(sure)
        if sure[rival] > sure[lang] + unsure:
            others = whole - unsure - sure[rival]
            lang = rival
        if others:
            total[d] = 0
            n[d] = 0
            for p in range(first, last):
                of_other = False
                for c in range(width):
                    of_other = of_other or (c != lang and probabilities[p, c] >= SURE)
                if not of_other:
                    for c in range(width):
                        total[d, c] += sums[p, c]
                    n[d] += features[p]
        present[d] = np.uint64(1) << np.uint64(lang)
        for c in range(width):
            if sure[c]:
                present[d] |= np.uint64(1) << np.uint64(c)
        best[d] = lang
        share[d] = (whole - others) / whole
        first = last
    return best, total, n, share, present


@numba.njit(cache=True)
def _unknown(data, offsets, fold, max_chars, alphabet, present):  # noqa: PLR0917
    unknown = np.zeros(len(present), np.int64)
    letters = np.zeros(len(present), np.int64)
    for d in range(len(present)):
        i, end, chars = offsets[d], offsets[d + 1], 0
        while i < end and chars < max_chars:
            code, size = decode(data, i, end)
            i += size
            chars += 1
            letter = fold[code]
            if letter > SKIPPED:
                letters[d] += 1
                unknown[d] += alphabet[letter] & present[d] == 0
    return unknown, letters
