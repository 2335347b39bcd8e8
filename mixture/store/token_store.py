"""The token store: the tokens of one pool end to end, where every token has a fixed address.

    tokens.bin          uint16 when the vocabulary fits, else uint32, little-endian; after each document its end token
    tokens.xxh3         a checksum (xxh3-64, uint64 little-endian) of each 64 KiB of tokens.bin
    documents.parquet   doc_id, lang, start, length (tokens, the end token counted), bytes (UTF-8 of the text)
    store.json          dtype, vocabulary, counts and checksums of the files; written last: without it there is no store

Documents that are appended lie in files of their own (`tokens-0001.bin` …) and have the addresses that follow; no file
that was written is touched again, and store.json, replaced last, says which files count. So do documents beyond
`SEGMENT_TOKENS`: a file on its way to an object store lies on the local disk first, and an object ends at 5 TB.

On a local disk the tokens are memory-mapped; anywhere else they are read in blocks (`mixture/store/blocks.py`), each checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from cluster import storage
from mixture.store import blocks
from mixture.store.token_files import JoinedTokens, RemoteTokens

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
SEGMENT_TOKENS = 1 << 33  # after which a segment ends: 17 or 34 GB
FORMAT = 2


def write_store(uri: str, documents: Iterable[tuple[str, str, int, np.ndarray]], vocab_size: int, eod: int) -> dict:
    """Write a token store into the folder `uri` and return the content of its store.json.

    `documents`: (doc_id, lang, UTF-8 bytes of the text, token ids) in the order they shall lie in; it is read once,
    one document in memory at a time. `eod` is put after each. An empty iterable gives an empty, valid store. Raises
    ValueError for a token id outside the vocabulary.
    """
    if not 0 <= eod < vocab_size:
        raise ValueError(f"the end-of-document token {eod} is outside the vocabulary of {vocab_size}")
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    for old in storage.glob(storage.join(uri, "store.json")) + storage.glob(storage.join(uri, "*-[0-9]*.*")):
        storage.remove(old)  # what is overwritten is no store until the new one is complete
    meta = {"format": FORMAT, "dtype": dtype.name, "vocab_size": vocab_size, "eod": eod}
    counts = {"documents": 0, "tokens": 0, "bytes": 0, "languages": {}}
    return _commit(uri, _add_segments(uri, {**meta, **counts, "segments": [], "files": {}}, documents))


def append(uri: str, documents: Iterable[tuple[str, str, int, np.ndarray]]) -> dict:
    """Add `documents` (as of `write_store`) behind those of the store at `uri`; returns the new content of store.json.

    No token moves. Readers that have the store open do not see them; a sampler reads them from the row on at which its
    schedule says so. Cut off, it leaves the store as it was. One writer at a time. Raises ValueError like `write_store`.
    """
    meta = TokenStore(uri).meta
    added = _add_segments(uri, meta, documents)
    return meta if added is meta else _commit(uri, added)


def _add_segments(uri: str, meta: dict, documents: Iterable[tuple[str, str, int, np.ndarray]]) -> dict:
    """Write the files of as many segments as the documents fill, one where there is none yet; `meta` with them."""
    rest = iter(documents)
    first = next(rest, None)
    while first is not None or not meta["segments"]:
        meta = _add_segment(uri, meta, _of_one_segment(first, rest))
        first = next(rest, None)
    return meta


def _of_one_segment(document: tuple | None, rest: Iterator[tuple]) -> Iterator[tuple]:
    """`document` and those of `rest` until a segment is full."""
    n_tokens = 0
    while document is not None:
        yield document
        n_tokens += len(document[3]) + 1
        document = next(rest, None) if n_tokens < SEGMENT_TOKENS else None


def _add_segment(uri: str, meta: dict, documents: Iterable[tuple[str, str, int, np.ndarray]]) -> dict:
    """Write the files of one more segment; `meta` with its counts and checksums."""
    dtype, eod = np.dtype(meta["dtype"]).newbyteorder("<"), meta["eod"]
    number = len(meta["segments"])
    tokens_name, sums_name, documents_name = names = _names(number)
    languages = {lang: dict(count) for lang, count in meta["languages"].items()}
    start, n_documents, n_bytes = meta["tokens"], meta["documents"], meta["bytes"]
    rows: list[tuple] = []
    sums: list[np.ndarray] = []
    whole, waiting = xxhash.xxh3_128(), bytearray()

    def put(data: bytes, file) -> None:
        file.write(data)
        whole.update(data)
        waiting.extend(data)
        if len(waiting) >= blocks.BLOCK:
            full = len(waiting) // blocks.BLOCK * blocks.BLOCK
            sums.append(blocks.checksums(waiting[:full]))
            del waiting[:full]

    with (
        storage.atomic(storage.join(uri, tokens_name)) as tokens_path,
        storage.parquet_writer(storage.join(uri, documents_name), DOCUMENTS) as writer,
        open(tokens_path, "wb") as tokens_file,
    ):
        for doc_id, lang, text_bytes, ids in documents:
            ids = np.asarray(ids)
            if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < meta["vocab_size"]:
                raise ValueError(f"document {doc_id} has a token outside the vocabulary of {meta['vocab_size']}")
            put(np.append(ids.astype(dtype), dtype.type(eod)).tobytes(), tokens_file)
            length = len(ids) + 1
            rows.append((doc_id, lang, start, length, text_bytes))
            start, n_documents, n_bytes = start + length, n_documents + 1, n_bytes + text_bytes
            count = languages.setdefault(lang, {"documents": 0, "tokens": 0, "bytes": 0})
            count["documents"] += 1
            count["tokens"] += length
            count["bytes"] += text_bytes
            if len(rows) == ROW_GROUP:
                writer.write_batch(_batch(rows))
                rows.clear()
        if rows:
            writer.write_batch(_batch(rows))
    sums.append(blocks.checksums(waiting))
    storage.write_bytes(storage.join(uri, sums_name), np.concatenate(sums).tobytes())
    digests = {name: _checksum(storage.join(uri, name)) for name in (sums_name, documents_name)}
    digests[tokens_name] = whole.hexdigest()
    files = {n: {"bytes": storage.size(storage.join(uri, n)), "xxh3_128": digests[n]} for n in names}
    counts = {"documents": n_documents, "tokens": start, "bytes": n_bytes, "languages": dict(sorted(languages.items()))}
    segment = {"tokens": start - meta["tokens"], "documents": n_documents - meta["documents"]}
    return {**meta, **counts, "segments": [*meta["segments"], segment], "files": {**meta["files"], **files}}


def _commit(uri: str, meta: dict) -> dict:
    storage.write_json(storage.join(uri, "store.json"), meta)
    return meta


def _names(segment: int) -> tuple[str, str, str]:
    """File names of a segment: tokens, checksums of their blocks, documents."""
    suffix = f"-{segment:04}" if segment else ""
    return f"tokens{suffix}.bin", f"tokens{suffix}.xxh3", f"documents{suffix}.parquet"


class TokenStore:
    """A token store opened for reading. Copies that travel to other processes carry the URI and open it again.

    `n_tokens`, `n_documents`, `n_bytes` (UTF-8 of the texts), `vocab_size`, `eod`, `languages` (counts of each);
    `tokens` takes slices and gives arrays; `starts` int64 [n_documents + 1]: document d is
    `tokens[starts[d]:starts[d + 1]]`. Raises ValueError when there is no complete store at `uri`, or a file has not
    the size that store.json says.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.is_local = storage.is_local(uri)
        try:
            self.meta = storage.read_json(storage.join(uri, "store.json"))
        except FileNotFoundError:
            raise ValueError(f"{uri}: no complete token store here (store.json is missing); tokenize again") from None
        if self.meta["format"] != FORMAT:
            raise ValueError(f"{uri}: a token store of format {self.meta['format']}, not {FORMAT}; tokenize again")
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
        self.segments: int = len(self.meta["segments"])
        for number, segment in enumerate(self.meta["segments"]):
            name = _names(number)[0]
            if self.meta["files"][name]["bytes"] != segment["tokens"] * self.dtype.itemsize:
                raise ValueError(f"{uri}: {name} does not hold {segment['tokens']} tokens; tokenize again")

    def __reduce__(self) -> tuple:
        return TokenStore, (self.uri,)

    @cached_property
    def tokens(self) -> np.ndarray | RemoteTokens | JoinedTokens:
        parts = [self._segment_tokens(number) for number in range(self.segments)]
        return parts[0] if len(parts) == 1 else JoinedTokens(parts, self.dtype)

    def _segment_tokens(self, number: int) -> np.ndarray | RemoteTokens:
        tokens_name, sums_name, _ = _names(number)
        path, n_tokens = storage.join(self.uri, tokens_name), self.meta["segments"][number]["tokens"]
        if not storage.is_local(path):
            file = self.meta["files"][tokens_name]
            sums = storage.join(self.uri, sums_name)
            return RemoteTokens(blocks.BlockFile(path, file["bytes"], sums, file["xxh3_128"]), self.dtype, n_tokens)
        if not n_tokens:
            return np.empty(0, self.dtype)
        # A plain array over the map: slices of np.memmap itself cost five times as much.
        return np.memmap(storage.local(path), self.dtype, mode="r").view(np.ndarray)

    def prefetch(self, start: int, stop: int) -> None:
        """Say that `tokens[start:stop]` will be read soon; from object storage it is fetched meanwhile."""
        if not self.is_local:
            tokens = self.tokens
            assert not isinstance(tokens, np.ndarray), "of a local store only"
            tokens.prefetch(start, stop)

    @cached_property
    def starts(self) -> np.ndarray:
        columns = [storage.read_table(uri, ["start"])["start"].to_numpy() for uri in self._document_files()]
        starts = np.concatenate([*columns, [self.n_tokens]])
        if len(starts) != self.n_documents + 1:
            raise ValueError(f"{self.uri}: documents.parquet has {len(starts) - 1} rows instead of {self.n_documents}")
        return starts

    @cached_property
    def documents(self) -> pa.Table:
        """All rows of documents.parquet, the appended ones last."""
        return pa.concat_tables([storage.read_table(uri) for uri in self._document_files()])

    def _document_files(self) -> list[str]:
        return [storage.join(self.uri, _names(number)[2]) for number in range(self.segments)]

    def rows_of(self, doc_ids: Iterable[str]) -> dict[int, str]:
        """The rows in `documents` that have one of these ids -> the id. Reads the ids a row group at a time."""
        wanted = pa.array(sorted(set(doc_ids)), pa.string())
        found: dict[int, str] = {}
        first = 0
        for uri in self._document_files() if len(wanted) else ():
            with storage.open_parquet(uri) as parquet:
                for batch in parquet.iter_batches(ROW_GROUP, columns=["doc_id"]):
                    hits = np.flatnonzero(pc.is_in(batch["doc_id"], wanted).to_numpy(zero_copy_only=False))
                    found |= {first + int(row): batch["doc_id"][int(row)].as_py() for row in hits}
                    first += batch.num_rows
        return found

    def doc_ids(self, rows: Iterable[int]) -> dict[int, str]:
        """The ids of these rows of `documents`. Reads only the row groups that hold them."""
        wanted = np.array(sorted(set(rows)), np.int64)
        found: dict[int, str] = {}
        first = 0
        for uri in self._document_files():
            with storage.open_parquet(uri) as parquet:
                for group in range(parquet.metadata.num_row_groups):
                    end = first + parquet.metadata.row_group(group).num_rows
                    mine = wanted[(wanted >= first) & (wanted < end)]
                    if len(mine):
                        ids = parquet.read_row_group(group, ["doc_id"])["doc_id"].take(pa.array(mine - first))
                        found |= dict(zip(mine.tolist(), ids.to_pylist(), strict=True))
                    first = end
        return found

    def documents_within(self, n_tokens: int) -> int:
        """How many documents the first `n_tokens` tokens hold."""
        return int(self.starts[:-1].searchsorted(n_tokens))

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
        """Read everything and compare checksums. Raises ValueError naming the file, and the bytes, that have changed."""
        for number in range(self.segments):
            tokens_name, sums_name, documents_name = _names(number)
            for name in (sums_name, documents_name):
                if _checksum(storage.join(self.uri, name)) != self.meta["files"][name]["xxh3_128"]:
                    raise ValueError(f"{self.uri}: the content of {name} is not what was written; tokenize again")
            sums = np.frombuffer(storage.read_bytes(storage.join(self.uri, sums_name)), "<u8")
            fs, path = storage.filesystem(storage.join(self.uri, tokens_name))
            with fs.open(path, "rb") as file:
                for block, expected in enumerate(sums.tolist()):
                    if xxhash.xxh3_64_intdigest(file.read(blocks.BLOCK)) != expected:
                        where = blocks.describe(block, self.meta["files"][tokens_name]["bytes"])
                        raise ValueError(
                            f"{self.uri}: the content of {tokens_name} is not what was written in {where}; tokenize again"
                        )


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
