"""`pinisi experiment NAME|FILE`: arms of one question, run one after the other, all that is equal shared, one page.

`pinisi compare RUN RUN` puts two finished runs beside each other in the same way (ray_jobs/experiment).
"""

from __future__ import annotations

import argparse
import json
import signal

from rich.text import Text

from cluster import storage, terminal
from cluster.terminal import Column
from ray_jobs import exits
from ray_jobs.commands import questions
from ray_jobs.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ray_jobs.experiment.specification import shipped

    text = f"a YAML file, or a shipped experiment: {', '.join(sorted([*shipped(), *questions.QUESTIONS]))}"
    parser.add_argument("experiment", metavar="EXPERIMENT", help=text)
    text = "override a recipe key of all arms, e.g. train.context=512"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
    text = "adopt what this finished run has made, where it is the same; may be given more than once"
    parser.add_argument("--from", dest="donors", action="append", default=[], metavar="RUN", help=text)
    parser.add_argument("--seeds", metavar="N,N", help="other seeds than those of the file, such as 42,43,44")
    text = "where the arms lie (default: runs/<name of the experiment>)"
    parser.add_argument("--run-dir", metavar="URI", help=text)
    parser.add_argument("--address", help="a Ray cluster to join: auto, HOST:6379 or ray://HOST:10001")
    text = "only say what each arm would adopt, what it would make, and what that takes"
    parser.add_argument("--dry-run", action="store_true", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON for a program")
    questions.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, exits.terminate)
    if asked := questions.QUESTIONS.get(options.experiment):
        return asked(options)
    _run(options)
    return 0


def _run(options: argparse.Namespace) -> None:
    from ray_jobs.experiment import engine, page, specification
    from ray_jobs.work import trainer

    experiment, path = specification.load(options.experiment, _seeds(options.seeds))
    trials = specification.trials(experiment, path, options.set)
    uri = options.run_dir or storage.join("runs", experiment.name)
    if options.dry_run:
        planned = engine.plan(experiment, trials, uri, options.donors)
        ahead = [engine.as_json(one, planned) for one in planned]
        print(json.dumps(ahead, indent=1)) if options.json else _show_plan(experiment.question, ahead)
        return
    try:
        done = engine.execute(experiment, trials, uri, options.donors, address=options.address, say=_say(options.json))
    finally:
        trainer.stop()
    found = page.write(experiment, done, uri)
    if options.json:
        print(json.dumps(page.as_json(found), indent=1, ensure_ascii=False))
    else:
        terminal.show(page.lines(found, f"{experiment.name}: {experiment.question}"))
        print(f"page: {storage.join(uri, page.FILE)}")


def _say(as_json: bool):
    return (lambda _: None) if as_json else (lambda sentence: print(sentence, flush=True))


def _seeds(text: str | None) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UserError(f"--seeds {text}: give whole numbers with commas between them, such as 42,43") from None


def _show_plan(question: str, found: list[dict]) -> None:
    columns = [
        Column("arm"),
        terminal.numbers("seed"),
        terminal.numbers("adopts"),
        Column("tokens", right=True),
        Column("FLOPs", right=True),
        Column("makes", free=True),
    ]
    rows = []
    for one in found:
        bound = "≤ " * one["at_most"]
        tokens, work = one["tokens"], one["flops"]
        rows.append(
            (
                one["arm"],
                one["seed"],
                len(one["adopted"]),
                "auto" if tokens is None else f"{bound}{terminal.short(tokens)}",
                "auto" if work is None else f"{bound}{work:.2g}",
                ", ".join(one["makes"]) or "nothing",
            )
        )
    lines = [*terminal.paragraph(question), *terminal.table(columns, rows)]
    for name, equal in {one["arm"]: one["equal_compute"] for one in found}.items():
        if equal:
            arm, ratio = equal["arm"], equal["ratio"]
            lines += terminal.paragraph(
                f"{name}: pre-trained on {ratio:.3f} times the tokens of {arm}, whose FLOPs it has"
            )
    sources = sorted({home for one in found for home in one["adopted"].values()})
    lines += [line for home in sources for line in terminal.verbatim(f"adopts from {home}")]
    terminal.show(lines)


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run directory (any URI); the other is compared with it")
    parser.add_argument("other", metavar="RUN", help="another run directory")
    parser.add_argument("--html", metavar="FILE", help="write the comparison as a page too")
    parser.add_argument("--json", action="store_true", help="print JSON for a program")


def compare(options: argparse.Namespace) -> None:
    from ray_jobs.experiment import page, two_runs
    from ray_jobs.run.run import open_run

    names = _names(options.run, options.other)
    found, facts = two_runs.compare(open_run(options.run), open_run(options.other), names)
    question = f"How does {names[1]} differ from {names[0]}?"
    if options.html:
        storage.write_text(options.html, page.html(found, " and ".join(names), question, facts=facts))
    if options.json:
        whole = {**page.as_json(found), "facts": [one._asdict() for one in facts]}
        print(json.dumps(whole, indent=1, ensure_ascii=False))
        return
    for one in facts:
        columns = [Column(head, right=one.numbers and i > 0) for i, head in enumerate(one.heads)]
        terminal.show([*terminal.table(columns, one.rows, title=one.title), Text()])
    terminal.show(page.lines(found, question))
    if options.html:
        print(f"page: {options.html}")


def _names(first: str, second: str) -> tuple[str, str]:
    """The runs as short as tells them apart: without the folders above that both are in.

    >>> _names("runs/beta/low/1", "runs/beta/high/1"), _names("demo", "demo/")
    (('low/1', 'high/1'), ('demo', 'demo (again)'))
    """
    one, other = (uri.rstrip("/").split("/") for uri in (first, second))
    if one == other:
        return one[-1], f"{one[-1]} (again)"
    while one[0] == other[0] and min(len(one), len(other)) > 1:
        one, other = one[1:], other[1:]
    return "/".join(one), "/".join(other)
