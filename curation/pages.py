"""One HTML page: decode, parse, and take the main text, the title and the publisher's word on its language.

Runs inside the sandbox of `curation.extract`, so it imports little and lets errors out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from curation.encoding import decode

CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127])  # all but tab, newline and carriage return


def extract(header: dict, payload: bytes, engine: str, max_nodes: int) -> dict:
    """`{"text", "title", "lang"}` of a page, or `{"nodes"}` alone when it opens more than `max_nodes` tags.

    `header["charset"]` is the charset of the HTTP header.
    """
    html = decode(payload, header["charset"])
    nodes = html.count("<") - html.count("</")  # at least as many as the parser will make elements
    if nodes > max_nodes:
        return {"nodes": nodes}
    tree = HTMLTree.parse(html)
    text = ENGINES[engine](html, tree)
    return {
        "text": _clean(text),
        "title": " ".join(_clean(tree.title or "").split())[:500],
        "lang": _language(tree),
    }


def resiliparse_text(html: str, tree: HTMLTree) -> str:
    """Main content by resiliparse; comments, dates and bylines left out, no bullets added to lists."""
    return extract_plain_text(
        tree,
        preserve_formatting=True,
        main_content=True,
        list_bullets=False,
        alt_texts=False,
        comments=False,
        post_meta=False,
    )


def trafilatura_text(html: str, tree: HTMLTree) -> str:
    """Main content by trafilatura with its default settings; comments left out."""
    import trafilatura  # a second to import, and only this engine needs it

    return trafilatura.extract(html, include_comments=False, include_tables=True) or ""


ENGINES: dict[str, Callable[[str, HTMLTree], str]] = {
    "resiliparse": resiliparse_text,
    "trafilatura": trafilatura_text,
}


def _clean(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text.translate(CONTROLS).replace("\r\n", "\n").replace("\r", "\n")).strip()


def _language(tree: HTMLTree) -> str:
    """`<html lang>`, `xml:lang`, or `<meta http-equiv=content-language>`, in lower case; empty when there is none."""
    root = tree.document.document_element if tree.document else None
    found = (root.getattr("lang") or root.getattr("xml:lang") or "") if root else ""
    if not found.strip():
        for meta in tree.document.get_elements_by_tag_name("meta") if tree.document else ():
            if (meta.getattr("http-equiv") or "").lower() == "content-language":
                found = meta.getattr("content") or ""
                break
    return found.split(",")[0].strip().lower()[:35]
