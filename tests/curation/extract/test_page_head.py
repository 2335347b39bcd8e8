import pytest

from curation.extract.page import extract

TEXT = "<p>" + "Kapal berlayar dari pelabuhan kecil pada pagi hari, dan kembali pada malam hari. " * 3


def page(head: str = "", body: str = TEXT, html: str = "<html>") -> dict:
    return extract({"charset": ""}, f"<!doctype html>{html}<head>{head}</head><body>{body}".encode(), "lines", 1000)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ('<meta property="article:published_time" content="2019-11-20T08:15:00+07:00">', "2019-11-20"),
        ("<meta content='2019/3/07' name=date>", ""),
        ("<meta content='2019/03/07' name=DATE>", "2019-03-07"),
        ("<meta name=citation_publication_date content=20240131>", "2024-01-31"),
        ("<meta itemprop=datePublished content='Wed, 20 Nov 2019 10:00:00 GMT'>", "2019-11-20"),
        ("<meta name=pubdate content='November 2nd, 2003'>", "2003-11-02"),
        ("<meta name=date content='2019-02-30'>", ""),
        ("<meta name=date content='next week'>", ""),
        ("<meta name=date content=''><meta name=dc.date content=2001-01-01>", "2001-01-01"),
        (
            '<script type="application/ld+json">{"@type":"Article", "datePublished" : "2020-05-06T00:00Z"}</script>',
            "2020-05-06",
        ),
        ("", ""),
    ],
)
def test_published(head, expected):
    assert page(head)["published"] == expected


def test_time_elements_come_last_and_the_named_one_first():
    times = "<time datetime=2001-01-01>then</time><time itemprop=datePublished datetime=2002-02-02>now</time>"
    assert page(body=times + TEXT)["published"] == "2002-02-02"
    assert page("<meta name=date content=2003-03-03>", times + TEXT)["published"] == "2003-03-03"


def test_title():
    assert page("<title> Satu &amp;\n dua </title>")["title"] == "Satu & dua"
    assert page(body="<svg><title>icon</title></svg><h1>Judul <b>utama</b></h1>" + TEXT)["title"] == "Judul utama"
    assert page("<meta property=og:title content='Judul &quot;OG&quot;'>")["title"] == 'Judul "OG"'
    assert page()["title"] == ""
    assert len(page(f"<title>{'x' * 2000}</title>")["title"]) == 500


@pytest.mark.parametrize(
    ("html", "head", "body", "expected"),
    [
        ("<html lang=ID>", "", TEXT, "id"),
        ("<html xml:lang='zh_Hans-CN'>", "", TEXT, "zh-hans-cn"),
        ("<html lang=en>", "", f"<div lang=th>{TEXT}</div>", "th"),
        ("<html lang=en>", "", f"<div lang=ms><article lang=jv>{TEXT}</article></div>", "jv"),
        ("<html lang=en>", "", f"<article><div lang=su>{TEXT}</div><p lang=fr>Bonjour</p></article>", "su"),
        ("<html lang=en>", "", f"<article>{TEXT}<p lang=fr>Bonjour</p></article>", "en"),
        ("<html lang=en>", "", f"<nav lang=fr>Menu</nav><main>{TEXT}</main>", "en"),
        ("<html>", "<meta http-equiv=Content-Language content='km, en'>", TEXT, "km"),
        ("<html>", "<meta property=og:locale content=lo_LA>", TEXT, "lo-la"),
        ("<html lang='{{ lang }}'>", "<meta property=og:locale content=my_MM>", TEXT, "my-mm"),
        ("<html lang=''>", "", TEXT, ""),
    ],
)
def test_language(html, head, body, expected):
    assert page(head, body, html)["lang"] == expected
