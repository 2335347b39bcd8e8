"""Block lists, masking of personal data, decontamination and perplexity on one core: speed, and how right they are.

    python benchmarks/curation_masks.py [--models FOLDER]        # PINISI_SAMPLE_DIR names the folder with text/ and eval/

Prints a table and writes benchmarks/results/curation-masks.json. Speeds are UTF-8 bytes (or URLs) per second of CPU time of one
thread, best of three, compilation left out, on text/<lang>.jsonl.gz. Perplexity models are those in FOLDER, as `pinisi train lm`
wrote them, or are trained here on nine documents of ten; beside them KenLM's Python module on SentencePiece's pieces, one line a
call, as SailCraft does it, on the same model and the same documents. Personal data: hand-written cases, once those that the
patterns were written with (tests/curation/signals/pii_cases.tsv), once those written afterwards (pii_heldout.tsv).
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import random
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
from table import row, write

from curation.decontaminate import build, search
from curation.lm import perplexity, training
from curation.lm.pieces import normal_lines
from curation.signals.masking import find, mask
from curation.sources import block_lists as block

HERE = Path(__file__).parent
CASES = {
    "cases of the patterns": HERE.parent / "tests" / "curation" / "signals" / "pii_cases.tsv",
    "held-out cases": HERE / "pii_heldout.tsv",
}
MARKED = re.compile(r"«(\w+):([^»]*)»")
SCORED = ("id", "jv", "th", "lo", "km", "my", "zh")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", help="folder of `pinisi train lm`")
    options = parser.parse_args()
    folder = Path(os.environ.get("PINISI_SAMPLE_DIR", "nothing"))
    if not (folder / "text").is_dir():
        raise SystemExit("set PINISI_SAMPLE_DIR to a folder with text/<lang>.jsonl.gz")
    texts = {path.name.split(".")[0]: read(path) for path in sorted(folder.glob("text/*.jsonl.gz"))}
    rows = [*block_lists(), *personal_data(texts), *evaluation_sets(texts, sorted(folder.glob("eval/*.jsonl*")))]
    with tempfile.TemporaryDirectory() as scratch:
        rows += perplexities(texts, options.models or trained(texts, scratch))
    write("curation-masks", rows, tuned_on="nothing")


def read(path: Path) -> pa.Array:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return pa.array([json.loads(line)["text"] for line in file], pa.large_string())


def seconds(work) -> float:
    """CPU seconds of one call, best of three."""
    best = float("inf")
    for _ in range(3):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def megabytes(text: pa.Array) -> float:
    return len("".join(text.to_pylist()).encode()) / 1e6


def block_lists(n_domains: int = 1_000_000, n_pages: int = 200_000, n_urls: int = 300_000) -> list[dict]:
    """Random names, one URL in twenty on a list."""
    rng = random.Random(1)
    domains = [f"{rng.getrandbits(40):x}.{rng.choice(['com', 'co.id', 'go.th', 'vn'])}" for _ in range(n_domains)]
    pages = [f"http://{rng.getrandbits(40):x}.net/p/{i % 97}" for i in range(n_pages)]
    urls = [
        f"https://www.{rng.getrandbits(40):x}.example.co.id/2024/01/some-article-{i}.html?utm_source=x"
        if i % 20
        else rng.choice([f"http://sub.{rng.choice(domains)}/x?y=1", f"{rng.choice(pages)}/below"])
        for i in range(n_urls)
    ]
    batch = pa.record_batch({"doc_id": list(map(str, range(n_urls))), "url": urls})
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.join(folder, name) for name in ("domains.txt", "urls.txt")]
        for name, entries in zip(names, (domains, pages), strict=True):
            Path(name).write_text("\n".join(entries))
        begin = time.process_time()
        lists = block.load(names[:1], names[1:])
        loading = time.process_time() - begin
    block.block(batch.slice(0, 9), lists)
    _, ledger = block.block(batch, lists)
    assert ledger.num_rows == -(-n_urls // 20)
    speed = n_urls / seconds(lambda: block.block(batch, lists))
    return [
        row(f"block lists, {n_domains:,} domains and {n_pages:,} URLs", "URLs/s/core", speed, target=300_000),
        row("block lists, reading the lists", "entries/s", (n_domains + n_pages) / loading),
    ]


def personal_data(texts: dict[str, pa.Array]) -> list[dict]:
    rows, total, spent = [], 0.0, 0.0
    for lang, text in texts.items():
        batch = pa.record_batch({"text": text, "lang": [lang] * len(text)})
        mask(batch.slice(0, 20))
        spent_here = seconds(lambda batch=batch: mask(batch))
        total, spent = total + megabytes(text), spent + spent_here
        rows.append(row(f"masking, {lang}", "MB/s/core", megabytes(text) / spent_here))
    rows.append(row("masking, all languages", "MB/s/core", total / spent, target=50))
    for name, path in CASES.items():
        truth, found, both = Counter(), Counter(), Counter()
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line or line.startswith("#"):
                continue
            lang, marked = line.split("\t")
            expected, got = spans(marked), set()
            for one in find(pa.array([MARKED.sub(r"\2", marked)]), [lang]).values():
                got = set(one)
            for kind in ("email", "phone", "ip", "id"):
                mine, theirs = {s for s in got if s[2] == kind}, {s for s in expected if s[2] == kind}
                truth[kind], found[kind] = truth[kind] + len(theirs), found[kind] + len(mine)
                both[kind] += len(mine & theirs)
        seen = "these cases" if path.name == "pii_cases.tsv" else None
        for kind, n in truth.items():
            precision, recall = both[kind] / max(1, found[kind]), both[kind] / n
            rows.append(row(f"masking, precision of {kind}, {n} {name}", "share", precision, tuned_on=seen))
            rows.append(row(f"masking, recall of {kind}, {n} {name}", "share", recall, tuned_on=seen))
    return rows


def spans(marked: str) -> set[tuple[int, int, str]]:
    """Byte spans of the marked places in the text without its marks."""
    result, shift = set(), 0
    for match in MARKED.finditer(marked):
        start = len(marked[: match.start()].encode()) - shift
        size = len(match[2].encode())
        result.add((start, start + size, match[1]))
        shift += len(match[0].encode()) - size
    return result


def evaluation_sets(texts: dict[str, pa.Array], files: list[Path]) -> list[dict]:
    files = [str(path) for path in files if not path.name.startswith("lid")]
    if not files:
        return []
    index = build(files)
    rows, total, spent = [], 0.0, 0.0
    for lang, text in texts.items():
        search(text.slice(0, 2), index)
        spent_here = seconds(lambda text=text: search(text, index))
        total, spent = total + megabytes(text), spent + spent_here
        rows.append(row(f"decontamination, {lang}", "MB/s/core", megabytes(text) / spent_here))
        hits, _ = search(text, index)
        rows.append(row(f"decontamination, documents found, {lang}", "documents", int((hits > 0).sum())))
    name = f"decontamination, all languages, {len(index.items):,} items"
    return [*rows, row(name, "MB/s/core", total / spent, target=50)]


def trained(texts: dict[str, pa.Array], folder: str) -> str:
    for lang in SCORED:
        if lang in texts:
            training.train(texts[lang].to_pylist(), os.path.join(folder, lang), lang=lang)
    return folder


def perplexities(texts: dict[str, pa.Array], models: str) -> list[dict]:
    rows, total, spent = [], 0.0, 0.0
    for lang in perplexity.languages(models):
        if lang not in texts:
            continue
        folder = os.path.join(models, lang)
        model = perplexity.load(folder)
        about = json.loads(Path(folder, perplexity.ABOUT).read_text(encoding="utf-8"))
        text = texts[lang].slice(0, 400)
        perplexity.perplexity(text.slice(0, 2), model)
        spent_here = seconds(lambda text=text, model=model: perplexity.perplexity(text, model))
        total, spent = total + megabytes(text), spent + spent_here
        peer = kenlm_speed(folder, text, model)
        rows.append(row(f"perplexity, {lang}", "MB/s/core", megabytes(text) / spent_here, peer=peer))
        sentences = len(normal_lines(text)) / spent_here
        rows.append(row(f"perplexity, {lang}", "lines/s/core", sentences))
        rows.append(row(f"perplexity of held-out documents, {lang}", "per piece", about["heldout"]["perplexity"]))
        ninety = about["heldout"]["percentiles"]["90"]
        rows.append(row(f"perplexity, 90th percentile of held-out documents, {lang}", "per piece", ninety))
    return [*rows, row("perplexity, all languages measured", "MB/s/core", total / spent)] if rows else []


def kenlm_speed(folder: str, text: pa.Array, model: perplexity.Model) -> tuple[str, float] | None:
    """KenLM's MB/s on the same model and texts, which must give the same numbers; None where it is not installed."""
    try:
        import kenlm
    except ImportError:
        return None
    import sentencepiece

    if not Path(folder, training.BINARY).exists():
        return None
    reference = kenlm.Model(os.path.join(folder, training.BINARY))
    processor = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, training.SENTENCEPIECE))
    text = text.slice(0, 100)
    values = []

    def score() -> None:
        values.clear()
        for one in text.to_pylist():
            total = count = 0
            for line in normal_lines(pa.array([one], pa.large_string())):
                pieces = processor.encode(line, out_type=str)
                total += reference.score(" ".join(pieces))
                count += len(pieces) + 1
            values.append(10 ** (-total / count) if count else float("nan"))

    spent = seconds(score)
    ours = perplexity.perplexity(text, model)
    worst = max(abs(a / b - 1) for a, b in zip(values, ours.tolist(), strict=True) if not math.isnan(a))
    assert worst < 1e-3, f"KenLM and we differ by {worst:.1e}"
    return "kenlm (ufal-kenlm 26.4.1)", megabytes(text) / spent


if __name__ == "__main__":
    main()
