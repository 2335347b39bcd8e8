"""`pinisi train lid`: a language identifier from labelled documents, as a folder that `language.model` names."""

from __future__ import annotations

import argparse

from rich.text import Text

from cluster import terminal
from cluster.terminal import Column
from ray_jobs.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--documents",
        required=True,
        nargs="+",
        metavar="GLOB",
        help="Parquet or JSON Lines with `lang` and `text`, and `source` where a language has several",
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="where to write the model and report.json (any URI)"
    )
    parser.add_argument(
        "--languages", nargs="+", default=[], metavar="LANG", help="to tell apart (default: all); others are `other`"
    )
    parser.add_argument("--drop-source", nargs="+", default=[], metavar="SOURCE", help="sources to leave out")
    parser.add_argument("--test", nargs="+", default=[], metavar="GLOB", help="labelled texts to measure the model on")
    parser.add_argument("--segments", type=int, default=2000, help="examples of each language (%(default)s)")
    parser.add_argument("--bits", type=int, default=18, help="2^bits rows of weights; 18 are 8 MB (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)


def main(options: argparse.Namespace) -> int:
    from cluster import storage
    from curation.lid.tags import code
    from curation.lid.training import Training, train

    if not 10 <= options.bits <= 22 or options.segments < 100:
        raise UserError("--bits must be from 10 to 22, --segments at least 100")
    documents = _documents(options.documents, "--documents")
    absent = sorted(set(options.drop_source) - {source for _, source, _ in documents})
    if absent:
        raise UserError(f"--drop-source: no document is of the source {', '.join(absent)}")
    kept = [document for document in documents if document[1] not in options.drop_source]
    config = Training(bits=options.bits, segments=options.segments, seed=options.seed)
    try:
        model, report = train(kept, [code(lang) for lang in options.languages], config, print)
    except ValueError as error:
        raise UserError(f"--documents: {error}") from None
    report = {"dropped_sources": sorted(options.drop_source), **report}
    if options.test:
        report["test"] = _measure(model, _documents(options.test, "--test"))
    model.save(options.out)
    storage.write_json(storage.join(options.out, "report.json"), report)
    _show("sources that the model had not seen", report["unseen_sources"])
    for name, part in report.get("test", {}).items():
        _show(f"--test, {name}", part)
    print(f"model: {options.out}   (recipe: `language: {{model: {options.out}}}`)")
    return 0


def _documents(patterns: list[str], key: str) -> list[tuple[str, str, str]]:
    """(label, source, text) of all rows of the files, in the order of names and rows; rows without a language left out."""
    from curation.lid.tags import code
    from ray_jobs.run import files

    result = []
    for part in files.named(patterns, key):
        rows = _parquet_rows(part) if part.endswith(".parquet") else files.rows(part)
        for row in rows:
            if not isinstance(row.get("text"), str) or not isinstance(row.get("lang"), str | None):
                raise UserError(f"{part}: a row has no text in the fields `lang` and `text`")
            if row.get("lang"):
                result.append((code(row["lang"]), str(row.get("source") or ""), row["text"]))
    return result


def _parquet_rows(part: str) -> list[dict]:
    from cluster import storage

    with storage.open_parquet(part) as parquet:
        names = set(parquet.schema_arrow.names)
        if missing := {"lang", "text"} - names:
            raise UserError(f"{part}: has no column {sorted(missing)[0]!r}; `lang` and `text` are needed")
        return parquet.read(columns=sorted(names & {"lang", "source", "text"})).to_pylist()


def _measure(model, rows: list[tuple[str, str, str]]) -> dict:
    """Reports of the texts in the model's languages by source, of all of them, and of all with those in other languages."""
    import numpy as np
    import pyarrow as pa

    from curation.lid.report import expected_calibration_error, scores_by_length

    numbers = {label: number for number, label in enumerate(model.labels)}
    other = len(model.labels) - 1
    truth = np.array([numbers.get(lang, other) for lang, _, _ in rows])
    lengths = np.array([len(text) for _, _, text in rows])
    sources = np.array([source for _, source, _ in rows])
    predicted = model.predict(pa.array([text for _, _, text in rows], pa.large_string()))
    inside = truth != other
    parts = {f"source {name}": inside & (sources == name) for name in sorted(set(sources)) if name}
    parts |= {"all": inside, "with other languages": np.ones(len(rows), bool)}
    return {
        name: {
            **scores_by_length(truth[some], predicted.best[some], lengths[some], model.labels),
            "calibration_error": expected_calibration_error(predicted.probabilities[some], truth[some]),
        }
        for name, some in parts.items()
        if some.any() and (name != "with other languages" or not inside.all())
    }


def _show(title: str, part: dict) -> None:
    lengths = ("all", "sentences", "paragraphs")
    labels = sorted({label for name in lengths for label in part[name]["labels"]})
    rows = []
    for label in labels:
        scores = [part[name]["labels"].get(label, {}).get("f1") for name in lengths]
        of_all = part["all"]["labels"][label]
        rows.append((label, *scores, of_all["precision"], of_all["recall"], of_all["texts"]))
    rows.append(("macro", *(part[name]["macro_f1"] or None for name in lengths), None, None, None))
    titles = ("F1", "< 100 chars", ">= 200 chars", "precision", "recall")
    columns = [Column("language"), *(Column(text, right=True) for text in titles), terminal.numbers("texts")]
    said = f"{title} (calibration error {part['calibration_error']})"
    wrong = [f"{one['true']} as {one['predicted']} {one['texts']}" for one in part["all"]["confusions"][:8]]
    most = terminal.paragraph("most often: " + (", ".join(wrong) or "nothing confused"))
    terminal.show([Text(), *terminal.table(columns, rows, title=said), *most])
