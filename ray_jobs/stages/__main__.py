"""One stage as a program of its own: `python -m ray_jobs.stages NAME --run-dir URI`, for `ray job submit` and other schedulers.

It does what `pinisi run --only` does: nothing when the stage is done, what is left when it was stopped, and an error when the
stage before is not done.

Of stages that work part by part, several processes can each do a share: `--begin` first, then `--share 0/8` to `--share 7/8` side
by side on any machines, then the stage itself, which does what shares have left and sums up.
"""

from __future__ import annotations

import argparse
import re
import signal

from cluster.kernel_files import drop_stale
from ray_jobs import exits
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run import graph
from ray_jobs.run.job import Share
from ray_jobs.run.run import Run, open_run
from ray_jobs.work import trainer


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.stages", description="One stage of a run, or several.")
    text = "a stage such as pretrain/stage2, or a module of this folder such as pretrain: all stages that it does"
    parser.add_argument("name", metavar="NAME", help=text)
    parser.add_argument("--run-dir", required=True, metavar="URI", help="where the run lies")
    parser.add_argument("--recipe", metavar="RECIPE", help="of the run's first stage; later the run has its own copy")
    parser.add_argument(
        "--address", help="a Ray cluster to join: auto, HOST:6379 or ray://HOST:10001 (default: a private one)"
    )
    text = "all work in processes of this machine, and training on the ranks of torchrun"
    parser.add_argument("--without-ray", action="store_true", help=text)
    parser.add_argument("--begin", action="store_true", help="only make the stage ready for shares")
    text = "do only every N-th part of the stage from number K on, beside others that do theirs"
    parser.add_argument("--share", metavar="K/N", help=text)
    options = parser.parse_args(arguments)
    drop_stale()
    exits.guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, exits.terminate)
    exits.stop_by_file()
    run = Run(options.run_dir, recipes.load(options.recipe)) if options.recipe else open_run(options.run_dir)
    names = [stage.name for stage in run.stages if options.name in (stage.name, stage.job)]
    if not names:
        raise UserError(f"{options.run_dir}: the recipe has no such stage of {options.name}")
    share = _share(options.share) if options.share is not None else None
    if share and (whole := [name for name in names if name not in graph.PARTED]):
        raise UserError(
            f"--share: {whole[0]} is done as a whole, so run it without; shares are for {', '.join(graph.PARTED)}"
        )

    def say(line: str) -> None:
        print(line, flush=True)

    where = {"address": options.address, "ray": not options.without_ray}
    for name in names:
        if not (
            run.share(name, share, say) if share else run.execute(only=name, begin=options.begin, say=say, **where)
        ):
            print(f"{name}: done already")
    trainer.stop()


def _share(text: str) -> Share:
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not (found and int(found[1]) < int(found[2])):
        raise UserError(f"--share {text}: write it as K/N, such as 0/8 to 7/8")
    return Share(int(found[1]), int(found[2]))


if __name__ == "__main__":
    main()
