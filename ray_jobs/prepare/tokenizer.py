"""`pinisi train tokenizer`: a multilingual byte-level BPE from documents, with the fertility of each language beside others, and
with parallel documents what each language pays against English."""

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
        "--parity", action="store_true", help="each merge serves the language that is worst off (Parity-aware BPE)"
    )
    parser.add_argument(
        "--parallel",
        metavar="GLOB",
        help="parallel documents, Parquet or JSON Lines with `key`, `lang` and `text`: half choose the merges of --parity, "
        "half measure what each language pays",
    )
    parser.add_argument(
        "--pieces",
        choices=["qwen2", "marks"],
        default="qwen2",
        help="how text is cut: as Qwen2 does, or with combining marks kept with their letter (%(default)s)",
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
    from ray_jobs.prepare import own_tokenizer

    if options.temperature <= 0 or min(options.max_bytes, options.heldout_bytes) < 1:
        raise UserError("--temperature, --max-bytes and --heldout-bytes must be above 0")
    try:
        others = {name: tokenizer.load(name) for name in options.beside}
        parallel = own_tokenizer.parallel_documents(options.parallel, "--parallel")
        parts = _parts(options.documents)
        sizes, heldout = _read(parts, options.heldout_bytes)
        # parity counts pairs of each language by themselves: to read a text twice changes nothing
        rates_of = tokenizer.sampling_rates if options.parity else tokenizer.reading_rates
        rates = rates_of(sizes, options.max_bytes, options.temperature)
        trained, judged = own_tokenizer.train(
            _sample(parts, rates),
            options.out,
            vocab_size=options.vocab_size,
            max_bytes=options.max_bytes,
            parity=options.parity,
            pieces=options.pieces,
            parallel=parallel,
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    every = {"trained": trained, **others}
    table, costs = fertility(every, heldout, _words(heldout)), own_tokenizer.costs(every, judged)
    storage.write_json(
        storage.join(options.out, own_tokenizer.FERTILITY),
        {"heldout_share": HELDOUT, "rows": table.to_pylist(), **costs},
    )
    _show(table.to_pylist())
    _show_costs(costs)
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


def _sample(parts: list[str], rates: dict[str, float]) -> Iterator[tuple[str, str]]:
    from mixture.tokenizer.tokenizer import times

    for lang, text, chance in _documents(parts):
        if chance >= HELDOUT * RANGE:
            place = (chance / RANGE - HELDOUT) / (1 - HELDOUT)  # again even in [0, 1)
            yield from [(lang, text)] * times(rates[lang], place)


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


def _show_costs(costs: dict) -> None:
    """A row for each language and tokenizer: tokens of a parallel document, and against the reference language."""
    if not costs:
        return
    against = costs["cost"][0]["against"]
    columns = [
        Column("tokenizer"),
        Column("language"),
        numbers("documents"),
        Column("tokens/document", "{:.0f}".format, right=True),
        Column(f"against {against}", "{:.2f}".format, right=True),
    ]
    rows = sorted(costs["cost"], key=lambda row: (row["tokenizer"], -row["cost"]))
    keys = ("tokenizer", "lang", "documents", "tokens", "cost")
    terminal.show(terminal.table(columns, [[row[key] for key in keys] for row in rows]))
    for row in costs["parity"]:
        print(
            f"{row['tokenizer']}: Gini {row['gini']:.3f}, the dearest language {row['max_over_min']:.2f} times the "
            f"cheapest, {row['tokens']:,} tokens for all parallel documents"
        )
