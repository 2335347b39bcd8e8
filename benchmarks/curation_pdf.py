"""PDF to text beside peers: F1 of words and of pairs of words that follow one another (which sees the order of reading), and
pages per second of CPU time, on gold pages that fpdf2 writes from known texts and on documents of Debian that have a text
edition beside the PDF.

    python benchmarks/curation_pdf.py --text FOLDER/OF/LANG.jsonl.gz --debian FOLDER --peers /path/to/python

`--debian` holds `apt-get download installation-guide-amd64 debian-policy`, unpacked by `dpkg -x`. `--peers` is a Python with
pymupdf and pdfminer.six, each called as its manual shows it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import gold_pdf
import table

from curation.pdf.document import extract

PEER = r"""
import json, sys, time
name, paths = sys.argv[1], sys.argv[2:]
if name == "pymupdf":
    import pymupdf
    def read(path):
        with pymupdf.open(path) as document:
            return "\n".join(page.get_text() for page in document), len(document)
else:
    from pdfminer.high_level import extract_text
    from pdfminer.pdfpage import PDFPage
    def read(path):
        return extract_text(path), 0
read(paths[0])
found = []
for path in paths:
    start = time.process_time()
    text, pages = read(path)
    found.append((text, pages, time.process_time() - start))
print(json.dumps(found))
"""
SCRIPTS = {"th": "Thai", "lo": "Laoo", "km": "Khmr", "my": "Mymr", "zh": "Hans"}
LANGUAGES = ("id", "vi", "tl", "th", "lo", "km", "my", "zh")  # each script, and Latin with and without marks
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\u3000-\u30ff]")
WORD = re.compile(f"{UNSPACED.pattern}|[^\\W{UNSPACED.pattern[1:-1]}]+")
TUNED = "debian-policy and the gold layouts, with texts in Indonesian, Thai and Khmer"
HELD_OUT = ("id", "vi", "zh_CN", "en")


def scores(text: str, gold: str) -> tuple[float, float]:
    """F1 of words (characters of scripts without spaces), and of pairs that follow one another."""
    found, wanted = WORD.findall(text.lower()), WORD.findall(gold.lower())
    return _f1(Counter(found), Counter(wanted)), _f1(Counter(pairwise(found)), Counter(pairwise(wanted)))


def _f1(found: Counter, wanted: Counter) -> float:
    return 2 * (found & wanted).total() / max(1, found.total() + wanted.total())


def gold_pages(folder: Path) -> dict[str, tuple[bytes, str]]:
    """PDFs of four layouts in each language, and their texts."""
    result = {}
    for lang in LANGUAGES:
        path = folder / f"{lang}.jsonl.gz"
        script = SCRIPTS.get(lang, "Latn")
        if (font := gold_pdf.font(script)) is None:
            print(f"no font for {script}: {lang} is left out")
            continue
        texts = []
        with gzip.open(path, "rt") as lines:
            for line in lines:
                paragraphs = [" ".join(p.split()) for p in json.loads(line)["text"].split("\n") if len(p) > 150]
                texts += paragraphs[:6]
                if len(texts) > 60:
                    break
        for layout in ("one", "two", "three", "heads"):
            columns = {"two": 2, "three": 3}.get(layout, 1)
            head = "Jurnal Contoh 2020" if layout != "one" and script == "Latn" else ""
            writer = gold_pdf.Writer(font, columns=columns, head=head, divide=script == "Latn" and layout != "one")
            gold = []
            for number, text in enumerate(map(writer.known, texts[:14])):
                if number % 8 == 0:
                    title = re.split(r"[\s,.;]", text)[0][:18]
                    writer.heading(title)
                    gold.append(title)
                writer.paragraph(text, words=script not in SCRIPTS.values())
                gold.append(text)
            result[f"{lang} {layout}"] = (writer.bytes(), "\n".join(gold))
    return result


def debian(folder: Path, names: tuple[str, ...]) -> dict[str, tuple[bytes, str]]:
    """Documents with a text edition: the policy manual, and the installation guide in some languages."""
    result = {}
    for name in names:
        if name == "policy":
            found = folder / "usr/share/doc/debian-policy/policy.{}.gz"
        else:
            found = folder / f"usr/share/doc/installation-guide-amd64/{name}/install.{name}.{{}}.gz"
        pdf, text = (gzip.decompress(Path(str(found).format(kind)).read_bytes()) for kind in ("pdf", "txt"))
        result[f"debian {name}"] = (pdf, re.sub(r"(?m)^\s*[-=+*|_]{3,}\s*$", "", text.decode("utf-8", "replace")))
    return result


def ours(documents: dict[str, tuple[bytes, str]]) -> dict[str, tuple[str, int, float]]:
    import pypdfium2

    result = {}
    for name, (data, _) in documents.items():
        start = time.process_time()
        text = extract({}, data, 5000).get("text", "")
        seconds = time.process_time() - start
        result[name] = (text, len(pypdfium2.PdfDocument(data)), seconds)
    return result


def peer(python: str, name: str, documents: dict[str, tuple[bytes, str]]) -> dict[str, tuple[str, int, float]]:
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, (data, _) in enumerate(documents.values()):
            paths.append(f"{folder}/{number}.pdf")
            Path(paths[-1]).write_bytes(data)
        out = subprocess.run([python, "-c", PEER, name, *paths], capture_output=True, text=True, check=True).stdout
    return dict(zip(documents, json.loads(out.splitlines()[-1]), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", type=Path)
    parser.add_argument("--debian", type=Path)
    parser.add_argument("--peers", default="")
    parser.add_argument("--show", action="store_true", help="each document, and write nothing")
    options = parser.parse_args()
    documents = gold_pages(options.text) if options.text else {}
    if options.debian:
        documents |= debian(options.debian, ("policy",) if options.show else ("policy", *HELD_OUT))
    found = {"ours": ours(documents)}
    for name in ("pymupdf", "pdfminer") if options.peers else ():
        slow = name == "pdfminer"  # minutes on the long documents
        found[name] = peer(options.peers, name, {k: v for k, v in documents.items() if not (slow and "debian" in k)})
    f1 = {who: {name: scores(texts[name][0], documents[name][1]) for name in texts} for who, texts in found.items()}
    if options.show:
        for name in documents:
            print(
                f"{name:16}",
                *(f"{who} {f1[who][name][0]:.4f} {f1[who][name][1]:.4f}  " for who in f1 if name in f1[who]),
            )
        return
    groups = {
        "gold pages, one column": [name for name in documents if name.endswith((" one", " heads"))],
        "gold pages, two and three columns": [name for name in documents if name.endswith((" two", " three"))],
        "debian-policy": ["debian policy"],
        "installation guide (id, vi, zh, en)": [f"debian {lang}" for lang in HELD_OUT],
    }
    rows = []
    for group, names in groups.items():
        names = [name for name in names if name in documents]
        for which, kind in enumerate(("word F1", "F1 of pairs of words")):
            for other in [who for who in list(found)[1:] if names and names[0] in f1[who]]:
                mean = {who: sum(f1[who][name][which] for name in names) / len(names) for who in ("ours", other)}
                tuned = "nothing: the reader was done before it first read them" if "installation" in group else TUNED
                rows.append(
                    table.row(
                        f"{kind}, {group}",
                        "share",
                        mean["ours"],
                        peer=(other, mean[other]),
                        target=0.95,
                        tuned_on=tuned,
                    )
                )
    for other in list(found)[1:]:
        pages = sum(found["ours"][name][1] for name in found[other])
        rate = {who: pages / sum(found[who][name][2] for name in found[other]) for who in ("ours", other)}
        rows.append(table.row("speed", "pages per CPU second", rate["ours"], peer=(other, rate[other])))
    table.write("curation-pdf", rows, TUNED)


if __name__ == "__main__":
    main()
