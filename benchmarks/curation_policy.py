"""What the shipped policies keep of good text and drop of rubbish, in fifteen languages.

    python benchmarks/curation_policy.py            # PINISI_SAMPLE_DIR names the folder with text/

Good text: at most 100 texts of each source in text/<lang>.jsonl.gz; sentences are put together by tens. Rubbish: the pieces of
tests/curation/policy/rubbish, and kinds that are made of good text here. The bounds were set on the sources that are not in
`HELD_OUT` and on pieces with `tuned_on`; `word_order` is learnt from those sources alone, which is harder than a run, where
every source is in what is learnt from. Writes benchmarks/results/curation-policy.json.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from table import row, write

from curation.policy.policy import apply, languages, load_all
from curation.signals import word_order
from curation.signals.edit import normalise
from curation.signals.text_signals import signals_kernel
from curation.text.words import split_words

HELD_OUT = (
    *("ntrex128", "opensource.guide", "progit2", "us-inaugural", "dasarpemrogramangolang", "nusax", "iapp-wiki-qa"),
    *("ud-thai-tud", "ud-indonesian-gsd", "ud-vietnamese-vtb", "ud-javanese-csui", "ud-cebuano-gja", "gutenberg-noli"),
    *("d2l-vn", "mypos", "khpos", "tatoeba", "debian-installation-guide"),
)
RUBBISH = Path(__file__).parents[1] / "tests/curation/policy/rubbish"
UNSPACED = ("th", "lo", "km", "my", "zh")
TUNED = "these sources, and these pieces of rubbish"
SEEN = (
    "looked at while word_order, its coverage, odd_word_share and two stop-word minima were chosen; "
    "phrases by the same hand"
)
PER_SOURCE = 100

SCRIPT = """var menu = document.getElementById('menu'); if (menu) { menu.style.display = 'none'; }
window.queue = window.queue || []; function send() { queue.push(arguments); } send('start', new Date());
var options = {"url": "/api/v1", "wait": 3000, "again": true};
$(document).ready(function () { $('.item').click(function () { $(this).toggleClass('open'); }); });
"""
LATIN = (
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore. "
)


def main() -> None:
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    if not folder or not Path(folder, "text").is_dir():
        raise SystemExit("set PINISI_SAMPLE_DIR to a folder with text/<lang>.jsonl.gz")
    good = [text for lang in languages() for text in read(Path(folder, "text", f"{lang}.jsonl.gz"), lang)]
    sample = word_order.Sample()
    for batch in batches(text for text in good if not text["held_out"]):
        sample.add(normalise(batch))
    kernel = signals_kernel(languages(), None, sample.learn())
    write("curation-policy", [*kept(good, kernel), *caught(rubbish(good), kernel)], tuned_on=TUNED)


def read(path: Path, lang: str) -> list[dict]:
    by_source = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for found in map(json.loads, file):
            if found["kind"] != "ui-messages":
                by_source[found["source"], found["kind"]].append(found["text"])
    result = []
    for (source, kind), texts in by_source.items():
        if kind == "sentence":
            texts = [" ".join(texts[i : i + 10]) for i in range(0, len(texts) - 9, 10)]
        texts = sorted(texts, key=lambda text: hashlib.md5(text.encode()).hexdigest())[:PER_SOURCE]
        held_out = source in HELD_OUT
        result += [{"lang": lang, "source": source, "text": text[:30_000], "held_out": held_out} for text in texts]
    return result


def batches(texts: Iterable[dict]) -> list[pa.RecordBatch]:
    rows = list(texts)
    columns = {name: [text[name] for text in rows] for name in ("lang", "source", "text")}
    ids = [str(i) for i in range(len(rows))]
    return pa.table({"doc_id": ids, "url": pa.nulls(len(rows), pa.string()), **columns}).to_batches(512)


def keeps(texts: list[dict], kernel) -> np.ndarray:
    """Whether each text is kept."""
    policies = load_all(languages())
    return np.concatenate(
        [apply(kernel(batch)[0], policies)[0].to_numpy(zero_copy_only=False) for batch in batches(texts)]
    )


def kept(good: list[dict], kernel) -> list[dict]:
    keep = keeps(good, kernel)
    rows = []
    for held_out in (True, False):
        shares = []
        for lang in languages():
            of_lang = keep[[text["lang"] == lang and text["held_out"] == held_out for text in good]]
            if len(of_lang) >= 20:
                shares.append(of_lang.mean())
                low, high = wilson(of_lang.sum(), len(of_lang))
                name = f"good text kept, {lang}, {len(of_lang)} texts ({low:.3f} to {high:.3f})"
                rows.append(row(name, "share", shares[-1], target=0.94, tuned_on=SEEN if held_out else TUNED))
        name = f"good text kept, mean of {len(shares)} languages"
        rows.append(row(name, "share", np.mean(shares), target=0.975, tuned_on=SEEN if held_out else TUNED))
    return rows


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, p = 1.96, hits / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def caught(pieces: list[dict], kernel) -> list[dict]:
    drop = ~keeps(pieces, kernel)
    rows = []
    for held_out in (True, False):
        by_kind = defaultdict(list)
        for piece, gone in zip(pieces, drop, strict=True):
            if piece["held_out"] == held_out:
                by_kind[piece["source"]].append(gone)
        tuned_on = SEEN if held_out else TUNED
        for kind, gone in by_kind.items():
            rows.append(row(f"rubbish dropped, {kind}, {len(gone)} pieces", "share", np.mean(gone), tuned_on=tuned_on))
        mean = np.mean([np.mean(gone) for gone in by_kind.values()])
        rows.append(row(f"rubbish dropped, mean of {len(by_kind)} kinds", "share", mean, target=0.7, tuned_on=tuned_on))
    return rows


# ---- rubbish


def rubbish(good: list[dict]) -> list[dict]:
    pieces = []
    for lang in languages():
        for line in (RUBBISH / f"{lang}.jsonl").read_text("utf-8").splitlines():
            piece = json.loads(line)
            text = {"lang": lang, "source": piece["kind"], "text": piece["text"], "held_out": not piece["tuned_on"]}
            pieces.append(text)
    rng = random.Random(11)
    for lang in languages():
        for held_out in (False, True):
            pool = [t["text"] for t in good if t["lang"] == lang and t["held_out"] == held_out and len(t["text"]) > 500]
            pool = pool or [t["text"] for t in good if t["lang"] == lang and len(t["text"]) > 500]
            others = [
                t["text"] for t in good if (t["lang"] in UNSPACED) != (lang in UNSPACED) and t["held_out"] == held_out
            ]
            made = {kind: make(rng, rng.choice(pool), lang) for kind, make in KINDS.items()}
            made["another language"] = rng.choice(others)[:700]
            pieces += [
                {"lang": lang, "source": kind, "text": text, "held_out": held_out} for kind, text in made.items()
            ]
    return pieces


def word_salad(rng: random.Random, text: str, lang: str) -> str:
    words = split_words(text)[:200]
    rng.shuffle(words)
    between, end = ("", " ") if lang in UNSPACED else (" ", ". ")
    return end.join(between.join(words[i : i + 12]) for i in range(0, len(words), 12))


def broken_ocr(rng: random.Random, text: str, lang: str) -> str:
    def damaged(c: str) -> str:
        luck = rng.random()
        if c.isspace() or luck > 0.16:
            return c
        return rng.choice("1l|!i0O~^;:.") if luck < 0.07 else c + " " if luck < 0.12 else ""

    return "".join(map(damaged, text[:1500]))


def mojibake(rng: random.Random, text: str, lang: str) -> str:
    accents = {"a": "á", "e": "é", "o": "ô"}
    text = "".join(accents.get(c, c) if rng.random() < 0.2 else c for c in text[:800])
    return text.encode().decode(rng.choice(["cp1252", "latin-1"]), "replace")


def garbled(rng: random.Random, text: str, lang: str) -> str:
    parts = [text[i : i + 6] for i in range(0, 900, 6)] if lang in UNSPACED else text[:1200].split(" ")
    return ("" if lang in UNSPACED else " ").join("".join(rng.sample(part, len(part))) for part in parts)


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"[\n。]|(?<=[.!?]) ", text) if 20 < len(part) < 150][:8] or [text[:80]]


def repeated_lines(rng: random.Random, text: str, lang: str) -> str:
    return "\n".join(rng.choices(sentences(text)[:4], k=30))


def numbers(rng: random.Random, text: str, lang: str) -> str:
    words = [word for word in split_words(text) if len(word) > 2] or ["x"]
    return "\n".join(
        f"{rng.choice(words)} {rng.randint(1, 999)} {rng.random() * 99:.2f} {rng.randint(1, 99)}%" for _ in range(30)
    )


def placeholders(rng: random.Random, text: str, lang: str) -> str:
    names = ["page.title", "user.name", "item.price", "post.date"]
    return "\n".join(f"{{{{ {rng.choice(names)} }}}} {part[:40]} {{{rng.choice('012')}}}" for part in sentences(text))


def stuffed_keywords(rng: random.Random, text: str, lang: str) -> str:
    words = [word for word in dict.fromkeys(split_words(text)) if len(word) > (1 if lang == "zh" else 3)][:14]
    between, end = ("", " ") if lang in UNSPACED else (" ", ", ")
    return end.join(between.join(rng.sample(words, 2)) for _ in range(45))


KINDS = {
    "word salad": word_salad,
    "broken OCR": broken_ocr,
    "mojibake": mojibake,
    "garbled words": garbled,
    "repeated lines": repeated_lines,
    "tables of numbers": numbers,
    "placeholders": placeholders,
    "stuffed keywords": stuffed_keywords,
    "javascript": lambda rng, text, lang: SCRIPT + text[:80],
    "lorem ipsum": lambda rng, text, lang: LATIN + text[:60] + " " + LATIN,
}


if __name__ == "__main__":
    main()
