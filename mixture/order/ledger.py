"""The ledger of a training stage: what was changed in its data while it was trained, so that it can be told and repeated.

JSON lines, one change each, in the order in which they were said; lines are only ever added:

    {"from_step": 501, "from_sample": 512000, "weights": {"all/th": 0.3, …}, "tokens": {"all/th": 91000, …}, "reason": …}
    {"from_step": 620, "from_sample": 633856, "remove": "<doc_id>", "reason": …}

`weights` are those of all pools from row `from_sample` on, `tokens` how many of each pool's tokens are read from there on
(a pool that has grown), `remove` a document that is taken down. Steps count from 1, as in the metrics; step s is made of
rows (s - 1) R .. s R - 1, R = rows a step. A change of weights or tokens comes after the last such change; documents can be
taken down in any order. That a change lies ahead of what has been trained is the caller's business.
"""

from __future__ import annotations

import json

from cluster import storage
from mixture.order.schedule import check_schedule


def read(uri: str) -> list[dict]:
    """All lines of the ledger at `uri`, the first said first; none when there is no ledger."""
    if not storage.exists(uri):
        return []
    return [json.loads(line) for line in storage.read_bytes(uri).split(b"\n") if line]


def append(uri: str, change: dict) -> None:
    """Add one line. Saying again what the ledger says already does nothing.

    Raises ValueError for weights that are no weights, and for a change of weights or tokens that is not after the last.
    """
    lines = read(uri)
    if change in lines:
        return
    if "remove" not in change:
        later = [line["from_sample"] for line in lines if "remove" not in line]
        if later and change["from_sample"] <= later[-1]:
            raise ValueError(
                f"the weights change at row {later[-1]:,} already; the next change must come after it, not at row "
                f"{change['from_sample']:,}"
            )
        if "weights" in change:
            check_schedule([{"from_sample": 0, "weights": change["weights"]}])
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*lines, change])
    storage.write_text(uri, text)


def schedule(
    plan: dict[str, float], tokens: dict[str, int], lines: list[dict], later: list[dict] | None = None
) -> list[dict]:
    """The `schedule` of a Sampler: weights `plan` over pools of `tokens` tokens from row 0 on, then the changes of `lines`.

    `later`: planned changes of weights, [{"from_sample", "weights"}, ...]; weights of a line replace those from there on."""
    changes = [line for line in lines if "remove" not in line]
    said = [line["from_sample"] for line in changes if "weights" in line]
    planned = [one for one in later or [] if not said or one["from_sample"] < said[0]]
    entries = [{"from_sample": 0, "weights": plan, "tokens": tokens}]
    for line in sorted([*planned, *changes], key=lambda one: one["from_sample"]):
        entry = {
            "from_sample": line["from_sample"],
            "weights": line.get("weights", entries[-1]["weights"]),
            "tokens": line.get("tokens", {}),
        }
        if line["from_sample"] == entries[-1]["from_sample"]:
            entries[-1] = {**entry, "tokens": entries[-1]["tokens"] | entry["tokens"]}
        else:
            entries.append(entry)
    return entries


def removed(lines: list[dict]) -> list[dict]:
    """The `removed` of a Sampler: [{"from_sample", "doc_id"}, ...]."""
    return [{"from_sample": line["from_sample"], "doc_id": line["remove"]} for line in lines if "remove" in line]
