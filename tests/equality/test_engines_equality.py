"""Spark, Ray Data and the plain runner give the same kept set, ledger and index, byte for byte, at any split."""

import dataclasses

import numpy as np
import pytest
from dedup_corpus import CONFIG, chain, corpus, document, files, run, words, write_parts

from cluster.engines import embedded
from cluster.engines.in_process import Local
from cluster.engines.on_ray import Ray
from cluster.engines.on_spark import Spark
from cluster.spark import session as spark_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SETTINGS = dataclasses.replace(CONFIG, substring_min_chars=60, verify="text")
SPLITS = {"one part": (1, 64_000_000), "three parts": (3, 60_000), "seven parts, shuffled": (7, 64_000_000)}
# rows meet in two partitions in three steps of the second; a shuffle of Ray Data costs ten seconds, however few its rows


@pytest.fixture(scope="module", params=["ray", "spark"])
def engine(request, tmp_path_factory):
    if request.param == "ray":
        embedded.start(cpus=2)
        yield Ray()
    else:
        session = spark_session.session(cores=2, memory="1g", temp_dir=str(tmp_path_factory.mktemp("spark")))
        yield Spark(session)
        spark_session.stop(session)


def documents(split: str) -> list[dict]:
    docs = corpus() + chain()
    if "shuffled" in split:
        return [docs[i] for i in np.random.default_rng(2).permutation(len(docs))]
    return docs


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Per split the folder, parts and settings of the plain runner's result."""
    results = {}
    for split, (n, partition_bytes) in SPLITS.items():
        folder = tmp_path_factory.mktemp("local")
        parts = write_parts(folder / "in", documents(split), n)
        config = dataclasses.replace(SETTINGS, partition_bytes=partition_bytes)
        with Local() as engine:
            results[split] = (folder, parts, config, run(engine, folder, parts, config))
    return results


@pytest.mark.parametrize("split", list(SPLITS))
def test_engines_write_the_same_files(engine, local, tmp_path, split):
    folder, parts, config, (counts, kept, ledger) = local[split]
    _, first_kept, first_ledger = local["one part"][3]
    assert kept.equals(first_kept) and ledger.equals(first_ledger)
    again = run(engine, tmp_path, parts, config)
    assert again[0] == counts and set(ledger["rule"].to_pylist()) == {
        "url_duplicate",
        "repeated_id",
        "near_duplicate",
        "frequent_lines",
        "substring_duplicate",
    }
    assert files(tmp_path) == files(folder)


def test_components_on_the_engine_and_an_earlier_index_give_the_same(engine, local, tmp_path):
    earlier = str(local["one part"][0])
    config = dataclasses.replace(SETTINGS, indexes=(earlier,), max_driver_edges=0, verify="signatures")
    later = [document(f"n{i}", " ".join([*words(i, 120), "baru"]), f"https://baru.id/{i}") for i in range(20, 26)]
    later += [document("n30", " ".join(words(3000, 60))), document("n31", " ".join([*words(3000, 60), "dan"]))]
    parts = write_parts(tmp_path / "in", later, 2)
    with Local() as plain:
        counts, _, ledger = run(plain, tmp_path / "local", parts, config, name="later")
    assert counts["near_duplicate_earlier"] == 6 and counts["near_duplicate"] == 1
    assert all(row["detail"].startswith("run:") for row in ledger.to_pylist() if "earlier" in row["rule"])
    assert run(engine, tmp_path / "again", parts, config, name="later")[0] == counts
    assert files(tmp_path / "again") == files(tmp_path / "local")
