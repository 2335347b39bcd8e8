"""Pairs of sentences: how many good ones cleaning keeps, how many wrong ones it drops, its speed; lid.176 and the defaults.

    PINISI_SAMPLE_DIR=/data python benchmarks/curation_parallel.py       # a folder with text/<lang>.jsonl.gz

Good pairs are lines of translated documents that have as many lines in both languages (of NusaX and UDHR: whole texts). Wrong
ones are the same lines, each beside the other side of the pair seven places on. At most `MOST` pairs of a source and a pair of
languages, those of the documents with the smallest hash. Sources in `SEEN` were looked at while bounds and the groups of close
languages were chosen, `UNTOUCHED` were not: some of their lines are no translations, which nobody has counted. Pairs with a
side that is the same text (`copy`: untranslated names and commands) are counted apart. Speed is that of one core (CPU time)
from rows to pairs that stay, best of three. Writes benchmarks/results/curation-parallel.json.
"""

from __future__ import annotations

import gzip
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import table
import xxhash

from curation.parallel.clean import Bounds, cleaner
from curation.parallel.schema import Origin, batches, row

LANGUAGES = ["id", "ms", "vi", "th", "tl", "km", "lo", "my", "zh", "jv", "su", "ceb", "ilo", "war"]
SEEN = {"ntrex128": ("en", "id"), "udhr": ("en",), "nusax": ("id",)}
UNTOUCHED = {"libreoffice-help": ("en",), "opensource.guide": ("en",), "debian-installation-guide": ("en",)}
WHOLE = ("udhr", "nusax")
MOST = 1000


def main() -> None:
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    if not folder or not Path(folder, "text", "en.jsonl.gz").is_file():
        raise SystemExit("set PINISI_SAMPLE_DIR to a folder with text/<lang>.jsonl.gz")
    documents = read(Path(folder, "text"))
    rows = []
    for source, bases in {**SEEN, **UNTOUCHED}.items():
        tuned = "bounds and groups of languages" if source in SEEN else "nothing"
        for base in bases:
            for other in LANGUAGES:
                found = list(pairs(documents[source], *sorted((base, other))))[:MOST] if other != base else []
                if len(found) < 20:
                    continue
                wrong = [(a, found[(i + 7) % len(found)][1]) for i, (a, _) in enumerate(found)]
                good, bad = (dropped(some, *sorted((base, other))) for some in (found, wrong))
                copies = good.pop("copy", 0)
                said = f"{source}, {base}-{other}, {len(found)} pairs"
                kept = 1 - sum(good.values()) / (len(found) - copies)
                rows.append(table.row(f"{said}: good pairs kept", "share", kept, tuned_on=tuned))
                rows.append(table.row(f"{said}: copies", "share", copies / len(found), tuned_on=tuned))
                rows.append(
                    table.row(f"{said}: wrong pairs dropped", "share", sum(bad.values()) / len(found), tuned_on=tuned)
                )
    news = list(pairs(documents["ntrex128"], "en", "th"))[:MOST]
    rows.append(table.row("speed, ntrex128, en-th", "pairs/s", max(speed(news) for _ in range(3)), tuned_on="nothing"))
    table.write("curation-parallel", rows, "nothing")


def read(folder: Path) -> dict[str, dict[str, dict[str, str]]]:
    """source -> key of a document -> language -> its text."""
    found: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for path in sorted(folder.glob("*.jsonl.gz")):
        lang = path.name.split(".")[0]
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for one in map(json.loads, file):
                if one["source"] in {**SEEN, **UNTOUCHED}:
                    found[one["source"]][key(one["id"], lang)][lang] = one["text"]
    return found


def key(name: str, lang: str) -> str:
    """The id of a document without its language, wherever that stands in it."""
    return ":".join("" if part.split("-")[0].split("_")[0] == lang else part for part in name.split(":"))


def pairs(documents: dict[str, dict[str, str]], a: str, b: str) -> Iterator[tuple[str, str]]:
    for name in sorted(documents, key=lambda one: xxhash.xxh3_64_intdigest(one.encode())):
        texts = documents[name]
        if a in texts and b in texts:
            left, right = texts[a].split("\n"), texts[b].split("\n")
            if name.startswith(WHOLE):
                yield texts[a], texts[b]
            elif len(left) == len(right):
                yield from zip(left, right, strict=True)


def dropped(found: list[tuple[str, str]], a: str, b: str) -> Counter[str]:
    kernel, rules = cleaner("lid.176", Bounds()), Counter[str]()
    origin = Origin("benchmark", "pairs", (a, b))
    for batch, unread in batches((row(origin, n, one) for n, one in enumerate(found, 1)), origin):
        for drops in (unread, kernel(batch)[1]):
            rules.update(drops["rule"].to_pylist())
    return rules


def speed(found: list[tuple[str, str]]) -> float:
    begin = time.process_time()
    dropped(found, "en", "th")
    return len(found) / (time.process_time() - begin)


if __name__ == "__main__":
    main()
