"""Trains the model of `curation.extract.judge` from pages with gold texts.

    python benchmarks/train_extract.py        # PINISI_SAMPLE_DIR names the folder with extraction_gold/

Writes curation/extract/model.npy, in about two minutes on one core. A line of a page is content when half of its words or
more stand in the gold text, aligned in order: the longest common subsequence, in which a word that follows its neighbour
counts for more. Lines weigh their words, as a share of those of their page, so that all pages count alike.
`benchmarks/curation_extract.py` says how good models are that have not seen the page (`held_out`).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html as entities
import json
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import numba
import numpy as np

from curation.extract.boosting import fit
from curation.extract.features import features
from curation.extract.head import meta
from curation.extract.judge import MODEL, shipped
from curation.extract.lines import Lines, lines
from curation.extract.main_content import choose
from curation.extract.markup import Tree
from curation.extract.page import parsed

SETS = ("wcxb-dev", "scrapinghub-aeb", "mozilla-readability", "suttacentral", "libreoffice-help")
MIXED = "wcxb-dev"
NONE = "none"
FOLDS = 4  # of the mixed set, by site
ALIKE = {
    "scrapinghub-aeb": "articles",
    "mozilla-readability": "articles",
    "suttacentral": "plain",
    "libreoffice-help": "plain",
}
WORD = re.compile(r"\w+")


def main() -> None:
    pages = [page for name in SETS for page in read(gold_folder() / f"{name}.jsonl.gz")]
    model = train([example(page) for page in pages])
    np.save(MODEL, model)
    print(f"{MODEL}: {len(model)} trees from {len(pages)} pages")


def gold_folder() -> Path:
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    if not folder or not Path(folder, "extraction_gold").is_dir():
        raise SystemExit("set PINISI_SAMPLE_DIR to a folder with extraction_gold/<set>.jsonl.gz")
    return Path(folder, "extraction_gold")


def read(path: Path) -> list[dict]:
    """The pages of a gold set, with `payload` the bytes of each."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        pages = [json.loads(line) for line in file]
    for page in pages:
        html = page["html"]
        page["payload"] = base64.b64decode(html) if page["html_encoding"] else html.encode("utf-8", "surrogatepass")
    return pages


def held_out(pages: list[dict]) -> dict[str, np.ndarray]:
    """By `part`: a model of all pages of `SETS` but those of the part; the shipped one where nothing is held out."""
    examples = [(part(page), example(page)) for page in pages if page["set"] in SETS]
    parts = sorted({part(page) for page in pages})
    models = {name: train([one for other, one in examples if other != name]) for name in parts if name != NONE}
    return models | {NONE: shipped()}


def part(page: dict) -> str:
    """What is held out together: two sets of a kind, a fold of the mixed set by site, or nothing."""
    if page["set"] != MIXED:
        return ALIKE.get(page["set"], NONE)
    site = ".".join((urlsplit(page["url"] or page["id"]).hostname or page["id"]).split(".")[-2:])
    return f"{MIXED} {hashlib.sha256(site.encode()).digest()[0] % FOLDS}"


def train(examples: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    return fit(*(np.concatenate(column) for column in zip(*examples, strict=True)))


def example(page: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features, whether each line is content, weights) of a page."""
    data, _, tree = parsed(page["payload"], "")
    found = lines(data, tree)
    keep, root = choose(tree, found)
    x = features(data, tree, found, keep, root, meta(data, tree).get("og:type", ""))
    words = line_words(data, tree, found)
    gold = WORD.findall(page["text"].lower())
    numbers: dict[str, int] = {}
    flat = np.array([numbers.setdefault(word, len(numbers)) for line in words for word in line], np.int64)
    wanted = np.array([numbers.setdefault(word, len(numbers)) for word in gold], np.int64)
    n_words = np.array([len(line) for line in words], np.int64)
    hits = np.concatenate([[0], np.cumsum(_aligned(flat, wanted))])
    stop = np.cumsum(n_words)
    share = (hits[stop] - hits[stop - n_words]) / np.maximum(n_words, 1)
    return x, (share >= 0.5).astype(np.float64), n_words / (len(gold) + 0.5 * len(flat) + 20)


def line_words(html: bytes, tree: Tree, found: Lines) -> list[list[str]]:
    """The lower-case words of each line."""
    words = []
    for first, stop in zip(found.first.tolist(), found.stop.tolist(), strict=True):
        parts = []
        for i in range(first, stop):
            parts.append(b" " if tree.space[i] else b"")
            parts.append(html[tree.start[i] : tree.end[i]] if tree.tag[i] == 0 else b"")
        words.append(WORD.findall(entities.unescape(b"".join(parts).decode("utf-8", "replace")).lower()))
    return words


@numba.njit(cache=True)
def _aligned(a, b):
    """Which words of `a` stand in `b`, by the best alignment: 1 for a word, 1.6 for one behind a neighbour that does."""
    n, m = len(a), len(b)
    way = np.zeros((n + 1, m + 1), np.uint8)
    best, best_before = np.zeros(m + 1, np.float32), np.zeros(m + 1, np.float32)
    here, here_before = np.zeros(m + 1, np.float32), np.zeros(m + 1, np.float32)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            value, step = best_before[j], 0
            if best[j - 1] > value:
                value, step = best[j - 1], 1
            match = np.float32(-1)
            if a[i - 1] == b[j - 1]:
                match = best_before[j - 1] + np.float32(1)
                if here_before[j - 1] > 0:
                    match = max(match, here_before[j - 1] + np.float32(1.6))
                if match >= value:
                    value, step = match, 2
            here[j], best[j], way[i, j] = match, value, step
        best, best_before = best_before, best
        here, here_before = here_before, here
    found = np.zeros(n, np.bool_)
    i, j = n, m
    while i > 0 and j > 0:
        if way[i, j] == 2:
            found[i - 1] = True
            i, j = i - 1, j - 1
        elif way[i, j] == 1:
            j -= 1
        else:
            i -= 1
    return found


if __name__ == "__main__":
    main()
