"""`pinisi policy RUN --from-labels`: bounds that the judgements of `pinisi inspect` speak for, as a change of the recipe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from rich.text import Text

from cluster import storage, terminal
from cluster.terminal import Column, clean, numbers
from curation.policy import percentiles, policy
from ray_jobs.errors import UserError
from ray_jobs.inspect import bounds, judgements, samples, scores
from ray_jobs.inspect.bounds import Proposal
from ray_jobs.report.names import named
from ray_jobs.run import adopted
from ray_jobs.run.graph import POLICY, SIGNALS
from ray_jobs.run.run import Run
from ray_jobs.stages.filter_policy import policies

LEAST = 20  # judged documents of a language


def propose(run: Run) -> dict:
    """`rules`: rows {lang, signal, bound, …Proposal}, those with a proposal first; `languages`: language -> judged documents that
    the policy kept or dropped; `policy`: what to write below filter.policy. Raises UserError where there are too few judgements.
    """
    if run.manifest(POLICY) is None:
        raise UserError(f"{run.uri}: {POLICY} is not done, so there is no bound to move yet; `pinisi run` first")
    said = scores.judged(judgements.everybody(run.uri))
    if not said:
        raise UserError(f"{run.uri}: nothing has been judged yet; `pinisi inspect` opens the page for it")
    table, counts = samples.drawn(run, samples.size(run))
    rows: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for row in table.drop_columns(["text"]).to_pylist():
        if row["layer"] == POLICY and row["key"] in said:
            rows[row["lang"], row["side"]].append(row)
    judged = {
        lang: sum(len(rows[lang, side]) for side in (samples.KEPT, samples.DROPPED)) for lang in run.recipe.languages
    }
    if max(judged.values(), default=0) < LEAST:
        raise UserError(
            f"{run.uri}: at most {max(judged.values(), default=0)} documents of a language that {POLICY} judged have labels, and "
            f"{LEAST} are the least; `pinisi inspect` asks for them"
        )
    bounded, signals = _policies(run), _signals(run, {row["doc_id"] for mine in rows.values() for row in mine})
    found: dict[tuple[str, str, str], Proposal] = {}
    for lang in (lang for lang, n in judged.items() if n >= LEAST):
        mine = [
            pair
            for side in (samples.KEPT, samples.DROPPED)
            for pair in scores.weights(rows[lang, side], counts["layers"][POLICY][side].get(lang, {}), said)
            if pair[0]["doc_id"] in signals
        ]
        for signal, of_signal in bounded[lang].rules.items():
            for side, now in of_signal.items():
                one = _of_rule(mine, signals, said, signal, side, now)
                if one is not None:
                    found[lang, signal, side] = one
    order = sorted(found, key=lambda key: (found[key].bound is None, -(found[key].saved or 0), key))
    return {
        "run": run.uri,
        "languages": {lang: n for lang, n in judged.items() if n},
        "rules": [dict(zip(("lang", "signal", "side"), key, strict=True)) | found[key]._asdict() for key in order],
        "policy": bounds.recipe(found),
    }


def _of_rule(mine, signals, said, signal, side, now) -> Proposal | None:  # noqa: PLR0917
    """None where no judged document that depends on the rule has the signal."""
    rule = f"{signal}_{side}"
    pairs = [
        (row, weight)
        for row, weight in mine
        if bounds.depends(row["rules"], rule) and signals[row["doc_id"]].get(signal) is not None
    ]
    if not pairs:
        return None
    values_N = np.array([signals[row["doc_id"]][signal] for row, _ in pairs], np.float64)
    noise_N = np.array([said[row["key"]] for row, _ in pairs], np.float64)
    weights_N = np.array([weight for _, weight in pairs], np.float64)
    dropped_N = np.array([row["side"] == samples.DROPPED for row, _ in pairs])
    return bounds.propose(values_N, noise_N, weights_N, dropped_N, float(now), side)


def _policies(run: Run) -> Mapping[str, policy.Policy]:
    """As the stage had them, percentiles as its numbers."""
    try:
        every = policies(run.recipe.filter.policy, run.recipe)
    except ValueError as error:
        raise UserError(f"{run.uri}/recipe.yaml: {error}") from None
    return percentiles.resolve(every, storage.read_json(adopted.path(run.uri, POLICY, "_thresholds.json")))


def _signals(run: Run, doc_ids: set[str]) -> dict[str, dict]:
    """doc_id -> its row of signals, without the text."""
    wanted = pa.array(sorted(doc_ids), pa.string())
    found: dict[str, dict] = {}
    for part in storage.glob(adopted.path(run.uri, SIGNALS, "part-*.parquet")):
        with storage.open_parquet(part) as parquet:
            if pc.any(pc.is_in(parquet.read(["doc_id"])["doc_id"], wanted)).as_py():
                names = [name for name in parquet.schema_arrow.names if name not in ("text", "pii")]
                table = parquet.read(names)
                found |= {r["doc_id"]: r for r in table.filter(pc.is_in(table["doc_id"], wanted)).to_pylist()}
    return found


def show(result: dict) -> None:
    """The proposals with their intervals, then what to write into the recipe."""
    proposed = [row for row in result["rules"] if row["bound"] is not None]
    lines: list[Text] = []
    if proposed:
        columns = [
            Column("rule"),
            Column("language", named, clean),
            *(Column(title, "{:.4g}".format, right=True) for title in ("bound now", "proposed", "from", "to")),
            *(numbers(title) for title in ("documents put right", "from", "to")),
            numbers("judged", drop=1),
        ]
        cells = [
            (
                *(f"{row['signal']}_{row['side']}", row["lang"], row["now"], row["bound"], row["low"], row["high"]),
                *(row["saved"], row["saved_low"], row["saved_high"], row["good"] + row["noise"]),
            )
            for row in proposed
        ]
        lines += [*terminal.table(columns, cells, title="bounds that the judgements speak for"), Text()]
        text = yaml.safe_dump({"filter": {"policy": result["policy"]}}, sort_keys=False, allow_unicode=True)
        lines += [line for one in text.splitlines() for line in terminal.verbatim(one)]
        said = "Add this to the recipe. `pinisi policy RUN --try FILE` says what it changes, with what is below `policy` as FILE."
        lines += [Text(), *terminal.paragraph(said)]
    else:
        lines += terminal.paragraph("The judgements speak for no other bound.")
    few = [row for row in result["rules"] if row["bound"] is None and row["saved"] is None and "least" in row["why"]]
    unsure = [row for row in result["rules"] if row["bound"] is None and "not surely" in row["why"]]
    right = len(result["rules"]) - len(proposed) - len(few) - len(unsure)
    counts = (
        f"Of {len(result['rules']):,} bounds {len(few):,} have too few judged documents that depend on them alone, for "
    )
    counts += f"{right:,} the present number is the best, {len(unsure):,} may be better elsewhere but not surely."
    terminal.show([*lines, *terminal.paragraph(counts)])
