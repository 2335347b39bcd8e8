"""`pinisi train words`: stop words of every language of a corpus, as a folder that `filter.word_lists` names."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ray_jobs.errors import UserError
from ray_jobs.prepare import labelled

if TYPE_CHECKING:
    import pyarrow as pa


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--documents", required=True, metavar="GLOB", help="Parquet or JSON Lines with `lang` and `text`"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to write <language>.yaml")
    parser.add_argument("--size", type=int, default=60, help="stop words of a language (%(default)s)")
    parser.add_argument(
        "--min-documents", type=int, default=200, help="a language with fewer gets no list (%(default)s)"
    )
    parser.add_argument(
        "--min-evenness",
        type=float,
        default=0.6,
        help="least ratio of a word's documents to those of a word strewn at random (%(default)s)",
    )


def main(options: argparse.Namespace) -> int:
    from curation.policy import policy
    from curation.signals.word_lists import StopWords, stop_words, write
    from ray_jobs.run import files

    if options.size < 1 or options.min_documents < 1 or not 0 <= options.min_evenness <= 1:
        raise UserError("--size and --min-documents must be at least 1, --min-evenness from 0 to 1")
    parts = files.named([options.documents], "--documents")
    config = StopWords(options.size, options.min_evenness, min_documents=options.min_documents)
    written = 0
    for lang in _languages(parts):
        script = policy.of_language(lang).script
        entries, facts = stop_words(_texts(parts, lang), config, script)
        if entries is None:
            print(f"{lang}: {facts['documents']:,} documents, fewer than {config.min_documents:,}: no list")
            continue
        provenance = {
            "command": "pinisi train words",
            "files": [part.rsplit("/", 1)[-1] for part in parts],
            **facts,
            "min_evenness": config.min_evenness,
            "min_document_share": config.min_document_share,
        }
        write(options.out, lang, entries, provenance)
        written += 1
        print(f"{lang}: {len(entries)} stop words of {facts['documents']:,} documents")
    if not written:
        raise UserError(f"--documents {options.documents}: no language has {options.min_documents} documents; no list")
    print(f"lists: {options.out}   (recipe: `filter: {{word_lists: {options.out}}}`)")
    return 0


def _languages(parts: list[str]) -> list[str]:
    found: set[str] = set()
    for part in parts:
        for batch in labelled.batches(part, ["lang"]):
            found.update(lang for lang in batch["lang"].to_pylist() if lang)
    return sorted(found)


def _texts(parts: list[str], lang: str) -> Callable[[], Iterator[pa.Array]]:
    import pyarrow.compute as pc

    def texts() -> Iterator[pa.Array]:
        for part in parts:
            for batch in labelled.batches(part, ["lang", "text"]):
                yield batch.filter(pc.equal(batch["lang"], lang))["text"].drop_null()

    return texts
