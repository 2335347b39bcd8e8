"""The report of a crawl: from which sites its pages came, what was asked of Common Crawl, and what pages say of their use.

Sites are counted in the first parts of the crawl, up to `DOCUMENTS` pages; what pages say is read of `SCANNED` kept ones at most.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cluster import storage, terminal
from ray_jobs.config.recipe import Recipe
from ray_jobs.report.names import language, named
from ray_jobs.run import adopted
from ray_jobs.run.graph import CRAWL, DECONTAMINATE, DEDUP, POLICY, TOKENIZE

LAST = (DECONTAMINATE, DEDUP, POLICY)  # what the last of these that there is left is what was kept
DOCUMENTS, SCANNED = 1_000_000, 20_000
SITES = 20  # in the table
BATCH_ROWS = 256
HEAD = rb"""<(?:meta|link|a)\b[^>]{0,300}?"""
SIGNALS = {
    "names a Creative Commons licence": re.compile(rb"creativecommons\.org/(?:licenses|publicdomain)/", re.I),
    "links its licence (rel=license)": re.compile(HEAD + rb"""rel\s*=\s*["']?[^"'>]{0,60}\blicense\b""", re.I),
    "reserves text and data mining (TDMRep)": re.compile(
        HEAD + rb"""tdm-reservation["']?\s[^>]{0,100}?content\s*=\s*["']?\s*1""", re.I
    ),
    "robots tag: noai": re.compile(
        HEAD + rb"""name\s*=\s*["']?(?:robots|ccbot)\b[^>]{0,200}?\bno(?:image)?ai\b""", re.I
    ),
    "robots tag: noindex or noarchive": re.compile(
        HEAD + rb"""name\s*=\s*["']?(?:robots|ccbot)\b[^>]{0,200}?\bno(?:index|archive)\b""", re.I
    ),
}


@dataclass
class Site:
    read: int = 0
    kept: int = 0
    languages: Counter[str] = field(default_factory=Counter)


@dataclass
class Snapshot:
    read: int = 0
    kept: int = 0
    first: str = ""
    last: str = ""


@dataclass
class Seen:
    """What is counted of the pages of a crawl."""

    sites: dict[str, Site] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    signals: Counter[str] = field(default_factory=Counter)
    read: int = 0
    scanned: int = 0


def section(uri: str, recipe: Recipe, manifests: dict[str, dict]) -> dict | None:
    """What templates/web.html shows; None for a run that reads no Common Crawl."""
    sources = {source.name for source in recipe.sources if source.type == "commoncrawl"}
    last = next((name for name in LAST if name in manifests), None)
    if not sources or last is None:
        return None
    seen = _look(uri, last, sources)
    counts = sorted((site.kept for site in seen.sites.values()), reverse=True)
    biggest = sorted(seen.sites.items(), key=lambda item: (-item[1].kept, -item[1].read, item[0]))[:SITES]
    plans = map(storage.read_json, storage.glob(adopted.path(uri, CRAWL, "_plan", "*", "plan.json")))
    asked = adopted.path(uri, CRAWL, "_plan", "asked.json")
    return {
        "fetch": recipe.fetch,
        "asked": storage.read_json(asked) if storage.exists(asked) else None,
        "plans": [plan for plan in plans if plan["source"] in sources],
        "seen": seen,
        "all": seen.read == manifests[CRAWL]["docs_out"],
        "biggest": [
            (host, site, ", ".join(named(lang) for lang, _ in site.languages.most_common(3))) for host, site in biggest
        ],
        "hosts_kept": sum(count > 0 for count in counts),
        "of_ten": sum(counts[:10]) / max(sum(counts), 1),
        "languages": _by_language(seen.sites),
        "signals": [(name, seen.signals[name]) for name in SIGNALS],
    }


def sentences(manifests: dict[str, dict]) -> list[str]:
    """What came of the pages of a run that trains nothing: how many were kept, in which languages, and why not the others."""
    last = next((manifests[name] for name in LAST if name in manifests), None)
    if last is None or not manifests.get(CRAWL, {}).get("docs_in"):
        return []
    read, tokens = manifests[CRAWL]["docs_in"], manifests.get(TOKENIZE, {}).get("tokens", 0)
    text = f"{terminal.size(sum(last['bytes_per_lang'].values()))} of text" + (f", {tokens:,} tokens" if tokens else "")
    said = [f"Of {read:,} pages {last['docs_out']:,} were kept ({last['docs_out'] / read:.0%}): {text}."]
    if len(sizes := sorted((size, lang) for lang, size in last["bytes_per_lang"].items())) > 1:
        least, most = (f"{language(lang)} ({terminal.size(n)})" for n, lang in (sizes[0], sizes[-1]))
        said.append(f"Most text is in {most}, least in {least}.")
    rules = Counter(
        {f"{name}: {rule}": n for name, made in manifests.items() for rule, n in made.get("rules", {}).items()}
    )
    if rules:
        said.append(f"Most pages broke {', '.join(f'{rule} ({n:,})' for rule, n in rules.most_common(3))}.")
    return said


def _look(uri: str, last: str, sources: set[str]) -> Seen:
    """Go through the parts of the crawl beside those of the stage `last`, which have their names."""
    seen = Seen()
    for part in storage.glob(adopted.path(uri, CRAWL, "part-*.parquet")):
        after = adopted.path(uri, last, part.rsplit("/", 1)[1])
        kept = {}
        if storage.exists(after):
            table = storage.read_table(after, ["doc_id", "lang"])
            kept = dict(zip(table["doc_id"].to_pylist(), table["lang"].to_pylist(), strict=True))
        columns = ["doc_id", "url", "source", "crawl", "fetched_at"]
        with storage.open_parquet(part) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    if row["source"] in sources:
                        _count(seen, row, kept.get(row["doc_id"]))
            if seen.scanned < SCANNED:
                for batch in parquet.iter_batches(BATCH_ROWS, columns=["doc_id", "source", "payload"]):
                    _scan(
                        seen, [row for row in batch.to_pylist() if row["doc_id"] in kept and row["source"] in sources]
                    )
        if seen.read >= DOCUMENTS:
            break
    return seen


def _count(seen: Seen, row: dict, lang: str | None) -> None:
    """One page; `lang` is its language if it was kept."""
    seen.read += 1
    site = seen.sites.setdefault(urlsplit(row["url"]).hostname or "", Site())
    snapshot = seen.snapshots.setdefault(row["crawl"], Snapshot())
    for one in (site, snapshot):
        one.read += 1
        one.kept += lang is not None
    if lang is not None:
        site.languages[lang] += 1
    if day := row["fetched_at"][:10]:
        snapshot.first = min(snapshot.first or day, day)
        snapshot.last = max(snapshot.last, day)


def _scan(seen: Seen, rows: list[dict]) -> None:
    """What kept pages say of their use, in their HTML. Text that Common Crawl extracted says nothing."""
    for row in rows:
        if html := row["payload"]:
            seen.scanned += 1
            seen.signals.update(name for name, pattern in SIGNALS.items() if pattern.search(html))


def _by_language(sites: dict[str, Site]) -> list[tuple[str, int, int, str, float]]:
    """Of each language the sites, the pages kept, the site with most of them, and its share."""
    rows = []
    for lang in sorted({lang for site in sites.values() for lang in site.languages}):
        pages = {host: site.languages[lang] for host, site in sites.items() if site.languages[lang]}
        most = max(pages, key=lambda host: (pages[host], host))
        rows.append((lang, len(pages), sum(pages.values()), most, pages[most] / sum(pages.values())))
    return rows
