"""Items of evaluation sets planted in documents, and edited copies of documents: what of both is found, and how fast.

    python benchmarks/curation_contamination.py         # PINISI_SAMPLE_DIR names the folder with text/ and eval/

Prints a table and writes benchmarks/results/curation-contamination.json. Of each set `ITEMS` items stand at a random place of a
document of their language, as they are and with one unit (word, or letter of a script without spaces) edited in 20. Text is in
form, as extraction leaves it; speeds are those of one thread, best of three, beside those with an index in which no piece is.
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from curation_masks import megabytes, read, seconds
from table import row, write

from curation.decontaminate import _rows, _strings, build, search
from curation.dedup.minhash import fold_bands, jaccard_estimate, shingle_sets, signatures
from curation.dedup.schema import DedupConfig
from curation.text.form import in_one_form

ITEMS, DOCUMENTS = 60, 150
EVERY = 4  # of the documents whose speed is measured and that are taken for clean
SEEN = {"xcopa.id", "xcopa.zh", "xcopa.th", "paraphrase.my", "paraphrase.tl", "mabl.jv", "mabl.su", "global_mmlu_lite.my",
        "nusax_sentiment.id"}  # fmt: skip
TOLD = "this set was looked at while numbers were chosen"
TEXT_SEEN = "copies of the same texts, edited otherwise, were looked at while numbers were chosen"
RUN_BEFORE = "no number was chosen for it, but it was run before the last constants"
UNSPACED = {"th": 3.7, "lo": 3.7, "km": 3.6, "my": 2.9, "zh": 1.6}  # letters of a word of English news
LETTER_WITH_MARKS = re.compile(r"\w[\u0300-\u036f\u0e31\u0e34-\u0e4e\u0eb1\u0eb4-\u0ece\u102b-\u103e\u17b6-\u17dd]*|\W")


def main() -> None:
    folder = Path(os.environ.get("PINISI_SAMPLE_DIR", "nothing"))
    if not (folder / "text").is_dir():
        raise SystemExit("set PINISI_SAMPLE_DIR to a folder with text/<lang>.jsonl.gz and eval/")
    texts = {p.name.split(".")[0]: in_one_form(read(p)[::EVERY]) for p in
             sorted(folder.glob("text/*.jsonl.gz"))}  # fmt: skip
    files = [p for p in sorted(folder.glob("eval/*.jsonl*")) if not p.name.startswith("lid")]
    index = build([str(p) for p in files])
    clean, rows = speed(texts, index)
    for path in files:
        rows += planted(path, clean, index)
    write("curation-contamination", [*rows, *copies(texts)], tuned_on=RUN_BEFORE)


def speed(texts: dict[str, pa.Array], index) -> tuple[dict[str, list[str]], list[dict]]:
    """(Documents in which nothing is found, rows of speed)."""
    table = index.pieces.table
    none = index.pieces._replace(table=table._replace(bits=np.zeros_like(table.bits)))
    runs_alone = dataclasses.replace(index, pieces=none)
    clean, rows, total, spent, alone, flagged = {}, [], 0.0, 0.0, 0.0, 0
    for lang, text in texts.items():
        hits, _ = search(text, index)
        clean[lang] = text.filter(pa.array(hits == 0)).to_pylist()
        size, here = megabytes(text), seconds(lambda text=text: search(text, index))
        before = seconds(lambda text=text: search(text, runs_alone))
        total, spent, alone, flagged = total + size, spent + here, alone + before, flagged + int((hits > 0).sum())
        rows.append(
            row(f"decontamination, {lang}", "MB/s/core", size / here, peer=("no pieces in the index", size / before))
        )
        rows.append(row(f"documents flagged of {len(text)}, {lang}", "documents", int((hits > 0).sum())))
    rows.append(
        row(
            "decontamination, all",
            "MB/s/core",
            total / spent,
            peer=("no pieces in the index", total / alone),
            target=50,
        )
    )
    return clean, rows


def units(text: str, lang: str) -> list[str]:
    return LETTER_WITH_MARKS.findall(text) if lang in UNSPACED else text.split(" ")


def words(text: str, lang: str, rng: random.Random) -> list[str]:
    """Words; where there are no spaces, stretches of as many letters as hold the same text."""
    letters = units(text, lang)
    if lang not in UNSPACED:
        return letters
    ends = [0]
    while ends[-1] < len(letters):
        ends.append(ends[-1] + int(UNSPACED[lang] + rng.random()))
    return ["".join(letters[a:b]) for a, b in pairwise(ends)]


def edited(parts: list[str], share: float, gap: str, rng: random.Random) -> str:
    """The text of parts of which this share (at least one) is replaced, dropped or followed by another."""
    out = list(parts)
    for i in rng.sample(range(len(out)), min(len(out), max(1, round(share * len(out))))):
        out[i] = rng.choice(["", rng.choice(parts), out[i] + gap + rng.choice(parts)])
    return gap.join(out)


def planted(path: Path, clean: dict[str, list[str]], index) -> list[dict]:
    name = path.name.split(".jsonl")[0]
    lang = name.split(".")[-1]
    if not clean.get(lang):
        return []
    rng = random.Random(name)
    items = [value for _, value in _rows(str(path))]
    items = [" ".join(_strings(list(item.values()))) for item in rng.sample(items, min(ITEMS, len(items)))]
    rows, gap = [], "" if lang in UNSPACED else " "
    for how in ("as they are", "one unit in 20 edited"):
        documents = []
        for item in items:
            text = item if how == "as they are" else edited(units(item, lang), 0.05, gap, rng)
            around = units(rng.choice(clean[lang]), lang)
            at = rng.randint(0, len(around))
            documents.append(f"{gap.join(around[:at])} {text} {gap.join(around[at:])}")
        share = float((search(pa.array(documents, pa.large_string()), index)[0] > 0).mean())
        rows.append(
            row(f"{name}, {len(items)} items, {how}", "share found", share, tuned_on=TOLD if name in SEEN else None)
        )
    return rows


def copies(texts: dict[str, pa.Array]) -> list[dict]:
    """Copies with edits, and originals that are joined with another one, beside exact similarity."""
    rows = []
    configs = {"threshold: 0.7": DedupConfig(), "edit_share: 0.05": DedupConfig(edit_share=0.05)}
    for lang, text in texts.items():
        rng, gap = random.Random(lang), "" if lang in UNSPACED else " "
        long = [one[:6000] for one in text.to_pylist() if len(one) > 500]
        if len(long) < 20:
            continue
        originals = rng.sample(long, min(DOCUMENTS, len(long)))
        for name, config in configs.items():
            minima = _minima(originals, config)
            for share in (0.02, 0.05, 0.1):
                other = _minima([edited(words(one, lang, rng), share, gap, rng) for one in originals], config)
                found = float(np.mean([_pair(minima[i], other[i], config) for i in range(len(originals))]))
                rows.append(
                    row(f"copies found, {lang}, {share:.0%} edited, {name}", "share", found, tuned_on=TEXT_SEEN)
                )
            sets = shingle_sets(pa.array(originals, pa.large_string()), config.ngram)
            pairs = [(i, j) for i in range(len(originals)) for j in range(i)]
            exact = {i for i, j in pairs if _jaccard(sets[i], sets[j]) >= config.threshold}
            merged = {i for i, j in pairs if _pair(minima[i], minima[j], config)}
            rows.append(
                row(
                    f"originals merged of {len(originals)}, {lang}, {name}",
                    "documents",
                    len(merged),
                    peer=("exact", len(exact)),
                )
            )
    return rows


def _minima(texts: list[str], config: DedupConfig) -> np.ndarray:
    return signatures(pa.array(texts, pa.large_string()), config.num_perm, config.seed, config.ngram)


def _pair(one: np.ndarray, other: np.ndarray, config: DedupConfig) -> bool:
    """Whether two signatures share a band and are near enough by their low bytes."""
    if jaccard_estimate(one.astype(np.uint8), other.astype(np.uint8)) < config.threshold:
        return False
    keys = fold_bands(np.stack([one, other]), config.minhash)[0]
    return bool((keys[0] == keys[1]).any())


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / max(1, len(one) + len(other) - both)


if __name__ == "__main__":
    main()
