"""People choose between the answers of two models, blind; what they chose becomes preference pairs to train on.

A row of the file is {"id", "lang", "prompt", "answers": {model: text, model: text}}, with `prompt` as a text or as messages, and
where a judge has chosen "judge": the name of its model, or "tie". Which answer stands first is by chance, another one for each
annotator. Choices are kept as judgements of texts are, in `inspect/answers`, and the pairs are written anew with each look at the
scores: {id, lang, prompt, chosen, rejected}, where more people chose one answer than the other.

A win rate counts a tie as half a win for each. "Both bad" is a tie too.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

import xxhash

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.inspect import judgements, queue
from ray_jobs.inspect.judgements import UNSURE, Desk
from ray_jobs.inspect.statistics import kappa, weighted
from ray_jobs.inspect.tables import named, share
from ray_jobs.report import page_text
from ray_jobs.report.names import language
from ray_jobs.run import files
from ray_jobs.run.run import Run

FOLDER, PREFERENCE, FILE = "inspect/answers", "inspect/preference.jsonl", "inspect/answers.json"
FIRST, SECOND, TIE, BAD = "first", "second", "tie", "both bad"
TEXTS = {
    FIRST: ("1", "The first"),
    SECOND: ("2", "The second"),
    TIE: ("3", "As good as each other"),
    BAD: ("4", "Both are bad"),
    UNSURE: ("0", "Unsure"),
}
ALL = "all"


def read(pattern: str, languages: Sequence[str] = ()) -> dict[str, dict]:
    """key -> {id, lang, turns, answers: ((model, text), (model, text)) by name, judge}. Raises UserError naming a wrong row."""
    found: dict[str, dict] = {}
    for number, row in enumerate(files.rows(pattern), 1):
        where = f"--pairs {pattern}: row {number}"
        answers, prompt = row.get("answers"), row.get("prompt")
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if not isinstance(row.get("id"), str) or not isinstance(row.get("lang"), str):
            raise UserError(f"{where}: `id` and `lang` must be texts")
        if (
            not isinstance(answers, dict)
            or len(answers) != 2
            or not all(isinstance(one, str) for one in answers.values())
        ):
            raise UserError(f"{where}: `answers` must be two texts by the names of their models")
        if not isinstance(turns, list) or not turns or not all(map(_is_turn, turns)):
            raise UserError(f"{where}: `prompt` must be a text or a list of messages {{role, content}}")
        if TIE in answers:
            raise UserError(f"{where}: no model can be named {TIE!r}")
        if row.get("judge") not in (None, TIE, *answers):
            raise UserError(f"{where}: `judge` must be one of {', '.join([*answers, TIE])}, not {row['judge']!r}")
        pair = tuple(sorted(answers.items()))
        if not languages or row["lang"] in languages:
            text = "\0".join([*(turn["content"] for turn in turns), *(part for one in pair for part in one)])
            key = f"{xxhash.xxh3_64_hexdigest(row['id'].encode('utf-8', 'replace'))}-"
            key += xxhash.xxh3_64_hexdigest(text.encode("utf-8", "replace"))
            judge = row.get("judge")
            found[key] = {"id": row["id"], "lang": row["lang"], "turns": turns, "answers": pair, "judge": judge}
    if not found:
        raise UserError(f"--pairs {pattern}: no row in {', '.join(languages) or 'any language'}")
    return found


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(name), str) for name in ("role", "content"))


class Pairs(Desk):
    """The desk of one annotator for the rows of `read`."""

    def __init__(self, run: Run, rows: Mapping[str, dict], name: str):
        super().__init__(run.uri, name, rows, FOLDER)
        self.run, self.rows = run, rows
        self.order = queue.order(rows, self.name)

    def _shown(self, key: str) -> tuple[tuple[str, str], ...]:
        """Both answers in the order that this annotator sees."""
        one, other = self.rows[key]["answers"]
        turned = xxhash.xxh3_64_intdigest(f"side for {self.name}\0{key}".encode()) & 1
        return (other, one) if turned else (one, other)

    def page(self, key: str | None) -> dict | None:
        with self._lock:
            left = queue.waiting(self.order, self.said, ())
            if key is not None and key not in self.rows:
                return None
            chosen = key or (left[0] if left else None)
            before = list(takewhile(lambda one: one != chosen, self.said))
            shared = {"name": self.name, "done": len(self.said), "left": len(left), "pairs": True, "last": None}
            if before:  # not whose answers they were: the next ones may be of the same models
                label = self.said[before[-1]]["label"]
                shared["last"] = {"key": before[-1], "said": TEXTS[label][1] if label in TEXTS else "?"}
            if chosen is None:
                return {**shared, "view": "done", "title": "done"}
            row, now = self.rows[chosen], self.said.get(chosen, {})
        return {
            **shared,
            **{"view": "pair", "title": language(row["lang"]), "note": now.get("note", "")},
            "row": {
                **{"key": chosen, "lang": row["lang"]},
                "turns": [{"role": turn["role"], "pieces": page_text.pieces(turn["content"])} for turn in row["turns"]],
                "answers": [page_text.pieces(text) for _, text in self._shown(chosen)],
            },
            "codes": [
                {"label": label, "key": press, "text": text, "now": now.get("label") == label}
                for label, (press, text) in TEXTS.items()
            ],
        }

    def judge(self, form: Mapping[str, Sequence[str]]) -> str | None:
        key, label = (form.get(name, [""])[0] for name in ("key", "label"))
        if key not in self.rows:
            return "this pair is not in the file (any more): open the page again"
        if label not in TEXTS:
            return f"the label must be one of {', '.join(TEXTS)}"
        shown = self._shown(key)
        winner = {FIRST: shown[0][0], SECOND: shown[1][0]}.get(label)
        note = form.get("note", [""])[0][:2000]
        self._save({"key": key, "label": label, "winner": winner, "order": [model for model, _ in shown], "note": note})
        return None

    def scores(self) -> dict:
        return {
            **{"view": "scores", "title": "scores", "name": self.name, "done": len(self.said), "pairs": True},
            **{"left": len(self.rows) - len(self.said), "tables": tables(written(self.run, self.rows))},
        }


def written(run: Run, rows: Mapping[str, dict]) -> dict:
    """Scores of the rows, also in `answers.json`, and the preference pairs in `preference.jsonl`."""
    people = judgements.everybody(run.uri, FOLDER)
    found = scores(rows, people)
    storage.write_json(storage.join(run.uri, FILE), found)
    pairs = [json.dumps(row, ensure_ascii=False) for row in preference(rows, people)]
    storage.write_text(storage.join(run.uri, PREFERENCE), "".join(f"{pair}\n" for pair in pairs))
    return found


def _votes(rows: Mapping[str, dict], people: Mapping[str, Mapping[str, Mapping]]) -> dict[str, list[str]]:
    """key -> of each person that was not unsure the model that they chose, or `tie`."""
    votes: dict[str, list[str]] = defaultdict(list)
    for said in people.values():
        for key, row in said.items():
            if key in rows and row["label"] in (FIRST, SECOND, TIE, BAD):
                votes[key].append(row.get("winner") or TIE)
    return votes


def scores(rows: Mapping[str, dict], people: Mapping[str, Mapping[str, Mapping]]) -> dict:
    """`wins`: rows {models, lang, rate of the first model}; `judge`: rows {lang, n, alike, kappa} of the judge and people, where
    most people agree; `annotators`: kappa of each two."""
    votes = _votes(rows, people)
    wins: dict[tuple[tuple[str, str], str], list[float]] = defaultdict(list)
    judge: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key, said in votes.items():
        row = rows[key]
        one, other = (model for model, _ in row["answers"])
        value = sum({one: 1.0, other: 0.0}.get(vote, 0.5) for vote in said) / len(said)
        for lang in (row["lang"], ALL):
            wins[(one, other), lang].append(value)
            if row["judge"] is not None:
                judge[lang].append((_winner(said), row["judge"]))
    return {
        "judged": len(votes),
        "rows": len(rows),
        "wins": [
            {"models": list(models), "lang": lang, "rate": found._asdict()}
            for (models, lang), values in sorted(wins.items(), key=lambda one: (one[0][0], one[0][1] == ALL, one[0][1]))
            if (found := weighted(values))
        ],
        "judge": [
            {"lang": lang, "n": len(both), "alike": sum(a == b for a, b in both) / len(both), "kappa": kappa(both)}
            for lang, both in sorted(judge.items(), key=lambda one: (one[0] == ALL, one[0]))
        ],
    }


def _winner(votes: Iterable[str]) -> str:
    """The model that more people chose than the other, or `tie`."""
    counts: dict[str, int] = defaultdict(int)
    for vote in votes:
        counts[vote] += vote != TIE
    best = sorted(((n, model) for model, n in counts.items() if n), reverse=True)
    return TIE if not best or (len(best) > 1 and best[0][0] == best[1][0]) else best[0][1]


def preference(rows: Mapping[str, dict], people: Mapping[str, Mapping[str, Mapping]]) -> list[dict]:
    """The rows that `train.reward.preference` and `train.dpo.preference` read."""
    ids = Counter(row["id"] for row in rows.values())  # a prompt may be there with several pairs of models
    found = []
    for key, said in sorted(_votes(rows, people).items()):
        row, winner = rows[key], _winner(said)
        if winner != TIE:
            texts = dict(row["answers"])
            rejected = next(text for model, text in row["answers"] if model != winner)
            same = {"id": row["id"] if ids[row["id"]] == 1 else key, "lang": row["lang"], "prompt": row["turns"]}
            found.append({**same, "chosen": texts[winner], "rejected": rejected})
    return found


def tables(found: Mapping) -> list[dict]:
    """As `ray_jobs.inspect.tables` has them."""
    if not found["judged"]:
        return []
    rows = [
        [
            *(f"{row['models'][0]} against {row['models'][1]}", named(row["lang"]) if row["lang"] != ALL else ALL),
            *(share(row["rate"]), f"{row['rate']['n']:,}", _verdict(row)),
        ]
        for row in found["wins"]
    ]
    note = f"How often people chose the first-named model, ties as half. {found['judged']:,} of {found['rows']:,} are judged."
    result = [{"title": "Wins", "note": note, "heads": ["models", "language", "wins", "pairs", ""], "rows": rows}]
    if found["judge"]:
        rows = [
            [
                lang if (lang := row["lang"]) == ALL else named(lang),
                f"{row['n']:,}",
                f"{row['alike']:.0%}",
                _number(row["kappa"]),
            ]
            for row in found["judge"]
        ]
        note = "How often the judge of the file chose as most people did (ties count as an answer), and Cohen's kappa."
        result.append(
            {"title": "Judge and people", "note": note, "heads": ["language", "pairs", "alike", "kappa"], "rows": rows}
        )
    return result


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _verdict(row: Mapping) -> str:
    low, high = row["rate"]["low"], row["rate"]["high"]
    return "no difference shown" if low <= 0.5 <= high else f"{row['models'][0 if low > 0.5 else 1]} is better"
