"""Shipped experiments without arms: people are asked, and no model is trained."""

from __future__ import annotations

import argparse

from cluster import storage
from ray_jobs.commands import feedback, inspect
from ray_jobs.errors import UserError
from ray_jobs.run.graph import QUALITY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "of deployment: users' thumbs, a file or glob (`pinisi feedback --help`)"
    parser.add_argument("--feedback", metavar="FILE", help=text)
    parser.add_argument("--out", metavar="DIR", help="of deployment: folder for the table, the pairs and the ledger")
    text = "of hand-check: who judges (default: your user name)"
    parser.add_argument("--as", dest="name", metavar="NAME", help=text)


def deployment(options: argparse.Namespace) -> int:
    """What users thought of a model: `pinisi feedback`."""
    if not (options.feedback and options.out):
        raise UserError("experiment deployment: give --feedback FILE and --out DIR")
    feedback.main(argparse.Namespace(**{**vars(options), "languages": ""}))
    return 0


def hand_check(options: argparse.Namespace) -> int:
    """Does each layer of curation remove noise? The corpus of the demo up to `quality`, or the run of --from, is judged on the
    page of `pinisi inspect`; with --json the table of what has been judged is printed, and no page opens."""
    uri = options.donors[0] if options.donors else _corpus(options)
    none = dict.fromkeys(("languages", "per_layer", "pairs", "export"))
    return inspect.main(
        argparse.Namespace(
            **none, run=uri, name=options.name, port=inspect.PORT, scores=options.json, json=options.json
        )
    )


def _corpus(options: argparse.Namespace) -> str:
    from ray_jobs.config import reader as recipes
    from ray_jobs.run.run import Run

    uri = options.run_dir or storage.join("runs", "hand-check")
    say = (lambda _: None) if options.json else (lambda sentence: print(sentence, flush=True))
    Run(uri, recipes.load("demo", options.set)).execute(until=QUALITY, address=options.address, say=say)
    return uri


QUESTIONS = {"deployment": deployment, "hand-check": hand_check}
"""The name of each, as `pinisi experiment` takes it."""
