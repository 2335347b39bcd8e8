"""Scores as tables of strings, the same on the page, in the terminal and in the report: {title, note, heads, rows}."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

from cluster import storage, terminal
from cluster.terminal import Column
from ray_jobs.inspect import scores
from ray_jobs.inspect.judgements import NOISE
from ray_jobs.inspect.scores import ALL, LEAST, LOOSEN
from ray_jobs.report.names import language
from ray_jobs.run.run import Run

FILE = "inspect/scores.json"


def written(run: Run, per_layer: int) -> dict:
    """The scores of the run as they are now, with `tables` of them; also in `scores.json`, which the report shows."""
    found = scores.compute(run, per_layer)
    found["tables"] = of_texts(found) if found["judged"] else []
    storage.write_json(storage.join(run.uri, FILE), found)
    return found


def share(found: Mapping | None) -> str:
    """
    >>> share({"value": 0.02, "low": 0.006, "high": 0.07}), share(None)
    ('2 % (1-7)', '')
    """
    if found is None:
        return ""
    return f"{100 * found['value']:.0f} % ({100 * found['low']:.0f}-{100 * found['high']:.0f})"


def change(found: Mapping | None) -> str:
    """
    >>> change({"value": -0.3, "low": -0.4, "high": -0.1}), change({"value": -0.3, "low": -0.6, "high": 0.01})
    ('-30 (-40 to -10)', 'none shown (-60 to +1)')
    """
    if found is None:
        return ""
    bounds = f"({100 * found['low']:+.0f} to {100 * found['high']:+.0f})"
    return f"none shown {bounds}" if found["low"] <= 0 <= found["high"] else f"{100 * found['value']:+.0f} {bounds}"


def named(lang: str) -> str:
    return "all, by documents" if lang == ALL else f"{language(lang)} ({lang})"


def of_texts(found: Mapping) -> list[dict]:
    """Tables of `scores.compute`; of what nobody has judged there are no rows."""
    langs = sorted({lang for of in found["layers"].values() for lang in of} - {ALL})
    judged = [lang for lang in langs if any(of.get(lang, {}).get("kept") for of in found["layers"].values())]
    rows, corrected = [], any(one["corrected"] for of in found["layers"].values() for one in of.values())
    for lang in [*langs, ALL] if len(judged) > 1 else langs:
        for layer, of in found["layers"].items():
            one = of.get(lang)
            if one and (one["kept"] or one["dropped"]):
                n = sum(one[side]["n"] for side in ("kept", "dropped") if one[side])
                cells = [share(one["kept"]), *([share(one["corrected"])] if corrected else [])]
                cells += [change(one["change"]), share(one["dropped"]), share(one["caught"])]
                rows.append([named(lang), layer, *cells, f"{n:,}"])
    tables = [
        {
            "title": "Noise after each layer",
            "note": f"Noise: {', '.join(NOISE)} or pornographic; per cent with 95 % intervals. {found['judged']:,} of "
            f"{found['sample']:,} texts are judged. 'Caught': of the noise that came to the layer."
            + (" 'Corrected': less the errors that disagreement tells of, if people err alike." if corrected else ""),
            "heads": [
                *("language", "layer", "noise kept", *(("corrected",) if corrected else ())),
                *("change", "noise in what it dropped", "caught", "judged"),
            ],
            "rows": rows,
        }
    ]
    # one language's rows say what its policy can change; those of all are there for rules of many languages
    rules = [row for row in found["rules"] if row["lang"] != ALL or len(judged) > 1]
    rows = [
        [
            *(row["rule"], named(row["lang"]), share(row["good"]), share(row["alone"]), f"{row['good']['n']:,}"),
            *(f"{row['lost']:,.0f}", "loosen" if row["loosen"] else ""),
        ]
        for row in sorted(rules, key=lambda row: (not row["loosen"], -row["lost"]))
        if row["lost"]
    ]
    if rows:
        note = (
            "Good documents among those that a rule dropped, and among those that no other rule would have. 'Lost': good "
            f"documents of the run, estimated. A rule is to be loosened where at least {LEAST} documents that it alone "
            f"dropped are judged and surely more than {LOOSEN:.0%} are good."
        )
        heads = ["rule", "language", "good", "by it alone", "judged", "lost", ""]
        tables.append({"title": "False drops by rule", "note": note, "heads": heads, "rows": rows})
    if found["agreement"]:
        rows = [
            [" and ".join(row["annotators"]), named(row["lang"]), f"{row['n']:,}", f"{row['alike']:.0%}", *kappas(row)]
            for row in found["agreement"]
        ]
        note = "Cohen's kappa on texts that both have judged: 0 is chance, 1 is perfect."
        heads = ["annotators", "language", "texts", "alike", "kappa of codes", "kappa of noise"]
        tables.append({"title": "Agreement", "note": note, "heads": heads, "rows": rows})
    return tables


def kappas(row: Mapping) -> list[str]:
    return ["" if row[name] is None else f"{row[name]:.2f}" for name in ("kappa", "kappa_noise")]


def show(tables: list[dict]) -> None:
    """Print them."""
    lines: list[Text] = []
    for table in tables:
        columns = [Column(head, right=i > 0) for i, head in enumerate(table["heads"])]
        lines += [*terminal.table(columns, table["rows"], title=table["title"])]
        lines += [*terminal.paragraph(table["note"]), Text()]
    terminal.show(lines)
