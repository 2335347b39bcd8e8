"""`pinisi convert`: a training checkpoint to a Hugging Face folder, such a folder to a checkpoint, or to another dtype."""

from __future__ import annotations

import argparse

from ray_jobs.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="FROM", help="checkpoints, one step_* of them, or a Hugging Face folder (URI)"
    )
    parser.add_argument("target", metavar="TO", help="a new Hugging Face folder (URI)")
    parser.add_argument("--like", metavar="FOLDER", help="a Hugging Face folder with the tokenizer")
    parser.add_argument("--context", type=int, metavar="TOKENS", help="the trained length, for the config")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="of the weights (%(default)s)")
    text = "the other way: FROM is a Hugging Face folder, TO the folder of checkpoints that training continues from"
    parser.add_argument("--to-checkpoint", action="store_true", help=text)


def main(options: argparse.Namespace) -> None:
    from cluster import storage
    from train.export import convert

    try:
        if options.to_checkpoint:
            if not storage.exists(storage.join(options.source, "config.json")):
                raise UserError(f"{options.source} is no Hugging Face folder: it has no config.json")
            convert.to_checkpoint(options.source, options.target)
            print(f"{options.target}: the checkpoint of update 0")
            return
        shape = {"like": options.like, "context": options.context, "dtype": options.dtype}
        made_from = convert.to_folder(options.source, options.target, **shape)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None
    print(f"{options.target}: from {made_from}")
