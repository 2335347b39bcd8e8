"""A private Ray on the nodes of a job of Slurm: what `srun` starts on each of them (`cluster/deploy/slurm.py`).

    python -m cluster.engines.allocation address        an address of this node for the others, with a free port: HOST:PORT
    python -m cluster.engines.allocation node HOST:PORT  Ray on this node, as its head in the first task of the step
    python -m cluster.engines.allocation wait HOST:PORT N   until Ray has N nodes, so that work is cut for all of them

Every job has its own ports, temporary folder and token (RAY_AUTH_TOKEN in the environment), so several share a machine. Nothing
outside of the job is touched: Ray's processes are ended by the `ray start` that began them, as srun ends it, and Slurm ends
what is left of the step.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from cluster.engines.embedded import MAX_FOLDER

HEAD_SECONDS = 120.0  # until the head answers
NODES_SECONDS = 300.0  # then until all nodes are there; work begins without those that are not


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.engines.allocation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("address")
    node = commands.add_parser("node")
    node.add_argument("address", metavar="HOST:PORT")
    node.add_argument("--cpus", type=int, required=True)
    node.add_argument("--gpus", type=int, default=0)
    node.add_argument("--object-store-bytes", type=int, required=True)
    wait = commands.add_parser("wait")
    wait.add_argument("address", metavar="HOST:PORT")
    wait.add_argument("nodes", type=int)
    options = parser.parse_args(arguments)
    if options.command == "wait":
        return wait_for_nodes(options.address, options.nodes)
    if options.command == "address":
        print(f"{own_address()}:{free_port()}")
        return 0
    resources = [f"--num-cpus={options.cpus}", f"--num-gpus={options.gpus}"]
    return run_node(options.address, [*resources, f"--object-store-memory={options.object_store_bytes}"])


def own_address() -> str:
    """The address of this node on the network between nodes: of PINISI_INTERFACE, else of its name, else of its way out."""
    if interface := os.environ.get("PINISI_INTERFACE"):
        import psutil

        found = [one.address for one in psutil.net_if_addrs().get(interface, ()) if one.family == socket.AF_INET]
        if not found:
            raise SystemExit(f"slurm.interface: node {socket.gethostname()} has no {interface} with an IPv4 address")
        return found[0]
    with contextlib.suppress(OSError):
        address = socket.gethostbyname(socket.gethostname())
        if not address.startswith("127."):
            return address
    from ray.util import get_node_ip_address

    return get_node_ip_address()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return one.getsockname()[1]


def command(address: str, node: str, folder: str | None, resources: list[str]) -> list[str]:
    """`ray start` on the node of address `node`; `folder` is the head's temporary one, None on another node."""
    place = [f"--address={address}"]
    if folder:
        own = [f"--port={address.rsplit(':', 1)[1]}", f"--ray-client-server-port={free_port()}"]
        place = ["--head", *own, f"--temp-dir={folder}", "--include-dashboard=false"]
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
        *place,
        f"--node-ip-address={node}",
        *resources,
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--dashboard-agent-listen-port={free_port()}",
    ]


def run_node(address: str, resources: list[str]) -> int:
    """Ray on this node until it or the step ends. The first task of the step is on the node that has made the address."""
    head = os.environ.get("SLURM_PROCID", "0") == "0"
    node = address.rsplit(":", 1)[0] if head else own_address()
    folder = _folder() if head else None
    if not head:
        _wait(address)
    ray = subprocess.Popen(command(address, node, folder, resources), stdin=subprocess.DEVNULL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ray.terminate())
    try:
        return ray.wait()
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def wait_for_nodes(address: str, nodes: int) -> int:
    """0 when Ray has so many nodes, or has had its time for it; 1 when there is no head."""
    import ray

    _wait(address)
    ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    deadline = time.monotonic() + NODES_SECONDS
    while (there := sum(node["Alive"] for node in ray.nodes())) < nodes:
        if time.monotonic() > deadline:
            print(f"slurm: of {nodes} nodes {there} have a Ray after {NODES_SECONDS:.0f} s; going on with them")
            break
        time.sleep(0.5)
    ray.shutdown()
    return 0


def _folder() -> str:
    """A folder of this job alone, in its own TMPDIR where the path of a socket may be so long."""
    name = f"pinisi-{os.environ.get('SLURM_JOB_ID', os.getpid())}-"
    base = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix=name, dir=base if len(base) + len(name) + 8 <= MAX_FOLDER else "/tmp")


def _wait(address: str) -> None:
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + HEAD_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"the head of this job's Ray at {address} does not answer: {error}") from None
            time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
