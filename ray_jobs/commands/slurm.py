"""`pinisi submit --slurm` and `pinisi cluster render --target slurm`: a run as a chain of jobs in Slurm's queue.

With Ray: one job for curation on the nodes of a CPU group, and after it one for training on those of a GPU group. Without: for
each stage that works part by part an array whose tasks do a share each, between them jobs that sum up and begin the next stage,
and at last training by torchrun. Whatever job ends early, the next submit of the same command continues.
"""

from __future__ import annotations

import getpass
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from cluster import storage
from cluster.deploy import slurm as scripts
from cluster.deploy import spec
from cluster.deploy.slurm import FOLDER, Place, Step
from cluster.deploy.slurm_spec import seconds
from cluster.deploy.spec import Cluster, Group
from ray_jobs.commands import travel
from ray_jobs.config import reader as recipes
from ray_jobs.config.recipe import Recipe
from ray_jobs.config.training import Train
from ray_jobs.errors import UserError
from ray_jobs.run import contact, graph, lock
from ray_jobs.run.fingerprint import ROOT
from ray_jobs.run.run import Run

SHARED_KINDS = re.compile(
    r"nfs|lustre|gpfs|beegfs|ceph|wekafs|panfs|afs|cifs|smb|gluster|orangefs|pvfs|daos|9p|virtiofs|fuse"
)
"""How file systems are called that several machines may have; a folder of another kind must stand in `slurm.shared`."""
RECIPE = "recipe.yaml"
SUBMIT = "submit.sh"


def submit(recipe: str, overrides: list[str], flags: list[str], *, file: str, run_dir: str | None) -> list[str]:
    """Give the run to Slurm; returns the numbers of its jobs and says them. `flags` are further ones of `pinisi run`.

    Raises UserError for a recipe or cluster file that is wrong, a run directory that nodes may not see, a limit that is too
    short, a partition that does not exist, a machine without Slurm, and a run that is in the queue already."""
    cluster = _load(file)
    assert cluster.slurm is not None
    name, text = recipes.portable(recipe, overrides)
    asked = Recipe.model_validate(yaml.safe_load(text)["base"])
    for sentence in travel.left_behind(asked, shared_disk=True):
        raise UserError(f"submit: {sentence}")
    run_dir = _run_dir(run_dir or storage.join(cluster.run_dir, name), cluster.slurm.shared)
    for program in ("sbatch", "scontrol", "squeue"):
        if not shutil.which(program):
            raise UserError(
                f"submit --slurm: there is no {program} on this machine; submit on a login node of the cluster"
            )
    made = steps(cluster, asked, run_dir, flags, _done(run_dir, text, flags))
    if not made:
        print("nothing to do: every stage is done")
        return []
    place = _place(cluster, name, run_dir, asked)
    files = {file: _script(cluster, step, place) for file, step in zip(_names(made), made, strict=True)}
    _check_partitions(cluster, made)
    _check_free(run_dir)
    folder = Path(run_dir) / FOLDER
    paths = write(folder, {**files, RECIPE: text})  # of a run in the queue the recipe stays as it is
    jobs: list[str] = []
    for step, path in zip(made, paths[: len(made)], strict=True):
        after = [f"--dependency={scripts.dependency(step, jobs)}"] if jobs else []
        try:
            jobs.append(_ask("sbatch", "--parsable", "--kill-on-invalid-dep=yes", *after, path).split(";")[0])
        except UserError:
            if jobs:
                subprocess.run(["scancel", *jobs], check=False)
            raise
        print(f"submitted {step.name}: job {jobs[-1]}", flush=True)
    print(
        f"`pinisi status {run_dir}` and {folder}/*.log follow them; `scancel {' '.join(jobs)}` stops them, and the same command "
        "continues"
    )
    return jobs


def rendered(cluster: Cluster, recipe: str, overrides: Sequence[str] = ()) -> dict[str, str]:
    """The same jobs as files, by name, with a script that gives them to Slurm. Nothing is asked of Slurm."""
    _section(cluster, "the cluster file")
    name, text = recipes.portable(recipe, overrides)
    asked = Recipe.model_validate(yaml.safe_load(text)["base"])
    for sentence in travel.left_behind(asked, shared_disk=True):
        raise UserError(f"{recipe}: {sentence}")
    run_dir = storage.join(cluster.run_dir, name)
    if not is_path(run_dir):
        raise UserError(f"run_dir: {cluster.run_dir} must be an absolute path of a file system that all nodes share")
    place = _place(cluster, name, storage.local(run_dir), asked)
    made = steps(cluster, asked, place.run_dir, [])
    names = _names(made)
    files = {file: _script(cluster, step, place) for file, step in zip(names, made, strict=True)}
    return {**files, RECIPE: text, SUBMIT: scripts.submission(names, made, place.run_dir)}


def is_path(uri: str) -> bool:
    return storage.is_local(uri) and os.path.isabs(storage.local(uri))


def steps(cluster: Cluster, recipe: Recipe, run_dir: str, flags: list[str], done: Collection[str] = ()) -> list[Step]:
    """The jobs of a run, each after the one before; none for stages that are `done`."""
    assert cluster.slurm is not None
    cpu, gpu = cluster.of_role("cpu")[0], (cluster.of_role("gpu") or cluster.of_role("cpu"))[0]
    names = [stage.name for stage in graph.enabled(recipe)]
    curation = names[: names.index(graph.TOKENIZE) + 1] if graph.TOKENIZE in names else []
    rest = [name for name in names if name not in curation and name not in done]
    ready = set(curation) <= set(done)
    copy = f"{run_dir}/{FOLDER}/{RECIPE}"
    run = ("ray_jobs.cli", "run", copy, "--run-dir", run_dir)
    if recipe.train and rest:
        _check_workers(recipe.train, gpu, cluster.slurm.ray)
    if cluster.slurm.ray:
        wanted = [value for flag, value in itertools.pairwise(flags) if flag in ("--until", "--only")]
        on_cpus = any(graph.matches(name, wanted[0]) for name in curation) if wanted else not rest
        if not flags and ready and not rest:
            return []
        if ready or not rest or flags:
            return [Step("run", cpu if on_cpus else gpu, ((*run, *flags),), "ray")]
        return [
            Step("curate", cpu, ((*run, "--until", curation[-1]),), "ray"),
            Step("train", gpu, (run,), "ray"),
        ]
    if flags:
        raise UserError(f"submit --slurm: {flags[0]} needs `ray: true` in the section slurm of the cluster file")
    alone = (*run, "--without-ray")
    arrays = [name for name in graph.PARTED if name in curation and name not in done]
    if _from_common_crawl(recipe):  # its rate limit is one for all, so one node reads
        arrays = [name for name in arrays if name != graph.CRAWL]
    made: list[Step] = []
    for name in arrays:
        short = name.replace("/", "-")
        own = ("ray_jobs.stages", name, "--run-dir", run_dir, "--without-ray")
        earlier = curation[: curation.index(name)]
        until = ((*alone, "--until", earlier[-1]),) if earlier else ()
        begin = (*own, "--begin") if earlier else (*own, "--recipe", copy, "--begin")
        made += [
            Step(f"before-{short}", cpu, (*until, begin), anyhow=bool(made)),
            Step(short, cpu, ((*own, "--share", f"SHARE/{cluster.slurm.array}"),), "array"),
        ]
    if not ready:
        made.append(Step("curate", cpu, ((*alone, "--until", curation[-1]),), anyhow=bool(made)))
    if rest:
        made.append(Step("train", gpu, (alone,), "ranks"))
    return made


def _load(file: str) -> Cluster:
    try:
        cluster = spec.load(file)
    except ValueError as error:
        raise UserError(str(error)) from None
    _section(cluster, file)
    return cluster


def _section(cluster: Cluster, file: str) -> None:
    if cluster.slurm is None:
        raise UserError(f"{file}: there is no section `slurm`; cluster/slurm.yaml shows one")


def _run_dir(uri: str, shared: list[str]) -> str:
    """The path of a run directory that all nodes see, as far as this machine can tell. Raises UserError."""
    if not is_path(uri):
        raise UserError(
            f"--run-dir {uri}: with Slurm a run lies on a file system that all nodes share; give its absolute path"
        )
    path = os.path.realpath(storage.local(uri))
    kind = _file_system(path)
    if SHARED_KINDS.search(kind) or any(Path(path).is_relative_to(os.path.realpath(one)) for one in shared):
        return path
    raise UserError(
        f"--run-dir {path}: it lies on {kind}, a disk of this machine alone; give a folder on a file system that all nodes "
        "share, or, if they do see this one, name it in slurm.shared of the cluster file"
    )


def _file_system(path: str) -> str:
    """The type of the file system that holds a path, by the mount that is nearest above it; `unknown` where that is not told."""
    found = ("", "unknown")
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return found[1]
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split(" ")
        place = place.encode().decode("unicode_escape")
        if Path(path).is_relative_to(place) and len(place) >= len(found[0]):
            found = (place, kind)
    return found[1]


def _place(cluster: Cluster, name: str, run_dir: str, recipe: Recipe) -> Place:
    environment = {"PYTHONUNBUFFERED": "1"}
    if contact.needed(recipe):
        contact.settle(recipe)  # a job has nobody to ask
        environment[contact.VARIABLE] = contact.known(recipe)
    if (ROOT / "pyproject.toml").is_file() and not (cluster.slurm and cluster.slurm.apptainer):  # a checkout
        environment["PYTHONPATH"] = str(ROOT)
    return Place(name, run_dir, sys.executable, environment)


def _script(cluster: Cluster, step: Step, place: Place) -> str:
    try:
        return scripts.script(cluster, step, place)
    except ValueError as error:
        raise UserError(str(error)) from None


def _names(made: list[Step]) -> list[str]:
    return [f"{number:02d}-{step.name}.sh" for number, step in enumerate(made)]


def write(folder: Path, files: dict[str, str]) -> list[str]:
    """The paths of the files. On a full disk those that were there stay."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / f".{name}.new").write_text(text, encoding="utf-8")
        for name in files:
            (folder / f".{name}.new").replace(folder / name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    return [str(folder / name) for name in files]


def _done(run_dir: str, text: str, flags: list[str]) -> set[str]:
    """The stages of the run that are done as the recipe `text` wants them; with `flags` the run itself finds out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, RECIPE)
        path.write_text(text, encoding="utf-8")
        run = Run(run_dir, recipes.load(str(path)))
    if flags or not storage.exists(storage.join(run.uri, "recipe.yaml")):
        return set()
    prints = run.fingerprints()
    return {stage.name for stage in run.stages if run.state(stage, prints) == "done"}


def _check_workers(train: Train, group: Group, ray: bool) -> None:
    """Under torchrun every rank trains, one for each GPU or one on each node; Ray must have a GPU or a CPU for each worker."""
    on_gpus = group.gpus and not (ray and train.device == "cpu")
    kind, each = ("GPUs", group.gpus) if on_gpus else ("CPUs", group.cpus if ray else 1)
    most = group.max_nodes * each
    if train.workers > most or (train.workers < most and not ray):
        held = f"{group.max_nodes} nodes of {each} {kind}" if each > 1 else f"{group.max_nodes} nodes"
        raise UserError(
            f"train.workers is {train.workers}, but the group {group.name} has {held}: give --set train.workers={most}, or "
            "change the group's max_nodes"
        )


def _from_common_crawl(recipe: Recipe) -> bool:
    return any(source.type == "commoncrawl" for source in recipe.sources)


def _check_partitions(cluster: Cluster, made: list[Step]) -> None:
    """Raises UserError for a partition that does not exist, or allows less time than is asked for."""
    assert cluster.slurm is not None
    told = _ask("scontrol", "--oneliner", "show", "partition")
    known = {match[1]: line for line in told.splitlines() if (match := re.match(r"PartitionName=(\S+)", line))}
    for group in {step.group.name: step.group for step in made}.values():
        partition = cluster.slurm.of(group.name, "partition")
        if partition is None:
            continue
        for one in partition.split(","):
            if one not in known:
                raise UserError(
                    f"slurm: there is no partition {one}, which group {group.name} asks for; there are {', '.join(sorted(known))}"
                )
            most = re.search(r"\bMaxTime=([\d:-]+)", known[one])
            if most and seconds(most[1]) < cluster.slurm.limit(group.name):
                raise UserError(
                    f"slurm: partition {one} allows {most[1]}, less than the time of group {group.name}; ask for less"
                )


def _check_free(run_dir: str) -> None:
    """Raises UserError when the run is in the queue, or somebody works on it."""
    mine = f"pinisi:{run_dir}"
    told = _ask("squeue", "--noheader", "--user", getpass.getuser(), "--format", "%A %k")
    jobs = sorted({line.split(" ", 1)[0] for line in told.splitlines() if line.split(" ", 1)[-1].strip() == mine})
    if jobs:
        raise UserError(
            f"{run_dir}: it is in Slurm's queue already, as job {', '.join(jobs)}; wait for it, or stop it by `scancel "
            f"{' '.join(jobs)}`"
        )
    if lock.alive(run_dir):
        raise UserError(f"{run_dir}: somebody works on it; wait for that or stop it")


def _ask(*command: str) -> str:
    """What a command of Slurm prints. Raises UserError with its last line where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"slurm: {said[-1].removeprefix(f'{command[0]}: ').removeprefix('error: ')}")
    return done.stdout.strip()
