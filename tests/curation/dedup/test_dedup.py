"""Deduplication in one process: decisions, ledger, independence of the split, resume, skew, snapshot after snapshot.

`tests/equality/test_engines_equality.py` shows that the other engines give the same files.
"""

import dataclasses
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from dedup_corpus import CONFIG, MENU, SCHEMA, THAI, chain, corpus, document, files, run, words, write_parts

from cluster import storage
from cluster.engines.in_process import Local
from curation.dedup.schema import DedupConfig
from curation.dedup.steps import dedup


def with_(**changes) -> DedupConfig:
    return dataclasses.replace(CONFIG, **changes)


@pytest.fixture
def engine(tmp_path):
    with Local(str(tmp_path / "rows")) as local:
        yield local
        assert not list(local.folder.glob("*.arrow")), "rows were left behind"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dedup")
    seen = []
    with Local() as engine:
        return folder, seen, run(engine, folder, write_parts(folder / "in", corpus(), 3), progress=seen.append)


def test_each_drop_is_the_expected_one(result):
    _, seen, (counts, kept, ledger) = result
    rows = {(row["doc_id"], row["rule"]): row for row in ledger.to_pylist()}
    assert set(rows) == {
        ("a15", "url_duplicate"),
        ("a20", "near_duplicate"),
        ("b3", "near_duplicate"),
        ("b5", "frequent_lines"),
        ("c1", "repeated_id"),
        ("t2", "near_duplicate"),
    }
    assert rows["a15", "url_duplicate"]["detail"] == "b1"
    assert rows["a20", "near_duplicate"]["detail"] == rows["b3", "near_duplicate"]["detail"] == "b2"
    assert 0.85 < rows["a20", "near_duplicate"]["value"] < 1.0  # exact: 111 common of 122 shingles = 0.91
    assert rows["a20", "near_duplicate"]["threshold"] == CONFIG.threshold
    assert rows["t2", "near_duplicate"]["detail"] == "t1" and rows["t2", "near_duplicate"]["value"] == 1.0
    assert rows["b5", "frequent_lines"]["value"] == 2 and rows["b5", "frequent_lines"]["threshold"] == 5
    assert rows["a15", "url_duplicate"]["lang"] == "id" and rows["a15", "url_duplicate"]["stage"] == "dedup"
    assert counts == {
        "docs_in": 76,
        "docs_out": 70,
        "frequent_lines": 1,
        "near_duplicate": 3,
        "repeated_id": 1,
        "url_duplicate": 1,
    }
    ids = kept["doc_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 70
    assert {"b4", "b6", "b7", "b8", "b9", "c2", "c3"} <= set(ids)  # nothing without units matches
    assert seen == [1, 2, 3, 4, 5, 6]  # three parts read, three written


def test_menu_is_cut_from_the_pages_that_stay_and_nothing_else(result):
    _, _, (_, kept, _) = result
    before = {doc["doc_id"]: doc["text"] for doc in corpus()}
    for row in kept.to_pylist():
        text = before[row["doc_id"]]
        assert row["text"] == (text.split("\n", 1)[1] if MENU in text else text)
    assert kept.schema.equals(SCHEMA)


@pytest.mark.parametrize("n", [1, 5, 7])
@pytest.mark.parametrize("partition_bytes", [64_000_000, 3000])
def test_same_result_at_any_split_and_order(engine, result, tmp_path, n, partition_bytes):
    _, _, (counts, kept, ledger) = result
    docs = corpus()
    docs = [docs[i] for i in np.random.default_rng(n).permutation(len(docs))]
    parts = write_parts(tmp_path / "in", docs, n)[::-1]
    again = run(engine, tmp_path, parts, with_(partition_bytes=partition_bytes))
    assert again[0] == counts
    assert again[1].equals(kept) and again[2].equals(ledger)


def test_chains_and_long_repeats_do_not_depend_on_the_split(engine, tmp_path):
    docs = corpus() + chain()
    results = []
    for n, config in ((1, with_()), (3, with_(partition_bytes=3000)), (7, with_(max_driver_edges=0))):
        config = dataclasses.replace(config, substring_min_chars=60)
        order = np.random.default_rng(n).permutation(len(docs))
        parts = write_parts(tmp_path / f"in{n}", [docs[i] for i in order], n)
        results.append(run(engine, tmp_path / str(n), parts, config))
    for counts, kept, ledger in results[1:]:
        assert counts == results[0][0] and kept.equals(results[0][1]) and ledger.equals(results[0][2])
    counts, kept, ledger = results[0]
    assert counts["near_duplicate"] > 6 and counts["substring_duplicate"] == 2
    rows = {row["doc_id"]: row for row in ledger.to_pylist() if row["rule"] == "substring_duplicate"}
    assert rows["s3"]["detail"].endswith("copies of s1") and rows["s3"]["value"] == 1 and rows["s3"]["threshold"] == 5
    assert rows["b4"]["detail"].endswith("copies of a30")  # another language: not near, but the same characters
    texts = dict(zip(kept["doc_id"].to_pylist(), kept["text"].to_pylist(), strict=True))
    shared = " ".join(words(900, 40))
    assert shared in texts["s1"]
    assert texts["s2"] == " ".join(words(903, 60)) + "\n" + " ".join(words(904, 30))


def test_resume_writes_only_what_is_missing_and_the_same_bytes(engine, result, tmp_path):
    folder, _, (counts, _, _) = result
    parts = sorted(str(p) for p in (folder / "in").glob("*.parquet"))
    run(engine, tmp_path, parts)
    first = files(tmp_path)
    assert first == files(folder)
    kept = tmp_path / "dedup" / "part-00000.parquet"
    inode = kept.stat().st_ino
    for lost in (tmp_path / "dedup" / "part-00001.parquet", tmp_path / "dedup" / "_shards" / "part-00001.json"):
        lost.unlink()
    assert run(engine, tmp_path, parts)[0] == counts
    assert files(tmp_path) == first and kept.stat().st_ino == inode


@pytest.mark.parametrize("dies_after", [0, 1, 3, 5, 8, 10])
def test_a_run_that_dies_anywhere_continues_to_the_same_files(result, tmp_path, dies_after):
    """The engine fails at its n-th global step, the next run on a new one goes on from what is on storage."""

    class Dying(Local):
        steps = 0

        def by_key(self, *arguments):
            self.steps += 1
            if self.steps > dies_after:
                raise OSError("the machine is gone")
            return super().by_key(*arguments)

    folder, _, (counts, _, _) = result
    parts = sorted(str(p) for p in (folder / "in").glob("*.parquet"))
    with Dying() as engine, pytest.raises(OSError, match="is gone"):
        run(engine, tmp_path, parts)
    with Local() as engine:
        assert run(engine, tmp_path, parts)[0] == counts
    assert files(tmp_path) == files(folder)


def test_decisions_of_an_earlier_fingerprint_are_not_used(engine, result, tmp_path):
    folder, _, _ = result
    parts = sorted(str(p) for p in (folder / "in").glob("*.parquet"))
    dedup(engine, parts, str(tmp_path / "dedup"), str(tmp_path / "dropped"), with_(threshold=0.99), "f0")
    run(engine, tmp_path, parts)
    assert files(tmp_path) == files(folder)


def test_line_buckets_are_counted_apart(engine, tmp_path):
    docs = [document(f"d{i}", f"{MENU}\n" + " ".join(words(i, 60)), f"https://x.id/{i}") for i in range(10)]
    parts = write_parts(tmp_path / "in", docs, 2)
    _, kept, _ = run(engine, tmp_path / "apart", parts, with_(line_bucket_documents=1))
    assert sum(MENU in text for text in kept["text"].to_pylist()) > 0  # 10 buckets: no line six times in most
    _, kept, _ = run(engine, tmp_path / "together", parts)
    assert not any(MENU in text for text in kept["text"].to_pylist())


def test_url_outside_a_crawl_is_a_citation_and_drops_nothing(engine, tmp_path):
    docs = [
        {**document(f"{crawl}{i}", " ".join(words(i + at, 60)), "https://buku.id/kitab"), "crawl": crawl}
        for at, crawl in ((0, ""), (100, "CC-MAIN-2024-10"))
        for i in range(4)
    ]
    schema = SCHEMA.append(pa.field("crawl", pa.string()))
    counts, kept, _ = run(engine, tmp_path, write_parts(tmp_path / "in", docs, 1, schema))
    assert counts == {"docs_in": 8, "docs_out": 5, "url_duplicate": 3}
    assert sum(crawl == "" for crawl in kept["crawl"].to_pylist()) == 4


def test_parts_without_rows_or_drops(engine, tmp_path):
    parts = write_parts(tmp_path / "in", [document("only", "satu dua tiga empat lima enam")], 2)
    counts, kept, ledger = run(engine, tmp_path, parts, with_(substring_min_chars=30))
    assert counts == {"docs_in": 1, "docs_out": 1} and kept.num_rows == 1 and ledger.num_rows == 0
    empty = write_parts(tmp_path / "none", [], 2)
    assert run(engine, tmp_path / "none", empty)[0] == {"docs_in": 0, "docs_out": 0}
    with pytest.raises(ValueError, match="no parts"):
        dedup(engine, [], str(tmp_path), str(tmp_path), CONFIG, "f")
    with pytest.raises(ValueError, match="same file name"):
        dedup(engine, ["a/part-0.parquet", "b/part-0.parquet"], str(tmp_path), str(tmp_path), CONFIG, "f")


def test_many_identical_documents_cost_one_edge_each(engine, tmp_path):
    same = [document(f"same{i:05d}", " ".join(words(1, 40)), f"https://sama.id/{i}") for i in range(5000)]
    tail = [document(f"page{i:05d}", f"404 halaman tidak ada {i}", "https://sama.id/sama") for i in range(3000)]
    parts = write_parts(tmp_path / "in", same + tail, 3)
    counts, kept, ledger = run(engine, tmp_path, parts, with_(line_max_count=10_000))
    assert counts == {"docs_in": 8000, "docs_out": 2, "near_duplicate": 4999, "url_duplicate": 2999}
    assert kept["doc_id"].to_pylist() == ["page01000", "same00000"]  # the longest, then the smallest id
    assert set(ledger["detail"].to_pylist()) == {"same00000", "page01000"}


def jaccard(a: list[str], b: list[str]) -> float:
    one, two = ({tuple(side[i : i + 5]) for i in range(len(side) - 4)} for side in (a, b))
    return len(one & two) / len(one | two)


def test_verify_by_text_decides_by_the_exact_jaccard(engine, tmp_path):
    """Pairs around the threshold: with texts the decision is that of the exact similarity for every candidate."""
    rng = np.random.default_rng(4)
    docs, exact = [], {}
    for i in range(150):
        text = words(2000 + i, 100)
        copy = list(text)
        for at in rng.choice(100, int(rng.integers(2, 9)), replace=False):
            copy[at] = f"ganti{i}"
        docs += [document(f"x{i:03d}", " ".join(text)), document(f"y{i:03d}", " ".join([*copy, "a"]))]
        exact[f"x{i:03d}"] = jaccard(text, [*copy, "a"])
    parts = write_parts(tmp_path / "in", docs, 3)
    dropped = {}
    for verify in ("none", "signatures", "text"):
        _, _, ledger = run(engine, tmp_path / verify, parts, with_(verify=verify, threshold=0.7))
        assert all(row["detail"][1:] == row["doc_id"][1:] for row in ledger.to_pylist())
        dropped[verify] = set(ledger["doc_id"].to_pylist())
    near = {name for name, value in exact.items() if value >= 0.7}
    candidates = dropped["none"]
    assert dropped["text"] == candidates & near
    assert dropped["signatures"] != dropped["text"]  # an estimate is sometimes on the other side
    assert len(candidates - near) > 10 and len(near & candidates) > 30


def snapshot(name: str, docs: list[dict]) -> tuple[list[dict], pa.Schema]:
    return [{**doc, "crawl": name} for doc in docs], SCHEMA.append(pa.field("crawl", pa.string()))


@pytest.mark.parametrize("partition_bytes", [64_000_000, 3000])
def test_a_later_snapshot_against_the_index_of_an_earlier_one(engine, tmp_path, partition_bytes):
    config = with_(partition_bytes=partition_bytes)
    run(engine, tmp_path / "one", write_parts(tmp_path / "in1", *_order(*snapshot("2024-10", corpus()), 3)), config)
    edited = words(40, 120)
    edited[50] = "baru"
    later = [
        document("n1", " ".join([*edited, "lebih", "panjang", "lagi"]), "https://baru.id/1"),  # near a40, and longer
        document("n2", " ".join(words(41, 120)) + " dan banyak tambahan", "https://www.contoh.id/41"),  # URL of a41
        document("n3", " ".join(words(1000, 100)), "https://baru.id/3"),
        document("n4", " ".join([*words(1000, 100), "x"]), "https://baru.id/4"),  # near n3, and longer
        document("a42", " ".join(words(42, 120)), "https://contoh.id/42"),  # the same record again
        document("n5", " ".join(words(15, 120)), "https://baru.id/5"),  # near b1, which took a15's place
        document("n6", THAI * 2 + "ครับ", "https://baru.id/6", "th"),
        document("n7", " ".join(words(30, 120)), "https://baru.id/7", "tl"),  # a30's words in another language
        document("n8", f"{MENU}\nhanya ini", "https://lain.id/menu"),  # b5 was dropped, so it is not in the index
    ]
    indexed = dataclasses.replace(config, indexes=(str(tmp_path / "one" / "dedup" / "index"),))
    parts = write_parts(tmp_path / "in2", *_order(*snapshot("2024-18", later), 2))
    counts, kept, ledger = run(engine, tmp_path / "two", parts, indexed)
    rows = {row["doc_id"]: (row["rule"], row["detail"]) for row in ledger.to_pylist()}
    assert rows == {
        "n1": ("near_duplicate_earlier", "2024-10:a40"),
        "n2": ("url_duplicate_earlier", "2024-10:a41"),
        "n3": ("near_duplicate", "n4"),
        "a42": ("repeated_id_earlier", "2024-10:a42"),
        "n5": ("near_duplicate_earlier", "2024-10:b1"),
        "n6": ("near_duplicate_earlier", "2024-10:t1"),
    }
    values = {row["doc_id"]: (row["value"], row["threshold"]) for row in ledger.to_pylist()}
    assert values["n2"] == (len(later[1]["text"]), len(" ".join(words(41, 120))))
    assert 0.85 < values["n1"][0] < 1.0 and values["n1"][1] == config.threshold
    assert kept["doc_id"].to_pylist() == ["n4", "n7", "n8"] and counts["docs_in"] == 9
    before = files(tmp_path / "two")
    run(engine, tmp_path / "two", parts, indexed)
    assert files(tmp_path / "two") == before

    # a third snapshot knows both, and names the first index that has a document
    third = [
        document("m1", later[3]["text"], "https://c.id/1"),
        document("m2", " ".join(words(40, 120)), "https://c.id/2"),
    ]
    both = dataclasses.replace(config, indexes=(str(tmp_path / "one"), str(tmp_path / "two" / "dedup" / "index")))
    (tmp_path / "one" / "run").mkdir()
    parts = write_parts(tmp_path / "in3", *_order(*snapshot("2024-26", third), 1))
    _, kept, ledger = run(engine, tmp_path / "three", parts, both)
    assert {row["doc_id"]: row["detail"] for row in ledger.to_pylist()} == {"m1": "2024-18:n4", "m2": "2024-10:a40"}
    assert kept.num_rows == 0


def _order(docs: list[dict], schema: pa.Schema, n: int) -> tuple[list[dict], int, pa.Schema]:
    return docs, n, schema


def test_the_index_does_not_depend_on_the_split(engine, tmp_path):
    headers, tables = [], []
    for n in (1, 4):
        parts = write_parts(tmp_path / f"in{n}", corpus()[::-1] if n == 4 else corpus(), n)
        run(engine, tmp_path / str(n), parts)
        index = tmp_path / str(n) / "dedup" / "index"
        headers.append(storage.read_json(str(index / "_index.json")))
        tables.append({str(p.relative_to(index)): p.read_bytes() for p in sorted(index.rglob("*.parquet"))})
    assert headers[0] == headers[1] and headers[0]["documents"] == 70
    assert tables[0] == tables[1] and len(tables[0]) == 3


@pytest.mark.parametrize("longest_first", [True, False])
def test_of_documents_with_one_id_the_index_has_the_one_that_stayed(engine, tmp_path, longest_first):
    """Sources whose ids are not their own, such as a column of ones."""
    texts = [" ".join(words(seed, n)) for seed, n in ((70, 90), (71, 120), (72, 60))]
    texts.sort(key=len, reverse=longest_first)
    parts = write_parts(tmp_path / "in", [document("1", text) for text in texts], 1)
    _, kept, _ = run(engine, tmp_path, parts)
    assert kept["text"].to_pylist() == [max(texts, key=len)]
    index = storage.read_table(str(tmp_path / "dedup" / "index" / "documents" / "00000.parquet"))
    assert index["length"].to_pylist() == [len(max(texts, key=len))]
    later = write_parts(tmp_path / "in2", [document("2", max(texts, key=len))], 1)
    _, _, ledger = run(engine, tmp_path / "two", later, with_(indexes=(str(tmp_path),)))
    assert ledger["rule"].to_pylist() == ["near_duplicate_earlier"]


def test_each_part_is_opened_as_often_as_its_rows_are_read(engine, tmp_path, monkeypatch):
    """A corpus has a hundred thousand parts: asking each for its number of rows, one after another, takes an hour."""
    parts = write_parts(tmp_path / "in", corpus(), 3)
    opened, open_parquet = Counter(), storage.open_parquet

    def counting(uri):
        opened[uri] += 1
        return open_parquet(uri)

    monkeypatch.setattr(storage, "open_parquet", counting)
    run(engine, tmp_path, parts)
    assert [opened[part] for part in parts] == [5, 5, 5]  # keys, lines; ids, schema and documents to be written


def test_an_index_that_cannot_be_used_is_one_sentence(engine, tmp_path):
    parts = write_parts(tmp_path / "in", corpus()[:3], 1)
    with pytest.raises(ValueError, match="has no index; give a run directory or its dedup/index"):
        run(engine, tmp_path, parts, with_(indexes=(str(tmp_path / "nowhere"),)))
    run(engine, tmp_path, parts)
    other = with_(indexes=(str(tmp_path),), num_perm=112, bands=14, rows=8)
    with pytest.raises(ValueError, match="was made with num_perm = 256, bands = 25, rows = 10; use the same"):
        run(engine, tmp_path / "other", parts, other)


def test_fourteen_bands_of_eight_find_the_same_copies(engine, result, tmp_path):
    folder, _, (counts, _, _) = result
    parts = sorted(str(p) for p in (folder / "in").glob("*.parquet"))
    assert run(engine, tmp_path, parts, with_(num_perm=112, bands=14, rows=8))[0] == counts


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="at least 20"):
        DedupConfig(substring_min_chars=10)
    with pytest.raises(ValueError, match="use none, signatures or text"):
        DedupConfig(verify="maybe")
    with pytest.raises(ValueError, match="need more than num_perm"):
        DedupConfig(num_perm=100)
