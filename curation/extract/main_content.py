"""Which lines of a page are its main content.

In three steps, each over arrays in document order with prefix sums for the sums of subtrees:

1. Parts that call themselves something else (`nav`, `class="comments"`, ...; `curation.extract.hints`) are left out, as long as
   they hold little of the text: a part that holds most of it is misnamed, or its end tag is missing.
2. The content is the element with the largest sum of line weights (letters, minus twice those in links, minus a little for
   each line), so that a list of links counts against whatever contains it. Elements that say that they are the article
   count more. This is the maximum-subsequence idea of Pasternack and Roth (2009) on the tree instead of the token stream.
3. Within it, parts are left out as in 1 with stricter limits, also lists that are all links and what trails behind the
   last prose; the lead of an article that stands before its body is taken in.

The numbers in `Limits` were chosen on one gold set and checked on the others (docs/curation.md); results hardly change
around them.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from curation.extract import hints, tags
from curation.extract.lines import Lines
from curation.extract.markup import Tree
from curation.extract.tags import FLAGS

ARTICLE, FORM, MAIN, BODY, HTML, HEADER, P, LI, TD, TH, DD, DT, PRE = (
    tags.TAG[n] for n in ["article", "form", "main", "body", "html", "header", "p", "li", "td", "th", "dd", "dt", "pre"]
)
TR, TBODY, SPAN, H1, H6 = (tags.TAG[n] for n in ["tr", "tbody", "span", "h1", "h6"])
A_ROOT, A_PART, SEMANTIC, A_LIST = 1, 2, 4, 8
"""Kinds of tags: may be the content's element; may be left out by its hints; left out by its name; items and cells."""
_KINDS = {
    A_ROOT: "div section article main td center form table body html ? details",
    A_PART: "div section article main td center form table tbody tr dl ul ol li span font th ? details hgroup header search "
    "fieldset aside address nav footer dd figure figcaption menu",
    SEMANTIC: "nav footer aside menu",
    A_LIST: "li td th dd dt pre",
}
KIND = np.zeros(len(FLAGS), np.int64)
for _kind, _names in _KINDS.items():
    for _name in _names.split():
        KIND[tags.TAG[_name]] |= _kind

OTHER = (
    *(hints.COMMENT, hints.SHARE, hints.NAVIGATION, hints.FOOT, hints.AD, hints.SUBSCRIBE, hints.POPUP, hints.HIDDEN),
    *(hints.RELATED, hints.FORM),
)
STRONG = np.bitwise_or.reduce(np.array(OTHER))
WEAK = np.bitwise_or.reduce(np.array([hints.ASIDE, hints.META, hints.CAPTION, hints.TOOLS, hints.HEAD]))
NAMED = hints.ARTICLE | hints.BODY
N_HINTS = len(hints.NAMES)
I_ARTICLE, I_FORM, I_HEAD, I_HIDDEN, I_COMMENT, I_SHARE, I_NAVIGATION, I_RELATED = (
    hints.ARTICLE,
    hints.FORM,
    hints.HEAD,
    hints.HIDDEN,
    hints.COMMENT,
    hints.SHARE,
    hints.NAVIGATION,
    hints.RELATED,
)


class Limits(NamedTuple):
    """Shares of the text of the page or the content that a part may hold and still be left out, and weights."""

    strong: float = 0.3  # navigation, advertisement, ...
    weak: float = 0.1  # sidebars, dates, captions, ...
    comment: float = 0.6
    share: float = 0.03  # "share this"; more is a quoted post
    semantic: float = 0.9  # <nav>, <aside>, <footer>
    article: float = 0.2  # a part that is also called article or body
    body: float = 0.03  # called both
    body_comment: float = 0.1
    kind: float = 0.3  # all parts of one kind together, the small ones aside
    small: float = 0.03
    left: float = 0.1  # of the page must be left, or 100 letters
    line: float = 4.0  # weight of a line start, 1 for list items and cells
    link: float = 2.0  # weight of a linked letter; 1 in <p>
    body_bonus: float = 2.5  # for elements called article body
    tag_bonus: float = 1.5  # for <article> and <main>
    inside: float = 0.6  # an article element with so much of the content is the content
    nearly: float = 0.9  # so has any element; what stands beside it is the site's own
    links: float = 0.75  # share of link lines in a list of links


LIMITS = Limits()


@numba.njit(cache=True)
def _prefix(n, first, value, live):
    total = np.zeros(n + 1)
    for k in range(len(first)):
        if live[k]:
            total[first[k] + 1] += value[k]
    for i in range(n):
        total[i + 1] += total[i]
    return total


@numba.njit(cache=True)
def _leave_out(root, mask, limit, x, category, semantic, hint, stop, off, first, live, text):  # noqa: PLR0917
    """Mark in `off` the parts below `root` with a category in `mask` that hold little of its text; update `live`."""
    n = len(stop)
    total = _prefix(n, first, text, live)
    base = total[stop[root]] - total[root]
    if base <= 0:
        return
    sums = np.zeros(N_HINTS)
    chosen = np.zeros(stop[root] - root, np.int32)
    count = 0
    i = root + 1
    while i < stop[root]:
        c = category[i] & mask
        if off[i]:
            i = stop[i]
            continue
        if c:
            share = total[stop[i]] - total[i]
            most = x.comment if c & I_COMMENT else limit
            if c == I_SHARE:
                most = x.share
            if semantic[i] < 0:
                most = x.semantic
            elif hint[i] & NAMED == NAMED or semantic[i] > 0:
                most = min(most, x.body_comment if c & I_COMMENT else x.body)
            elif hint[i] & NAMED and c & ~I_RELATED:
                most = min(most, x.article)
            if share <= most * base:
                chosen[count] = i
                count += 1
                for b in range(N_HINTS):
                    if c >> b & 1:
                        sums[b] += share
                i = stop[i]
                continue
        i += 1
    for j in range(count):
        i = chosen[j]
        c = category[i] & mask
        share = total[stop[i]] - total[i]
        out = share < x.small * base or semantic[i] < 0 or c & I_COMMENT != 0
        if not out:
            out = True
            for b in range(N_HINTS):
                if c >> b & 1 and sums[b] > x.kind * base:
                    out = False
        if out:
            off[i : stop[i]] = 1
    for k in range(len(first)):
        live[k] = not off[first[k]]


@numba.njit(cache=True)
def _categories(tag, hint, kind):
    """(What kinds of other parts a node says it is, int64 bits of hints; -1 for one that its name leaves out, 1 for an
    article by name and 2 by hints, int8.)"""
    n = len(tag)
    category = np.zeros(n, np.int64)
    semantic = np.zeros(n, np.int8)
    for i in range(1, n):
        t, h = tag[i], hint[i]
        if t in (BODY, HTML):
            continue
        if t == HEADER:
            category[i] |= I_HEAD
        if t == FORM:
            category[i] |= I_FORM
        if kind[t] & SEMANTIC:
            category[i] |= I_NAVIGATION
            semantic[i] = -1
        elif t in (ARTICLE, MAIN):
            semantic[i] = 1
        elif h & NAMED == NAMED and kind[t] & A_ROOT:
            semantic[i] = 2
        if kind[t] & A_PART:
            category[i] |= h & (STRONG | WEAK)
        else:
            category[i] |= h & I_HIDDEN
    return category, semantic


@numba.njit(cache=True)
def _weights(tag, parent, owner, chars, linked, kind, x):  # noqa: PLR0917
    """Of each line: (weight, weight where above 0, whether it is a list item or cell, 1.0 for one that is a link)."""
    n_lines = len(owner)
    weight, text = np.zeros(n_lines), np.zeros(n_lines)
    item = np.zeros(n_lines, np.bool_)
    whole = np.zeros(n_lines)
    for k in range(n_lines):
        o = owner[k]
        item[k] = kind[tag[o]] & A_LIST or kind[tag[parent[o]]] & A_LIST
        link = x.link if tag[o] != P else 1.0
        weight[k] = chars[k] - link * linked[k] - (1.0 if item[k] else x.line)
        text[k] = max(weight[k], 0.0)
        whole[k] = linked[k] > 0.8 * chars[k]
    return weight, text, item, whole


@numba.njit(cache=True)
def _content(tag, stop, first, weight, text, live, off, semantic, kind, x):  # noqa: PLR0917
    """The element of the content: the best sum of weights, or the article element within it that holds most of it, or any
    that holds nearly all."""
    n = len(tag)
    for k in range(len(first)):
        if not live[k]:
            weight[k] = -3.0
    weights = _prefix(n, first, weight, np.ones(len(first), np.bool_))
    texts = _prefix(n, first, text, live)
    root, best = 0, -1e18
    for i in range(n):
        if off[i] or (i and not kind[tag[i]] & A_ROOT):
            continue
        s = weights[stop[i]] - weights[i]
        good = texts[stop[i]] - texts[i]
        s = good * (good / max(1.0, 2 * good - s)) ** 2
        if s > 0 and semantic[i] > 0:
            s *= x.body_bonus if semantic[i] == 2 else x.tag_bonus
        if s >= best:
            root, best = i, s
    for _ in range(20):
        inner, most = -1, x.inside * (texts[stop[root]] - texts[root])
        for i in range(root + 1, stop[root]):
            if semantic[i] > 0 and not off[i] and texts[stop[i]] - texts[i] >= most:
                inner, most = i, texts[stop[i]] - texts[i]
        if inner < 0:
            break
        root = inner
    most = x.nearly * (texts[stop[root]] - texts[root])
    for i in range(root + 1, stop[root]):
        if kind[tag[i]] & A_ROOT and not off[i] and texts[stop[i]] - texts[i] >= most:
            root = i
    return root


@numba.njit(cache=True)
def _leave_out_links(root, tag, stop, first, chars, linked, whole, live, off, kind, x):  # noqa: PLR0917
    """Mark in `off` the parts below `root` that are lists of links."""
    n = len(tag)
    lines_in = _prefix(n, first, np.ones(len(first)), live)
    links_in = _prefix(n, first, whole, live)
    chars_in = _prefix(n, first, chars.astype(np.float64), live)
    linked_in = _prefix(n, first, linked.astype(np.float64), live)
    i = root + 1
    while i < stop[root]:
        t = tag[i]
        if kind[t] & A_PART and not off[i] and t not in (LI, TD, TR, TBODY, SPAN, DD):
            m = lines_in[stop[i]] - lines_in[i]
            letters = chars_in[stop[i]] - chars_in[i]
            in_links = linked_in[stop[i]] - linked_in[i]
            if m > 0 and links_in[stop[i]] - links_in[i] >= x.links * m and in_links > 0.5 * letters:
                off[i : stop[i]] = 1
                i = stop[i]
                continue
        i += 1


@numba.njit(cache=True)
def _kept(root, tag, stop, first, owner, chars, linked, ends, item, off, x):  # noqa: PLR0917
    """The lines of the content, up to what trails behind the last prose: bool [lines]."""
    n_lines = len(first)
    keep = np.zeros(n_lines, np.bool_)
    last_good = -1
    for k in range(n_lines):
        if not root <= first[k] < stop[root] or off[first[k]] or chars[k] + ends[k] == 0:
            continue
        keep[k] = not (linked[k] > 0.9 * chars[k] and not item[k] and ends[k] == 0)
        t = tag[owner[k]]
        if keep[k] and not H1 <= t <= H6:
            prose = ends[k] > 0 and chars[k] >= 15 and linked[k] < 0.6 * chars[k]
            if prose or chars[k] - x.link * linked[k] > 30:
                last_good = k
    if last_good >= 0:
        for k in range(last_good + 1, n_lines):
            if not item[k] and tag[owner[k]] != P:
                keep[k] = False
    return keep


@numba.njit(cache=True)
def _take_lead(root, tag, parent, hint, first, owner, chars, linked, ends, category, semantic, off, keep):  # noqa: PLR0917
    """Keep the lead of the article too, which stands before its body `root`."""
    a = root
    while parent[a] > 0 and tag[parent[a]] != BODY:
        a = parent[a]
        if semantic[a] > 0 or hint[a] & I_ARTICLE:
            break
    if a == root or not (semantic[a] > 0 or hint[a] & I_ARTICLE):
        return
    plain = np.zeros(len(tag), np.bool_)  # no part of another kind between the node and the article
    plain[a] = True
    for i in range(a + 1, root):
        plain[i] = plain[parent[i]] and not category[i] & ~I_HEAD
    for k in range(len(first)):
        o = owner[k]
        prose = chars[k] >= 60 and linked[k] < 0.2 * chars[k] and ends[k] > 0
        if a < first[k] < root and prose and plain[o] and not off[first[k]] and not H1 <= tag[o] <= H6:
            keep[k] = True


@numba.njit(cache=True)
def _drop_hidden_repeats(root, parent, stop, hint, owner, chars, key, keep):  # noqa: PLR0917
    """Take from `keep` the lines of hidden parts that repeat what is seen."""
    hidden = np.zeros(len(parent), np.bool_)
    for i in range(root + 1, stop[root]):
        hidden[i] = hidden[parent[i]] or hint[i] & I_HIDDEN != 0
    size = 16
    while size < 2 * len(owner):
        size *= 2
    seen = np.zeros(size, np.uint64)
    for k in range(len(owner)):
        if not keep[k] or chars[k] < 60:
            continue
        slot = key[k] & np.uint64(size - 1)
        while seen[slot] != 0 and seen[slot] != key[k]:
            slot = (slot + np.uint64(1)) & np.uint64(size - 1)
        if seen[slot] == key[k] and hidden[owner[k]]:
            keep[k] = False
        seen[slot] = key[k]


@numba.njit(cache=True)
def _choose(tag, parent, stop, hint, first, owner, chars, linked, ends, key, kind, x):  # noqa: PLR0917
    n, n_lines = len(tag), len(first)
    if n_lines == 0:
        return np.zeros(0, np.bool_), 0
    category, semantic = _categories(tag, hint, kind)
    weight, text, item, whole = _weights(tag, parent, owner, chars, linked, kind, x)
    off = np.zeros(n, np.uint8)
    live = np.ones(n_lines, np.bool_)
    _leave_out(0, I_COMMENT, x.strong, x, category, semantic, hint, stop, off, first, live, text)
    _leave_out(0, STRONG, x.strong, x, category, semantic, hint, stop, off, first, live, text)
    left, all_text = 0.0, 0.0
    for k in range(n_lines):
        all_text += text[k]
        left += text[k] * live[k]
    if left < min(100.0, x.left * all_text):
        off[:] = 0
        live[:] = True
    root = _content(tag, stop, first, weight, text, live, off, semantic, kind, x)
    _leave_out(root, STRONG, x.strong, x, category, semantic, hint, stop, off, first, live, text)
    _leave_out(root, WEAK, x.weak, x, category, semantic, hint, stop, off, first, live, text)
    _leave_out_links(root, tag, stop, first, chars, linked, whole, live, off, kind, x)
    keep = _kept(root, tag, stop, first, owner, chars, linked, ends, item, off, x)
    if semantic[root] > 0:
        _take_lead(root, tag, parent, hint, first, owner, chars, linked, ends, category, semantic, off, keep)
    _drop_hidden_repeats(root, parent, stop, hint, owner, chars, key, keep)
    return keep, root


def choose(tree: Tree, lines: Lines, limits: Limits = LIMITS) -> tuple[np.ndarray, int]:
    """(which lines are main content, the element that was taken as the content).

    On a page with text some line always is; a page of nothing but links, none of them a sentence, has no main content.
    """
    if not ((lines.chars > lines.linked) | (lines.chars >= 60) & (lines.ends > 0)).any():
        return np.zeros(len(lines.chars), np.bool_), 0
    keep, root = _choose(
        *(tree.tag, tree.parent, tree.stop, tree.hints, lines.first, lines.owner, lines.chars),
        *(lines.linked, lines.ends, lines.key, KIND, limits),
    )
    if not keep.any():
        return np.ones(len(keep), np.bool_), 0
    return keep, root
