"""`pinisi inspect RUN`: speakers judge what the run kept and dropped, on a page of their own machine; what that comes to."""

from __future__ import annotations

import argparse
import getpass
import json

from cluster import storage
from ray_jobs.errors import UserError

PORT = 8421


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run directory (any URI)")
    text = "the port of the page on this machine, 0 for any that is free (%(default)s)"
    parser.add_argument("--port", type=int, default=PORT, metavar="PORT", help=text)
    text = "who judges: the name of the file with the judgements (default: your user name)"
    parser.add_argument("--as", dest="name", metavar="NAME", help=text)
    parser.add_argument(
        "--languages", metavar="CODES", help="those that you read, such as km,lo (default: all of the run)"
    )
    text = "texts of each language after each layer, and of what it dropped (default: as many as were drawn before, else 100)"
    parser.add_argument("--per-layer", type=int, metavar="N", help=text)
    text = (
        "judge instead the answers of two models: rows {id, lang, prompt, answers: {model: text, model: text}, judge}"
    )
    parser.add_argument("--pairs", metavar="GLOB", help=text)
    parser.add_argument("--scores", action="store_true", help="open no page, only print what the judgements come to")
    text = "open no page, write the judged texts as good.jsonl and noise.jsonl, for quality.labels and `pinisi train`"
    parser.add_argument("--export", metavar="FOLDER", help=text)
    parser.add_argument("--json", action="store_true", help="print --scores as JSON for a program")


def main(options: argparse.Namespace) -> int:
    from ray_jobs.inspect import export, pairs, samples, tables
    from ray_jobs.inspect.desk import Texts
    from ray_jobs.run.run import open_run

    if options.per_layer is not None and options.per_layer < 1:
        raise UserError(f"--per-layer {options.per_layer}: must be at least 1")
    if options.json and not options.scores:
        raise UserError("--json goes with --scores")
    if options.export and (options.scores or options.pairs):
        raise UserError(
            "--export goes neither with --scores nor with --pairs, whose choices are in inspect/preference.jsonl"
        )
    run = open_run(options.run)
    langs = [lang.strip() for lang in (options.languages or "").split(",") if lang.strip()]
    try:
        rows = pairs.read(options.pairs, langs) if options.pairs else None
        per_layer = samples.size(run, options.per_layer)
        if options.scores:
            found = tables.written(run, per_layer) if rows is None else pairs.written(run, rows)
            if options.json:
                print(json.dumps(found, indent=1, ensure_ascii=False))
            elif found["judged"]:
                tables.show(found["tables"] if rows is None else pairs.tables(found))
            else:
                print(f"nothing has been judged yet; `pinisi inspect {options.run}` opens the page")
            return 0
        if rows is not None:
            return _serve(pairs.Pairs(run, rows, _name(options.name)), options.port)
        if options.export:
            for name, n in export.write(run, per_layer, options.export).items():
                print(f"{storage.join(options.export, name)}: {n:,} texts")
            return 0
        sample, _ = samples.drawn(run, per_layer)
        return _serve(Texts(run, sample, _name(options.name), langs, per_layer), options.port)
    except storage.faults() as error:
        raise UserError(f"{options.run}: cannot be read or written: {error}") from None


def _name(given: str | None) -> str:
    try:
        return getpass.getuser() if given is None else given
    except (KeyError, OSError):  # a container without a name for its user
        raise UserError("--as NAME: say who judges, as this machine has no name for you") from None


def _serve(desk, port: int) -> int:
    from ray_jobs.inspect.server import Server

    with Server(desk, port) as server:
        print(f"open {server.address}", flush=True)
        print(
            f"judgements of {desk.name} are saved as they are made, in {desk.file}; Ctrl-C ends.\n"
            f"From another machine: ssh -L {server.server_address[1]}:localhost:{server.server_address[1]} HOST",
            flush=True,
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(f"ended; `pinisi inspect {desk.run.uri} --scores` says what it comes to")
    return 0
