"""TMX: the translation units of a file one after another, whatever else is in it.

The file is cut at its `<tu>` elements (what stands in comments is none), and each is parsed by itself. So a broken unit costs
itself, nothing that the file declares is ever expanded, and one unit is held at a time.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO
from xml.parsers import expat

from curation.lid.tags import code
from curation.parallel.schema import Origin, drop, row
from curation.sources.containers import BROKEN, BYTES, archive, unpacked

MARKS = re.compile(rb"<!--|<!\[CDATA\[|<tu(?=[\s>/])|</tu\s*>")
CLOSED = {b"<!--": b"-->", b"<![CDATA[": b"]]>"}
LONGEST_MARK = 64  # bytes of one, with its blanks
DECLARED = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
WIDE = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
CODE = {"bpt", "ept", "it", "ph", "ut", "sub"}  # elements of a segment that hold no text of it


def read(file: BinaryIO, origin: Origin, tags: tuple[str, str]) -> Iterator[dict]:
    """`row` and `drop` rows of an open TMX file. `tags` are the languages of the sides as the file writes them."""
    number = 0
    found_any = False
    for unit, wrong in _units(file, origin.limits.max_record_bytes):
        found_any = True
        number += unit is not None or wrong.startswith("<tu>")
        place = f"{origin.name}:{number}"
        if unit is None:
            yield drop(origin, place, "bad_record", detail=f"{place}: {wrong}")
            continue
        found = _Unit()
        try:
            found.parse(unit)
        except (expat.ExpatError, UnicodeError, ValueError) as problem:
            yield drop(origin, place, "bad_record", detail=f"{place}: {problem}")
            continue
        yield row(origin, number, (found.side(tags[0]), found.side(tags[1])), found.name)
    if not found_any:
        yield drop(origin, origin.name, "bad_record", detail=f"{origin.name} holds no <tu>: is it a TMX file?")


def _units(file: BinaryIO, max_bytes: int) -> Iterator[tuple[bytes | None, str]]:
    """(a unit as UTF-8, "") or (None, what is wrong)."""
    held = b""
    begin = -1  # where a unit begins in `held`, or none does
    looked = 0  # up to here `held` has no mark, or only those that are done with
    hidden = b""  # what ends the comment or CDATA in which `looked` is
    too_large = f"<tu> of more than {max_bytes:,} bytes"
    for data in _utf8(file):
        if isinstance(data, str):
            yield None, data
            held, begin, looked, hidden = b"", -1, 0, b""
            continue
        held += data
        while True:
            if hidden:
                end = held.find(hidden, looked)
                if end < 0:
                    looked = max(looked, len(held) - len(hidden) + 1)
                    break
                looked, hidden = end + len(hidden), b""
            mark = MARKS.search(held, looked)
            if mark is None:
                looked = max(looked, len(held) - LONGEST_MARK)
                break
            looked = mark.end()
            if mark[0] in CLOSED:
                hidden = CLOSED[mark[0]]
            elif mark[0] == b"<tu":
                if begin >= 0:
                    yield None, "<tu> begins within another that does not end"
                begin = mark.start()
            elif begin >= 0:
                large = looked - begin > max_bytes
                yield (None, too_large) if large else (held[begin:looked], "")
                begin = -1
        if begin >= 0 and len(held) - begin > max_bytes:
            yield None, too_large
            held, begin, looked, hidden = b"", -1, 0, b""
        done = looked if begin < 0 else begin
        held, looked, begin = held[done:], looked - done, min(begin, 0)
    if begin >= 0:
        yield None, "<tu> does not end"


def _utf8(file: BinaryIO) -> Iterator[bytes | str]:
    """The bytes of the file in UTF-8, whatever encoding its mark or its declaration names; as a string what broke."""
    decoder = None
    first = True
    for event, value in unpacked(file):
        if event == BROKEN:
            yield str(value)
        if event not in BYTES:
            continue
        if first:
            first = False
            if said := archive(value):
                yield f"the file is {said}: unpack it first"
                return
            declared = DECLARED.search(value)  # in letters of ASCII, so no UTF-16 whatever it says
            name = declared[1].decode() if declared else "utf-8"
            name = "utf-8" if name.lower().startswith(("utf-16", "utf-32", "ucs")) else name
            wide = [codec for begin, codec in WIDE.items() if value.startswith(begin)]
            try:
                b"".decode(name := wide[0] if wide else name)  # raises LookupError for what is no encoding of text
                if codecs.lookup(name).name != "utf-8":
                    decoder = codecs.getincrementaldecoder(name)("replace")
            except LookupError:
                yield f"the encoding {name} is not known"
        yield decoder.decode(value).encode("utf-8", "replace") if decoder else value


class _Unit:
    """One `<tu>`: its `tuid`, and the text of each `<tuv>` by the tag of its language, in the order of the file."""

    def __init__(self) -> None:
        self.name = ""
        self.texts: dict[str, str] = {}
        self._tag: str | None = None
        self._text: list[str] | None = None  # of the segment that is open
        self._code = 0  # elements without text that are open

    def parse(self, unit: bytes) -> None:
        parser = expat.ParserCreate("utf-8")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.Parse(unit, True)

    def side(self, tag: str) -> str | None:
        """The text in a language: that of the tag itself, or else of the first tag that means the same language."""
        same = [text for name, text in self.texts.items() if code(name) == code(tag)]
        exact = [text for name, text in self.texts.items() if name.lower() == tag.lower()]
        return next(iter(exact + same), None)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "tu":
            self.name = attributes.get("tuid", "")
        elif name == "tuv":
            self._tag = attributes.get("xml:lang", attributes.get("lang", ""))
        elif name == "seg":
            self._text = []
        elif name in CODE and self._text is not None:
            self._code += 1

    def _end(self, name: str) -> None:
        if name == "seg" and self._text is not None and self._tag is not None:
            self.texts.setdefault(self._tag, "".join(self._text))
            self._text, self._code = None, 0
        elif name in CODE and self._code:
            self._code -= 1

    def _data(self, data: str) -> None:
        if self._text is not None and not self._code:
            self._text.append(data)
