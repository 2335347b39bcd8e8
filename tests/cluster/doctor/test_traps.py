"""Every trap is faked: the check must see it, name it and give the command that mends it."""

import collections
import importlib.metadata
import resource
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cluster.doctor import checks, traps


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


def is_ok(check):
    assert (check["state"], check["fix"]) == ("ok", "")
    return True


def is_missing(check, found, fix):
    assert check["state"] == "missing"
    assert found in check["found"]
    assert fix in check["fix"]
    return True


def address_file(tmp_path, text):
    (tmp_path / "ray").mkdir(exist_ok=True)
    (tmp_path / "ray" / "ray_current_cluster").write_text(text)


def test_stale_address_file(tmp_path):
    assert is_ok(traps.ray_address_file())
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        address_file(tmp_path, f"127.0.0.1:{port}")
        assert is_ok(traps.ray_address_file())
    file = tmp_path / "ray" / "ray_current_cluster"
    assert is_missing(traps.ray_address_file(), f"127.0.0.1:{port}, where no Ray answers", f"rm {file}")
    address_file(tmp_path, "")
    assert is_missing(traps.ray_address_file(), "names nothing", f"rm {file}")


def test_auth_mode_unset_beside_a_token(monkeypatch, tmp_path):
    assert is_ok(traps.ray_auth_mode())
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t")
    assert is_missing(traps.ray_auth_mode(), "turn tokens on by itself", "export RAY_AUTH_MODE=token")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert is_ok(traps.ray_auth_mode())
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    check = traps.ray_auth_mode()
    assert (check["state"], check["fix"]) == ("optional", "export RAY_AUTH_MODE=token")
    assert "`ray start` here would run anybody's code" in check["found"]
    monkeypatch.setenv("RAY_AUTH_MODE", "tokens")
    assert is_missing(traps.ray_auth_mode(), "tokens", "export RAY_AUTH_MODE=token")


def test_token_mode_without_a_token(monkeypatch, tmp_path):
    assert is_ok(traps.ray_token())
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert is_missing(traps.ray_token(), "none", "ray get-auth-token --generate")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("")
    assert is_missing(traps.ray_token(), "none", "ray get-auth-token")
    (tmp_path / "token").write_text("t")
    (tmp_path / "token").chmod(0o640)
    assert is_missing(traps.ray_token(), "other users can read", f"chmod 600 {tmp_path / 'token'}")
    (tmp_path / "token").chmod(0o600)
    assert is_ok(traps.ray_token())
    (tmp_path / "token").chmod(0o640)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")  # which Ray takes first
    assert is_ok(traps.ray_token())


def test_jobs_run_under_another_python(monkeypatch, tmp_path):
    own = traps.Path(traps.sys.executable).parent
    monkeypatch.setenv("PATH", f"{own}:/usr/bin:/bin")
    monkeypatch.setattr(traps.sys, "executable", str(own / "python"))
    if (own / "python").exists():
        assert is_ok(traps.job_python())
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{own}")
    check = traps.job_python()
    assert (check["state"], check["found"]) == ("optional", str(other))
    assert check["fix"].startswith(f". {traps.sys.prefix}/bin/activate")


def test_html_clean(monkeypatch):
    assert is_ok(traps.html_clean())
    monkeypatch.setattr(traps.importlib.util, "find_spec", lambda name: None)
    assert is_missing(traps.html_clean(), "missing", "pip install lxml_html_clean==0.4.6")


def test_other_versions_than_pinned(monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(traps.importlib.metadata, "version", lambda name: "3.6.0" if name == "xxhash" else real(name))
    check = traps.pins()
    assert "xxhash 3.6.0 instead of 4" in check["found"]
    assert is_missing(check, "xxhash", "pip install ")
    assert "xxhash==4" in check["fix"]


def test_versions_here_are_the_pinned_ones():
    assert is_ok(traps.pins())


def test_java_options(monkeypatch, tmp_path):
    assert is_ok(traps.java_options())
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(
        '#!/bin/sh\ncase "$JDK_JAVA_OPTIONS" in *nonsense*) echo "Unrecognized option" >&2; exit 1;; esac\n'
    )
    java.chmod(0o755)
    monkeypatch.setattr(traps.java, "find", lambda: traps.java.Java(str(tmp_path), 17, True))
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "--add-opens=java.base/java.lang=ALL-UNNAMED")
    assert is_ok(traps.java_options())
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-nonsense")
    assert is_missing(traps.java_options(), "Unrecognized option", "unset JDK_JAVA_OPTIONS")


def test_disk_and_shared_memory(monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(traps.shutil, "disk_usage", lambda path: usage(64 << 20, 0, 1 << 30))
    assert is_missing(traps.spill_disk(), "1.07 GB free", "export RAY_TMPDIR")
    assert is_missing(traps.shared_memory(), "67.1 MB", "mount -o remount,size=4g /dev/shm")
    monkeypatch.setattr(traps.shutil, "disk_usage", lambda path: usage(8 << 30, 0, 90 << 30))
    assert is_ok(traps.spill_disk())
    assert is_ok(traps.shared_memory())


@pytest.mark.parametrize(
    ("limit", "state"), [(1024, "missing"), (8192, "optional"), (65_536, "ok"), (resource.RLIM_INFINITY, "ok")]
)
def test_open_files(monkeypatch, limit, state):
    monkeypatch.setattr(traps.resource, "getrlimit", lambda which: (1024, limit))
    check = traps.open_files()
    assert check["state"] == state
    assert (state == "ok") == (check["fix"] == "")
    assert state == "ok" or "ulimit -n 65536" in check["fix"]


def test_a_gpu_that_torch_does_not_see(monkeypatch):
    monkeypatch.setattr(traps.shutil, "which", lambda name: None)
    assert is_ok(traps.nccl())
    said = collections.namedtuple("said", "returncode stdout")
    monkeypatch.setattr(traps.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(traps.subprocess, "run", lambda *a, **k: said(0, "0 False\n"))
    assert is_missing(traps.nccl(), "torch sees no GPU", "pip install --force-reinstall torch==")
    monkeypatch.setattr(traps.subprocess, "run", lambda *a, **k: said(0, "8 (2, 27, 3)\n"))
    assert is_ok(traps.nccl())


def test_storage(tmp_path):
    assert is_ok(traps.object_storage(str(tmp_path / "runs")))
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "file").write_text("")
    assert is_missing(traps.object_storage(str(tmp_path / "file")), "File exists", "aws s3 ls")
    assert is_missing(traps.object_storage("nosuch://bucket"), "nosuch", "aws s3 ls")


def test_clock(monkeypatch):
    dates = ["Thu, 01 Jan 2015 00:00:00 GMT", None]

    class Server(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response_only(403)
            self.send_header("Date", dates[0] or self.date_time_string())
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    assert is_ok(traps.clock())
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    assert is_missing(traps.clock(), f"s from {url}", "timedatectl set-ntp true")
    dates.pop(0)
    assert is_ok(traps.clock())
    server.shutdown()
    server.server_close()
    assert is_missing(traps.clock(), "does not answer", f"curl -I {url}")


def test_a_trap_makes_doctor_exit_1(monkeypatch, tmp_path, capsys):
    from ray_jobs import cli

    monkeypatch.setattr(checks.traps, "checks", lambda uri: [traps.result("trap", False, "it is there", "mend it")])
    with pytest.raises(SystemExit) as exit_:
        cli.main(["doctor"])
    assert exit_.value.code == 1
    assert "mend it" in capsys.readouterr().out


def test_fasttext_overwritten(monkeypatch):
    import types

    monkeypatch.setitem(checks.sys.modules, "fasttext", types.ModuleType("fasttext"))
    check = next(c for c in checks.checks() if c["name"] == "fastText can train")
    assert is_missing(check, "another package lies on top", "fasttext-numpy2")
