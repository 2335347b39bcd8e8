"""The desk of one annotator: which text is next, what was said, how far they are. Blind: where a text stands in the run, and
its address, are shown when it has been judged, and not before."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import takewhile

import pyarrow as pa

from ray_jobs.errors import UserError
from ray_jobs.inspect import judgements, queue, tables
from ray_jobs.inspect.judgements import CODES, FLAGS, UNSURE, Desk
from ray_jobs.report import page_text
from ray_jobs.report.names import language
from ray_jobs.run.run import Run

KEYS = {"CC": "1", "CB": "2", "CS": "3", "WL": "4", "NL": "5", UNSURE: "0"}
FLAG_KEYS = {"offensive": "o", "porn": "x", "translated": "m", "personal": "p"}
TEXTS = {
    "CC": "Natural text",
    "CB": "Boilerplate or poor",
    "CS": "Only words or phrases",
    "WL": "Another language",
    "NL": "Not language at all",
    UNSURE: "Unsure",
}
OTHERS_SECONDS = 5.0  # between readings of what others have judged
MAX_NOTE = 2000


class Texts(Desk):
    """`sample`: rows of `samples.SCHEMA`; `languages`: those that this annotator judges, none for all.

    Raises UserError for a language without texts, and for a name that no file can have."""

    def __init__(self, run: Run, sample: pa.Table, name: str, languages: Sequence[str], per_layer: int):
        self.run, self.per_layer = run, per_layer
        self.rows: dict[str, dict] = {}
        self.fates: dict[str, list[str]] = {}
        for row in sample.to_pylist():
            self.rows.setdefault(row["key"], row)
            said = f"{row['side']} by {row['layer']}" + (f" for {row['why']}" if row["why"] else "")
            self.fates.setdefault(row["key"], []).append(said)
        known = sorted({row["lang"] for row in self.rows.values()})
        if missing := [lang for lang in languages if lang not in known]:
            raise UserError(
                f"--languages {missing[0]}: the sample has no text in it; it has {', '.join(known) or 'none'}"
            )
        mine = [key for key, row in self.rows.items() if not languages or row["lang"] in languages]
        super().__init__(run.uri, name, self.rows)
        self.order = queue.order(mine, self.name)
        self._others: set[str] = set()
        self._read_at = -OTHERS_SECONDS

    def page(self, key: str | None) -> dict | None:
        with self._lock:
            left = queue.waiting(self.order, self.said, self._of_others())
            if key is not None and key not in self.rows:
                return None
            chosen = key or (left[0] if left else None)
            before = list(takewhile(lambda one: one != chosen, self.said))
            shared = {
                **{"name": self.name, "done": len(self.said), "left": len(left), "pairs": False},
                "last": self._shown(before[-1]) if before else None,
            }
            if chosen is None:
                return {**shared, "view": "done", "title": "done"}
            row, now = self.rows[chosen], self.said.get(chosen, {})
        return {
            **shared,
            **{"view": "text", "title": language(row["lang"]), "note": now.get("note", "")},
            "row": {
                **{"key": chosen, "lang": row["lang"], "language": language(row["lang"])},
                "pieces": page_text.pieces(row["text"]),
                **{"chars": row["chars"], "shown": len(row["text"]), "cut": row["chars"] > len(row["text"])},
            },
            "codes": [
                {"label": code, "key": KEYS[code], "text": text, "now": now.get("label") == code}
                for code, text in TEXTS.items()
            ],
            "flags": [
                {"label": flag, "key": FLAG_KEYS[flag], "text": text, "now": flag in now.get("flags", ())}
                for flag, text in FLAGS.items()
            ],
        }

    def _shown(self, key: str) -> dict:
        """What a judged text was, and now also where it stands."""
        return {
            "key": key,
            "said": TEXTS.get(self.said[key]["label"], "?"),
            "fate": self.fates[key],
            "url": self.rows[key]["url"],
        }

    def _of_others(self) -> set[str]:
        if time.monotonic() - self._read_at >= OTHERS_SECONDS:
            found = judgements.everybody(self.run.uri)
            self._others = {key for name, rows in found.items() if name != self.name for key in rows}
            self._read_at = time.monotonic()
        return self._others

    def judge(self, form: Mapping[str, Sequence[str]]) -> str | None:
        key, label = (form.get(name, [""])[0] for name in ("key", "label"))
        flags = form.get("flags", [])
        if key not in self.rows:
            return "this text is not in the sample (any more): open the page again"
        if label not in (*CODES, UNSURE) or not set(flags) <= FLAGS.keys():
            return f"the label must be one of {', '.join([*CODES, UNSURE])}"
        row = {
            **{"key": key, "label": label, "flags": sorted(flags), "note": form.get("note", [""])[0][:MAX_NOTE]},
            "lang": self.rows[key]["lang"],
        }
        self._save(row)
        return None

    def scores(self) -> dict:
        found = tables.written(self.run, self.per_layer)
        with self._lock:
            left = len(queue.waiting(self.order, self.said, self._of_others()))
        return {
            **{"view": "scores", "title": "scores", "name": self.name, "done": len(self.said), "left": left},
            **{"pairs": False, "tables": found["tables"]},
        }
