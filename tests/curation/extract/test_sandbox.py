"""The worker process: results belong to the items of the call that asked."""

import sys

import pytest

from curation.extract.sandbox import Sandbox

OPTIONS = {"engine": "lines", "max_nodes": 1000}


def items(words: str) -> list[tuple[dict, bytes]]:
    return [({"charset": ""}, f"<p>{word} {word} {word}.</p>".encode()) for word in words.split()]


@pytest.fixture
def sandbox():
    sandbox = Sandbox("curation.extract.page:extract", OPTIONS, 10.0, 3_500_000_000)
    yield sandbox
    sandbox.close()


def test_a_caller_that_stops_halfway_leaves_nothing_for_the_next(sandbox):
    """A task that is cancelled leaves its worker process behind; the next page must not get the text of another."""
    results = sandbox.map(items("satu dua tiga empat"))
    assert next(results)["text"] == "satu satu satu."
    results.close()
    assert [page["text"] for page in sandbox.map(items("lima enam"))] == ["lima lima lima.", "enam enam enam."]
    with pytest.raises(KeyboardInterrupt):
        for _ in sandbox.map(items("tujuh delapan sembilan")):
            raise KeyboardInterrupt
    assert [page["text"] for page in sandbox.map(items("sepuluh"))] == ["sepuluh sepuluh sepuluh."]


def test_one_worker_serves_call_after_call(sandbox):
    first = list(sandbox.map(items("satu dua")))
    process = sandbox._process
    assert list(sandbox.map(items("satu dua"))) == first and sandbox._process is process
    sandbox.close()
    assert process.poll() is not None and list(sandbox.map(items("satu dua"))) == first


def test_a_file_of_the_user_does_not_stand_in_for_the_standard_library(sandbox, tmp_path, monkeypatch):
    for name in ("types", "json", "signal"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('a file of the user')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert [page["text"] for page in sandbox.map(items("satu"))] == ["satu satu satu."]
