"""Which documents people judge: of each language the `per_layer` of smallest hash, after each layer and of what it dropped.

The hash is of the seed and the document's id alone. So what survives a layer stays in the sample, and only replacements are
new to the people who judge. A document is known by its id and a hash of its text, because later layers edit texts: what
was judged stays judged for as long as the text is the same.

Parts are read one at a time, and of each only the columns doc_id and lang (`ray_jobs.report.data.smallest`). What a layer
dropped is divided into strata by language and rule, and every rule has its share of the sample; a document that broke several
rules counts in the stratum of the first of their names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.report.data.smallest import SOURCE, Group, Smallest, hashes, merged, shares, texts_of
from ray_jobs.run import adopted
from ray_jobs.run.graph import LANGUAGE
from ray_jobs.run.run import Run

KEPT, DROPPED = "kept", "dropped"
MAX_CHARS = 20_000  # of a text that are shown; as many as the quality classifier reads
THREADS = 8  # parts that are read at a time
PER_LAYER = 100
FILE, COUNTS = "inspect/samples.parquet", "inspect/samples.json"

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("doc_id", pa.string()),
        ("lang", pa.string()),
        ("layer", pa.string()),
        ("side", pa.string()),
        ("stratum", pa.string()),
        ("rules", pa.list_(pa.string())),
        ("why", pa.string()),
        ("url", pa.string()),
        ("chars", pa.int64()),
        ("text", pa.string()),
    ]
)
"""One row for each document, layer and side (`kept`, `dropped`). `stratum` is the rule that a dropped document is drawn for,
`why` says all that it broke, `chars` is the length of the whole text."""


def of_kept(uri: str, most: int, seed: int, languages: Sequence[str]) -> Smallest:
    """The smallest of one part of a layer, by language."""
    result = Smallest(most)
    with storage.open_parquet(uri) as parquet:
        table = parquet.read(["doc_id", "lang"])
    code = pc.fill_null(pc.index_in(table["lang"], pa.array(languages, pa.string())), -1).to_numpy()
    every = hashes(table["doc_id"].to_pylist(), seed)
    for number, lang in enumerate(languages):
        rows = np.flatnonzero(code == number)
        _, first = np.unique(every[rows], return_index=True)
        near = rows[first[:most]]
        doc_ids = table["doc_id"].take(pa.array(near)).to_pylist()
        result.add((lang, ""), every[near], [(doc_id, _name(uri)) for doc_id in doc_ids], len(rows))
    return result


def of_dropped(uri: str, most: int, seed: int, languages: Sequence[str]) -> Smallest:
    """The smallest of one part of the ledger of a layer, by language and the first of the rules that a document broke."""
    result = Smallest(most)
    with storage.open_parquet(uri) as parquet:
        table = parquet.read(["doc_id", "lang", "rule"])
    known = pc.is_in(table["lang"], pa.array(languages, pa.string()))
    table = table.filter(pc.and_(known, pc.is_valid(table["doc_id"])))
    first = table.group_by(["doc_id", "lang"]).aggregate([("rule", "min")]).sort_by("doc_id")
    rows: dict[Group, list[str]] = defaultdict(list)
    for doc_id, lang, rule in zip(*(first[name].to_pylist() for name in ("doc_id", "lang", "rule_min")), strict=True):
        rows[lang, rule].append(doc_id)
    for group, doc_ids in rows.items():
        every = hashes(doc_ids, seed)
        near = np.argsort(every)[:most]
        result.add(group, every[near], [(doc_ids[i], _name(uri)) for i in near], len(doc_ids))
    return result


def _name(uri: str) -> str:
    return uri.rsplit("/", 1)[1]


def layers(run: Run) -> list[str]:
    """The layers of the run that are done, in order."""
    return [layer for layer in SOURCE if run.manifest(layer) is not None]


def size(run: Run, asked: int | None = None) -> int:
    """Texts of each language and layer: as asked, else as they were drawn before, else 100."""
    counts = storage.join(run.uri, COUNTS)
    return asked or (storage.read_json(counts)["per_layer"] if storage.exists(counts) else PER_LAYER)


def drawn(run: Run, per_layer: int) -> tuple[pa.Table, dict]:
    """The sample of the run as it is now (`SCHEMA`), and the counts of what it stands for; drawn anew when a layer, the seed or
    `per_layer` has changed since it was written, else as it was.

    Counts: `layers` (layer -> side -> language -> stratum -> documents). Raises UserError when no layer is done.
    """
    names = layers(run)
    if not names:
        raise UserError(
            f"{run.uri}: {LANGUAGE} is not done, so there are no documents to judge yet; `pinisi run` first"
        )
    made_from = {layer: (run.manifest(layer) or {})["fingerprint"] for layer in names}
    asked = {"per_layer": per_layer, "seed": run.recipe.seed, "made_from": made_from}
    file, counts = (storage.join(run.uri, name) for name in (FILE, COUNTS))
    if storage.exists(counts) and storage.exists(file):
        known = storage.read_json(counts)
        if {key: known.get(key) for key in asked} == asked:
            return storage.read_table(file), known
    rows: list[dict] = []
    sizes: dict[str, dict] = {}
    for layer in names:
        for side in (KEPT, DROPPED):
            found = _smallest(run, layer, side, per_layer)
            rows += _rows(run, layer, side, found, per_layer)
            of_side: dict[str, dict[str, int]] = {}
            for (lang, stratum), count in sorted(found.counts.items()):
                of_side.setdefault(lang, {})[stratum] = count
            sizes.setdefault(layer, {})[side] = of_side
    table = pa.Table.from_pylist(rows, SCHEMA)
    written = {**asked, "layers": sizes}
    storage.write_table(file, table)
    storage.write_json(counts, written)  # last: without it the sample is drawn again
    return table, written


def _smallest(run: Run, layer: str, side: str, most: int) -> Smallest:
    place = adopted.path if side == KEPT else adopted.ledger
    parts = storage.glob(place(run.uri, layer, "part-*.parquet"))
    one, langs = of_kept if side == KEPT else of_dropped, list(run.recipe.languages)
    with ThreadPoolExecutor(THREADS) as pool:
        return merged(pool.map(lambda uri: one(uri, most, run.recipe.seed, langs), parts), most)


def _rows(run: Run, layer: str, side: str, found: Smallest, most: int) -> list[dict]:
    """Rows of `SCHEMA` of the documents that are drawn, by language, then by hash."""
    strata: dict[str, dict[str, int]] = defaultdict(dict)
    for (lang, stratum), count in found.counts.items():
        strata[lang][stratum] = min(count, len(found.found[lang, stratum][1]))
    chosen: list[tuple[str, str, int, str, str]] = []
    for lang, sizes in strata.items():
        for stratum, n in shares(sizes, most).items():
            order, documents = found.found[lang, stratum]
            chosen += [(lang, stratum, int(order[i]), *documents[i]) for i in range(n)]
    by_part: dict[str, set[str]] = defaultdict(set)
    for *_, doc_id, part in chosen:
        by_part[part].add(doc_id)
    stage = layer if side == KEPT else SOURCE[layer]
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(lambda part: texts_of(adopted.path(run.uri, stage, part), by_part[part]), by_part)
        texts = dict(zip(by_part, read, strict=True))
        whys = {part: {} for part in by_part} if side == KEPT else _whys(run, layer, by_part, pool)
    result = []
    for lang, stratum, _, doc_id, part in sorted(chosen, key=lambda one: (one[0], one[2])):
        text, url = texts[part].get(doc_id, (None, None))
        if text is None:
            continue
        broken = whys[part].get(doc_id, [])
        result.append(
            {
                "key": f"{doc_id}-{xxhash.xxh3_64_hexdigest(text.encode())}",
                **{"doc_id": doc_id, "lang": lang, "layer": layer, "side": side, "stratum": stratum},
                "rules": sorted({row["rule"] for row in broken}),
                "why": "; ".join(map(_why, broken)),
                **{"url": url, "chars": len(text), "text": text[:MAX_CHARS]},
            }
        )
    return result


def _whys(
    run: Run, layer: str, by_part: Mapping[str, set[str]], pool: ThreadPoolExecutor
) -> dict[str, dict[str, list]]:
    """part -> doc_id -> its rows of the ledger."""

    def read(part: str) -> dict[str, list[dict]]:
        wanted = pa.array(sorted(by_part[part]), pa.string())
        found: dict[str, list[dict]] = defaultdict(list)
        with storage.open_parquet(adopted.ledger(run.uri, layer, part)) as parquet:
            table = parquet.read(["doc_id", "rule", "value", "threshold", "detail"])
        for row in table.filter(pc.is_in(table["doc_id"], wanted)).to_pylist():
            found[row["doc_id"]].append(row)
        return found

    return dict(zip(by_part, pool.map(read, by_part), strict=True))


def _why(row: dict) -> str:
    value, bound = (row[name] for name in ("value", "threshold"))
    numbers = f" {value:.4g}" if value is not None else ""
    numbers += f" (bound {bound:.4g})" if bound is not None else ""
    return f"{row['rule']}{numbers}" + (f": {row['detail']}" if row["detail"] else "")
