"""HTML to the text of its main content; PDF and wikitext to theirs, by `curation.pdf` and `curation.wiki`.

Engines: `lines`, our own reader by rules (`curation.extract.main_content`); `cascade`, the same with a judge behind it that
was trained on pages with gold texts (`curation.extract.judge`); resiliparse and trafilatura. All run in a `Sandbox`, so that a
page which hangs, crashes or swells becomes a ledger row: `too_large`, `too_many_nodes`, `extract_timeout`, `extract_crash`,
`empty` when nothing is left, and `undecodable` when many characters of that are none in any encoding that was tried.
PDF has rules of its own: `curation.pdf.document`.
Every text and title leaves here in the one form of `curation.text.form`; the column `form` says what that took.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from cluster.shards import ledger_rows
from curation.extract.page import ENGINES
from curation.extract.sandbox import TIMEOUT, Sandbox
from curation.schema import DOCUMENT, PDF, WIKI
from curation.text.form import forms, in_one_form

STAGE = "extract"
MAX_BROKEN = 0.05  # share of U+FFFD in a text
CHUNK_PAGES = 256
CHUNK_BYTES = 16_000_000


PDF_PAGES, PDF_SECONDS = 5000, 120.0


class Extractor:
    """Kernel: `RAW` batch -> (`DOCUMENT` batch, ledger batch). Rows that come with a text pass through.

    engine: one of `page.ENGINES`. timeout_seconds: CPU time for one page. max_bytes: of the payload. max_nodes: tags
    that a page may open. markup: `markdown`, or plain text. pdf: the options of `curation.pdf.document.extract`, and
    `timeout_seconds` for a whole PDF. memory_bytes: address space of the worker process beyond its
    libraries. The object can be sent to other processes; each starts its own worker at the first page and ends it with
    `close` or when the object goes.
    """

    def __init__(
        self,
        engine: str = "cascade",
        timeout_seconds: float = 10.0,
        max_bytes: int = 10_000_000,
        max_nodes: int = 200_000,
        markup: str | None = None,
        *,
        pdf: dict | None = None,
        memory_bytes: int = 3_500_000_000,
    ) -> None:
        if markup not in (None, "markdown"):
            raise ValueError(f"there is no markup {markup!r}: take markdown, or none for plain text")
        if markup and engine not in ("cascade", "lines"):
            raise ValueError(f"engine {engine} writes plain text: markup needs cascade or lines")
        if engine not in ENGINES:
            raise ValueError(f"there is no extraction engine {engine!r}: take one of {', '.join(ENGINES)}")
        self.timeout_seconds = timeout_seconds
        self.max_bytes = max_bytes
        self.max_nodes = max_nodes
        options = {"engine": engine, "max_nodes": max_nodes, **({"markup": markup} if markup else {})}
        pdf_options = {"max_pages": PDF_PAGES, "timeout_seconds": PDF_SECONDS, **(pdf or {})}
        wiki_options = {"markup": markup} if markup else {}
        self.pdf_seconds: float = pdf_options.pop("timeout_seconds")
        self._sandbox = Sandbox("curation.extract.page:extract", options, timeout_seconds, memory_bytes)
        self._others = {
            PDF: Sandbox("curation.pdf.document:extract", pdf_options, self.pdf_seconds, memory_bytes),
            WIKI: Sandbox("curation.wiki.wikitext:extract", wiki_options, timeout_seconds, memory_bytes),
        }

    def close(self) -> None:
        """End the worker processes; a later call starts others."""
        for sandbox in (self._sandbox, *self._others.values()):
            sandbox.close()

    def __call__(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        payloads = batch["payload"]
        n_bytes = pc.fill_null(pc.binary_length(payloads), 0).to_pylist()
        is_page = pc.is_valid(payloads).to_pylist()
        texts, titles, hints, days = (batch[name].to_pylist() for name in ("text", "title", "lang_hint", "published"))
        ids, urls = batch["doc_id"].to_pylist(), batch["url"].to_pylist()
        # a crawl of before the column `truncated` is not fetched again for it
        parts = batch["truncated"].to_pylist() if "truncated" in batch.schema.names else [""] * batch.num_rows
        types = batch["content_type"].to_pylist()
        drops: list[dict] = []
        keep = [True] * batch.num_rows

        def drop(row: int, rule: str, **columns) -> None:
            drops.append({"doc_id": ids[row], "url": urls[row], "rule": rule, **columns})
            keep[row] = False

        wanted = []
        for row in range(batch.num_rows):
            if is_page[row] and n_bytes[row] > self.max_bytes:
                drop(row, "too_large", value=n_bytes[row], threshold=self.max_bytes)
            elif is_page[row]:
                wanted.append(row)
        for row, page in self._extracted(batch, wanted, n_bytes, types):
            if "failure" in page:
                if page["failure"] == TIMEOUT:
                    seconds = self.pdf_seconds if types[row] == PDF else self.timeout_seconds
                    drop(row, "extract_timeout", threshold=seconds, detail=page["detail"])
                else:
                    drop(row, "extract_crash", detail=page["detail"])
            elif "nodes" in page:
                drop(row, "too_many_nodes", value=page["nodes"], threshold=self.max_nodes)
            elif "rule" in page:
                drop(row, **page)
            else:
                texts[row], titles[row] = page["text"], titles[row] or page["title"]
                hints[row] = hints[row] or page["lang"]
                days[row] = days[row] or page["published"]
                parts[row] = parts[row] or page.get("truncated", "")
        for row in range(batch.num_rows):
            text = texts[row] or ""
            if keep[row] and not re.search(r"\S", text):
                drop(row, "empty", value=len(text), threshold=1)
            elif keep[row] and is_page[row] and (broken := text.count("\ufffd")) > MAX_BROKEN * len(text):
                drop(row, "undecodable", value=broken / len(text), threshold=MAX_BROKEN)

        in_form, done = forms(pa.array(texts, pa.string()))  # of pages and of documents that came as text alike
        columns = {"text": in_form, "form": done, "title": in_one_form(pa.array(titles, pa.string()))}
        columns |= {"lang_hint": hints, "published": days, "truncated": parts}
        arrays = [
            pa.array(columns[field.name], field.type) if field.name in columns else batch[field.name]
            for field in DOCUMENT
        ]
        documents = pa.RecordBatch.from_arrays(arrays, schema=DOCUMENT).filter(pa.array(keep, pa.bool_()))
        return documents, ledger_rows(STAGE, drops)

    def _extracted(self, batch: pa.RecordBatch, rows: list[int], n_bytes: list[int], types: list[str]):
        """(row, result of `extract`) of the rows, sent to the worker of their type in chunks of bounded size."""
        payloads, charsets = batch["payload"], batch["charset_hint"]
        other = {row: kind for row in rows if (kind := (types[row] or "").partition(";")[0]) in self._others}
        for kind in ("", *self._others):
            left = [row for row in rows if other.get(row, "") == kind]
            while left:
                chunk: list[int] = []
                size = 0
                for row in left[:CHUNK_PAGES]:
                    if chunk and size + n_bytes[row] > CHUNK_BYTES:
                        break
                    chunk.append(row)
                    size += n_bytes[row]
                headers = [
                    {"charset": charsets[row].as_py() or "", **({"type": types[row]} if kind else {})} for row in chunk
                ]
                items = [(header, payloads[row].as_py()) for header, row in zip(headers, chunk, strict=True)]
                sandbox = self._others[kind] if kind else self._sandbox
                yield from zip(chunk, sandbox.map(items), strict=True)
                left = left[len(chunk) :]
