"""Two finished runs beside each other: what their recipes ask, what they read, and how their models differ.

The runs may have other languages, another tokenizer, no training at all: what cannot be compared is said with its reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from cluster import storage
from ray_jobs.config import asked
from ray_jobs.experiment import comparison
from ray_jobs.experiment.comparison import Comparison
from ray_jobs.experiment.page import Facts
from ray_jobs.report.names import language
from ray_jobs.run import adopted
from ray_jobs.run.graph import MIXTURE, TOKENIZE
from ray_jobs.run.run import Run

MEASURED = ("bits_per_byte", "tasks", "long", "wildbench", "reward", "forgetting", "compute")
ELSEWHERE = ("name", "cluster", "run", "fetch")  # keys that change no result


def compare(first: Run, second: Run, names: tuple[str, str]) -> tuple[Comparison, list[Facts]]:
    """How the second run differs from the first, which is the control."""
    found = comparison.compare({names[0]: {0: first}, names[1]: {0: second}}, names[0], MEASURED, of_arms=False)
    cannot = [*found.cannot, *_cannot(first, second, names)]
    facts = [
        Facts("What the recipes ask differently", ("key", *names), _keys(first, second), False),
        *_corpus(first, second, names),
    ]
    return found._replace(cannot=cannot), [one for one in facts if one.rows]


def _keys(first: Run, second: Run) -> list[tuple[str, str, str]]:
    """(key, value, value) of what differs in the two recipes."""
    one, other = (dict(asked.leaves(run.recipe.model_dump())) for run in (first, second))
    keys = dict.fromkeys(_there(key, one, other) for key in [*one, *other])
    return [
        (key, _said(one, key), _said(other, key))
        for key in keys
        if (key not in one or key not in other or one[key] != other[key]) and key.split(".")[0] not in ELSEWHERE
    ]


def _there(key: str, *sides: Mapping) -> str:
    """The key, or the section above it that one of the recipes does not have."""
    parts = key.split(".")
    above = (".".join(parts[:n]) for n in range(1, len(parts)))
    return next((name for name in above if any(name in side for side in sides)), key)


def _said(values: Mapping, key: str) -> str:
    """What a recipe says of a key; of a section that the other has not, only that it is there."""
    return "given" if key not in values else "none" if values[key] is None else str(values[key])


def _corpus(first: Run, second: Run, names: tuple[str, str]) -> list[Facts]:
    counts = [run.manifest(TOKENIZE) or {} for run in (first, second)]
    heads = tuple(f"{what}, {name}" for what in ("documents", "tokens") for name in names)
    keys = ("docs_per_lang", "tokens_per_lang")
    rows = [
        (language(lang), *(f"{found.get(key, {}).get(lang, 0):,}" for key in keys for found in counts))
        for lang in _langs(*(found.get(key, {}) for key in keys for found in counts))
    ]
    shares = [_shares(run) for run in (first, second)]
    weights = [
        (language(lang), *("" if lang not in of else f"{of[lang]:.4f}" for of in shares)) for lang in _langs(*shares)
    ]
    return [
        Facts("Documents and tokens that were kept", ("language", *heads), rows, True),
        Facts("Weights of the mixture in stage 1", ("language", *names), weights, True),
    ]


def _langs(*found: Mapping[str, float]) -> list[str]:
    return sorted({lang for one in found for lang in one})


def _shares(run: Run) -> dict[str, float]:
    """The share of each language in the tokens of stage 1."""
    path = adopted.path(run.uri, MIXTURE, "plan.json")
    shares: dict[str, float] = {}
    plan = storage.read_json(path) if storage.exists(path) else {}
    for pool, weight in plan.get("stage1", {}).get("weights", {}).items():
        lang = pool.split("/")[-1]
        shares[lang] = shares.get(lang, 0.0) + weight
    return shares


def _cannot(first: Run, second: Run, names: tuple[str, str]) -> list[str]:
    said = []
    for run, other, name in ((first, second, names[0]), (second, first, names[1])):
        if only := sorted(set(run.recipe.languages) - set(other.recipe.languages)):
            said.append(f"{', '.join(map(language, only))}: only {name} has them")
        if run.recipe.train is None:
            said.append(f"models: {name} trains none")
    tokenizers = {_digest(adopted.path(run.uri, TOKENIZE, "tokenizer", "tokenizer.json")) for run in (first, second)}
    if len(tokenizers) > 1:
        said.append(
            "tokens: the tokenizers differ, so a token is not the same in both; documents and bits per byte can be compared"
        )
    return said


def _digest(path: str) -> str:
    return hashlib.sha256(storage.read_bytes(path)).hexdigest() if storage.exists(path) else ""
