"""What the judgements say: noise after each layer, how right what was dropped was, which rule to loosen, agreement.

A document is noise when its code is in `judgements.NOISE` or it is flagged as pornographic; who was unsure has said nothing.
Judgements of several people on one text count as their mean. Labelled documents of a stratum (a rule in a language) stand
for all that it holds, so they weigh its size divided by their number.

Of D documents that a layer dropped and K that it kept, shares p_d and p_k are noise: it caught D p_d / (D p_d + K p_k) of the
noise that came to it. The bounds of that are its values at the two worst ends of both intervals, so it is rather too wide.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations

import pyarrow as pa

from ray_jobs.inspect import judgements, samples
from ray_jobs.inspect.judgements import CODES, FLAGS, NOISE, UNSURE
from ray_jobs.inspect.samples import DROPPED, KEPT
from ray_jobs.inspect.statistics import Share, corrected, kappa, newcombe, weighted
from ray_jobs.run.graph import LANGUAGE, POLICY
from ray_jobs.run.run import Run

BY_TEXT = (LANGUAGE, POLICY)
"""Layers that drop a document for what its text is; the others drop copies, of which one text says nothing."""
LOOSEN = 0.25  # the least that surely was good of what a rule dropped, from which on it is named
LEAST = 5  # judgements of a rule before it is named
LEAST_PAIRS = 30  # judgements of two people on one text before their errors are reckoned with
ALL = "all"


def noise(row: Mapping) -> float | None:
    """1 for noise, 0 for none, None for unsure."""
    if row["label"] not in CODES:
        return None
    return float(row["label"] in NOISE or "porn" in row.get("flags", ()))


def judged(everybody: Mapping[str, Mapping[str, Mapping]]) -> dict[str, float]:
    """key -> the mean of what was said of it, 0 (good) to 1 (noise); keys on which all are unsure are left out."""
    said: dict[str, list[float]] = defaultdict(list)
    for rows in everybody.values():
        for key, row in rows.items():
            if (one := noise(row)) is not None:
                said[key].append(one)
    return {key: sum(values) / len(values) for key, values in said.items()}


def compute(run: Run, per_layer: int) -> dict:
    """The scores of the run.

    `layers`: layer -> language or `all` -> `kept`, `dropped` (shares of noise), `corrected` (`kept` less the errors of people,
    as their disagreement tells), `caught`, `change` (of noise since the layer before), `documents`. `rules`: rows of what rules
    dropped. `agreement`: of each two people. `codes`: language -> what was said how often. A share is {value, low, high, n,
    effective}, or null where nobody has judged."""
    table, counts = samples.drawn(run, per_layer)
    everybody = judgements.everybody(run.uri)
    said = judged(everybody)
    rows = table.drop_columns(["text"]).to_pylist()
    return {
        "per_layer": per_layer,
        "judged": sum(key in said for key in {row["key"] for row in rows}),
        "sample": len({row["key"] for row in rows}),
        "annotators": {name: len(found) for name, found in sorted(everybody.items()) if found},
        "layers": _layers(rows, counts["layers"], said, _alike(everybody)),
        "rules": _rules(rows, counts["layers"], said),
        "agreement": agreement(everybody, {row["key"]: row["lang"] for row in rows}),
        "codes": _codes(table, everybody),
    }


def weights(
    rows: Iterable[Mapping], sizes: Mapping[str, int], said: Mapping[str, float]
) -> list[tuple[Mapping, float]]:
    """The judged rows of one language, layer and side, each with the number of documents that it stands for."""
    mine = [row for row in rows if row["key"] in said]
    drawn = Counter(row["stratum"] for row in mine)
    return [(row, sizes[row["stratum"]] / drawn[row["stratum"]]) for row in mine]


def _share(pairs: list[tuple[Mapping, float]], said: Mapping[str, float]) -> Share | None:
    return weighted([said[row["key"]] for row, _ in pairs], [weight for _, weight in pairs])


def _layers(rows: list[dict], sizes: dict, said: dict[str, float], alike: Share | None) -> dict:
    of: dict[tuple[str, str, str], list[dict]] = defaultdict(list)
    for row in rows:
        of[row["layer"], row["side"], row["lang"]].append(row)
    result: dict[str, dict] = {}
    before: dict[str, Share] = {}
    for layer, sides in sizes.items():
        langs = sorted(sides[KEPT].keys() | sides[DROPPED].keys())
        pairs = {
            (side, lang): weights(of[layer, side, lang], sides[side].get(lang, {}), said)
            for side in (KEPT, DROPPED)
            for lang in langs
        }
        result[layer] = {}
        for lang in [*langs, ALL]:
            mine = langs if lang == ALL else [lang]
            documents = {side: sum(sum(sides[side].get(one, {}).values()) for one in mine) for side in (KEPT, DROPPED)}
            shares = {
                side: _share([pair for one in mine for pair in pairs[side, one]], said) for side in (KEPT, DROPPED)
            }
            kept = shares[KEPT]
            change = newcombe(kept, before[lang]) if kept and lang in before else None
            result[layer][lang] = {
                "documents": documents,
                **{side: share and share._asdict() for side, share in shares.items()},
                "corrected": kept and alike and _interval(corrected(kept, alike)),
                "caught": caught(documents, shares),
                "change": _interval(change),
            }
            if kept:
                before[lang] = kept
    return result


def _interval(found: tuple[float, float, float] | None) -> dict | None:
    return found and dict(zip(("value", "low", "high"), found, strict=True))


def _alike(everybody: Mapping[str, Mapping[str, Mapping]]) -> Share | None:
    """How often two people said the same of noise, over all texts that two judged; None for fewer than `LEAST_PAIRS`."""
    same = []
    for one, other in combinations(everybody.values(), 2):
        both = [(noise(one[key]), noise(other[key])) for key in one.keys() & other.keys()]
        same += [float(a == b) for a, b in both if a is not None and b is not None]
    return weighted(same) if len(same) >= LEAST_PAIRS else None


def caught(documents: Mapping[str, int], shares: Mapping[str, Share | None]) -> dict | None:
    """D p_d / (D p_d + K p_k); None where that is not known or there is no noise."""
    dropped, kept = shares[DROPPED], shares[KEPT]
    if dropped is None or kept is None:
        return None

    def of(p_d: float, p_k: float) -> float | None:
        there = documents[DROPPED] * p_d + documents[KEPT] * p_k
        return documents[DROPPED] * p_d / there if there else None

    value = of(dropped.value, kept.value)
    return (
        value
        if value is None
        else {
            "value": value,
            "low": of(dropped.low, kept.high),
            "high": of(dropped.high, kept.low),
        }
    )


def _rules(rows: list[dict], sizes: dict, said: dict[str, float]) -> list[dict]:
    """For each layer, language and rule the share that was good of what it dropped, and of that what it dropped alone.

    `lost`: good documents of the run that it dropped, estimated. `loosen`: that the interval of the share lies above `LOOSEN`.
    """
    found: dict[tuple[str, str, str], list[tuple[Mapping, float]]] = defaultdict(list)
    for layer in BY_TEXT:
        by_lang: dict[str, list[dict]] = defaultdict(list)
        for row in rows:
            if (row["layer"], row["side"]) == (layer, DROPPED):
                by_lang[row["lang"]].append(row)
        for lang, mine in by_lang.items():
            for pair in weights(mine, sizes[layer][DROPPED].get(lang, {}), said):
                for rule in pair[0]["rules"]:
                    found[layer, lang, rule].append(pair)
                    found[layer, ALL, rule].append(pair)
    result = []
    for (layer, lang, rule), pairs in sorted(found.items()):
        good = {row["key"]: 1 - said[row["key"]] for row, _ in pairs}
        share, alone = _share(pairs, good), [(row, weight) for row, weight in pairs if row["rules"] == [rule]]
        assert share is not None
        only = _share(alone, good)
        result.append(
            {
                **{"layer": layer, "lang": lang, "rule": rule, "good": share._asdict()},
                "alone": only and only._asdict(),
                "lost": sum(weight * good[row["key"]] for row, weight in pairs),
                "loosen": bool(only and only.n >= LEAST and only.low > LOOSEN),
            }
        )
    return sorted(result, key=lambda row: -row["lost"])


def agreement(everybody: Mapping[str, Mapping[str, Mapping]], langs: Mapping[str, str]) -> list[dict]:
    """For each two people and language, and for all: texts that both judged, how many alike, kappa of codes and of noise."""
    result = []
    for one, other in combinations(sorted(everybody), 2):
        both = [
            (langs[key], everybody[one][key], everybody[other][key])
            for key in everybody[one].keys() & everybody[other].keys() & langs.keys()
            if UNSURE not in (everybody[one][key]["label"], everybody[other][key]["label"])
        ]
        for lang in [*sorted({lang for lang, _, _ in both}), ALL] if both else []:
            mine = [(a, b) for own, a, b in both if lang in (own, ALL)]
            codes = [(a["label"], b["label"]) for a, b in mine]
            result.append(
                {
                    **{"annotators": [one, other], "lang": lang, "n": len(mine)},
                    "alike": sum(a == b for a, b in codes) / len(mine),
                    "kappa": kappa(codes),
                    "kappa_noise": kappa([(noise(a), noise(b)) for a, b in mine]),
                }
            )
    return result


def _codes(table: pa.Table, everybody: Mapping[str, Mapping[str, Mapping]]) -> dict[str, dict[str, int]]:
    langs = dict(zip(table["key"].to_pylist(), table["lang"].to_pylist(), strict=True))
    result: dict[str, Counter] = {}
    for rows in everybody.values():
        for key, row in rows.items():
            if key in langs:
                result.setdefault(langs[key], Counter()).update([row["label"], *row.get("flags", ())])
    order = [*CODES, UNSURE, *FLAGS]
    return {lang: {one: result[lang][one] for one in order if result[lang][one]} for lang in sorted(result)}
