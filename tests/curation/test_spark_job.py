"""Deduplication on a real local Spark: decisions, ledger, independence of the split, resume, spark-submit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components as scipy_components

from cluster import spark as spark_session
from cluster import storage
from cluster.shards import LEDGER, Shard
from curation.components import star_components
from curation.spark_job import DedupConfig, dedup, main, run_shards

SCHEMA = pa.schema([(name, pa.string()) for name in ("doc_id", "url", "lang", "text")])
CONFIG = DedupConfig(line_max_count=5, line_min_chars=20, min_words_left=5)
MENU = "Beranda | Tentang kami | Hubungi redaksi | Peta situs"


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    session = spark_session.session(cores=2, memory="1g", temp_dir=str(tmp_path_factory.mktemp("spark")))
    yield session
    spark_session.stop(session)


def words(seed: int, n: int) -> list[str]:
    rng = np.random.default_rng(seed)
    syllables = ["ka", "la", "ma", "ri", "tu", "se", "nga", "pi", "no", "bu", "da", "we"]
    return ["".join(rng.choice(syllables, 3)) for _ in range(n)]


def document(name: str, text: str, url: str = "", lang: str = "id") -> dict:
    return {"doc_id": name, "url": url, "lang": lang, "text": text}


def corpus() -> list[dict]:
    """60 pages of their own, with known copies; a menu on twelve of them; Thai, empty and symbol-only pages."""
    docs = [document(f"a{i:02d}", " ".join(words(i, 120)), f"https://contoh.id/{i}") for i in range(60)]
    for i in range(12):
        docs[i]["text"] = f"  {MENU} \n" + docs[i]["text"]
    edited = words(20, 120)
    edited[60] = "berbeda"
    docs += [
        document("b1", docs[15]["text"] + " versi yang lebih panjang", "http://www.contoh.id/15/?utm_source=x"),
        document("b2", " ".join([*edited, "tambahan"]), "https://lain.id/salinan"),  # near a20, longer: stays
        document("b3", " ".join(edited), "https://lain.id/salinan-kedua"),
        document("b4", " ".join(words(30, 120)), "https://lain.id/bahasa", lang="ms"),  # copy of a30, other language
        document("b5", f"{MENU}\nhanya ini", "https://lain.id/menu"),  # little left when the menu is cut
        document("b6", "", "https://lain.id/kosong"),
        document("b7", "", "https://lain.id/kosong-juga"),
        document("b8", "★ ★ ★", "https://lain.id/bintang"),
        document("b9", "— — —", "https://lain.id/garis"),
        document("c1", " ".join(words(99, 80))),  # the same record twice, no URL
        document("c1", " ".join(words(99, 80))),
        document("c2", "", ""),
        document("c3", "", ""),
        document("t1", "ประชาชนทุกคนมีสิทธิที่จะได้รับการศึกษาอย่างเท่าเทียมกันในทุกจังหวัด" * 2, "https://t.th/1", "th"),
        document("t2", "ประชาชนทุกคนมีสิทธิที่จะได้รับการศึกษาอย่างเท่าเทียมกันในทุกจังหวัด" * 2, "https://t.th/2", "th"),
        document("t3", "ฝนตกหนักในภาคเหนือตั้งแต่เช้าวันนี้ ชาวบ้านเตรียมเรือไว้รับน้ำท่วม", "https://t.th/3", "th"),
    ]
    return docs


def write_parts(folder: Path, docs: list[dict], n: int) -> list[str]:
    uris = []
    for i in range(n):
        uri = str(folder / f"part-{i:05d}.parquet")
        storage.write_table(uri, pa.Table.from_pylist(docs[i::n], SCHEMA))
        uris.append(uri)
    return uris


def run(
    spark, folder: Path, parts: list[str], config: DedupConfig = CONFIG, **options
) -> tuple[dict, pa.Table, pa.Table]:
    counts = dedup(spark, parts, str(folder / "dedup"), str(folder / "dropped"), config, "f1", **options)
    kept, ledger = storage.read_table(str(folder / "dedup")), storage.read_table(str(folder / "dropped"))
    return counts, kept.sort_by("doc_id"), ledger.sort_by([("doc_id", "ascending"), ("rule", "ascending")])


@pytest.fixture(scope="module")
def result(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dedup")
    seen = []
    return folder, seen, run(spark, folder, write_parts(folder / "in", corpus(), 3), progress=seen.append)


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
    assert seen[-1] == 3 and seen == sorted(seen)


def test_menu_is_cut_from_the_pages_that_stay_and_nothing_else(result):
    _, _, (_, kept, _) = result
    before = {doc["doc_id"]: doc["text"] for doc in corpus()}
    for row in kept.to_pylist():
        text = before[row["doc_id"]]
        assert row["text"] == (text.split("\n", 1)[1] if MENU in text else text)
    assert kept.schema.equals(SCHEMA)


def test_same_result_at_any_split_and_order(spark, result, tmp_path):
    _, _, (counts, kept, ledger) = result
    docs = [corpus()[i] for i in np.random.default_rng(1).permutation(len(corpus()))]
    parts = write_parts(tmp_path / "in", docs, 5)[::-1]
    again = run(spark, tmp_path, parts)
    assert again[0] == counts
    assert again[1].equals(kept) and again[2].equals(ledger)


def test_components_in_spark_give_the_same(spark, result, tmp_path):
    folder, _, (counts, kept, ledger) = result
    config = DedupConfig(**{**CONFIG.__dict__, "max_driver_edges": 0})
    again = run(spark, tmp_path, sorted(str(p) for p in (folder / "in").glob("*.parquet")), config)
    assert again[0] == counts and again[1].equals(kept) and again[2].equals(ledger)


def test_resume_writes_only_what_is_missing_and_the_same_bytes(spark, result, tmp_path):
    folder, _, (counts, _, _) = result
    parts = sorted(str(p) for p in (folder / "in").glob("*.parquet"))
    run(spark, tmp_path, parts)
    files = sorted((tmp_path / "dedup").glob("*.parquet")) + sorted((tmp_path / "dropped").glob("*.parquet"))
    first = {file: file.read_bytes() for file in files}
    assert [f.read_bytes() for f in sorted((folder / "dedup").glob("*.parquet"))] == [first[f] for f in files[:3]]
    kept_inode = files[0].stat().st_ino
    for lost in (tmp_path / "dedup" / "part-00001.parquet", tmp_path / "dedup" / "_shards" / "part-00001.json"):
        lost.unlink()
    assert run(spark, tmp_path, parts)[0] == counts
    assert {file: file.read_bytes() for file in files} == first
    assert files[0].stat().st_ino == kept_inode


def test_line_buckets_are_counted_apart(spark, tmp_path):
    docs = [document(f"d{i}", f"{MENU}\n" + " ".join(words(i, 60)), f"https://x.id/{i}") for i in range(10)]
    parts = write_parts(tmp_path / "in", docs, 2)
    one_each = DedupConfig(**{**CONFIG.__dict__, "line_bucket_documents": 1})
    _, kept, _ = run(spark, tmp_path / "apart", parts, one_each)
    assert sum(MENU in text for text in kept["text"].to_pylist()) > 0  # 10 buckets: no line six times in most
    _, kept, _ = run(spark, tmp_path / "together", parts)
    assert not any(MENU in text for text in kept["text"].to_pylist())


def test_url_outside_a_crawl_is_a_citation_and_drops_nothing(spark, tmp_path):
    docs = [
        {**document(f"{crawl}{i}", " ".join(words(i + at, 60)), "https://buku.id/kitab"), "crawl": crawl}
        for at, crawl in ((0, ""), (100, "CC-MAIN-2024-10"))
        for i in range(4)
    ]
    schema = SCHEMA.append(pa.field("crawl", pa.string()))
    storage.write_table(str(tmp_path / "in" / "part-0.parquet"), pa.Table.from_pylist(docs, schema))
    counts, kept, _ = run(spark, tmp_path, [str(tmp_path / "in" / "part-0.parquet")])
    assert counts == {"docs_in": 8, "docs_out": 5, "url_duplicate": 3}
    assert sum(crawl == "" for crawl in kept["crawl"].to_pylist()) == 4


def test_parts_without_rows_or_drops(spark, tmp_path):
    parts = write_parts(tmp_path / "in", [document("only", "satu dua tiga empat lima enam")], 2)
    counts, kept, ledger = run(spark, tmp_path, parts)
    assert counts == {"docs_in": 1, "docs_out": 1} and kept.num_rows == 1 and ledger.num_rows == 0
    with pytest.raises(ValueError, match="no parts"):
        dedup(spark, [], str(tmp_path), str(tmp_path), CONFIG, "f")
    with pytest.raises(ValueError, match="same file name"):
        dedup(spark, ["a/part-0.parquet", "b/part-0.parquet"], str(tmp_path), str(tmp_path), CONFIG, "f")


@pytest.mark.parametrize("graph", ["random", "chain", "star", "many"])
def test_star_components_equal_scipy(spark, graph):
    rng = np.random.default_rng(0)
    n = 300
    if graph == "chain":
        order = rng.permutation(n)
        a, b = order[:-1], order[1:]
    elif graph == "star":
        a, b = np.full(n - 1, n // 2), np.delete(np.arange(n), n // 2)
    else:
        a, b = rng.integers(0, n, (2, n if graph == "random" else n // 3))
    edges = spark.createDataFrame(pa.table({"a": a * 7 + 5, "b": b * 7 + 5}))
    table = star_components(edges).toArrow()
    label = np.arange(n) * 7 + 5
    label[(table["id"].to_numpy() - 5) // 7] = table["label"].to_numpy()
    _, expected = scipy_components(coo_matrix((np.ones(len(a)), (a, b)), (n, n)), directed=False)
    smallest = np.full(n, n)
    np.minimum.at(smallest, expected, np.arange(n))
    assert (label == smallest[expected] * 7 + 5).all()


def kernels() -> tuple:
    """Kernels that pickle by value, for workers cannot import this test."""

    def keep_long(batch):
        mask = pc.greater(pc.utf8_length(batch["text"]), 10)
        dropped = batch.filter(pc.invert(mask))
        rows = [{"doc_id": i, "stage": "test", "rule": "short"} for i in dropped["doc_id"].to_pylist()]
        return batch.filter(mask), pa.RecordBatch.from_pylist(rows, LEDGER)

    def failing(batch):
        raise RuntimeError("a bug in a kernel")

    return keep_long, failing


def test_run_shards_in_order_and_skips_finished(spark, tmp_path):
    keep_long, failing = kernels()
    docs = [document(f"d{i}", "x" * i) for i in range(30)]
    shards = [
        Shard(Path(p).stem, p, str(tmp_path / "out"), str(tmp_path / "dropped"), "f")
        for p in write_parts(tmp_path / "in", docs, 3)
    ]
    seen = []
    markers = run_shards(spark, keep_long, shards, seen.append)
    assert [marker["docs_out"] for marker in markers] == [6, 6, 7] and seen[-1] == 3
    assert run_shards(spark, failing, shards) == markers  # finished: the kernel is never called
    storage.remove(shards[1].marker)
    with pytest.raises(Exception, match="a bug in a kernel"):
        run_shards(spark, failing, shards)
    assert run_shards(spark, keep_long, []) == []


def test_main_without_a_job_says_which_file_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--run-dir", str(tmp_path), "--steps", "dedup"])
    assert stop.value.code == 2 and f"{tmp_path}/dedup/_job.json is not there" in capsys.readouterr().err


@pytest.mark.slow
def test_spark_submit_reads_the_job_of_the_run(result, tmp_path):
    folder, _, (counts, _, _) = result
    job = {
        "config": CONFIG.__dict__,
        "parts": sorted(str(p) for p in (folder / "in").glob("*.parquet")),
        "out": str(tmp_path / "dedup"),
        "ledger": str(tmp_path / "dropped" / "dedup"),
        "fingerprint": "f1",
    }
    storage.write_json(str(tmp_path / "dedup" / "_job.json"), job)
    settings = ["spark.ui.enabled=false", "spark.sql.shuffle.partitions=2"]
    settings += ["spark.driver.extraJavaOptions=-XX:+UseSerialGC -XX:TieredStopAtLevel=1"]
    submit = [str(Path(sys.executable).with_name("spark-submit")), "--master", "local[2]", "--driver-memory", "1g"]
    submit += [word for setting in settings for word in ("--conf", setting)]
    submit += ["curation/spark_job.py", "--run-dir", str(tmp_path), "--steps", "dedup"]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    root = Path(__file__).parents[2]
    run = subprocess.run(submit, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, (run.stdout + run.stderr)[-2000:]
    assert json.loads(run.stdout.strip().splitlines()[-1]) == {"step": "dedup", **counts}
    for file in sorted((folder / "dedup").glob("*.parquet")):
        assert (tmp_path / "dedup" / file.name).read_bytes() == file.read_bytes()
