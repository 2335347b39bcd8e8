"""`pinisi language new`: all that Pinisi needs of a language that it does not know, from some texts in it.

The folder that it writes has `<code>.yaml` (script, stop words, bounds) for `filter.language_files`, `identifier/` for
`language.model`, `documents/<code>.jsonl.gz` (the texts that the identifier learns from, so that a second language can be
added to the folder), and `<code>.md`, the report. Equal texts give equal files.

Bounds begin as those of all languages and of the script, and are only ever loosened: where the texts themselves, cut into
passages of 1,000 characters, would break a bound, it moves to their 99th percentile and a tenth beyond. What a bound
keeps is measured on the half of the texts that it was not made from.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from ray_jobs.errors import UserError
from ray_jobs.prepare import seed as seeds

if TYPE_CHECKING:
    import pyarrow as pa

    from curation.policy.keys import Policy

LEAST_F1 = 0.95
QUANTILE, MARGIN = 0.99, 0.1
UNBOUNDED = ("word_count",)  # how long a page is, passages do not say
LEAST_PASSAGES = 5  # that a stop word stands in
LEAST_WORD_SHARE = 0.1  # the shipped bound on stop words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("code", metavar="CODE", help="of the language: ISO 639, such as hil")
    text = "texts in the language: JSON Lines (.gz too) or Parquet with `text`, 200 kB or more"
    parser.add_argument("--documents", required=True, nargs="+", metavar="GLOB", help=text)
    text = "the folder to write, or to add to (any URI; %(default)s)"
    parser.add_argument("--out", default="languages", metavar="FOLDER", help=text)
    parser.add_argument("--name", default="", help="of the language, in English")
    text = "more texts of other languages to tell it from: rows {lang, text, source}"
    parser.add_argument("--others", nargs="+", default=[], metavar="GLOB", help=text)
    parser.add_argument("--stop-words", type=int, default=60, metavar="N", help="at most (%(default)s)")
    text = "examples of each language that the identifier learns from (%(default)s)"
    parser.add_argument("--segments", type=int, default=2000, metavar="N", help=text)


def main(options: argparse.Namespace) -> int:
    from cluster import storage
    from curation.lid import identify
    from curation.lid.training import Training, train
    from curation.policy import policy

    if options.segments < 100 or options.stop_words < 1:
        raise UserError("--segments must be at least 100, --stop-words at least 1")
    config = Training(segments=options.segments)
    lang, out = options.code, options.out
    _free(lang, out)
    seed = seeds.read(options.documents, lang)
    if not seed.documents:
        raise UserError(f"--documents: {_said(seed)}; no text is left")
    _enough(seed)
    others = _others(options.others, out, lang)
    texts = [text for _, text in seed.documents]
    try:
        neighbour, _ = train(others, (), config)
    except ValueError as error:
        raise UserError(f"--others: {error}") from None
    sizes = identify.load("lid.176")
    if known := seeds.reads_as(texts, (sizes, neighbour), lang):
        named = f"{known} ({policy.load(known).name})" if known in policy.languages() else known
        named = "id or ms (Indonesian or Malay)" if known in ("id", "ms") else named
        raise UserError(f"--documents: the texts read as {named}, which is known already; give texts in {lang}")
    seed.documents, left_out = _without_foreign(seed, sizes, neighbour, lang)
    texts = [text for _, text in seed.documents]
    print(f"{lang}: {_said(seed)}", flush=True)
    _enough(seed)
    made = _policy(lang, options.name or lang, texts, options.stop_words, lang in sizes.labels)
    examples = [(lang, source, text) for source, text in seed.documents]
    if len(examples) < 20:  # too few to hold whole ones out
        examples = [(lang, "seed", text) for text in seeds.pieces(texts)]
    wanted = sorted({one for one, _, _ in others if one != "other"} | {lang})
    model, report = train([*others, *examples], wanted, config, lambda line: print(line, flush=True))
    scores = report["unseen_sources"]
    facts = {
        "language": lang,
        "characters": seed.characters,
        "documents": len(seed.documents),
        "rows": dict(sorted(seed.counts.items())),
        "left_out": left_out,
        "identifier": {
            "f1": scores["all"]["labels"][lang]["f1"],
            "precision": scores["all"]["labels"][lang]["precision"],
            "recall": scores["all"]["labels"][lang]["recall"],
            "f1_sentences": scores["sentences"]["labels"].get(lang, {}).get("f1"),
            "f1_paragraphs": scores["paragraphs"]["labels"].get(lang, {}).get("f1"),
            "confused": [one for one in scores["all"]["confusions"] if lang in (one["true"], one["predicted"])][:5],
        },
        **made["facts"],
    }
    warnings = _warnings(facts)
    model.save(storage.join(out, "identifier"))
    storage.write_json(storage.join(out, "identifier", "report.json"), report)
    rows = "".join(
        json.dumps({"lang": lang, "source": source, "text": text}, ensure_ascii=False) + "\n"
        for source, text in seed.documents
    )
    packed = gzip.compress(rows.encode("utf-8", "replace"), mtime=0)
    storage.write_bytes(storage.join(out, "documents", f"{lang}.jsonl.gz"), packed)
    for name, text in made["files"].items():
        storage.write_text(storage.join(out, name), text)
    storage.write_text(storage.join(out, f"{lang}.md"), _report(facts, warnings, made["policy"]))
    _show(facts, warnings, out)
    return 0


def _enough(seed: seeds.Seed) -> None:
    if seed.characters < seeds.LEAST_CHARS:
        raise UserError(
            f"--documents: {seed.characters:,} characters of different text are too few; {seeds.LEAST_CHARS:,} are the "
            f"least, {seeds.WANTED_CHARS:,} are wanted"
        )


def _free(lang: str, out: str) -> None:
    """Raises UserError for a code that is none, or has a language already."""
    from cluster import storage
    from curation.lid.tags import code
    from curation.policy import policy

    if not re.fullmatch("[a-z]{2,8}", lang) or lang in ("other", "default"):
        raise UserError(
            f"CODE {lang!r} must be the ISO 639 code of the language, two or three small letters, such as hil"
        )
    if (known := code(lang)) in policy.languages():
        also = f", which is {known} here," if known != lang else ""
        raise UserError(f"the code {lang}{also} is taken: curation/languages/{known}.yaml; name it in `languages`")
    if storage.exists(file := storage.join(out, f"{lang}.yaml")):
        raise UserError(f"{file} is there already; delete it, or give another --out")


def _others(patterns: Sequence[str], out: str, lang: str) -> list[tuple[str, str, str]]:
    """What the language shall be told from: the 15, the languages that the folder has, and texts of the user."""
    from cluster import storage
    from curation.lid.tags import code
    from ray_jobs.run import files

    found = seeds.known_documents()
    parts = storage.glob(storage.join(out, "documents", "*.jsonl.gz"))
    parts += files.named(list(patterns), "--others") if patterns else []
    for part in parts:
        for row in files.rows(part):
            if not isinstance(row.get("text"), str) or not isinstance(row.get("lang"), str | None):
                raise UserError(f"{part}: a row has no text in the fields `lang` and `text`")
            if row.get("lang"):
                found.append((code(row["lang"]), str(row.get("source") or "others"), row["text"]))
    found = [row for row in found if row[0] != lang]
    if not found:
        raise UserError(
            "there is no text of other languages to tell it from: this installation has no sample/; give --others with rows "
            "{lang, text, source} of the 15 languages"
        )
    return found


def _without_foreign(seed: seeds.Seed, sizes, neighbour, lang: str) -> tuple[list[tuple[str, str]], dict[str, int]]:
    surely = seeds.foreign([text for _, text in seed.documents], sizes, neighbour, lang)
    left_out = Counter(one for one in surely if one)
    seed.counts["in another language"] += left_out.total()
    kept = [document for document, one in zip(seed.documents, surely, strict=True) if one is None]
    return kept, dict(sorted(left_out.items()))


def _policy(lang: str, name: str, texts: list[str], n_words: int, in_lid_176: bool) -> dict:
    """Files of the policy by name, the policy itself, and facts of it for the report."""
    script = _script(texts)
    passages = seeds.pieces(texts)
    halves = passages[::2], passages[1::2]
    first = _derived(lang, name, script, halves[0], n_words, in_lid_176)
    kept, rules = _kept(first["policy"], halves[1] or halves[0])
    made = _derived(lang, name, script, passages, n_words, in_lid_176)
    made["facts"] = {
        "script": script,
        "stop_words": len(made["policy"].stop_words or ()),
        "loosened": made["loosened"],
        "kept_of_unseen_passages": round(kept, 4),
        "passages": len(passages),
        "rules_of_the_others": rules,
    }
    return made


def _derived(lang: str, name: str, script: str, passages: list[str], n_words: int, in_lid_176: bool) -> dict:  # noqa: PLR0917
    """`files`, `policy` and the bounds that were `loosened`, from passages alone."""
    import tempfile

    from cluster import storage
    from curation.policy import policy
    from curation.signals.word_lists import StopWords, stop_words

    array = _array(passages)
    share = min(1.0, max(StopWords.min_document_share, LEAST_PASSAGES / max(1, len(passages))))
    config = StopWords(size=n_words, min_document_share=share, min_documents=1)
    entries, _ = stop_words(lambda: iter([array]), config, script)
    files = (
        {} if (policy.FOLDER / f"script_{script}.yaml").exists() else {f"script_{script}.yaml": _script_file(script)}
    )
    with tempfile.TemporaryDirectory() as folder:

        def load(loosened: Mapping[str, Mapping[str, float]]) -> Policy:
            files[f"{lang}.yaml"] = _language_file(
                lang, name, script, entries or [], loosened, in_lid_176, len(passages)
            )
            for file, text in files.items():
                storage.write_text(storage.join(folder, file), text)
            return policy.load(lang, folder=folder)

        loosened = _loosened(load({}), _measured(load({}), passages))
        return {"policy": load(loosened), "loosened": loosened, "files": files}


def _measured(policy: Policy, passages: list[str]) -> pa.RecordBatch:
    import pyarrow as pa

    from curation.signals.edit import normalise
    from curation.signals.text_signals import signals

    langs = [policy.lang] * len(passages)
    batch = pa.record_batch({"doc_id": langs, "url": langs, "lang": langs, "text": _array(passages)})
    return signals(normalise(batch, {policy.lang: policy}), {policy.lang: policy})


def _array(passages: list[str]) -> pa.Array:
    import pyarrow as pa

    return pa.array(passages, pa.large_string())


def _loosened(policy: Policy, measured: pa.RecordBatch) -> dict[str, dict[str, float]]:
    """The bounds that the passages would break, moved to where they do not."""
    import numpy as np

    from curation.policy.keys import Percentile

    found: dict[str, dict[str, float]] = {}
    for signal, bounds in policy.rules.items():
        values = measured[signal].drop_null().to_numpy(zero_copy_only=False)
        for bound, limit in bounds.items():
            if signal in UNBOUNDED or isinstance(limit, Percentile) or not len(values):
                continue
            if bound == "max" and (reach := float(np.quantile(values, QUANTILE))) > limit:
                found.setdefault(signal, {})[bound] = math.ceil(reach * (1 + MARGIN) * 1000) / 1000
            if bound == "min" and (reach := float(np.quantile(values, 1 - QUANTILE))) < limit:
                found.setdefault(signal, {})[bound] = math.floor(reach * (1 - MARGIN) * 1000) / 1000
    return found


def _kept(policy: Policy, passages: list[str]) -> tuple[float, dict[str, int]]:
    """The share of the passages that the policy keeps, and how many of the others break each rule."""
    from curation.policy.policy import apply

    keep, ledger = apply(_measured(policy, passages), {policy.lang: policy, "default": policy})
    rules = Counter(ledger["rule"].to_pylist())
    return sum(keep.to_pylist()) / max(1, len(keep)), dict(sorted(rules.items()))


def _script(texts: list[str]) -> str:
    """The script of most letters, by its name in Unicode, in small letters."""
    import numpy as np

    from curation.text.characters import SCRIPT, SCRIPTS

    codes = np.frombuffer("".join(texts).encode("utf-32-le", "replace"), np.uint32)
    counts = np.bincount(SCRIPT[codes[codes < len(SCRIPT)]], minlength=len(SCRIPTS))
    counts[0] = 0
    return SCRIPTS[int(counts.argmax())].lower()


def _script_file(script: str) -> str:
    return (
        f"# Made by `pinisi language new`: Pinisi ships no bounds for this script.\nname: {script.title()} script\n"
        "rules:\n  script_share: {min: 0.5}\n  stopword_ratio: off\n"
    )


def _language_file(  # noqa: PLR0917
    lang: str,
    name: str,
    script: str,
    entries: list[str],
    loosened: Mapping[str, Mapping[str, float]],
    in_lid_176: bool,
    passages: int,
) -> str:
    """The text of <lang>.yaml."""
    import yaml

    bounds = {signal: dict(found) for signal, found in loosened.items()}
    words = bounds.pop("stopword_ratio", {"min": LEAST_WORD_SHARE})
    lines = [
        f"# Made by `pinisi language new` from {passages} passages of 1,000 characters. No speaker has read it.",
        yaml.safe_dump({"name": name}, allow_unicode=True).strip(),
        f"script: {script}",
        *([f"lid: {{lid.176: {lang}}}"] if in_lid_176 else []),
        "rules:",
        "  flagged_ratio: off",
        f"  stopword_ratio: {{min: {words['min']}}}" if entries else "  stopword_ratio: off",
        *(f"  {signal}: {{{', '.join(f'{b}: {v}' for b, v in found.items())}}}" for signal, found in bounds.items()),
    ]
    if entries:
        rows = [", ".join(entries[i : i + 10]) for i in range(0, len(entries), 10)]
        lines.append(f"# Stop words: {len(entries)}, frequent and even in the passages: read them, and take out names.")
        lines.append("stop_words: >-")
        lines += [f"  {row}," for row in rows[:-1]] + [f"  {rows[-1]}"]
    return "\n".join(lines) + "\n"


def _said(seed: seeds.Seed) -> str:
    """`196 documents, 154,996 characters; of 210 rows 12 duplicates, 2 empty`."""
    counts = [f"{seed.counts[key]:,} {key}" for key in seed.counts if key != "rows" and seed.counts[key]]
    rest = f"; of {seed.counts['rows']:,} rows {', '.join(counts)}" if counts else ""
    return f"{len(seed.documents):,} documents, {seed.characters:,} characters{rest}"


def _warnings(facts: Mapping) -> list[str]:
    found = []
    if facts["characters"] < seeds.WANTED_CHARS:
        found.append(f"{facts['characters']:,} characters are little; with {seeds.WANTED_CHARS:,} all this is surer")
    identifier = facts["identifier"]
    if identifier["f1"] < LEAST_F1:
        rivals = sorted(
            {one[key] for one in identifier["confused"] for key in ("true", "predicted")} - {facts["language"]}
        )
        found.append(
            f"F1 {identifier['f1']:.3f} is below {LEAST_F1}: it is taken for {', '.join(rivals)}; give more text, and texts of "
            "these with --others"
        )
    if facts["stop_words"] < 20:
        found.append(f"{facts['stop_words']} stop words are few; write some by hand")
    return found


def _report(facts: Mapping, warnings: list[str], policy: Policy) -> str:
    identifier = facts["identifier"]
    percent = lambda value: "none" if value is None else f"{value:.3f}"  # noqa: E731
    lines = [
        f"# {policy.name} ({facts['language']})",
        "",
        f"Made by `pinisi language new` from {facts['documents']:,} documents, {facts['characters']:,} characters, "
        f"script {facts['script']}.",
        "",
        "| rows | |",
        "|---|--:|",
        *(f"| {key} | {value:,} |" for key, value in facts["rows"].items()),
        *(f"| in {key}, left out | {value:,} |" for key, value in facts["left_out"].items()),
        "",
        "## Identifier",
        "",
        "On documents that it was not trained on (two models, each trained on half):",
        "",
        "| F1 | F1, under 100 characters | F1, 200 and more | precision | recall |",
        "|--:|--:|--:|--:|--:|",
        "| "
        + " | ".join(percent(identifier[k]) for k in ("f1", "f1_sentences", "f1_paragraphs", "precision", "recall"))
        + " |",
        "",
        *(
            f"- {one['texts']} texts of {one['true']} were taken for {one['predicted']}."
            for one in identifier["confused"]
        ),
        "",
        "## Policy",
        "",
        f"Bounds made from every second passage keep {facts['kept_of_unseen_passages']:.1%} of the others "
        f"({facts['passages']} passages in all). Loosened beyond the shipped bounds: "
        + (
            ", ".join(f"{signal} {b} {v}" for signal, found in facts["loosened"].items() for b, v in found.items())
            or "none"
        )
        + ".",
        "",
        f"Stop words ({facts['stop_words']}): {', '.join(policy.stop_words or ())}",
        "",
        *(["## To look at", "", *(f"- {sentence}." for sentence in warnings), ""] if warnings else []),
    ]
    return "\n".join(lines)


def _show(facts: Mapping, warnings: list[str], out: str) -> None:
    from cluster import storage, terminal
    from cluster.terminal import Column

    identifier = facts["identifier"]
    rows = [
        ("F1 of the identifier, unseen documents", f"{identifier['f1']:.3f}"),
        ("stop words", str(facts["stop_words"])),
        ("bounds loosened", ", ".join(facts["loosened"]) or "none"),
        ("unseen passages kept", f"{facts['kept_of_unseen_passages']:.1%}"),
    ]
    lang = facts["language"]
    terminal.show(
        [Text(), *terminal.table([Column("what"), Column("value")], rows, title=f"{lang} ({facts['script']})")]
    )
    for sentence in warnings:
        print(f"note: {sentence}")
    print(f"written: {storage.join(out, f'{lang}.yaml')}, identifier/, documents/; the report is {lang}.md. Next:")
    print(
        f"1. in the recipe: `{lang}` in languages, `language: {{model: {storage.join(out, 'identifier')}}}`, "
        f"`filter: {{language_files: {out}}}`"
    )
    print("2. pinisi run RECIPE --until filter")
    print(
        f"3. pinisi report RUN: read why {lang} was dropped, and let a speaker read {storage.join(out, f'{lang}.yaml')}"
    )
