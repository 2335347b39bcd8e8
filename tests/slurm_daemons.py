"""A Slurm of one controller and two nodes on loopback: daemons of ours with ports, keys and folders of their own, ended by
their numbers. The nodes are two `slurmd` of one machine; without cgroups, so limits of memory are not kept."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scancel", "scontrol")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
MISSING = next(
    (f"{name} is not here: apt-get install slurm-wlm" for name in PROGRAMS if not shutil.which(name, path=PATH)), ""
)
SECONDS = 30.0

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands reach the daemons."""
    (folder / "munge").mkdir(mode=0o700)
    (folder / "state").mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, ports=_free_ports(3), folder=folder, user=getpass.getuser()))
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(config)}
    munge = {name: folder / "munge" / name for name in ("socket", "pid", "log", "seed")}
    munged = ["munged", "--foreground", "--force", "--num-threads=2", f"--key-file={key}"]
    munged += [f"--{name}{'' if name == 'socket' else '-file'}={path}" for name, path in munge.items()]
    daemons: list[subprocess.Popen] = []

    def start(*command: str) -> None:
        with (folder / f"{command[0]}-{len(daemons)}.out").open("wb") as out:
            daemons.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True))

    try:
        start(*munged)
        _until(munge["socket"].exists, folder)
        start("slurmctld", "-D", "-f", str(config))
        start("slurmd", "-D", "-N", "n1", "-f", str(config))
        start("slurmd", "-D", "-N", "n2", "-f", str(config))
        _until(lambda: _ask(environment, "sinfo", "-h", "-t", "idle", "-o", "%D") == "2", folder)
        yield environment
    finally:
        _ask(environment, "scancel", "--user", getpass.getuser())
        deadline = time.monotonic() + SECONDS
        while _ask(environment, "squeue", "-h") and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _ask(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=30
    ).stdout.strip()


def _until(true, folder: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > deadline:
            said = "".join(f"{path.name}:\n{path.read_text()[-1500:]}\n" for path in folder.glob("*.out"))
            raise TimeoutError(f"Slurm does not start\n{said}")
        time.sleep(0.2)


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [one.getsockname()[1] for one in sockets]
