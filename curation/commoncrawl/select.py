"""Which captures of an index are wanted: a `Select`, as an expression over columns that both kinds of index have.

Columns of an index frame: `url`, `mime`, `status` (int), `languages` (codes with commas, or null), `file`, `offset`, `length`,
`digest` (all as Common Crawl gives them).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import polars as pl
import xxhash

HOST = r"^[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^/?#@]*@)?\[?([^/?#:\]]+)"
HTML = ("text/html", "application/xhtml+xml")

FOUND = {
    "file": pl.String,
    "offset": pl.Int64,
    "length": pl.Int64,
    "digest": pl.String,
    "url": pl.String,
    "key": pl.UInt64,
}
"""One wanted capture: where its record lies, what it must be, and a hash by which captures are sampled."""


@dataclass(frozen=True)
class Select:
    """Each condition that is not empty must hold; within one, any value will do.

    `languages` are ISO 639-3 codes, of which a page may have up to three; `domains` include what lies below them; `urls` and
    `not_urls` are regular expressions (Rust's, so without look-around) found anywhere in the URL.
    """

    languages: tuple[str, ...] = ()
    unknown_language: bool = False  # also pages whose language the index does not say
    mimes: tuple[str, ...] = HTML
    statuses: tuple[int, ...] = (200,)
    tlds: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    not_urls: tuple[str, ...] = ()


def check(select: Select) -> None:
    """Raises ValueError for a regular expression that cannot be read."""
    for pattern in (*select.urls, *select.not_urls):
        try:
            pl.Series([""]).str.contains(pattern)
        except pl.exceptions.ComputeError:
            raise ValueError(
                f"select: {pattern!r} is not a regular expression (Rust's syntax: no look-around)"
            ) from None


def by_page(select: Select) -> pl.Expr:
    """The conditions on `languages`, `mime` and `status`."""
    conditions = [pl.lit(True)]
    if select.languages:
        codes = "|".join(re.escape(code) for code in select.languages)
        conditions.append(pl.col("languages").str.contains(f"(^|,)({codes})(,|$)").fill_null(select.unknown_language))
    if select.mimes:
        conditions.append(pl.col("mime").is_in(list(select.mimes)))
    if select.statuses:
        conditions.append(pl.col("status").is_in(list(select.statuses)))
    return pl.all_horizontal(conditions).fill_null(False)


def by_url(select: Select) -> pl.Expr:
    """The conditions on `url`."""
    conditions = [pl.lit(True)]
    host = pl.col("url").str.extract(HOST).str.to_lowercase().str.strip_chars_end(".")
    if select.tlds:
        conditions.append(host.str.extract(r"([^.]+)$").is_in([tld.lower().lstrip(".") for tld in select.tlds]))
    if select.domains:
        names = "|".join(re.escape(domain.lower()) for domain in select.domains)
        conditions.append(host.str.contains(rf"(^|\.)({names})$"))
    if select.urls:
        conditions.append(pl.any_horizontal([pl.col("url").str.contains(pattern) for pattern in select.urls]))
    conditions += [~pl.col("url").str.contains(pattern) for pattern in select.not_urls]
    return pl.all_horizontal(conditions).fill_null(False)


def surt_prefixes(select: Select) -> list[str]:
    """What the sort key (SURT) of every wanted URL begins with, one of them each; empty when it may be anything.

    A key begins with the host's labels from the right, without `www`: `kh,com,example)/page`.
    """
    names = [re.sub(r"^www\d*\.", "", name.lower().strip(".")) for name in select.domains or select.tlds]
    return sorted({",".join(reversed(name.split("."))) for name in names})


def may_hold(prefixes: list[str], least: str, most: str) -> bool:
    """Whether a sorted run of keys from `least` to `most` may hold one that begins with a prefix."""
    return not prefixes or any(prefix <= most and least <= prefix + "\U0010ffff" for prefix in prefixes)


def found(captures: pl.DataFrame) -> pl.DataFrame:
    """The columns of `FOUND` of captures that are wanted."""
    with_key = captures.with_columns(key=pl.Series(capture_keys(captures["file"], captures["offset"]), dtype=pl.UInt64))
    return with_key.select(pl.col(name).cast(kind) for name, kind in FOUND.items())


def capture_keys(files: pl.Series, offsets: pl.Series) -> np.ndarray:
    """A 64-bit hash of each (file, offset): xxh3 of the name, then the finaliser of SplitMix64. The same on every machine."""
    names = files.unique()
    hashes = pl.Series([xxhash.xxh3_64_intdigest(name.encode()) for name in names.to_list()], dtype=pl.UInt64)
    of_file = files.to_frame("file").join(pl.DataFrame({"file": names, "hash": hashes}), on="file", how="left")["hash"]
    key = of_file.to_numpy() + offsets.to_numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        key = (key ^ (key >> np.uint64(shift))) * np.uint64(factor)
    return key ^ (key >> np.uint64(31))
