"""Read PDFs: files, the files of zip and tar archives, and the `application/pdf` responses of WARC files.

One PDF is one record, as bytes; the extract stage reads its text, by `curation.pdf.document`. The ledger has `not_pdf` for what
is another kind of file, `record_too_large` and `bad_record`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from cluster import storage
from curation.schema import PDF, Limits, batches, drop, file_name, raw
from curation.sources import archives
from curation.sources.containers import BROKEN, BYTES, unpacked
from curation.sources.responses import is_pdf
from curation.sources.warc import read_records

WARC = b"WARC/"


def read_pdf(
    path: str,
    *,
    source: str,
    licence: str = "",
    language: str = "",
    limits: Limits | None = None,
    name: str | None = None,
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """One file as pairs of (`RAW` batch, ledger batch). `language` is that of all PDFs in it; `name` tells the file from the
    others of its source. The URL of a PDF is its name, or that from which a WARC file has it."""
    limits = limits or Limits()
    columns = {"source": source, "licence": licence, "lang_hint": language}

    def rows() -> Iterator[dict]:
        with storage.opened(path) as file:
            for member, opened in archives.members(file):
                shown = "/".join(filter(None, (name or file_name(path), member)))
                record_id = f"{source}:{'/'.join(filter(None, (name or path, member)))}"
                if isinstance(opened, str):
                    yield drop("bad_record", record_id=record_id, url=shown, detail=f"{shown}: {opened}")
                    continue
                data, problem = _bytes(opened, limits.max_record_bytes)
                if data[: len(WARC)].upper() == WARC:
                    opened.seek(0)
                    own = {**columns, "crawl": "", "warc_file": shown}
                    try:
                        yield from read_records(opened, own, limits, place=record_id, wanted=PDF)
                    except archives.BROKEN_ARCHIVE as error:
                        if archives.of_storage(error):
                            raise
                        yield drop("bad_record", detail=f"{shown}: {type(error).__name__}: {error}")
                    continue
                identity = {"record_id": record_id, "url": shown}
                if problem:
                    yield drop("bad_record", **identity, detail=f"{shown}: {problem}")
                elif not is_pdf(data):
                    yield drop("not_pdf", **identity, detail=f"{shown} with the first bytes {data[:4]!r}")
                elif len(data) > limits.max_record_bytes:
                    yield drop("record_too_large", **identity, value=len(data), threshold=limits.max_record_bytes)
                else:
                    yield raw(**identity, **columns, source_id=shown, content_type=PDF, payload=data)

    yield from batches(rows(), limits)


def _bytes(opened, max_bytes: int) -> tuple[bytes, str]:
    """What a file holds, of a larger one a little more than `max_bytes`, and what is wrong with its packing."""
    data, problem = bytearray(), ""
    try:
        for event, value in unpacked(opened):
            if event in BYTES:
                data += value
            problem = problem or (str(value) if event == BROKEN else "")
            if len(data) > max_bytes or data[: len(WARC)].upper() == WARC:
                break
    except archives.BROKEN_ARCHIVE as error:
        if archives.of_storage(error):
            raise
        problem = f"{type(error).__name__}: {error}"
    return bytes(data), problem
