"""Word lists beside those of the language files: read from a folder that a recipe names, and derived from documents.

A stop word is a word that is frequent everywhere. Frequent: by count. Everywhere: it stands in nearly as many documents as a word
strewn at random with the same frequency would, a share that falls with what a word is about: its *evenness*, 2^-(residual
inverse document frequency) of Church and Gale (1995). "Government" is frequent in government news and uneven beside "of".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numba
import numpy as np
import polars as pl
import pyarrow as pa
import yaml

from cluster import storage
from curation.policy.keys import known, words
from curation.text.characters import SCRIPT, script_number
from curation.text.ngrams import number, table_size
from curation.text.units import text_buffers
from curation.text.words import alphabet, decode_text, read_words, split_words, word_hashes

LISTS = ("stop_words", "flagged_words")
KEYS = (*LISTS, "lang", "provenance")
COUNTS = {"word": pl.UInt64, "documents": pl.Int64, "count": pl.Int64, "first": pl.Int64}
LENGTH_BINS = 64


@dataclass(frozen=True)
class StopWords:
    """What makes a word a stop word: one of the `size` most frequent with at least this evenness and share of documents."""

    size: int = 60
    min_evenness: float = 0.6
    min_document_share: float = 0.05
    min_documents: int = 200  # a language with fewer gets no list


def read(folder: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Lists of a folder of `<lang>.yaml`: language -> `stop_words` and `flagged_words`, those that its file has.

    Raises ValueError naming the file and what is wrong with it.
    """
    files = storage.glob(storage.join(folder, "*.yaml"))
    if not files:
        raise ValueError(
            f"filter.word_lists: no <language>.yaml in {folder}; `pinisi train words` writes such a folder"
        )
    lists = {}
    for file in files:
        try:
            content = yaml.safe_load(storage.read_bytes(file)) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is not YAML: {str(error).splitlines()[0]}") from None
        content = known(content, KEYS, file, "")
        found = {key: words(content.get(key), file, key) for key in LISTS}
        lists[PurePosixPath(file).stem] = {key: entries for key, entries in found.items() if entries}
    return lists


def write(folder: str, lang: str, entries: list[str], provenance: Mapping[str, object]) -> None:
    """Write one list of stop words as `read` takes it, with where it is from."""
    head = {"lang": lang, "provenance": dict(provenance)}
    text = yaml.safe_dump(head, allow_unicode=True, sort_keys=False, width=120)
    rows = [", ".join(entries[i : i + 10]) for i in range(0, len(entries), 10)]
    text += "stop_words: >-\n" + ",\n".join(f"  {row}" for row in rows) + "\n"
    storage.write_text(storage.join(folder, f"{lang}.yaml"), text)


def stop_words(
    texts: Callable[[], Iterator[pa.Array]], config: StopWords, script: str | None = None
) -> tuple[list[str] | None, dict[str, object]]:
    """(Stop words by falling frequency, or None with too few documents; what they were derived from).

    `texts` gives the documents of one language anew at each call: they are counted, then read again up to where each chosen
    word was first met. With a `script` words need a letter of it, and none of another.
    """
    counts, lengths = _count(texts())
    documents = int(lengths.sum())
    words = int(counts["count"].sum())
    facts: dict[str, object] = {"documents": documents, "words": words}
    if documents < config.min_documents:
        return None, facts
    share = counts["documents"].to_numpy() / documents
    frequency = counts["count"].to_numpy() / max(1, words)
    kept = np.flatnonzero(share >= config.min_document_share)
    even = kept[_evenness(share[kept], frequency[kept], lengths) >= config.min_evenness]
    chosen = counts[even].sort(["count", "word"], descending=[True, False])
    spelled = _spell(texts(), chosen)
    number = script_number(script) if script else 0
    found = [word for word in spelled if "," not in word and _is_word(word, number)]
    return found[: config.size], facts


def _is_word(word: str, script: int) -> bool:
    letters = [int(SCRIPT[ord(c)]) for c in word if SCRIPT[ord(c)]]
    return bool(letters) and (not script or all(letter == script for letter in letters))


def _evenness(share: np.ndarray, frequency: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Document shares over those expected of words strewn at random. `lengths[b]`: documents of about 2^(b/2) words."""
    words_of_bin = 2.0 ** (np.arange(LENGTH_BINS) / 2)
    expected = (1 - np.exp(-frequency[:, None] * words_of_bin)) @ lengths / lengths.sum()
    return share / expected


def _count(arrays: Iterable[pa.Array]) -> tuple[pl.DataFrame, np.ndarray]:
    """(Words with documents, count and number of the first document; documents by length, int64 [LENGTH_BINS])."""
    total = pl.DataFrame(schema=COUNTS)
    lengths = np.zeros(LENGTH_BINS, np.int64)
    waiting, rows = [total], 0
    for first, array in _numbered(arrays):
        word, document, count, n_words = document_words(*text_buffers(array), alphabet())
        lengths += np.bincount(np.round(2 * np.log2(np.maximum(n_words, 1))).astype(np.int64), minlength=LENGTH_BINS)
        frame = pl.DataFrame({"word": word, "count": count, "first": document + first})
        waiting.append(frame.select("word", pl.lit(1, pl.Int64).alias("documents"), "count", "first"))
        rows += len(frame)
        if rows > 4_000_000:
            waiting, rows = [_added(waiting)], 0
    return _added(waiting), lengths


def _added(frames: list[pl.DataFrame]) -> pl.DataFrame:
    every = pl.concat(frames).group_by("word").agg(pl.sum("documents"), pl.sum("count"), pl.min("first"))
    return every.sort("word")


def _numbered(arrays: Iterable[pa.Array]) -> Iterator[tuple[int, pa.Array]]:
    first = 0
    for array in arrays:
        yield first, array
        first += len(array)


@numba.njit(cache=True)
def document_words(data, offsets, by_word):
    """Distinct words of each document: hash, document, count; and the words of each document."""
    size, n_documents = 0, len(offsets) - 1
    for d in range(n_documents):
        size = max(size, offsets[d + 1] - offsets[d])
    codes, hashes, chars = np.empty(size, np.uint32), np.empty(size, np.uint64), np.empty(size, np.int32)
    keys, slots = np.empty(table_size(size), np.uint64), np.empty(table_size(size), np.int32)
    ids, previous, cuts = np.empty(size + 1, np.int32), np.empty(size + 1, np.int32), np.empty(size + 1, np.int32)
    room = offsets[-1] - offsets[0]
    word, document, count = np.empty(room, np.uint64), np.empty(room, np.int64), np.zeros(room, np.int64)
    n_words = np.zeros(n_documents, np.int64)
    written = 0
    for d in range(n_documents):
        n = decode_text(data, offsets[d], offsets[d + 1], codes)
        n_words[d], _ = read_words(codes, n, by_word, keys, previous, cuts, hashes, chars)
        distinct = number(hashes, n_words[d], keys, slots, ids)
        for i in range(n_words[d]):
            word[written + ids[i]], document[written + ids[i]] = hashes[i], d
            count[written + ids[i]] += 1
        written += distinct
    return word[:written].copy(), document[:written].copy(), count[:written].copy(), n_words


def _spell(arrays: Iterable[pa.Array], chosen: pl.DataFrame) -> list[str]:
    """The words themselves, in the order of `chosen`, from the documents that they were first met in."""
    first_met: dict[int, list[int]] = {}
    for row, document in enumerate(chosen["first"].to_list()):
        first_met.setdefault(document, []).append(row)
    hashes = chosen["word"].to_list()
    spelled = [""] * len(hashes)
    last = max(first_met, default=-1)
    for first, array in _numbered(arrays):
        if first > last:
            break
        for document in [d for d in first_met if first <= d < first + len(array)]:
            rows = {hashes[row]: row for row in first_met[document]}
            text = array[document - first].as_py()
            for word, found in zip(split_words(text), word_hashes(text).tolist(), strict=True):
                if found in rows:
                    spelled[rows[found]] = word
    return spelled
