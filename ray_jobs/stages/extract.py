"""extract: the readable text of every page, PDF and wiki page, with title and declared language; what came as text passes
through."""

from __future__ import annotations

import os
import re
from collections import Counter

from cluster import storage
from cluster.shards import Marker
from curation.extract.extractor import Extractor
from curation.text.form import NORMALISED, ZAWGYI
from ray_jobs.run.graph import CRAWL
from ray_jobs.run.job import Job
from ray_jobs.work.shards import Task, run_one, run_parts, totals

SCANNED = re.compile(r"scanned: (\d+)")  # as `curation.pdf.document` writes it into `truncated`


class Extracted(Marker):
    scanned: int  # pages of PDFs that are pictures, and that nothing has read
    forms: dict[str, int]  # documents that were put in the one form: `normalised`, or converted from `zawgyi`


def run(job: Job) -> dict:
    settings, crawl = job.recipe.extract, job.recipe.crawl
    limits = (settings.timeout_seconds, crawl.max_record_bytes, settings.max_nodes)
    pdf = {**settings.pdf.model_dump(), "folder": os.getcwd()} if settings.pdf.ocr else settings.pdf.model_dump()
    markers = run_parts(job, CRAWL, _run_one, _extractor, settings.engine, *limits, settings.markup, pdf)
    forms = {name: sum(marker["forms"][name] for marker in markers) for name in (NORMALISED, ZAWGYI)}
    scanned = sum(marker["scanned"] for marker in markers)
    found = {**totals(markers, docs_in=job.manifest(CRAWL)["docs_out"]), "forms": forms}
    return {**found, "scanned_pages": scanned} if scanned else found


def _extractor(*settings) -> Extractor:
    *pages, pdf = settings
    return Extractor(*pages, pdf=pdf)


def _run_one(task: Task) -> Extracted:
    marker, (_, _, shard) = run_one(task), task
    table = storage.read_table(shard.part, ["form", "truncated"])
    found = Counter(table["form"].to_pylist())
    scanned = sum(int(some[1]) for said in table["truncated"].to_pylist() if (some := SCANNED.match(said or "")))
    if marker["rules"].get("scanned"):
        rows = storage.read_table(shard.ledger_part, ["rule", "value"]).to_pylist()
        scanned += int(sum(row["value"] for row in rows if row["rule"] == "scanned"))
    return {**marker, "scanned": scanned, "forms": {name: found[name] for name in (NORMALISED, ZAWGYI)}}
