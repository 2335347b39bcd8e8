"""Which cluster `--address` joins, and that a refusal is one sentence, at once; the servers are stand-ins for Ray's."""

import secrets
import socket
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest

from cluster.engines import embedded, join


@pytest.fixture(autouse=True)
def clean(tmp_path):
    nothing = dict.fromkeys(("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    with embedded.environment(**nothing, HOME=str(tmp_path), RAY_TMPDIR=str(tmp_path)):
        yield


@pytest.fixture
def file(tmp_path):
    """Ray's address file, as `ray start` would write it."""
    (tmp_path / "ray").mkdir()
    assert join.address_file() == tmp_path / "ray" / "ray_current_cluster"
    return join.address_file()


@pytest.fixture
def joined(monkeypatch):
    """The addresses that Ray was asked to join; it has three nodes."""
    import ray

    asked = []
    monkeypatch.setattr(ray, "init", lambda address, **options: asked.append(address))
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * 3 + [{"Alive": False}])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1280.0, "GPU": 1.0, "memory": 7.0})
    return asked


@pytest.fixture
def head():
    """`head(token, client=False)`: the port of a server that answers the call of a head, or of Ray's client server."""
    servers = []

    def start(token, client=False):
        method = "/ray.rpc.RayletDriver/ClusterInfo" if client else "/ray.rpc.NodeInfoGcsService/CheckAlive"

        def answer(request, context):
            if token and ("authorization", f"Bearer {token}") not in context.invocation_metadata():
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        class Handlers(grpc.GenericRpcHandler):
            def service(self, details):
                return grpc.unary_unary_rpc_method_handler(answer) if details.method == method else None

        servers.append(grpc.server(futures.ThreadPoolExecutor(2), handlers=[Handlers()]))
        port = servers[-1].add_insecure_port("127.0.0.1:0")
        servers[-1].start()
        return port

    yield start
    for server in servers:
        server.stop(None)


def refused(address, *words):
    begin = time.monotonic()
    with pytest.raises(ValueError) as error:
        join.join(address)
    assert time.monotonic() - begin < 10
    text = str(error.value)
    assert text.startswith(f"--address {address}") and "\n" not in text
    for word in words:
        assert word in text
    return text


@pytest.mark.parametrize("address", ["head", "head:", "head:port", "local", "ray://head", "10.0.0.1", ":6379", ""])
def test_what_is_no_address(joined, address):
    refused(address, "that is not the address of a cluster", "HOST:6379", "no --address for a private Ray")
    refused("http://head:8265", "that is a dashboard, where `pinisi submit` starts runs")
    assert joined == []


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nothing_answers_there_or_something_else(joined, head, scheme):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    refused(f"{scheme}127.0.0.1:{port}", "no Ray answers (Connection refused)")
    refused(f"{scheme}no.such.host.invalid:6379", "no Ray answers")
    web = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    refused(f"{scheme}127.0.0.1:{web.server_port}", "no Ray answers")
    web.shutdown()
    web.server_close()
    other = head(None, client=not scheme)
    refused(f"{scheme}127.0.0.1:{other}", "what answers there is not", "is the port right?")
    assert joined == []


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_the_token_decides(joined, head, scheme, monkeypatch, capsys):
    token = secrets.token_hex(16)
    address = f"{scheme}127.0.0.1:{head(token, client=bool(scheme))}"
    wants = "the cluster wants its token: export RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
    refused(address, wants)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    refused(address, wants)  # the mode decides whether a token is shown
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    refused(address, wants)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    refused(address, "RAY_AUTH_MODE is token, but there is none")
    assert joined == []
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    said = []
    join.join(address, said.append)
    assert joined == [address]
    assert said == [f"joined the Ray cluster at {address}: 3 nodes, 1,280 CPUs, 1 GPU"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["token", None])
def test_an_open_cluster_is_joined_with_a_warning(joined, head, mode, monkeypatch, capsys):
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    address = f"127.0.0.1:{head(None)}"
    join.join(address)
    assert joined == [address]
    out, err = capsys.readouterr()
    assert out.startswith(f"joined the Ray cluster at {address}: ")
    assert err == f"pinisi: warning: {address} runs anybody's code; start the cluster with RAY_AUTH_MODE=token\n"


def test_auto_is_the_cluster_of_ray_address(joined, head, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", address := f"127.0.0.1:{head(None)}")
    join.join("auto")
    assert joined == [address]
    assert f"joined the Ray cluster at {address} (of RAY_ADDRESS): 3 nodes" in capsys.readouterr().out
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    refused("auto", "(http://head:8265 of RAY_ADDRESS): that is a dashboard")


def test_auto_is_what_this_user_started_and_has_the_token_of(joined, head, file, monkeypatch, capsys):
    token = secrets.token_hex(16)
    refused("auto", "RAY_ADDRESS is not set", f"no `ray start` on this machine wrote {file}")
    file.write_text(address := f"127.0.0.1:{head(token)}")
    refused("auto", f"{file} names {address}", "this shell has no token", f"or give --address {address}")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    refused("auto", "this shell has no token")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    refused("auto", f"({address} of {file}): the cluster wants its token")
    assert joined == []
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    join.join("auto")
    assert joined == [address]
    assert f"joined the Ray cluster at {address} (of {file}): 3 nodes" in capsys.readouterr().out


def test_auto_takes_the_token_of_the_home_folder_as_ray_start_does(joined, head, file, tmp_path):
    token = secrets.token_hex(16)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(token)
    file.write_text(address := f"127.0.0.1:{head(token)}")
    join.join("auto")
    assert joined == [address]


def test_auto_joins_nobody_elses_cluster(joined, head, file, monkeypatch):
    """Another user's address file, or an open Ray that answers where ours has been, whose token nobody asked for."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    file.write_text(address := f"127.0.0.1:{head(None)}")
    refused("auto", "it asks nobody for a token, so it may be anybody's", f"give --address {address}")
    me = join.os.geteuid()
    monkeypatch.setattr(join.os, "geteuid", lambda: me + 1)
    refused("auto", f"{file} is another user's")
    assert joined == []


def test_a_cluster_that_answers_and_cannot_be_joined(head, monkeypatch):
    import ray

    def fail(address, **options):
        raise RuntimeError("Version mismatch:\nThis process: Ray 2.60.0, the cluster: Ray 2.9.0")

    monkeypatch.setattr(ray, "init", fail)
    refused(f"127.0.0.1:{head(None)}", "cannot join it: This process: Ray 2.60.0, the cluster: Ray 2.9.0")
