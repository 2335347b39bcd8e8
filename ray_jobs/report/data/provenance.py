"""Where the kept documents are from: source, site, year, licence, each with documents and text by language."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from ray_jobs.report.data import parts
from ray_jobs.run import adopted
from ray_jobs.run.graph import DECONTAMINATE, DEDUP, LANGUAGE, POLICY, TOKENIZE

LAST = (DECONTAMINATE, DEDUP, POLICY, LANGUAGE)
SITES, LICENCES, SOURCES, YEARS = 20, 20, 8, 40
NONE = ""  # what a document does not say
_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(?P<host>\[[^\]]*\]|[^/?#:\[]+)"
_YEAR = r"^(?P<year>[12][0-9]{3})(?:$|-|/)"


class Amount(NamedTuple):
    documents: int = 0
    tokens: int = 0


@dataclass
class Provenance:
    """`by`: kind (`source`, `site`, `captured`, `published`, `licence`) -> its value, empty where a document has none -> language
    -> amount. A kind is not there when the run has no such column."""

    stage: str
    looked: parts.Looked
    unit: str  # of `Amount.tokens`: tokens, or bytes of text as long as there are none
    by: dict[str, dict[str, dict[str, Amount]]] = field(default_factory=dict)

    @property
    def documents(self) -> int:
        return sum(one.documents for langs in self.by["source"].values() for one in langs.values())


def hosts(urls: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Of each URL the host in lower case without `www.`, empty where there is none.

    >>> hosts(pa.array(["https://WWW.a.kh:80/x", "ftp://u@b.la", "c", None])).to_pylist()
    ['a.kh', 'b.la', '', '']
    """
    found = pc.struct_field(pc.extract_regex(urls, _HOST), "host")
    return pc.fill_null(pc.replace_substring_regex(pc.utf8_lower(found), r"^www\.", ""), NONE)


def years(days: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """
    >>> years(pa.array(["2024-05-01T00:00:00Z", "2019", "yesterday", None])).to_pylist()
    ['2024', '2019', '', '']
    """
    return pc.fill_null(pc.struct_field(pc.extract_regex(days, _YEAR), "year"), NONE)


KINDS = {
    "source": ("source", lambda column: pc.fill_null(column, NONE)),
    "site": ("url", hosts),
    "captured": ("fetched_at", years),
    "published": ("published", years),
    "licence": ("licence", lambda column: pc.fill_null(column, NONE)),
}
"""Kind -> the column of the parts, and what is counted of it."""


def read(uri: str, manifests: Mapping[str, dict]) -> Provenance | None:
    """None as long as no stage that knows the language is done."""
    stage = next((name for name in LAST if name in manifests), None)
    if stage is None:
        return None
    looked = parts.looked_at(adopted.path(uri, stage))
    counted = TOKENIZE in manifests
    found = Provenance(stage, looked, "tokens" if counted else "bytes")
    sums: dict[str, dict] = {}
    columns = ("doc_id", "lang", "n_bytes", *(column for column, _ in KINDS.values()))
    for name, table in parts.tables(adopted.path(uri, stage), looked.names, columns):
        langs = pc.fill_null(table["lang"], "?")
        sizes = _tokens(uri, name, table) if counted else _bytes(table)
        for kind, (column, value) in KINDS.items():
            if column not in table.column_names:
                continue
            cells = pa.table({"value": value(table[column].cast(pa.string())), "lang": langs, "size": sizes})
            of = sums.setdefault(kind, {})
            groups = cells.group_by(["value", "lang"]).aggregate([("size", "count"), ("size", "sum")])
            for row in groups.to_pylist():
                one = of.setdefault(row["value"], {})
                before = one.get(row["lang"], Amount())
                documents = before.documents + row["size_count"]
                one[row["lang"]] = Amount(documents, before.tokens + row["size_sum"])
    found.by = sums
    return found if sums.get("source") else None


def _tokens(uri: str, name: str, table: pa.Table) -> pa.Array:
    """Tokens of each document; 0 of what is held out."""
    part = adopted.path(uri, TOKENIZE, name)
    if not storage.exists(part):
        return pa.array([0] * table.num_rows, pa.int64())
    with storage.open_parquet(part) as parquet:
        of = parquet.read(["doc_id", "n_tokens", "heldout"])
    trained = pc.if_else(pc.fill_null(of["heldout"], False), 0, of["n_tokens"])
    index = pc.index_in(table["doc_id"], of["doc_id"])
    return pc.fill_null(trained.combine_chunks().take(index.combine_chunks()), 0).cast(pa.int64())


def _bytes(table: pa.Table) -> pa.Array | pa.ChunkedArray:
    """Of the text as it was measured; 0 before that."""
    if "n_bytes" not in table.column_names:
        return pa.array([0] * table.num_rows, pa.int64())
    return pc.fill_null(table["n_bytes"], 0).cast(pa.int64())


class Line(NamedTuple):
    name: str
    documents: int
    tokens: int
    languages: list[tuple[str, int]]  # most documents first


def lines(
    of: Mapping[str, Mapping[str, Amount]], most: int, *, by_name: bool = False
) -> tuple[list[Line], Line | None]:
    """The values with most documents, or the last by name, and the sum of the others."""
    every = [
        Line(
            name,
            sum(one.documents for one in langs.values()),
            sum(one.tokens for one in langs.values()),
            sorted(((lang, one.documents) for lang, one in langs.items()), key=lambda item: (-item[1], item[0])),
        )
        for name, langs in of.items()
    ]
    every.sort(key=lambda line: line.name, reverse=by_name)
    if not by_name:
        every.sort(key=lambda line: -line.documents)
    if len(every) <= most:
        return every, None
    rest = every[most:]
    documents, tokens = sum(line.documents for line in rest), sum(line.tokens for line in rest)
    return every[:most], Line(f"{len(rest):,} others", documents, tokens, [])


def table(
    of: Mapping[str, Mapping[str, Amount]], most: int = SOURCES
) -> tuple[list[str], list[tuple[str, list[Amount]]]]:
    """Sources, the largest first and at most so many, the others as one; and of each language the amounts in each and in all."""
    first, rest = lines(of, most)
    names = [line.name for line in first]
    cells: dict[str, dict[str, Amount]] = defaultdict(dict)
    for source, langs in of.items():
        place = source if source in names else "others"
        for lang, one in langs.items():
            before = cells[lang].get(place, Amount())
            cells[lang][place] = Amount(before.documents + one.documents, before.tokens + one.tokens)
    heads = [*names, *(["others"] if rest else [])]
    rows = []
    for lang in sorted(cells):
        amounts = [cells[lang].get(name, Amount()) for name in heads]
        rows.append((lang, [*amounts, Amount(*(sum(one[i] for one in amounts) for i in (0, 1)))]))
    return heads, rows


def section(found: Provenance) -> dict:
    """What templates/data.html shows."""
    heads, rows = table(found.by["source"])
    tops = {}
    for kind, most, by_name in (
        ("site", SITES, False),
        ("captured", YEARS, True),
        ("published", YEARS, True),
        ("licence", LICENCES, False),
    ):
        if kind in found.by:
            tops[kind] = lines(found.by[kind], most, by_name=by_name)
    return {
        "stage": found.stage,
        "looked": found.looked,
        "unit": found.unit,
        "documents": found.documents,
        "sources": heads,
        "rows": rows,
        "tops": tops,
        "sites": len(found.by.get("site", {})),
        "missing": [kind for kind in KINDS if kind not in found.by],
    }
