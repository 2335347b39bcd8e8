"""Examples of what was kept and what each rule dropped, by language: the documents of smallest hash; and how often each rule
was broken, with the values and the bounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from ray_jobs.report.data import parts, shown
from ray_jobs.report.data.provenance import LAST
from ray_jobs.report.data.smallest import SOURCE, Smallest, hashes, shares, texts_of
from ray_jobs.report.names import UNKNOWN
from ray_jobs.run import adopted
from ray_jobs.run.graph import CRAWL, DECONTAMINATE, DEDUP, EXTRACT, LANGUAGE, POLICY

STAGES = (CRAWL, EXTRACT, LANGUAGE, POLICY, DEDUP, DECONTAMINATE)
OF_EACH = 2  # examples of a rule and language, and of what is kept of a language
MOST = 400  # examples of dropped documents on a page
MOST_KEPT = 120
THREADS = 8
OFFENSIVE = ("flagged",)  # rules about words that may hurt begin so
COLUMNS = ("doc_id", "url", "lang", "rule", "value", "threshold", "detail")

Key = tuple[str, str]
"""(rule, language; `UNKNOWN` where it is not known)."""


class Broken(NamedTuple):
    """One rule in one language: ledger rows, and the range of their values and bounds (None: the rule has none)."""

    lang: str
    rows: int
    values: tuple[float, float] | None
    bounds: tuple[float, float] | None


class Example(NamedTuple):
    lang: str
    value: float | None
    bound: float | None
    detail: str
    text: shown.Shown  # without pieces where the run keeps none


@dataclass
class Rule:
    """`rows` and `share` of the documents that came to the stage are of the whole run; `languages` of the parts that are read."""

    stage: str
    name: str
    rows: int
    share: float
    languages: list[Broken] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)

    @property
    def offensive(self) -> bool:
        return self.name.startswith(OFFENSIVE)


class Section(NamedTuple):
    rules: list[Rule]
    kept: list[tuple[str, list[shown.Shown]]]  # by language
    read: int  # parts, of the stage of which the smallest share is read
    of: int
    left_out: int  # examples that are not shown, as they would be more than `MOST`


def section(uri: str, manifests: Mapping[str, dict], seed: int) -> Section | None:
    """None as long as no rule was broken and no language is known."""
    looked = {name: parts.looked_at(adopted.ledger(uri, name)) for name in STAGES if name in manifests}
    ledgers = {name: _ledger(uri, name, of.names, seed) for name, of in looked.items()}
    rules = []
    chosen, left_out = _chosen(ledgers)
    for stage, ledger in ledgers.items():
        examples = _examples(uri, stage, ledger, chosen[stage])
        counts, came = manifests[stage].get("rules", {}), manifests[stage].get("docs_in") or 0
        for name, rows in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            if rows:
                of_rule = [one for (rule, _), one in sorted(ledger.broken.items()) if rule == name]
                of_rule.sort(key=lambda one: (-one.rows, one.lang))
                found = [one for rule, one in examples if rule == name]
                rules.append(Rule(stage, name, rows, rows / came if came else 0.0, of_rule, found))
    last = next((name for name in LAST if name in manifests), None)
    kept = _kept(uri, last, seed) if last else []
    least = min(looked.values(), key=lambda one: len(one.names) / max(1, one.of), default=parts.Looked([], 0, 0))
    return Section(rules, kept, len(least.names), least.of, left_out) if rules or kept else None


@dataclass
class _Ledger:
    smallest: Smallest = field(default_factory=lambda: Smallest(OF_EACH))
    broken: dict[Key, Broken] = field(default_factory=dict)
    rows: dict[tuple[str, str], dict] = field(default_factory=dict)  # (rule, doc_id) of an example -> its row


def _ledger(uri: str, stage: str, names: Sequence[str], seed: int) -> _Ledger:
    found = _Ledger()
    candidates: dict[tuple[str, str], dict] = {}
    for name, table in parts.tables(adopted.ledger(uri, stage), names, COLUMNS):
        table = table.set_column(table.column_names.index("lang"), "lang", pc.fill_null(table["lang"], UNKNOWN))
        numbers = [(column, how) for column in ("value", "threshold") for how in ("min", "max")]
        for row in table.group_by(["rule", "lang"]).aggregate([("rule", "count"), *numbers]).to_pylist():
            _count(found.broken, row)
        table = table.filter(pc.is_valid(table["doc_id"]))
        every = hashes(table["doc_id"].to_pylist(), seed)
        table = table.append_column("hash", pa.array(every)).append_column("row", pa.array(np.arange(len(every))))
        for key in table.group_by(["rule", "lang"]).aggregate([]).to_pylist():
            group = (key["rule"], key["lang"])
            mine = table.filter(pc.and_(pc.equal(table["rule"], group[0]), pc.equal(table["lang"], group[1])))
            order = pc.select_k_unstable(mine, OF_EACH, [("hash", "ascending"), ("row", "ascending")])
            near = mine.take(order).to_pylist()
            for row in near:
                candidates.setdefault((row["rule"], row["doc_id"]), row)
            documents = [(row["doc_id"], name) for row in near]
            found.smallest.add(group, np.array([row["hash"] for row in near], np.uint64), documents, mine.num_rows)
    found.rows = candidates
    return found


def _count(broken: dict[Key, Broken], row: dict) -> None:
    key = (row["rule"], row["lang"])
    old = broken.get(key, Broken(row["lang"], 0, None, None))
    ranges = []
    for before, column in ((old.values, "value"), (old.bounds, "threshold")):
        ends = [n for n in (*(before or ()), row[f"{column}_min"], row[f"{column}_max"]) if n is not None]
        ranges.append((min(ends), max(ends)) if ends else None)
    broken[key] = Broken(row["lang"], old.rows + row["rule_count"], *ranges)


Document = tuple[str, str, str, str]
"""rule, language, doc_id, part."""


def _chosen(ledgers: Mapping[str, _Ledger]) -> tuple[dict[str, list[Document]], int]:
    """Of each stage the documents that are shown, at most `MOST` in all and as equally as can be; and how many are not."""
    sizes = {
        f"{number:02}\0{rule}\0{lang}": len(documents)
        for number, ledger in enumerate(ledgers.values())
        for (rule, lang), (_, documents) in ledger.smallest.found.items()
    }
    taken = shares(sizes, MOST)
    chosen: dict[str, list[Document]] = {}
    for number, (stage, ledger) in enumerate(ledgers.items()):
        chosen[stage] = [
            (rule, lang, *document)
            for (rule, lang), (_, documents) in sorted(ledger.smallest.found.items())
            for document in documents[: taken[f"{number:02}\0{rule}\0{lang}"]]
        ]
    return chosen, sum(sizes.values()) - sum(map(len, chosen.values()))


def _examples(uri: str, stage: str, ledger: _Ledger, documents: Sequence[Document]) -> list[tuple[str, Example]]:
    """(rule, example) of each, with its text where the stage before kept one."""
    texts = _texts(uri, SOURCE[stage], [document[2:] for document in documents]) if stage in SOURCE else {}
    rows = [ledger.rows[rule, doc_id] for rule, _, doc_id, _ in documents]
    langs = [None if lang == UNKNOWN else lang for _, lang, _, _ in documents]
    beside = [(part, doc_id) for _, _, doc_id, part in documents]
    made = shown.of(
        [
            (lang, *texts.get(where, ("", row["url"] or "")))
            for lang, where, row in zip(langs, beside, rows, strict=True)
        ]
    )
    details = [row["detail"] or "" for row in rows]
    if (
        stage not in SOURCE
    ):  # of others it is an id, a language or a file; here it may be what an error said of the page
        details = shown.masked(details, langs) if details else []
    return [
        (rule, Example(lang, row["value"], row["threshold"], shown.line(detail), text))
        for (rule, lang, *_), row, detail, text in zip(documents, rows, details, made, strict=True)
    ]


def _texts(uri: str, stage: str, documents: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, str]]:
    """(part, doc_id) -> (text, URL), of (doc_id, part)."""
    by_part: dict[str, set[str]] = defaultdict(set)
    for doc_id, part in documents:
        by_part[part].add(doc_id)

    def read(part: str) -> dict[str, tuple[str, str]]:
        file = adopted.path(uri, stage, part)
        return texts_of(file, by_part[part]) if storage.exists(file) else {}

    with ThreadPoolExecutor(THREADS) as pool:
        found = zip(by_part, pool.map(read, by_part), strict=True)
        return {(part, doc_id): text for part, texts in found for doc_id, text in texts.items()}


def _kept(uri: str, stage: str, seed: int) -> list[tuple[str, list[shown.Shown]]]:
    looked = parts.looked_at(adopted.path(uri, stage))
    smallest = Smallest(OF_EACH)
    for name, table in parts.tables(adopted.path(uri, stage), looked.names, ("doc_id", "lang")):
        langs = pc.fill_null(table["lang"], UNKNOWN)
        every = hashes(table["doc_id"].to_pylist(), seed)
        for lang in sorted(langs.unique().to_pylist()):
            rows = np.flatnonzero(pc.equal(langs, lang).to_numpy())
            near = rows[np.argsort(every[rows], kind="stable")[:OF_EACH]]
            documents = [(doc_id, name) for doc_id in table["doc_id"].take(pa.array(near)).to_pylist()]
            smallest.add((lang, ""), every[near], documents, len(rows))
    ordered = sorted((lang, documents) for (lang, _), (_, documents) in smallest.found.items())
    flat = [(lang, *document) for lang, documents in ordered for document in documents][:MOST_KEPT]
    texts = _texts(uri, stage, [document[1:] for document in flat])
    made = shown.of([(None if lang == UNKNOWN else lang, *texts[part, doc_id]) for lang, doc_id, part in flat])
    by_lang: dict[str, list[shown.Shown]] = defaultdict(list)
    for (lang, *_), one in zip(flat, made, strict=True):
        by_lang[lang].append(one)
    return list(by_lang.items())
