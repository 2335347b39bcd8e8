"""A run of a few hundred invented documents with ledger and manifests, for the tests of the report's sections about data.

Each document is a dict of what every stage knows of it; `fate` is (stage, [(rule, value, bound, detail)]) or None.
"""

from __future__ import annotations

import random
from collections import Counter

import pyarrow as pa

from cluster import storage
from cluster.shards import LEDGER
from ray_jobs.run.graph import DEDUP, EXTRACT, LANGUAGE, POLICY, SIGNALS, TOKENIZE

CHAIN = (LANGUAGE, SIGNALS, POLICY, DEDUP, TOKENIZE)
BOUNDS = {
    "km": {"word_count": {"min": 20, "max": 5000}, "stopword_ratio": {"min": 0.1}},
    "en": {"word_count": {"min": 10}, "stopword_ratio": {"min": 0.3}, "flagged_ratio": {"max": 0.01}},
    "lo": {"word_count": {"min": 10}},  # a language of which no page came
}
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("doc_id", "url", "lang", "text", "source", "fetched_at", "published", "licence")]
    + [
        ("word_count", pa.int32()),
        ("stopword_ratio", pa.float32()),
        ("flagged_ratio", pa.float32()),
        ("n_bytes", pa.int32()),
    ]
)


def documents(n: int = 300, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    made = []
    for number in range(n):
        lang = rng.choice(["km", "en", "en"])
        text = {"km": "ត្រី និង បាយ ", "en": "rice and fish "}[lang] * rng.randint(1, 60)
        doc = {
            "doc_id": f"{rng.getrandbits(64):016x}",
            "url": rng.choice(
                [f"https://www.Site{number % 7}.example/{number}", f"http://b.example:8080/{number}", f"book {number}"]
            ),
            "lang": lang,
            "text": text,
            "source": rng.choice(["web", "web", "books"]),
            "fetched_at": rng.choice(["2023-05-01T00:00:00Z", "2024-01-31T12:00:00Z", ""]),
            "published": rng.choice(["2019-02-03", "", ""]),
            "licence": rng.choice(["CC BY 4.0", "", ""]),
            "word_count": rng.choice([5, 15, 40, 300, 9000]),
            "stopword_ratio": rng.choice([None, 0.05, 0.1, 0.25, 0.3, 0.5]),
            "flagged_ratio": rng.choice([0.0, 0.0, 0.0, 0.02]),
            "n_bytes": len(text.encode()),
            "n_tokens": len(text) // 4,
            "heldout": rng.random() < 0.1,
            "fate": None,
        }
        if rng.random() < 0.08:
            other = rng.choice(["de", None])
            doc["fate"] = (LANGUAGE, [("language_outside" if other else "language_score", 0.2, 0.5, other)])
            doc["lang"] = other
        elif broken := broken_rules(doc):
            doc["fate"] = (POLICY, broken)
        elif rng.random() < 0.4 and (winner := [d for d in made if d["fate"] is None or d["fate"][0] == DEDUP]):
            rule = rng.choice(["near_duplicate", "url_duplicate"])
            doc["fate"] = (DEDUP, [(rule, 0.9, 0.7, rng.choice(winner[:4])["doc_id"])])
        made.append(doc)
    return made


def broken_rules(doc: dict) -> list[tuple]:
    """In plain Python what `curation.policy.policy.apply` does."""
    found = []
    for signal, bounds in BOUNDS.get(doc["lang"], {}).items():
        for bound, limit in bounds.items():
            value = doc[signal]
            if value is not None and (value < limit if bound == "min" else value > limit):
                found.append((f"{signal}_{bound}", float(value), float(limit), None))
    return found


def there(docs: list[dict], stage: str) -> list[dict]:
    """The documents that a stage kept."""
    if stage == EXTRACT:
        return docs
    order = CHAIN.index(stage)
    return [d for d in docs if d["fate"] is None or CHAIN.index(d["fate"][0]) > order]


def write(uri: str, docs: list[dict], parts: int) -> dict[str, dict]:
    """Write the run; returns its manifests."""
    for part in range(parts):
        mine, name = docs[part::parts], f"part-{part:05}.parquet"
        for stage in (EXTRACT, *CHAIN[:-1]):
            rows = [{name: doc[name] for name in SCHEMA.names} for doc in there(mine, stage)]
            storage.write_table(storage.join(uri, stage, name), pa.Table.from_pylist(rows, SCHEMA))
        rows = [{key: d[key] for key in ("doc_id", "lang", "n_tokens", "heldout")} for d in there(mine, TOKENIZE)]
        schema = pa.schema(
            [("doc_id", pa.string()), ("lang", pa.string()), ("n_tokens", pa.int64()), ("heldout", pa.bool_())]
        )
        storage.write_table(storage.join(uri, TOKENIZE, name), pa.Table.from_pylist(rows, schema))
        for stage in (LANGUAGE, POLICY, DEDUP):
            rows = [
                {**{key: d[key] for key in ("doc_id", "url", "lang")}, "stage": stage}
                | dict(zip(("rule", "value", "threshold", "detail"), broken, strict=True))
                for d in mine
                if d["fate"] and d["fate"][0] == stage
                for broken in d["fate"][1]
            ]
            storage.write_table(storage.join(uri, "dropped", stage, name), pa.Table.from_pylist(rows, LEDGER))
    storage.write_json(storage.join(uri, POLICY, "_bounds.json"), BOUNDS)
    manifests = {}
    for before, stage in zip((EXTRACT, *CHAIN), CHAIN, strict=False):
        left = there(docs, stage)
        if stage == TOKENIZE:
            left = [d for d in left if not d["heldout"]]
        sizes: Counter[str] = Counter()
        for d in left:
            sizes[d["lang"]] += d["n_bytes"]
        rules = Counter(rule for d in docs if d["fate"] and d["fate"][0] == stage for rule, *_ in d["fate"][1])
        manifests[stage] = {
            **{"docs_in": len(there(docs, before)), "docs_out": len(left), "seconds": 1.0, "versions": {}},
            **{"docs_per_lang": dict(Counter(d["lang"] for d in left)), "bytes_per_lang": dict(sizes)},
            **{"bytes": sizes.total(), "rules": dict(rules), "fingerprint": f"of {stage}"},
        }
    tokens: Counter[str] = Counter()
    for d in there(docs, TOKENIZE):
        tokens[d["lang"]] += 0 if d["heldout"] else d["n_tokens"]
    manifests[TOKENIZE] |= {"tokens_per_lang": dict(tokens), "tokens": tokens.total()}
    manifests["crawl"] = {**manifests[LANGUAGE], "docs_in": len(docs), "docs_out": len(docs), "rules": {}}
    for stage, manifest in manifests.items():
        storage.write_json(storage.join(uri, stage, "_manifest.json"), manifest)
    return manifests
