"""`pinisi train tokenizer`: a multilingual byte-level BPE from documents, with the fertility of each language beside others."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator

from cluster import terminal
from cluster.terminal import Column, numbers
from ray_jobs.errors import UserError
from ray_jobs.prepare import labelled
from ray_jobs.run.graph import QUALITY

HELDOUT = 0.05  # share of the documents that are not trained on but measured
RANGE = 1 << 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--documents",
        required=True,
        metavar="GLOB",
        help="Parquet or JSON Lines with `lang` and `text`, or the folder of a run",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to write the tokenizer (any URI)")
    parser.add_argument("--vocab-size", type=int, default=65_536, metavar="N", help="tokens (%(default)s)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=2.0,
        help="languages count as their bytes to the power 1/temperature: 1 as they are, more is more even (%(default)s)",
    )
    parser.add_argument(
        "--max-bytes", type=int, default=200_000_000, metavar="N", help="of text to train on (%(default)s)"
    )
    parser.add_argument(
        "--heldout-bytes", type=int, default=200_000, metavar="N", help="of a language to measure on (%(default)s)"
    )
    parser.add_argument(
        "--beside",
        nargs="+",
        default=[],
        metavar="NAME",
        help="tokenizers to compare with: folders or Hugging Face names",
    )


def main(options: argparse.Namespace) -> int:
    from cluster import storage
    from mixture.tokenizer import tokenizer
    from mixture.tokenizer.fertility import fertility

    if options.temperature <= 0 or min(options.max_bytes, options.heldout_bytes) < 1:
        raise UserError("--temperature, --max-bytes and --heldout-bytes must be above 0")
    try:
        others = {name: tokenizer.load(name) for name in options.beside}
        parts = _parts(options.documents)
        sizes, heldout = _read(parts, options.heldout_bytes)
        rates = tokenizer.sampling_rates(sizes, options.max_bytes, options.temperature)
        trained = tokenizer.train_bpe(_sample(parts, rates), options.vocab_size, options.out, options.max_bytes)
    except ValueError as error:
        raise UserError(str(error)) from None
    table = fertility({"trained": trained, **others}, heldout, _words(heldout))
    storage.write_json(
        storage.join(options.out, "fertility.json"), {"heldout_share": HELDOUT, "rows": table.to_pylist()}
    )
    _show(table.to_pylist())
    print(f"tokenizer of {len(trained):,} tokens: {options.out}   (recipe: `tokenize: {{tokenizer: {options.out}}}`)")
    return 0


def _parts(documents: str) -> list[str]:
    from cluster import storage
    from ray_jobs.run import files

    run = storage.exists(storage.join(documents, QUALITY, "_manifest.json"))
    return files.named([storage.join(documents, QUALITY, "part-*.parquet") if run else documents], "--documents")


def _documents(parts: list[str]) -> Iterator[tuple[str, str, int]]:
    """Language, text and a hash of the text, so that equal texts are either all trained on or all measured."""
    import xxhash

    for part in parts:
        for batch in labelled.batches(part, ["lang", "text"]):
            for lang, text in zip(batch["lang"].to_pylist(), batch["text"].to_pylist(), strict=True):
                if lang and text:
                    yield lang, text, xxhash.xxh3_64_intdigest(text.encode())


def _read(parts: list[str], most: int) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Bytes to train on and documents to measure, by language; of these the first until `most` bytes."""
    sizes: Counter[str] = Counter()
    used: Counter[str] = Counter()
    heldout: dict[str, list[str]] = defaultdict(list)
    for lang, text, chance in _documents(parts):
        size = len(text.encode())
        if chance >= HELDOUT * RANGE:
            sizes[lang] += size
        elif used[lang] < most:
            used[lang] += size
            heldout[lang].append(text)
    return dict(sizes), {lang: heldout[lang] for lang in sorted({*sizes, *heldout})}


def _sample(parts: list[str], rates: dict[str, float]) -> Iterator[str]:
    for lang, text, chance in _documents(parts):
        if chance >= HELDOUT * RANGE and chance < (HELDOUT + (1 - HELDOUT) * rates[lang]) * RANGE:
            yield text


def _words(texts: dict[str, list[str]]) -> dict[str, int]:
    """Words by the cut that the quality signals use: by dictionary where a script has no spaces."""
    from curation.text.words import word_hashes

    return {lang: sum(len(word_hashes(text)) for text in of_lang) for lang, of_lang in texts.items()}


def _show(rows: list[dict]) -> None:
    """A row for each language and tokenizer: bytes a token and tokens a word."""
    columns = [
        Column("tokenizer"),
        Column("language"),
        numbers("documents"),
        numbers("words"),
        Column("bytes/token", "{:.2f}".format, right=True),
        Column("tokens/word", "{:.2f}".format, right=True),
    ]
    keys = ("tokenizer", "lang", "documents", "words", "bytes_per_token", "tokens_per_word")
    terminal.show(terminal.table(columns, [[row[key] for key in keys] for row in rows]))
