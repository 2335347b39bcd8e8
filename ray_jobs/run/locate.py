"""Which parts of a run hold a document, found by its id, its id in the source, or its URL, without reading the texts.

The crawl stage writes one small table beside each of its parts: the sorted 64-bit hashes (xxh3) of these names, also of what
it dropped. A part keeps its name through all stages, so one lookup there says which file to open in each of them. A lookup
reads of each table the footer and at most one row group; equal hashes of different names only cost the opening of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from cluster import storage
from curation.text.urls import normalise, url_keys
from ray_jobs.run import adopted

FOLDER = "_keys"  # in that of the stage that reads
CRAWL = "crawl"
ROW_GROUP = 65_536
THREADS = 32  # an object store answers many small requests at once


class Keys:
    """The keys of one part, collected batch by batch (columns doc_id, url and, where there is one, source_id)."""

    def __init__(self) -> None:
        self._found: list[np.ndarray] = []

    def add(self, batch: pa.RecordBatch) -> None:
        names = [n for n in ("doc_id", "source_id") if n in batch.schema.names]
        ids = [value for name in names for value in batch[name].to_pylist() if value]
        self._found += [_hashes(ids), url_keys(batch["url"].to_pylist())]

    def write(self, run_uri: str, part: str, stage: str = CRAWL) -> None:
        """Commit the table of `part` (a file name) of `stage`."""
        keys = np.unique(np.concatenate([np.zeros(0, np.uint64), *self._found]))
        with storage.atomic(storage.join(run_uri, stage, FOLDER, part)) as path:
            pq.write_table(pa.table({"key": keys[keys != 0]}), path, row_group_size=ROW_GROUP)


def parts(run_uri: str, *names: str, stage: str = CRAWL) -> list[str]:
    """File names of the parts that may hold any of the documents called `names`, sorted. `stage` has read them."""
    wanted = np.unique(np.concatenate([_hashes(names), url_keys(list(names))]))
    wanted = wanted[wanted != 0]
    tables = storage.glob(adopted.path(run_uri, stage, FOLDER, "*.parquet"))
    with ThreadPoolExecutor(THREADS) as pool:
        held = pool.map(lambda uri: _holds(uri, wanted), tables)
        return [uri.rsplit("/", 1)[1] for uri, yes in zip(tables, held, strict=True) if yes]


def calls(name: str) -> Callable[[dict], bool]:
    """Whether a row with `doc_id`, `url` and, where there is one, `source_id` is called `name`: a URL by any of its spellings,
    also without its scheme, as browsers show it."""
    page = normalise(address(name))

    def called(row: dict) -> bool:
        url = row["url"]
        return name in (row["doc_id"], row.get("source_id"), url) or bool(page and url and normalise(url) == page)

    return called


def address(name: str) -> str:
    """The URL that `name` is, where it is one."""
    return name if normalise(name) else f"http://{name}"


def _holds(uri: str, wanted: np.ndarray) -> bool:
    with storage.open_parquet(uri) as parquet:
        for group in range(parquet.metadata.num_row_groups):
            if not parquet.metadata.row_group(group).num_rows:
                continue  # of a part in which nothing was found; it has no bounds
            bounds = parquet.metadata.row_group(group).column(0).statistics
            inside = wanted[(wanted >= bounds.min) & (wanted <= bounds.max)]
            if len(inside) and np.isin(inside, parquet.read_row_group(group)["key"].to_numpy()).any():
                return True
    return False


def _hashes(names: Iterable[str]) -> np.ndarray:
    return np.array([xxhash.xxh3_64_intdigest(name.encode("utf-8", "replace")) for name in names], np.uint64)
