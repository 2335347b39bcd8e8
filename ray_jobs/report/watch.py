"""The report's section on dpo/watch: what changes over the updates of all rounds, and each language at the end."""

from __future__ import annotations

import json

from markupsafe import Markup

from cluster import storage
from ray_jobs.alignment import probe_records
from ray_jobs.report import plots
from ray_jobs.report.names import named
from ray_jobs.run import adopted
from ray_jobs.run.graph import DPO_WATCH

PLOTS = {
    "Win rate against the SFT model": {
        "by reward": "win_rate",
        "by reward, at equal lengths": "win_rate_length_controlled",
        "by the judge": "judge_win_rate",
        "by the judge, at equal lengths": "judge_win_rate_length_controlled",
    },
    "Reward margin, against the SFT model": {"margin": "reward_margin"},
    "Log-probability of the probe's pairs": {"chosen": "chosen_logp", "rejected": "rejected_logp"},
    "Length of the answers": {"characters": "answer_chars"},
    "Language and emoji": {
        "answers in the prompt's language": "language_consistency",
        "answers with emoji": "emoji_rate",
        "answers that end": "finished",
    },
    "Reward of the answers": {"reward": "reward"},
}
"""Title -> {line: key of a record}."""

UNITS = {"Length of the answers": "characters", "Log-probability of the probe's pairs": "nats"}


def section(uri: str) -> dict | None:
    """`plots` (title, SVG), a bar chart by language, a `table` of the records, `questions` (its code, row of questions.jsonl);
    None where nothing was watched."""
    records = probe_records.records(uri)
    if not records:
        return None
    drawn = []
    for title, lines in PLOTS.items():
        series: dict[str, tuple[list, list]] = {}
        for name, key in lines.items():
            found = [(record["step"], record[key]) for record in records if key in record]
            if found:
                series[name] = ([step for step, _ in found], [value for _, value in found])
        if series:
            drawn.append((title, Markup(plots.lines(series, "updates", UNITS.get(title, "")))))
    last = records[-1]
    by_language = {
        name: last[key]
        for name, key in (
            ("win rate by reward", "win_rate_by_language"),
            ("win rate by the judge", "judge_win_rate_by_language"),
            ("in the prompt's language", "language_consistency_by_language"),
        )
        if key in last
    }
    langs = sorted({lang for values in by_language.values() for lang in values})
    bars = plots.grouped_bars(
        [*map(named, langs)], {n: [v.get(lang) for lang in langs] for n, v in by_language.items()}, "share"
    )
    keys = [key for lines in PLOTS.values() for key in lines.values() if any(key in record for record in records)]
    table = [[f"{r['stage']}, update {r['update']}", *(r.get(key) for key in keys)] for r in records]
    path = adopted.path(uri, DPO_WATCH, probe_records.QUESTIONS)
    asked = storage.read_bytes(path).decode().split("\n") if storage.exists(path) else []
    questions = [(row["lang"], row) for row in map(json.loads, filter(None, asked))]
    return {"plots": drawn, "languages": Markup(bars), "keys": keys, "table": table, "questions": questions}
