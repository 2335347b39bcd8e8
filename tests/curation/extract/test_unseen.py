"""Text in noscript, JSON-LD, scripts' data and shadow roots: taken where the page has no other, and then whole."""

import json
import random
import time

import pytest

from curation.extract import unseen
from curation.extract.page import extract

SENTENCES = [
    "Nelayan pulang sebelum fajar dengan perahu yang penuh ikan dari laut dalam.",
    "Anak-anak menunggu mereka di dermaga kayu sambil bernyanyi lagu lama.",
    "Ikan itu dibagikan kepada setiap keluarga di desa, juga kepada yang tua.",
    "Pada malam hari semua orang duduk bersama dan bercerita tentang ombak.",
]
ARTICLE = "".join(f"<p>{one}</p>" for one in SENTENCES)
NOTE = "<noscript>You need to enable JavaScript to run this app.</noscript>"


def page(body: str, head: str = "", engine: str = "cascade") -> dict:
    return extract(
        {"charset": ""}, f"<!doctype html><head><title>T</title>{head}</head><body>{body}".encode(), engine, 1000
    )


def ld(value: object) -> str:
    return f'<script type="application/ld+json">{json.dumps(value)}</script>'


def next_data(value: object) -> str:
    return f'<script id="__NEXT_DATA__" type="application/json">{json.dumps(value)}</script>'


HIDDEN = {
    "noscript": f"<div id=root></div>{NOTE}<noscript><main>{ARTICLE}</main></noscript>",
    "json-ld": NOTE + ld({"@type": "NewsArticle", "articleBody": "\n".join(SENTENCES)}),
    "json-ld in a graph": ld({"@graph": [{"@type": "WebSite"}, {"@type": ["Article"], "articleBody": ARTICLE}]}),
    "json-ld in a comment": ld([{"articleBody": " ".join(SENTENCES)}])
    .replace('json">', 'json"><!--')
    .replace("</s", "--></s"),
    "answers": ld({"mainEntity": {"text": SENTENCES[0], "suggestedAnswer": [{"text": one} for one in SENTENCES[1:]]}}),
    "next": "<div id=__next></div>"
    + next_data({"props": {"post": {"slug": "a-b", "html": ARTICLE, "css": ".a{b:c}"}}}),
    "blocks": next_data({"props": [{"kind": "paragraph", "content": [{"text": one}]} for one in SENTENCES]}),
    "shadow": f"<my-page><template shadowrootmode=open><div>{ARTICLE}</div></template></my-page>",
    "shadow in shadow": "<a-b><template shadowrootmode=closed><c-d><template class=x ShadowRoot=open>"
    + ARTICLE
    + "</template></c-d></template></a-b>",
}


@pytest.mark.parametrize("engine", ["cascade", "lines"])
@pytest.mark.parametrize("where", HIDDEN)
def test_text_is_found_where_there_is_no_other(where, engine):
    text = page(HIDDEN[where], engine=engine)["text"]
    assert all(one in text for one in SENTENCES) and "JavaScript" not in text and "{" not in text


@pytest.mark.parametrize("where", [name for name in HIDDEN if "shadow" not in name])
def test_a_page_with_a_text_keeps_it(where):
    own = "".join(f"<p>Kapal berlayar ke pulau nomor {i} pada pagi yang cerah dan tenang sekali.</p>" for i in range(8))
    assert page(own)["text"] == page(own + HIDDEN[where])["text"] != ""


def test_what_asks_for_scripts_is_no_page():
    assert page(f"<div id=root></div>{NOTE}")["text"] == ""
    assert page(f"<div></div><template>{ARTICLE}</template>")["text"] == "", "a template is no part of the page"
    assert page(next_data({"a": "https://x.id/" + "a" * 500, "b": "x" * 400, "c": [1, None, True]}))["text"] == ""


def test_broken_data_costs_nothing():
    rng = random.Random(1)
    for where in HIDDEN.values():
        for _ in range(60):
            at = rng.randrange(len(where))
            assert isinstance(
                page(where[:at] + rng.choice(["", "<", '"', "\\", "\0", "</script>"]) + where[at + 1 :])["text"], str
            )
    assert isinstance(page(ld(1).replace("1", "[" * 100_000))["text"], str)


def growing(n: int) -> dict[str, bytes]:
    return {
        "names without a value": b"<meta " + b"a" * (200 * n) + b">",
        "many names": b"<meta " + b"a " * (100 * n) + b">",
        "spaces": b"<meta a" + b" " * (200 * n) + b">",
        "quotes": b"<meta " + b'a="' * (70 * n) + b">",
        "many tags": (b"<meta " + b"a" * 2000 + b">") * (n // 10),
        "templates": b"<template shadowrootmode=open>" * (7 * n),
        "open templates": b"<template shadowrootmode" * (7 * n),
        "noscripts": b"<noscript>" * (20 * n),
        "json": b"<script type=application/ld+json>" + b'{"text":' * (25 * n) + b"</script>",
        "scripts": b"<script type=application/json>{}</script>" * n,
        "tags in data": b'<script type=application/ld+json>{"text":"' + b"<p " * (70 * n) + b'"}</script>',
    }


@pytest.mark.parametrize("which", growing(10))
def test_time_is_linear_in_the_bytes(which):
    extract({"charset": ""}, growing(10)[which], "lines", 10**9)
    spent = []
    for n in (500, 1000, 2000, 4000):
        begin = time.process_time()
        extract({"charset": ""}, growing(n)[which], "lines", 10**9)
        spent.append(time.process_time() - begin)
    assert spent[-1] < 16 * spent[0] + 0.4, spent


def test_shadow_roots_leave_other_pages_as_they_are():
    html = b"<template><p>a</template><p>b"
    assert unseen.with_shadow_roots(html) is None
    mixed = b"<template>a</template><template shadowrootmode=open>b</template>"
    assert unseen.with_shadow_roots(mixed) == b"<template>a</template><div shadowrootmode=open>b</div>"
