"""One stage as a program of its own: `python -m ray_jobs.<job> --run-dir URI`, for `ray job submit` and other schedulers.

Every job module ends by calling `main`. It does what `pinisi run --only` does: nothing when the stage is done, what is left
when it was stopped, and an error when the stage before is not done.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from ray_jobs import cli


def main(file: str, arguments: list[str] | None = None) -> None:
    """Run the stages whose job is the module `file`."""
    job = Path(file).stem
    parser = argparse.ArgumentParser(prog=f"python -m ray_jobs.{job}", description=f"The {job} stages of a run.")
    parser.add_argument("--run-dir", required=True, metavar="URI", help="where the run lies")
    parser.add_argument("--recipe", metavar="RECIPE", help="of the run's first stage; later the run has its own copy")
    parser.add_argument("--stage", metavar="STAGE", help="one of several stages of this job, e.g. pretrain/stage2")
    parser.add_argument(
        "--address", help="a Ray cluster to join: auto, HOST:6379 or ray://HOST:10001 (default: a private one)"
    )
    options = parser.parse_args(arguments)
    cli.guarded(lambda: _run(job, options))


def _run(job: str, options: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, cli.terminate)
    from ray_jobs.config import reader as recipes
    from ray_jobs.errors import UserError
    from ray_jobs.run.run import Run, open_run
    from ray_jobs.work import trainer

    run = Run(options.run_dir, recipes.load(options.recipe)) if options.recipe else open_run(options.run_dir)
    names = [stage.name for stage in run.stages if stage.job == job and options.stage in (None, stage.name)]
    if not names:
        raise UserError(f"{options.run_dir}: the recipe has no such stage of {job}")
    for name in names:
        if not run.execute(only=name, address=options.address, say=lambda line: print(line, flush=True)):
            print(f"{name}: done already")
    trainer.stop()
