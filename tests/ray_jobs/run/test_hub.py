"""What a recipe names on the Hugging Face hub and cannot have is one sentence, exit code 2, within seconds."""

import http.server
import json
import socket
import threading
import time

import pytest

from ray_jobs import cli
from ray_jobs.config import reader as recipes
from ray_jobs.run import files, graph, hub, preflight
from ray_jobs.stages import crawl

ANSWERS = {"there": 200, "gone": 404, "closed": 401, "busy": 503}


@pytest.fixture(scope="module")
def server():
    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            what = self.path.rpartition("/")[2]
            self.send_response(ANSWERS.get(what, 404))  # the library asks for more than that
            if what in ("gone", "closed"):
                self.send_header("X-Error-Code", "RepoNotFound")
            body = json.dumps({"id": f"lab/{what}"}).encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture(autouse=True)
def fresh(monkeypatch, server):
    hub.fault.cache_clear()
    monkeypatch.setattr(hub, "SECONDS", 1.0)
    monkeypatch.setenv("HF_ENDPOINT", server)
    yield
    hub.fault.cache_clear()


def unreachable(kind):
    """An address where nobody listens, or where somebody does and never answers."""
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    if kind == "refused":
        listening.close()
    return address, listening


def recipe(*names, optional=False, more=()):
    sources = ", ".join(
        f"{{name: s{i}, type: hf, path: {name}, optional: {str(optional).lower()}}}" for i, name in enumerate(names)
    )
    return recipes.load("demo", [f"sources=[{sources}]", "quality={}", "cluster.engine=local", *more])


def said(asked, elsewhere=False):
    stages = graph.enabled(asked)
    return list(hub.faults(asked, stages, stages, elsewhere))


def test_what_the_hub_says(server):
    assert hub.fault("data set", "lab/there") is None and hub.fault("model", "lab/there") is None
    assert hub.fault("data set", "lab/busy") is None  # another answer may come
    for name in ("lab/gone", "lab/closed"):
        found = hub.fault("data set", name)
        assert found.gone and f"has no data set {name} for this user" in found.why
    for name in ("/no/such/folder", "./here", "a/b/c", "lab//x", "lab/a b"):
        assert hub.fault("data set", name).gone, name


@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_a_hub_that_cannot_be_reached_is_said_once_and_soon(kind, monkeypatch):
    address, listening = unreachable(kind)
    monkeypatch.setenv("HF_ENDPOINT", address)
    begin = time.monotonic()
    (sentence,) = said(recipe("lab/one", "lab/two", "lab/three"))
    assert time.monotonic() - begin < 10
    assert sentence.startswith("sources: s0: the Hugging Face hub cannot be reached for the data set lab/one (")
    assert "\n" not in sentence
    assert said(recipe("lab/one"), elsewhere=True) == []  # the cluster may reach it
    listening.close()


def test_every_key_that_names_the_hub_is_looked_at(tmp_path):
    rows = ["train.sft.instruct=hf:lab/gone:th@train", "train.dpo.preference=hf:lab/gone"]
    more = [*rows, "tokenize.tokenizer=lab/gone"]
    found = said(recipe("lab/there", "lab/gone:th", more=more))
    assert sorted(sentence.partition(": ")[0] for sentence in found) == [
        "sources", "tokenize.tokenizer", "train.dpo.preference", "train.sft.instruct",
    ]  # fmt: skip
    task = "{{name: {0}, model: lab/{0}, prompt: simplify, licence: mit}}"
    tasks = f"{task.format('gone')}, {task.format('there')}"
    (sentence,) = said(recipe("lab/there", more=[f"synthesize={{tasks: [{tasks}]}}"]))
    assert sentence.startswith("synthesize: task gone: the Hugging Face hub has no model lab/gone for this user")
    assert said(recipe("lab/gone", optional=True)) == []
    assert files.of_source(recipe("lab/gone", optional=True).sources[0]) == []
    assert files.of_source(recipe("lab/there", optional=True).sources[0]) == ["lab/there"]
    sources = recipe("lab/gone", "lab/there", optional=True).sources
    (warning,) = crawl.left_out(sources, {source.name for source in sources if files.of_source(source)})
    assert "lab/gone" in warning and "left out" in warning
    assert said(recipe(str(tmp_path))) == []  # a folder
    pairs = "{name: p, type: parallel, path: /x.tmx, sides: [en, th]}"
    more = [f"sources=[{{name: s, type: jsonl, path: /x.jsonl}}, {pairs}]", "parallel.encoder=lab/gone"]
    [sentence] = said(recipe(more=more))
    assert sentence.startswith("parallel.encoder: ")
    asked = recipe(more=[*more, f"parallel.encoder={tmp_path}"])
    assert files.patterns(asked, "parallel.encoder") == [str(tmp_path)] and said(asked) == []
    [sentence] = preflight._quality(asked, graph.enabled(asked))
    assert sentence.startswith(f"parallel.encoder: {tmp_path} is no model")


def test_the_command_says_so_before_it_starts_anything(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nsources: [{name: web, type: hf, path: lab/gone}]\ncluster: {engine: local}\n")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["run", str(path), "--run-dir", str(tmp_path / "run")])
    err = capsys.readouterr().err
    assert exit_.value.code == 2 and err.count("\n") == 1
    assert err.startswith("pinisi: sources: web: the Hugging Face hub has no data set lab/gone for this user")
    assert not (tmp_path / "run" / "crawl").exists()


def test_a_base_that_cannot_be_reached_is_not_looked_at_again(monkeypatch):
    asked = recipe("lab/there", more=["tokenize.tokenizer=lab/gone"])
    monkeypatch.setattr(preflight, "_base", lambda *_: pytest.fail("half a minute of retries"))
    stages = graph.enabled(asked)
    with pytest.raises(preflight.UserError, match=r"tokenize\.tokenizer: the Hugging Face hub has no tokenizer"):
        preflight.check(asked, "/nowhere/run", stages, stages, say=print)
