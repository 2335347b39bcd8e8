"""The page in a headless Chromium: keys, a phone, a server that is gone, no scripts, text that wants to be a page."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import chromium
import inspected_run
import pytest

from ray_jobs.inspect import judgements, samples
from ray_jobs.inspect.desk import Texts
from ray_jobs.inspect.server import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium is installed: apt-get install chromium"),
]

HOSTILE = (
    '<script>document.title = "mine"</script><img src="https://evil.example/x.png" onerror="document.title = 1">\u202e'
)


@pytest.fixture(scope="module")
def browser():
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        one = chromium.Browser(Path(folder))
        yield one
        one.close()


@pytest.fixture
def server(tmp_path, browser):
    run = inspected_run.run_at(str(tmp_path / "run"))
    documents = [
        {"doc_id": f"km{i}", "lang": "km", "text": f"{HOSTILE}\nភាសាខ្មែរ {i} " + "ខ" * 3000, "fate": None}
        for i in range(12)
    ]
    inspected_run.write(run, documents)
    with Server(Texts(run, samples.drawn(run, 20)[0], "a", [], 20), 0) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        browser.said.clear()
        browser.size(1280, 800)
        browser.open(one.address)
        yield one
        one.shutdown()


def after(browser, n):
    """Wait for the page on which `n` are judged."""
    browser.wait(
        f"!!document.querySelector('.progress')?.innerText.startsWith('{n} of ') && document.readyState == 'complete'"
    )


def said(server):
    return [row["label"] for row in judgements.read(server.desk.file).values()]


def test_one_key_a_label(server, browser):
    keys = [("1", "Digit1"), ("4", "Digit4"), ("0", "Digit0"), ("៥", "Digit5"), ("2", "Numpad2")]
    for number, (key, code) in enumerate(keys, 1):
        browser.press(key, code)  # the fourth is what a Khmer keyboard writes there
        after(browser, number)
    assert said(server) == ["CC", "WL", "unsure", "NL", "CB"]
    browser.press("z", "KeyZ")
    after(browser, 4)
    browser.press("x", "KeyX")
    browser.press("n", "KeyN")
    for letter in "1 o ":  # in the note they are letters
        browser.press(letter)
    browser.press("Enter", "Enter")
    assert said(server) == ["CC", "WL", "unsure", "NL"]
    browser.press("3", "Digit3")
    after(browser, 5)
    last = list(judgements.read(server.desk.file).values())[-1]
    assert (last["label"], last["flags"], last["note"].strip()) == ("CS", ["porn"], "1 o")
    browser.press("b", "KeyB")
    browser.wait("location.pathname.includes('/item/') && document.readyState == 'complete'")
    assert browser.value("document.querySelector('button.now').value") == "CS"
    assert browser.problems() == []


def test_text_is_text_and_nothing_comes_from_elsewhere(server, browser):
    assert browser.value("document.title") == "Khmer · Pinisi inspect"
    text = browser.value("document.querySelector('.text').innerText")
    assert text.startswith(HOSTILE[:-1] + "U+202E")
    assert browser.value("document.querySelectorAll('.text img, .text script').length") == 0
    assert browser.value("document.querySelector('.text').lang") == "km"
    assert "Noto Sans Khmer" in browser.value("getComputedStyle(document.querySelector('.text')).fontFamily")
    assert browser.problems() == []
    browser.call("Runtime.evaluate", expression="eval('1')")  # the policy forbids it, and the test would see it if not
    browser.value("fetch('https://evil.example/').catch(() => 0), 1")
    browser.wait("true")
    assert any("evil.example" in one or "ContentSecurityPolicy" in one for one in browser.problems())


def test_a_phone(server, browser):
    browser.size(375, 667, phone=True)
    browser.open(server.address)
    assert browser.value("document.documentElement.scrollWidth") == 375
    places = "[...document.querySelectorAll('button[name=label]')].map(b => [b.getBoundingClientRect().bottom, b.offsetHeight])"
    labels = browser.value(places)
    assert len(labels) == 6 and all(
        bottom <= 667 and height >= 44 for bottom, height in labels
    )  # under a thumb, no scrolling
    browser.click("button[value=WL]")
    after(browser, 1)
    assert said(server) == ["WL"]


def test_what_could_not_be_saved_stays_on_the_page(server, browser, monkeypatch):
    key = browser.value("document.querySelector('input[name=key]').value")
    monkeypatch.setattr(judgements, "append", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    browser.press("1", "Digit1")
    browser.wait("!document.getElementById('failed').hidden")
    assert "No space left" in browser.value("document.getElementById('failed').innerText")
    monkeypatch.undo()
    server.shutdown()
    server.server_close()  # as after a kill
    browser.press("1", "Digit1")
    browser.wait("document.getElementById('failed').innerText.includes('still running')")
    assert browser.value("document.querySelector('input[name=key]').value") == key and said(server) == []
    again = Server(server.desk, server.server_address[1])
    again.token = server.token
    threading.Thread(target=again.serve_forever, daemon=True).start()
    browser.press("1", "Digit1")
    after(browser, 1)
    again.shutdown()
    again.server_close()
    assert said(server) == ["CC"]


def test_a_note_is_still_there_when_the_page_is_opened_again(server, browser):
    browser.press("n", "KeyN")
    for letter in "abc":
        browser.press(letter)
    browser.open(server.address)
    assert browser.value("document.querySelector('[data-note]').value") == "abc"


def test_without_scripts_it_is_a_form(server, browser):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(server.address)
        browser.click("button[value=NL]")
        after(browser, 1)
        browser.click(".last button")
        browser.wait("location.pathname.includes('/item/')")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert said(server) == []
