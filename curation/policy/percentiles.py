"""Bounds that are percentiles of a reference corpus: from signals of its documents to numbers, language by language.

A recipe names sources of good text (`filter.reference`); `{max: {percentile: 99}}` then drops what is worse than 99 % of that
text in the same language. A language with too few reference documents has the rule off: never another's number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.policy.keys import Percentile, Policy


def wanted(policies: Mapping[str, Policy]) -> list[str]:
    """Signals whose percentiles the policies need, sorted."""
    return sorted({signal for policy in policies.values() for signal, bounds in policy.rules.items() if _of(bounds)})


def thresholds(tables: Iterable[pa.Table], policies: Mapping[str, Policy], min_documents: int) -> dict[str, dict]:
    """Numbers of all percentiles: language -> signal -> bound -> `{percentile, documents, value}`.

    `tables` have `lang` and the signals `wanted`, one row a reference document; a null signal is no document of it. `value` is
    the quantile by linear interpolation, or None with fewer than `min_documents`.
    """
    signals = wanted(policies)
    values: dict[tuple[str, str], list[np.ndarray]] = {}
    for table in tables:
        for lang in pc.unique(table["lang"]).to_pylist():
            rows = table.filter(pc.equal(table["lang"], lang)) if lang is not None else table.slice(0, 0)
            for signal in signals:
                found = rows[signal].drop_null().to_numpy().astype(np.float64)
                values.setdefault((lang, signal), []).append(found)
    result: dict[str, dict] = {}
    for lang, policy in policies.items():
        for signal, bounds in policy.rules.items():
            for bound, percentile in _of(bounds).items():
                found = np.concatenate(values.get((lang, signal), [np.zeros(0)]))
                number = float(np.quantile(found, percentile / 100)) if len(found) >= max(1, min_documents) else None
                row = {"percentile": percentile, "documents": len(found), "value": number}
                result.setdefault(lang, {}).setdefault(signal, {})[bound] = row
    return result


def resolve(policies: Mapping[str, Policy], numbers: Mapping[str, Mapping]) -> dict[str, Policy]:
    """The policies with numbers (`thresholds`) for percentiles. A percentile without a number is no bound."""
    return {lang: _resolved(policy, numbers.get(lang, {})) for lang, policy in policies.items()}


def _resolved(policy: Policy, numbers: Mapping[str, Mapping]) -> Policy:
    rules = {}
    for signal, bounds in policy.rules.items():
        of_signal = {bound: numbers.get(signal, {}).get(bound, {}).get("value") for bound in _of(bounds)}
        every = {**bounds, **of_signal}
        rules[signal] = {bound: value for bound, value in every.items() if value is not None}
    return dataclasses.replace(policy, rules=rules)


def _of(bounds: Mapping) -> dict[str, float]:
    return {bound: value.percentile for bound, value in bounds.items() if isinstance(value, Percentile)}
