"""What the tags of HTML mean to a reader of text: which never close, which start a line, which hold no text.

A tag is a small number; 0 is a text node, 1 any tag that is not listed. `FLAGS[tag]` has the bits below. The sets follow
the HTML standard (WHATWG, §13.2.4 "special", §13.2.4.2 "scope", §13.2.6.4.7 "in body"), as far as they matter for text.
Numbers are constants in compiled kernels, and numba's cache does not look here: new tags go to the end, so none changes.
"""

from __future__ import annotations

import numba
import numpy as np

VOID, RAW, LINE, PARAGRAPH, SPECIAL, SCOPE, CLOSES_P, SILENT, HEAD = (1 << i for i in range(9))
"""VOID has no content; RAW holds text in which tags are not read; LINE starts a line, PARAGRAPH a line after an empty one;
SPECIAL stops the search for what an inline end tag closes, SCOPE for what any does; CLOSES_P ends an open `<p>`; SILENT
holds no text of the page; HEAD may stand in `<head>`."""

BLOCK = LINE | SPECIAL | CLOSES_P
_GROUPS = {
    BLOCK: "div section article main aside nav header footer address center dir hgroup search details summary fieldset "
    "form figure figcaption menu dd dt li ul ol dl",
    BLOCK | PARAGRAPH: "p h1 h2 h3 h4 h5 h6 blockquote pre listing",
    LINE | SPECIAL | CLOSES_P | PARAGRAPH | SCOPE: "table",
    LINE | SPECIAL: "tr tbody thead tfoot colgroup body",
    LINE | SPECIAL | SCOPE: "caption html",
    SPECIAL | SCOPE: "td th marquee object applet",
    VOID | LINE | SPECIAL: "br",
    VOID | LINE | SPECIAL | CLOSES_P: "hr",
    VOID | SPECIAL: "area col embed img input keygen param source track wbr frame",
    VOID | SPECIAL | HEAD: "meta link base basefont bgsound",
    RAW | SPECIAL | SILENT | HEAD: "script style title",
    RAW | SPECIAL | SILENT: "textarea iframe noembed noframes",
    RAW | SPECIAL | LINE | PARAGRAPH | CLOSES_P: "xmp",
    SPECIAL | SILENT | HEAD: "template noscript head",
    SPECIAL | SILENT: "select button",
    SILENT: "option optgroup svg math datalist audio video canvas map progress meter rp rt",
    0: "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label legend mark nobr output q ruby rb s "
    "samp small span strike strong sub sup time tt u var",
}
NAMES = ["#text", "?", *(name for names in _GROUPS.values() for name in names.split())]
TAG = {name: number for number, name in enumerate(NAMES)}
FLAGS = np.zeros(len(NAMES), np.int64)
for _flags, _names in _GROUPS.items():
    for _name in _names.split():
        FLAGS[TAG[_name]] = _flags


def word_hash(word: str) -> int:
    """64 bits of a lower-case word: the polynomial in 131 that the kernels compute byte by byte."""
    value = 0
    for byte in word.encode():
        value = (value * 131 + byte) % 2**64
    return value


def word_table(values: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """(keys, values) of an open-addressing table of words, for `look_up`."""
    size = 1 << (4 * len(values)).bit_length()
    keys, numbers = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    for word, value in values.items():
        slot = word_hash(word) & (size - 1)
        while keys[slot]:
            slot = (slot + 1) & (size - 1)
        keys[slot], numbers[slot] = word_hash(word), value
    return keys, numbers


@numba.njit(cache=True, inline="always")
def look_up(keys, values, key):
    """The value of a word by its hash, 0 when the table has none."""
    slot = key & np.uint64(len(keys) - 1)
    while keys[slot] != 0:
        if keys[slot] == key:
            return values[slot]
        slot = (slot + np.uint64(1)) & np.uint64(len(keys) - 1)
    return 0


TAG_KEYS, TAG_VALUES = word_table({name: number for name, number in TAG.items() if number > 1})
