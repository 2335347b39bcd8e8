"""HTML bytes to a flat tree: one pass over the bytes, whatever they are, in time linear in their number.

Nodes stand in document order (preorder), so a subtree is a range and nothing recurses: nesting costs a stack entry. The
tree is that of the HTML standard wherever this matters for text: implied ends of `p`, `li`, `dd`, `tr`, `td`, `option` and
`head`, raw text, comments, quoted attributes, end tags that match nothing. Not done: the adoption agency and foster
parents, which move formatting and stray table content.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from curation.extract import tags
from curation.extract.attributes import is_space, lower, read_attributes
from curation.extract.hints import HINT_KEYS, HINT_VALUES
from curation.extract.tags import CLOSES_P, FLAGS, HEAD, RAW, SCOPE, SPECIAL, TAG_KEYS, TAG_VALUES, VOID, look_up

SEARCH = 400  # open elements that an end tag looks through
A, P, LI, DD, DT, HTML, BODY, MAIN, TABLE = (
    tags.TAG[n] for n in ["a", "p", "li", "dd", "dt", "html", "body", "main", "table"]
)
HEAD_TAG, OPTION, OPTGROUP, ADDRESS, DIV = (tags.TAG[n] for n in ["head", "option", "optgroup", "address", "div"])
TD, TH, TR, TBODY, THEAD, TFOOT = (tags.TAG[n] for n in ["td", "th", "tr", "tbody", "thead", "tfoot"])
NAV, HEADER, FOOTER, ASIDE, SVG, MATH = (tags.TAG[n] for n in ["nav", "header", "footer", "aside", "svg", "math"])
H1, H6, UL, OL, TITLE, PRE = (tags.TAG[n] for n in ["h1", "h6", "ul", "ol", "title", "pre"])


class Tree(NamedTuple):
    """Arrays over nodes in document order; node 0 is the root. `start:end` are the bytes of a text, or between `<` and `>`
    of a start tag. `stop` is the first node after the subtree. `space` says that white space stands before the node."""

    tag: np.ndarray
    parent: np.ndarray
    start: np.ndarray
    end: np.ndarray
    stop: np.ndarray
    hints: np.ndarray
    space: np.ndarray


def parse(html: bytes) -> Tree:
    """The tree of a page in UTF-8."""
    return Tree(*_parse(np.frombuffer(html, np.uint8), TAG_KEYS, TAG_VALUES, HINT_KEYS, HINT_VALUES, FLAGS))


@numba.njit(cache=True)
def _raw_end(html, i, name):
    """Position of the `</name` that ends a raw text, -1 when there is none. `name` is the hash of the name."""
    n = len(html)
    while i + 2 < n:
        if html[i] == 60 and html[i + 1] == 47:
            key = np.uint64(0)
            j = i + 2
            while j < n and 97 <= lower(html[j]) <= 122:
                key = key * np.uint64(131) + np.uint64(lower(html[j]))
                j += 1
            if key == name:
                return i
            i = j
        else:
            i += 1
    return -1


@numba.njit(cache=True)
def _open_p(tag, stack, top, flags):
    """Stack position of the `p` that a block start tag ends, -1 when none is open."""
    for k in range(top, max(-1, top - SEARCH), -1):
        t = tag[stack[k]]
        if t == P:
            return k
        if flags[t] & SPECIAL:
            return -1
    return -1


@numba.njit(cache=True)
def _implied(tag, stack, top, t, flags):
    """Stack position of the element that the start of `t` ends, -1 when it ends none."""
    for k in range(top, max(0, top - SEARCH), -1):
        o = tag[stack[k]]
        if t == LI:
            if o == LI:
                return k
            if flags[o] & SPECIAL and o not in (ADDRESS, DIV, P):
                return -1
        elif t in (DD, DT):
            if o in (DD, DT):
                return k
            if flags[o] & SPECIAL and o not in (ADDRESS, DIV, P):
                return -1
        elif t in (TD, TH):
            if o in (TD, TH):
                return k
            if o in (TR, TABLE):
                return -1
        elif t == TR:
            if o == TR:
                return k
            if o == TABLE:
                return -1
        elif t in (TBODY, THEAD, TFOOT):
            if o in (TBODY, THEAD, TFOOT):
                return k
            if o == TABLE:
                return -1
        elif t in (OPTION, OPTGROUP):
            if o == OPTION or (o == OPTGROUP and t == OPTGROUP):
                return k
            if o != OPTGROUP:
                return -1
        elif t == A:
            if o == A:
                return k
            if flags[o] & SPECIAL:
                return -1
        elif t == MAIN:
            if o in (NAV, HEADER, FOOTER, ASIDE):
                return k
            if flags[o] & SCOPE:
                return -1
        elif H1 <= t <= H6:
            return k if H1 <= o <= H6 else -1
        else:
            return -1
    return -1


@numba.njit(cache=True)
def _ended(tag, stack, top, t, flags):
    """Stack position of the element that the end tag of `t` closes, -1 when none is in reach."""
    inline = not flags[t] & SPECIAL
    cell = t in (TD, TH)
    row = t in (TR, TBODY, THEAD, TFOOT)
    item = t == LI
    for k in range(top, max(0, top - SEARCH), -1):
        o = tag[stack[k]]
        if o == t or (H1 <= t <= H6 and H1 <= o <= H6):
            return k
        if inline:
            if flags[o] & SPECIAL:
                return -1
        elif cell or row or t == TABLE:
            if o == TABLE:
                return -1
        elif flags[o] & SCOPE or (item and (o in (UL, OL))):
            return -1
    return -1


@numba.njit(inline="always")
def _close(k, top, count, tag, stack, stop, n_open):  # noqa: PLR0917
    """End the open elements from stack position `k` on before node `count`: the top of the stack then."""
    while top >= k:
        stop[stack[top]] = count
        n_open[tag[stack[top]]] -= 1
        top -= 1
    return top


@numba.njit(cache=True)
def _parse(html, tag_keys, tag_values, hint_keys, hint_values, flags):  # noqa: PLR0917
    # Text, comments and names are scanned here: as inlined functions they cost 3 to 5 % of the time.
    n = len(html)
    room = 4
    for c in html:
        if c == 60:
            room += 2
    tag = np.zeros(room, np.int16)
    parent = np.zeros(room, np.int32)
    begin = np.zeros(room, np.int32)
    end = np.zeros(room, np.int32)
    stop = np.zeros(room, np.int32)
    hints = np.zeros(room, np.int64)
    space = np.zeros(room, np.uint8)
    stack = np.zeros(room, np.int32)
    n_open = np.zeros(len(flags), np.int32)
    unended = np.zeros(len(flags), np.uint8)  # raw elements known to have no end tag from here on
    tag[0] = DIV
    count, top = 1, 0
    head = -1  # stack position of an open <head>
    quotes = True
    pending = np.uint8(0)
    body_seen = html_seen = False
    i = 0
    while i < n:
        # text up to the next markup
        first = i
        blank = True
        while i < n:
            c = html[i]
            if c == 60 and i + 1 < n:
                d = html[i + 1]
                if 97 <= lower(d) <= 122 or d in {47, 33, 63}:
                    break
            if blank and not is_space(c):
                blank = False
            i += 1
        if i > first:
            if blank and n_open[PRE] == 0:
                pending = np.uint8(1)
            else:
                if head >= 0 and not blank:  # text does not belong in <head>: it ended before
                    top = _close(head, top, count, tag, stack, stop, n_open)
                    head = -1
                parent[count] = stack[top]
                begin[count], end[count], stop[count], space[count] = first, i, count + 1, pending
                pending = np.uint8(0)
                count += 1
        if i >= n:
            break
        d = html[i + 1]
        if d in {33, 63}:
            if d == 33 and i + 3 < n and html[i + 2] == 45 and html[i + 3] == 45:
                j = i + 4
                if j < n and html[j] == 62:  # <!-->
                    i = j + 1
                    continue
                while j + 2 < n and not (html[j] == 45 and html[j + 1] == 45 and html[j + 2] == 62):
                    j += 1
                i = j + 3 if j + 2 < n else n
            else:
                while i < n and html[i] != 62:
                    i += 1
                i += 1
            continue
        closing = d == 47
        j = i + 2 if closing else i + 1
        key = np.uint64(0)
        while j < n and html[j] != 62 and html[j] != 47 and not is_space(html[j]):
            key = key * np.uint64(131) + np.uint64(lower(html[j]))
            j += 1
        t = look_up(tag_keys, tag_values, key)
        if t == 0:
            t = 1
        f = flags[t]
        if closing:
            while j < n and html[j] != 62:
                j += 1
            i = j + 1
            if n_open[t] > 0 and t not in (HTML, BODY) and not f & RAW:
                k = _ended(tag, stack, top, t, flags)
                if k > 0:
                    top = _close(k, top, count, tag, stack, stop, n_open)
                    if head > top:
                        head = -1
            elif t == P:  # an end without a start is an empty paragraph: a line break
                parent[count], tag[count], stop[count] = stack[top], P, count + 1
                begin[count] = end[count] = i
                count += 1
            continue
        after, found = read_attributes(html, j, quotes, hint_keys, hint_values)
        if after < 0:  # the tag runs to the end of the page: take it as ended at its first `>`, quotes being unreliable
            quotes = False
            after = j
            while after < n and html[after] != 62:
                after += 1
            after = min(after + 1, n)
        source = i + 1
        i = after
        if (t == HTML and html_seen) or (t == BODY and body_seen):
            continue
        html_seen |= t == HTML
        body_seen |= t == BODY
        if head >= 0 and not f & HEAD:
            top = _close(head, top, count, tag, stack, stop, n_open)
            head = -1
        k = _open_p(tag, stack, top, flags) if f & CLOSES_P and n_open[P] > 0 else -1
        if k > 0:
            top = _close(k, top, count, tag, stack, stop, n_open)
        if not f & VOID:
            k = _implied(tag, stack, top, t, flags)
            if k > 0:
                top = _close(k, top, count, tag, stack, stop, n_open)
        tag[count], parent[count], hints[count], space[count] = t, stack[top], found, pending
        begin[count], end[count], stop[count] = source, after - 1, count + 1
        pending = np.uint8(0)
        me = count
        count += 1
        if f & VOID:
            continue
        if f & RAW:
            close = -1
            if not unended[t]:
                close = _raw_end(html, i, key)
                unended[t] = close < 0
            if close < 0 and f & HEAD and t != TITLE:
                close = n  # a script or style without an end goes on to the end of the page
            if close >= 0:
                if close > i:
                    parent[count] = me
                    begin[count], end[count], stop[count] = i, close, count + 1
                    count += 1
                stop[me] = count
                while close < n and html[close] != 62:
                    close += 1
                i = close + 1
            continue
        if html[after - 2] == 47 and n_open[SVG] + n_open[MATH] > 0:
            continue  # <path/>: in SVG and MathML a slash does close
        top += 1
        stack[top] = me
        n_open[t] += 1
        if t == HEAD_TAG and head < 0:
            head = top
    _close(0, top, count, tag, stack, stop, n_open)
    return tag[:count], parent[:count], begin[:count], end[:count], stop[:count], hints[:count], space[:count]
