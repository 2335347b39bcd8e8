"""The token store: the tokens of one pool end to end in one file, where every token has a fixed address.

    tokens.bin          uint16 when the vocabulary fits, else uint32, little-endian; after each document its end token
    documents.parquet   doc_id, lang, start, length (tokens, the end token counted), bytes (UTF-8 of the text)
    store.json          dtype, vocabulary, counts and checksums; written last: without it there is no store

On a local disk the tokens are memory-mapped; anywhere else a slice is one range read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa
import xxhash

from cluster import storage

DOCUMENTS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("lang", pa.string()),
        ("start", pa.int64()),
        ("length", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
ROW_GROUP = 65_536


def write_store(uri: str, documents: Iterable[tuple[str, str, int, np.ndarray]], vocab_size: int, eod: int) -> dict:
    """Write a token store into the folder `uri` and return the content of its store.json.

    `documents`: (doc_id, lang, UTF-8 bytes of the text, token ids) in the order they shall lie in; it is read once,
    one document in memory at a time. `eod` is put after each. An empty iterable gives an empty, valid store. Raises
    ValueError for a token id outside the vocabulary.
    """
    if not 0 <= eod < vocab_size:
        raise ValueError(f"the end-of-document token {eod} is outside the vocabulary of {vocab_size}")
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    storage.remove(storage.join(uri, "store.json"))  # what is overwritten is no store until the new one is complete
    languages: dict[str, dict[str, int]] = {}
    start = 0
    rows: list[tuple] = []
    with (
        storage.atomic(storage.join(uri, "tokens.bin")) as tokens_path,
        storage.parquet_writer(storage.join(uri, "documents.parquet"), DOCUMENTS) as writer,
        open(tokens_path, "wb") as tokens_file,
    ):
        for doc_id, lang, n_bytes, ids in documents:
            ids = np.asarray(ids)
            if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
                raise ValueError(f"document {doc_id} has a token outside the vocabulary of {vocab_size}")
            tokens_file.write(np.append(ids.astype(dtype), dtype.type(eod)).tobytes())
            length = len(ids) + 1
            rows.append((doc_id, lang, start, length, n_bytes))
            start += length
            count = languages.setdefault(lang, {"documents": 0, "tokens": 0, "bytes": 0})
            count["documents"] += 1
            count["tokens"] += length
            count["bytes"] += n_bytes
            if len(rows) == ROW_GROUP:
                writer.write_batch(_batch(rows))
                rows.clear()
        if rows:
            writer.write_batch(_batch(rows))
    names = ("tokens.bin", "documents.parquet")
    meta = {
        "format": 1,
        "dtype": dtype.name,
        "vocab_size": vocab_size,
        "eod": eod,
        "documents": sum(c["documents"] for c in languages.values()),
        "tokens": start,
        "bytes": sum(c["bytes"] for c in languages.values()),
        "languages": dict(sorted(languages.items())),
        "files": {
            name: {"bytes": storage.size(storage.join(uri, name)), "xxh3_128": _checksum(storage.join(uri, name))}
            for name in names
        },
    }
    storage.write_json(storage.join(uri, "store.json"), meta)
    return meta


class TokenStore:
    """A token store opened for reading. Copies that travel to other processes carry the URI and open it again.

    `n_tokens`, `n_documents`, `n_bytes` (UTF-8 of the texts), `vocab_size`, `eod`, `languages` (counts of each);
    `tokens` takes slices and gives arrays; `starts` int64 [n_documents + 1]: document d is
    `tokens[starts[d]:starts[d + 1]]`. Raises ValueError when there is no complete store at `uri`, or a file has not
    the size that store.json says.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            self.meta = storage.read_json(storage.join(uri, "store.json"))
        except FileNotFoundError:
            raise ValueError(f"{uri}: no complete token store here (store.json is missing); tokenize again") from None
        for name, file in self.meta["files"].items():
            found = storage.size(storage.join(uri, name))
            if found != file["bytes"]:
                raise ValueError(f"{uri}: {name} has {found} bytes instead of {file['bytes']}; tokenize again")
        self.dtype = np.dtype(self.meta["dtype"]).newbyteorder("<")
        self.n_tokens: int = self.meta["tokens"]
        self.n_documents: int = self.meta["documents"]
        self.n_bytes: int = self.meta["bytes"]
        self.vocab_size: int = self.meta["vocab_size"]
        self.eod: int = self.meta["eod"]
        self.languages: dict[str, dict[str, int]] = self.meta["languages"]
        if self.meta["files"]["tokens.bin"]["bytes"] != self.n_tokens * self.dtype.itemsize:
            raise ValueError(f"{uri}: tokens.bin does not hold {self.n_tokens} tokens of {self.dtype}; tokenize again")

    def __reduce__(self) -> tuple:
        return TokenStore, (self.uri,)

    @cached_property
    def tokens(self) -> np.ndarray | RangeReader:
        path = storage.join(self.uri, "tokens.bin")
        if not storage.is_local(path):
            return RangeReader(path, self.dtype, self.n_tokens)
        if not self.n_tokens:
            return np.empty(0, self.dtype)
        # A plain array over the map: slices of np.memmap itself cost five times as much.
        return np.memmap(storage.local(path), self.dtype, mode="r").view(np.ndarray)

    @cached_property
    def starts(self) -> np.ndarray:
        column = storage.read_table(storage.join(self.uri, "documents.parquet"), ["start"])["start"]
        starts = np.append(column.to_numpy(), self.n_tokens)
        if len(starts) != self.n_documents + 1:
            raise ValueError(f"{self.uri}: documents.parquet has {len(starts) - 1} rows instead of {self.n_documents}")
        return starts

    @cached_property
    def documents(self) -> pa.Table:
        """The whole documents.parquet."""
        return storage.read_table(storage.join(self.uri, "documents.parquet"))

    def document_of(self, position: int | np.ndarray) -> int | np.ndarray:
        """The row in `documents` whose text holds the token at `position` (or at each of an array of positions)."""
        if np.any(np.asarray(position) < 0) or np.any(np.asarray(position) >= self.n_tokens):
            raise ValueError(f"{self.uri}: token position outside 0..{self.n_tokens - 1}")
        row = np.searchsorted(self.starts, position, side="right") - 1
        return row if isinstance(position, np.ndarray) else int(row)

    def documents_between(self, start: int, stop: int) -> np.ndarray:
        """The document of each token in `start..stop`: int32 [stop - start]."""
        starts = self.starts
        first = int(starts.searchsorted(start, side="right")) - 1
        last = int(starts.searchsorted(stop - 1, side="right")) - 1
        if first == last:
            return np.full(stop - start, first, np.int32)
        edges = starts[first : last + 2].copy()
        edges[0], edges[-1] = start, stop
        return np.repeat(np.arange(first, last + 1, dtype=np.int32), np.diff(edges))

    def __iter__(self) -> Iterator[tuple[dict, np.ndarray]]:
        """Each document: (row of `documents` as a dict, its token ids without the end-of-document token)."""
        for row in self.documents.to_pylist():
            yield row, self.tokens[row["start"] : row["start"] + row["length"] - 1]

    def verify(self) -> None:
        """Read everything and compare checksums. Raises ValueError naming the file that has changed."""
        for name, file in self.meta["files"].items():
            if _checksum(storage.join(self.uri, name)) != file["xxh3_128"]:
                raise ValueError(f"{self.uri}: the content of {name} is not what was written; tokenize again")


class RangeReader:
    """`tokens[a:b]` of a file on object storage: one range read a slice."""

    def __init__(self, uri: str, dtype: np.dtype, n_tokens: int) -> None:
        self.fs, self.path = storage.filesystem(uri)
        self.dtype = dtype
        self.n_tokens = n_tokens

    def __len__(self) -> int:
        return self.n_tokens

    def __getitem__(self, where: slice) -> np.ndarray:
        start, stop, step = where.indices(self.n_tokens)
        assert step == 1, "range reads are contiguous"
        if stop <= start:
            return np.empty(0, self.dtype)
        data = self.fs.cat_file(self.path, start=start * self.dtype.itemsize, end=stop * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype)


def _batch(rows: list[tuple]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, DOCUMENTS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=DOCUMENTS)


def _checksum(uri: str) -> str:
    digest = xxhash.xxh3_128()
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
