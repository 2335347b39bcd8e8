"""Wanted captures of one file of Common Crawl's columnar index (Parquet), reading as little of it as the conditions allow.

The index is sorted by SURT, so row groups that can hold no wanted host are passed over by their statistics; of the others the
narrow columns are read first, and URL, digest and place only where a row is left. Every read goes through the file object,
that is through the rate limit: `polars.scan_parquet` would push the same conditions down, but send its own requests.

Schema: https://github.com/commoncrawl/cc-index-table
"""

from __future__ import annotations

from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cluster import storage
from curation.commoncrawl.layout import Unreadable
from curation.commoncrawl.select import FOUND, Select, by_page, by_url, found, may_hold, surt_prefixes

PAGE_COLUMNS = ("fetch_status", "content_mime_type", "content_mime_detected", "content_languages")
PLACE_COLUMNS = ("url", "content_digest", "warc_filename", "warc_record_offset", "warc_record_length")


def captures(file: BinaryIO, select: Select) -> pl.DataFrame:
    """Rows of `FOUND` of an open index file.

    Raises ValueError when `select.languages` is asked of an index that has no languages, and when it is no index;
    Unreadable when its bytes are no Parquet.
    """
    try:
        return _captures(storage.ParquetOfPython(file), select)
    except (OSError, pa.ArrowException) as error:
        raise Unreadable(f"not readable as Parquet: {error}") from None


def _captures(parquet: pq.ParquetFile, select: Select) -> pl.DataFrame:
    names = set(parquet.schema_arrow.names)
    missing = sorted({*PLACE_COLUMNS, "fetch_status"} - names)
    if missing:
        raise ValueError(f"this is no columnar index of Common Crawl: it has no column {missing[0]}")
    if select.languages and "content_languages" not in names and not select.unknown_language:
        raise ValueError("its index does not say the languages of pages")
    parts = [pl.DataFrame(schema=FOUND)]
    for group in _groups(parquet, select):
        pages = pl.DataFrame(parquet.read_row_group(group, columns=[n for n in PAGE_COLUMNS if n in names]))
        rows = pages.select(_pages(pages.columns)).with_row_index("row").filter(by_page(select))["row"]
        if not rows.len():
            continue
        places = pl.DataFrame(parquet.read_row_group(group, columns=list(PLACE_COLUMNS)))[rows].select(
            "url",
            digest="content_digest",
            file="warc_filename",
            offset=pl.col("warc_record_offset").cast(pl.Int64),
            length=pl.col("warc_record_length").cast(pl.Int64),
        )
        parts.append(found(places.filter(by_url(select))))
    return pl.concat(parts)


def _groups(parquet: pq.ParquetFile, select: Select) -> list[int]:
    """Row groups that may hold a wanted URL."""
    prefixes = surt_prefixes(select)
    column = parquet.schema_arrow.names.index("url_surtkey") if "url_surtkey" in parquet.schema_arrow.names else None
    if not prefixes or column is None:
        return list(range(parquet.metadata.num_row_groups))
    groups = []
    for group in range(parquet.metadata.num_row_groups):
        bounds = parquet.metadata.row_group(group).column(column).statistics
        if bounds is None or not bounds.has_min_max or may_hold(prefixes, bounds.min, bounds.max):
            groups.append(group)
    return groups


def _pages(names: list[str]) -> list[pl.Expr]:
    """The columns that `by_page` looks at; older snapshots lack some."""
    mimes = [n for n in ("content_mime_detected", "content_mime_type") if n in names]
    return [
        pl.col("fetch_status").cast(pl.Int64).alias("status"),
        (pl.coalesce(mimes) if mimes else pl.lit(None, pl.String)).alias("mime"),
        (pl.col("content_languages") if "content_languages" in names else pl.lit(None, pl.String)).alias("languages"),
    ]
