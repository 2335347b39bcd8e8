"""The `pinisi` command. An error is one sentence on stderr: exit code 2 when the user can mend it, else 1."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from cluster.kernel_files import drop_stale
from ray_jobs import exits
from ray_jobs.errors import UserError

ROOT = Path(__file__).parent.parent
GRACE_SECONDS = 300
TRAINED = {
    "words": "stop words of every language, from documents: a folder for filter.word_lists",
    "lid": "a language identifier, from labelled documents: a folder for language.model",
    "lm": "language models for perplexity, from documents: a folder for filter.perplexity_models",
    "quality": "a quality classifier on an encoder, from judged documents: a folder for quality.model",
    "tokenizer": "a byte-level BPE, from documents, with the fertility of each language: a folder for tokenize.tokenizer",
}
"""What `pinisi train` makes -> its help; each is a module of ray_jobs/prepare."""


class _Parser(argparse.ArgumentParser):
    declare: Callable[[], None] | None = None
    """Adds the arguments of a command that another module describes: called, and the module read, once that command is given."""

    def parse_known_args(self, args=None, namespace=None):
        if self.declare:
            declare, self.declare = self.declare, None
            declare()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


class _Version(argparse.Action):
    """`pinisi 0.1.0, Python 3.11.9`, and in a checkout its commit."""

    def __call__(self, parser: argparse.ArgumentParser, *_) -> None:
        commit = ""
        if (ROOT / ".git").exists() and shutil.which("git"):
            command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
            commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        python = ".".join(map(str, sys.version_info[:3]))
        print(f"pinisi {importlib.metadata.version('pinisi')}, Python {python}{f', commit {commit}' if commit else ''}")
        parser.exit()


def main(arguments: list[str] | None = None) -> None:
    def run() -> int | None:
        options = _parser(whole=False).parse_args(arguments)
        drop_stale()
        return options.command(options)

    exits.guarded(run)


def _parser(whole: bool = True) -> argparse.ArgumentParser:
    """The command line. `whole`: with the arguments of all commands, for who reads it; else each imports its own when given."""
    parser = _Parser(prog="pinisi", description="Common Crawl in, a language model for under-served languages out.")
    parser.add_argument("--version", action=_Version, nargs=0, help="say which version this is, and stop")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, function: Callable, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    def described(name: str, module: str, text: str, within=commands, names=("add_arguments", "main")) -> None:
        """A command whose arguments and work are the functions `names` of `module`."""
        sub = within.add_parser(name, help=text, description=text)

        def declare() -> None:
            add_arguments, work = (getattr(importlib.import_module(module), name) for name in names)
            add_arguments(sub)
            sub.set_defaults(command=work)

        if whole:
            declare()
        else:
            sub.declare = declare

    run = command("run", _run, "run a recipe, or continue it")
    submit = command("submit", _submit, "run a recipe as a Ray job on a cluster, or continue it, and follow its log")
    shipped = ", ".join(sorted(path.stem for path in (Path(__file__).parent / "recipes").glob("*.yaml")))
    for sub in (run, submit):
        sub.add_argument("recipe", metavar="RECIPE", help=f"a YAML file, or a shipped recipe: {shipped}")
        sub.add_argument("--until", metavar="STAGE", help="stop after this stage, such as dedup or sft/data")
        sub.add_argument("--from", dest="start", metavar="STAGE", help="run this stage and all after it again")
        sub.add_argument("--only", metavar="STAGE", help="run this stage alone")
        text = "leave this finished or begun stage as it is, though code that decides it has changed"
        sub.add_argument("--keep", action="append", default=[], metavar="STAGE", help=text)
        text = "run this stage, which took long, and what depends on it again, as code that decides it has changed"
        sub.add_argument("--rerun", action="append", default=[], metavar="STAGE", help=text)
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override a recipe key, e.g. train.pretrain.lr=2e-5",
        )
    run.add_argument(
        "--address", help="a Ray cluster to join: auto, HOST:6379 or ray://HOST:10001 (default: a private one)"
    )
    text = "all work in processes of this machine, and training on the ranks of torchrun where it starts this command"
    run.add_argument("--without-ray", action="store_true", help=text)
    run.add_argument("--run-dir", metavar="URI", help="where the run lies (default: runs/<recipe name>)")
    text = "only say what training will be: shapes, parameters, memory of a GPU, steps, checkpoints"
    run.add_argument("--dry-run", action="store_true", help=text)
    run.add_argument("--json", action="store_true", help="print what --dry-run finds as JSON for a program")
    submit.add_argument("--address", help="the dashboard of the cluster: http://HEAD:8265")
    text = (
        "give the run to Slurm instead, as jobs that the section `slurm` of this cluster file describes (docs/slurm.md)"
    )
    submit.add_argument("--slurm", metavar="FILE", help=text)
    submit.add_argument("--run-dir", metavar="URI", help="where the run lies; every node must reach it")
    text = "do not send this checkout's code: Pinisi is installed on the cluster's nodes"
    submit.add_argument("--no-code", action="store_true", help=text)
    submit.add_argument("--no-follow", action="store_true", help="do not wait for the job and its log")
    grace = "seconds between `ray job stop` and the kill, for a last checkpoint (%(default)s)"
    submit.add_argument("--grace", type=int, default=GRACE_SECONDS, metavar="SECONDS", help=grace)

    status = command("status", _status, "table of a run's stages, and how long they still take")
    text = "show it again every so many seconds (%(const)s) until nobody works on the run; in a pipe a line per change"
    status.add_argument("--watch", type=float, nargs="?", const=5, metavar="SECONDS", help=text)
    text = "also write it as an HTML page (any URI), which a browser loads anew by itself while --watch goes on"
    status.add_argument("--page", metavar="FILE", help=text)
    explain = command("explain", _explain, "what happened to one document at every stage, and why")
    report = command("report", _report, "write the HTML report of a run again")
    for sub in (status, explain, report):
        sub.add_argument("run", metavar="RUN", help="run directory (any URI)")
    explain.add_argument("document", metavar="DOC", help="a document id, a source's own id, or a URL")
    weights = command("weights", _weights, "the mixture of a training stage, or change it from a step on")
    takedown = command("takedown", _takedown, "train no more on a document, from a step on, without moving any other")
    trace = command("trace", _trace, "which documents, URLs and WARC records a step of training has read")
    append = command("append", _append, "tokenise more documents into the pools of a run, moving none that is there")
    for sub in (weights, takedown, trace, append):
        sub.add_argument("run", metavar="RUN", help="run directory (any URI)")
    for sub in (weights, trace):
        text = "a stage that reads the mixture (%(default)s)"
        sub.add_argument("--stage", default="stage1", metavar="STAGE", help=text)
    for sub in (weights, takedown):
        sub.add_argument(
            "--from-step", type=int, metavar="N", help="the first step with the change; steps count from 1"
        )
        sub.add_argument("--reason", default="", help="goes into the ledger")
    text = "the share of a pool from there on, such as th=0.3; the others keep their proportions"
    weights.add_argument("--set", action="append", default=[], metavar="POOL=SHARE", help=text)
    text = "read from there on also what was appended to the pools"
    weights.add_argument("--grow", action="store_true", help=text)
    takedown.add_argument("document", metavar="DOC", help="a document id, a source's own id, or a URL")
    text = "Parquet files with doc_id, lang, text, such as 'RUN/quality/part-*.parquet' of another run"
    append.add_argument("documents", metavar="GLOB", help=text)
    append.add_argument("--pool", default="all", help="the pools <pool>/<lang> (%(default)s)")
    text = "the stage whose steps --from-step counts (default: the one under way)"
    takedown.add_argument("--stage", metavar="STAGE", help=text)
    trace.add_argument("step", metavar="STEP", type=int, help="of the training; steps count from 1, as in the metrics")
    trace.add_argument("--top", type=int, default=20, metavar="N", help="documents to print (%(default)s)")
    cluster = commands.add_parser("cluster", help="make the files of a cluster").add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )
    text = "write the files for ray up, KubeRay, the Spark operator and Slurm from one cluster.yaml"
    render = cluster.add_parser("render", help=text, description=text)
    render.set_defaults(command=_render)
    render.add_argument("cluster", metavar="CLUSTER", help="a cluster.yaml; cluster/cluster.yaml is an example")
    render.add_argument("--out", required=True, metavar="DIR", help="folder for the files")
    render.add_argument("--target", default="all", choices=["all", "aws", "gcp", "azure", "kuberay", "spark", "slurm"])
    text = "what jobs run (%(default)s): a shipped recipe, or a file of yours, which travels along"
    render.add_argument("--recipe", default="demo", help=text)
    text = "override a recipe key, e.g. train.workers=16"
    render.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
    text = "what a cluster.yaml lacks, what may go wrong with it, and what nobody looked at; no cloud is asked"
    check = cluster.add_parser("check", help=text, description=text)
    check.set_defaults(command=_check)
    check.add_argument("cluster", metavar="CLUSTER", help="a cluster.yaml; cluster/cluster.yaml is an example")
    check.add_argument("--target", default="all", choices=["all", "aws", "gcp", "azure", "kuberay", "spark", "slurm"])
    text = "also ask: run the commands that look (kubectl, aws, gcloud, az, docker); they change nothing"
    check.add_argument("--online", action="store_true", help=text)
    check.add_argument("--json", action="store_true", help="print JSON for programs")
    trial = command("policy", _policy, "what another policy would keep and drop, and why, from stored signals")
    trial.add_argument("run", metavar="RUN", help="run directory (any URI)")
    asked = trial.add_mutually_exclusive_group(required=True)
    asked.add_argument("--try", dest="file", metavar="FILE", help="YAML in the shape of filter.policy")
    text = "propose bounds from what people said of documents (pinisi inspect), as a change of the recipe"
    asked.add_argument("--from-labels", action="store_true", help=text)
    trial.add_argument("--examples", type=int, default=5, metavar="N", help="of a language and side (%(default)s)")
    text = "with --try: train small models on what each policy keeps, and say whose documents are the better ones"
    trial.add_argument("--train", action="store_true", help=text)
    text = "with --train: so many pairs of models, each on documents of its own (%(default)s)"
    trial.add_argument("--seeds", type=int, default=5, metavar="K", help=text)
    trial.add_argument("--json", action="store_true", help="print JSON for a program")
    text = "speakers judge what was kept and dropped, on a page of this machine, and what their judgements come to"
    described("inspect", "ray_jobs.commands.inspect", text)
    train = commands.add_parser("train", help="make a model or a list that a recipe then names").add_subparsers(
        title="what to make", required=True, metavar="WHAT"
    )
    for what, text in TRAINED.items():
        described(what, f"ray_jobs.prepare.{what}", text, within=train)
    text = "what Pinisi needs of a language that it does not know, from texts in it: a folder for the recipe"
    language = commands.add_parser("language", help="add a language").add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )
    described("new", "ray_jobs.prepare.new_language", text, within=language)
    text = "more tokens for the languages whose text costs most, in a model that exists: a folder for train.base.model"
    words = commands.add_parser("vocabulary", help="change the vocabulary of a model").add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )
    described("grow", "ray_jobs.prepare.vocabulary", text, within=words)
    text = "a training checkpoint to a Hugging Face folder, or such a folder to a checkpoint"
    described("convert", "ray_jobs.commands.convert", text)
    text = "talk to an exported model in the terminal, with a draft if it has one"
    described("chat", "ray_jobs.commands.chat", text)
    described("push", "ray_jobs.publish.push", "a model of a run, or its corpus, to the Hugging Face hub")
    text = "an exported model as one file for llama.cpp, with an Ollama Modelfile"
    described("gguf", "ray_jobs.publish.gguf", text)
    text = "all that Pinisi needs on a machine without a network, in one folder"
    described("bundle", "ray_jobs.publish.bundle", text)
    text = "users' thumbs become a table for each language, and preference rows"
    described("feedback", "ray_jobs.commands.feedback", text)
    text = "chat rows into other languages by NLLB or the like, for train.sft.instruct; killed, it goes on"
    described("translate", "ray_jobs.prepare.translate", text)
    text = "what each training stage would read of every language, beside Sailor2's tables"
    described("tokens", "ray_jobs.plan.tokens", text)
    plan = command("plan", _plan, "what a recipe will take on a cluster: time, nodes, money, memory, and why")
    plan.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    plan.add_argument("--cluster", required=True, metavar="CLUSTER", help="a cluster.yaml with prices")
    plan.add_argument("--from-run", metavar="RUN", help="take rates from this finished run")
    plan.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe key")
    plan.add_argument("--json", action="store_true", help="print JSON for a program")
    text = "arms of one question: run what differs, share what is equal, and say what the difference is"
    described("experiment", "ray_jobs.commands.experiment", text)
    text = "two finished runs: how recipes, tokens and mixture differ, and whether their models do"
    described("compare", "ray_jobs.commands.experiment", text, names=("add_compare_arguments", "compare"))
    doctor = command("doctor", _doctor, "what this machine lacks, and the command that mends it")
    doctor.add_argument("--storage", metavar="URI", help="also write to, and read from, where runs shall lie")
    for sub in (status, explain, doctor, trace, weights):
        sub.add_argument("--json", action="store_true", help="print JSON for a program")
    text = "a script with which Tab completes commands, flags, shipped recipes and stages"
    completing = command("completion", _completion, text)
    completing.add_argument("shell", choices=["bash", "fish", "zsh"], help="source <(pinisi completion bash)")
    return parser


def _run(options: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, exits.terminate)
    try:
        _run_here(options)
    finally:  # whatever ended rank 0, and however early: the others wait for it
        from ray_jobs.work import alone

        alone.dismiss()


def _run_here(options: argparse.Namespace) -> None:
    from cluster import storage
    from ray_jobs.config import reader as recipes
    from ray_jobs.run.run import Run
    from ray_jobs.work import alone, trainer

    if options.without_ray and options.address:
        raise UserError("--without-ray and --address exclude one another")
    if options.without_ray and not alone.leads():
        alone.serve(lambda: options.run_dir or storage.join("runs", recipes.load(options.recipe, options.set).name))
        return
    exits.stop_by_file()
    recipe = recipes.load(options.recipe, options.set)
    uri = options.run_dir or storage.join("runs", recipe.name)
    if options.dry_run:
        _dry_run(recipe, uri, options.json)
        return
    if options.json:
        raise UserError("--json goes with --dry-run; `pinisi status RUN --json` reads a run")
    run = Run(uri, recipe)
    ran = run.execute(
        until=options.until,
        start=options.start,
        only=options.only,
        rerun=options.rerun,
        keep=options.keep,
        address=options.address,
        ray=not options.without_ray,
        say=lambda s: print(s, flush=True),
    )
    if ran:
        trainer.stop()
    else:
        asked = f"every stage up to {options.until}" if options.until else options.only or "every stage"
        print(f"nothing to do: {asked} is done")
    _ending(uri, run)


def _ending(uri: str, run) -> None:
    """What the run came to. `uri`: as the user wrote it."""
    from cluster import terminal
    from ray_jobs.report import summary

    called = sys.argv[0]  # `make demo` calls .venv/bin/pinisi, which is not on the PATH
    named = Path(called).name == "pinisi" and shutil.which("pinisi") != called
    found = summary.of(uri, run.recipe, [stage.name for stage in run.stages])
    terminal.show(summary.lines(found, called if named else "pinisi"))


def _dry_run(recipe, run_uri: str, as_json: bool) -> None:
    from ray_jobs.plan import dry_run

    try:
        described = dry_run.describe(recipe, run_uri)
    except ValueError as error:
        raise UserError(str(error)) from None
    print(json.dumps(described, indent=1)) if as_json else dry_run.show(described)


def _submit(options: argparse.Namespace) -> int:
    from ray_jobs.commands import submit

    given = [("--until", options.until), ("--from", options.start), ("--only", options.only)]
    given += [(flag, stage) for flag in ("--keep", "--rerun") for stage in getattr(options, flag[2:])]
    flags = [text for flag, value in given if value for text in (flag, value)]
    if bool(options.address) == bool(options.slurm):
        raise UserError(
            "submit: give --address http://HEAD:8265 of a Ray cluster, or --slurm FILE; see `pinisi submit --help`"
        )
    if options.slurm:
        from ray_jobs.commands import slurm

        if options.no_code or options.no_follow or options.grace != GRACE_SECONDS:
            raise UserError(
                "submit: --no-code, --no-follow and --grace belong to --address; Slurm's keys are in the cluster file"
            )
        slurm.submit(options.recipe, options.set, flags, file=options.slurm, run_dir=options.run_dir)
        return 0
    where = {
        "address": options.address,
        "run_dir": options.run_dir,
        "grace": options.grace,
        "code": not options.no_code,
    }
    client, attempt = submit.submit(options.recipe, options.set, flags, **where)
    print(f"submitted {attempt}; {submit.advice(options.address, attempt)}", flush=True)
    return 0 if options.no_follow else submit.follow(client, attempt, options.address)


def _status(options: argparse.Namespace) -> int:
    from ray_jobs.commands import status
    from ray_jobs.run.run import open_run

    if options.watch is not None:
        if options.watch <= 0:
            raise UserError(f"--watch {options.watch:g}: seconds must be above 0")
        return status.watch(options.run, options.watch, as_json=options.json, page=options.page)
    run = open_run(options.run)
    rows = status.rows(run)
    if options.page:
        status.write_page(run, rows, options.page)
    print(json.dumps(rows, indent=1)) if options.json else status.show(rows)
    return 0


def _explain(options: argparse.Namespace) -> None:
    from ray_jobs.commands import explain
    from ray_jobs.run.run import open_run

    found = explain.events(open_run(options.run), options.document)
    print(json.dumps(found, indent=1, ensure_ascii=False)) if options.json else explain.show(found)


def _weights(options: argparse.Namespace) -> None:
    from ray_jobs.commands import data_changes

    data_changes.weights(options)


def _takedown(options: argparse.Namespace) -> None:
    from ray_jobs.commands import data_changes

    data_changes.takedown(options)


def _append(options: argparse.Namespace) -> None:
    from ray_jobs.commands import append

    append.main(options)


def _trace(options: argparse.Namespace) -> None:
    from ray_jobs.commands import trace

    trace.main(options)


def _policy(options: argparse.Namespace) -> None:
    from ray_jobs.commands import policy_labels, policy_trial
    from ray_jobs.run.run import open_run

    if options.train and not options.file:
        raise UserError("--train goes with --try FILE: it compares two policies")
    if options.from_labels:
        proposed = policy_labels.propose(open_run(options.run))
        print(json.dumps(proposed, indent=1, ensure_ascii=False)) if options.json else policy_labels.show(proposed)
        return
    if options.train:
        from ray_jobs.commands import policy_models

        if options.seeds < 2:
            raise UserError(
                f"--seeds {options.seeds}: must be 2 or more, as one pair of models shows nothing of others"
            )
        trained = policy_models.compare(open_run(options.run), options.file, range(42, 42 + options.seeds))
        print(json.dumps(trained, indent=1)) if options.json else policy_models.show(trained)
        return
    result = policy_trial.compare(open_run(options.run), options.file, options.examples)
    print(json.dumps(result, indent=1, ensure_ascii=False)) if options.json else policy_trial.show(result)


def _report(options: argparse.Namespace) -> None:
    from ray_jobs.report import page as report
    from ray_jobs.run.run import open_run

    print(f"report: {report.write(open_run(options.run))}")


def _render(options: argparse.Namespace) -> None:
    from cluster.deploy import render, spec
    from ray_jobs.commands import slurm, travel
    from ray_jobs.config import reader as recipes

    paths, warnings = [], []
    try:
        cluster = spec.load(options.cluster)
        slurm_too = options.target == "slurm" or (options.target == "all" and cluster.slurm is not None)
        clouds = options.target != "slurm" and not (slurm_too and not render.present(cluster))
        if clouds and slurm_too and not slurm.is_path(cluster.run_dir):
            slurm_too = False
            warnings.append(f"nothing for Slurm, as run_dir, {cluster.run_dir}, is no path that its nodes share")
        jobs = slurm.rendered(cluster, options.recipe, options.set) if slurm_too else {}
        if clouds:
            mounted = [volume.mount_path for volume in cluster.volumes]
            recipe, text = travel.as_image(options.recipe, mounted, options.set)
            needs = travel.needs(recipes.load(options.recipe, options.set))
            paths += render.render(cluster, options.out, options.target, recipe, text, file=options.recipe, needs=needs)
            found = render.of_clouds(cluster, options.target)
            warnings += [finding.sentence() for finding in found if finding.state == "warning"]
        if jobs:
            paths += slurm.write(Path(options.out) / "slurm", jobs)
    except (ValueError, OSError) as error:
        raise UserError(str(error) if options.cluster in str(error) else f"{options.cluster}: {error}") from None
    for path in paths:
        print(path)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _check(options: argparse.Namespace) -> int:
    from cluster.deploy import look, render, spec

    try:
        found = render.check(spec.load(options.cluster), options.target)
    except ValueError as error:
        raise UserError(str(error)) from None
    seen = look.asked(found) if options.online else [look.Seen(one) for one in found]
    print(json.dumps(look.as_json(seen), indent=1)) if options.json else look.show(seen, options.cluster)
    return 1 if any(one.state == "missing" for one in seen) else 0


def _plan(options: argparse.Namespace) -> None:
    from cluster.deploy import spec
    from ray_jobs.config import reader as recipes
    from ray_jobs.plan import cost as plan
    from ray_jobs.run.run import open_run

    recipe = recipes.load(options.recipe, options.set)
    measured = open_run(options.from_run) if options.from_run else None
    try:
        made = plan.make(recipe, spec.load(options.cluster), measured)
    except ValueError as error:
        raise UserError(str(error)) from None
    print(json.dumps(plan.as_json(made), indent=1)) if options.json else plan.show(made, plan.left_out(recipe))


def _completion(options: argparse.Namespace) -> None:
    from ray_jobs.commands import completion

    completion.show(_parser(), options.shell)


def _doctor(options: argparse.Namespace) -> int:
    from cluster.doctor import checks as doctor

    checks = doctor.checks(options.storage)
    print(json.dumps(checks, indent=1)) if options.json else doctor.show(checks)
    return 1 if any(check["state"] == "missing" for check in checks) else 0


if __name__ == "__main__":
    main()
