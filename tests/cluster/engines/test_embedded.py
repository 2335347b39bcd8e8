"""The embedded Ray: who gets in (this process alone), and what it does to the process that it lies in."""

import contextlib
import ipaddress
import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import psutil
import pytest

from cluster.engines import embedded, join

ROOT = Path(__file__).parents[3]

RUN = """
import json, os, sys
import ray
from cluster.engines import embedded

embedded.start(cpus=1)
ray.get(ray.remote(lambda: None).remote())  # a worker listens too
folder = ray._private.worker._global_node.get_temp_dir_path()
address = ray.get_runtime_context().gcs_address
print(json.dumps({"address": address, "token": os.environ["RAY_AUTH_TOKEN"], "folder": folder}), flush=True)
sys.stdin.read()
"""

ATTACK = """
import sys
import ray

ray.init(sys.argv[1], log_to_driver=False)
ray.get(ray.remote(lambda path: open(path, "w").close()).remote(sys.argv[2]))
"""

SERVERS = {  # a call that each of Ray's gRPC servers knows; an empty message is a valid one of every kind
    "head": "/ray.rpc.NodeInfoGcsService/CheckAlive",
    "key-value store": "/ray.rpc.InternalKVGcsService/GetInternalConfig",
    "node": "/ray.rpc.NodeManagerService/GetNodeStats",
    "objects": "/ray.rpc.ObjectManagerService/Pull",
    "worker": "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "agent": "/ray.rpc.ReporterService/GetTraceback",
}
NOT_HERE = ("UNIMPLEMENTED", "UNAVAILABLE")  # another server, or none of gRPC


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """An embedded Ray in a process of its own, in an environment that says other things of tokens."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(secrets.token_hex(16))
    environment = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_K8S_TOKEN_AUTH": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(home)}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(process.stdout.readline())
    yield found | {"process": psutil.Process(process.pid), "home": home}
    process.communicate()
    assert process.returncode == 0
    assert not Path(found["folder"]).parent.exists()


def listening(running):
    """(name of the process, address) of every port that this Ray listens on, from /proc/net."""
    found = []
    for process in [running["process"], *running["process"].children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # workers come and go
            ports = [one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
            found += [(process.name(), address) for address in ports]
    return found


def answers(port, token=None):
    """server -> what the port says to its call, where it knows it."""
    header = [("authorization", f"Bearer {token}")] if token else None
    said = {}
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        for server, method in SERVERS.items():
            try:
                channel.unary_unary(method)(b"", timeout=60, metadata=header)
                said[server] = "OK"
            except grpc.RpcError as error:
                if error.code().name not in NOT_HERE:
                    said[server] = error.code().name
    return said


@pytest.mark.slow
def test_it_listens_on_loopback_alone(running):
    found = listening(running)
    assert {name for name, _ in found} >= {"gcs_server", "raylet", "ray::IDLE"}
    for name, address in found:
        ip = ipaddress.ip_address(address.ip)
        assert (getattr(ip, "ipv4_mapped", None) or ip).is_loopback, (name, address)


@pytest.mark.slow
def test_no_server_answers_without_the_token(running):
    refused, let_in = {}, {}
    for _, address in listening(running):
        refused |= (without := answers(address.port))
        refused |= {
            server: code for server, code in answers(address.port, "wrong").items() if code != "UNAUTHENTICATED"
        }
        let_in |= answers(address.port, running["token"])
        if not without:
            speaks_http_to_nobody(address.port)
    assert refused == dict.fromkeys(SERVERS, "UNAUTHENTICATED")
    assert let_in.keys() == SERVERS.keys() and "UNAUTHENTICATED" not in let_in.values()  # so the calls are real ones


def speaks_http_to_nobody(port):
    """Every page wants the token, or there is but one: numbers for Prometheus, which takes no requests that change anything."""
    for path in ("/", "/api/jobs/", "/api/job_agent/jobs/", "/get_or_create_runtime_env"):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                assert answer.read(6) == b"# HELP"
        except urllib.error.HTTPError as error:
            assert error.code == 401


@pytest.mark.slow
def test_who_runs_commands_in_it(running, tmp_path):
    """Not a process without the token or with a wrong one; the same program with the right one does."""
    on_loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "HOME": str(tmp_path)}  # else Ray looks at another address
    quick = {"RAY_NUM_REDIS_GET_RETRIES": "2"}  # it asks twice before it gives up
    tokens = {
        "none": {"RAY_AUTH_MODE": "disabled"},
        "wrong": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_urlsafe(32)},
        "right": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": running["token"]},
    }
    attacks = {
        name: subprocess.Popen(
            [sys.executable, "-c", ATTACK, running["address"], str(tmp_path / name)],
            env={**os.environ, **on_loopback, **quick, **token}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for name, token in tokens.items()
    }  # fmt: skip
    said = {name: attack.communicate(timeout=120)[1] for name, attack in attacks.items()}
    assert {path.name for path in tmp_path.iterdir()} & tokens.keys() == {"right"}
    assert [attacks[name].returncode for name in tokens] == [1, 1, 0]
    for name in ("none", "wrong"):
        assert "InvalidAuthToken" in said[name] and "ConnectionError: Failed to connect" in said[name]


@pytest.mark.slow
def test_nobody_else_can_read_the_token(running):
    folder = Path(running["folder"])
    assert folder.parent.stat().st_mode & 0o077 == 0  # Ray opens its own folder, with its sockets, to every user
    lines = {process.pid: " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}
    assert any(running["folder"] in line for line in lines.values())
    assert not any(running["token"] in line for line in lines.values())
    for process in [running["process"], *running["process"].children(recursive=True)]:
        with contextlib.suppress(FileNotFoundError):
            assert os.stat(f"/proc/{process.pid}/environ").st_mode & 0o077 == 0
    logs = [path for path in folder.rglob("*") if path.is_file()]
    assert len(logs) > 10
    assert [path for path in logs if running["token"].encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_auto_does_not_find_it(running, monkeypatch):
    assert not list(running["home"].rglob("ray_current_cluster"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(running["home"]))
    with pytest.raises(ValueError, match="RAY_ADDRESS is not set, and no `ray start` on this machine"):
        join.join("auto")
    with pytest.raises(ValueError, match=f"--address {running['address']}: the cluster wants its token"):
        join.join(running["address"])


@pytest.mark.slow
def test_one_after_another_in_one_process(monkeypatch):
    """Each has a token of its own, also after Ray was ended behind our back; then this process is as it was."""
    import ray
    from ray._private import ray_constants
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    mine = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "mine", "RAY_ENABLE_K8S_TOKEN_AUTH": "1"}
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    token = ray.remote(lambda: [os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "GLOO_SOCKET_IFNAME")])
    seen = set()
    for end in (ray.shutdown, embedded.stop):
        embedded.start(cpus=1)
        assert is_token_auth_enabled()
        mode, of_the_worker, interface = ray.get(token.remote())
        assert (mode, of_the_worker) == ("token", os.environ["RAY_AUTH_TOKEN"])
        assert "127.0.0.1" in [address.address for address in psutil.net_if_addrs()[interface]]
        assert len(of_the_worker) >= 40
        seen.add(of_the_worker)
        end()
    assert len(seen | {"mine"}) == 3
    assert {name: os.environ[name] for name in mine} == mine
    left = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "GLOO_SOCKET_IFNAME", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"}
    assert not left & os.environ.keys()
    assert ray_constants.ENABLE_RAY_CLUSTER
    assert not is_token_auth_enabled()


def test_the_handler_of_sigterm_is_put_back_even_when_ray_does_not_start():
    def mine(number, frame): ...

    former = signal.signal(signal.SIGTERM, mine)
    try:
        with pytest.raises(ConnectionError), embedded._own_sigterm():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what ray.init does, with a handler of its own
            raise ConnectionError
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, former)


def test_its_folder_lies_where_ray_tmpdir_says_and_goes_when_its_process_was_killed(tmp_path, monkeypatch):
    """Without Ray: each folder is of mode 700 and short enough for sockets, and only those of the living stay."""
    deep = tmp_path / ("deep" * 20)
    for base in (tmp_path, deep):
        monkeypatch.setenv("RAY_TMPDIR", str(base))
        assert embedded.temporary() == base and base.is_dir()
        hold = "import contextlib, sys; from cluster.engines import embedded; "
        hold += "print(embedded._private_folder(contextlib.ExitStack()), flush=True); sys.stdin.read()"
        killed, living = (
            subprocess.Popen(
                [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            for _ in range(2)
        )
        folders = [Path(process.stdout.readline().strip()) for process in (killed, living)]
        assert all(len(str(folder)) <= embedded.MAX_FOLDER or folder.parent == base for folder in folders)
        (folders[0] / "r").mkdir(exist_ok=True)
        (folders[0] / "r" / "spilled").write_text("x")
        killed.kill()
        killed.wait()
        with contextlib.ExitStack() as stack:
            own = Path(embedded._private_folder(stack))
            assert own.stat().st_mode & 0o077 == 0
            assert (
                (own / "r").resolve().is_relative_to(base.resolve()) and not folders[0].exists() and folders[1].exists()
            )
            left = [path for path in base.glob("pinisi-*") if path.is_dir()]
            assert len(left) == 2 and all(path.stat().st_mode & 0o077 == 0 for path in left)
        assert not own.exists() and len(list(base.glob("pinisi-*"))) == 1
        living.communicate()


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file" / "below"))
    with pytest.raises(ValueError, match=r"RAY_TMPDIR: .* cannot be written"):
        embedded.temporary()


def test_what_was_set_for_a_ray_that_does_not_start_is_put_back(monkeypatch):
    import ray

    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)

    def fail(*arguments, _temp_dir, **options):
        folders.append(Path(_temp_dir).parent)
        assert os.environ["RAY_AUTH_TOKEN"] and folders[0].is_dir()
        raise RuntimeError("no port is free")

    folders = []
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(RuntimeError, match="no port is free"):
        embedded.start(cpus=1)
    assert "RAY_AUTH_TOKEN" not in os.environ and not folders[0].exists()
