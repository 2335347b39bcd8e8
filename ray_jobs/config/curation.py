"""Sections of a recipe from sources to quality. Each key is documented in docs/recipe.md."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.strict_yaml import Positive, Rate, Section, Share
from curation.commoncrawl import layout


class PageSelect(Section):
    """Which pages of Common Crawl's index are wanted: every condition must hold, any value of one will do."""

    languages: list[str] = []
    unknown_language: bool = False  # also pages whose language the index does not say
    mimes: list[str] = ["text/html", "application/xhtml+xml"]
    statuses: list[int] = [200]
    tlds: list[str] = []
    domains: list[str] = []  # their subdomains too
    urls: list[str] = []  # regular expressions, found anywhere in the URL
    not_urls: list[str] = []

    @model_validator(mode="after")
    def _codes(self) -> PageSelect:
        layout.iso_639_3(self.languages)
        return self


SOURCE_KEYS = {
    ("text_field", "id_field", "url_field", "lang_field"): ("jsonl", "parquet", "hf"),
    ("split",): ("hf",),
    ("crawl",): ("warc", "wet", "commoncrawl"),
    ("optional",): ("warc", "wet", "jsonl", "parquet", "hf", "html", "subtitles", "wiki", "pdf"),
    ("language",): ("subtitles", "wiki", "pdf"),
    ("window_lines", "step_lines"): ("subtitles",),
    ("namespaces",): ("wiki",),
}
"""Keys of a source that are read of some types only."""


class Source(Section):
    """Where documents come from. `path` is a glob at any URI; for `hf` the name of a data set."""

    name: str
    type: Literal["warc", "wet", "jsonl", "parquet", "hf", "html", "commoncrawl", "subtitles", "wiki", "pdf"]
    path: str = ""
    crawl: str = ""  # snapshot name, kept with every document
    licence: str = ""
    trust_language: bool = False  # take the language that the row declares, not the identifier's
    optional: bool = False  # no error when nothing matches
    share: Share = 1.0  # keep this share of the documents, chosen by a hash of their id
    text_field: str = "text"
    id_field: str = "id"
    url_field: str = "url"
    lang_field: str = "lang"
    split: str = "train"  # of an `hf` data set
    language: str = ""  # what a source of subtitles, a wiki or PDFs declares of all its documents
    window_lines: Positive = 100  # of subtitles that make a document
    step_lines: Positive | None = None  # from the begin of one such document to that of the next; none: window_lines
    namespaces: list[int] = [0]  # of a wiki, whose pages are read
    # of `commoncrawl`
    snapshots: list[str] = []  # names, and ranges A..B
    kind: Literal["warc", "wet", "files"] = "warc"  # selected records, or whole WET or WARC files
    index: Literal["columnar", "cdx"] = "columnar"
    select: PageSelect = PageSelect()
    max_records: Positive | None = None  # chosen by a hash of their place
    max_files: Positive | None = None  # whole files of each snapshot, chosen by a hash of their name
    max_index_files: Positive | None = None  # of each snapshot, to try things out
    collinfo: str = ""  # URI of a collinfo.json, for ranges that reach beyond the known snapshots

    @field_validator("snapshots", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    def _differs(self, key: str) -> bool:
        return getattr(self, key) != type(self).model_fields[key].default

    @model_validator(mode="after")
    def _fits_type(self) -> Source:
        if self.step_lines is not None and self.step_lines > self.window_lines:
            raise ValueError(f"source {self.name!r}: `step_lines` above `window_lines` would leave lines out")
        own = ("snapshots", "kind", "index", "select", "max_records", "max_files", "max_index_files", "collinfo")
        for keys, kinds in SOURCE_KEYS.items():
            if self.type not in kinds and (given := [key for key in keys if self._differs(key)]):
                raise ValueError(f"source {self.name!r}: `{given[0]}` is for sources of type {', '.join(kinds)}")
        if self.type != "commoncrawl":
            if not self.path:
                raise ValueError(f"source {self.name!r} needs a `path`")
            if given := [key for key in own if self._differs(key)]:
                raise ValueError(f"source {self.name!r}: `{given[0]}` is for sources of type commoncrawl")
            return self
        if given := [key for key in ("path", "crawl") if getattr(self, key)]:
            raise ValueError(f"source {self.name!r}: a commoncrawl source has `snapshots` and no `{given[0]}`")
        if not self.snapshots:
            raise ValueError(f"source {self.name!r} needs `snapshots`, such as [CC-MAIN-2024-18]")
        if not self.collinfo:
            layout.snapshots(self.snapshots)
        if self.kind == "warc" and self.max_files:
            raise ValueError(
                f"source {self.name!r}: max_files is for whole files (kind: wet or files); use max_records"
            )
        if self.kind != "warc" and (self.max_records or self.max_index_files):
            raise ValueError(f"source {self.name!r}: whole files are limited by max_files")
        if self.kind == "files" and self.select.languages:
            raise ValueError(
                f"source {self.name!r}: a WARC file does not say the languages of its pages; use kind: warc or wet"
            )
        return self


class Crawl(Section):
    shard_bytes: Positive = 64_000_000  # wanted compressed bytes of Common Crawl in one part
    max_record_bytes: Positive = 10_000_000
    max_line_bytes: Positive = 10_000_000
    max_bad_share: Share = 0.5  # the run fails when more records than this are broken
    block_domains: list[str] = []  # globs of lists: one domain a line, its subdomains too
    block_urls: list[str] = []  # globs of lists: one URL a line, and what lies below it


class Fetch(Section):
    """How Common Crawl is reached. Nothing here changes what is crawled, so it may change while a crawl is under way."""

    base: str = "https://data.commoncrawl.org"  # or s3://commoncrawl, a mirror's URL, a folder
    requests_per_second: Rate = 10.0  # of the whole cluster, as are the next two
    bytes_per_second: Rate = 50_000_000.0
    concurrency: Positive = 8
    timeout_seconds: Rate = 60.0
    attempts: Positive = 10  # that fail in a row before the crawl stops
    gap_bytes: Annotated[int, Field(ge=0)] = 500_000  # between records that one request fetches together
    max_range_bytes: Positive = 8_000_000
    contact: str = ""  # an address for the User-Agent; without one ray_jobs/run/contact.py asks
    anonymous: bool = False  # s3 without credentials
    region: str = "us-east-1"  # of an s3 base


class Pdf(Section):
    timeout_seconds: Rate = 120.0  # CPU time for one PDF
    max_pages: Positive = 5000
    ocr: str = ""  # package.module:function of the user's own, for pages without a text layer


class Extract(Section):
    engine: Literal["cascade", "lines", "resiliparse", "trafilatura"] = "cascade"
    timeout_seconds: Rate = 10.0
    max_nodes: Positive = 200_000
    markup: Literal["markdown"] | None = None  # structure in the text; none: plain text
    pdf: Pdf = Pdf()

    @model_validator(mode="after")
    def _own_reader(self) -> Extract:
        if self.markup and self.engine not in ("cascade", "lines"):
            raise ValueError(f"engine {self.engine} writes plain text: markup needs cascade or lines")
        return self


class Language(Section):
    model: str = "lid.176"  # or the folder of a model of `pinisi train lid`, or a fastText file, any URI
    labels: dict[str, str] = {}  # of a fastText file: its label -> a language of the recipe, or `other`
    min_score: dict[str, Share] = {"default": 0.5}  # a language, or `default`
    min_share: dict[str, Share] = {"default": 0.5}  # of the letters of a page in two languages

    @field_validator("labels")
    @classmethod
    def _without_prefix(cls, value: dict[str, str]) -> dict[str, str]:
        return {label.removeprefix("__label__"): code for label, code in value.items()}


class Annotation(Section):
    """What others say of documents: a table of theirs, whose columns become signals."""

    path: str  # a glob of Parquet files at any URI, or hf:NAME[:CONFIG][@SPLIT]
    key: Literal["doc_id", "source_id", "url", "text_hash"]
    key_column: str = ""  # of the table; empty: it is called as the key is
    columns: Annotated[dict[str, str], Field(min_length=1)]  # signal -> column; a list where they are called alike
    sources: list[str] = []  # names of sources whose documents it is about; empty: all

    @field_validator("columns", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        """A list of columns: each is called as it is there."""
        return {name: name for name in value} if isinstance(value, list) else value


class Filter(Section):
    policy: dict[str, dict] = {}  # language or `default` -> rules that replace those of curation/languages/<lang>.yaml
    language_files: str | None = None  # a folder of <lang>.yaml of your own, as `pinisi language new` writes it
    word_lists: str | None = None  # a folder of <lang>.yaml, as `pinisi train words` writes it
    mask_pii: bool | list[Literal["email", "phone", "ip", "id"]] = (
        True  # personal data become <email>, <phone>, <ip>, <id>
    )
    perplexity_models: str | None = None  # a folder of <lang>/, as `pinisi train lm` writes it
    signals: list[str] = []  # package.module:function of the user's own, batch -> columns of numbers
    reference: list[str] = []  # names of sources whose documents percentiles are of
    reference_min_documents: Positive = 200


class Dedup(Section):
    edit_share: Annotated[float, Field(gt=0, le=0.3)] | None = None  # instead of bands, rows, ngram and threshold
    num_perm: Positive = 256
    bands: Positive = 25
    rows: Positive = 10
    ngram: Positive = 5
    threshold: Share = 0.7
    verify: Literal["none", "signatures", "text"] = "signatures"
    line_max_count: Positive = 5
    line_min_chars: Positive = 20
    line_bucket_documents: Positive = 10_000_000
    substring_min_chars: Annotated[int, Field(ge=0)] = 0  # 0 = off
    min_words_left: Positive = 10
    indexes: list[str] = []  # runs, or indexes of runs, whose documents are dropped here
    max_driver_edges: Positive = 20_000_000
    partition_bytes: Positive = 64_000_000

    @model_validator(mode="after")
    def _bands_fit(self) -> Dedup:
        fields = type(self).model_fields
        both = [k for k in ("bands", "ngram", "rows", "threshold") if getattr(self, k) != fields[k].default]
        if self.edit_share is not None and both:
            raise ValueError(f"give edit_share or {', '.join(both)}, not both: it decides them")
        if self.bands * self.rows > self.num_perm:
            raise ValueError(f"bands x rows = {self.bands * self.rows} needs more than num_perm = {self.num_perm}")
        if 0 < self.substring_min_chars < 20:
            raise ValueError("substring_min_chars must be 0 (off) or at least 20")
        return self


class Decontaminate(Section):
    """Documents that hold a passage of an evaluation set go (GPT-3's 13-grams, by script)."""

    against: list[str] = []  # globs of JSON Lines; none: no such stage
    fields: list[str] = []  # none: every string of a row
    words: Positive = 13
    letters: Positive = 48  # of scripts without spaces
    han: Positive = 21


class Quality(Section):
    """fastText classifier per language, positives against negatives (DCLM); the best share feeds stage 2."""

    engine: Literal["fasttext", "encoder", "signal"] = "fasttext"
    pooled: bool = False  # of fasttext: one classifier for all languages
    model: str = (
        ""  # of encoder: a folder of `pinisi train quality`, or a sequence classifier (a folder, or a name on the hub)
    )
    label: str = ""  # of a sequence classifier with several: the one that is good
    signal: str = ""  # of signal: a number that others or a signal say, such as a column of `annotations`
    positives: list[str] = []  # names of sources
    negatives: list[str] = []
    labels: str | None = (
        None  # glob of rows {lang, text, good}, as `pinisi inspect --export` writes: examples beside the sources
    )
    native: list[str] = []  # good native texts that are never trained on: do they score above the median negative?
    per_side: Positive = 10_000
    min_examples: Positive = 50  # a language with fewer on either side gets no classifier
    top_share: Share = 0.2

    @model_validator(mode="after")
    def _of_engine(self) -> Quality:
        for engine, key in (("encoder", "model"), ("signal", "signal")):
            if self.engine == engine and not getattr(self, key):
                raise ValueError(f"engine {engine} needs `{key}`")
        return self
