"""Wanted captures of Common Crawl's CDXJ index: `cluster.idx` says which gzip blocks may hold a host, the blocks hold the lines.

A line is `<SURT> <timestamp> <JSON>`; a block is a gzip member of 3,000 lines; a line of cluster.idx is the first key of a
block, its file, its offset and its length. https://specs.webrecorder.net/cdxj and pywb's ZipNum.
"""

from __future__ import annotations

import gzip
import json
import zlib

import polars as pl

from curation.commoncrawl.layout import Unreadable
from curation.commoncrawl.select import FOUND, HTML, Select, by_page, by_url, found, surt_prefixes

FIELDS = ("url", "mime", "mime-detected", "status", "digest", "length", "offset", "filename", "languages")
BLOCKS = pl.Schema({"file": pl.String, "offset": pl.Int64, "length": pl.Int64})


def blocks(cluster_idx: bytes, select: Select) -> pl.DataFrame:
    """`file`, `offset` and `length` of the blocks that may hold a wanted URL, in their order. Raises Unreadable."""
    names = ("first", *BLOCKS)
    try:
        table = pl.read_csv(cluster_idx, has_header=False, separator="\t", quote_char=None, infer_schema=False)
        table = table.select(table.columns[: len(names)]).rename(dict(zip(table.columns, names, strict=False)))
        lines = table.cast(BLOCKS)
    except pl.exceptions.PolarsError as error:
        raise Unreadable(f"a line is not `key, file, offset, length`: {str(error).splitlines()[0]}") from None
    key = pl.col("first").str.extract(r"^(.*?)(?: \d+)?$")
    following = key.shift(-1).fill_null("\U0010ffff")  # a block ends where the next begins, maybe amid one key
    wanted = [(key <= prefix + "\U0010ffff") & (following >= prefix) for prefix in surt_prefixes(select)]
    return lines.filter(pl.any_horizontal(wanted) if wanted else pl.lit(True)).select(*BLOCKS)


def captures(data: bytes, select: Select) -> pl.DataFrame:
    """Rows of `FOUND` of blocks that follow one another, as their compressed bytes. A line that is no CDXJ is passed over.

    Raises Unreadable when the bytes are not whole gzip members, ValueError when `select.languages` is asked of an index
    that has none.
    """
    try:
        text = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"a block of the CDXJ index is not gzip: {error}") from None
    lines = pl.Series("line", text.decode("utf-8", "replace").split("\n"), dtype=pl.String)
    rows = _parsed(lines.str.extract(r" \d{4,14} (\{.*\})\s*$").drop_nulls())
    pages = rows.with_columns(
        pl.coalesce("mime-detected", "mime").alias("mime"),
        pl.col("status").cast(pl.Int64, strict=False),
        pl.col("offset").cast(pl.Int64, strict=False),
        pl.col("length").cast(pl.Int64, strict=False),
        pl.col("filename").alias("file"),
    ).drop_nulls(["url", "file", "offset", "length"])
    # the columnar index has these in partitions of their own, see SUBSET
    pages = pages.filter(~pl.col("file").str.contains(r"/(crawldiagnostics|robotstxt)/"))
    if (
        select.languages
        and not select.unknown_language
        and pages.height
        and pages["languages"].null_count() == pages.height
    ):
        html = pages.filter(pl.col("mime").is_in(list(HTML)))
        if html.height >= 1000:
            raise ValueError("its index does not say the languages of pages")
    wanted = pages.filter(by_page(select) & by_url(select))
    return found(wanted) if wanted.height else pl.DataFrame(schema=FOUND)


def _parsed(objects: pl.Series) -> pl.DataFrame:
    kind = pl.Struct(dict.fromkeys(FIELDS, pl.String))
    try:
        return objects.str.json_decode(kind).struct.unnest()
    except pl.exceptions.ComputeError:  # one bad line fails them all
        good = []
        for line in objects:
            try:
                value = json.loads(line)
            except json.JSONDecodeError:
                continue
            good.append({name: value[name] for name in FIELDS if isinstance(value.get(name), str)})
        return pl.DataFrame(good, schema=dict.fromkeys(FIELDS, pl.String))
