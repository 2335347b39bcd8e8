"""How long a run still takes, as far as anything is known: nothing is guessed, and what is not known is named."""

from __future__ import annotations

from cluster import terminal
from ray_jobs.config.training import PretrainStage
from ray_jobs.run import superseded
from ray_jobs.run.graph import ON_POLICY
from ray_jobs.run.run import Run
from ray_jobs.training import budget

PROGRESS = "its progress"


def estimate(run: Run, rows: list[dict]) -> None:
    """Add `seconds_left` and `estimate` to the rows of stages that are not done, null where nothing is known of one.

    A stage that is under way: by its progress. Others: pre-training at the measured speed of the other stage of the same
    model, a further on-policy round as the one before, else as long as what lies of the stage from before took."""
    aside = superseded.of(run.uri, [row["name"] for row in rows])
    speeds = {row["name"]: speed for row in rows if (speed := _tokens_per_second(run, row))}
    rounds = [row for row in rows if row["name"].startswith(ON_POLICY)]

    def known(row: dict) -> tuple[float | None, str]:
        name = row["name"]
        branch, _, step = name.partition("/")
        if row["state"] in ("running", "started"):
            return row["progress"]["seconds_left"], PROGRESS
        like = [other for other in speeds if other != name and other.startswith(f"{branch}/")]
        if like and (tokens := _tokens(run, step)):
            return tokens / speeds[like[0]], f"the speed of {like[0]}"
        last = (
            row["seconds"]
            if row["state"] == "changed"
            else superseded.seconds(run.uri, name)
            if name in aside
            else None
        )
        if last is not None:
            return last, "the last time"
        if row in rounds and (done := [one for one in rounds[: rounds.index(row)] if one["state"] == "done"]):
            return done[-1]["seconds"], f"the time of {done[-1]['name']}"
        return None, ""

    for row in rows:
        if row["state"] != "done":
            seconds, source = known(row)
            row["seconds_left"] = None if seconds is None else round(seconds)
            row["estimate"] = None if seconds is None else source


def _tokens_per_second(run: Run, row: dict) -> float | None:
    """The speed of a stage of pre-training that is done or under way; None for others."""
    branch, _, step = row["name"].partition("/")
    if branch not in ("pretrain", "control"):
        return None
    if per_second := row.get("progress", {}).get("per_second"):
        assert run.recipe.train
        return per_second * _pretrain(run, step).rows_per_step * run.recipe.train.context
    return row["tokens"] / row["seconds"] if row["state"] == "done" and row["tokens"] and row["seconds"] else None


def _tokens(run: Run, step: str) -> int | None:
    """That a stage of pre-training reads; None while that is not known."""
    assert run.recipe.train
    return budget.known(run.uri, "stage1" if step == "stage1" else "stage2", run.recipe.train)


def _pretrain(run: Run, step: str) -> PretrainStage:
    """The section of a stage of pre-training: `stage1` or `stage2`."""
    assert run.recipe.train and run.recipe.train.pretrain
    return getattr(run.recipe.train.pretrain, step)


def left(rows: list[dict], *, names: bool = True) -> str:
    """One sentence on what is left of the run: the time as far as it is known, and the stages of which nothing is known."""
    todo = [row for row in rows if row["state"] != "done"]
    if not todo:
        return f"run: done, {terminal.duration(sum(row['seconds'] or 0 for row in rows))} of stages"
    known = [row for row in todo if row["seconds_left"] is not None]
    unknown = [row["name"] for row in todo if row["seconds_left"] is None]
    parts = []
    if known:
        sources = " and ".join(sorted({row["estimate"] for row in known} - {PROGRESS}))
        seconds = sum(row["seconds_left"] for row in known)
        parts.append(f"about {terminal.duration(seconds)} left{f' (by {sources})' if sources else ''}")
    if unknown:
        listed = f" ({', '.join(unknown)})" if names else ""
        parts.append(f"{len(unknown)} stage{'s' * (len(unknown) > 1)} not estimated{listed}")
    running = any(row["state"] == "running" for row in todo)
    return f"run: {'' if running else 'nobody works on it; '}{' + '.join(parts)}"
