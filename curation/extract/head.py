"""What a page says about itself: its title, when it was published, and the language of its text.

Sources for the date, the first that holds one: `<meta>` (Open Graph, schema.org, Dublin Core, Highwire and the like),
`datePublished` of JSON-LD, `<time>`. For the language: `lang` of the content's element or around it, of most of what is in
it, of `<html>`, `<meta>` content-language, Open Graph's locale.
"""

from __future__ import annotations

import datetime
import html as entities
import re

import numpy as np

from curation.extract import tags
from curation.extract.hints import LANG
from curation.extract.markup import Tree

HTML, META, TIME, TITLE, SVG, SCRIPT, H1 = (
    tags.TAG[n] for n in ["html", "meta", "time", "title", "svg", "script", "h1"]
)
# From the begin of a name, and never back: in time linear in the tag's bytes.
_ATTRIBUTE = re.compile(r"""(?:^|(?<=[\s/"']))([^\s=/>"']++)\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>"']++))""")
DATE_NAMES = (
    *("article:published_time", "og:article:published_time", "og:published_time", "datepublished", "article.published"),
    *("citation_publication_date", "citation_online_date", "dcterms.issued", "dcterms.created", "dcterms.date"),
    *("dc.date.issued", "dc.date.created", "dc.date", "dc.date.published", "parsely-pub-date", "sailthru.date"),
    *(
        "pubdate",
        "publishdate",
        "publish-date",
        "publish_date",
        "published",
        "publication_date",
        "originalpublicationdate",
    ),
    *("article_date_original", "cxenseparse:recs:publishtime", "date", "created"),
)
_JSON_DATE = re.compile(rb'"datePublished"\s*:\s*"([^"]{8,40})"')
_ISO = re.compile(r"(?<!\d)((?:19|20)\d\d)([-/.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAY_FIRST = re.compile(r"(?<!\d)(\d{1,2})(?:st|nd|rd|th)?[ -]([a-z]{3})[a-z]*[, -]+((?:19|20)\d\d)(?!\d)", re.I)
_MONTH_FIRST = re.compile(r"\b([a-z]{3})[a-z]*\.? (\d{1,2})(?:st|nd|rd|th)?,? ((?:19|20)\d\d)(?!\d)", re.I)
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][a-z0-9]{1,8})*", re.I)


def title(html: bytes, tree: Tree, named: dict[str, str]) -> str:
    """`<title>`, else Open Graph's title, else the first `<h1>`; one line, at most 500 characters. named: see `meta`."""
    for i in np.flatnonzero(tree.tag == TITLE).tolist():
        if tree.tag[tree.parent[i]] != SVG and (found := _inner(html, tree, i)):
            return found
    if found := " ".join(named.get("og:title", "").split()):
        return found[:500]
    return next((found for i in np.flatnonzero(tree.tag == H1).tolist() if (found := _inner(html, tree, i))), "")


def published(html: bytes, tree: Tree, named: dict[str, str]) -> str:
    """Day of publication, `YYYY-MM-DD`, empty when the page does not say."""
    candidates = [named[name] for name in DATE_NAMES if name in named]
    if b"datePublished" in html:
        for i in np.flatnonzero(tree.tag == SCRIPT).tolist():
            if i + 1 < tree.stop[i] and (found := _JSON_DATE.search(html[tree.start[i + 1] : tree.end[i + 1]])):
                candidates.append(found.group(1).decode("utf-8", "replace"))
    times = [attributes(html, tree, i) for i in np.flatnonzero(tree.tag == TIME)[:20].tolist()]
    times.sort(key=lambda time: time.get("itemprop", "").lower() != "datepublished" and "pubdate" not in time)
    candidates += [time["datetime"] for time in times if "datetime" in time]
    return next((day for text in candidates if (day := parse_day(text))), "")


def parse_day(text: str) -> str:
    """`YYYY-MM-DD` of an ISO 8601 or English date, empty for anything else and for days that are none."""
    text = text[:100]
    if found := _ISO.search(text):
        year, _, month, day = found.groups()
    elif found := _DAY_FIRST.search(text):
        day, month, year = found.groups()
    elif found := _MONTH_FIRST.search(text):
        month, day, year = found.groups()
    else:
        return ""
    month = _MONTHS.index(month.lower()) + 1 if month.lower() in _MONTHS else month
    try:
        return datetime.date(int(year), int(month), int(day)).isoformat()
    except ValueError:
        return ""


def language(  # noqa: PLR0917
    html: bytes, tree: Tree, named: dict[str, str], root: int, chars: np.ndarray, first: np.ndarray
) -> str:
    """The publisher's word on the language of the content, in lower case (`th`, `zh-cn`), empty when there is none.

    root: the content's element. chars, first: letters and first nodes of its lines.
    """
    declared = np.flatnonzero(tree.hints & LANG).tolist()
    around = [i for i in declared if tree.tag[i] != HTML and i <= root < tree.stop[i]]
    within = [i for i in declared if root < i < tree.stop[root]]
    inside = [0] if not within else [int(chars[(first >= i) & (first < tree.stop[i])].sum()) for i in within[:100]]
    ordered = [within[int(np.argmax(inside))]] if 2 * max(inside) > int(chars.sum()) else []
    ordered += around[::-1] + [i for i in declared if tree.tag[i] == HTML]
    for i in ordered:
        own = attributes(html, tree, i)
        if found := _code(own.get("lang") or own.get("xml:lang") or ""):
            return found
    return _code(named.get("content-language", "")) or _code(named.get("og:locale", ""))


def meta(html: bytes, tree: Tree) -> dict[str, str]:
    """Content of each `<meta>` by its property, name, itemprop or http-equiv in lower case; the first of a name counts."""
    found: dict[str, str] = {}
    for i in np.flatnonzero(tree.tag == META)[:300].tolist():
        values = attributes(html, tree, i)
        for key in ("property", "name", "itemprop", "http-equiv"):
            if key in values and values.get("content", "").strip():
                found.setdefault(values[key].strip().lower(), values["content"].strip())
    return found


def attributes(html: bytes, tree: Tree, node: int) -> dict[str, str]:
    """Attributes of an element by name in lower case, entities decoded."""
    source = html[tree.start[node] : min(tree.end[node], tree.start[node] + 10_000)].decode("utf-8", "replace")
    return {
        name.lower(): entities.unescape(double or single or bare)
        for name, double, single, bare in reversed(_ATTRIBUTE.findall(source))
    }


def _inner(html: bytes, tree: Tree, node: int) -> str:
    parts = [
        html[tree.start[i] : tree.end[i]].decode("utf-8", "replace")
        for i in range(node + 1, min(tree.stop[node], node + 100))
        if tree.tag[i] == 0
    ]
    return " ".join(entities.unescape(" ".join(parts)).split())[:500]


def _code(text: str) -> str:
    found = _LANGUAGE.fullmatch(re.split(r"[,;]", text)[0].strip())
    return found.group().lower().replace("_", "-")[:35] if found else ""
