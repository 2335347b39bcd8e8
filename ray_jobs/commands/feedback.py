"""`pinisi feedback FILE --out DIR`: users' thumbs become a table for each language, and preference rows."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping

from rich.text import Text

from cluster import storage, terminal
from cluster.terminal import Column, numbers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "JSON Lines or Parquet (a glob, any URI): prompt, answer, thumb, language, consent; model, user, time, tags"
    parser.add_argument("feedback", metavar="FILE", help=text)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the table, the pairs and the ledger")
    text = "languages to take, such as km,lo (default: all that Pinisi knows)"
    parser.add_argument("--languages", default="", metavar="CODES", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON for a program")


def main(options: argparse.Namespace) -> None:
    from ray_jobs.experiment import deployment

    languages = [code for code in options.languages.split(",") if code]
    found = deployment.run(options.feedback, options.out, languages)
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        show(found, options.out)


def show(found: Mapping, out: str) -> None:
    """The share that is liked by language, and by model and tag where there are any."""
    from ray_jobs.inspect.tables import named, share

    columns = [Column("language"), Column(""), Column("liked", right=True), numbers("thumbs"), numbers("users", drop=1)]
    rows: list[tuple] = []
    for lang, one in found["languages"].items():
        rows.append((named(lang), "all", share(one["liked"]), one["liked"]["n"], one["liked"]["users"]))
        rows += [("", model, share(of), of["n"], None) for model, of in one["models"].items()]
        rows += [("", tag, share(of), of["n"], None) for tag, of in one["tags"].items()]
    lines = [*terminal.table(columns, rows), Text()] if rows else []
    for lang, one in found["languages"].items():
        for of in one["differences"]:
            lines += terminal.paragraph(f"{named(lang)}: {difference(of)}")
        if agreed := one["agreement"]:
            kappa = "" if agreed["kappa"] is None else f", kappa {agreed['kappa']:.2f}"
            lines += terminal.paragraph(
                f"{named(lang)}: two users agree on {agreed['alike']:.0%} of {agreed['answers']:,}{kappa}"
            )
    dropped = ", ".join(f"{rule} {n:,}" for rule, n in found["dropped_by_rule"].items())
    used = f"{found['rows_used']:,} of {found['rows_in']:,} rows are used{f'; not used: {dropped}' if dropped else ''}"
    pairs, rest = (sum(found[name].values()) for name in ("pairs", "unpaired"))
    lines += terminal.paragraph(f"{used}. {pairs:,} preference pairs; {rest:,} answers have no counterpart.")
    lines += terminal.verbatim(storage.join(out, "preference.jsonl"))
    terminal.show(lines)


def difference(found: Mapping) -> str:
    """
    >>> difference({"models": ["a", "b"], "value": 0.1, "low": -0.02, "high": 0.2})
    'a against b: +10 (-2 to +20) points, no difference shown'
    """
    a, b = found["models"]
    verdict = (
        "no difference shown"
        if found["low"] <= 0 <= found["high"]
        else f"{a if found['value'] > 0 else b} is liked more"
    )
    value, low, high = (100 * found[key] for key in ("value", "low", "high"))
    return f"{a} against {b}: {value:+.0f} ({low:+.0f} to {high:+.0f}) points, {verdict}"
