"""`pinisi train lm`: SentencePiece pieces and a 5-gram model of each language, for the signal `perplexity`."""

from __future__ import annotations

import argparse
from collections import defaultdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--documents", required=True, metavar="GLOB", help="JSON Lines (.gz too) or Parquet with text and lang"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="models are written to FOLDER/<lang> (any URI)")
    parser.add_argument("--languages", nargs="+", metavar="LANG", help="default: all that the documents have")
    parser.add_argument(
        "--vocab", type=int, default=16_000, metavar="N", help="pieces (%(default)s; 65000 from 1 GB on)"
    )
    parser.add_argument("--order", type=int, default=5, metavar="N", help="words of the longest n-gram (%(default)s)")
    parser.add_argument(
        "--estimator",
        default="auto",
        choices=("auto", "kenlm", "numpy"),
        help="kenlm: lmplz, for corpora beyond the memory (cluster/kenlm.sh builds it); numpy: the same model, in memory",
    )


def main(options: argparse.Namespace) -> int:
    from cluster import storage
    from curation.lm import training
    from ray_jobs.errors import UserError

    texts = _texts(options.documents, options.languages)
    if missing := sorted(set(options.languages or ()) - texts.keys()):
        raise UserError(f"{options.documents}: no document is in {', '.join(missing)}")
    settings = {"vocab_size": options.vocab, "order": options.order, "estimator": options.estimator}
    trained = 0
    for lang in sorted(texts):
        try:
            with storage.atomic_folder(storage.join(options.out, lang)) as folder:
                about = training.train(texts.pop(lang), folder, lang=lang, **settings)
        except ValueError as error:
            if options.languages:
                raise UserError(str(error)) from None
            print(f"{lang}: left out: {error}", flush=True)
            continue
        trained += 1
        heldout = about["heldout"]
        print(
            f"{lang}: {about['documents']:,} documents, {about['pieces']:,} pieces of {about['vocabulary']:,}, "
            f"{sum(about['ngrams']):,} n-grams; held-out perplexity {heldout['perplexity']}, "
            f"90th percentile {heldout['percentiles']['90']}",
            flush=True,
        )
    if not trained:
        raise UserError(f"{options.documents}: no language has enough documents for a model")
    print(f"models: {options.out}   (recipe: filter: {{perplexity_models: {options.out}}})")
    return 0


def _texts(pattern: str, languages: list[str] | None) -> dict[str, list[str]]:
    from cluster import storage
    from ray_jobs.errors import UserError
    from ray_jobs.run import files

    found: dict[str, list[str]] = defaultdict(list)
    for uri in files.named([pattern], "--documents"):
        if uri.endswith(".parquet"):
            try:
                rows = storage.read_table(uri, ["text", "lang"]).to_pylist()
            except (KeyError, ValueError, OSError) as error:
                raise UserError(f"{uri}: no columns text and lang to read: {error}") from None
        else:
            rows = files.rows(uri)
        for row in rows:
            text, lang = row.get("text"), row.get("lang")
            if isinstance(text, str) and isinstance(lang, str) and (not languages or lang in languages):
                found[lang].append(text)
    return found
