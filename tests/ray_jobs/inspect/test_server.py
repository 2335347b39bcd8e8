"""The page: who is let in, text that stays text, judgements that survive a kill, two annotators, hostile requests."""

from __future__ import annotations

import html
import http.client
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import urlencode, urlsplit

import inspected_run
import pyarrow as pa
import pytest

from cluster import storage
from ray_jobs import cli
from ray_jobs.errors import UserError
from ray_jobs.inspect import desk, judgements, queue, samples
from ray_jobs.inspect.desk import Texts
from ray_jobs.inspect.server import HEADERS, Server
from ray_jobs.report import page_text
from ray_jobs.run.graph import DEDUP, POLICY

HOSTILE = '</div><script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }}\u202eabc\x00\x1b[2J&lt;'


def corpus(n=30):
    documents = [
        {"doc_id": f"{lang}{i:03}", "lang": lang, "text": f"{HOSTILE} {lang} {i}", "fate": None}
        for lang in ("km", "en")
        for i in range(n)
    ]
    return documents + [
        {"doc_id": f"d{i}", "lang": "km", "text": f"dropped {i}", "fate": (POLICY, ["rule_of_mine_max"])}
        for i in range(9)
    ]


@pytest.fixture
def run(tmp_path):
    run = inspected_run.run_at(str(tmp_path / "run"))
    inspected_run.write(run, corpus(), 2)
    return run


@pytest.fixture
def serve(run):
    servers = []

    def start(name="a", languages=(), sample=None):
        servers.append(Server(Texts(run, sample or samples.drawn(run, 20)[0], name, languages, 20), 0))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(server, method, place, form=None, headers=None, token=None):  # noqa: PLR0917
    """(status, headers, body) of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    body = None if form is None else urlencode(form, doseq=True)
    kind = {"Content-Type": "application/x-www-form-urlencoded"} if form is not None else {}
    connection.request(method, f"/{token or server.token}/{place}", body, {**kind, **(headers or {})})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


def key_of(page):
    return re.search(r'name="key" value="([^"]+)"', page)[1]


def judge(server, label, **more):
    key = key_of(ask(server, "GET", "")[2])
    assert ask(server, "POST", "label", {"key": key, "label": label, **more})[0] == 303
    return key


def test_text_is_text_and_what_is_hidden_is_shown(serve):
    server = serve(languages=["en"])
    status, headers, page = ask(server, "GET", "")
    assert status == 200 and {k: headers[k] for k in HEADERS} == HEADERS
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    shown = re.search(r'<div class="text" lang="en" dir="auto">(.*?)</div>', page, re.DOTALL)[1]
    assert "<script" not in shown and "<img" not in shown and "49" not in shown
    assert '<b class="sign">U+202E</b>abc<b class="sign">U+0000</b><b class="sign">U+001B</b>[2J' in shown
    plain = html.unescape(re.sub(r'<b class="sign">U\+([0-9A-F]+)</b>', lambda m: chr(int(m[1], 16)), shown))
    assert plain.startswith(HOSTILE)
    outside = re.findall(r'(?:src|href|action)="([^"]*)"', page)
    assert outside and all(place.startswith(f"/{server.token}/") for place in outside)


def test_pieces_put_together_are_the_text():
    chance = random.Random(5)
    for _ in range(300):
        text = "".join(
            chr(chance.choice([*range(0x300), *range(0x1780, 0x1800), *range(0x2000, 0x2070), 0xE0001, 0x1F600]))
            for _ in range(20)
        )
        back = "".join(chr(int(p.text[2:], 16)) if p.hidden else p.text for p in page_text.pieces(text))
        assert back == text
    assert page_text.pieces("ក\u200bខ") == [("ក\u200bខ", False)]  # how Khmer ends a word


def test_blind_until_it_is_judged(serve, run):
    """No page of a text says which side it is on: pages of kept and dropped texts differ in text and key alone."""
    server = serve(languages=["km"])
    seen = set()
    while 'id="judge"' in (page := ask(server, "GET", "")[2]):
        before = page.partition('<form class="last"')[0]
        key = key_of(page)
        seen.add(key)
        for word in ("kept", "dropped by", "rule_of_mine", "x.example", POLICY, DEDUP):
            assert word not in before, word
        assert ask(server, "POST", "label", {"key": key, "label": "CC"})[0] == 303
        after = ask(server, "GET", "")[2]
        fate = (
            "dropped by filter/policy for rule_of_mine_max 0.1 (bound 0.2)" if key.startswith("d") else "kept by dedup"
        )
        assert fate in after and "https://x.example/" in after
    assert seen == {key for key, row in server.desk.rows.items() if row["lang"] == "km"} and "Nothing is left" in page


def test_only_this_machine_and_only_with_the_token(serve):
    server = serve()
    port = server.server_address[1]
    assert ask(server, "GET", "", token="wrong")[0] == 404
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "",
        "[::1",
        "@localhost:x@evil",
    ):
        assert ask(server, "GET", "", headers={"Host": host})[0] == 403, host
        assert ask(server, "POST", "label", {"key": "x", "label": "CC"}, {"Host": host})[0] == 403, host
    for host in (f"localhost:{port}", "localhost:9000", "127.0.0.1", f"[::1]:{port}"):  # also through ssh -L
        assert ask(server, "GET", "", headers={"Host": host})[0] == 200, host
    for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
        assert ask(server, "POST", "label", {"key": "x", "label": "CC"}, {"Origin": origin})[0] == 403, origin
    assert ask(server, "GET", "", headers={"Origin": f"http://localhost:{port}"})[0] == 200
    assert server.server_address[0] == "127.0.0.1"


def test_what_no_page_sends_is_refused_and_changes_nothing(serve, run):
    server = serve()
    key = next(iter(server.desk.rows))
    good = {"key": key, "label": "CC"}
    for form in ({**good, "label": "XX"}, {**good, "key": "nothing"}, {**good, "flags": "evil"}, {}, {"key": key}):
        status, _, said = ask(server, "POST", "label", form)
        assert status == 400 and said
    for place in ("../../etc/passwd", "inspect.html", "item/nothing", "item/", "x", "scores/x", "%2e%2e/"):
        assert ask(server, "GET", place)[0] == 404, place
    assert ask(server, "POST", "scores", {})[0] == 404 and ask(server, "PUT", "label", good)[0] == 501
    assert ask(server, "POST", "label", {**good, "note": "x" * 70_000})[0] == 413
    for size in ("-1", "x", "²", "99999999999999999999"):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        connection.putrequest("POST", f"/{server.token}/label")
        connection.putheader("Content-Length", size.encode())
        connection.endheaders()
        assert connection.getresponse().status in (411, 413), size
    assert ask(server, "POST", "undo", {"key": "nothing"})[0] == 303
    assert not storage.exists(server.desk.file)
    assert ask(server, "GET", "")[0] == 200


def test_progress_undo_revision_and_resume(serve, run):
    server = serve("a")
    total = len(server.desk.rows)
    first = judge(server, "WL", note="ចំណាំ <b>", flags=["porn", "personal"])
    second = judge(server, "CC")
    assert f"2 of {total} judged by a" in ask(server, "GET", "")[2]
    status, headers, _ = ask(server, "POST", "undo", {"key": second})
    assert status == 303 and headers["Location"].endswith(f"/item/{second}")
    assert key_of(ask(server, "GET", f"item/{second}")[2]) == second
    page = ask(server, "GET", f"item/{first}")[2]
    assert 'value="WL" data-key="4" class="now"' in page and "ចំណាំ &lt;b&gt;" in page
    assert re.findall(r'value="(\w+)" data-key="\w" checked', page) == ["porn", "personal"]
    assert ask(server, "POST", "label", {"key": first, "label": "NL"})[0] == 303
    again = serve("a")  # after a kill
    assert {k: row["label"] for k, row in again.desk.said.items()} == {first: "NL"}
    assert f"1 of {total} judged by a" in ask(again, "GET", "")[2]
    assert "kept by" in ask(again, "GET", "")[2]  # the last one, of before


def test_two_annotators_at_once_lose_nothing_and_share_a_fifth(serve, run, monkeypatch):
    monkeypatch.setattr(desk, "OTHERS_SECONDS", 0.0)
    servers = [serve("a"), serve("ខ្ញុំ")]

    def work(server):
        while 'id="judge"' in ask(server, "GET", "")[2]:
            try:
                judge(server, "CC")
            except TypeError:  # the last one was judged by the other in between
                continue

    threads = [threading.Thread(target=work, args=(server,)) for server in servers]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    found = judgements.everybody(run.uri)
    mine, others = found["a"].keys(), found["ខ្ញុំ"].keys()
    keys = servers[0].desk.rows.keys()
    assert mine | others == keys
    assert {key for key in keys if queue.shared(key)} <= mine & others
    assert len(mine & others) <= sum(map(queue.shared, keys)) + 5  # those that both had open at the same time


def test_the_order_is_that_of_chance_with_what_is_shared_spread():
    keys = [f"{i:05}" for i in range(5000)]
    one, two = queue.order(keys, "a"), queue.order(keys, "b")
    assert sorted(one) == keys and one != two
    shares = [sum(map(queue.shared, one[i : i + 500])) / 500 for i in range(0, 5000, 500)]
    assert all(abs(share - 0.2) < 0.02 for share in shares)
    assert [k for k in one if queue.shared(k)] == [k for k in two if queue.shared(k)]
    assert queue.waiting(one, {one[0]: 1}, set(one[1:])) == [k for k in one[1:] if queue.shared(k)]


def test_killed_between_two_keys_it_has_all_that_was_answered(run):
    command = [
        sys.executable,
        "-m",
        "ray_jobs.cli",
        "inspect",
        run.uri,
        "--port",
        "0",
        "--as",
        "a",
        "--per-layer",
        "20",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    address = urlsplit(process.stdout.readline().split()[-1])
    connection = http.client.HTTPConnection("localhost", address.port, timeout=30)
    connection.request("GET", address.path)
    key = key_of(connection.getresponse().read().decode())
    connection.request("POST", f"{address.path}label", urlencode({"key": key, "label": "CS"}))
    assert connection.getresponse().status == 303
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert {k: row["label"] for k, row in judgements.read(judgements.file(run.uri, "a")).items()} == {key: "CS"}


def test_a_full_disk_is_said_and_not_taken_for_saved(serve, monkeypatch):
    server = serve()
    key = next(iter(server.desk.rows))
    monkeypatch.setattr(judgements, "append", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    status, _, said = ask(server, "POST", "label", {"key": key, "label": "CC"})
    assert status == 507 and "No space left" in said and server.desk.said == {}


def test_a_page_comes_at_once(serve, run):
    """12,000 texts of 20,000 characters, half of them judged by others: a page takes under 200 ms of this process."""
    same = {"lang": "km", "layer": DEDUP, "side": "kept", "why": "", "chars": 30_000, "text": "ភាសាខ្មែរ " * 2000}
    rows = [{**dict.fromkeys(samples.SCHEMA.names), **same, "key": f"k{i}-0"} for i in range(12_000)]
    server = serve(sample=pa.Table.from_pylist(rows, samples.SCHEMA))
    for i in range(0, 12_000, 2):
        server.desk._others.add(f"k{i}-0")
    server.desk._read_at = time.monotonic() + 1000
    began = time.process_time()
    for _ in range(5):
        server.desk.page(None)
        ask(server, "GET", "")
    assert (time.process_time() - began) / 5 < 0.4  # the desk twice, the page once


def test_errors_are_one_sentence(run, capsys, monkeypatch):
    for words, said in [
        (["--languages", "km,xx"], "--languages xx: the sample has no text in it; it has en, km"),
        (["--as", "../x"], "--as '../x'"),
        (["--per-layer", "0"], "--per-layer 0: must be at least 1"),
        (["--json"], "--json goes with --scores"),
        (["--port", "70000"], "--port 70000: must be from 0 to 65535"),
    ]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["inspect", run.uri, *words])
        assert ended.value.code == 2 and said in capsys.readouterr().err
    texts = Texts(run, samples.drawn(run, 20)[0], "a", [], 20)
    with Server(texts, 0) as server, pytest.raises(UserError, match="Address already in use; give another one"):
        Server(texts, server.server_address[1])
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", run.uri, "--scores"])
    assert ended.value.code == 0 and "nothing has been judged yet" in capsys.readouterr().out


def test_scores_on_the_page_and_in_the_terminal(serve, run, capsys):
    server = serve(languages=["km"])
    for _ in range(12):
        judge(server, "WL")
    page = ask(server, "GET", "scores")[2]
    assert "Noise after each layer" in page and "Khmer (km)" in page and "100 %" in page
    with pytest.raises(SystemExit):
        cli.main(["inspect", run.uri, "--scores", "--per-layer", "20"])
    out = capsys.readouterr().out
    assert "Noise after each layer" in out and "Khmer" in out
