"""Annotations of others: every document gets the first row of its key, whatever engine, order or number of partitions."""

import hashlib
import json
import random
import unicodedata

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import storage
from cluster.engines.in_process import Local
from cluster.shards import Shard
from curation.annotations import table
from curation.annotations.beside import Beside
from curation.annotations.join import annotate
from curation.annotations.table import Annotation, document_keys, file_keys, text_hash
from curation.text.urls import normalise

WORDS = ["kata", "คำ", "စာ", "ຄຳ", "ពាក្យ", "词", "e\u0301te\u0301", "\u00e9t\u00e9", "👍🏽", "x"]


def corpus(folder, rng, n_parts=3, rows=40):
    """Parts of documents, of which some share a URL or a text, or have none."""
    parts = []
    for number in range(n_parts):
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(0, 4))) for _ in range(rows if number else 0)]
        urls = [
            rng.choice(["", f"http://www.a.example/{rng.randint(0, 30)}/", f"https://b.example/?q={i}"])
            for i in range(len(texts))
        ]
        columns = {
            "doc_id": [f"d{number}-{i}" for i in range(len(texts))],
            "source_id": [str(rng.randint(0, 60)) for _ in texts],
            "source": [rng.choice(["web", "wiki"]) for _ in texts],
            "url": urls,
            "lang": [rng.choice(["id", "th", None]) for _ in texts],
            "text": texts,
        }
        path = str(folder / f"part-{number:05}.parquet")
        pq.write_table(pa.table({k: pa.array(v, pa.string()) for k, v in columns.items()}), path, row_group_size=16)
        parts.append(path)
    return parts


def naive(parts, annotation, kind):
    """(part, row) -> the row of annotations, by dictionaries over the normalised keys."""
    by_key = {}
    for file in annotation.files:
        for row in pq.read_table(file).to_pylist():
            key = row[annotation.key_column]
            key = normalise(key) if kind == "url" and key else key.lower() if kind == "text_hash" and key else key
            if key:
                by_key.setdefault(str(key), row)
    found = {}
    for part, path in enumerate(parts):
        for number, row in enumerate(pq.read_table(path).to_pylist()):
            key = text_hash(row["text"]) if kind == "text_hash" and row["text"] else row.get(kind)
            key = normalise(key) if kind == "url" and key else key
            if key and key in by_key and row["source"] in (annotation.sources or ("web", "wiki")):
                found[part, number] = by_key[key]
    return found


def given(folder, rng, kind, parts):
    """Two files of annotations with duplicates, strangers, nulls and keys written differently."""
    documents = [row for path in parts for row in pq.read_table(path).to_pylist()]
    files = []
    for number in range(2):
        keys = []
        for _ in range(50):
            row = rng.choice(documents)
            key = {"url": row["url"], "text_hash": text_hash(row["text"])}.get(kind) or row.get(kind)
            if kind == "url" and key:
                key = rng.choice([key, key.replace("www.", ""), key.replace("http:", "https:").rstrip("/")])
            if kind == "text_hash":
                key = rng.choice([key, key.upper()])
            keys.append(rng.choice([key, key, key, None, "stranger"]))
        columns = {
            "k": keys,
            "score": [rng.choice([None, float("nan"), rng.random()]) for _ in keys],
            "small": pa.array([rng.randint(0, 5) for _ in keys], rng.choice([pa.int8(), pa.uint32()])),
            "good": [rng.choice([True, False, None]) for _ in keys],
            "kind": pa.array([rng.choice(["blog", "spam", None]) for _ in keys]).dictionary_encode(),
            "deep": [{"MT": rng.random(), "all": rng.choice([[], [0.5], None])} for _ in keys],
        }
        files.append(str(folder / f"{kind}-{number}.parquet"))
        pq.write_table(pa.table(columns), files[-1], row_group_size=7)
    columns = {
        "score": "score",
        "small": "small",
        "good": "good",
        "kind": "kind",
        "mt": "deep.MT",
        "first": "deep.all[0]",
    }
    types = table.types_of(files[0], table.schema_of(files[0]), kind, "k", columns)
    assert types == {
        "score": "number",
        "small": "number",
        "good": "boolean",
        "kind": "string",
        "mt": "number",
        "first": "number",
    }
    return Annotation(f"{folder}/{kind}-*.parquet", tuple(files), kind, "k", columns, types, rng.choice([(), ("web",)]))


def value(row, column):
    if row is None:
        return None
    found = {"mt": row["deep"]["MT"], "first": (row["deep"]["all"] or [None])[0]}.get(column, row.get(column))
    return None if isinstance(found, float) and np.isnan(found) else found


@pytest.mark.parametrize("seed", range(2))
def test_each_document_has_the_first_row_of_its_key(tmp_path, seed):
    rng = random.Random(seed)
    parts = corpus(tmp_path, rng)
    every = [given(tmp_path, rng, kind, parts) for kind in table.KEYS]
    renamed = [
        Annotation(
            one.path,
            one.files,
            one.key,
            one.key_column,
            *({f"{one.key}_{name}": what for name, what in names.items()} for names in (one.columns, one.types)),
            one.sources,
        )
        for one in every
    ]
    written = []
    for name, partition_bytes in (("a", 1 << 20), ("b", 512)):
        shards = [
            Shard(f"part-{i:05}", part, str(tmp_path / name), str(tmp_path / f"ledger-{name}"), "f")
            for i, part in enumerate(parts)
        ]
        with Local() as engine:
            counts = annotate(engine, shards, renamed, partition_bytes=partition_bytes)
            assert annotate(engine, shards, renamed) == counts
            before = storage.read_bytes(shards[1].part)
            for uri in (shards[1].part, shards[1].marker):
                storage.remove(uri)
            assert annotate(engine, shards, renamed) == counts, "a part that was lost is made again"
            assert storage.read_bytes(shards[1].part) == before
        written.append([storage.read_bytes(shard.part) for shard in shards])
    assert written[0] == written[1]
    for one, count in zip(every, counts, strict=True):
        found = naive(parts, one, one.key)
        assert found and sum(count["matched"].values()) == len(found)
        keys = [key for file in one.files for key in pq.read_table(file)["k"].to_pylist() if key]
        nameless = keys.count("stranger") if one.key in ("url", "text_hash") else 0  # neither a host nor a hash
        assert count["rows"] == len(keys) - nameless
        for part, shard in enumerate(shards):
            rows = storage.read_table(shard.part).to_pylist()
            assert [row["doc_id"] for row in rows] == pq.read_table(parts[part])["doc_id"].to_pylist()
            for number, row in enumerate(rows):
                for column in one.columns:
                    assert row[f"{one.key}_{column}"] == value(found.get((part, number)), column), (one.key, column)


def test_keys_of_both_sides_are_the_same_whatever_their_form():
    text = "  Caf\u0065\u0301 คำ\n"
    recipe = hashlib.sha1(unicodedata.normalize("NFC", text).strip().encode()).hexdigest()
    assert text_hash(text) == recipe == text_hash("Café คำ")
    batch = pa.record_batch({"text": [text, ""], "url": ["http://www.X.example/%61?utm_source=y", None]})
    assert document_keys("text_hash", batch).tolist() == file_keys("text_hash", pa.array([recipe.upper(), ""])).tolist()
    assert (
        file_keys("text_hash", pa.array([bytes.fromhex(recipe), None], pa.binary(20)))[0]
        == document_keys("text_hash", batch)[0]
    )
    assert document_keys("url", batch).tolist() == file_keys("url", pa.array(["https://x.example/a", ""])).tolist()
    ids = file_keys("source_id", pa.array([7, None], pa.int64()))
    assert ids.tolist() == document_keys("source_id", pa.record_batch({"source_id": ["7", ""]})).tolist()
    assert ids[0] and not ids[1]
    assert file_keys("text_hash", pa.array(["no hash", None])).tolist() == [0, 0]


@pytest.mark.parametrize(
    "column, said",
    [
        ("scor", "has no column 'scor': it has doc_id, score, tags, deep, when"),
        ("tags", "'tags' is of type list<element: string>; name one of its items, such as tags[0]"),
        ("deep", "'deep' is of type struct<a: int64>; name one of its fields, such as deep.a"),
        ("deep.b", "there is no 'deep.b': 'deep' is of type struct<a: int64>"),
        ("score[0]", "there is no 'score[0]': 'score' is of type double"),
        ("when", "'when' is of type date32[day]; a number, true or false, or a string is needed"),
    ],
)
def test_a_column_that_is_of_no_use_is_named(tmp_path, column, said):
    import datetime

    file = str(tmp_path / "a.parquet")
    day = [datetime.date(2026, 1, 1)]
    pq.write_table(pa.table({"doc_id": ["x"], "score": [1.0], "tags": [["a"]], "deep": [{"a": 1}], "when": day}), file)
    with pytest.raises(ValueError) as error:
        table.types_of(file, table.schema_of(file), "doc_id", "doc_id", {"s": column})
    assert said in str(error.value)
    with pytest.raises(ValueError, match="the key 'score' is of type double; a doc_id is a string"):
        table.types_of(file, table.schema_of(file), "doc_id", "score", {})


def test_whole_numbers_of_any_size_are_numbers(tmp_path):
    file = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"doc_id": ["x", "y"], "n": pa.array([2**60 + 1, None], pa.int64())}), file)
    entry = table.Annotation(file, (file,), "doc_id", "doc_id", {"n": "n"}, {"n": table.NUMBER})
    [(_, [values])] = table.rows(entry, file)
    assert values.to_pylist() == [2.0**60, None]


def test_a_file_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": 1}))
    with pytest.raises(ValueError, match=r"rows\.jsonl is no Parquet file"):
        table.schema_of(str(tmp_path / "rows.jsonl"))


def test_a_data_set_is_read_like_a_file(tmp_path):
    rows = pa.table({"id": ["a", "b"], "quality": ["good", "bad"], "unread": [np.zeros(2)] * 2})
    (tmp_path / "set").mkdir()
    pq.write_table(rows, tmp_path / "set" / "train.parquet")
    datasets.Dataset(rows).save_to_disk(str(tmp_path / "saved"))
    for file in (f"hf:{tmp_path}/set", f"hf:{tmp_path}/saved"):
        types = table.types_of(file, table.schema_of(file), "source_id", "id", {"q": "quality"})
        one = Annotation(file, (file,), "source_id", "id", {"q": "quality"}, types)
        [(keys, [values])] = list(table.rows(one, file))
        assert values.to_pylist() == ["good", "bad"]
        assert keys.tolist() == file_keys("source_id", rows["id"].combine_chunks()).tolist()
    with pytest.raises(ValueError, match=r"^hf:.*@test: "):
        table.schema_of(f"hf:{tmp_path}/set@test")


def test_annotations_of_other_documents_are_refused(tmp_path):
    side = str(tmp_path / "side.parquet")
    pq.write_table(pa.table({"doc_id": ["a", "b"], "lang": ["id", "id"], "q": [0.5, None]}), side)
    batch = pa.record_batch({"doc_id": ["a", "b"]})
    empty = batch.slice(0, 0)
    kernel = Beside(lambda one: (one, empty), side)
    assert kernel(batch.slice(0, 1))[0].to_pydict() == {"doc_id": ["a"], "q": [0.5]}
    assert kernel(batch.slice(1, 1))[0].to_pydict() == {"doc_id": ["b"], "q": [None]}
    assert kernel(empty)[0].num_rows == 0
    with pytest.raises(RuntimeError, match="has not the documents of its part"):
        Beside(lambda one: (one, empty), side)(batch.slice(1, 1))
