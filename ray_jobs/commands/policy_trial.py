"""`pinisi policy RUN --try FILE`: what another policy would keep and drop, and why, from the signals that the run stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from rich.text import Text

from cluster import storage, terminal
from cluster.terminal import Column, clean, numbers
from curation.policy import percentiles, policy
from curation.policy.keys import LISTS
from ray_jobs.errors import UserError
from ray_jobs.report.names import named
from ray_jobs.run import adopted
from ray_jobs.run.graph import SIGNALS
from ray_jobs.run.run import Run
from ray_jobs.stages.filter_policy import policies, thresholds

STAGE = SIGNALS
BATCH_ROWS = 65_536


def compare(run: Run, file: str, examples: int = 5) -> dict:
    """Judge every document of the run by the recipe's policy and by that of `file`, which has the shape of `filter.policy`.

    Returns `languages` (language -> `documents`, `kept_now`, `kept_tried`, `newly_dropped`, `newly_kept`, and `rules`: rule ->
    documents that break it `now` and `tried`, with the tried `threshold`), `thresholds` of percentiles, and `examples`:
    documents that change side, at most `examples` of a language and side. Raises UserError for a wrong key or no signals.
    """
    parts, (now, tried), numbers = sides(run, file)
    signals = measured((now, tried))
    languages: dict[str, dict] = {}
    changed: dict[tuple[str, str], list[dict]] = {}
    for part in parts:
        with storage.open_parquet(part) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=["doc_id", "url", "lang", *signals]):
                _judge(batch, now, tried, languages, changed, examples)
    return {
        "run": run.uri,
        "policy": file,
        "languages": dict(sorted(languages.items())),
        "thresholds": numbers[1],
        "examples": [row for _, rows in sorted(changed.items()) for row in rows],
    }


def sides(run: Run, file: str) -> tuple[list[str], tuple[dict, dict], list[dict]]:
    """(parts with signals, the run's policy and that of `file` by language, the thresholds of percentiles of each)."""
    if run.manifest(STAGE) is None:
        raise UserError(f"{run.uri}: {STAGE} is not done, so there are no signals yet; `pinisi run` first")
    recipe = run.recipe
    tried_rules = _read(file)
    parts = storage.glob(adopted.path(run.uri, STAGE, "part-*.parquet"))
    found, numbers = [], []
    for where, rules in ((f"{run.uri}/recipe.yaml", recipe.filter.policy), (file, tried_rules)):
        try:
            found.append(policies(rules, recipe))
            numbers.append(thresholds(parts, found[-1], recipe.filter))
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
    now, tried = (percentiles.resolve(side, number) for side, number in zip(found, numbers, strict=True))
    return parts, (now, tried), numbers


def measured(both: Iterable[dict]) -> list[str]:
    """The signals that policies ask for."""
    return sorted({signal for side in both for one in side.values() for signal in (*one.rules, *one.lists)})


def _read(file: str) -> dict:
    if not Path(file).is_file():
        raise UserError(f"{file}: no such file")
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(content or {}, dict):
        raise UserError(f"{file}: must be a mapping of languages, or `default`, to rules")
    return content or {}


def _judge(batch, now, tried, languages, changed, examples) -> None:  # noqa: PLR0917
    kept, ledgers = zip(*(policy.apply(batch, side) for side in (now, tried)), strict=True)
    before, after = (keep.to_numpy(zero_copy_only=False) for keep in kept)
    langs = np.array([lang or "?" for lang in batch["lang"].to_pylist()], object)
    for lang in np.unique(langs.astype(str)):
        rows = langs == lang
        counts = languages.setdefault(
            lang,
            {
                **dict.fromkeys(("documents", "kept_now", "kept_tried", "newly_dropped", "newly_kept"), 0),
                "rules": {},
            },
        )
        counts["documents"] += int(rows.sum())
        counts["kept_now"] += int((rows & before).sum())
        counts["kept_tried"] += int((rows & after).sum())
        counts["newly_dropped"] += int((rows & before & ~after).sum())
        counts["newly_kept"] += int((rows & ~before & after).sum())
    for side, ledger in zip(("now", "tried"), ledgers, strict=True):
        pairs = zip(*(ledger[name].to_pylist() for name in ("lang", "rule", "threshold")), strict=True)
        for (lang, rule, threshold), n in Counter(pairs).items():
            row = languages[lang or "?"]["rules"].setdefault(rule, {"now": 0, "tried": 0, "threshold": None})
            row[side] += n
            if side == "tried":
                row["threshold"] = threshold
    for side, mask, ledger in (
        ("newly_dropped", before & ~after, ledgers[1]),
        ("newly_kept", ~before & after, ledgers[0]),
    ):
        _examples(batch, side, np.flatnonzero(mask), ledger, changed, examples)


def _examples(batch, side, rows, ledger, changed, examples) -> None:  # noqa: PLR0917
    """The first documents of each language that change side, with the rules that they break on the side that drops them."""
    wanted = []
    for row in rows.tolist():
        found = changed.setdefault((batch["lang"][row].as_py() or "?", side), [])
        if len(found) < examples:
            one = {name: batch[name][row].as_py() for name in ("doc_id", "url", "lang")}
            found.append({**one, "change": side, "rules": []})
            wanted.append(found[-1])
    if wanted:
        by_id = {one["doc_id"]: one for one in wanted}
        mine = ledger.filter(pc.is_in(ledger["doc_id"], pa.array(list(by_id), pa.string())))
        for row in mine.to_pylist():
            said = {key: row[key] for key in ("rule", "value", "threshold")}
            by_id[row["doc_id"]]["rules"].append(said | ({"detail": row["detail"]} if row["detail"] else {}))


def _bound(rule: str, found: dict) -> str:
    if found["threshold"] is not None:
        return f"{found['threshold']:.4g}"
    return "a list" if found["tried"] and rule.endswith(LISTS) else "off"


def show(result: dict) -> None:
    """Documents of each language, rules that they break, thresholds that are percentiles, and examples."""
    columns = [
        Column("language", named, clean),
        numbers("documents"),
        numbers("kept now", drop=1),
        numbers("tried"),
        Column("share kept", "{:.1%}".format, right=True),
        numbers("newly dropped"),
        numbers("newly kept"),
    ]
    rows = [
        (lang, n, row["kept_now"], row["kept_tried"], row["kept_tried"] / n, row["newly_dropped"], row["newly_kept"])
        for lang, row in result["languages"].items()
        if (n := row["documents"])
    ]
    lines = [*terminal.table(columns, rows), Text()]
    columns = [
        Column("rule"),
        Column("language", named, clean),
        numbers("now"),
        numbers("tried"),
        Column("bound tried", right=True),
    ]
    broken = [
        (rule, lang, found["now"], found["tried"], _bound(rule, found))
        for lang, row in result["languages"].items()
        for rule, found in sorted(row["rules"].items(), key=lambda item: (-item[1]["tried"], item[0]))
    ]
    lines += terminal.table(columns, broken, title="documents that break a rule")
    for lang, signals in result["thresholds"].items():
        for signal, bounds in signals.items():
            for bound, row in bounds.items():
                number = "off, too few" if row["value"] is None else f"{row['value']:.4g}"
                percentile = f"percentile {row['percentile']:g} of {row['documents']:,} documents"
                lines += terminal.paragraph(f"{lang}: {signal} {bound}: {percentile} = {number}")
    for one in result["examples"]:
        rules = ", ".join(
            f"{r['rule']} ({r['detail']})"
            if r["value"] is None
            else f"{r['rule']} {r['value']:.4g} (bound {r['threshold']:.4g})"
            for r in one["rules"]
        )
        lines += terminal.paragraph(f"{one['lang']}: {one['change'].replace('_', ' ')}: {rules}")
        lines += terminal.verbatim(one["url"] or one["doc_id"], terminal.INDENT)
    terminal.show(lines)
