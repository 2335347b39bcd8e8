"""`pinisi policy RUN --try FILE --train`: which of two policies keeps the better documents, by small models trained on each.

What both keep is read from stored signals, so neither policy is run through the whole chain. What is compared, and why it may
be believed: ray_jobs/experiment/ablate.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import xxhash
from rich.text import Text

from cluster import storage, terminal
from cluster.terminal import Column, numbers
from curation.policy import policy
from ray_jobs.commands import policy_trial
from ray_jobs.errors import UserError
from ray_jobs.experiment import filters
from ray_jobs.experiment.filters import Compared
from ray_jobs.experiment.statistics import LEVEL, Difference, difference
from ray_jobs.run.run import Run

BATCH_ROWS = 4096


def compare(run: Run, file: str, seeds: Sequence[int], steps: int = filters.STEPS) -> dict:
    """`languages` and `all`: the tried policy's bits per byte less the recipe's, with interval; below 0 the tried one is better.

    Raises UserError as `policy_trial.compare`, and where no language has documents enough.
    """
    now, tried = _kept(run, file)
    try:
        found = filters.compare(tried, now, seeds, steps)
    except ValueError as error:
        raise UserError(f"{run.uri}: {error}") from None
    langs = sorted(set(found.lang.values()))
    return {
        "run": run.uri,
        "policy": file,
        "seeds": list(seeds),
        "steps": found.steps,
        "documents": dict(zip(("tried", "now", "both"), found.documents, strict=True)),
        "left_out": found.left_out,
        "all": _as_json(difference(found.ours, found.other)),
        "languages": {lang: _as_json(_of_language(found, lang, len(langs))) for lang in langs},
    }


def _kept(run: Run, file: str) -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
    """What the recipe's policy and that of `file` keep: doc_id -> (language, text)."""
    parts, sides, _ = policy_trial.sides(run, file)
    found: tuple[dict, dict] = {}, {}
    seen: set[int] = set()
    columns = ["doc_id", "url", "lang", "text", *policy_trial.measured(sides)]
    for part in parts:
        with storage.open_parquet(part) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                kept = [policy.apply(batch, side)[0] for side in sides]
                rows = batch.select(["doc_id", "lang", "text"]).to_pylist()
                for row, *keeps in zip(rows, *(one.to_pylist() for one in kept), strict=True):
                    digest = xxhash.xxh3_64_intdigest((row["text"] or "").encode("utf-8", "replace"))
                    if row["lang"] in run.recipe.languages and row["text"] and any(keeps) and digest not in seen:
                        seen.add(digest)
                        for side, keep in zip(found, keeps, strict=True):
                            if keep:
                                side[row["doc_id"]] = row["lang"], row["text"]
    return found


def _of_language(found: Compared, lang: str, languages: int) -> Difference:
    """At a level at which of all languages together none is called different by chance."""
    tried, now = (
        {seed: {key: bits for key, bits in scores.items() if found.lang[key] == lang} for seed, scores in side.items()}
        for side in (found.ours, found.other)
    )
    return difference(tried, now, level=1 - (1 - LEVEL) / languages)


def _as_json(found: Difference) -> dict:
    return found._asdict() | {"verdict": found.verdict}


def show(found: Mapping) -> None:
    """Bits per byte of the tried policy less the recipe's."""
    columns = [
        Column("language"),
        Column("tried less recipe", right=True),
        Column("interval", right=True),
        numbers("items"),
    ]
    rows = [
        (lang, f"{one['value']:+.3f}", f"{one['low']:+.3f} to {one['high']:+.3f}", one["items"], one["verdict"])
        for lang, one in [*found["languages"].items(), ("all", found["all"])]
    ]
    lines = [*terminal.table([*columns, Column("")], rows), Text()]
    better = "the tried policy" if found["all"]["value"] < 0 else "the recipe's policy"
    verdict = f"{better} keeps the better documents" if found["all"]["shown"] else found["all"]["verdict"]
    documents = found["documents"]
    text = f"Bits per byte, less is better: {verdict}. {len(found['seeds'])} pairs of small models of {found['steps']} steps"
    text += f"; {documents['now']:,} and {documents['tried']:,} documents, {documents['both']:,} of them in common."
    if found["left_out"]:
        text += f" Left out, as there are too few documents: {', '.join(found['left_out'])}."
    lines += terminal.paragraph(text)
    terminal.show(lines)
