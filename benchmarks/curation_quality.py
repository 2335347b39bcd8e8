"""Quality classifiers: one for each language beside one for all, fastText beside an encoder with a line on it.

    python benchmarks/curation_quality.py ENCODER [LANG ...]     # PINISI_SAMPLE_DIR names the folder with text/

Positives are good texts of benchmarks/curation_policy.py, negatives are made of other good texts of the same sources: half of
its kinds of rubbish. Measured is the AUC on texts of sources that were not trained on, against the other kinds and the pieces of
tests/curation/policy/rubbish, which were not either; mean over the languages. So a classifier that knows its sources, or its
rubbish, gains nothing. Nothing was tuned: the settings are those of a run. Writes benchmarks/results/curation-quality.json.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from curation_policy import KINDS, RUBBISH, read
from table import row, write

from curation import encoder, quality
from curation.policy.policy import languages

SEEN_KINDS = ("broken OCR", "repeated lines", "tables of numbers", "placeholders", "javascript", "stuffed keywords")
PER_SIDE, FEW, TEST = 40, 10, 20
READING = encoder.Reading(max_tokens=64, windows=1)
TUNED = "nothing: neither these sources nor these kinds of rubbish were trained on"

Sides = dict[str, tuple[list[str], list[str]]]


def main() -> None:
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    if len(sys.argv) < 2 or not folder or not Path(folder, "text").is_dir():
        raise SystemExit("name an encoder, and set PINISI_SAMPLE_DIR to a folder with text/<lang>.jsonl.gz")
    trained: Sides = {}
    tested: Sides = {}
    for lang in sys.argv[2:] or languages():
        trained[lang], tested[lang] = examples(Path(folder, "text", f"{lang}.jsonl.gz"), lang)
    vectors = embedded(sys.argv[1], trained, tested)
    rows = []
    for n in (PER_SIDE, FEW):
        few = {lang: (good[:n], rest[:n]) for lang, (good, rest) in trained.items()}
        scores = {
            "fastText, one a language": fasttext(few, tested, pooled=False),
            "fastText, one for all": fasttext(few, tested, pooled=True),
            "encoder, one a language": with_encoder(vectors, n, pooled=False),
            "encoder, one for all": with_encoder(vectors, n, pooled=True),
        }
        for name, by_lang in scores.items():
            said = f"{name}: AUC, at most {n} examples a side, mean of {len(by_lang)} languages"
            peer = ("one a language", float(np.mean([*scores[name.replace("for all", "a language")].values()])))
            rows.append(row(said, "AUC", np.mean([*by_lang.values()]), peer=peer if "for all" in name else None))
            rows += [row(f"{name}, {n} a side, {lang}", "AUC", auc) for lang, auc in by_lang.items()]
    write("curation-quality", rows, tuned_on=TUNED)


def examples(path: Path, lang: str) -> tuple[tuple[list[str], list[str]], tuple[list[str], list[str]]]:
    """(good, rest) to train on and (good, rest) to test on: by source, of others kinds of rubbish."""
    rng = random.Random(f"quality {lang}")
    good = [text for text in read(path, lang) if len(text["text"]) > 100]
    sources = sorted({text["source"] for text in good})
    sources.sort(key=lambda source: sum(text["source"] == source for text in good))
    unseen = set(sources[::2])  # by size in turn, so that either side has enough
    sides = []
    for test in (False, True):
        pool = [text["text"][:4000] for text in good if (text["source"] in unseen) == test]
        rng.shuffle(pool)
        n = min(TEST if test else PER_SIDE, len(pool) // 2)
        kinds = [kind for kind in KINDS if (kind in SEEN_KINDS) != test]
        rest = [KINDS[kinds[i % len(kinds)]](rng, text, lang) for i, text in enumerate(pool[n : 2 * n])]
        if test:
            rest += [json.loads(line)["text"] for line in (RUBBISH / f"{lang}.jsonl").read_text("utf-8").splitlines()]
        sides.append((pool[:n], rest))
    return sides[0], sides[1]


def fasttext(trained: Sides, tested: Sides, *, pooled: bool) -> dict[str, float]:
    every = {lang: (good, rest, []) for lang, (good, rest) in trained.items()}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.bin")
        if pooled:
            quality.train_pooled(every, path)
        for lang, (good, rest) in tested.items():
            if not pooled:
                quality.train(*every[lang][:2], lang, path, min_examples=2)
            model = quality.load(path)
            found[lang] = quality.auc(quality.score(model, good, lang), quality.score(model, rest, lang))
    return found


def embedded(place: str, trained: Sides, tested: Sides) -> dict[str, list[np.ndarray]]:
    """Language -> vectors of good and rest to train on, good and rest to test on."""
    model = encoder.Encoder(place, READING, torch.device("cpu"), torch.float32)
    return {lang: [model.vectors(texts) for texts in (*trained[lang], *tested[lang])] for lang in trained}


def with_encoder(vectors: dict[str, list[np.ndarray]], n: int, *, pooled: bool) -> dict[str, float]:
    """The held-out tenth that `curation.encoder.train` keeps is trained on too: here the test is another."""
    used = {lang: [side[:n] for side in found[:2]] for lang, found in vectors.items()}
    every = encoder.regression(*(np.concatenate([found[i] for found in used.values()]) for i in (0, 1)))
    found = {}
    for lang, (_, _, *tested) in vectors.items():
        head = every if pooled else encoder.regression(*used[lang])
        found[lang] = quality.auc(*(side @ head[:-1] for side in tested))
    return found


if __name__ == "__main__":
    main()
