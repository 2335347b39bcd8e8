"""The report and the status page in a browser: no script, no request, nothing wider than a phone, dark on a dark system."""

from __future__ import annotations

import chromium
import pytest
import reported_run

from cluster import storage
from ray_jobs.commands import status
from ray_jobs.config import reader as recipes
from ray_jobs.report import page
from ray_jobs.run.graph import DEDUP, LANGUAGE, POLICY, SIGNALS, TOKENIZE
from ray_jobs.run.run import Run

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium on this machine")
STAGES = ["crawl", LANGUAGE, SIGNALS, POLICY, DEDUP, TOKENIZE]
WIDER = """[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1
  && !e.closest('.scroll, .plot, table, svg')).map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    docs = reported_run.documents(400)
    for doc in docs[::7]:
        doc["text"] = (
            "<script>document.title = 'owned'</script><img src='https://elsewhere.example/x.png'>" + doc["text"]
        )
        doc["url"] = f"https://{'long-name-' * 30}.example/{doc['doc_id']}"
    reported_run.write(str(folder), docs, 3)
    source = {"name": "web", "type": "jsonl", "path": "/nothing/web.jsonl", "optional": True}
    recipe = recipes.parse({"name": "tiny", "languages": ["km", "en", "lo"], "sources": [source]}, "test")
    storage.write_text(f"{folder}/recipe.yaml", recipes.resolved(recipe))
    report, run = page.written(str(folder), recipe, STAGES), Run(str(folder), recipe)
    for manifest in storage.glob(f"{folder}/**/_manifest.json"):
        one = storage.read_json(manifest)
        storage.write_json(
            manifest, {**one, "hosts": ["elsewhere"], "config": {}, "inputs": {}, "code": "", "warnings": []}
        )
    status.write_page(run, status.rows(run), f"{folder}/status.html")
    return [report, f"{folder}/status.html"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = chromium.Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


@pytest.mark.parametrize("width", [380, 1280])
@pytest.mark.parametrize("number", [0, 1])
def test_it_is_read_on_any_screen(pages, browser, width, number):
    browser.said.clear()
    browser.size(width, 900, phone=width < 500)
    grounds = {}
    for mode in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": mode}])
        browser.open(f"file://{pages[number]}")
        browser.value("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value(WIDER) == []
        grounds[mode] = browser.value("getComputedStyle(document.body).backgroundColor")
    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}
    assert browser.value("document.title") != "owned" and browser.value("document.scripts.length") == 0
    asked = [said for said in browser.problems() if not said.startswith(("file:///", "data:"))]
    assert asked == []


def test_each_script_has_a_font_of_its_own(pages, browser):
    browser.open(f"file://{pages[0]}")
    fonts = browser.value(
        "Object.fromEntries([...document.querySelectorAll('.said')].map(e => [e.lang, getComputedStyle(e).fontFamily]))"
    )
    assert "Khmer" in fonts["km"] and "Khmer" not in fonts["en"]
