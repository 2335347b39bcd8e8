"""Text of a page that stands where readers of HTML do not look, as its scripts or the browser would bring it to sight.

A declarative shadow root is part of the page. `<noscript>`, the article in JSON-LD and the data of a page that is built by
scripts (`__NEXT_DATA__` and the like) are asked, in this order, only on a page that has hardly any other text.
"""

from __future__ import annotations

import html as entities
import json
import re
from collections.abc import Iterator

import numpy as np

from curation.extract import tags
from curation.extract.head import attributes
from curation.extract.markup import Tree

NOSCRIPT, SCRIPT, TEMPLATE = (tags.TAG[name] for name in ("noscript", "script", "template"))
A_PAGE = 600  # bytes of text in `<noscript>` that are more than an image or a request
HARDLY_ANY = 250  # letters of a page that is asked for more
ENOUGH = 140  # letters beyond twice its own: more than any request to switch scripts on
BODIES = ("articleBody", "reviewBody", "text")  # schema.org
MAX_LETTERS = 1_000_000
_TEMPLATE = re.compile(rb"<(/?)template(?=[\s>/])([^>]{0,2000})", re.IGNORECASE)
_SHADOW = re.compile(rb"\sshadowroot(?:mode)?(?=[\s=]|$)", re.IGNORECASE)
_NOSCRIPT = re.compile(rb"<(/?)noscript(?=[\s>/])", re.IGNORECASE)
_WRAPPED = re.compile(r"^\s*(?:<!--|//<!\[CDATA\[|<!\[CDATA\[)|(?:-->|//\]\]>|\]\]>)\s*$")
_BREAK = re.compile(
    r"<(?:/?(?:p|div|h[1-6]|li|ul|ol|tr|table|section|article|blockquote|pre)\b[^<>]{0,1000}|br\b[^<>]{0,100})>", re.I
)
_TAG = re.compile(r"<[/a-z!][^<>]{0,1000}>", re.IGNORECASE)
_LETTERS = re.compile(r"[^\W\d_]+")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{20}")


def with_shadow_roots(html: bytes) -> bytes | None:
    """The page with its declarative shadow roots as ordinary elements, templates as they are; None when it has none."""
    shadow: list[bool] = []

    def named(tag: re.Match[bytes]) -> bytes:
        if tag[1]:
            return b"</div" + tag[2] if shadow and shadow.pop() else tag[0]
        shadow.append(_SHADOW.search(tag[2]) is not None)
        opened.append(shadow[-1])
        return b"<div" + tag[2] if shadow[-1] else tag[0]

    opened: list[bool] = []
    changed = _TEMPLATE.sub(named, html)
    return changed if any(opened) else None


def with_noscript(html: bytes) -> bytes | None:
    """The page with the content of `<noscript>` as ordinary elements; None when it has none."""
    changed, n_found = _NOSCRIPT.subn(rb"<\1div", html)
    return changed if n_found else None


def seen_without_scripts(html: bytes, tree: Tree) -> bytes | None:
    """The page as `with_noscript` has it, when `<noscript>` holds the page: text, and half as much as the rest at least."""
    found = np.flatnonzero(tree.tag == NOSCRIPT)
    if not len(found):
        return None
    is_text = (tree.tag == 0) & (tags.FLAGS[tree.tag[tree.parent]] & tags.RAW == 0)
    is_text[0] = False
    before = np.concatenate([[0], np.cumsum(np.where(is_text, tree.end - tree.start, 0), dtype=np.int64)])
    outer = found[np.append(True, found[1:] >= np.maximum.accumulate(tree.stop[found])[:-1])]
    inside = int((before[tree.stop[outer]] - before[outer]).sum())
    return with_noscript(html) if inside >= max(A_PAGE, (int(before[-1]) - inside) // 2) else None


def letters(text: str) -> int:
    return sum(map(len, _LETTERS.findall(text)))


def is_more(text: str, own: int) -> bool:
    """Whether a text is worth more than a page's own, of so many letters."""
    return letters(text) > 2 * own + ENOUGH


def from_data(html: bytes, tree: Tree, own: int) -> str:
    """The text in JSON-LD, else in the data of the page's scripts; empty when it is not worth more."""
    linked: list = []
    data: list = []
    for i in np.flatnonzero(tree.tag == SCRIPT).tolist():
        if i + 1 >= tree.stop[i]:
            continue
        kind = attributes(html, tree, i).get("type", "").lower()
        if "json" not in kind:
            continue
        source = html[tree.start[i + 1] : tree.end[i + 1]].decode("utf-8", "replace")
        try:
            value = json.loads(_WRAPPED.sub("", source), strict=False)
        except (ValueError, RecursionError):
            continue
        (linked if "ld+json" in kind else data).append(value)
    for texts in (_bodies(linked), _prose(data)):
        found: dict[str, None] = {}
        n_letters = 0
        for text in texts:
            plain = _plain(text)
            if plain and plain not in found:
                found[plain] = None
                n_letters += letters(plain)
            if n_letters > MAX_LETTERS:
                break
        if is_more(text := "\n\n".join(found), own):
            return text
    return ""


def _values(roots: list) -> Iterator[tuple[str, str]]:
    """(key, string) of JSON values in their order."""
    stack = [("", root) for root in reversed(roots)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            stack += [(name, one) for name, one in reversed(value.items())]
        elif isinstance(value, list):
            stack += [(key, one) for one in reversed(value)]


def _bodies(roots: list) -> Iterator[str]:
    return (value for key, value in _values(roots) if key in BODIES)


def _prose(roots: list) -> Iterator[str]:
    """Strings that are sentences, and no addresses, styles or code."""
    for _, value in _values(roots):
        words = value.count(" ")
        long = words >= 6 and len(value) < 15 * words
        if (
            len(value) >= 40
            and (long or _UNSPACED.search(value))
            and not value.lstrip().startswith(("{", "[", "http", "data:", "."))
        ):
            yield value


def _plain(text: str) -> str:
    if "<" in text or "&" in text:
        text = entities.unescape(_TAG.sub("", _BREAK.sub("\n", text)))
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)
