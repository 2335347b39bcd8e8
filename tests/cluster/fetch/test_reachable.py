"""A host that does not answer is known in seconds, whatever its address is like; one that does is left alone."""

import socket
import time

import pytest

from cluster.fetch import reachable

NAMES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(reachable, "SECONDS", 0.2)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def open_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_what_answers_and_what_is_not_known_here_is_no_fault(open_port, monkeypatch):
    for uri in (
        f"http://127.0.0.1:{open_port}/a/b",
        f"https://127.0.0.1:{open_port}",
        "/a/folder",
        "memory://x",
        "hdfs://h/x",
    ):
        assert reachable.fault(uri) == "", uri
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{open_port}")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{open_port}")
    assert (
        reachable.fault("s3://bucket/run") == reachable.fault("s3a://bucket/run") == reachable.fault("gs://b/run") == ""
    )


def test_what_does_not_answer_is_named(closed_port, monkeypatch):
    here = f"127.0.0.1:{closed_port}"
    assert reachable.fault(f"http://{here}/a").startswith(f"{here}: Connection refused")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{here}")
    assert reachable.fault("s3://bucket/run").startswith(here)
    assert "no-such-host.invalid:443" in reachable.fault("https://no-such-host.invalid/x")


def test_a_proxy_is_asked_where_there_is_one(open_port, closed_port, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{open_port}")
    assert reachable.fault("http://no-such-host.invalid/x") == ""
    monkeypatch.setenv("http_proxy", f"127.0.0.1:{closed_port}")
    assert reachable.fault("http://no-such-host.invalid/x").startswith(f"the proxy 127.0.0.1:{closed_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert reachable.fault(f"http://127.0.0.1:{open_port}/") == ""
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    assert reachable.fault("http://no-such-host.invalid/x") == ""


def test_a_host_that_starts_late_has_some_seconds(closed_port, monkeypatch):
    servers = []
    monkeypatch.setattr(time, "sleep", lambda seconds: servers.append(socket.create_server(("127.0.0.1", closed_port))))
    assert reachable.fault(f"http://127.0.0.1:{closed_port}/") == ""
    servers[0].close()
