import random
import time
import zlib

import numpy as np
import pytest
from resiliparse.parse.html import HTMLTree

from curation.extract import hints
from curation.extract.markup import parse
from curation.extract.tags import FLAGS, NAMES, SILENT

N_RANDOM = 400
PIECES = [
    *(
        "<p>",
        "</p>",
        "<div>",
        "</div>",
        "<b>",
        "</b>",
        "<ul>",
        "<li>",
        "</ul>",
        "<br>",
        "<a href=x>",
        "</a>",
        "<dl><dt>",
        "<dd>",
    ),
    *(
        "<h2>",
        "</h2>",
        "<span class='a b'>",
        "</span>",
        "<!-- x -->",
        "<script>var a='<p>'</script>",
        "&amp;",
        " ",
        "\n",
    ),
    *(
        "kata",
        "คำ",
        "ພາສາ",
        "ភាសា",
        "မြန်မာ",
        "中文",
        "từ",
        "<",
        "a < b",
        "<img src=x alt='>'>",
        "</x>",
        "<style>p>a{}</style>",
    ),
]


def outline(html: str) -> str:
    """The tree as nested brackets: `p(text)`."""
    data = html.encode()
    tree = parse(data)

    def show(i: int) -> str:
        if tree.tag[i] == 0:
            return data[tree.start[i] : tree.end[i]].decode().strip()
        inside, j = [], i + 1
        while j < tree.stop[i]:
            inside.append(show(j))
            j = tree.stop[j]
        return NAMES[tree.tag[i]] + "(" + " ".join(inside) + ")"

    return show(0)[len("div(") : -1]


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("a<b>c</b>d", "a b(c) d"),
        ("<p>one<p>two<div>three</div>", "p(one) p(two) div(three)"),
        ("<ul><li>a<ul><li>b</ul><li>c</ul>d", "ul(li(a ul(li(b))) li(c)) d"),
        ("<table><tr><td>a<td>b<tr><td>c</table>d", "table(tr(td(a) td(b)) tr(td(c))) d"),
        ("<dl><dt>a<dd>b<dt>c</dl>", "dl(dt(a) dd(b) dt(c))"),
        ("<p>a</div></span>b</p></p>c", "p(a b) p() c"),
        ("<div><b>a</div>b", "div(b(a)) b"),
        ("<a href=1>x<a href=2>y</a>", "a(x) a(y)"),
        ("<h1>a<h2>b</h2>c", "h1(a) h2(b) c"),
        ("<html><head><title>t<p></title><meta x><p>a", "html(head(title(t<p>) meta()) p(a))"),
        ("<head>text", "head() text"),
        ("<script>if (a<b) '</p>'</script >x", "script(if (a<b) '</p>') x"),
        ("a<!-- <p> -->b<!>c<?php x ?>d<!doctype html>e", "a b c d e"),
        ("a<!-->b<!-- no end <p>c", "a b"),
        ("1 < 2 <3 <", "1 < 2 <3 <"),
        ("<p title='a>b' x=\"</p>\">c", "p(c)"),
        ("<div class=a/>b", "div(b)"),
        ("<svg><path/><g/></svg>a", "svg(?() ?()) a"),
        ("<nav>a<main>b", "nav(a) main(b)"),
        ("<select><option>a<option>b</select>c", "select(option(a) option(b)) c"),
        ("<P>A</P>", "p(A)"),
        ("<title>never ended <p>a", "title() never ended p(a)"),
        ("<div class='never ended><p>a</p> b", "div(p(a) b)"),
        ("", ""),
    ],
)
def test_trees_by_hand(html, expected):
    assert outline(html) == expected


def test_spaces_in_code_are_kept_and_elsewhere_noted():
    tree = parse(b"<pre><b>a</b>\n<b>c</b></pre><i>x</i> <i>y</i>")
    assert [NAMES[t] for t in tree.tag] == [
        "div",
        "pre",
        "b",
        "#text",
        "#text",
        "b",
        "#text",
        "i",
        "#text",
        "i",
        "#text",
    ]
    assert tree.space.tolist() == [0] * 9 + [1, 0]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('class="post-content"', hints.ARTICLE | hints.BODY),
        ("id=siteFooter", hints.FOOT),
        ("CLASS='Comment-List'", hints.COMMENT),
        ('itemprop="articleBody"', hints.ARTICLE | hints.BODY),
        ("role=navigation", hints.NAVIGATION),
        ("title=comments", 0),
        ('class="isi berita-terkait"', hints.ARTICLE | hints.BODY | hints.RELATED),
        ('style="color: red; DISPLAY : none"', hints.HIDDEN),
        ('style="display: block; content: none"', 0),
        ("hidden", hints.HIDDEN),
        ("aria-hidden=true", hints.HIDDEN),
        ("aria-hidden=false", 0),
        ("href=x", hints.LINK),
        ("lang=th", hints.LANG),
    ],
)
def test_hints_of_attributes(source, expected):
    tree = parse(f"<div {source}>x".encode())
    assert tree.hints[1] == expected


def check(data: bytes) -> None:
    """What holds for every tree."""
    tree = parse(data)
    n = len(tree.tag)
    nodes = np.arange(n)
    assert (tree.parent[1:] < nodes[1:]).all() and (tree.stop > nodes).all() and (tree.stop <= n).all()
    assert (tree.stop[1:] <= tree.stop[tree.parent[1:]]).all()
    assert (tree.stop[tree.tag == 0] == nodes[tree.tag == 0] + 1).all()
    texts = np.flatnonzero(tree.tag == 0)
    assert (tree.start[texts] < tree.end[texts]).all() and (tree.end[texts[:-1]] <= tree.start[texts[1:]]).all()


def test_random_bytes_give_sound_trees():
    rng = np.random.default_rng(0)
    for i in range(N_RANDOM):
        letters = rng.choice(list(b"<>/=!-\"' abp\n&;"), rng.integers(0, 200)) if i % 2 else rng.integers(0, 256, 300)
        check(letters.astype(np.uint8).tobytes())


def test_random_markup_has_the_words_of_lexbor():
    dice = random.Random(0)
    for _ in range(N_RANDOM):
        html = "<body>" + " ".join(dice.choice(PIECES) for _ in range(30))
        data = html.encode()
        check(data)
        tree = parse(data)
        silent = np.zeros(len(tree.tag), bool)
        ours = []
        for i in range(1, len(tree.tag)):
            silent[i] = silent[tree.parent[i]] or FLAGS[tree.tag[i]] & SILENT
            if tree.tag[i] == 0 and not silent[i]:
                ours += data[tree.start[i] : tree.end[i]].decode().replace("&amp;", "&").split()
        theirs = HTMLTree.parse(html)
        for name in ("script", "style"):
            for node in theirs.document.query_selector_all(name):
                node.decompose()
        assert ours == " ".join(node.text for node in theirs.document if node.type == 3).split(), html


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"<div>" * 300_000,
            b"<p" * 300_000,
            b"</p>" * 300_000,
            b"<table>" * 300_000,
            b"<b><i>" * 150_000 + b"</b>" * 99,
        ),
        *(b"<title>" * 200_000, b"<!--" * 300_000, b"<a href='" * 200_000, b'<a b="c>' * 200_000, b"<li>" * 300_000),
        *(b"<span>" * 200_000 + b"</div>" * 99_000, b"<div " + b"a=b " * 300_000, b"<" * 10**6, b"<p><b>" * 99_000),
    ],
)
def test_time_is_linear(data):
    parse(b"<p>")
    begin = time.process_time()
    check(data)
    assert time.process_time() - begin < 2.0


def test_numbers_that_compiled_kernels_hold_do_not_change():
    """numba's cache outlives an edit of the two modules: append there, and then change the numbers here."""
    assert len(set(NAMES)) == len(NAMES) == len(FLAGS)
    assert (len(NAMES), zlib.crc32(" ".join(NAMES).encode())) == (133, 3131167738)
    assert (len(hints.NAMES), zlib.crc32(" ".join(hints.NAMES).encode())) == (21, 3347217728)
