"""`pinisi gguf`: an exported model as one file for llama.cpp, with an Ollama Modelfile beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.publish import models
from ray_jobs.run.run import open_run
from train.export import gguf


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run with an exported model, or the folder of a model (any URI)")
    parser.add_argument("--model", choices=models.NAMES, help="which model of the run (default: the first there is)")
    parser.add_argument("--out", metavar="FOLDER", help="a folder for both files (default: RUN/gguf/MODEL; any URI)")
    parser.add_argument(
        "--dtype", choices=gguf.DTYPES, default="auto", help="of the weights (%(default)s: as they are)"
    )
    text = "llama.cpp's convert_hf_to_gguf.py, or the folder with it (default: the one that is installed)"
    parser.add_argument("--converter", metavar="FILE", help=text)


def main(options: argparse.Namespace) -> None:
    from train.export import ollama

    if storage.exists(storage.join(options.run, "config.json")):
        if options.model:
            raise UserError(f"--model goes with a run; {options.run} is the folder of one model")
        if not options.out:
            raise UserError(f"--out FOLDER: where shall the files of {options.run} lie?")
        folder, out, name, chat = options.run, options.out, options.run.rstrip("/").rsplit("/", 1)[-1], None
    else:
        run = open_run(options.run)
        model = options.model or models.first(run)
        folder, name, chat = models.folder(run, model), f"{run.recipe.name}-{model}", model == "chat"
        out = options.out or storage.join(run.uri, "gguf", model)
    local = storage.localize(folder)
    try:
        script = gguf.converter(options.converter)
        config = storage.read_json(str(Path(local, "config.json")))
        chat = chat if chat is not None else storage.exists(str(Path(local, "chat_template.jinja")))
        text = ollama.modelfile(local, f"{name}.gguf", config["max_position_embeddings"], chat)
        with storage.atomic(storage.join(out, f"{name}.gguf")) as made:  # what else is in the folder is not ours
            gguf.convert(local, made, options.dtype, script, name=name)
        storage.write_text(storage.join(out, ollama.FILE), text)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None
    print(f"{storage.join(out, f'{name}.gguf')} and its Modelfile")
