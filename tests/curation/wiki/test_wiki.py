import bz2
import random
from xml.sax.saxutils import escape

import pytest

from curation.schema import RAW, Limits
from curation.wiki.dump import read_wiki
from curation.wiki.wikitext import extract

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="th">
  <siteinfo><sitename>วิกิพีเดีย</sitename><dbname>thwiki</dbname>
    <base>https://th.wikipedia.org/wiki/%E0%B8%AB%E0%B8%99%E0%B9%89%E0%B8%B2%E0%B8%AB%E0%B8%A5%E0%B8%B1%E0%B8%81</base>
    <namespaces><namespace key="0" case="first-letter" /><namespace key="6" case="first-letter">ไฟล์</namespace>
    <namespace key="14" case="first-letter">หมวดหมู่</namespace></namespaces></siteinfo>
"""
TEXT = "'''กรุงเทพ''' คือ[[เมืองหลวง|นครหลวง]]ของ[[ประเทศไทย]]<ref>x</ref>"


def page(title, text, number=1, ns=0, *, more="", model="wikitext"):
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n    <ns>{ns}</ns>\n    <id>{number}</id>\n{more}"
        f"    <revision>\n      <id>9</id>\n      <timestamp>2024-05-01T01:02:03Z</timestamp>\n      <contributor><id>5</id>"
        f'</contributor>\n      <model>{model}</model>\n      <text bytes="1">{escape(text)}</text>\n'
        "    </revision>\n  </page>\n"
    )


PAGES = [
    page("กรุงเทพ & A", TEXT),
    page("กทม.", "#เปลี่ยนทาง [[กรุงเทพ]]", 2, more='    <redirect title="กรุงเทพ" />\n'),
    page("พูดคุย:กรุงเทพ", "สวัสดี", 3, ns=1),
    page("Module:X", "return 1", 4, model="Scribunto"),
    page("เชียงใหม่", "เมืองเหนือ", 5),
]
RULES = ["redirect", "namespace", "not_wikitext"]


def read(path, **options):
    pages, drops = [], []
    for kept, ledger in read_wiki(str(path), source="wiki", **options):
        assert kept.schema == RAW
        pages += kept.to_pylist()
        drops += ledger.to_pylist()
    return pages, drops


def test_pages_of_a_dump(tmp_path):
    whole = HEAD + "".join(PAGES) + "</mediawiki>\n"
    (tmp_path / "a.xml").write_text(whole)
    multistream = [
        bz2.compress(part.encode()) for part in (HEAD, PAGES[0] + PAGES[1], "".join(PAGES[2:]), "</mediawiki>")
    ]
    (tmp_path / "a.xml.bz2").write_bytes(b"".join(multistream))
    for name in ("a.xml", "a.xml.bz2"):
        pages, drops = read(tmp_path / name)
        assert [row["rule"] for row in drops] == RULES and drops[0]["detail"] == "กรุงเทพ"
        first, second = pages
        assert first["url"] == (
            "https://th.wikipedia.org/wiki/%E0%B8%81%E0%B8%A3%E0%B8%B8%E0%B8%87%E0%B9%80%E0%B8%97%E0%B8%9E_%26_A"
        )
        assert (first["title"], first["lang_hint"], first["published"]) == ("กรุงเทพ & A", "th", "2024-05-01")
        assert first["payload"].decode() == TEXT and first["source_id"] == "thwiki:1"
        assert first["content_type"] == "text/x-wiki; file=ไฟล์; category=หมวดหมู่"
        assert second["source_id"] == "thwiki:5"
    assert [one["source_id"] for one in read(tmp_path / "a.xml", namespaces=(1,), language="lo")[0]] == ["thwiki:3"]


def test_the_last_revision_of_a_history_and_pages_that_are_too_large(tmp_path):
    revision = page("A", "new").partition("<revision>")[2]
    (tmp_path / "h.xml").write_text(
        HEAD
        + page("A", "old")
        .replace("</revision>", f"</revision><revision>{revision}", 1)
        .replace("  </page>\n  </page>", "  </page>")
    )
    assert [one["payload"] for one in read(tmp_path / "h.xml")[0]] == [b"new"]
    (tmp_path / "l.xml").write_text(HEAD + page("L", "x" * 2_000_000) + page("M", "y" * 30_000, 2) + PAGES[4])
    pages, drops = read(tmp_path / "l.xml", limits=Limits(max_record_bytes=20_000))
    assert [one["source_id"] for one in pages] == ["thwiki:5"]
    rows = [(row["rule"], row["value"] >= 30_000, row["url"][-2:]) for row in drops]
    assert rows == [("record_too_large", True, "/L"), ("record_too_large", True, "/M")]


def test_damage_costs_rows_and_never_the_run(tmp_path):
    noise = random.Random(3)
    whole = (HEAD + "".join(PAGES) * 3 + "</mediawiki>").encode()
    for kind in (whole, bz2.compress(whole), b""):
        for _ in range(60):
            data = bytearray(kind[: noise.randrange(len(kind) + 1)] if noise.random() < 0.5 else kind)
            for _ in range(noise.randrange(8) if data else 0):
                data[noise.randrange(len(data))] = noise.randrange(256)
            (tmp_path / "d.xml").write_bytes(data)
            pages, drops = read(tmp_path / "d.xml")
            assert pages or drops
    cut = (HEAD + PAGES[0] + PAGES[4].replace("</text>", "</txt>") + PAGES[4] + PAGES[0][:60]).encode()
    (tmp_path / "d.xml").write_bytes(cut)
    pages, drops = read(tmp_path / "d.xml")
    assert len(pages) == 2 and [row["rule"] for row in drops] == ["bad_record", "bad_record"]
    missing = (HEAD + PAGES[0].replace("</page>", "") + PAGES[4]).encode()
    (tmp_path / "d.xml").write_bytes(missing)
    pages, drops = read(tmp_path / "d.xml")
    assert len(pages) == 1 and "without an end" in drops[0]["detail"]


def text_of(wikitext, markup=""):
    kind = "text/x-wiki; file=ไฟล์; category=หมวดหมู่"
    return extract({"type": kind}, wikitext.encode(), **({"markup": markup} if markup else {}))["text"]


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        (TEXT, "กรุงเทพ คือนครหลวงของประเทศไทย"),
        ("{{Infobox|a={{b|{{c}}}}}}\nIsi.<!-- x --> __NOTOC__", "Isi."),
        ("Sebelum.\n{| class=\"wikitable\"\n! A !! B\n|-\n| 1 || {{x}} 2\n|}\nSesudah.", "Sebelum.\n\nSesudah."),
        ("[[ไฟล์:a.jpg|thumb|ภาพ [[x]] หนึ่ง]]ก [[File:b.png]][[หมวดหมู่:ข]][[Category:C]]\n[[en:Bangkok]]", "ก"),
        ("ดู [[:หมวดหมู่:ข]] และ [[:en:Bangkok]] กับ [[w#a|ข]]", "ดู หมวดหมู่:ข และ en:Bangkok กับ ข"),
        ("Luas <math>\\pi r^2</math> dan&nbsp;{{convert|5|km|mi}} ({{IPA|x}}, {{lang|fr|la vie}}).",
         "Luas $\\pi r^2$ dan\u00a05 km (la vie)."),
        ("A ({{lang-th|กขค}}; {{IPA|x}}) B ({{audio|x}}) C.", "A (กขค) B C."),
        ("{{nowrap|10 000}} {{unknown|words}}orang", "10 000 orang"),
        ("* satu\n* dua [http://x.org tautan]\n# tiga\n* [http://y.org]", "satu\ndua tautan\ntiga"),
        ("Awal\n== Judul ==\nIsi\n=== Kosong ===\n== Referensi ==\n<references/>\n* [http://x y]", "Awal\n\nJudul\n\nIsi"),
        ("<gallery>\nA.jpg|b\n</gallery><nowiki>[[x]]</nowiki> <code>a &lt; b</code>", "[[x]] a < b"),
        ("北-{zh-hans:京;zh-hant:平}-市<ref name=\"a\" />。", "北京市。"),
        ("<div style=\"x\">Dalam</div> luar<br/>baru", "Dalam\n\nluar\nbaru"),
        ("<ref>never closed\n\nIsi yang tetap.", None),
        ("{{" * 200 + "[[" * 200 + "'''" * 99, None),
    ],
)  # fmt: skip
def test_wikitext(wikitext, text):
    assert text is None or text_of(wikitext) == text
    assert not set(text_of(wikitext)) & set("\x01\x02\x03\x04")


def test_structure_as_markdown():
    assert text_of("== A ==\n* a\n** b\n# c", "markdown") == "## A\n\n- a\n  - b\n1. c"
