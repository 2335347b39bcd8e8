"""Records of WARC files put together to few range requests, and ranges put together to shards.

A request costs a place in the rate limit whatever its length, and the bytes between two records cost bandwidth: records of one
file at most `gap_bytes` apart are asked for together, up to `max_range_bytes` at a time. A shard is so many records in order of
(file, offset) that about `shard_bytes` of them are wanted; it does not depend on how they are put together to ranges.
"""

from __future__ import annotations

import numba
import numpy as np
import polars as pl


def plan(records: pl.DataFrame, gap_bytes: int, max_range_bytes: int, shard_bytes: int) -> pl.DataFrame:
    """`records` (`FOUND`) sorted by file and offset, each place once, with `shard` and `range` (int32, from 0, rising).

    A range belongs to one shard and one file.
    """
    ordered = records.sort("file", "offset", "length").unique(["file", "offset"], keep="first", maintain_order=True)
    file = ordered["file"].rle_id().to_numpy()
    offset, length = ordered["offset"].to_numpy(), ordered["length"].to_numpy()
    shard = ((np.cumsum(length) - length) // shard_bytes).astype(np.int32)
    shard = pl.Series(shard, dtype=pl.Int32).rle_id().cast(pl.Int32).to_numpy()  # a long record may leave a number out
    return ordered.with_columns(
        shard=pl.Series(shard, dtype=pl.Int32),
        range=pl.Series(_ranges(file, shard, offset, length, gap_bytes, max_range_bytes), dtype=pl.Int32),
    )


def sizes(planned: pl.DataFrame) -> pl.DataFrame:
    """One row a shard: `shard`, `first_row`, `rows`, `ranges`, `wanted_bytes`, `fetch_bytes` (with the gaps)."""
    end = pl.col("offset") + pl.col("length")
    ranges = planned.with_row_index("row").group_by("shard", "range", maintain_order=True)
    return (
        ranges.agg(
            first_row=pl.col("row").min().cast(pl.Int64),
            rows=pl.len().cast(pl.Int64),
            wanted_bytes=pl.col("length").sum(),
            fetch_bytes=end.max() - pl.col("offset").min(),
        )
        .group_by("shard", maintain_order=True)
        .agg(
            pl.col("first_row").min(),
            pl.col("rows").sum(),
            pl.len().cast(pl.Int64).alias("ranges"),
            pl.col("wanted_bytes").sum(),
            pl.col("fetch_bytes").sum(),
        )
    )


def runs(offset: np.ndarray, length: np.ndarray, gap_bytes: int, max_bytes: int) -> np.ndarray:
    """Numbers, from 0, of the runs of parts of one file (in order of their offsets) that are read together."""
    one = np.zeros(len(offset), np.int32)
    return _ranges(one, one, offset, length, gap_bytes, max_bytes)


@numba.njit(cache=True)
def _ranges(file, shard, offset, length, gap_bytes, max_range_bytes):  # noqa: PLR0917
    result = np.zeros(len(offset), np.int32)
    number, start, end = 0, 0, 0
    for i in range(len(offset)):
        last = offset[i] + length[i]
        if i and (
            file[i] != file[i - 1]
            or shard[i] != shard[i - 1]
            or offset[i] - end > gap_bytes
            or max(end, last) - start > max_range_bytes
        ):
            number += 1
        if i == 0 or number != result[i - 1]:
            start, end = offset[i], last
        end = max(end, last)
        result[i] = number
    return result
