"""A policy, and reading its keys: each function takes what YAML gave, checks it and says in one sentence what is wrong.

`where` names the file or override in errors.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from curation.policy.signal_schema import NGRAM_SIGNALS, SIGNALS

EDITS = ("ascii_punctuation", "delete_url_tokens", "long_token_chars")
BOUNDS = ("min", "max")
LISTS = ("allowed", "forbidden")  # of strings and of true and false, which only annotations have


@dataclass(frozen=True)
class Percentile:
    """A bound that is this percentile, 0 to 100, of a signal among the reference documents of the language."""

    percentile: float


@dataclass(frozen=True)
class Policy:
    """One language. `rules` is signal -> bound (`min`, `max`) -> threshold; `lists` is signal -> `allowed` or `forbidden` ->
    values; `ngram` is signal -> n."""

    lang: str
    name: str
    script: str | None
    lid: Mapping[str, str] = field(default_factory=dict)  # language-identification model -> its label
    ascii_punctuation: bool = False  # typographic and full-width punctuation becomes ASCII
    delete_url_tokens: bool = False
    long_token_chars: int | None = None  # longer tokens are deleted
    rules: Mapping[str, Mapping[str, float | Percentile]] = field(default_factory=dict)
    lists: Mapping[str, Mapping[str, tuple[str | bool, ...]]] = field(default_factory=dict)
    ngram: Mapping[str, int] = field(default_factory=dict)
    stop_words: tuple[str, ...] | None = None
    flagged_words: tuple[str, ...] | None = None
    notice_phrases: tuple[str, ...] = ()  # of error, consent and login pages, those of every language among them


def known(section: object, keys: tuple[str, ...], where: str, path: str) -> dict:
    """A mapping with no other keys than these."""
    at = f"{where}: {path}" if path else where
    if not isinstance(section, Mapping):
        raise ValueError(f"{at} must be a mapping of {', '.join(keys)}, not {section!r}")
    for key in section:
        if key not in keys:
            raise ValueError(f"{at}: unknown key {key!r}{nearest(str(key), keys)}")
    return dict(section)


def edits(section: object, where: str) -> dict:
    """The switches of the text edits."""
    switches = known(section, EDITS, where, "edit")
    for key, value in switches.items():
        if key == "long_token_chars":
            if value is not False and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{where}: edit.{key} must be a whole number of at least 1 or off, not {value!r}")
        elif not isinstance(value, bool):
            raise ValueError(f"{where}: edit.{key} must be on or off, not {value!r}")
    return switches


def merge_rules(  # noqa: PLR0917
    rules: dict, ngram: dict, new: object, where: str, own: tuple[str, ...] = (), lists: dict | None = None
) -> None:
    """Lay `new` over `rules`, `ngram` and `lists`: single bounds replace single bounds, off (false or null) removes all or one.

    `own` are names of signals of the user (`curation.signals.own_signals`, and annotations); only these may have `lists`."""
    lists = {} if lists is None else lists
    signals = (*SIGNALS, *own)
    for name in new if isinstance(new, Mapping) else ():
        if name not in signals and (reported := _reported(str(name), signals)):
            raise ValueError(f"{where}: {name} is a rule as reports name it; write {reported}")
    for signal, bounds in known(new, signals, where, "rules").items():
        if bounds is None or bounds is False:
            rules.pop(signal, None)
            lists.pop(signal, None)
            continue
        keys = (*BOUNDS, "n") if signal in NGRAM_SIGNALS else (*BOUNDS, *LISTS) if signal in own else BOUNDS
        for key, value in known(bounds, keys, where, f"rules.{signal}").items():
            if value is None or value is False:
                rules.get(signal, {}).pop(key, None)
                lists.get(signal, {}).pop(key, None)
            elif key in LISTS:
                lists.setdefault(signal, {})[key] = _listed(value, where, f"rules.{signal}.{key}")
            elif isinstance(value, Mapping) and key != "n":
                rules.setdefault(signal, {})[key] = _percentile(value, where, f"rules.{signal}.{key}")
            elif isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{where}: rules.{signal}.{key} must be a number or off, not {value!r}")
            elif key != "n":
                rules.setdefault(signal, {})[key] = value
            elif not isinstance(value, int) or value < 1:
                raise ValueError(f"{where}: rules.{signal}.n must be a whole number of at least 1, not {value!r}")
            else:
                ngram[signal] = value


def _listed(value: object, where: str, path: str) -> tuple[str | bool, ...]:
    """The values that a string, or true or false, may have or not."""
    given = value if isinstance(value, list) else [value]
    if not given or not all(isinstance(one, str | bool) for one in given):
        raise ValueError(f"{where}: {path} must be a list of strings, or of true and false, not {value!r}")
    return tuple(dict.fromkeys(given))


def _reported(name: str, signals: tuple[str, ...]) -> str | None:
    """How to write what a report or the ledger calls `name`; None where that is no rule's name."""
    if name == "rules":
        return "its signals right below the language, without `rules`"
    signal, _, bound = name.rpartition("_")
    return f"{signal}: {{{bound}: …}}" if bound in (*BOUNDS, *LISTS) and signal in signals else None


def _percentile(value: Mapping, where: str, path: str) -> Percentile:
    number = known(value, ("percentile",), where, path).get("percentile")
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 100:
        raise ValueError(f"{where}: {path}.percentile must be a number from 0 to 100, not {number!r}")
    return Percentile(float(number))


def words(text: object, where: str, key: str) -> tuple[str, ...] | None:
    """Entries of a list, which is one text with commas (as a YAML list, `no`, `on` and `yes` would be read as booleans)."""
    if text is None or text is False:
        return None
    if not isinstance(text, str):
        raise ValueError(f"{where}: {key} must be one text with a comma after each entry, not {type(text).__name__}")
    entries = [" ".join(entry.split()) for entry in text.split(",")]
    return tuple(dict.fromkeys(entry for entry in entries if entry))


def nearest(wrong: str, right: Iterable[str]) -> str:
    """Ending of an error: the right name that looks most like `wrong`, or all of them."""
    close = difflib.get_close_matches(wrong, list(right), n=1, cutoff=0.4)
    return f" (did you mean {close[0]!r}?)" if close else f"; known: {', '.join(right)}"
