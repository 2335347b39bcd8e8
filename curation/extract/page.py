"""One HTML page: decode, parse, and take the main text, the title, the date and the publisher's word on its language.

Runs inside the sandbox of `curation.extract.extractor`, so it imports little and lets errors out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from curation.extract import render, unseen
from curation.extract.encoding import decode
from curation.extract.head import language, meta, published, title
from curation.extract.lines import lines
from curation.extract.main_content import choose, left_out
from curation.extract.markup import Tree, depth, parse

CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+")  # all but tab, newline and carriage return
DOUBT = 0.12  # share of a page's prose left out, from which a second reader is asked
AGREE = 0.7  # word F1 of two readers from which they agree
MAX_DEPTH = 200  # of pages that are given to other readers: some take quadratic time in it


def extract(header: dict, payload: bytes, engine: str, max_nodes: int) -> dict:
    """`{"text", "title", "published", "lang"}` of a page, or `{"nodes"}` alone when it opens more than `max_nodes` tags.

    `header["charset"]` is the charset of the HTTP header.
    """
    html = decode(payload, header["charset"])
    data = html.encode("utf-8", "replace")
    tree = parse(data)
    if (tree.tag == unseen.TEMPLATE).any() and (shown := unseen.with_shadow_roots(data)):
        data, html = shown, shown.decode("utf-8")
        tree = parse(data)
    nodes = int(np.count_nonzero(tree.tag)) - 1
    if nodes > max_nodes:
        return {"nodes": nodes}
    found = lines(data, tree)
    keep, root = choose(tree, found)
    if engine in OTHER_READERS:
        text = OTHER_READERS[engine](html)
    else:
        text = render.text(data, tree, found, keep)
        if engine == "cascade" and left_out(found, keep) >= DOUBT and depth(tree) <= MAX_DEPTH:
            text = second_opinion(html, text)
    named = meta(data, tree)
    text = _clean(text)
    if len(text) < 4 * unseen.HARDLY_ANY and (own := unseen.letters(text)) < unseen.HARDLY_ANY:
        text = _clean(_unseen(data, tree, own)) or text
    return {
        "text": text,
        "title": _clean(title(data, tree, named)),
        "published": published(data, tree, named),
        "lang": language(data, tree, named, root, found.chars[keep], found.first[keep]),
    }


def _unseen(data: bytes, tree: Tree, own: int) -> str:
    """What a page of so many letters has where no reader looks, if that is worth more; else nothing."""
    if opened := unseen.with_noscript(data):
        other = parse(opened)
        found = lines(opened, other)
        text = render.text(opened, other, found, choose(other, found)[0])
        if unseen.is_more(text, own):
            return text
    return unseen.from_data(data, tree, own)


def prepare(engine: str, max_nodes: int) -> None:
    """Compile the kernels, or load them compiled, before the clock of a first page runs."""
    extract({"charset": ""}, b"<p>a&amp;b", "lines", max_nodes)
    depth(parse(b""))
    if engine in ("cascade", "trafilatura"):
        trafilatura_text("<p>a</p>", fast=True)


def second_opinion(html: str, text: str) -> str:
    """`text`, unless resiliparse reads something else on the page and trafilatura, asked then, sides with it or is nearer
    to both than they are to each other."""
    second = resiliparse_text(html)
    ours, theirs = Counter(text.split()), Counter(second.split())
    agreement = _agreement(ours, theirs)
    if agreement >= AGREE:
        return text
    third = trafilatura_text(html, fast=True)
    judge = Counter(third.split())
    with_ours, with_theirs = _agreement(ours, judge), _agreement(theirs, judge)
    sums = [agreement + with_ours, with_ours + with_theirs, agreement + with_theirs]
    return (text, third, second)[int(np.argmax(sums))]


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
    import trafilatura  # few pages need it

    return trafilatura.extract(html, include_comments=False, include_tables=True, fast=fast) or ""


OTHER_READERS: dict[str, Callable[[str], str]] = {"resiliparse": resiliparse_text, "trafilatura": trafilatura_text}
ENGINES = ("cascade", "lines", *OTHER_READERS)


def _agreement(a: Counter, b: Counter) -> float:
    """F1 of two bags of words; 0 when both are empty."""
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def _clean(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = CONTROLS.sub("", text)
    if "\n\n\n" in text:
        text = re.sub(r"\n{3,}", "\n\n", text)
    return text.strip()
