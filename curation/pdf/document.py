"""One PDF: the text of its text layer in reading order. Runs inside the sandbox of `curation.extract.extractor`.

What cannot be read is a rule of the ledger: `bad_pdf`, `encrypted` (a password is needed), `too_many_pages`, `too_much_text`,
`scanned` (pictures of text alone, and no function reads them), `legacy_font` (a script in the encoding of a font). Where some
pages are scans, broken or more than the user's function can read, the text of the others stays, and `truncated` says so.
"""

from __future__ import annotations

import re
from collections import Counter

import pypdfium2 as pdfium
from pypdfium2 import raw

from cluster import user_code
from curation.pdf import fonts, running
from curation.pdf.layout import Line, Run, lines, runs
from curation.pdf.paragraphs import paragraphs
from curation.pdf.words import TooLong, is_scan, words

MAX_CHARS = 20_000_000  # of a document: one small content stream may be drawn on every page
OCR_DPI = 200
OCR_PIXELS = 25_000_000
KEY = "extract.pdf.ocr"
MESSAGE_CHARS = 300  # of an exception of the user's function
DATE = re.compile(r"^(?:D:)?((?:19|20)\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
NO_TITLE = re.compile(
    r"^(?:untitled|microsoft (?:word|powerpoint|excel) - .*|.*\.(?:docx?|pdf|indd|qxd|pptx?|xlsx?|tex|rtf|dvi))$", re.I
)


def prepare(max_pages: int, ocr: str = "", folder: str = "") -> None:
    """Import the user's function before the limits and the clock of a first document."""
    if ocr:
        user_code.function(ocr, folder, KEY)


def extract(header: dict, payload: bytes, max_pages: int, ocr: str = "", folder: str = "") -> dict:
    """`{"text", "title", "published", "lang", "truncated"}` of a PDF, or `{"rule", ...}`, a row of the ledger.

    ocr: `package.module:function` of the user's, searched in `folder` first, which gets a page as an array of 8-bit RGB [height,
    width, 3] and the language that the PDF declares, and gives its text."""
    try:
        document = pdfium.PdfDocument(payload)
    except pdfium.PdfiumError as problem:
        locked = raw.FPDF_GetLastError() == raw.FPDF_ERR_PASSWORD or "assword" in str(problem)
        return {"rule": "encrypted" if locked else "bad_pdf", "detail": str(problem)}
    n_pages = len(document)
    if n_pages > max_pages:
        return {"rule": "too_many_pages", "value": n_pages, "threshold": max_pages}
    lang = _language(document)
    read = user_code.function(ocr, folder, KEY) if ocr else None
    pages: list[tuple[list[Run], float]] = []
    seen: dict[int, str] = {}  # what was read in pictures
    names: Counter[str] = Counter()
    scans = broken = unknown = n_chars = 0
    why = ""  # what the user's function raised at the first page that it could not read
    for number in range(n_pages):
        try:
            page = document[number]
            found, odd = words(page, MAX_CHARS - n_chars)
        except TooLong as problem:
            return {"rule": "too_much_text", "threshold": MAX_CHARS, "detail": str(problem)}
        except pdfium.PdfiumError:
            broken += 1
            pages.append(([], 0.0))
            continue
        if is_scan(page, found):
            if not read:
                scans += 1
            elif (picture := _picture(page)) is None:
                broken += 1
            else:
                try:
                    seen[number] = str(read(picture, lang))
                except Exception as problem:  # the user's code may raise anything; the other pages stay
                    scans += 1
                    why = why or f"{type(problem).__name__}: {problem}"[:MESSAGE_CHARS]
            found = [] if number in seen else found
        for word in found:
            names[word.font] += len(word.text)
            n_chars += len(word.text)
        unknown += odd
        pages.append((runs(found), page.get_height()))
        page.close()
    raised = f" ({KEY} raised {why})" if why else ""
    if scans and not n_chars and not seen:
        detail = f"{scans} of {n_pages} pages are pictures{raised}"
        return {"rule": "scanned", "value": scans, "threshold": 0, "detail": detail}
    text = _text(pages, seen)
    if (other := fonts.respelled(text)) is not None:
        text = other
    elif fault := fonts.fault(text, names, unknown):
        return {"rule": "legacy_font", "value": unknown, "detail": fault}
    kinds = (("scanned", scans, raised), ("broken", broken, ""))
    there = [f"{name}: {count} of {n_pages} pages{more}" for name, count, more in kinds if count]
    return {"text": text, "lang": lang, "truncated": "; ".join(there), **_about(document)}


def _text(pages: list[tuple[list[Run], float]], seen: dict[int, str]) -> str:
    """Paragraphs with an empty line between them; those of pages that were read in pictures at their place."""
    parts: list[str] = []
    waiting: list[list[Line]] = []
    for number, found in enumerate(running.without(pages)):
        if number in seen:
            parts += [*paragraphs(waiting), seen[number].strip()]
            waiting = []
            continue
        lined = lines(found)
        for line in lined:
            line.text = fonts.in_unicode(line.text, line.font)
        waiting.append(lined)
    parts += paragraphs(waiting)
    return "\n\n".join(filter(None, parts))


def _about(document: pdfium.PdfDocument) -> dict:
    """Title and day of a PDF, as far as it has them."""
    try:
        said = document.get_metadata_dict(skip_empty=True)
    except (pdfium.PdfiumError, UnicodeError):
        said = {}
    title = " ".join(said.get("Title", "").split())[:500]
    day = DATE.match(said.get("CreationDate", ""))
    return {
        "title": "" if NO_TITLE.match(title) else title.encode("utf-8", "replace").decode(),
        "published": "-".join(day.groups()) if day else "",
    }


def _language(document: pdfium.PdfDocument) -> str:
    """The language that the catalogue of a PDF names."""
    import ctypes

    size = raw.FPDFCatalog_GetLanguage(document.raw, None, 0)
    if not 2 < size < 100:
        return ""
    buffer = ctypes.create_string_buffer(size)
    raw.FPDFCatalog_GetLanguage(document.raw, ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort)), size)
    return buffer.raw[:size].decode("utf-16-le", "replace").strip("\0 ")


def _picture(page: pdfium.PdfPage):
    """A page as an array of 8-bit RGB [height, width, 3]; None where it cannot be drawn."""
    width, height = page.get_size()
    scale = min(OCR_DPI / 72, (OCR_PIXELS / max(width * height, 1.0)) ** 0.5)
    try:
        return page.render(scale=scale, rev_byteorder=True).to_numpy()[:, :, :3]
    except (pdfium.PdfiumError, ValueError, MemoryError):
        return None
