"""The section `slurm` of a cluster file: how jobs are asked for on a Slurm cluster. docs/slurm.md has its keys."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from cluster.strict_yaml import Positive, Section

TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
CHECKPOINT_AND_WORK = 60  # seconds that must be left for work: Slurm may send its signal up to a minute early


def seconds(time: str) -> int:
    """Slurm's way to write a time limit: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S. Raises ValueError.

    >>> seconds("30"), seconds("2:30"), seconds("1:00:00"), seconds("2-12"), seconds("1-00:30")
    (1800, 150, 3600, 216000, 88200)
    """
    if not (match := TIME.fullmatch(time)):
        raise ValueError(f"{time!r} is no time limit; write it as H:MM:SS or D-HH:MM:SS")
    days, *rest = (None if part is None else int(part) for part in match.groups())
    first, second, third = rest[0] or 0, rest[1], rest[2]
    if days is not None:
        return days * 86_400 + first * 3600 + (second or 0) * 60 + (third or 0)
    if third is not None:
        return first * 3600 + (second or 0) * 60 + third
    return first * 60 + (second or 0)


def _time(value: str) -> str:
    seconds(value)
    return value


Time = Annotated[str, AfterValidator(_time)]
Word = Annotated[str, Field(pattern=r"^[^\s'\"\\]+$")]


class Asked(Section):
    """What a job asks for; of a group it goes before what the whole section says."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    reservation: Word | None = None
    options: list[str] = []  # more options of sbatch, such as --exclusive


class SlurmGroup(Asked):
    time: Time | None = None
    gres: Word | None = None  # of a node; None: gpu:N, or gpu:TYPE:N where the group has a gpu_type


class Slurm(Asked):
    time: Time = "24:00:00"
    ray: bool = True  # False: curation by array tasks, training by torchrun
    groups: dict[str, SlurmGroup] = {}  # by the name of a group of the file
    array: Positive = 16  # tasks of an array, each on the CPUs of one node of the group; without Ray
    array_running: Positive | None = None  # how many of them at a time; None: max_nodes
    checkpoint_seconds: Positive = 300  # from the signal until the time limit
    requeues: Positive = 1000  # how often a job may reach its time limit
    failures: Annotated[int, Field(ge=0)] = 3  # how often a job that failed is started again
    setup: list[str] = []  # shell lines before the work, such as module load
    python: str | None = None  # of the nodes; None: that of whoever submits, or `python` of the image
    apptainer: str | None = None  # an image file that nodes reach
    binds: list[str] = []  # folders that the image sees too, beside the run's
    shared: list[str] = []  # folders that are shared though they look like a disk of this machine
    interface: Word | None = None  # network between nodes, such as ib0

    def of(self, group: str, key: str) -> str | None:
        """What a job of `group` asks for under `key`."""
        own = getattr(self.groups.get(group), key, None)
        return own if own is not None else getattr(self, key, None)

    def limit(self, group: str) -> int:
        """Seconds. Raises ValueError when they leave no time to work beside a checkpoint."""
        time = self.of(group, "time") or self.time
        if (limit := seconds(time)) < self.checkpoint_seconds + CHECKPOINT_AND_WORK:
            raise ValueError(
                f"slurm: the time limit {time} of group {group} is too short for a checkpoint: it needs "
                f"checkpoint_seconds ({self.checkpoint_seconds}) and at least {CHECKPOINT_AND_WORK} s more"
            )
        return limit
