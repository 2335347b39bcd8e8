"""Results that the recipe or the code no longer asks for: moved aside, and removed when their successor is done.

    RUN/_superseded/<stage>/<fingerprint>/{ledger,metrics.jsonl,result}

A run that asks again for what lies there (a change was taken back) gets it back instead of making it anew. The result moves
last, on the way out and on the way back, so whatever interrupts a move, the next start finds the result whole in one place.
"""

from __future__ import annotations

from cluster import storage

FOLDER = "_superseded"
MANIFEST, STARTED = "_manifest.json", "_started.json"
CLEARING = "_clearing.json"
MARKERS = (STARTED, MANIFEST)  # a folder that has one of them holds all that it vouches for


def of(uri: str, stages: list[str]) -> set[str]:
    """Those of `stages` of which something lies aside."""
    if not storage.exists(storage.join(uri, FOLDER)):
        return set()
    return {stage for stage in stages if storage.exists(storage.join(uri, FOLDER, stage))}


def seconds(uri: str, stage: str) -> float | None:
    """How long what lies aside of `stage` took; of several the longest, None when nothing was finished."""
    found = storage.glob(storage.join(uri, FOLDER, stage, "*", "result", MANIFEST))
    return max((storage.read_json(manifest)["seconds"] for manifest in found), default=None)


def set_aside(uri: str, stage: str) -> None:
    """Move the result of `stage`, finished or not, its ledger and its metrics aside."""
    result = storage.join(uri, stage)
    made = next(path for name in (MANIFEST, STARTED) if storage.exists(path := storage.join(result, name)))
    aside = storage.join(uri, FOLDER, stage, storage.read_json(made)["fingerprint"])
    for part, place in _parts(uri, stage):
        storage.move(place, storage.join(aside, part), last=MARKERS)


def holds(uri: str, stage: str, fingerprint: str, markers: tuple[str, ...] = MARKERS) -> bool:
    """Whether a result made under `fingerprint` lies aside that has one of `markers`."""
    result = storage.join(uri, FOLDER, stage, fingerprint, "result")
    return any(storage.exists(storage.join(result, name)) for name in markers)


def restore(uri: str, stage: str, fingerprint: str, result: bool) -> None:
    """Move back what was made under `fingerprint`: its ledger and metrics, or what an interrupted move left of them here, and
    with `result` the result too, in the place of what is there."""
    aside = storage.join(uri, FOLDER, stage, fingerprint)
    for part, place in _parts(uri, stage):
        if part == "result":
            if not result:
                continue
            _unmark(place)
            storage.remove(place)
        storage.move(storage.join(aside, part), place, last=MARKERS)


def forget(uri: str, stage: str) -> None:
    """Remove what lies aside of `stage`, as its successor is done."""
    for marker in storage.glob(storage.join(uri, FOLDER, stage, "*", "result", "_*.json")):
        storage.remove(marker)
    storage.remove(storage.join(uri, FOLDER, stage))


def clear(uri: str, stage: str) -> None:
    """Remove what `stage` has written, but not the folders of its sibling steps."""
    storage.write_json(storage.join(uri, stage, CLEARING), {})
    _unmark(storage.join(uri, stage))
    for _, place in _parts(uri, stage):
        storage.remove(place)


def end_clearing(uri: str, stage: str) -> None:
    """End a clearing of `stage` that was interrupted."""
    if storage.exists(storage.join(uri, stage, CLEARING)):
        clear(uri, stage)


def _unmark(result: str) -> None:
    """The markers go first: a folder of which a part is gone vouches for nothing."""
    for name in reversed(MARKERS):
        storage.remove(storage.join(result, name))


def _parts(uri: str, stage: str) -> tuple[tuple[str, str], ...]:
    return (
        ("ledger", storage.join(uri, "dropped", stage)),
        ("metrics.jsonl", storage.join(uri, "metrics", f"{stage.replace('/', '-')}.jsonl")),
        ("result", storage.join(uri, stage)),
    )
