"""Scripts for `sbatch`: a chain of jobs that makes a run inside Slurm's allocations, each continued when its time is over.

sbatch copies a script, so nothing in one depends on where it lies. Of an array the last task has the number of the array as its
SLURM_JOB_ID, so a task is called ARRAY_TASK here. Before its time limit a job's shell, and it alone, gets USR1.
It makes a file, on which the run stops after a checkpoint; then the job is put in the queue again. A file, because signals would
have to pass srun, a container and torchrun, which ends its processes after 30 s.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cluster.deploy.findings import Finding
from cluster.deploy.slurm_spec import Slurm
from cluster.deploy.spec import Cluster, Group

FOLDER = "_slurm"  # below the run: scripts, the recipe, logs, and what jobs tell one another
Kind = Literal["one", "array", "ray", "ranks"]


@dataclass(frozen=True)
class Step:
    """One job. `commands` run one after another, each the words after `python -m`.

    `kind`: on `one` node, an `array` of tasks of one node, a private `ray` over all nodes, or `ranks` of torchrun on them.
    `anyhow`: begins however the one before ended."""

    name: str
    group: Group
    commands: tuple[tuple[str, ...], ...]
    kind: Kind = "one"
    anyhow: bool = False


@dataclass(frozen=True)
class Place:
    """Of what run, and by what it is done. `python`: the interpreter of nodes outside of an image."""

    run: str  # its name
    run_dir: str
    python: str
    environment: dict[str, str]  # what jobs get


def script(cluster: Cluster, step: Step, place: Place) -> str:
    """The text of a job.

    Raises ValueError for a time limit that is too short."""
    slurm = _slurm(cluster)
    folder = f"{place.run_dir}/{FOLDER}"
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in options(cluster, step, place)),
        "# Made by `pinisi`; change the cluster file instead.",
        "set -u",
        f"folder={shlex.quote(folder)}",
        f"requeues={slurm.requeues} failures={slurm.failures}",
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} job=${job:-$SLURM_JOB_ID}",
        'export PINISI_ATTEMPT="slurm-$job.${SLURM_RESTART_COUNT:-0}"',
        *(f"export {name}={shlex.quote(value)}" for name, value in place.environment.items()),
        *(f"export {name}={slurm.interface}" for name in INTERFACES if slurm.interface),
        BEGIN.strip(),
        *(["set +u", *slurm.setup, "set -u"] if slurm.setup else []),  # modules read variables that are not set
        *_work(cluster, step, place),
        END.rstrip(),
    ]
    return "\n".join(lines) + "\n"


INTERFACES = ("PINISI_INTERFACE", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def options(cluster: Cluster, step: Step, place: Place) -> list[str]:
    """The options of sbatch of a job. `--comment` names the run, by which the next submit finds it in the queue."""
    slurm, group, run_dir = _slurm(cluster), step.group, place.run_dir
    limit = slurm.limit(group.name)
    log = "%x-%A_%a.log" if step.kind == "array" else "%x-%j.log"
    found = [
        f"--job-name={place.run}-{step.name}",
        f"--comment={shlex.quote(f'pinisi:{run_dir}')}",
        *(f"--{key}={value}" for key in KEYS if (value := slurm.of(group.name, key))),
        f"--nodes={group.max_nodes if step.kind in ('ray', 'ranks') else 1}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={group.cpus}",
        f"--mem={group.memory_gb}G",
        f"--time={_written(limit)}",
        f"--signal=B:USR1@{slurm.checkpoint_seconds}",
        "--requeue",
        "--open-mode=append",
        f"--output={shlex.quote(f'{run_dir}/{FOLDER}/{log}')}",
    ]
    if group.gpus:
        own = slurm.groups.get(group.name)
        kind = f"gpu:{group.gpu_type}" if group.gpu_type else "gpu"
        found.append(f"--gres={(own and own.gres) or f'{kind}:{group.gpus}'}")
    if step.kind == "array":
        found.append(f"--array=0-{slurm.array - 1}%{slurm.array_running or group.max_nodes}")
    return [*found, *slurm.options, *(own_options.options if (own_options := slurm.groups.get(group.name)) else ())]


KEYS = ("partition", "account", "qos", "constraint", "reservation")


def dependency(step: Step, jobs: list[str]) -> str:
    """What a job waits for, given those before it: an array may end in any way, as what it leaves is done after it."""
    if step.anyhow and len(jobs) > 1:
        return f"afterok:{jobs[-2]},afterany:{jobs[-1]}"
    return f"afterok:{jobs[-1]}"


def submission(names: list[str], steps: list[Step], run_dir: str) -> str:
    """A shell script that gives the jobs of `steps`, whose scripts are `names`, to sbatch, each after the other, unless the run
    is in the queue already."""
    folder = shlex.quote(f"{run_dir}/{FOLDER}")
    lines = ["#!/bin/bash", "# Made by `pinisi`: bash THIS FILE, on a login node.", "set -euo pipefail"]
    lines += [
        f"run={shlex.quote(run_dir)} folder={folder}",
        """queue=$(squeue --noheader --user "$(id -un)" --format %k | sed 's/ *$//')""",
        'if grep -Fxq -- "pinisi:$run" <<< "$queue"; then',
        '    echo "$run: it is in Slurm\'s queue already; wait for it, or stop it by scancel" >&2',
        "    exit 2",
        "fi",
        'mkdir -p -- "$folder"',
        'here=$(dirname -- "$0")',
        '[ "$here" -ef "$folder" ] || cp -- "$here"/* "$folder"',
        'cd -- "$folder"',
    ]
    jobs: list[str] = []
    for name, step in zip(names, steps, strict=True):
        after = f"--dependency={dependency(step, jobs)} " if jobs else ""
        jobs.append(f"${{job{len(jobs)}}}")
        lines.append(
            f"job{len(jobs) - 1}=$(sbatch --parsable --kill-on-invalid-dep=yes {after}{shlex.quote(name)} | cut -d';' -f1)"
        )
        lines.append(f'echo "{step.name}: {jobs[-1]}"')
    return "\n".join(lines) + "\n"


def findings(cluster: Cluster) -> Iterator[Finding]:
    """What the section `slurm` lacks, and what only the cluster knows. Raises ValueError where there is no such section."""
    slurm, path = _slurm(cluster), cluster.local_run_dir()
    if path is None or not path.startswith("/"):
        text = f"{cluster.run_dir} must be an absolute path of a file system that all nodes share"
        yield Finding("missing", "run_dir", text)
    else:
        yield Finding("unseen", "run_dir", "that all nodes share its file system", f"stat -f -c %T {shlex.quote(path)}")
    for group in cluster.groups:
        try:
            slurm.limit(group.name)
        except ValueError as error:
            key, text = str(error).split(": ", 1)
            yield Finding("missing", key, text)
        partition = slurm.of(group.name, "partition")
        which = f"-p {shlex.quote(partition)} " if partition else ""
        text = f"that there are such nodes as group {group.name} has, for as long"
        yield Finding("unseen", "slurm.partition", text, f"sinfo -h {which}-o '%P %D %c %m %G %l'")
        if account := slurm.of(group.name, "account"):
            command = f"sacctmgr -n show associations account={shlex.quote(account)} format=user,partition,qos"
            yield Finding("unseen", "slurm.account", f"that you may use {account}", command)
    if slurm.apptainer:
        command = f"stat -c %s {shlex.quote(slurm.apptainer)}"
        yield Finding("unseen", "slurm.apptainer", "that nodes reach the image", command)


def _slurm(cluster: Cluster) -> Slurm:
    if cluster.slurm is None:
        raise ValueError("the cluster file has no section `slurm`; add it")
    return cluster.slurm


def _written(limit: int) -> str:
    """Slurm counts minutes; what is less is rounded up."""
    minutes = -(-limit // 60)
    return f"{minutes // 60}:{minutes % 60:02d}:00"


def _work(cluster: Cluster, step: Step, place: Place) -> list[str]:
    slurm, group = _slurm(cluster), step.group
    image = slurm.apptainer
    if image:
        seen = ",".join([place.run_dir, *slurm.binds])
        nvidia = ["--nv"] if group.gpus else []
        words = ["apptainer", "exec", *nvidia, "--bind", seen, image, slurm.python or "python"]
    else:
        words = [slurm.python or place.python]
    program = shlex.join(words)
    nodes = group.max_nodes
    everywhere = f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --cpus-per-task={group.cpus}"
    lines, joined = [], ""
    if step.kind == "ray" and nodes > 1:
        lines = [
            f"address=$({program} -m cluster.engines.allocation address) || end 1",
            f"RAY_AUTH_TOKEN=$({program} -c 'import secrets; print(secrets.token_urlsafe(32))') || end 1",
            "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN",
            f'{everywhere} --output="$folder/$job.ray-%t.log" {program} -m cluster.engines.allocation node "$address" '
            f"--cpus {group.cpus} --gpus {group.gpus} --object-store-bytes {cluster.object_store_bytes(group)} &",
            "ray=$!",
            f'run {program} -m cluster.engines.allocation wait "$address" {nodes}',
        ]
        joined = ' --address "$address"'
    for command in step.commands:
        called = " ".join(map(_quoted, command))
        if step.kind == "ranks" and command[0] == "ray_jobs.cli":
            inner = (
                f"exec {program} -m torch.distributed.run --nnodes={nodes} --nproc-per-node={max(1, group.gpus)} "
                f'--node-rank="$SLURM_NODEID" --master-addr="$0" --master-port="$1" -m {called}'
            )
            lines += [
                f"address=$({program} -m cluster.engines.allocation address) || end 1",
                f"run {everywhere} --kill-on-bad-exit=1 bash -c {shlex.quote(inner)} "
                '"${address%:*}" "${address##*:}"',
            ]
        else:
            lines.append(f"run {program} -m {called}{joined if command[0] == 'ray_jobs.cli' else ''}")
    return lines


def _quoted(word: str) -> str:
    """For the shell; of `SHARE/16` the number of the task."""
    share = word.removeprefix("SHARE/")
    return shlex.quote(word) if share == word else f'"$SLURM_ARRAY_TASK_ID"/{shlex.quote(share)}'


BEGIN = """
export PINISI_STOP="$folder/$job.stop" PINISI_EXIT="$folder/$job.exit"
rm -f "$PINISI_STOP" "$PINISI_EXIT"
cancelled= ray=
trap ': > "$PINISI_STOP"' USR1
trap 'cancelled=1; : > "$PINISI_STOP"' TERM

end() {  # with the exit code $1, or in the queue again
    if [ -n "$ray" ]; then  # what of it was killed has left its folder on this node
        kill "$ray" 2> /dev/null; wait "$ray" 2> /dev/null
        rm -rf "${TMPDIR:-/tmp}/pinisi-$SLURM_JOB_ID-"* "/tmp/pinisi-$SLURM_JOB_ID-"*
    fi
    [ "$1" -eq 0 ] && rm -f "$folder/$job."*
    if [ "$1" -eq 0 ] || [ "$1" -eq 2 ] || [ -n "$cancelled" ]; then exit "$1"; fi
    if [ -e "$PINISI_STOP" ]; then
        [ "${SLURM_RESTART_COUNT:-0}" -lt "$requeues" ] || { echo "slurm: requeued $requeues times, which is requeues"; exit 1; }
        echo "slurm: time is over; in the queue again"
    else
        echo failed >> "$folder/$job.failed"
        [ "$(wc -l < "$folder/$job.failed")" -le "$failures" ] || exit "$1"
        echo "slurm: failed ($1); in the queue again"
    fi
    scontrol requeue "$job" && exit 0
    echo "slurm: this cluster does not let jobs back into the queue; submit the run again, and it continues"
    exit 1
}

run() {  # one command, while this shell goes on listening to signals
    [ -e "$PINISI_STOP" ] && end 130
    rm -f "$PINISI_EXIT"
    "$@" &
    local work=$! code=0
    while :; do
        wait "$work"; code=$?
        kill -0 "$work" 2> /dev/null || break
    done
    [ -s "$PINISI_EXIT" ] && code=$(< "$PINISI_EXIT")
    [ "$code" -eq 0 ] || end "$code"
}
"""

END = "end 0"
