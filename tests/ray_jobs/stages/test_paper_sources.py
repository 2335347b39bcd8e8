"""Sources of type pdf, wiki and subtitles become documents of the extract stage, and what does not is in a ledger."""

import bz2

import pytest
from fpdf import FPDF
from PIL import Image

from cluster import storage
from cluster.shards import Shard
from curation.extract.extractor import Extractor
from ray_jobs.commoncrawl.blocks import Lists
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.stages import crawl, extract

WIKI = """<mediawiki xml:lang="th"><siteinfo><dbname>thwiki</dbname><base>https://th.wikipedia.org/wiki/A</base></siteinfo>
<page><title>ก</title><ns>0</ns><id>1</id><revision><text>'''ก''' คือ[[ข|ค]]{{ง}}</text></revision></page>
<page><title>ข</title><ns>0</ns><id>2</id><redirect title="ก"/><revision><text>x</text></revision></page></mediawiki>"""
SRT = "1\n00:00:01,000 --> 00:00:02,000\n<i>Selamat pagi.</i>\n"


def pdf(*pages):
    made = FPDF(unit="pt", format=(300, 300))
    for text in pages:
        made.add_page()
        made.set_font("Times", size=12)
        if text:
            made.text(20, 150, text)
        else:
            made.image(Image.effect_noise((40, 40), 90), 0, 0, 300, 300)
    return bytes(made.output())


def recipe_of(folder, **more):
    kinds = {"pdf": "*.pdf", "wiki": "*.bz2", "subtitles": "*.srt"}
    sources = [{"name": kind, "type": kind, "path": f"{folder}/{glob}"} for kind, glob in kinds.items()]
    sources[2]["language"] = "id"
    return recipes.parse({"name": "papers", "sources": sources, **more}, "test")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("papers")
    (folder / "a.pdf").write_bytes(pdf("Halaman satu dari dokumen ini.", None))
    (folder / "b.pdf").write_bytes(pdf(None, None))
    (folder / "w.xml.bz2").write_bytes(bz2.compress(WIKI.encode()))
    (folder / "f.srt").write_text(SRT)
    recipe, run = recipe_of(folder), str(folder / "run")
    kernel, markers = Extractor(), []
    for source in recipe.sources:
        for number, group in enumerate(crawl._groups(source)):
            name = f"part-{source.name}{number}"
            read = Shard(name, group[0], f"{run}/crawl", f"{run}/dropped/crawl", "1")
            crawl._read((run, source, recipe.crawl, Lists(), group, read))
            shard = Shard(name, read.part, f"{run}/extract", f"{run}/dropped/extract", "1")
            markers.append(extract._run_one((lambda: kernel, (), shard)))
    kernel.close()
    names = ("extract", "dropped/crawl", "dropped/extract")
    return markers, {name: storage.read_table(f"{run}/{name}").to_pylist() for name in names}


def test_documents_and_ledgers(results):
    markers, tables = results
    found = {row["source"]: row for row in tables["extract"]}
    assert {name: row["text"] for name, row in found.items()} == {
        "pdf": "Halaman satu dari dokumen ini.",
        "wiki": "ก คือค",
        "subtitles": "Selamat pagi.",
    }
    assert (found["wiki"]["url"], found["wiki"]["title"]) == ("https://th.wikipedia.org/wiki/%E0%B8%81", "ก")
    assert [found[name]["lang_hint"] for name in ("pdf", "wiki", "subtitles")] == ["", "th", "id"]
    assert found["pdf"]["truncated"] == "scanned: 1 of 2 pages"
    assert [row["rule"] for row in tables["dropped/crawl"]] == ["redirect"]
    assert [(row["rule"], row["value"]) for row in tables["dropped/extract"]] == [("scanned", 2.0)]
    assert sum(marker["scanned"] for marker in markers) == 3


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"type": "warc", "language": "id"}, "`language` is for sources of type subtitles, wiki, pdf"),
        ({"type": "pdf", "namespaces": [1]}, "`namespaces` is for sources of type wiki"),
        ({"type": "subtitles", "window_lines": 10, "step_lines": 11}, "`step_lines` above `window_lines`"),
    ],
)
def test_keys_of_another_type_are_refused(source, said):
    with pytest.raises(UserError, match=said):
        recipes.parse({"name": "x", "sources": [{"name": "a", "path": "/x", **source}]}, "test")
