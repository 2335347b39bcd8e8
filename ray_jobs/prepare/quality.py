"""`pinisi train quality`: a quality classifier on an encoder, as a folder that `quality.model` names."""

from __future__ import annotations

import argparse
from collections import defaultdict

from cluster import terminal
from cluster.terminal import Column
from ray_jobs.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--encoder", required=True, metavar="MODEL", help="an encoder of transformers: a folder, or a name on the hub"
    )
    parser.add_argument(
        "--documents",
        required=True,
        nargs="+",
        metavar="GLOB",
        help="Parquet or JSON Lines with `lang`, `text`, and `good` true or false, as `pinisi inspect --export` writes",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to write the classifier (any URI)")
    parser.add_argument(
        "--by-language", action="store_true", help="one classifier for each language (default: one for all of them)"
    )
    parser.add_argument("--languages", nargs="+", default=[], metavar="LANG", help="default: all of the documents")
    parser.add_argument(
        "--per-side", type=int, default=10_000, metavar="N", help="most examples of a language and side (%(default)s)"
    )
    parser.add_argument(
        "--min-examples", type=int, default=50, metavar="N", help="with --by-language: the least (%(default)s)"
    )
    parser.add_argument("--max-tokens", type=int, default=512, metavar="N", help="tokens of a window (%(default)s)")
    parser.add_argument("--windows", type=int, default=4, metavar="N", help="most windows of a text (%(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="a GPU if there is one")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32"), help="on a GPU auto is bf16")


def main(options: argparse.Namespace) -> int:
    if min(options.max_tokens - 2, options.windows, options.per_side, options.min_examples) < 1:
        raise UserError("--max-tokens must be at least 3, --windows, --per-side and --min-examples at least 1")
    examples = _examples(options.documents, options.languages)
    import torch

    from cluster import storage
    from curation import encoder
    from ray_jobs.work import device

    on_gpu = torch.cuda.is_available() if options.device == "auto" else options.device == "cuda"
    where = torch.device("cuda" if on_gpu else "cpu")
    place = storage.localize(options.encoder) if storage.exists(options.encoder) else options.encoder
    reading = encoder.Reading(options.max_tokens, options.windows)
    sides = {"per_side": options.per_side, "min_examples": options.min_examples}
    try:
        with storage.atomic_folder(options.out) as folder:
            about = encoder.train(
                examples,
                place,
                folder,
                reading,
                where,
                device.dtype(options.precision, where),
                pooled=not options.by_language,
                **sides,
            )
    except ValueError as error:
        raise UserError(f"--encoder: {error}" if str(error).startswith(place) else f"--documents: {error}") from None
    _show(about["languages"])
    print(f"classifier: {options.out}   (recipe: `quality: {{engine: encoder, model: {options.out}}}`)")
    return 0


def _examples(patterns: list[str], languages: list[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Language -> (good texts, others), in the order of files and rows."""
    from ray_jobs.run import files

    found: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for part in files.named(patterns, "--documents"):
        for number, row in enumerate(files.rows(part)):
            lang, text, good = (row.get(name) for name in ("lang", "text", "good"))
            if not isinstance(lang, str) or not isinstance(text, str) or good not in (True, False):
                raise UserError(f"{part}: row {number + 1} must have `lang`, `text`, and `good` true or false")
            if not languages or lang in languages:
                found[lang][0 if good else 1].append(text)
    if missing := sorted(set(languages) - found.keys()):
        raise UserError(f"--documents: no document is in {', '.join(missing)}")
    return dict(found)


def _show(languages: dict[str, dict]) -> None:
    columns = [
        Column("language"),
        *(terminal.numbers(title) for title in ("good", "others", "held out, good", "others")),
        Column("AUC of these", "{:.4f}".format, right=True),
    ]
    names = ("positives", "negatives", "heldout_positives", "heldout_negatives", "auc")
    rows = [(lang, *(one[name] for name in names)) for lang, one in languages.items()]
    terminal.show(terminal.table(columns, rows))
