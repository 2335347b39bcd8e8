"""Traps that cost people hours: states of a machine that make Ray, Spark, training or storage fail far from their cause.

Each check looks at one of them and names the command that mends it. They are those of the project's first measurements: Ray's
shared address file, token authentication that switches itself on, packages that overwrite each other, limits of the system.
"""

from __future__ import annotations

import email.utils
import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from cluster import storage, terminal
from cluster.engines import embedded, join
from cluster.spark import java

MIN_OPEN_FILES = 65_536  # what Ray asks for on a cluster
LEAST_OPEN_FILES = 4096  # below it not even one machine's workers start
MIN_SPILL_GB = 4
MAX_SKEW_SECONDS = 60.0  # S3 refuses requests that are 15 minutes off; tokens and leases earlier
PROBE = ".pinisi-doctor"


def result(name: str, good: bool, found: str, fix: str = "", optional: bool = False) -> dict:
    """One check: `name`, `state` (ok, missing, or optional = absent but not needed), `found`, `fix` (a command; a remark on it
    stands behind three blanks in parentheses)."""
    state = "ok" if good else "optional" if optional else "missing"
    return {"name": name, "state": state, "found": found, "fix": "" if good else fix}


def checks(storage_uri: str | None = None) -> list[dict]:
    """All traps. `storage_uri` is where runs shall lie: it is written to and read from, and its clock compared."""
    return [
        ray_address_file(),
        ray_auth_mode(),
        ray_token(),
        job_python(),
        html_clean(),
        pins(),
        java_options(),
        spill_disk(),
        shared_memory(),
        open_files(),
        nccl(),
        *([object_storage(storage_uri)] if storage_uri else []),
        clock(),
    ]


def ray_address_file() -> dict:
    """`ray_current_cluster` is shared by all processes of a machine; a stale one sends `ray.init()` to a cluster that is gone."""
    path = join.address_file()
    name = "Ray's address file"
    if not path.is_file():
        return result(name, True, "none")
    address = path.read_text().strip()
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return result(name, True, f"{address}, which answers")
    except (OSError, ValueError):
        return result(name, False, f"{path} names {address or 'nothing'}, where no Ray answers", f"rm {path}")


def ray_auth_mode() -> dict:
    """Of clusters: the embedded Ray always has a token of its own, and listens on loopback.

    With RAY_AUTH_MODE unset and a token file there, `ray start --head` turns tokens on and other nodes are refused; with no token
    file, or `disabled`, it starts a cluster that runs anybody's code."""
    mode, token = os.environ.get("RAY_AUTH_MODE"), Path.home() / ".ray" / "auth_token"
    name, fix = "RAY_AUTH_MODE", "export RAY_AUTH_MODE=token"
    if mode is None and token.is_file():
        return result(name, False, f"not set, and {token} is there: `ray start` would turn tokens on by itself", fix)
    if mode is None:
        return result(name, True, "not set, no token file (for `ray start`; a run's own Ray makes its token)")
    if mode == "disabled":
        found = "disabled: `ray start` here would run anybody's code (not a run's own Ray)"
        return result(name, False, found, fix, optional=True)
    return result(name, mode == "token", mode, fix)


def ray_token() -> dict:
    """Token mode needs a token: RAY_AUTH_TOKEN, the file at RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token (left readable)."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return result("Ray token", True, "not needed without RAY_AUTH_MODE=token")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if os.environ.get("RAY_AUTH_TOKEN"):
        return result("Ray token", True, "there")
    if not file.is_file() or file.stat().st_size == 0:
        return result("Ray token", False, "none", "(umask 077; ray get-auth-token --generate)")
    private = file.stat().st_mode & 0o077 == 0
    return result("Ray token", private, "there" if private else f"other users can read {file}", f"chmod 600 {file}")


def job_python() -> dict:
    """Ray starts a job with the `python` that its head finds first on PATH: not ours where the environment is not activated."""
    python = shutil.which("python")
    good = python is not None and Path(python).parent == Path(sys.executable).parent
    fix = f". {Path(sys.prefix) / 'bin' / 'activate'}   (before `ray start --head`)"
    return result("python of submitted jobs", good, python or "no python on PATH", fix, optional=True)


def html_clean() -> dict:
    """Old pip does not install `lxml[html_clean]`, and trafilatura then fails when it is imported; `pip check` is silent."""
    there = importlib.util.find_spec("lxml_html_clean") is not None
    return result("lxml html_clean", there, "there" if there else "missing", "pip install lxml_html_clean==0.4.6")


def pins() -> dict:
    """Versions that differ from the project's pins (xxhash 4 takes no str, pandas 3 other types, torch only one wheel)."""
    name = "versions as pinned"
    try:
        required = importlib.metadata.requires("pinisi") or []
    except importlib.metadata.PackageNotFoundError:
        return result(name, False, "pinisi is not installed", "pip install -e .")
    wrong = []
    for line in required:
        pin = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^;\s]+)", line)
        if pin is None or "extra ==" in line:
            continue
        try:
            found = importlib.metadata.version(pin[1])
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if found.split("+")[0] != pin[2]:
            wrong.append((pin[1], pin[2], found))
    if not wrong:
        return result(name, True, "all")
    shown = ", ".join(f"{package} {found} instead of {wanted}" for package, wanted, found in wrong)
    return result(name, False, shown, "pip install " + " ".join(f"{package}=={wanted}" for package, wanted, _ in wrong))


def java_options() -> dict:
    """JDK_JAVA_OPTIONS and JAVA_TOOL_OPTIONS reach every Java: a bad one keeps Spark from starting, without saying so."""
    given = [name for name in ("JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS") if os.environ.get(name)]
    if not given:
        return result("Java options", True, "none")
    try:
        program = java.find().program
    except ValueError:
        return result("Java options", True, "not looked at, there is no Java")
    said = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
    lines = [line for line in said.stderr.splitlines() if "Picked up" not in line]
    found = ", ".join(given) if said.returncode == 0 else f"Java does not start with {', '.join(given)}: {lines[:1]}"
    return result("Java options", said.returncode == 0, found, f"unset {' '.join(given)}")


def spill_disk() -> dict:
    """Objects that do not fit in memory are written to Ray's temporary folder; a full one fails tasks at random."""
    fix = "export RAY_TMPDIR=/a/larger/disk   (on a cluster: spill_dir in cluster.yaml)"
    name = f"{MIN_SPILL_GB} GB to spill objects"
    try:
        folder = embedded.temporary()
    except ValueError as error:
        return result(name, False, str(error), fix)
    free, wanted = shutil.disk_usage(folder).free, MIN_SPILL_GB * 1e9
    return result(name, free >= wanted, f"{terminal.size(free)} free in {folder}", fix)


def shared_memory() -> dict:
    """The object store lies in /dev/shm; where that is smaller, Ray takes the disk and everything is slow."""
    size, wanted = shutil.disk_usage("/dev/shm").total, embedded.OBJECT_STORE_BYTES
    fix = "mount -o remount,size=4g /dev/shm   (in Docker: --shm-size=4g)"
    return result("/dev/shm", size >= wanted, terminal.size(size), fix)


def open_files() -> dict:
    """Ray opens a socket per worker and object; the hard limit is what it can raise its own to."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    unlimited = limit == resource.RLIM_INFINITY
    found = "unlimited" if unlimited else f"{limit:,} at most"
    fix = f"ulimit -n {MIN_OPEN_FILES}   (for good: /etc/security/limits.conf)"
    return result("open files", unlimited or limit >= MIN_OPEN_FILES, found, fix, optional=limit >= LEAST_OPEN_FILES)


def nccl() -> dict:
    """A GPU that torch cannot use: its wheel is for CPUs, the driver is too old, or NCCL is not in it."""
    if shutil.which("nvidia-smi") is None:
        return result("GPUs for torch", True, "no GPU here")
    code = "import torch; print(torch.cuda.device_count(), torch.cuda.is_available() and torch.cuda.nccl.version())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    count, _, version = said.stdout.strip().partition(" ")
    good = said.returncode == 0 and count not in ("", "0") and version not in ("", "False")
    found = f"{count} GPUs, NCCL {version}" if good else "nvidia-smi is there, but torch sees no GPU or has no NCCL"
    torch = importlib.metadata.version("torch").split("+")[0]
    return result("GPUs for torch", good, found, f"nvidia-smi && pip install --force-reinstall torch=={torch}")


def object_storage(uri: str) -> dict:
    """Whether a file can be written to `uri`, read back and deleted."""
    probe = storage.join(uri, PROBE)
    try:
        storage.write_text(probe, "pinisi doctor")
        read = storage.read_bytes(probe) == b"pinisi doctor"
        storage.remove(probe)
    except ImportError as error:
        return result("storage", False, f"{uri}: {error}", f"pip install {str(error).split()[-1]}")
    except Exception as error:  # every file system has errors of its own, and all of them mean the same here
        found = f"{uri}: {(str(error).strip().splitlines() or [type(error).__name__])[-1]}"
        fix = "aws s3 ls s3://BUCKET   (credentials, region, AWS_ENDPOINT_URL; then again with --storage)"
        return result("storage", False, found, fix)
    return result("storage", read, f"{uri}: written and read", "check the permissions of the bucket")


def clock() -> dict:
    """Whether this machine's clock agrees with the object store's; signatures and leases depend on it."""
    url = os.environ.get("AWS_ENDPOINT_URL")
    if not url:
        return result("clock", True, "not compared (AWS_ENDPOINT_URL is not set)")
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:  # it answers, which is all that is asked of it
        date = error.headers.get("Date")
    except OSError as error:
        return result("clock", False, f"{url} does not answer: {error}", f"curl -I {url}")
    if date is None:
        return result("clock", True, f"{url} tells no time")
    skew = abs(email.utils.parsedate_to_datetime(date).timestamp() - time.time())
    return result("clock", skew <= MAX_SKEW_SECONDS, f"{skew:.0f} s from {url}", "timedatectl set-ntp true")
