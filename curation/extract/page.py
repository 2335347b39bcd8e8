"""One HTML page: decode, parse, and take the main text, the title, the date and the publisher's word on its language.

Runs inside the sandbox of `curation.extract.extractor`, so it imports little and lets errors out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from curation.extract import render, unseen
from curation.extract.encoding import decode
from curation.extract.head import language, meta, published, title
from curation.extract.judge import judge
from curation.extract.lines import lines
from curation.extract.main_content import choose
from curation.extract.markdown import markdown
from curation.extract.markup import Tree, parse
from curation.extract.tex import with_tex

CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+")  # all but tab, newline and carriage return

DESCRIPTIONS = ("og:description", "description", "twitter:description")


def extract(
    header: dict, payload: bytes, engine: str, max_nodes: int, *, markup: str = "", model: np.ndarray | None = None
) -> dict:
    """`{"text", "title", "published", "lang"}` of a page, or `{"nodes"}` alone when it opens more than `max_nodes` tags.

    `header["charset"]` is the charset of the HTTP header. markup: `markdown`, or none for plain text. model: of the judge,
    for those who measure another one than ours.
    """
    data, html, tree = parsed(payload, header["charset"], tex=markup == "markdown")
    nodes = int(np.count_nonzero(tree.tag)) - 1
    if nodes > max_nodes:
        return {"nodes": nodes}
    found = lines(data, tree)
    named = meta(data, tree)
    keep, root = choose(tree, found)
    if engine in OTHER_READERS:
        text = OTHER_READERS[engine](html)
    else:
        if engine == "cascade" and keep.any():
            keep = judge(data, tree, found, keep, root, named, model)
        text = (markdown if markup == "markdown" else render.text)(data, tree, found, keep)
    text = _clean(text)
    if len(text) < 4 * unseen.HARDLY_ANY and (own := unseen.letters(text)) < unseen.HARDLY_ANY:
        text = _clean(_unseen(data, tree, own)) or text
    if not text and found.chars.sum() < 60:  # built by scripts whose data are elsewhere: what it says of itself
        text = _clean(next((named[name] for name in DESCRIPTIONS if unseen.is_more(named.get(name, ""), 0)), ""))
    return {
        "text": text,
        "title": _clean(title(data, tree, named)),
        "published": published(data, tree, named),
        "lang": language(data, tree, named, root, found.chars[keep], found.first[keep]),
    }


def parsed(payload: bytes, charset: str, *, tex: bool = False) -> tuple[bytes, str, Tree]:
    """(a page in UTF-8, the same decoded, its tree), with what browsers show of templates and `<noscript>` in its place.
    tex: with its formulas as TeX."""
    html = decode(payload, charset)
    data = html.encode("utf-8", "replace")
    if tex:
        data = with_tex(data)
    tree = parse(data)
    if (tree.tag == unseen.TEMPLATE).any() and (shown := unseen.with_shadow_roots(data)):
        data, html = shown, shown.decode("utf-8")
        tree = parse(data)
    if shown := unseen.seen_without_scripts(data, tree):
        data, html = shown, shown.decode("utf-8")
        tree = parse(data)
    return data, html, tree


def _unseen(data: bytes, tree: Tree, own: int) -> str:
    """What a page of so many letters has where no reader looks, if that is worth more; else nothing."""
    if opened := unseen.with_noscript(data):
        other = parse(opened)
        found = lines(opened, other)
        text = render.text(opened, other, found, choose(other, found)[0])
        if unseen.is_more(text, own):
            return text
    return unseen.from_data(data, tree, own)


def prepare(engine: str, max_nodes: int, markup: str = "") -> None:
    """Compile the kernels, or load them compiled, before the clock of a first page runs."""
    extract({"charset": ""}, b"<p>a&amp;b", "cascade" if engine == "cascade" else "lines", max_nodes)
    if engine == "trafilatura":
        trafilatura_text("<p>a</p>", fast=True)


def resiliparse_text(html: str) -> str:
    """Main content by resiliparse; comments, dates and bylines left out, no bullets added to lists."""
    return extract_plain_text(
        HTMLTree.parse(html),
        preserve_formatting=True,
        main_content=True,
        list_bullets=False,
        alt_texts=False,
        comments=False,
        post_meta=False,
    )


def trafilatura_text(html: str, fast: bool = False) -> str:
    """Main content by trafilatura, `fast` without its own fallbacks; comments left out."""
    import trafilatura  # few runs need it

    return trafilatura.extract(html, include_comments=False, include_tables=True, fast=fast) or ""


OTHER_READERS: dict[str, Callable[[str], str]] = {"resiliparse": resiliparse_text, "trafilatura": trafilatura_text}
ENGINES = ("cascade", "lines", *OTHER_READERS)


def _clean(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = CONTROLS.sub("", text)
    if "\n\n\n" in text:
        text = re.sub(r"\n{3,}", "\n\n", text)
    return text.strip()
