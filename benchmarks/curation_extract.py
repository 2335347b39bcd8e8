"""Main content of real pages with gold texts: word F1, speed and memory of our readers, resiliparse and trafilatura in one run.

    python benchmarks/curation_extract.py        # PINISI_SAMPLE_DIR names the folder with extraction_gold/

Prints a table and writes benchmarks/results/curation-extract.json. `cascade` reads each page with a judge that was trained
without the page's part (`train_extract.part`): a fold of the mixed set by site, or the pair of sets that is like it. Speed
and memory are of the shipped judge, in the sandbox that the `extract` stage uses, on the bytes of the pages; ours also
finds title, date and language. Speed: pages per second of CPU time of both processes, on the articles and on the mixed set,
start-up left out, all readers taking turns. Memory: the worker's high-water mark after all sets. F1, precision and recall
are means over pages of bags of lower-case `\\w+` words; for trafilatura-eval of the segments that must and must not be
there. `shingles` is scrapinghub's measure on its own set: 4-grams of words, precision and recall averaged over pages.
"""

from __future__ import annotations

import re
import resource
from collections import Counter
from pathlib import Path

from table import row, write
from train_extract import MIXED, gold_folder, held_out, part, read

from curation.extract.encoding import decode
from curation.extract.page import extract, resiliparse_text, trafilatura_text
from curation.extract.sandbox import Sandbox

WEB = ("scrapinghub-aeb", "mozilla-readability", "trafilatura-eval")
SETS = (*WEB, "suttacentral", "libreoffice-help", MIXED)
TEST_SHARES = {
    **{"article": 0.53, "service": 0.11, "product": 0.08, "collection": 0.078},
    **{"forum": 0.075, "listing": 0.066, "documentation": 0.061},
}
"""Of the types in the whole of WCXB, which its test part has too; our sample has fewer articles."""
PEERS = {"resiliparse": "resiliparse", "trafilatura": "trafilatura", "trafilatura fast": "fast"}
OURS = {"cascade": "cascade", "lines": "lines"}
TARGETS = {"scrapinghub-aeb": 0.97, "all types as in WCXB": 0.89}
TARGET_RATIO = {"articles": 6.0, "mixed pages": 4.0}
RULES = "rules were corrected while reading errors on these sets"
TUNED_ON = {
    "cascade": f"{RULES}; its model was trained without the page's part, its features were chosen on all",
    "lines": RULES,
    MIXED: "the features and two bounds of the judge were chosen by folds of this set; each page read by a model without it",
}
WORD = re.compile(r"\w+")


def peer(header: dict, payload: bytes, name: str) -> dict:
    """A page by a peer, in the sandbox's worker."""
    html = decode(payload, "")
    return {"text": resiliparse_text(html) if name == "resiliparse" else trafilatura_text(html, fast=name == "fast")}


def main() -> None:
    folder = gold_folder()
    pages = [page for name in SETS for page in read(folder / f"{name}.jsonl.gz")]
    models = held_out(pages)
    found = {name: run(name, pages, models) for name in (*OURS, *PEERS)}
    speeds(found, pages)
    for name, result in found.items():
        print(
            name,
            *(f"{result['speed'][which]:.0f} {which}/s/core" for which in TARGET_RATIO),
            f"{result['memory']:.0f} MB",
        )
        for which, (f1, p, r, empty) in result["scores"].items():
            print(f"    {which:<36}{f1:>8.4f}{p:>8.3f}{r:>8.3f}{empty:>5}")
    rows = []
    for engine in OURS:
        for other in PEERS:
            rows += compare(engine, found[engine], other, found[other])
    write("curation-extract", rows, tuned_on=TUNED_ON["cascade"])


def sandbox(name: str) -> Sandbox:
    if name in OURS:
        return Sandbox("curation.extract.page:extract", {"engine": name, "max_nodes": 10**6}, 60.0, 4_000_000_000)
    return Sandbox("curation_extract:peer", {"name": PEERS[name]}, 60.0, 4_000_000_000)


def run(name: str, pages: list[dict], models: dict) -> dict:
    """Scores by set, and by type in the mixed set, each (F1, precision, recall, empty pages)."""
    worker = sandbox(name)
    texts = [result.get("text", "") for result in worker.map([({"charset": ""}, page["payload"]) for page in pages])]
    memory = int(status(worker).split("VmHWM:")[1].split()[0]) / 1e3
    worker.close()
    if name == "cascade":
        texts = [
            extract({"charset": ""}, page["payload"], name, 10**6, model=models[part(page)]).get("text", "")
            for page in pages
        ]
    groups: dict[str, list[tuple[dict, str]]] = {}
    for page, text in zip(pages, texts, strict=True):
        groups.setdefault(page["set"], []).append((page, text))
        if page["set"] == MIXED:
            groups.setdefault(f"{MIXED}: {page['page_type']}", []).append((page, text))
    scores = {
        which: (*(segments(group) if which == "trafilatura-eval" else bags(group)), empty(group))
        for which, group in groups.items()
    }
    by_type = [(share, scores[f"{MIXED}: {kind}"]) for kind, share in TEST_SHARES.items()]
    means = (sum(share * score[i] for share, score in by_type) for i in range(3))
    scores["all types as in WCXB"] = (*means, scores[MIXED][3])
    return {"scores": scores, "shingles": shingles(groups["scrapinghub-aeb"]), "memory": memory}


def speeds(found: dict, pages: list[dict]) -> None:
    """Adds `speed`, pages per second of CPU time, to each reader's results. They take turns, 20 pages each."""
    workers = {name: sandbox(name) for name in found}
    for which in TARGET_RATIO:
        some = [page for page in pages if (page["set"] == MIXED if which == "mixed pages" else page["set"] in WEB)][::2]
        items = [({"charset": ""}, page["payload"]) for page in some]
        seconds = dict.fromkeys(workers, 0.0)
        for worker in workers.values():
            list(worker.map(items[:20]))  # the first pages load what is loaded late
        for first in range(0, len(items), 20):
            for name, worker in workers.items():
                begin = cpu_seconds(worker)
                list(worker.map(items[first : first + 20]))
                seconds[name] += cpu_seconds(worker) - begin
        for name, result in found.items():
            result.setdefault("speed", {})[which] = len(items) / seconds[name]
    for worker in workers.values():
        worker.close()


def status(worker: Sandbox) -> str:
    return Path(f"/proc/{worker._process.pid}/status").read_text()


def cpu_seconds(worker: Sandbox) -> float:
    """CPU time of this process and the worker."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    worker = Path(f"/proc/{worker._process.pid}/schedstat").read_text().split()[0]
    return used.ru_utime + used.ru_stime + int(worker) / 1e9


def empty(part: list[tuple[dict, str]]) -> int:
    return sum(not text.strip() for _, text in part)


def overlap(gold: Counter, text: Counter) -> tuple[float, float, float]:
    """(F1, precision, recall) of two bags."""
    common = (gold & text).total()
    precision = common / text.total() if text else float(not gold)
    recall = common / gold.total() if gold else 1.0
    return (2 * precision * recall / (precision + recall) if common else 0.0), precision, recall


def bags(part: list[tuple[dict, str]]) -> tuple[float, float, float]:
    each = [overlap(*(Counter(WORD.findall(t.lower())) for t in (page["text"], text))) for page, text in part]
    return tuple(sum(values) / len(each) for values in zip(*each, strict=True))


def shingles(part: list[tuple[dict, str]]) -> float:
    """F1 of precision and recall, each averaged over pages, of 4-grams of words."""
    each = []
    for page, text in part:
        grams = []
        for side in (page["text"], text):
            words = WORD.findall(side)
            grams.append(Counter(tuple(words[i : i + 4]) for i in range(max(1, len(words) - 3))))
        each.append(overlap(*grams))
    _, precision, recall = (sum(values) / len(each) for values in zip(*each, strict=True))
    return 2 * precision * recall / (precision + recall)


def segments(part: list[tuple[dict, str]]) -> tuple[float, float, float]:
    """(F1, precision, recall) over all segments: one that must be there counts as found, one that must not as false."""
    kept = wanted = wrong = 0
    for page, text in part:
        line = " ".join(text.split())
        kept += sum(" ".join(segment.split()) in line for segment in page["must"])
        wrong += sum(" ".join(segment.split()) in line for segment in page["mustnot"])
        wanted += len(page["must"])
    precision, recall = kept / max(1, kept + wrong), kept / max(1, wanted)
    return 2 * precision * recall / max(1e-9, precision + recall), precision, recall


def compare(engine: str, ours: dict, other: str, theirs: dict) -> list[dict]:
    rows = []

    def add(  # noqa: PLR0917
        metric: str, unit: str, mine: float, yours: float, target: float | None = None, tuned: str = ""
    ) -> None:
        target = target if other == "trafilatura" and engine == "cascade" else None  # listed once, beside one peer
        tuned = tuned or TUNED_ON[engine]
        rows.append(row(f"{engine}: {metric}", unit, mine, peer=(other, yours), target=target, tuned_on=tuned))

    for which, mine in ours["scores"].items():
        yours = theirs["scores"][which]
        kind = "segment F1" if which == "trafilatura-eval" else "word F1"
        mixed = engine == "cascade" and (which.startswith(MIXED) or which.startswith("all"))
        tuned = (
            TUNED_ON[MIXED]
            if mixed
            else ""
            if engine == "cascade" or not which.startswith((MIXED, "all"))
            else "nothing"
        )
        add(f"{kind}, {which}", "share", mine[0], yours[0], TARGETS.get(which), tuned)
        add(f"precision, {which}", "share", mine[1], yours[1], None, tuned)
        add(f"recall, {which}", "share", mine[2], yours[2], None, tuned)
        add(f"empty, {which}", "pages", mine[3], yours[3], None, tuned)
    add("4-gram F1, scrapinghub-aeb", "share", ours["shingles"], theirs["shingles"])
    for which, ratio in TARGET_RATIO.items():
        add(
            f"speed on {which}",
            "pages/s/core",
            ours["speed"][which],
            theirs["speed"][which],
            ratio * theirs["speed"][which],
        )
    add("peak memory of the worker", "MB", ours["memory"], theirs["memory"])
    return rows


if __name__ == "__main__":
    main()
