"""What every benchmark ends with: one table on the screen and the same rows in benchmarks/results/<part>-<name>.json."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path


def row(
    metric: str,
    unit: str,
    ours: float,
    *,
    peer: tuple[str, float] | None = None,
    target: float | None = None,
    least: bool = True,
    tuned_on: str | None = None,
) -> dict:
    """One row. `peer` is (name and version, its value), and `ratio` ours / its. `target` is the least value that is asked
    for; the greatest when `least` is False. `tuned_on` says which of the data of this row were in sight when ours was made;
    without it the row has what `write` is told of all."""
    name, value = peer or (None, None)
    met = None if target is None else bool(ours >= target if least else ours <= target)
    ratio = round(ours / value, 2) if value else None
    values = {"ours": _short(ours), "peer": name, "peer_value": value and _short(value), "ratio": ratio}
    return {"metric": metric, "unit": unit, **values, "target": target, "met": met, "tuned_on": tuned_on}


def write(name: str, rows: list[dict], tuned_on: str) -> None:
    """Print the rows and write them to results/<name>.json. `tuned_on` is that of rows which do not say it themselves."""
    rows = [{**r, "tuned_on": r["tuned_on"] or tuned_on} for r in rows]
    result = {"machine": machine(), "date": datetime.date.today().isoformat(), "rows": rows}
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    width = max(len(_name(r)) for r in rows) + 2
    print(f"{'metric':<{width}}{'ours':>10}{'peer':>10}{'ratio':>8}{'target':>8}  unit")
    for r in rows:
        cells = [("" if r[key] is None else r[key]) for key in ("ours", "peer_value", "ratio", "target")]
        missed = "  MISSED" if r["met"] is False else ""
        print(f"{_name(r):<{width}}{cells[0]:>10}{cells[1]:>10}{cells[2]:>8}{cells[3]:>8}  {r['unit']}{missed}")


def machine() -> str:
    """What the numbers were measured on."""
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _name(r: dict) -> str:
    return r["metric"] + (f" [{r['peer']}]" if r["peer"] else "")


def _short(value: float) -> float:
    """Four significant digits, and no more decimals than four."""
    return float(f"{value:.4g}") if abs(value) < 10_000 else round(value)
