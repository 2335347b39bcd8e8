"""`pinisi vocabulary grow`: more tokens for the languages whose text costs most, in a model that exists; the worth first."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cluster import terminal
from cluster.terminal import Column, numbers
from ray_jobs.errors import UserError
from ray_jobs.prepare import labelled

HELDOUT = 0.1  # share of the documents that no token is chosen by, and that the table is of
RANGE = 1 << 64
LEAST_BYTES = 20_000  # of a language: fewer tell no merges
PROBE_LENGTH = 256  # tokens of a document that the model reads
NOT_COPIED = ("tokenizer", "vocab", "merges", "special_tokens_map", "added_tokens", "chat_template", "config.json")
COPIED = ("*.json", "*.jinja", "LICENSE*", "NOTICE*", "USE_POLICY*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a Hugging Face folder with its tokenizer (any URI)")
    text = "Parquet or JSON Lines with `lang` and `text`; also of languages that shall stay as they are"
    parser.add_argument("--documents", required=True, metavar="GLOB", help=text)
    parser.add_argument("--out", metavar="FOLDER", help="where to write the grown model (any URI)")
    parser.add_argument("--add", type=int, default=8192, metavar="N", help="new tokens (%(default)s)")
    text = "whose text shall cost less (default: all that are written in a script of their own)"
    parser.add_argument("--languages", nargs="+", metavar="LANG", help=text)
    text = "the same documents in several languages, with `key`, `lang` and `text`: costs are tokens of a document"
    parser.add_argument("--parallel", metavar="GLOB", help=text)
    text = (
        "old: cut words as the tokenizer does; marks: keep combining marks in words; auto: marks, if the model opens so"
    )
    parser.add_argument("--pieces", choices=["auto", "marks", "old"], default="auto", help=text)
    parser.add_argument("--max-bytes", type=int, default=10_000_000, metavar="N", help="of a language (%(default)s)")
    text = "tokens that the model reads to measure what new rows take from old ones; 0: not (%(default)s)"
    parser.add_argument("--probe-tokens", type=int, default=8192, metavar="N", help=text)
    parser.add_argument("--dry-run", action="store_true", help="only print what it would be worth; nothing is written")


class _Texts(NamedTuple):
    train: dict[str, list[str]]
    heldout: dict[str, list[str]]
    parallel: dict[str, list[str]]  # the same documents in each language, in one order; every second one is measured


def main(options: argparse.Namespace) -> int:
    from cluster import storage
    from mixture.tokenizer import grow, tokenizer

    if min(options.add, options.max_bytes) < 1 or options.probe_tokens < 0:
        raise UserError("--add and --max-bytes must be above 0, and --probe-tokens not below")
    if not options.dry_run and not options.out:
        raise UserError("give --out FOLDER for the grown model, or --dry-run to see what it would be worth")
    if options.out and storage.exists(storage.join(options.out, "config.json")):
        raise UserError(f"--out: {options.out} has a model already; name a new folder")
    if not storage.exists(storage.join(options.model, "config.json")):
        raise UserError(f"{options.model} is no Hugging Face folder: it has no config.json; fetch the model first")
    folder = storage.localize(options.model)
    try:
        old = tokenizer.load(folder)
        spec = grow.spec_of(old)
        _check_rows(folder, grow.first_id(spec))
    except ValueError as error:
        raise UserError(f"{options.model}: {str(error).removeprefix(f'{folder}: ')}") from None
    texts = _read(options)
    rows = _own_rows(texts.train, options.languages)
    if options.parallel and (absent := sorted(rows.keys() - texts.parallel.keys())):
        raise UserError(f"--parallel: no document is in {', '.join(absent)}")
    own: set[int] = set().union(*rows.values())
    wider = grow.joining_marks(spec, grow.marks_of(own))
    cut = _pieces(options.pieces, folder, old, spec, wider)
    judge = {lang: texts.parallel[lang][::2] if texts.parallel else texts.train[lang] for lang in rows}
    size = {
        lang: len(judge[lang]) if texts.parallel else sum(len(text.encode()) for text in judge[lang]) for lang in rows
    }
    train = {lang: texts.train[lang] for lang in rows}
    growth = grow.choose(cut, train, judge, size, own, options.add)
    if not growth.tokens:
        raise UserError("--documents: no pair of tokens is frequent enough for a new one; give more text")
    new = grow.grown(cut, growth)
    table = _worth(old, new, texts, Counter(growth.served), own)
    _show(table, bool(texts.parallel))
    if len(growth.tokens) < options.add:
        print(f"{len(growth.tokens):,} tokens: no other pair stands {grow.MIN_COUNT} times in the documents")
    _say_pieces(cut, spec, sorted(rows))
    if not options.dry_run:
        _write(options, folder, old, new, growth, table, texts)
    return 0


def _check_rows(folder: str, tokens: int) -> None:
    from cluster import storage
    from train.export import grow

    grow.tensors(folder)
    rows = storage.read_json(storage.join(folder, "config.json"))["vocab_size"]
    if tokens > rows:
        raise ValueError(
            f"its tokenizer has {tokens:,} tokens, but the model rows for {rows:,}; give the model its own"
        )


def _documents(pattern: str) -> Iterator[tuple[str, str]]:
    """Language and text of the rows that have both."""
    from ray_jobs.run import files

    for part in files.named([pattern], "--documents"):
        for batch in labelled.batches(part, ["lang", "text"]):
            for lang, text in zip(batch["lang"].to_pylist(), batch["text"].to_pylist(), strict=True):
                if lang and text:
                    yield lang, text


def _read(options: argparse.Namespace) -> _Texts:
    """Documents to choose by and to measure on, up to `--max-bytes` of a language; equal texts are on one side, and
    those that are parallel documents on neither."""
    import xxhash

    from ray_jobs.prepare import own_tokenizer

    parallel = own_tokenizer.parallel_documents(options.parallel, "--parallel")
    apart = {text for of_lang in parallel.values() for text in of_lang.values()}
    train: dict[str, list[str]] = defaultdict(list)
    heldout: dict[str, list[str]] = defaultdict(list)
    used: Counter[str] = Counter()
    for lang, text in _documents(options.documents):
        if used[lang] < options.max_bytes and text not in apart:
            used[lang] += len(text.encode())
            held = xxhash.xxh3_64_intdigest(text.encode()) < HELDOUT * RANGE
            (heldout if held else train)[lang].append(text)
    keys = sorted(set.intersection(*map(set, parallel.values()))) if parallel else []
    if parallel and len(keys) < 2:
        raise UserError("--parallel: fewer than two `key` have a document in every language")
    same = {lang: [parallel[lang][key] for key in keys] for lang in sorted(parallel)}
    return _Texts(dict(train), dict(heldout), same)


def _own_rows(train: dict[str, list[str]], languages: list[str] | None) -> dict[str, set[int]]:
    """Of each language that grows the rows of code points that it writes in."""
    from mixture.tokenizer import grow

    if missing := sorted(set(languages or ()) - train.keys()):
        raise UserError(f"--documents: no document is in {', '.join(missing)}")
    found = {lang: grow.own_rows(train[lang]) for lang in languages or sorted(train)}
    if shared := [lang for lang in languages or () if not found[lang]]:
        raise UserError(
            f"--languages: {', '.join(shared)}: written in Latin or Chinese letters, so new tokens would change the tokens of "
            "English or Chinese text; name languages with a script of their own"
        )
    found = {lang: rows for lang, rows in found.items() if rows}
    if not found:
        raise UserError(
            "--documents: no language in them has a script of its own; new tokens would change English text"
        )
    for lang in found:
        if (size := sum(len(text.encode()) for text in train[lang])) < LEAST_BYTES:
            raise UserError(
                f"--documents: {size:,} bytes of {lang} are too few to choose tokens by; give {LEAST_BYTES:,}"
            )
    return found


def _pieces(asked: str, folder: str, old: Any, spec: dict, wider: dict) -> dict:
    """The tokenizer.json whose pieces are taken: with marks in words where that is asked for and the model would open so."""
    from mixture.tokenizer import grow, tokenizer

    if asked == "old" or wider == spec:
        return spec
    with tempfile.TemporaryDirectory() as there:
        grow.save(old, wider, there)
        shutil.copyfile(Path(folder, "config.json"), Path(there, "config.json"))
        if grow.spec_of(tokenizer.load(there))["pre_tokenizer"] == wider["pre_tokenizer"]:
            return wider
    if asked == "marks":
        kind = Path(folder, "config.json").read_text("utf-8").partition('"model_type": "')[2].partition('"')[0]
        raise UserError(
            f"--pieces marks: transformers gives every model of kind {kind} pieces that end at combining marks, whatever its "
            "tokenizer.json says; take --pieces old"
        )
    return spec


def _worth(old: Any, new: dict, texts: _Texts, served: Counter[str], own: set[int]) -> list[dict]:
    """A row for each language: what its text costs before and after. Raises AssertionError where a text without a character of
    the rows `own` has other tokens than before, and where `tokenizers` finds other tokens than we do."""
    import pyarrow as pa

    from mixture.bpe import nfc
    from mixture.bpe.encode import ByteLevelBPE
    from mixture.tokenizer import grow

    before, after = ByteLevelBPE.of(old), ByteLevelBPE.of_spec(new)
    theirs, added = grow.backend_of(new), [token["content"] for token in new["added_tokens"]]
    table = []
    for lang in sorted(texts.parallel or texts.train | texts.heldout):
        shown = texts.parallel.get(lang, [])[1::2] or texts.heldout.get(lang) or texts.train[lang]
        column = pa.array(shown, pa.string())
        one, two = before.encode(column)[0], after.encode(column)[0]
        apart = pa.array(
            [text for text in shown if own.isdisjoint(ord(letter) >> 6 for letter in nfc.text(text))], pa.string()
        )
        assert before.encode(apart)[0].tolist() == after.encode(apart)[0].tolist(), (
            f"{lang}: text has other tokens than before"
        )
        sample = [text for text in shown[:20] if not any(token in text for token in added)]
        plain = theirs.encode_batch_fast(sample, add_special_tokens=False)
        assert after.encode(pa.array(sample, pa.string()))[0].tolist() == [i for each in plain for i in each.ids]
        size = sum(len(text.encode()) for text in shown)
        table.append(
            {
                "lang": lang,
                "documents": len(shown),
                "bytes": size,
                "tokens_before": len(one),
                "tokens_after": len(two),
                "new_tokens": served[lang],
            }
        )
    return table


def _show(table: list[dict], parallel: bool) -> None:
    """A row for each language, the dearest first: bytes a token (of parallel documents tokens a document) before and after."""
    unit = "tokens/doc" if parallel else "bytes/token"
    columns = [
        Column("language"),
        numbers("documents", drop=2),
        Column(f"{unit} before", "{:,.2f}".format, right=True),
        Column("after", "{:,.2f}".format, right=True),
        Column("text in a context", "{:.2f} x".format, right=True),
        numbers("new tokens", drop=1),
    ]

    def cost(row: dict, when: str) -> float:
        tokens = max(1, row[f"tokens_{when}"])
        return tokens / row["documents"] if parallel else row["bytes"] / tokens

    rows = [
        [
            row["lang"],
            row["documents"],
            cost(row, "before"),
            cost(row, "after"),
            row["tokens_before"] / max(1, row["tokens_after"]),
            row["new_tokens"],
        ]
        for row in table
    ]
    rows.sort(key=lambda row: row[2], reverse=parallel)
    terminal.show(terminal.table(columns, rows))


def _say_pieces(cut: dict, spec: dict, languages: list[str]) -> None:
    from mixture.bpe import encode, patterns
    from mixture.tokenizer import grow

    named = ", ".join(languages)
    if cut != spec:
        print(
            f"words keep their combining marks: old text in {named} has other tokens than before, also other old ones"
        )
    elif not grow.keeps_marks(spec) and not patterns.without_marks(encode.pattern_of(spec["pre_tokenizer"]))[1]:
        print(f"words of {named} are cut at combining marks as before, which bounds what a token can hold")
    print("texts without a letter of these scripts have the very tokens that they had; old ids stay")


def _write(  # noqa: PLR0917
    options, folder: str, old: Any, new: dict, growth: Any, table: list[dict], texts: _Texts
) -> None:
    from cluster import storage
    from mixture.tokenizer import grow, tokenizer
    from train.export import grow as rows_of

    first = grow.first_id(grow.spec_of(old))
    try:
        made = rows_of.new_rows(folder, growth.made_of, _probe(old, texts, options.probe_tokens))
    except ValueError as error:
        raise UserError(f"{options.model}: {str(error).removeprefix(f'{folder}: ')}") from None
    with storage.atomic_folder(options.out) as path:
        for pattern in COPIED:
            for file in Path(folder).glob(pattern):
                if not file.name.startswith(NOT_COPIED) and "safetensors" not in file.name:
                    shutil.copyfile(file, Path(path, file.name))
        rows = rows_of.write(folder, path, made.rows_ND, first)
        grow.save(old, new, path)
        about = {
            "grown_from": options.model,
            "first_new_id": first,
            "new_tokens": len(growth.tokens),
            "rows": rows,
            "pieces_with_marks": new["pre_tokenizer"] != grow.spec_of(old)["pre_tokenizer"],
            "shift": made.shift,
            "nats_lost_by_old_tokens": made.lost,
            "nats_lost_with_means_alone": made.lost_by_mean,
            "languages": table,
        }
        storage.write_json(storage.join(path, "vocabulary.json"), about)
        opened = grow.spec_of(tokenizer.load(path))
        assert all(opened[key] == new[key] for key in ("pre_tokenizer", "normalizer", "model")), (
            "it opens as another tokenizer"
        )
    if made.lost is None:
        print("nothing was measured: new rows are means of their pieces, and take what mass these have")
    else:
        print(
            f"before training old tokens lose {made.lost:.4f} nats to the new rows ({made.lost_by_mean:.4f} by means alone), "
            "measured on documents of their own"
        )
    print(
        f"{options.out}: {first + len(growth.tokens):,} tokens, {rows:,} rows   "
        f"(recipe: `train: {{base: {{model: {options.out}}}}}`, `tokenize: {{tokenizer: base}}`)"
    )


def _probe(old: Any, texts: _Texts, tokens: int):
    """Documents of all languages in old tokens, as many of each, [B, T]; None where none is wanted or long enough."""
    import torch

    from cluster import document_tokens

    begin = document_tokens.begin(old)
    found: list[list[int]] = []
    languages = sorted(texts.heldout | texts.train)
    each = max(2, tokens // PROBE_LENGTH // max(1, len(languages))) if tokens else 0
    for lang in languages:
        rows: list[list[int]] = []
        for text in [*texts.heldout.get(lang, []), *texts.train.get(lang, [])]:
            if len(rows) == each:
                break
            ids = [*begin, *old.encode(text[: 8 * PROBE_LENGTH], add_special_tokens=False, verbose=False)][
                :PROBE_LENGTH
            ]
            if len(ids) == PROBE_LENGTH:
                rows.append(ids)
        found += rows
    return torch.tensor(found) if found else None
