"""crawl: read every source file into records (page bytes or document text), one part per file.

Of Common Crawl (`type: commoncrawl`) one part is a shard of the plan that is made first, see crawl_plan.py.

The bytes are kept, so that extraction can be run again with other settings without reading the sources a second time.
Pages on the user's block lists are refused here, before anything is parsed; those of Common Crawl are not even requested.

What was fetched is dear, so a shard of Common Crawl has a fingerprint of its own: it stays when the stage runs again for other
reasons, such as a change of code, of another source or of the block lists. Files are read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.shards import Batches, Counts, Marker, Shard, done, finished, ledger_rows, write_shard
from curation.pdf import files as pdf
from curation.schema import RAW
from curation.sources import documents, warc
from curation.subtitles import reader as subtitles
from curation.wiki import dump as wiki
from ray_jobs.commoncrawl import blocks
from ray_jobs.commoncrawl import plan as crawl_plan
from ray_jobs.commoncrawl import read as crawl_commoncrawl
from ray_jobs.config.curation import Crawl, Source
from ray_jobs.errors import UserError
from ray_jobs.run import files
from ray_jobs.run.job import Job
from ray_jobs.run.locate import Keys
from ray_jobs.work.shards import shard, totals
from ray_jobs.work.tasks import map_on_ray

READERS = {
    "warc": lambda path, source, limits: warc.read_warc(
        path, **_names(path, source), crawl=source.crawl, limits=limits
    ),
    "wet": lambda path, source, limits: warc.read_warc(path, **_names(path, source), crawl=source.crawl, limits=limits),
    "jsonl": lambda path, source, limits: documents.read_jsonl(path, **_fields(path, source), limits=limits),
    "parquet": lambda path, source, limits: documents.read_parquet(path, **_fields(path, source), limits=limits),
    "hf": lambda path, source, limits: documents.read_hf(
        path, split=source.split, **_fields(path, source), limits=limits
    ),
    "html": lambda path, source, limits: documents.read_html(path, **_names(path, source), limits=limits),
    "subtitles": lambda path, source, limits: subtitles.read_subtitles(
        path, **_declared(path, source), window_lines=source.window_lines, step_lines=source.step_lines, limits=limits
    ),
    "wiki": lambda path, source, limits: wiki.read_wiki(
        path, **_declared(path, source), namespaces=tuple(source.namespaces), limits=limits
    ),
    "pdf": lambda path, source, limits: pdf.read_pdf(path, **_declared(path, source), limits=limits),
    "commoncrawl": crawl_commoncrawl.read,
}
BROKEN = ("bad_record", "digest_mismatch", "not_found", "invalid_utf8", "invalid_json")


def run(job: Job) -> dict:
    lists = blocks.of(job)
    planned = crawl_plan.plans(job, lists)
    groups = [(source, inputs) for source in job.recipe.sources for inputs in _groups(source)]
    work: list[tuple[Source, list[str] | list[crawl_plan.Piece], Shard]] = [
        (source, inputs, shard(job, f"part-{number:05d}", str(inputs[0])))
        for number, (source, inputs) in enumerate(groups)
    ]
    for source in job.recipe.sources:
        plan = planned.get(source.name)
        if plan is None:
            continue
        for number, piece in enumerate(plan.pieces):
            own = f"{plan.fingerprint(piece)}-{lists.fingerprint}"
            one = replace(shard(job, f"part-{plan.identity[:12]}-{number:05d}", str(piece)), fingerprint=own)
            work.append((source, [piece], one))
    if not work and not any(plan.blocked for plan in planned.values()):
        patterns = ", ".join(source.path for source in job.recipe.sources)
        raise UserError(f"sources: no file matches any of {patterns}; set PINISI_SAMPLE_DIR or correct the paths")
    tasks = [(job.run_uri, source, job.recipe.crawl, lists, inputs, one) for source, inputs, one in work]
    limiter = next((piece.reach.limiter for plan in planned.values() for piece in plan.pieces), None)
    most = job.recipe.fetch.concurrency if limiter else None  # more would wait for a request, on nodes that are paid
    with crawl_plan.counted(job, limiter):
        markers = map_on_ray(job, _read, tasks, "parts", finished=finished([one for _, _, one in work]), most=most)
    result = totals([*markers, *(_of_plan(plan) for plan in planned.values())])
    bad = sum(count for rule, count in result["rules"].items() if rule in BROKEN)
    if bad > job.recipe.crawl.max_bad_share * max(result["docs_in"], 1):
        raise UserError(
            f"crawl: {bad:,} of {result['docs_in']:,} records are broken, more than crawl.max_bad_share = "
            f"{job.recipe.crawl.max_bad_share}; see {job.ledger} or raise the limit"
        )
    _remove_others(job, [one.name for _, _, one in work], [plan.identity for plan in planned.values()])
    absent = left_out(job.recipe.sources, {source.name for source, _ in groups})
    return {**result, "files": len(work), **({"warnings": absent} if absent else {})}


def left_out(sources: Sequence[Source], read: set[str]) -> list[str]:
    """A warning for each data set of the hub that may be missing and is not among those that were read."""
    return [
        f"sources: {one.name}: the Hugging Face hub has no {one.path} for this user, so it was left out; set HF_TOKEN, then "
        f"--rerun crawl"
        for one in sources
        if one.type == "hf" and one.name not in read
    ]


def _of_plan(plan: crawl_plan.Planned) -> Counts:
    """What was refused by the plan, as the marker of a part."""
    dropped = sum(plan.blocked.values())
    return {"docs_out": 0, "dropped": dropped, "docs_per_lang": {}, "bytes_per_lang": {}, "rules": plan.blocked}


def _remove_others(job: Job, parts: list[str], plans: list[str]) -> None:
    """Remove what an earlier start of the stage left and this one does not vouch for."""
    names = {f"{name}.parquet" for name in parts}
    for folder in (job.path(), job.path("_keys"), job.ledger):
        for uri in storage.glob(storage.join(folder, "*.parquet")):
            name = uri.rsplit("/", 1)[1]
            if name not in names and not any(name.startswith(crawl_plan.plan_part(plan)) for plan in plans):
                storage.remove(uri)
    for uri in storage.glob(job.path("_shards", "*.json")):
        if uri.rsplit("/", 1)[1].removesuffix(".json") not in parts:
            storage.remove(uri)
    for uri in storage.glob(job.path("_plan", "*", "plan.json")):
        if uri.split("/")[-2] not in plans:
            storage.remove(uri.rsplit("/", 1)[0])


def _groups(source: Source) -> list[list[str]]:
    """Files of a source that make one part each: one by one, but saved pages by the folder."""
    if source.type == "commoncrawl":
        return []  # it has a plan
    paths = files.of_source(source)
    if source.type != "html":
        return [[path] for path in paths]
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(path.rsplit("/", 1)[0], []).append(path)
    return list(folders.values())


def _names(path: str, source: Source) -> dict[str, str]:
    return {"source": source.name, "name": files.within(source, path)}


def _declared(path: str, source: Source) -> dict[str, str]:
    return {**_names(path, source), "language": source.language}


def _fields(path: str, source: Source) -> dict[str, str]:
    return {
        **_names(path, source),
        "text_field": source.text_field,
        "id_field": source.id_field,
        "url_field": source.url_field,
        "lang_field": source.lang_field,
    }


def _read(task: tuple[str, Source, Crawl, blocks.Lists, list, Shard]) -> Marker:
    run_uri, source, crawl, lists, inputs, one = task
    if marker := done(one):
        return marker
    if source.type == "commoncrawl" and (rows := blocks.fetched_before(one, lists)):
        return write_shard(rows, one)
    limits = warc.Limits(max_record_bytes=crawl.max_record_bytes, max_line_bytes=crawl.max_line_bytes)

    def batches() -> Batches:
        yield pa.RecordBatch.from_pylist([], RAW), ledger_rows("crawl", [])  # the schema, should the file hold nothing
        keys = Keys()
        for each in inputs:
            for read, drops in READERS[source.type](each, source, limits):
                kept = _stamp(_sample(read, source), source)
                kept, refused = blocks.refuse(kept, lists)
                drops = pa.concat_batches([drops, refused])
                keys.add(kept)
                keys.add(drops)
                yield kept, drops
        keys.write(run_uri, f"{one.name}.parquet")

    return write_shard(batches(), one)


def _sample(batch: pa.RecordBatch, source: Source) -> pa.RecordBatch:
    """The rows whose id, a hash already, lies in the first `share` of the id space. A crawl's share is in its plan."""
    if source.share >= 1.0 or source.type == "commoncrawl" or not batch.num_rows:
        return batch
    return batch.filter(pc.less(batch["doc_id"], format(int(source.share * 16**8), "08x")))


def _stamp(batch: pa.RecordBatch, source: Source) -> pa.RecordBatch:
    """Rows that state no licence or snapshot of their own get those of their source."""
    for name, value in (("licence", source.licence), ("crawl", source.crawl)):
        if value:
            column = pc.if_else(pc.equal(pc.fill_null(batch[name], ""), ""), value, batch[name])
            batch = batch.set_column(batch.schema.get_field_index(name), name, column)
    return batch
