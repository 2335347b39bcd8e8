"""The attributes of a start tag, read for what they say about its element: links, languages, hidden parts, hints."""

from __future__ import annotations

import numba
import numpy as np

from curation.extract import tags
from curation.extract.hints import HIDDEN, LANG, LINK
from curation.extract.tags import look_up


def _hash(word: str) -> np.uint64:
    return np.uint64(tags.word_hash(word))


_CLASS, _ID, _ROLE, _ITEMPROP = (_hash(n) for n in ("class", "id", "role", "itemprop"))
_HREF, _HIDDEN, _STYLE, _ARIA_HIDDEN = (_hash(n) for n in ("href", "hidden", "style", "aria-hidden"))
_LANG, _XML_LANG, _DISPLAY, _NONE = (_hash(n) for n in ("lang", "xml:lang", "display", "none"))


@numba.njit(cache=True, inline="always")
def lower(c):
    return c + 32 if 65 <= c <= 90 else c


@numba.njit(cache=True, inline="always")
def is_space(c):
    return c == 32 or 9 <= c <= 13


@numba.njit(cache=True)
def _words(html, start, end, keys, values):
    """Union of the hints of the words in an attribute: runs of letters and digits, parted also where a capital follows."""
    found = np.int64(0)
    key = np.uint64(0)
    previous = np.uint8(0)
    for i in range(start, end + 1):
        c = html[i] if i < end else np.uint8(32)
        letter = 97 <= lower(c) <= 122 or 48 <= c <= 57
        if key != 0 and (not letter or (65 <= c <= 90 and 97 <= previous <= 122)):
            found |= look_up(keys, values, key)
            key = np.uint64(0)
        if letter:
            key = key * np.uint64(131) + np.uint64(lower(c))
        previous = c
    return found


@numba.njit(cache=True)
def _displays_none(html, start, end):
    key = np.uint64(0)
    display = False
    for i in range(start, end + 1):
        c = html[i] if i < end else np.uint8(59)
        if 97 <= lower(c) <= 122:
            key = key * np.uint64(131) + np.uint64(lower(c))
        elif key != 0:
            if display and key == _NONE:
                return True
            display = key == _DISPLAY if c == 58 or is_space(c) else False
            key = np.uint64(0)
        elif c == 59:
            display = False
    return False


@numba.njit(cache=True)
def read_attributes(html, i, quotes, keys, values):
    """(position after `>`, hints) of a start tag, read from behind its name; position -1 when the tag never ends."""
    n = len(html)
    hints = np.int64(0)
    while i < n:
        while i < n and (is_space(html[i]) or html[i] == 47):
            i += 1
        if i >= n:
            return -1, hints
        if html[i] == 62:
            return i + 1, hints
        name = np.uint64(0)
        first = i
        while i < n and not is_space(html[i]) and html[i] != 62 and html[i] != 47 and (html[i] != 61 or i == first):
            name = name * np.uint64(131) + np.uint64(lower(html[i]))
            i += 1
        while i < n and is_space(html[i]):
            i += 1
        start = end = i
        if i < n and html[i] == 61:
            i += 1
            while i < n and is_space(html[i]):
                i += 1
            if i < n and quotes and (html[i] == 34 or html[i] == 39):
                quote = html[i]
                i += 1
                start = i
                while i < n and html[i] != quote:
                    i += 1
                if i >= n:
                    return -1, hints
                end = i
                i += 1
            else:
                start = i
                while i < n and not is_space(html[i]) and html[i] != 62:
                    i += 1
                end = i
        if name in (_CLASS, _ID, _ROLE, _ITEMPROP):
            hints |= _words(html, start, end, keys, values)
        elif name == _HREF:
            hints |= LINK
        elif name in (_LANG, _XML_LANG):
            hints |= LANG
        elif name == _HIDDEN:
            hints |= HIDDEN
        elif name == _STYLE:
            if _displays_none(html, start, end):
                hints |= HIDDEN
        elif name == _ARIA_HIDDEN and end > start and lower(html[start]) == 116:
            hints |= HIDDEN
    return -1, hints
