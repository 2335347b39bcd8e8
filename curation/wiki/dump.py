"""Read MediaWiki XML dumps (`pages-articles`, whole, in parts or multistream): one record a page, as wikitext.

The dump is cut at `<page>` and `</page>`, which its escaped texts cannot hold, so memory is bounded by the largest page that
is taken, and a broken page costs itself. The ledger has `redirect`, `namespace` (of another one than wanted), `not_wikitext`
(scripts, JSON), `missing_text`, `record_too_large` and `bad_record`. Of a page with its history the last revision counts.

A page's URL is built from the `<base>` of the dump's `<siteinfo>`. Its wikitext becomes text in the extract stage, by
`curation.wiki.wikitext`, to which the content type tells how the wiki calls its namespaces of files and categories.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote
from xml.parsers import expat

import pyarrow as pa

from cluster import storage
from curation.schema import WIKI, Limits, batches, drop, file_name, raw
from curation.sources import archives
from curation.sources.containers import BROKEN, BYTES, unpacked

PAGE, PAGE_END = b"<page>", b"</page>"
HEAD_BYTES = 1 << 20  # before the first page
OPEN = re.compile(rb"<page\b[^>]{0,200}>")
URL_SAFE = ";@$!*(),/~:'"  # as MediaWiki leaves them in a title
FILES, CATEGORIES = "6", "14"  # keys of namespaces
FIELDS = {
    "title": "title",
    "ns": "ns",
    "id": "id",
    "revision/timestamp": "timestamp",
    "revision/model": "model",
    "revision/text": "text",
}


@dataclass(frozen=True)
class Site:
    """What a dump says of its wiki: `base` is the part of its pages' URLs before the title."""

    base: str = ""
    database: str = ""
    language: str = ""
    names: tuple[tuple[str, str], ...] = ()  # (key, local name) of FILES and CATEGORIES

    @property
    def content_type(self) -> str:
        label = {FILES: "file", CATEGORIES: "category"}
        return "; ".join([WIKI, *(f"{label[key]}={name}" for key, name in self.names)])


def read_wiki(
    path: str,
    *,
    source: str,
    licence: str = "",
    language: str = "",
    namespaces: tuple[int, ...] = (0,),
    limits: Limits | None = None,
    name: str | None = None,
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """One dump as pairs of (`RAW` batch, ledger batch). `language` goes before that of the dump; `name` tells the file from the
    others of its source."""
    limits = limits or Limits()

    def rows() -> Iterator[dict]:
        with storage.opened(path) as file:
            for member, opened in archives.members(file):
                shown = "/".join(filter(None, (name or file_name(path), member)))
                place = "/".join(filter(None, (name or path, member)))
                if isinstance(opened, str):
                    yield drop("bad_record", record_id=f"{source}:{place}", detail=f"{shown}: {opened}")
                    continue
                site, number = Site(), 0
                for piece in pieces(opened, limits.max_record_bytes):
                    if isinstance(piece, Head):
                        site = siteinfo(piece.data)
                        continue
                    number += 1
                    at = f"{shown}:{number}"
                    if isinstance(piece, str):
                        yield drop("bad_record", record_id=f"{source}:{place}:{number}", detail=f"{at}: {piece}")
                        continue
                    columns = {"source": source, "licence": licence, "lang_hint": language or site.language}
                    yield _row(
                        piece, at, f"{source}:{place}:{number}", site, columns, namespaces=namespaces, limits=limits
                    )
                if not number:
                    yield drop(
                        "bad_record", record_id=f"{source}:{place}", detail=f"{shown}: no page of a MediaWiki dump"
                    )

    yield from batches(rows(), limits)


@dataclass(frozen=True)
class Head:
    """What stands before the first page."""

    data: bytes


@dataclass(frozen=True)
class Long:
    """The begin of a page with more than the bytes that are held, and how many it has."""

    data: bytes
    n_bytes: int


def pieces(file, max_bytes: int) -> Iterator[Head | bytes | Long | str]:
    """The head, then each page from `<page>` to `</page>`, and what is wrong where something breaks."""
    most = 4 * max_bytes + HEAD_BYTES  # markup and escapes beside the text, and earlier revisions
    held, n_bytes, inside, head = bytearray(), 0, False, True
    broken = False
    events = unpacked(file)
    while True:
        try:
            event, value = next(events)
        except StopIteration:
            break
        except archives.BROKEN_ARCHIVE as problem:
            if archives.of_storage(problem):
                raise
            yield f"{type(problem).__name__}: {problem}"
            broken = True
            break
        if event == BROKEN:
            yield str(value) if not inside else f"within a page: {value}"
            held, n_bytes, inside, broken = bytearray(), 0, False, True
            continue
        if event not in BYTES:
            continue
        looked = max(0, len(held) - len(PAGE_END))
        held += value
        n_bytes += len(value)
        while True:
            if not inside:
                found = OPEN.search(held, max(0, looked - 200))
                if not found:
                    if len(held) > HEAD_BYTES:
                        del held[: len(held) - 1024]
                    break
                if head:
                    yield Head(bytes(held[: found.start()]))
                    head = False
                del held[: found.start()]
                n_bytes, looked, inside = len(held), 0, True
            end = held.find(PAGE_END, looked)
            if end < 0:
                if (
                    len(held) > most
                ):  # the begin is kept, for the title, and the end of what is there, for the end of the page
                    del held[HEAD_BYTES : -len(PAGE_END)]
                break
            again = OPEN.search(held, 6, end) if held.find(PAGE, 6, end) >= 0 else None
            if again:  # the end of the page before is missing
                yield "a page without an end"
                del held[: again.start()]
                n_bytes, looked = len(held), 0
                continue
            end += len(PAGE_END)
            page, there = bytes(held[:end]), end + n_bytes - len(held)
            yield Long(page, there) if there > most else page
            del held[:end]
            n_bytes, looked, inside = len(held), 0, False
    if inside and not broken:
        yield "the file ends within a page"


def siteinfo(head: bytes) -> Site:
    """What the head of a dump says; an empty `Site` where it says nothing."""

    def first(pattern: bytes) -> str:
        found = re.search(pattern, head)
        return _unescaped(found[1]) if found else ""

    names = []
    for key in (FILES, CATEGORIES):
        if local := first(rb'<namespace key="%s"[^>]*>([^<]{1,200})<' % key.encode()):
            names.append((key, local.replace(";", "").replace("=", "")))
    base = first(rb"<base>([^<]{1,2000})</base>")
    database = first(rb"<dbname>([^<]{1,200})</dbname>")
    language = first(rb'<mediawiki\b[^>]*\sxml:lang="([^"]{1,40})"')
    return Site(base.rpartition("/")[0] + "/" if "/" in base else "", database, language, tuple(names))


def _unescaped(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        text = text.replace(entity, char)
    return text.strip()


def _row(
    piece: bytes | Long,
    at: str,
    record_id: str,
    site: Site,
    columns: dict,
    *,
    namespaces: tuple[int, ...],
    limits: Limits,
) -> dict:
    """The record or ledger row of one page."""
    if isinstance(piece, Long):
        named = re.search(rb"<title>([^<]{1,1000})</title>", piece.data)
        url = _url(site, _unescaped(named[1])) if named else ""
        return drop(
            "record_too_large", record_id=record_id, url=url, value=piece.n_bytes, threshold=limits.max_record_bytes
        )
    try:
        page = _fields(piece)
    except expat.ExpatError as problem:
        return drop("bad_record", record_id=record_id, detail=f"{at}: {problem}")
    title = page.get("title", "").strip()
    url = _url(site, title)
    if site.database and page.get("id"):
        record_id = f"{columns['source']}:{site.database}:{page['id']}"
    identity = {"record_id": record_id, "url": url}
    space = page.get("ns", "0")
    if "redirect" in page:
        return drop("redirect", **identity, detail=page["redirect"])
    if space not in map(str, namespaces):
        value = int(space) if re.fullmatch(r"-?\d{1,6}", space) else None
        return drop("namespace", **identity, value=value, detail=title)
    if page.get("model", "wikitext") != "wikitext":
        return drop("not_wikitext", **identity, detail=page["model"])
    text = page.get("text")
    if text is None:
        return drop("missing_text", **identity, detail=f"{at}: no text")
    payload = text.encode("utf-8", "replace")
    if len(payload) > limits.max_record_bytes:
        return drop("record_too_large", **identity, value=len(payload), threshold=limits.max_record_bytes)
    day = page.get("timestamp", "")[:10]
    return raw(
        **identity,
        **columns,
        source_id=f"{site.database}:{page['id']}" if site.database and page.get("id") else at,
        published=day if re.fullmatch(r"\d{4}-\d\d-\d\d", day) else "",
        content_type=site.content_type,
        charset_hint="utf-8",
        title=title,
        payload=payload,
    )


def _url(site: Site, title: str) -> str:
    """A page's URL as the wiki itself writes it; empty without a base or title."""
    return site.base + quote(title.replace(" ", "_"), safe=URL_SAFE) if site.base and title else ""


def _fields(page: bytes) -> dict[str, str]:
    """The fields of a page: those of FIELDS, and `redirect`, the title it leads to, where it is one.

    Raises expat.ExpatError for what is no XML."""
    found: dict[str, str] = {}
    path: list[str] = []
    parts: list[str] = []
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True

    def begin(name: str, attributes: dict[str, str]) -> None:
        path.append(name)
        parts.clear()
        if path[1:] == ["revision"]:
            for field in ("timestamp", "model", "text"):
                found.pop(field, None)
        if path[1:] == ["redirect"]:
            found["redirect"] = attributes.get("title", "")
        if path[1:] == ["revision", "text"] and "deleted" in attributes:
            parts.append("\0")

    def end(_: str) -> None:
        field = FIELDS.get("/".join(path[1:]))
        if field and (field != "text" or parts[:1] != ["\0"]):
            found[field] = "".join(parts)
        path.pop()
        parts.clear()

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = begin, end, parts.append
    parser.Parse(page, True)
    return found
