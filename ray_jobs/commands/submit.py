"""`pinisi submit`: a run as a Ray job, on a cluster that is reached through its dashboard.

Ray runs a job once; that the run goes on after a fault is our part. Every attempt is `pinisi run` of the same recipe on the
same run directory, so submitting the same command again continues. Attempts of a run are numbered: `NAME-1`, `NAME-2`.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from cluster import storage
from cluster.engines import join
from ray_jobs.commands import package, travel
from ray_jobs.config import reader as recipes
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import UserError
from ray_jobs.run import contact, lock

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

RETRY_SECONDS = 2.0
MAX_FAULTS = 60  # in a row, about two minutes
MAX_RACES = 5  # that others win for the number of an attempt


def submit(
    recipe: str, overrides: list[str], flags: list[str], *, address: str, run_dir: str | None, grace: int, code: bool
) -> tuple[JobSubmissionClient, str]:
    """Start the next attempt of the run; returns the client and the job's id. `flags` are further ones of `pinisi run`; without
    `code` the cluster's own Pinisi runs.

    Raises UserError for a recipe that cannot be read, a run directory that only this machine has, a package too large, a
    cluster that does not answer or refuses the token, and a run whose last attempt still works."""
    name, text = recipes.portable(recipe, overrides)
    asked = Recipe.model_validate(yaml.safe_load(text)["base"])
    for sentence in travel.left_behind(asked, shared_disk=True, package=package.ROOT if code else None):
        raise UserError(f"submit: {sentence}")
    contact.settle(asked)  # a job on the cluster has nobody to ask
    own = {contact.VARIABLE: contact.known(asked)} if contact.needed(asked) else {}
    if run_dir is None or (storage.is_local(run_dir) and not os.path.isabs(storage.local(run_dir))):
        raise UserError(
            "submit: --run-dir must be a place that every node reaches, such as s3://BUCKET/runs/"
            f"{name} or the absolute path of a shared disk"
        )
    client = connect(address)
    command = ["exec", "python", "-m", "ray_jobs.cli", "run", package.RECIPE, "--run-dir", run_dir, "--address", "auto"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "package.zip"
        package.write(path, text, package.ROOT if code else None)
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(grace), **own}
        for _ in range(MAX_RACES):
            attempt = _next(client, name, run_dir, address)
            try:
                client.submit_job(
                    entrypoint=shlex.join([*command, *flags]),
                    submission_id=attempt,
                    runtime_env={"working_dir": str(path), "env_vars": {lock.ATTEMPT: attempt, **variables}},
                    metadata={"run": name, "run_dir": run_dir},
                )
                return client, attempt
            except RuntimeError as error:
                if "already exists" not in str(error):  # of a job with this number, which another one took just before
                    raise UserError(f"{address}: the cluster did not take the job: {_last_line(error)}") from None
    raise UserError(f"{address}: others submit runs called {name} at the same time; try again, or set another `name`")


def _next(client: JobSubmissionClient, name: str, run_dir: str, address: str) -> str:
    """The id of the next attempt. Raises UserError where another one works on the same run directory."""
    earlier = attempts(client, name)
    for job in earlier.values():
        if job.submission_id and not job.status.is_terminal() and (job.metadata or {}).get("run_dir") == run_dir:
            raise UserError(
                f"{run_dir}: attempt {job.submission_id} still works on it; {advice(address, job.submission_id)}"
            )
    return f"{name}-{max(earlier, default=0) + 1}"


def connect(address: str) -> JobSubmissionClient:
    """A client of the dashboard at `address` (`http://HEAD:8265`). Raises UserError when it does not let us in."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    if not address.startswith(("http://", "https://")):
        raise UserError(f"--address {address}: give the dashboard of the cluster, such as http://HEAD:8265")
    try:
        client = JobSubmissionClient(address)
    except AuthenticationError:
        raise UserError(f"{address}: {join.WANTS_TOKEN}") from None
    except (ConnectionError, RuntimeError, OSError) as error:
        raise UserError(
            f"{address}: no Ray dashboard answers ({_last_line(error)}); is the cluster up, and port 8265 forwarded?"
        ) from None
    if _open_to_all(address):
        print(f"pinisi: warning: {address} {join.OPEN}", file=sys.stderr)
    return client


def attempts(client: JobSubmissionClient, name: str) -> dict[int, JobDetails]:
    """The jobs of the run called `name`, by attempt number."""
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    found = {}
    for job in client.list_jobs():
        if job.submission_id and (match := pattern.fullmatch(job.submission_id)):
            found[int(match[1])] = job
    return found


def follow(client: JobSubmissionClient, attempt: str, address: str) -> int:
    """Print the job's log until it ends; returns its exit code. Ctrl-C leaves the job running and says how to go on."""
    log, faults = _Log(), 0
    try:
        while True:
            try:
                asyncio.run(log.tail(client, attempt))
                if client.get_job_status(attempt).is_terminal():
                    break
                faults = 0
            except Exception as error:  # of the network, in the words of three libraries
                faults += 1
                if faults == MAX_FAULTS:
                    raise UserError(
                        f"{address} does not answer any more ({_last_line(error)}); {attempt} may go on, and `pinisi status` "
                        "reads the run's folder"
                    ) from None
            time.sleep(RETRY_SECONDS)
    except KeyboardInterrupt:
        print(f"\npinisi: {attempt} goes on; {advice(address, attempt)}", file=sys.stderr)
        return 0
    info = client.get_job_info(attempt)
    status = str(info.status.value)
    if status == "STOPPED":
        print(f"pinisi: {attempt} was stopped; the same command continues", file=sys.stderr)
        return 130
    if status == "FAILED" and info.driver_exit_code is None:
        print(f"pinisi: {attempt} failed: {_last_line(info.message)}; the same command continues", file=sys.stderr)
    return 0 if status == "SUCCEEDED" else info.driver_exit_code or 1


def advice(address: str, attempt: str) -> str:
    """How to look at a job and how to end it."""
    return (
        f"`ray job logs --address {address} --follow {attempt}` follows it, "
        f"`ray job stop --address {address} {attempt}` stops it after a checkpoint"
    )


class _Log:
    """Prints a job's log once, although every connection gives it from its beginning."""

    def __init__(self) -> None:
        self.shown = 0

    async def tail(self, client: JobSubmissionClient, attempt: str) -> None:
        at = 0
        async for text in client.tail_job_logs(attempt):
            print(text[max(0, self.shown - at) :], end="", flush=True)
            at += len(text)
            self.shown = max(self.shown, at)


def _open_to_all(address: str) -> bool:
    """Whether the dashboard lists jobs to somebody without a token."""
    try:
        with urllib.request.urlopen(f"{address}/api/jobs/", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _last_line(error: object) -> str:
    """The last line that says something: some end with a lone full stop."""
    lines = [line.strip() for line in str(error).splitlines() if re.search(r"\w", line)]
    return lines[-1] if lines else type(error).__name__
