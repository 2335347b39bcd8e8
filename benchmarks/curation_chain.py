"""The whole chain, WARC to filtered and deduplicated Parquet, on one core: seconds by stage, and how they grow with the input.

    python benchmarks/curation_chain.py           # PINISI_SAMPLE_DIR names the folder with warc/

The input is grown 1, 4 and 16 times without repeating a document: each copy of an archive has its own URLs, and the long
texts of its pages are dealt out anew among them. (Lines then repeat, so the frequent-line rule is set out of reach; its
counting is still done.) Prints a table and writes benchmarks/results/curation-chain.json.
"""

from __future__ import annotations

import gzip
import os
import random
import re
import sys
import tempfile
import time
from pathlib import Path

import table

from cluster.engines.in_process import Local
from cluster.shards import Shard, run_shard, write_shard
from curation.dedup.steps import DedupConfig, dedup
from curation.extract.extractor import Extractor
from curation.lid.identify import identify
from curation.policy.policy import policy_kernel
from curation.signals.text_signals import signals_kernel
from curation.sources.warc import read_warc

LANGUAGES = ["my", "ceb", "ilo", "id", "jv", "km", "lo", "ms", "su", "tl", "th", "vi", "war", "en", "zh"]
FACTORS = (1, 4, 16)
SAMPLE_FILES = 6  # of the archives, so that 16 times is minutes
PAGE_ROWS = 256
TEXT = re.compile(rb">([^<>]{40,})<")


def run_chain(paths: list[str], out: str, line_max_count: int = 5) -> dict:
    """Documents after each stage (`<stage>`) and CPU seconds with children (`<stage>_s`); each stage reads and writes Parquet."""
    stages = {
        "extract": (Extractor(), PAGE_ROWS),
        "language": (identify(languages=LANGUAGES), PAGE_ROWS),
        "signals": (signals_kernel(LANGUAGES), PAGE_ROWS),
        "policy": (policy_kernel(LANGUAGES), 1024),
    }
    counts: dict[str, float] = {}
    begin = _cpu()
    shards = [_shard(f"part-{i:05d}", path, out, "crawl") for i, path in enumerate(paths)]
    for path, shard in zip(paths, shards, strict=True):
        write_shard(read_warc(path, source="web", crawl="bench"), shard)
    counts["crawl_s"] = _cpu() - begin
    for stage, (kernel, rows) in stages.items():
        begin = _cpu()
        shards = [_shard(shard.name, shard.part, out, stage) for shard in shards]
        counts[stage] = sum(run_shard(kernel, shard, rows)["docs_out"] for shard in shards)
        if stage == "extract":
            kernel.close()  # its CPU time counts when its process has ended
        counts[f"{stage}_s"] = _cpu() - begin
    begin = _cpu()
    config = DedupConfig(line_max_count=line_max_count)
    with Local(f"{out}/rows") as engine:
        result = dedup(engine, [s.part for s in shards], f"{out}/dedup", f"{out}/dropped/dedup", config, "bench")
    return {**counts, "dedup": result["docs_out"], "dedup_s": _cpu() - begin}


def warm_up() -> None:
    """Compile and load everything on one page of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.warc.gz"
        text = "Kapal itu berlayar ke pulau. " * 20
        path.write_bytes(b"".join(_record(f"https://x.example/{i}", f"<p>{text}{i}".encode()) for i in range(2)))
        run_chain([str(path)], f"{folder}/out")


def main() -> None:
    folder = os.environ.get("PINISI_SAMPLE_DIR")
    if not folder or not Path(folder, "warc").is_dir():
        raise SystemExit("set PINISI_SAMPLE_DIR to a folder with warc/*.warc.gz")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    archives = sorted(Path(folder, "warc").glob("*.warc.gz"), key=lambda p: p.stat().st_size)[-SAMPLE_FILES:]
    warm_up()
    measured = []
    for factor in FACTORS:
        with tempfile.TemporaryDirectory() as work:
            paths = [str(_grown(path, copy, Path(work))) for path in archives for copy in range(factor)]
            begin = time.monotonic()
            counts = run_chain(paths, f"{work}/out", line_max_count=10**9)
            seconds = sum(value for name, value in counts.items() if name.endswith("_s"))
            pages = counts["extract"]
            measured.append((factor, pages, seconds))
            by_stage = {name: round(value, 2) for name, value in counts.items()}
            print(
                f"{factor}x: {seconds:.1f} s of CPU, {time.monotonic() - begin:.1f} s, {by_stage}",
                file=sys.stderr,
                flush=True,
            )
    rows = []
    for factor, pages, seconds in measured:
        metric = f"WARC to deduplicated Parquet, {factor}x input ({pages} pages)"
        rows.append(table.row(metric, "pages/s/core", pages / seconds))
        if factor > 1:
            growth = seconds / (factor * measured[0][2])
            metric = f"seconds for {factor}x input / {factor} x seconds for 1x"
            rows.append(table.row(metric, "ratio", growth, target=1.15, least=False))
    table.write("curation-chain", rows, tuned_on="nothing")


def _shard(name: str, source: str, out: str, stage: str) -> Shard:
    return Shard(name, source, f"{out}/{stage}", f"{out}/dropped/{stage}", "bench")


def _cpu() -> float:
    return sum(os.times()[:4])


def _grown(path: Path, copy: int, folder: Path) -> Path:
    """The archive with its long texts dealt out anew among its pages (copy 0: as it is)."""
    target = folder / f"{copy:02d}-{path.name}"
    pages = [
        (url, payload)
        for batch, _ in read_warc(str(path), source="web")
        for url, payload in zip(batch["url"].to_pylist(), batch["payload"].to_pylist(), strict=True)
    ]
    texts = [match for _, page in pages for match in TEXT.findall(page)]
    if copy:
        random.Random(copy).shuffle(texts)
    dealt = iter(texts)
    with open(target, "wb") as file:
        for url, page in pages:
            file.write(_record(f"{url}?copy={copy}", TEXT.sub(lambda _: b">" + next(dealt) + b"<", page)))
    return target


def _record(url: str, page: bytes) -> bytes:
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:{url}>\r\nWARC-Target-URI: {url}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n", 1)


if __name__ == "__main__":
    main()
