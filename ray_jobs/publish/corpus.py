"""The documents of a run as a data set of the Hugging Face hub: Parquet by language, its card, its Croissant metadata.

What goes out is what was kept in the end, with personal data masked, and never what was taken down. The same documents give
the same bytes, so a push that was interrupted sends again only what is not there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader

from cluster import storage
from mixture.order import ledger
from ray_jobs.errors import UserError
from ray_jobs.publish import croissant, rights
from ray_jobs.run import adopted
from ray_jobs.run.graph import CRAWL, DECONTAMINATE, DEDUP, POLICY, QUALITY, SIGNALS, SYNTHESIZE
from ray_jobs.run.run import Run
from ray_jobs.training import data_order

TEMPLATES = Path(__file__).parents[1] / "templates"
LAST = (QUALITY, DECONTAMINATE, DEDUP)  # the last of these that the recipe asks for has the documents
COLUMNS = {
    "doc_id": "id of the document in the run that made it",
    "text": "the text, cleaned, with personal data masked",
    "lang": "language, by its code in the recipe",
    "url": "where it was published",
    "source": "source of the recipe that it is from",
    "crawl": "snapshot of the crawl",
    "fetched_at": "when it was crawled",
    "published": "when it was published, as its source says",
    "licence": "licence, as its source states it",
    "quality": "score of the quality classifier, 0 to 1",
}
"""Column -> what it holds. Titles stay away: they are not masked."""
MADE = {
    "made_from": "id of the document that a model made the text of; empty: nobody's",
    "made_by": "the model",
    "prompt": "name of the prompt",
    "prompt_hash": "SHA-256 of the prompt, 16 digits",
    "model_licence": "licence of the model",
}
"""More columns of a corpus with texts that models made."""
FILE_BYTES = 256_000_000  # of text in a file
NO_RIGHT, RESERVED, TAKEN = "licence forbids it", "page reserves its use", "taken down"
FUNNEL = (CRAWL, SIGNALS, POLICY, DEDUP, DECONTAMINATE, QUALITY, SYNTHESIZE)


@dataclass
class Counted:
    """Of what goes out, but for `left_out`: reason -> documents that stay here."""

    documents: Counter[str] = field(default_factory=Counter)  # by language
    n_bytes: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    masked: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # by language and kind
    with_masked: int = 0  # documents
    scanned: int = 0  # pages whose HTML was looked at
    signs: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


def write(run: Run, folder: str, *, name: str, url: str, licence: str | None, leave_out: bool) -> Counted:
    """Write the corpus of `run` into the empty local `folder` as the data set `name`, which will lie at `url`.

    Documents whose licence or page forbids it stay out with `leave_out`; else they are a UserError that counts them."""
    stage = next((name for name in LAST if name in {one.name for one in run.stages}), None)
    if stage is None:
        raise UserError(f"{run.uri}: its recipe has no sources, so there is no corpus")
    made = {one.name for one in run.stages} & {SYNTHESIZE}
    if missing := next((one for one in (stage, *made) if not run.stands(one)), None):
        raise UserError(
            f"{run.uri}: there is no corpus yet as its recipe asks for one: {missing} is not done; "
            f"`pinisi run … --until {missing}` does it"
        )
    counted = Counted()
    gone = taken_down(run.uri)
    stays_here: dict[
        str, str
    ] = {}  # document -> why, which holds for the texts that were made of it: they are read behind it
    columns = _columns(run)
    with _Files(folder, columns) as files:
        for part in [
            part for read in (stage, *made) for part in storage.glob(adopted.path(run.uri, read, "part-*.parquet"))
        ]:
            pages = _signs(adopted.path(run.uri, CRAWL, part.rsplit("/", 1)[1]))
            for row in _rows(part):
                if reason := stays_here.get(row.get("made_from") or "") or _why_not(row, gone, pages):
                    counted.left_out[reason] += 1
                    stays_here[row["doc_id"]] = reason
                    continue
                _count(counted, row, pages)
                files.add(row)
    said_no = {reason: counted.left_out[reason] for reason in (NO_RIGHT, RESERVED) if counted.left_out[reason]}
    if said_no and not leave_out:
        named = ", ".join(f"{reason}: {n:,}" for reason, n in said_no.items())
        raise UserError(f"{run.uri}: documents may not be handed on ({named}); --leave-out pushes the others alone")
    if not counted.documents:
        raise UserError(f"{run.uri}: no document is left to push")
    data = {lang: files.of(lang) for lang in sorted(counted.documents)}
    Path(folder, "README.md").write_text(card(run, name, licence, counted), "utf-8")
    described = croissant.metadata(
        name=name,
        url=url,
        description=_description(counted),
        licence=licence,
        files=data,
        columns=columns,
        personal=_personal(run, counted),
    )
    Path(folder, "croissant.json").write_text(croissant.text(described), "utf-8")
    return counted


def card(run: Run, name: str, licence: str | None, counted: Counted) -> str:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True)
    manifests = {stage: made for stage in FUNNEL if (made := run.manifest(stage)) is not None}
    total = sum(counted.documents.values())
    return environment.get_template("dataset_card.jinja").render(
        name=name,
        recipe=run.recipe,
        licence=licence,
        counted=counted,
        total=total,
        size="1M<n<10M" if total > 1_000_000 else _size_category(total),
        languages=sorted(counted.documents),
        columns=_columns(run),
        manifests=manifests,
        rules=Counter({rule: n for made in manifests.values() for rule, n in made.get("rules", {}).items()}),
        personal=_personal(run, counted),
        masked=sum((Counter(kinds) for kinds in counted.masked.values()), Counter()),
        reserves=rights.RESERVES,
        urls={source.name: source.path for source in run.recipe.sources if source.type == "hf"},
    )


def _columns(run: Run) -> dict[str, str]:
    return COLUMNS | (MADE if run.recipe.synthesize else {})


def warnings(counted: Counted, licence: str | None, public: bool) -> list[str]:
    """Sentences of what its licences do not settle."""
    total = sum(counted.documents.values())
    said = []
    if silent := counted.licences[rights.NOT_STATED]:
        said.append(f"{silent:,} of {total:,} documents state no licence" + (" and would be public" if public else ""))
    restricted = sum(n for name, n in counted.licences.items() if rights.non_commercial(name))
    if restricted and not (licence and rights.non_commercial(licence)):
        said.append(f"{restricted:,} documents allow no commercial use; say so by --licence, such as cc-by-nc-4.0")
    return said


def taken_down(run_uri: str) -> set[str]:
    """Ids of the documents that `pinisi takedown` took from any stage of the run."""
    paths = storage.glob(storage.join(run_uri, data_order.LEDGER, "*.jsonl"))
    return {line["remove"] for path in paths for line in ledger.read(path) if "remove" in line}


class _Files:
    """Files of each language, `data/<lang>/part-00000.parquet` and so on, in the order of the documents."""

    def __init__(self, folder: str, columns: Mapping[str, str]) -> None:
        self.folder, self.columns = Path(folder), columns
        self.waiting: dict[str, list[dict]] = defaultdict(list)
        self.held: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()
        self.open: dict[str, pq.ParquetWriter] = {}
        self.names: dict[str, list[str]] = defaultdict(list)

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            for lang in list(self.waiting):
                self._flush(lang)
        for writer in self.open.values():
            writer.close()

    def add(self, row: dict) -> None:
        lang = row["lang"]
        self.waiting[lang].append({name: row.get(name) for name in self.columns})
        self.held[lang] += len(row["text"])
        if self.held[lang] >= FILE_BYTES // 64:
            self._flush(lang)

    def of(self, lang: str) -> list[str]:
        """Paths of a language's files below the folder."""
        return self.names[lang]

    def _flush(self, lang: str) -> None:
        rows = self.waiting.pop(lang, [])
        if not rows:
            return
        if lang not in self.open:
            name = f"data/{lang}/part-{len(self.names[lang]):05d}.parquet"
            self.names[lang].append(name)
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            self.open[lang] = pq.ParquetWriter(self.folder / name, _schema(self.columns), compression="zstd")
        self.open[lang].write_table(pa.Table.from_pylist(rows, schema=_schema(self.columns)))
        self.sizes[lang] += self.held.pop(lang)
        if self.sizes[lang] >= FILE_BYTES:
            self.open.pop(lang).close()
            self.sizes[lang] = 0


def _schema(columns: Iterable[str]) -> pa.Schema:
    return pa.schema([(name, pa.float32() if name == "quality" else pa.string()) for name in columns])


def _rows(part: str) -> Iterator[dict]:
    with storage.open_parquet(part) as parquet:
        wanted = [name for name in (*COLUMNS, *MADE, "pii") if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(256, columns=wanted):
            yield from batch.to_pylist()


def _signs(part: str) -> dict[str, list[str]]:
    """Document -> what its page says of its use, of those that have HTML."""
    if not storage.exists(part):
        return {}
    found = {}
    with storage.open_parquet(part) as parquet:
        for batch in parquet.iter_batches(64, columns=["doc_id", "payload"]):
            found.update({row["doc_id"]: rights.signs(row["payload"]) for row in batch.to_pylist() if row["payload"]})
    return found


def _why_not(row: dict, gone: set[str], pages: dict[str, list[str]]) -> str | None:
    if row["doc_id"] in gone or row.get("made_from") in gone:
        return TAKEN
    if rights.forbids(row["licence"] or ""):
        return NO_RIGHT
    return RESERVED if set(pages.get(row["doc_id"], ())) & set(rights.RESERVES) else None


def _count(counted: Counted, row: dict, pages: dict[str, list[str]]) -> None:
    lang = row["lang"]
    counted.documents[lang] += 1
    counted.n_bytes[lang] += len(row["text"].encode())
    counted.sources[row["source"] or "not stated"] += 1
    counted.licences[row["licence"] or rights.NOT_STATED] += 1
    masked = {kind: n for kind, n in (row.get("pii") or {}).items() if n}
    counted.masked[lang].update(masked)
    counted.with_masked += bool(masked)
    if row["doc_id"] in pages:
        counted.scanned += 1
        counted.signs.update(pages[row["doc_id"]])


def _description(counted: Counted) -> str:
    return f"{sum(counted.documents.values()):,} documents in {len(counted.documents)} languages, made by Pinisi."


def _personal(run: Run, counted: Counted) -> str:
    kinds = run.recipe.filter.mask_pii
    if not kinds:
        return "Personal data was not masked."
    places = sum(n for found in counted.masked.values() for n in found.values())
    named = "addresses, numbers and accounts of all kinds that Pinisi knows" if kinds is True else ", ".join(kinds)
    return (
        f"Masked: {named}; {places:,} places in {counted.with_masked:,} documents. "
        "Names and what people write of themselves stay."
    )


def _size_category(n: int) -> str:
    bounds = (1_000, 10_000, 100_000, 1_000_000)
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M")
    return next((name for bound, name in zip(bounds, names, strict=True) if n < bound), "1M<n<10M")
