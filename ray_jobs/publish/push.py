"""`pinisi push`: a model of a run, or its corpus, to a repository of the Hugging Face hub."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from cluster import storage, terminal
from cluster.terminal import Column
from ray_jobs.errors import UserError
from ray_jobs.publish import corpus, hub, models, rights
from ray_jobs.run import adopted
from ray_jobs.run.graph import TOKENIZE
from ray_jobs.run.run import Run, open_run
from train.export import ollama

CORPUS = "corpus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run directory (any URI)")
    parser.add_argument("--to", required=True, metavar="hf:OWNER/NAME", help="the repository, made if it is not there")
    text = "a model that the run has exported, or its documents as a data set (default: the first model there is)"
    parser.add_argument("--what", choices=[*models.NAMES, CORPUS], help=text)
    parser.add_argument("--public", action="store_true", help="for all to see; a repository is made private otherwise")
    parser.add_argument("--dry-run", action="store_true", help="list what would go out, and send nothing")
    text = "of a corpus, its licence by its name on the hub; of a model the recipe says it (export.licence)"
    parser.add_argument("--licence", metavar="NAME", help=text)
    text = "leave documents here whose licence or page forbids to hand them on"
    parser.add_argument("--leave-out", action="store_true", help=text)
    text = "also the model's file for llama.cpp, which `pinisi gguf` has made"
    parser.add_argument("--gguf", action="store_true", help=text)


def main(options: argparse.Namespace) -> None:
    run = open_run(options.run)
    what = options.what or models.first(run)
    if what != CORPUS and (options.licence or options.leave_out):
        raise UserError(
            "--licence and --leave-out go with --what corpus; a model's licence is export.licence of the recipe"
        )
    if what == CORPUS and options.gguf:
        raise UserError("--gguf goes with a model")
    to = hub.named(options.to, "dataset" if what == CORPUS else "model")
    with tempfile.TemporaryDirectory() as folder:
        if what == CORPUS:
            name = to.name.split("/")[1]
            licence, leave_out = options.licence, options.leave_out
            counted = corpus.write(run, folder, name=name, url=to.url, licence=licence, leave_out=leave_out)
            warnings = corpus.warnings(counted, options.licence, options.public)
        else:
            _model(run, what, folder, options.gguf)
            warnings = model_warnings(run)
        for sentence in warnings:
            print(f"warning: {sentence}", file=sys.stderr)
        mark = f"{run.recipe.name}/{what}"
        hub.mark(folder, mark)
        if options.dry_run:
            show(folder, to, options.public)
            return
        address = hub.push(folder, to, mark, options.public)
    print(f"pushed {what} of {run.recipe.name} to {address}")


def show(folder: str, to: hub.Repository, public: bool) -> None:
    """What would go out."""
    listed = hub.files(folder)
    title = f"hf:{to.name}, a {'public' if public else 'private'} {to.kind}; nothing is sent"
    columns = [Column("file"), Column("size", terminal.size, right=True)]
    rows = [*listed, ("all", sum(size for _, size in listed))]
    terminal.show(terminal.table(columns, rows, title=title))


def model_warnings(run: Run) -> list[str]:
    """Sentences of what the licences of the texts that a model was trained on do not allow it to be."""
    licence = run.recipe.export.licence
    said = [] if licence else ["the card says no licence; set export.licence in the recipe, and run export again"]
    restricted = 0
    for part in storage.glob(adopted.path(run.uri, TOKENIZE, "part-*.parquet")):
        for one in storage.read_table(part, ["licence"])["licence"].to_pylist():
            restricted += bool(one) and (rights.non_commercial(one) or rights.forbids(one))
    if restricted and not (licence and rights.non_commercial(licence)):
        said.append(f"{restricted:,} documents that it was trained on allow no commercial use, or no changed copies")
    return said


def _model(run: Run, what: str, folder: str, gguf: bool) -> None:
    """Put the exported model `what` into `folder`, with its file for llama.cpp if `gguf`."""
    _link(storage.localize(models.folder(run, what)), folder)
    Path(folder, ollama.FILE).unlink(missing_ok=True)  # of use beside that file alone
    if gguf:
        made = storage.join(run.uri, "gguf", what)
        if not storage.exists(storage.join(made, ollama.FILE)):
            raise UserError(f"--gguf: {made} is not there; `pinisi gguf {run.uri} --model {what}` makes it")
        _link(storage.localize(made), folder)


def _link(source: str, folder: str) -> None:
    """Files of this machine are linked, not copied."""
    for path in sorted(Path(source).rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            target = Path(folder, path.relative_to(source))
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.symlink(path.resolve(), target)
            except OSError:
                shutil.copyfile(path, target)
