"""What the judge of `curation.extract.judge` knows of each line: its own counts, what its ancestors are and are called, the
records that it repeats with others, its neighbours, and what kind of page it stands on.

Nothing depends on words, letters or a language; one pass over nodes and a few over lines.
"""

from __future__ import annotations

import numba
import numpy as np

from curation.extract import hints, tags
from curation.extract.lines import Lines
from curation.extract.markup import Tree

_ANCESTORS = (
    *("nav", "header", "footer", "aside", "main", "article", "form", "table", "ul", "ol", "li", "details", "summary"),
    *("figure", "figcaption", "blockquote", "pre", "dl", "section", "address", "a", "p"),
)
ANCESTOR_BIT = np.zeros(len(tags.FLAGS), np.int64)
for _bit, _name in enumerate(_ANCESTORS):
    ANCESTOR_BIT[tags.TAG[_name]] = 1 << _bit
N_ANCESTORS, N_HINTS = len(_ANCESTORS), len(hints.NAMES)
HTML, BODY, H1, H6, P, BR = (tags.TAG[n] for n in ("html", "body", "h1", "h6", "p", "br"))
COMMENT = hints.COMMENT
OUTER = 4  # ancestors with more lines each than the one within
PROBES = 64
KINDS = (
    *(b'"Product"', b'"ItemList"', b'"NewsArticle"', b'"Article"', b'"BlogPosting"', b'"FAQPage"', b'"QAPage"'),
    *(b'"DiscussionForumPosting"', b'"CollectionPage"', b'"WebPage"', b'"Organization"', b"TechArticle"),
)
PAGE_KINDS = ("article", "product", "website")  # Open Graph

_OWN = (
    *("chars", "linked share", "ends", "digits share", "heading", "item", "repeats", "gap", "depth", "kept"),
    *("place", "chars before", "lines from h1", "lines from root", "in root", "kept before", "kept behind"),
    *("lines from heading", "heading kept", "prose"),
)
_GROUP = (
    "records",
    "share",
    "chars",
    "linked",
    "ends",
    "lines",
    "kept",
    "innermost records",
    "innermost chars",
    "level",
)
_OUTER = ("lines", "chars", "linked", "ends", "kept")
_PAGE = (
    *("lines", "chars", "linked", "kept chars", "kept lines", "kept linked", "prose", "prose kept", "prose lines"),
    *("root share", "root kind", "largest group", "headings", "headings kept", "kept letters", "prose beside comments"),
)
NAMES = [
    *_OWN,
    *(f"group {name}" for name in _GROUP),
    *(f"outer {i} {name}" for i in range(OUTER) for name in _OUTER),
    *(f"next {i} {name}" for i in (-2, -1, 1, 2) for name in ("chars", "linked", "kept", "ends")),
    *(f"in {name}" for name in _ANCESTORS),
    *(f"called {name}" for name in hints.NAMES),
    *(f"near {name}" for name in hints.NAMES),
    *(f"page {name}" for name in _PAGE),
    *(f"page called {name}" for name in hints.NAMES),
    *(f"page says {kind}" for kind in (*PAGE_KINDS, *(kind.decode().strip('"') for kind in KINDS))),
]
"""Names of the columns of `features`."""


def features(  # noqa: PLR0917
    html: bytes, tree: Tree, lines: Lines, keep: np.ndarray, root: int, kind: str
) -> np.ndarray:
    """float32 [lines, features] of a page; `keep` and `root` as `choose` has them, kind: Open Graph's type."""
    says = np.array([*(kind == name for name in PAGE_KINDS), *(name in html for name in KINDS)], np.float32)
    out = np.zeros((len(keep), len(NAMES)), np.float32)
    page = np.frombuffer(html, np.uint8)
    _features(page, *tree[:6], *lines, keep, root, says, ANCESTOR_BIT, out)
    return out


@numba.njit(cache=True)
def _ratio(a, b):
    return a / b if b > 0 else 0.0


@numba.njit(cache=True)
def _slot(table, value):
    """Where a value stands in a table of hashes; after some steps it shares a place, so that no page is slow by its hashes."""
    slot = (value ^ (value >> np.uint64(29))) & np.uint64(len(table) - 1)
    for _ in range(PROBES):
        if table[slot] == 0 or table[slot] == value:
            break
        slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
    else:
        return slot
    table[slot] = value
    return slot


@numba.njit(cache=True)
def _features(  # noqa: PLR0917
    html,
    tag,
    parent,
    start,
    end,
    stop,
    hint,
    first,
    until,
    owner,
    chars,
    linked,
    ends,
    gap,
    key,
    keep,
    root,
    says,
    bits,
    out,
):
    n, m = len(tag), len(first)
    # sums of lines before a node
    at = np.zeros(n + 1, np.int32)
    for k in range(m):
        at[first[k] + 1] += 1
    for i in range(n):
        at[i + 1] += at[i]
    c_sum, l_sum, e_sum, k_sum = np.zeros(m + 1), np.zeros(m + 1), np.zeros(m + 1), np.zeros(m + 1)
    prose = np.zeros(m, np.bool_)
    page_prose = prose_kept = 0.0
    n_prose = kept_lines = kept_linked = headings = headings_kept = 0.0
    for k in range(m):
        c_sum[k + 1] = c_sum[k] + chars[k]
        l_sum[k + 1] = l_sum[k] + linked[k]
        e_sum[k + 1] = e_sum[k] + ends[k]
        k_sum[k + 1] = k_sum[k] + (chars[k] if keep[k] else 0)
        prose[k] = chars[k] >= 60 and linked[k] < 0.3 * chars[k] and ends[k] > 0
        if prose[k]:
            page_prose += chars[k]
            n_prose += 1
            prose_kept += chars[k] if keep[k] else 0
        if keep[k]:
            kept_lines += 1
            kept_linked += linked[k]
        if H1 <= tag[owner[k]] <= H6:
            headings += 1
            headings_kept += keep[k]
    total = c_sum[m]
    # what is inherited
    called, near, inside = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    depth, wider = np.zeros(n, np.int32), np.zeros(n, np.int32)  # the next ancestor with more lines
    size = 16
    while size < 2 * n:
        size *= 2
    slot_key = np.zeros(size, np.uint64)
    slot_n, slot_c = np.zeros(size, np.int32), np.zeros(size)
    slot_of = np.zeros(n, np.int32)
    for i in range(1, n):
        p = parent[i]
        depth[i] = depth[p] + 1
        wider[i] = p if at[stop[p]] - at[p] > at[stop[i]] - at[i] else wider[p]
        h = hint[i] & ((1 << N_HINTS) - 1)
        if tag[i] == HTML or tag[i] == BODY:
            h = 0
        called[i] = called[p] | h
        near[i] = h
        if tag[p] != BODY:
            near[i] |= hint[p] | (hint[parent[p]] if tag[parent[p]] != BODY else 0)
        inside[i] = inside[p] | bits[tag[i]]
        if tag[i] == 0 or tag[i] == BR or at[stop[i]] == at[i]:
            slot_of[i] = -1
            continue
        value = np.uint64(p) * np.uint64(1000003) + np.uint64(tag[i])
        value = value * np.uint64(0x9E3779B97F4A7C15) + np.uint64(h + 1)
        slot = _slot(slot_key, value)
        slot_n[slot] += 1
        slot_c[slot] += c_sum[at[stop[i]]] - c_sum[at[i]]
        slot_of[i] = slot
    slot_l, slot_e, slot_m, slot_k = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size)
    best, inner = np.zeros(n, np.int32), np.zeros(n, np.int32)  # node of the record around each
    most = 0.0
    for i in range(1, n):
        p = parent[i]
        best[i], inner[i] = best[p], inner[p]
        s = slot_of[i]
        if s < 0:
            continue
        slot_l[s] += l_sum[at[stop[i]]] - l_sum[at[i]]
        slot_e[s] += e_sum[at[stop[i]]] - e_sum[at[i]]
        slot_k[s] += k_sum[at[stop[i]]] - k_sum[at[i]]
        slot_m[s] += at[stop[i]] - at[i]
        if slot_n[s] >= 3:
            inner[i] = i
            if tag[i] != P and (best[p] == 0 or slot_c[s] >= 0.7 * slot_c[slot_of[best[p]]]):
                best[i] = i
                most = max(most, slot_c[s])
    shares = np.zeros(N_HINTS)
    beside = 0.0
    for k in range(m):
        h = called[first[k]]
        for b in range(N_HINTS):
            if h >> b & 1:
                shares[b] += chars[k]
        if prose[k] and not h & COMMENT:
            beside += chars[k]
    # equal lines
    size = 16
    while size < 2 * m:
        size *= 2
    seen, times = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    place = np.zeros(m, np.int32)
    for k in range(m):
        value = key[k] | np.uint64(1)
        slot = _slot(seen, value)
        times[slot] += 1
        place[k] = slot
    h1 = -1
    for k in range(m):
        if tag[owner[k]] == H1:
            h1 = k
            break
    lo, hi = at[root], at[stop[root]]
    page = np.array(
        [
            np.log1p(m),
            np.log1p(total),
            _ratio(l_sum[m], total),
            _ratio(k_sum[m], total),
            _ratio(kept_lines, m),
            _ratio(kept_linked, k_sum[m]),
            _ratio(page_prose, total),
            _ratio(prose_kept, page_prose),
            np.log1p(n_prose),
            _ratio(c_sum[hi] - c_sum[lo], total),
            float(tag[root]),
            _ratio(most, total),
            np.log1p(headings),
            _ratio(headings_kept, headings),
            np.log1p(k_sum[m]),
            np.log1p(beside),
        ]
    )
    behind = np.full(m + 1, 99.0)
    for k in range(m - 1, -1, -1):
        behind[k] = 0.0 if keep[k] else min(99.0, behind[k + 1] + 1)
    before = 99.0
    since, head_kept = 99.0, 0.0
    for k in range(m):
        o = owner[k]
        row = out[k]
        before = 0.0 if keep[k] else min(99.0, before + 1)
        heading = tag[o] - H1 + 1 if H1 <= tag[o] <= H6 else 0
        if heading:
            since, head_kept = 0.0, 1.0 if keep[k] else 0.0
        else:
            since = min(99.0, since + 1)
        digits = 0
        for i in range(first[k], until[k]):
            if tag[i] == 0:
                for j in range(start[i], end[i]):
                    digits += 48 <= html[j] <= 57
        row[0] = np.log1p(chars[k])
        row[1] = _ratio(linked[k], chars[k])
        row[2] = ends[k]
        row[3] = _ratio(digits, chars[k])
        row[4] = heading
        row[5] = tag[o]
        row[6] = times[place[k]]
        row[7] = gap[k]
        row[8] = depth[o]
        row[9] = keep[k]
        row[10] = (k + 0.5) / m
        row[11] = _ratio(c_sum[k], total)
        row[12] = min(99.0, max(-99.0, float(k - h1))) if h1 >= 0 else -100.0
        row[13] = max(-99, k - lo) if k < lo else min(99, k - hi + 1) if k >= hi else 0
        row[14] = lo <= k < hi
        row[15] = before
        row[16] = behind[k]
        row[17] = since
        row[18] = head_kept
        row[19] = prose[k]
        f = first[k]
        g = best[f]
        if g > 0:
            s = slot_of[g]
            row[20] = slot_n[s]
            row[21] = _ratio(slot_c[s], total)
            row[22] = np.log1p(slot_c[s] / slot_n[s])
            row[23] = _ratio(slot_l[s], slot_c[s])
            row[24] = slot_e[s] / slot_n[s]
            row[25] = slot_m[s] / slot_n[s]
            row[26] = _ratio(slot_k[s], slot_c[s])
            row[29] = depth[g]
        g = inner[f]
        if g > 0:
            row[27] = slot_n[slot_of[g]]
            row[28] = np.log1p(slot_c[slot_of[g]] / slot_n[slot_of[g]])
        at_column = 30
        a = o
        for level in range(OUTER):
            if level > 0:
                a = wider[a]
            u, v = at[a], at[stop[a]]
            had = v - u
            row[at_column] = np.log1p(had)
            row[at_column + 1] = np.log1p(c_sum[v] - c_sum[u])
            row[at_column + 2] = _ratio(l_sum[v] - l_sum[u], c_sum[v] - c_sum[u])
            row[at_column + 3] = _ratio(e_sum[v] - e_sum[u], had)
            row[at_column + 4] = _ratio(k_sum[v] - k_sum[u], c_sum[v] - c_sum[u])
            at_column += 5
        for step in (-2, -1, 1, 2):
            q = k + step
            if 0 <= q < m:
                row[at_column] = np.log1p(chars[q])
                row[at_column + 1] = _ratio(linked[q], chars[q])
                row[at_column + 2] = keep[q]
                row[at_column + 3] = ends[q]
            else:
                row[at_column] = -1
            at_column += 4
        for b in range(N_ANCESTORS):
            row[at_column + b] = inside[f] >> b & 1
        at_column += N_ANCESTORS
        for b in range(N_HINTS):
            row[at_column + b] = called[f] >> b & 1
            row[at_column + N_HINTS + b] = near[o] >> b & 1
        at_column += 2 * N_HINTS
        for b in range(len(page)):
            row[at_column + b] = page[b]
        at_column += len(page)
        for b in range(N_HINTS):
            row[at_column + b] = _ratio(shares[b], total)
        at_column += N_HINTS
        for b in range(len(says)):
            row[at_column + b] = says[b]
