"""datatrove: MinHash, its four families of filters, and its pipeline from WARC to deduplicated documents."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.readers import ParquetReader, WarcReader
from datatrove.pipeline.writers import ParquetWriter
from measure import documents, main, measured

CONFIG = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)


# What it calls the languages of the corpus. It knows Tagalog as Filipino alone.
CODES = {
    "en": "eng_Latn",
    "id": "ind_Latn",
    "jv": "jav_Latn",
    "su": "sun_Latn",
    "ms": "zsm_Latn",
    "tl": "fil_Latn",
    "ceb": "ceb_Latn",
    "ilo": "ilo_Latn",
    "vi": "vie_Latn",
    "th": "tha_Thai",
    "lo": "lao_Laoo",
    "km": "khm_Khmr",
    "my": "mya_Mymr",
    "zh": "zho_Hani",
}


class Split:
    """Whitespace words: the stage without the cost of finding words."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()


def minhash(corpus: str, words: str) -> dict:
    """The stage takes one language a run, so it runs once for each, in a process of its own, and the seconds add up. `words`
    is "own", the tokenizer that it assigns to the language, loaded before the clock runs, or "split"."""
    rows = documents(corpus)
    label = list(range(len(rows)))
    languages: dict[str, dict] = {}
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for language in dict.fromkeys(row["lang"] for row in rows):
            at = [i for i, row in enumerate(rows) if row["lang"] == language]
            firsts, languages[language] = pool.apply(clusters, ([rows[i]["text"] for i in at], language, words))
            for i, first in zip(at, firsts, strict=True):
                label[i] = at[first]
    seconds = sum(one["cpu_seconds"] for one in languages.values())
    peak = max(one["peak_mb"] for one in languages.values())
    return {"cpu_seconds": seconds, "peak_mb": peak, "languages": languages, "label": label}


def clusters(texts: list[str], language: str, words: str) -> tuple[list[int], dict]:
    """Of each text the first that it is in one cluster with; the name of the tokenizer and what the run took."""
    label = list(range(len(texts)))
    with tempfile.TemporaryDirectory() as folder:
        signature = MinhashDedupSignature(f"{folder}/signatures", config=CONFIG, language=CODES[language])
        if words == "split":
            signature.word_tokenizer = Split()
        signature.word_tokenizer.word_tokenize(texts[0])
        own = signature.word_tokenizer
        result = {"tokenizer": " ".join(filter(None, (type(own).__name__, getattr(own, "language", None))))}
        with measured(result):
            list(signature.run((Document(text=text, id=str(i)) for i, text in enumerate(texts)), 0, 1) or ())
            for bucket in range(CONFIG.num_buckets):
                MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=CONFIG).run(
                    None, bucket, CONFIG.num_buckets
                )
            MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=CONFIG, save_cluster_id=True).run(
                None, 0, 1
            )
        path = f"{folder}/remove/000000.clusters"
        if os.path.exists(path):
            first: dict[int, int] = {}
            for document, cluster in np.fromfile(path, np.uint32).reshape(-1, 2).tolist():
                label[document] = first.setdefault(cluster, document)
    return label, result


def filters(corpus: str) -> dict:
    """CPU seconds of each filter on all documents, in the order of its own FineWeb pipeline; `cpu_seconds` is the sum."""
    rows = documents(corpus)
    parts, result = {}, {}
    with measured(result):
        for name, step in (
            ("gopher_repetition", GopherRepetitionFilter()),
            ("gopher_quality", GopherQualityFilter()),
            ("c4", C4QualityFilter(filter_no_terminal_punct=False)),
            ("fineweb", FineWebQualityFilter()),
        ):
            with measured(one := {}):
                kept = sum(step.filter(Document(text=row["text"], id=str(i))) is True for i, row in enumerate(rows))
            parts[name] = {"cpu_seconds": one["cpu_seconds"], "kept": kept}
    return {**result, "parts": parts}


def chain(folder: str, lid: str, *languages: str) -> dict:
    """WARC files of `folder` to filtered and deduplicated Parquet."""
    from fasttext.FastText import _FastText

    language = LanguageFilter(list(languages), language_threshold=0.5)
    language.model._model = _FastText(lid)  # it would download the larger model of the same family
    result: dict = {}
    with tempfile.TemporaryDirectory() as out:
        with measured(result):
            first = [
                WarcReader(folder, glob_pattern="*.warc.gz"),
                extracted,
                language,
                GopherRepetitionFilter(),
                GopherQualityFilter(),
                C4QualityFilter(filter_no_terminal_punct=False),
                FineWebQualityFilter(),
                ParquetWriter(f"{out}/filtered"),
            ]
            run(first, out)
            run([ParquetReader(f"{out}/filtered"), MinhashDedupSignature(f"{out}/signatures", config=CONFIG)], out)
            for bucket in range(CONFIG.num_buckets):
                MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=CONFIG).run(
                    None, bucket, CONFIG.num_buckets
                )
            MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=CONFIG).run(None, 0, 1)
            run(
                [ParquetReader(f"{out}/filtered"), MinhashDedupFilter(f"{out}/remove"), ParquetWriter(f"{out}/kept")],
                out,
            )
        result["kept"] = sum(
            pq.ParquetFile(os.path.join(where, name)).metadata.num_rows
            for where, _, names in os.walk(f"{out}/kept")
            for name in names
        )
    return result


def extracted(data: Iterator[Document], rank: int, world_size: int) -> Iterator[Document]:
    """Its extractor in this process: the child that bounds a page's time, which it adds, only costs."""
    extractor = Trafilatura(favour_precision=True)
    for document in data:
        document.text = extractor.extract(document.text) or ""
        if document.text:
            yield document


def run(steps: list, out: str) -> None:
    """One task in this process, as its executor would run it in a worker of its own."""
    data: Iterator | None = None
    for step in steps:
        data = step(data, 0, 1) if callable(step) else step.run(data, 0, 1)
    for _ in data or ():
        pass


if __name__ == "__main__":
    main({"minhash": minhash, "filters": filters, "chain": chain})
