"""The judge: boosted trees, the features of lines, and pages of repeated records that rules for articles cut to nothing."""

import random
import time

import numpy as np
import pytest

from curation.extract.boosting import fit, predict
from curation.extract.features import NAMES, features
from curation.extract.judge import _is_dated_article, best, expected_f1, shipped
from curation.extract.lines import lines
from curation.extract.main_content import choose
from curation.extract.markup import parse
from curation.extract.page import extract

LINKS = "".join(
    f"<li><a href=/{i}>{word}</a></li>" for i, word in enumerate(["Beranda", "Berita", "Olahraga", "Tentang"])
)
PROSE = "Nelayan di desa kami melaut sebelum fajar, dan pulang pada sore hari dengan perahu yang penuh ikan."


def read(body: str, head: str = "") -> str:
    page = f"<!doctype html><html><head>{head}</head><body>{body}</body></html>".encode()
    return extract({"charset": ""}, page, "cascade", 10**6)["text"]


def columns(body: str) -> tuple[np.ndarray, int]:
    html = f"<html><body>{body}".encode()
    tree = parse(html)
    found = lines(html, tree)
    keep, root = choose(tree, found)
    return features(html, tree, found, keep, root, ""), len(found.chars)


def column(x: np.ndarray, name: str) -> list[float]:
    return x[:, NAMES.index(name)].tolist()


def naive(model: np.ndarray, x: np.ndarray, depth: int) -> np.ndarray:
    z = np.zeros(len(x))
    for tree in model:
        for row, values in enumerate(x):
            leaf = 0
            for level in range(depth):
                leaf = 2 * leaf + int(values[int(tree[level])] > tree[depth + level])
            z[row] += tree[2 * depth + leaf]
    return 1 / (1 + np.exp(-z))


def test_trees_learn_what_two_columns_say_together_and_answer_like_a_naive_twin():
    random_ = np.random.default_rng(0)
    x = random_.normal(size=(7000, 10)).astype(np.float32)
    y = ((x[:, 1] > 0) & (x[:, 3] > 0.5)).astype(float)
    model = fit(x, y, np.ones(len(y)), trees=80, depth=3)
    assert ((predict(model, x) > 0.5) == y).mean() > 0.97
    assert predict(model, x[:50]) == pytest.approx(naive(model, x[:50], 3), abs=1e-5)
    assert fit(x, y, np.ones(len(y)), trees=80, depth=3).tobytes() == model.tobytes()


def test_weights_say_which_rows_count():
    x = np.repeat(np.array([[0.0], [1.0]], np.float32), 3500, 0)
    y = np.tile([0.0, 1.0], 3500)
    heavy = predict(fit(x, y, np.where(x[:, 0] == y, 1.0, 0.0), trees=30, depth=1), x)
    assert heavy[0] < 0.1 and heavy[-1] > 0.9


def test_the_best_lines_are_those_of_the_greatest_expected_f1():
    random_ = np.random.default_rng(1)
    for _ in range(200):
        p, chars = random_.random(8), random_.integers(0, 200, 8)
        sets = [np.array([bits >> i & 1 for i in range(8)], bool) for bits in range(1, 256)]
        assert expected_f1(p, chars, best(p, chars)) == pytest.approx(max(expected_f1(p, chars, k) for k in sets))


def test_features_by_hand():
    card = "<div class=card><a href=/x>Perahu {0}</a><span>Rp {0}000</span></div>"
    x, n = columns(
        f"<nav><a href=/>Beranda</a></nav><main><h1>Toko</h1>{''.join(card.format(i) for i in range(1, 5))}</main>"
    )
    assert n == 6 and len(NAMES) == x.shape[1]
    assert column(x, "heading") == [0, 1, 0, 0, 0, 0] and column(x, "in nav") == [1, 0, 0, 0, 0, 0]
    assert column(x, "lines from h1") == [-1, 0, 1, 2, 3, 4] and column(x, "group records") == [0, 0, 4, 4, 4, 4]
    assert column(x, "linked share")[2:4] == pytest.approx([7 / 13, 7 / 13])
    assert column(x, "digits share")[2:4] == pytest.approx([5 / 13, 5 / 13])
    assert column(x, "outer 0 lines")[2] == pytest.approx(np.log1p(1)) and column(x, "outer 1 lines")[
        2
    ] == pytest.approx(np.log1p(5))


def test_features_are_finite_on_any_page():
    random_ = random.Random(5)
    tags = [
        "p",
        "div",
        "ul",
        "li",
        "table",
        "tr",
        "td",
        "nav",
        "a href=x",
        "h2",
        "article",
        "form",
        "br",
        "pre",
        "body",
        "html",
    ]
    for _ in range(300):
        body = "".join(
            random_.choice(
                [f"<{random_.choice(tags)}>", f"</{random_.choice(tags).split()[0]}>", "kata. ", "ປາ 12 ", "鱼。"]
            )
            for _ in range(random_.randrange(60))
        )
        x, n = columns(body)
        assert x.shape[0] == n and np.isfinite(x).all()


def test_the_shipped_model_fits_the_features():
    model = shipped()
    depth = 6
    assert model.dtype == np.float32 and model.shape[1] == 2 * depth + 2**depth
    assert model[:, :depth].min() >= 0 and model[:, :depth].max() < len(NAMES)
    assert np.isfinite(model[:, 2 * depth :]).all()


SITE = "<header><nav><ul>{}</ul></nav></header>{}<footer><p>Hak cipta 2026 Toko Laut. Semua hak dilindungi.</p></footer>".format


def test_a_page_of_product_cards_keeps_every_card():
    cards = "".join(
        f"<li class=product><a href=/p{i}><h2>Jaring nelayan nomor {i}</h2></a><span class=price>Rp {i}5.000</span></li>"
        for i in range(1, 25)
    )
    found = read(SITE(LINKS, f"<main><h1>Jaring</h1><ul class=products>{cards}</ul></main>"))
    assert all(f"Jaring nelayan nomor {i}" in found for i in range(1, 25))


def test_a_page_of_teasers_keeps_every_teaser():
    cards = "".join(
        f"<article class=teaser><h3><a href=/p{i}>Kapal nomor {i} pulang dari laut lepas</a></h3><p>{PROSE} {i}</p>"
        f"<time>{i} Mei 2026</time></article>"
        for i in range(1, 16)
    )
    found = read(SITE(LINKS, f"<main><h1>Berita laut</h1>{cards}</main>"))
    assert all(f"{PROSE} {i}" in found and f"Kapal nomor {i} pulang" in found for i in range(1, 16))


def test_a_thread_keeps_every_answer():
    posts = "".join(
        f"<div class=comment id=c{i}><span class=author>user_{i}</span><div class=body><p>{PROSE} {i}</p></div></div>"
        for i in range(12)
    )
    found = read(SITE(LINKS, f"<div class=thread><h1>Kapan melaut?</h1>{posts}</div>"))
    assert all(f"{PROSE} {i}" in found for i in range(12))


def test_an_article_loses_its_comments_all_the_same():
    body = "".join(f"<p>{PROSE} {i}</p>" for i in range(15))
    comments = "".join(f"<li class=comment><p>{PROSE} komentar {i}</p></li>" for i in range(9))
    head = '<meta property="og:type" content="article">'
    page = f"<article><h1>Laut</h1>{body}</article><section id=comments class=comments><ol>{comments}</ol></section>"
    found = read(SITE(LINKS, page), head)
    assert f"{PROSE} 14" in found and "komentar" not in found


def test_a_page_that_stands_in_noscript():
    posts = "".join(f"<div class=post><p>{PROSE} {i}</p></div>" for i in range(12))
    page = f"<div id=app>Memuat halaman</div><noscript><h1>Laut</h1>{posts}</noscript><p>Didukung oleh perangkat forum.</p>"
    found = read(page)
    assert all(f"{PROSE} {i}" in found for i in range(12))
    assert (
        read(f"<article>{posts}</article><noscript><img src=x>Please enable JavaScript</noscript>").count("Please") == 0
    )


CARD = "<div class=card><a href=x>b</a> 12</div>"


@pytest.mark.parametrize(
    "piece",
    [
        "<div>a. ",
        "<p>kata",
        CARD,
        "<ul><li>a",
        "<table><tr><td>x",
        "<noscript><p>abc",
        "a</p></div>",
        "<nav>a<article>",
    ],
)
def test_time_is_linear_in_bytes(piece):
    seconds = []
    for n in (2000, 2000, 16000):  # the first one compiles
        begin = time.process_time()
        read(piece * n)
        seconds.append(time.process_time() - begin)
    assert seconds[2] < 20 * seconds[1] + 0.1


@pytest.mark.parametrize("head", [
    '<meta property="og:type" content="article"><meta property="article:published_time" content="2026-05-01">',
    '<script type="application/ld+json">{"@type":"NewsArticle"}</script>',
    '<script type="application/ld+json">{"@type":"Article","datePublished":"2026-05-01"}</script>',
])  # fmt: skip
def test_a_dated_article_is_left_to_the_rules_for_articles(head, monkeypatch):
    body = "".join(f"<p>{PROSE} {i}</p>" for i in range(5))
    page = f"<article>{body}</article><aside class=related><p>{PROSE}</p></aside>"
    monkeypatch.setattr("curation.extract.judge.best", lambda p, chars: np.ones(len(p), bool))
    assert "Beranda" not in read(SITE(LINKS, page), head)


def test_a_thread_that_calls_itself_an_article_is_none():
    named = {"article:published_time": "2026-05-01"}
    page = np.zeros(len(NAMES), np.float32)
    assert _is_dated_article(b"<p>", page, named)
    assert not _is_dated_article(b"<p>", page, {})
    assert not _is_dated_article(b'<div itemtype="http://schema.org/DiscussionForumPosting">', page, named)
    page[NAMES.index("page called FORUM")] = 0.5
    assert not _is_dated_article(b"<p>", page, named)


def test_a_page_without_text_has_its_own_description():
    described = f'<meta property="og:description" content="{PROSE} {PROSE}">'
    assert read("<div id=app></div><script>go()</script>", described).startswith(PROSE)
    assert read("<div id=app></div>", '<meta name=description content="Toko daring.">') == ""
    assert read(f"<ul>{LINKS}{LINKS}{LINKS}{LINKS}</ul>", described) == "", "links alone are no page that scripts build"
