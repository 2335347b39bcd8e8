"""What users of a model thought of its answers: a table for each language, and preference rows to train on.

A row is {"prompt" (or "text"): text or turns, "answer": text, "thumb": up or down, "language", "consent": true}, and where
known "model", "user", "time" and "tags": a list of names, or {name: up or down}, such as quality, tone and cultural fit. Each
row counts, or stands in the ledger with one reason; the ledger holds no text of a user.

    table.json          of each language: the share that is liked, by model, by tag, how alike people judge
    preference.jsonl    prompts with an answer that more liked than not, and one that fewer did: train.reward.preference reads it
    unpaired.jsonl      {id, lang, prompt, completion, label}, KTO's layout: all other answers that most liked, or disliked
    ledger.jsonl        {where, lang, rule, detail}

A row without consent is not used at all. Who changes their mind about an answer has said the last. Names of users are not
written; where a row names none, it is taken for a user of its own.

Thumbs of one user are alike. So an interval is Wilson's on as many thumbs as they are worth: n / max(1, the variance by users
over that of n single users), with Student's t of the number of users.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import combinations, count
from typing import NamedTuple

from scipy.special import stdtrit

from cluster import storage
from curation.lid.tags import code
from ray_jobs.errors import UserError
from ray_jobs.inspect.statistics import Share, Z, kappa, newcombe, wilson
from ray_jobs.report.names import FOLDER
from ray_jobs.run import files, row_files
from train.chat import conversations, formats, keys
from train.tasks.rows import coded

TABLE, PREFERENCE, UNPAIRED, LEDGER = "table.json", "preference.jsonl", "unpaired.jsonl", "ledger.jsonl"
THUMBS = {
    **dict.fromkeys(("up", "like", "liked", "good", "positive", "+", "+1", "1", "true", "yes", "👍"), True),
    **dict.fromkeys(("down", "dislike", "disliked", "bad", "negative", "-", "-1", "0", "false", "no", "👎"), False),
}
LONGEST = 100  # characters of the name of a model, user or tag
NAMED = {"prompt": ("prompt", "text"), "answer": ("answer", "response", "completion"), "lang": ("language", "lang")}


class Thumb(NamedTuple):
    """What one user said of one answer. `user`: their name, or a number of its own where nobody knows."""

    lang: str
    prompt: str  # JSON of its turns
    answer: str
    up: bool
    model: str
    user: str | int
    time: float
    tags: tuple[tuple[str, bool], ...]


Fault = tuple[str, str]


def run(pattern: str, out: str, languages: Sequence[str] = ()) -> dict:
    """Read the files of `pattern`, write the four files into the folder `out`, and return the table.

    `languages`: those that there shall be; none: all that Pinisi knows. Raises UserError for files that cannot be read.
    """
    thumbs, ledger, rows_in = read(pattern, languages)
    pairs, rest = preferences(thumbs)
    table = tabulate(thumbs)
    rules = Counter(row["rule"] for row in ledger)
    table |= {"rows_in": rows_in, "rows_used": len(thumbs), "dropped_by_rule": dict(sorted(rules.items()))}
    table |= {"pairs": _by_language(pairs), "unpaired": _by_language(rest)}
    for name, rows in ((PREFERENCE, pairs), (UNPAIRED, rest), (LEDGER, ledger)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        storage.write_bytes(storage.join(out, name), lines.encode("utf-8", "replace"))
    storage.write_json(storage.join(out, TABLE), table)
    return table


def read(pattern: str, languages: Sequence[str] = ()) -> tuple[list[Thumb], list[dict], int]:
    """(the rows that count, the ledger of the others, how many rows there are)."""
    if not (uris := files.expand(pattern)):
        raise UserError(f"--feedback {pattern}: no file matches; correct the path")
    found: dict[tuple, tuple[str, Thumb]] = {}
    ledger, n, nobody = [], 0, count()
    for uri in uris:
        try:
            for where, row, wrong in row_files.read(uri):
                n += 1
                made = ("not_a_row", wrong) if row is None else thumb(row, languages, nobody)
                if not isinstance(made, Thumb):
                    ledger.append(_entry(where, _lang(row or {}), *made))
                    continue
                key = made.user, made.lang, made.prompt, made.answer, made.model
                if (before := found.get(key)) and before[1].time > made.time:
                    ledger.append(_entry(where, made.lang, "said_again", f"a later one counts: {before[0]}"))
                    continue
                if before:
                    ledger.append(_entry(before[0], made.lang, "said_again", f"a later one counts: {where}"))
                found[key] = where, made
        except ValueError as error:
            raise UserError(f"--feedback {error}") from None
    return [made for _, made in found.values()], ledger, n


def _entry(where: str, lang: str | None, rule: str, detail: str) -> dict:
    return {"where": where, "lang": lang, "rule": rule, "detail": detail}


def thumb(row: dict, languages: Sequence[str], nobody: Iterator[int]) -> Thumb | Fault:
    """A row as a Thumb, or (rule, detail) of what is wrong with it. `nobody`: numbers for users without a name."""
    if keys.yes(row.get("consent")) is not True:
        return "no_consent", "consent is not true"
    lang = _lang(row)
    if lang is None:
        return "no_language", "there is no language"
    if lang not in (languages or known()):
        return "language_unknown", f"{lang!r:.40} is none of the languages"
    up = _up(row.get("thumb"))
    if up is None:
        return "no_thumb", "thumb is neither up nor down"
    prompt, answer = (next((row[k] for k in NAMED[name] if row.get(k)), None) for name in ("prompt", "answer"))
    if not isinstance(answer, str):
        return "no_answer", "answer is not a text"
    if not isinstance(prompt, str | list):
        return "no_prompt", "prompt is neither a text nor a list of turns"
    turns = formats.as_turns(prompt, "user", "prompt", set())
    if fault := conversations.fault([*turns, {"role": "assistant", "content": answer}]):
        return fault[0], "prompt and answer are no conversation that can be trained"  # its own detail may quote them
    said = conversations.plain(turns)
    return Thumb(
        lang,
        json.dumps(said, ensure_ascii=False),
        answer.strip(),
        up,
        _name(row.get("model")),
        _name(row.get("user")) or next(nobody),
        _seconds(row.get("time")),
        _tags(row.get("tags"), up),
    )


def _lang(row: dict) -> str | None:
    found = next((row[key] for key in NAMED["lang"] if row.get(key)), None)
    return (
        (coded(found, code).encode("utf-8", "replace").decode()[:LONGEST] or None) if isinstance(found, str) else None
    )


@cache
def known() -> frozenset[str]:
    """The languages that Pinisi knows."""
    return frozenset(path.stem for path in FOLDER.glob("*.yaml")) - {"default"}


def _seconds(value: object) -> float:
    """A time as seconds or in ISO 8601; before all others where it is neither."""
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return -math.inf
    return float(value) if isinstance(value, int | float) and abs(value) < 1e18 else -math.inf


def _up(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return {1.0: True, 0.0: False, -1.0: False}.get(value)
    return THUMBS.get(value.strip().lower().rstrip("\ufe0f")) if isinstance(value, str) else None


def _name(value: object) -> str:
    """A name as a text that can be written and printed; empty where there is none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    text = str(value) if isinstance(value, str) or abs(value) < 1 << 64 else ""
    return text.encode("utf-8", "replace").decode().strip()[:LONGEST]


def _tags(value: object, up: bool) -> tuple[tuple[str, bool], ...]:
    """A tag of a list says what the thumb is about; one of an object has a thumb of its own."""
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, list):
        value = {tag: up for tag in value if isinstance(tag, str)}
    if not isinstance(value, dict):
        return ()
    named = {_name(tag).lower().replace("_", " "): _up(own) for tag, own in value.items()}
    return tuple(sorted((tag, own) for tag, own in named.items() if tag and own is not None))


def tabulate(thumbs: Sequence[Thumb]) -> dict:
    """`languages`: code -> {liked, models, differences, tags, agreement}, shares as {value, low, high, n, effective}."""
    by_lang: dict[str, list[Thumb]] = defaultdict(list)
    for one in thumbs:
        by_lang[one.lang].append(one)
    return {"languages": {lang: _of_language(rows) for lang, rows in sorted(by_lang.items())}}


def _of_language(thumbs: list[Thumb]) -> dict:
    models: dict[str, list[tuple[str | int, bool]]] = defaultdict(list)
    tags: dict[str, list[tuple[str | int, bool]]] = defaultdict(list)
    for one in thumbs:
        if one.model:
            models[one.model].append((one.user, one.up))
        for tag, up in one.tags:
            tags[tag].append((one.user, up))
    shares = {model: liked(said) for model, said in sorted(models.items())}
    return {
        "liked": _asdict(liked([(one.user, one.up) for one in thumbs]), thumbs),
        "models": {model: share._asdict() for model, share in shares.items()},
        "differences": [
            {"models": [a, b], **dict(zip(("value", "low", "high"), newcombe(shares[a], shares[b]), strict=True))}
            for a, b in combinations(shares, 2)
        ],
        "tags": {tag: liked(said)._asdict() for tag, said in sorted(tags.items())},
        "agreement": _agreement(thumbs),
    }


def _asdict(share: Share, thumbs: list[Thumb]) -> dict:
    return share._asdict() | {"users": len({one.user for one in thumbs})}


def liked(said: Sequence[tuple[str | int, bool]]) -> Share:
    """The share of thumbs that are up, of (user, thumb), with its interval.

    >>> [round(x, 3) for x in liked([(user, user % 4 > 0) for user in range(400)])]  # every user once: Wilson's, nearly
    [0.75, 0.705, 0.79, 400, 396.5...]
    """
    n, value = len(said), sum(up for _, up in said) / len(said)
    residuals: dict[str | int, float] = defaultdict(float)
    for user, up in said:
        residuals[user] += up - value
    users = len(residuals)
    if users == 1:
        effective = 1.0
    elif value in (0, 1):  # alike as they are, nobody knows how alike one user's are
        effective = float(users)
    else:
        variance = sum(r * r for r in residuals.values()) * users / (users - 1) / n**2
        effective = n / max(1.0, variance * n / (value * (1 - value)))
    effective *= (Z / float(stdtrit(max(1, users - 1), 0.975))) ** 2
    return Share(value, *wilson(value, effective), n, effective)


def _agreement(thumbs: list[Thumb]) -> dict | None:
    """How alike two users judge one answer, of answers that two or more have judged: {answers, alike, kappa}."""
    judged: dict[tuple[str, str], list[tuple[str, bool]]] = defaultdict(list)
    for one in thumbs:
        if isinstance(one.user, str):
            judged[one.prompt, one.answer].append((one.user, one.up))
    pairs: list[tuple[bool, bool]] = []
    for said in judged.values():
        first = dict(sorted(said))  # by user; who judged the same answer of two models twice counts once
        if len(first) > 1:
            a, b, *_ = first.values()
            pairs.append((a, b))
    if not pairs:
        return None
    both_ways = pairs + [(b, a) for a, b in pairs]  # neither is the first
    return {"answers": len(pairs), "alike": sum(a == b for a, b in pairs) / len(pairs), "kappa": kappa(both_ways)}


def preferences(thumbs: Iterable[Thumb]) -> tuple[list[dict], list[dict]]:
    """(pairs, what is left). The answer of a prompt that most like goes with the one that fewest like, and so on inwards."""
    votes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for one in thumbs:
        votes[one.lang, one.prompt][one.answer] += 1 if one.up else -1
    pairs, rest = [], []
    for (lang, prompt), of_answer in votes.items():
        ranked = sorted(of_answer.items(), key=lambda one: (-one[1], one[0]))
        good, bad = [a for a, n in ranked if n > 0], [a for a, n in reversed(ranked) if n < 0]
        turns, matched = json.loads(prompt), min(len(good), len(bad))
        for chosen, rejected in zip(good, bad, strict=False):
            made = {"prompt": turns, "chosen": _turn(chosen), "rejected": _turn(rejected)}
            pairs.append({"id": formats.digest([lang, made]), "lang": lang, **made})
        for label, answers in ((True, good), (False, bad)):
            for answer in answers[matched:]:
                made = {"prompt": turns, "completion": _turn(answer), "label": label}
                rest.append({"id": formats.digest([lang, made]), "lang": lang, **made})
    return pairs, rest


def _turn(answer: str) -> list[dict]:
    """As a turn: a reader takes a text such as "Human: …" for a whole conversation."""
    return [{"role": "assistant", "content": answer}]


def _by_language(rows: Iterable[dict]) -> dict[str, int]:
    return dict(sorted(Counter(row["lang"] for row in rows).items()))
