"""PDFs whose text is known, written with fpdf2: one and two columns, running heads, lists, divided words, many scripts."""

from __future__ import annotations

import random
from pathlib import Path

from fpdf import FPDF

FOLDERS = ("/usr/share/fonts/truetype/noto", "/usr/share/fonts/truetype/dejavu", "/usr/share/fonts/opentype/noto")
FONTS = {
    "Latn": ("NotoSerif-Regular.ttf", "DejaVuSerif.ttf"),
    "Thai": ("NotoSansThai-Regular.ttf", "NotoSerifThai-Regular.ttf"),
    "Laoo": ("NotoSansLao-Regular.ttf",),
    "Khmr": ("NotoSansKhmer-Regular.ttf", "NotoSerifKhmer-Regular.ttf"),
    "Mymr": ("NotoSansMyanmar-Regular.ttf",),
    "Hans": ("NotoSansCJK-Regular.ttc",),
}
WIDTH, HEIGHT, MARGIN, GAP = 595.0, 842.0, 60.0, 20.0


def font(script: str) -> str | None:
    """A font file of this machine for a script, or None."""
    return next(
        (str(path) for name in FONTS[script] for folder in FOLDERS if (path := Path(folder, name)).exists()), None
    )


class Writer:
    """Sets paragraphs, line by line, in columns; `divide` hyphenates words of Latin script at the end of a line."""

    def __init__(
        self, path: str, *, columns: int = 1, size: float = 10.0, head: str = "", divide: bool = False, title: str = ""
    ):
        self.pdf = FPDF(unit="pt", format=(WIDTH, HEIGHT))
        self.pdf.set_auto_page_break(False)
        self.pdf.add_font("body", fname=path)
        self.size, self.columns, self.head, self.divide = size, columns, head, divide
        self.lead = size * 1.4
        self.width = (WIDTH - 2 * MARGIN - GAP * (columns - 1)) / columns
        self.column, self.y, self.top, self.random = 0, 0.0, MARGIN, random.Random(1)
        if title:
            self.pdf.set_title(title)
        self._page()

    def known(self, text: str) -> str:
        """A text without what the font has no glyph for."""
        return "".join(sign for sign in text if sign == " " or ord(sign) in self.pdf.fonts["body"].cmap)

    def _page(self) -> None:
        self.pdf.add_page()
        self.pdf.set_font("body", size=self.size * 0.9)
        number = self.pdf.page_no()
        if self.head:
            self.pdf.text(MARGIN, 36, f"{self.head} {'I' if number % 2 else 'II'}")
            self.pdf.text(WIDTH / 2, HEIGHT - 28, str(number))
        self.pdf.set_font("body", size=self.size)
        self.column, self.top = 0, MARGIN
        self.y = self.top

    def _line(self, text: str, indent: float = 0.0) -> None:
        if self.y + self.lead > HEIGHT - MARGIN:
            self.column += 1
            self.y = self.top
            if self.column == self.columns:
                self._page()
        x = MARGIN + self.column * (self.width + GAP) + indent
        self.pdf.text(x, self.y + self.size, text)
        self.y += self.lead

    def heading(self, text: str) -> None:
        """Over all columns at the begin of a page, as a title stands; else within the column."""
        self.pdf.set_font("body", size=self.size * 1.6)
        if self.column == 0 and self.y == self.top:
            self.pdf.text(MARGIN, self.y + self.size * 1.6, text)
            self.y += self.lead * 2.2
            self.top = self.y
        else:
            self.y += self.lead * 0.5
            self._line(text)
            self.y += self.lead * 0.5
        self.pdf.set_font("body", size=self.size)

    def paragraph(self, text: str, indent: float = 0.0, words: bool = True) -> None:
        """Breaks at spaces, or (`words` false) anywhere but before a mark."""
        pieces = text.split(" ") if words else _clusters(text)
        line = ""
        for piece in pieces:
            glue = " " if words and line else ""
            if self.pdf.get_string_width(line + glue + piece) > self.width - indent and line:
                if self.divide and piece.isalpha() and len(piece) > 7:
                    cut = len(piece) // 2
                    if self.pdf.get_string_width(f"{line} {piece[:cut]}-") <= self.width - indent:
                        line, piece = f"{line} {piece[:cut]}-", piece[cut:]
                self._line(line, indent)
                line, glue = "", ""
            line += glue + piece
        if line.strip():
            self._line(line, indent)
        self.y += self.lead * 0.5

    def bytes(self) -> bytes:
        return bytes(self.pdf.output())


def _clusters(text: str) -> list[str]:
    import unicodedata

    found: list[str] = []
    for sign in text:
        stays = unicodedata.category(sign)[0] == "M" or sign in "ะาำๅໍະາຳ\u200d" or sign in "、。，！？：；」』"
        before = found[-1][-1] if found else ""
        stays = stays or bool(before and f"{before}{sign}".isascii() and sign != " " and before != " ")
        if found and (stays or before in "เแโใไເແໂໃໄ\u17d2\u1039"):
            found[-1] += sign
        else:
            found.append(sign)
    return found
