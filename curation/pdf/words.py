"""The words of a PDF page with their places, by PDFium (through pypdfium2).

Places are points from the left and from the top of the page as it is shown. PDFium divides the text into lines in the order
in which the page draws it; which of them belong together is found out in `curation.pdf.layout`.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pypdfium2 as pdfium
from pypdfium2 import raw

FONT_NAME_BYTES = 256
IMAGE_SHARE = 0.4  # of a page that images cover, from which on it is a scan when it has hardly any text
HARDLY_ANY = 20  # characters
DIVIDED = "\x02"  # PDFium's sign for a hyphen at the end of a line, which it puts together with the next
HYPHEN = 0xFFFE  # as it gives the same elsewhere
WORD = re.compile(r"[^\s\x00-\x1f\u200b\ufeff]+")
SUBSET = re.compile(r"^[A-Z]{6}\+")


class Word(NamedTuple):
    """`line` is the number of PDFium's line, `font` its font at the begin of that line; `spaced` that a space is before it."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    line: int
    font: str
    spaced: bool


class TooLong(ValueError):
    """A page with more characters than were asked for."""


def words(page: pdfium.PdfPage, max_chars: int) -> tuple[list[Word], int]:
    """(words in the order in which they are drawn, how many characters the fonts give no meaning). Raises `TooLong`."""
    text_page = page.get_textpage()
    handle = text_page.raw
    n = text_page.count_chars()
    if n > max_chars:
        raise TooLong(f"a page with {n:,} characters")
    text = _text(_codes(handle, n))
    place = _places(page)
    box = raw.FS_RECTF()
    box_of = raw.FPDFText_GetLooseCharBox
    found: list[Word] = []
    unknown = text.count("\ufffd")
    line, font, last = 0, "", 0
    for match in WORD.finditer(text):
        begin, end = match.span()
        between = text[last:begin]
        if "\n" in between or "\r" in between or DIVIDED in between or not found:
            line += 1
            font = _font(handle, begin)
        last = end
        box_of(handle, begin, box)
        left, low, right, high = box.left, box.bottom, box.right, box.top
        if end > begin + 1:  # the first and the last letter tell where a word is
            box_of(handle, end - 1, box)
            left, low = min(left, box.left), min(low, box.bottom)
            right, high = max(right, box.right), max(high, box.top)
        word = match[0] + "-" if text[end : end + 1] == DIVIDED else match[0]
        left, top, right, bottom = place(left, low, right, high)
        found.append(Word(word, left, top, right, bottom, line, font, bool(between)))
    text_page.close()
    return found, unknown


def _codes(handle: raw.FPDF_TEXTPAGE, n: int) -> np.ndarray:
    """The code point of each character [n]: of all at once where PDFium's text has one unit for each, else one by one."""
    buffer = (ctypes.c_ushort * (n + 1))()
    if raw.FPDFText_GetText(handle, 0, n, buffer) == n + 1:
        codes = np.frombuffer(bytes(buffer), np.uint16)[:n].astype(np.uint32)
        if not ((codes >= 0xD800) & (codes < 0xE000)).any():
            return codes
    return np.array([raw.FPDFText_GetUnicode(handle, at) for at in range(n)], np.uint32)


def _text(codes: np.ndarray) -> str:
    """Code points, one a character, as text; those that are none as U+FFFD."""
    codes[codes == HYPHEN] = ord(DIVIDED)
    codes[(codes >= 0x110000) | ((codes >= 0xD800) & (codes < 0xE000))] = 0xFFFD
    return codes.astype("<u4").tobytes().decode("utf-32-le")


def _places(page: pdfium.PdfPage) -> Callable[[float, float, float, float], tuple[float, float, float, float]]:
    """What turns a box of PDFium (left, bottom, right, top; from below) into one (left, top, right, bottom) from above."""
    rotation = page.get_rotation()
    x0, y0, x1, y1 = page.get_bbox()
    if rotation == 90:
        return lambda left, bottom, right, top: (bottom - y0, left - x0, top - y0, right - x0)
    if rotation == 180:
        return lambda left, bottom, right, top: (x1 - right, bottom - y0, x1 - left, top - y0)
    if rotation == 270:
        return lambda left, bottom, right, top: (y1 - top, x1 - right, y1 - bottom, x1 - left)
    return lambda left, bottom, right, top: (left - x0, y1 - top, right - x0, y1 - bottom)


def _font(handle: raw.FPDF_TEXTPAGE, at: int) -> str:
    buffer = ctypes.create_string_buffer(FONT_NAME_BYTES)
    flags = ctypes.c_int()
    raw.FPDFText_GetFontInfo(handle, at, buffer, FONT_NAME_BYTES, flags)
    return SUBSET.sub("", buffer.value.decode("utf-8", "replace"))


def is_scan(page: pdfium.PdfPage, found: list[Word]) -> bool:
    """Whether a page is a picture of text: hardly any words, and images over much of it."""
    if sum(len(word.text) for word in found) >= HARDLY_ANY:
        return False
    width, height = page.get_size()
    covered = 0.0
    for number, one in enumerate(page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3)):
        left, bottom, right, top = one.get_bounds()
        covered += max(0.0, right - left) * max(0.0, top - bottom)
        if number > 1000:
            break
    return covered > IMAGE_SHARE * width * height
