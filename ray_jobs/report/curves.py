"""What the records of training say: the newest ones for `pinisi status`, all of them as plots for the report.

They are read from the run's folder, so both work from any machine that reaches it, also while a stage trains.
"""

from __future__ import annotations

from cluster import storage
from ray_jobs.report.names import named
from ray_jobs.run import adopted
from ray_jobs.run.graph import (
    BASE,
    CONTROL_1,
    CONTROL_2,
    DRAFT,
    LONG_CONTEXT,
    OFF_POLICY,
    PRETRAIN_1,
    PRETRAIN_2,
    PRUNE,
    REWARD,
    ROUNDS,
    SFT_1,
    SFT_2,
)
from train.monitor import metrics
from train.monitor.forgetting import warnings as forgotten

GROUPS = {
    "Pre-training": (BASE, PRETRAIN_1, PRETRAIN_2, CONTROL_1, CONTROL_2),
    "Instruction tuning": (SFT_1, SFT_2),
    "Reward model and preference tuning": (REWARD, OFF_POLICY, *ROUNDS),
    "Longer context": (LONG_CONTEXT,),
    "Draft": (DRAFT,),
    "Pruning": (PRUNE,),
}
BY_LANGUAGE = {
    "loss_by_language": ("Training loss by language", "nats per token"),
    "bits_per_byte": ("Held-out text while training", "bits per byte"),
    "task_accuracy": ("Tasks while training", "share of items right"),
    "task_loss": ("Tasks while training, the right option", "nats"),
}
HELD_OUT = {
    "validation_loss": ("Held-out loss by language", "nats per token or pair"),
    "validation_accuracy": ("Held-out accuracy by language", "share of pairs"),
    "validation_margin": ("Held-out reward margin by language", "reward"),
}
"""Of instruction tuning, reward model and preference tuning (train/monitor/heldout_rows.py)."""


def records(uri: str, stage: str) -> list[dict]:
    """The training records of a stage of the run at `uri`; none when it does not train, or has not yet."""
    return metrics.read(storage.join(adopted.home(uri, stage), "metrics", f"{stage.replace('/', '-')}.jsonl"))


def newest(found: list[dict]) -> dict:
    """The last record, with what was measured more seldom taken from the last that has it."""
    seldom = ("bits_per_byte", "bits_per_byte_change", "validation_loss_change", "task_accuracy", *HELD_OUT)
    measured: dict = next((r for r in reversed(found) if "validation_loss" in r), {})
    last = {**{key: measured[key] for key in seldom if key in measured}, **found[-1]}
    if warnings := forgotten(measured):
        last["warnings"] = warnings
    return last


def losses(found: dict[str, list[dict]]) -> list[tuple[str, str]]:
    """(title, SVG) of the loss of each group of stages, and of the reward margin. `found`: stage -> records."""
    from ray_jobs.report import plots  # matplotlib takes a second to import, and `pinisi status` draws nothing

    result = []
    for title, names in GROUPS.items():
        series = {n: ([r["tokens"] for r in found[n]], [r["loss"] for r in found[n]]) for n in names if found.get(n)}
        if series:
            result.append((title, plots.lines(series, "tokens", "loss")))
    margins = {
        n: ([r["step"] for r in found[n]], [r["reward_margin"] for r in found[n]])
        for n in (OFF_POLICY, *ROUNDS)
        if found.get(n) and "reward_margin" in found[n][0]
    }
    if margins:
        result.append(("Reward margin of chosen over rejected", plots.lines(margins, "step", "margin")))
    return result


def languages(found: dict[str, list[dict]]) -> list[tuple[str, str]]:
    """(title, SVG) of each stage by language; held-out loss begins with the model that came in."""
    from ray_jobs.report import plots

    result = []
    for group, names in GROUPS.items():
        for stage in names:
            for key, (title, unit) in (
                BY_LANGUAGE if group in ("Pre-training", "Longer context", "Pruning") else HELD_OUT
            ).items():
                series: dict[str, tuple[list, list]] = {}
                for record in found.get(stage, ()):
                    for lang, value in record.get(key, {}).items():
                        xs, ys = series.setdefault(lang, ([], []))
                        if not xs and (change := record.get(f"{key}_change")):
                            xs.append(0)
                            ys.append(value - change[lang])
                        xs.append(record["tokens"])
                        ys.append(value)
                if series:
                    drawn = {named(lang): series[lang] for lang in sorted(series)}
                    result.append((f"{title}: {stage}", plots.lines(drawn, "tokens", unit)))
    return result
