"""Policies: what a language's file says about editing, measuring and judging its documents, and the judgement itself.

A policy is read from `languages/default.yaml`, then `languages/script_<script>.yaml`, then `languages/<lang>.yaml`; each
overrides single bounds of the ones before. A rule is a bound on one signal (`curation.policy.signal_schema`):
`rules: {word_count: {min: 20, max: 100000}, char_repetition: {max: 0.106, n: 10}, flagged_ratio: off}`.
A signal of others (`curation.annotations`) that is a string, or true or false, has `allowed` or `forbidden` values instead.
A bound of a recipe may be `{percentile: 99}` of the reference documents instead of a number (`curation.policy.percentiles`). A
document is kept when it breaks no rule; every rule that it breaks is a ledger row named after signal and bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from cluster import storage
from cluster.shards import LEDGER
from curation.policy.keys import Percentile, Policy, edits, known, merge_rules, nearest, words
from curation.policy.percentiles import resolve
from curation.policy.signal_schema import LIST_SIGNALS
from curation.text.characters import script_number

FOLDER = Path(__file__).parents[1] / "languages"
STAGE = "filter/policy"
KEYS = ("name", "script", "lid", "edit", "rules", "stop_words", "flagged_words", "notice_phrases")


def languages(folder: str | None = None) -> list[str]:
    """Codes of the languages that have a file, here or in a user's `folder` (any URI), sorted."""
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    if folder:
        names |= {uri.rsplit("/", 1)[-1].removesuffix(".yaml") for uri in storage.glob(storage.join(folder, "*.yaml"))}
    return sorted(name for name in names if name != "default" and not name.startswith("script_"))


def load(
    lang: str,
    overrides: Mapping[str, Mapping | None] | None = None,
    lists: Mapping[str, tuple[str, ...]] | None = None,
    own: tuple[str, ...] = (),
    folder: str | None = None,
) -> Policy:
    """The policy of a language, with a recipe's `overrides` (signal -> bounds, or off) of its rules on top.

    `lang` "default" gives the policy of no language in particular. `lists` (`stop_words`, `flagged_words`) replace those of
    the file; `own` are names of signals of the user; a file in a user's `folder` goes before the shipped one. Raises ValueError
    naming the file or override, the key and the nearest right one when a language, key, rule or value is wrong.
    """
    policy = _merged(lang, folder) if folder else _from_files(lang)
    if lists:
        policy = Policy(**{**vars(policy), **lists})
    if not overrides:
        return policy
    where = f"filter.policy override of {lang}"
    rules = {signal: dict(bounds) for signal, bounds in policy.rules.items()}
    values: dict[str, dict] = {}
    if any(isinstance(bounds, Mapping) and "n" in bounds for bounds in overrides.values()):
        raise ValueError(f"{where}: n belongs to the measurement of a signal; set it in curation/languages/{lang}.yaml")
    merge_rules(rules, {}, overrides, where, own, values)
    return _checked(Policy(**{**vars(policy), "rules": rules, "lists": values}), where)


def of_language(lang: str | None) -> Policy:
    """The policy of a document's language, or "default" where that has no file."""
    return load(lang if lang in languages() else "default")


def load_all(
    langs: list[str],
    overrides: Mapping[str, Mapping] | None = None,
    lists: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
    own: tuple[str, ...] = (),
    folder: str | None = None,
) -> dict[str, Policy]:
    """Policies of the languages and of "default".

    `overrides` is language or "default" -> rules; those of "default" hold for every language, under the language's own, except
    bounds on a list that a language has not. `lists` are word lists by language (`curation.signals.word_lists.read`), `own`
    names of signals of the user, `folder` has files of languages of the user.
    """
    overrides, lists = overrides or {}, lists or {}
    for lang in overrides:
        if lang not in (*langs, "default"):
            raise ValueError(
                f"filter.policy: {lang!r} is not a language of the recipe{nearest(lang, [*langs, 'default'])}"
            )
    for lang, rules in overrides.items():
        if rules is not None and not isinstance(rules, Mapping):
            raise ValueError(f"filter.policy: {lang} must be a mapping of signals to bounds, not {rules!r}")
    everywhere = overrides.get("default") or {}
    policies = {"default": load("default", everywhere, own=own, folder=folder)}
    for lang in langs:
        policy = load(lang, None, lists.get(lang), folder=folder)
        held = {
            s: b for s, b in everywhere.items() if s not in LIST_SIGNALS or getattr(policy, LIST_SIGNALS[s]) is not None
        }
        policies[lang] = load(lang, {**held, **(overrides.get(lang) or {})}, lists.get(lang), own, folder)
    return policies


def apply(signals_batch: pa.RecordBatch, policies: Mapping[str, Policy]) -> tuple[pa.BooleanArray, pa.RecordBatch]:
    """Judge a batch with columns doc_id, url, lang and signals: (keep mask, ledger with one row per broken rule).

    A signal that is null breaks nothing. Percentiles must be numbers by now (`curation.policy.percentiles.resolve`).
    Languages without a policy are judged by `policies["default"]`.
    """
    langs = np.array([lang if lang in policies else "default" for lang in signals_batch["lang"].to_pylist()], object)
    values: dict[str, np.ndarray] = {}
    # rows, rule, their values, threshold, what else there is to say of each
    broken: list[tuple[np.ndarray, str, np.ndarray, float | None, list[str | None]]] = []
    for lang in sorted(set(langs)):
        of_lang = langs == lang
        for signal, bounds in policies[lang].rules.items():
            if signal not in values:
                values[signal] = signals_batch[signal].to_numpy(zero_copy_only=False).astype(np.float64)
            value = values[signal]
            for bound, threshold in bounds.items():
                assert not isinstance(threshold, Percentile), f"{lang}: {signal} has no number for its percentile"
                # Shares are float32: so must the threshold be, or 0.3 would not satisfy a minimum of 0.3.
                real = signals_batch.schema.field(signal).type == pa.float32()
                limit = float(np.float32(threshold)) if real else threshold
                rows = np.flatnonzero(of_lang & (value < limit if bound == "min" else value > limit))
                if len(rows):
                    broken.append((rows, f"{signal}_{bound}", value[rows], float(threshold), [None] * len(rows)))
        for signal, lists in policies[lang].lists.items():
            for name, listed in lists.items():
                rows = np.flatnonzero(of_lang & _against(signals_batch[signal], name, listed))
                if len(rows):
                    found = [str(one).lower() if isinstance(one, bool) else one for one in listed]
                    values_of = signals_batch[signal].take(pa.array(rows)).cast(pa.string()).to_pylist()
                    detail: list[str | None] = [
                        f"{one}: {name} {'is' if len(found) == 1 else 'are'} {', '.join(found)}" for one in values_of
                    ]
                    broken.append((rows, f"{signal}_{name}", np.full(len(rows), np.nan), None, detail))
    keep = np.ones(len(langs), bool)
    if not broken:
        return pa.array(keep), _EMPTY
    rows = np.concatenate([b[0] for b in broken])
    keep[rows] = False
    order = np.argsort(rows, kind="stable")
    sizes = [len(b[0]) for b in broken]
    columns = {
        **{name: signals_batch[name].take(pa.array(rows[order])) for name in ("doc_id", "url", "lang")},
        "stage": [STAGE] * len(rows),
        "rule": np.repeat(np.array([b[1] for b in broken], object), sizes)[order],
        "value": np.concatenate([b[2] for b in broken])[order],
        "threshold": np.repeat(np.array([b[3] for b in broken], np.float64), sizes)[order],
        "detail": np.array([one for b in broken for one in b[4]], object)[order],
    }
    arrays = [pa.array(columns[f.name], f.type, from_pandas=True) for f in LEDGER]  # NaN, of a list, is null
    return pa.array(keep), pa.record_batch(arrays, schema=LEDGER)


def _against(column: pa.Array, name: str, listed: tuple[str | bool, ...]) -> np.ndarray:
    """Which values are not `allowed`, or are `forbidden`; what is unknown is neither."""
    among = pc.is_in(column, pa.array(listed, column.type))
    wrong = pc.invert(among) if name == "allowed" else among
    return pc.and_(wrong, pc.is_valid(column)).to_numpy(zero_copy_only=False)


def policy_kernel(  # noqa: PLR0917
    langs: list[str],
    overrides: Mapping[str, Mapping] | None = None,
    lists: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
    thresholds: Mapping[str, Mapping] | None = None,
    own: tuple[str, ...] = (),
    folder: str | None = None,
) -> Callable[[pa.RecordBatch], tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Kernel of filter/policy: documents with signal columns -> (those that break no rule, ledger).

    `overrides`, `lists` and `folder` as in `load_all`; `thresholds` are the numbers of percentiles
    (`curation.policy.percentiles`).
    """
    return partial(_judge, resolve(load_all(langs, overrides, lists, own, folder), thresholds or {}))


def _judge(policies: Mapping[str, Policy], batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    keep, ledger = apply(batch, policies)
    return batch.filter(keep), ledger


_EMPTY = pa.RecordBatch.from_pylist([], schema=LEDGER)


@cache
def _from_files(lang: str) -> Policy:
    return _merged(lang, None)


def _merged(lang: str, folder: str | None) -> Policy:
    if lang != "default" and lang not in languages(folder):
        near = nearest(lang, languages(folder))
        also = f", nor in {folder}" if folder else ""
        raise ValueError(
            f"no file curation/languages/{lang}.yaml for language {lang!r}{also}{near}; `pinisi language new` makes one "
            "(docs/languages.md)"
        )
    where, last = _read(f"{lang}.yaml", folder)
    layers = [_read("default.yaml")]
    if script := last.get("script"):
        name = f"script_{script}.yaml"
        if not (FOLDER / name).exists() and not (folder and storage.exists(storage.join(folder, name))):
            scripts = sorted(p.stem.removeprefix("script_") for p in FOLDER.glob("script_*.yaml"))
            raise ValueError(f"{where}: no file {name}{nearest(script, scripts)}")
        layers.append(_read(name, folder))
    if lang != "default":
        layers.append((where, last))
    edit: dict = {}
    rules: dict[str, dict[str, float]] = {}
    ngram: dict[str, int] = {}
    for where, content in layers:
        edit |= edits(content.get("edit") or {}, where)
        merge_rules(rules, ngram, content.get("rules") or {}, where)
    policy = Policy(
        lang=lang,
        name=last.get("name", lang),
        script=script,
        lid=last.get("lid") or {},
        ascii_punctuation=edit["ascii_punctuation"],
        delete_url_tokens=edit["delete_url_tokens"],
        long_token_chars=edit["long_token_chars"] or None,
        rules=rules,
        ngram=ngram,
        stop_words=words(last.get("stop_words"), where, "stop_words"),
        flagged_words=words(last.get("flagged_words"), where, "flagged_words"),
        notice_phrases=_notice_phrases(layers),
    )
    return _checked(policy, where)


def _notice_phrases(layers: list[tuple[str, dict]]) -> tuple[str, ...]:
    """Those of all layers: a site's notices are often in English, whatever language it is in."""
    lists = (words(content.get("notice_phrases"), where, "notice_phrases") for where, content in layers)
    return tuple(dict.fromkeys(phrase for found in lists for phrase in found or ()))


def _read(file: str, folder: str | None = None) -> tuple[str, dict]:
    """(How errors call the file, what it says): the user's where their folder has one."""
    where, uri = f"curation/languages/{file}", str(FOLDER / file)
    if folder and storage.exists(own := storage.join(folder, file)):
        where, uri = own, own
    try:
        content = yaml.safe_load(storage.read_bytes(uri)) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} is not YAML: {str(error).splitlines()[0]}") from None
    return where, known(content, KEYS, where, "")


def _checked(policy: Policy, where: str) -> Policy:
    for signal, bounds in policy.rules.items():
        fixed = {key: bound for key, bound in bounds.items() if not isinstance(bound, Percentile)}
        if "min" in fixed and "max" in fixed and fixed["min"] > fixed["max"]:
            raise ValueError(
                f"{where}: rules.{signal}: min {bounds['min']} is above max {bounds['max']}, so nothing passes"
            )
        key = LIST_SIGNALS.get(signal)
        if bounds and key and getattr(policy, key) is None and policy.lang != "default":
            raise ValueError(
                f"{where}: rules.{signal} has a bound, but {policy.lang} has no {key}: write them or turn it off"
            )
    if "script_share" in policy.rules and policy.script is None and policy.lang != "default":
        raise ValueError(f"{where}: rules.script_share has a bound, but there is no script")
    if policy.script is not None:
        script_number(policy.script)
    return policy
