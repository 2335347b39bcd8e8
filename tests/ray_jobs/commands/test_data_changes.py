"""`pinisi weights`, `takedown` and `trace` on a run written by hand: its stores, its plan, what was crawled, how far it is."""

import json
import os
import socket

import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster import storage
from mixture.order import ledger
from mixture.store.token_store import append, write_store
from ray_jobs import cli
from ray_jobs.commands import data_changes, explain, trace
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run import lock
from ray_jobs.run.job import Job
from ray_jobs.run.locate import Keys
from ray_jobs.run.progress import Progress
from ray_jobs.run.run import Run
from ray_jobs.training import data_order
from ray_jobs.training import fit as training
from train import loader, model
from train.checkpoint import checkpoint
from train.loop import LoopConfig, fit
from train.methods import pretrain

SET = ["train.context=32", "train.pretrain.stage1.rows_per_step=8", "train.pretrain.stage2.rows_per_step=8"]
POOLS = {"all/en": 40, "all/th": 30, "all/lo": 3, "high_quality/th": 8, "instructions": 5}  # documents
WEIGHTS = {"all/en": 0.5, "all/th": 0.4, "all/lo": 0.1}


def doc_id(pool, d):
    return f"{pool.rsplit('/', maxsplit=1)[-1]:_<28}{d:04}"


def documents(pool, first, n):
    for d in range(first, first + n):
        rng = np.random.default_rng([*pool.encode(), d])
        yield doc_id(pool, d), pool.split("/")[-1], 1, rng.integers(1, 500, rng.integers(5, 60))


@pytest.fixture
def run(tmp_path):
    run = Run(str(tmp_path / "run"), recipes.load("demo", SET))
    storage.write_text(storage.join(run.uri, "recipe.yaml"), recipes.resolved(run.recipe))
    sizes = {}
    for pool, n in POOLS.items():
        uri = storage.join(data_order.pools_uri(run.uri), pool)
        sizes[pool] = write_store(uri, documents(pool, 0, n), 500, 0)["tokens"]
    rows = [{"pool": pool, "pool_tokens": n} for pool, n in sizes.items()]
    best = {"all/en": 0.2, "high_quality/th": 0.7, "instructions": 0.1}
    plan = {"base": {"all/en": 1.0}, "stage1": WEIGHTS, "stage2": best}
    storage.write_json(
        storage.join(run.uri, "mixture", "plan.json"),
        {stage: {"weights": weights, "rows": rows} for stage, weights in plan.items()},
    )
    crawled = [
        {
            "doc_id": doc_id(pool, d),
            "url": f"https://{pool.split('/')[1]}.example/{d}",
            "source": "cc",
            "crawl": "CC-MAIN-1",
            "warc_file": f"{d % 3}.warc.gz",
            "warc_offset": 1000 * d,
        }
        for pool in ("all/en", "all/th", "all/lo")
        for d in range(POOLS[pool])
    ]
    for number in range(2):
        part = pa.Table.from_pylist(crawled[number::2])
        storage.write_table(storage.join(run.uri, "crawl", f"part-0000{number}.parquet"), part)
        keys = Keys()
        keys.add(part.to_batches()[0])
        keys.write(run.uri, f"part-0000{number}.parquet")
    Keys().write(run.uri, "part-00002.parquet")  # a part in which nothing was found
    return run


def begin(run, stage, seed=5):
    """What the stage's job does first; its settings."""
    found = next(s for s in run.stages if s.name == stage)
    return data_order.settle(Job(run.recipe, run.uri, found, "f", Progress(stage, print)), seed)


def rows_of(run, settings, n=400):
    sampler = data_order.sampler(settings, settings["pools"])
    return [sampler.sample(i) for i in range(n)], sampler


def same(a, b):
    return a.pool == b.pool and np.array_equal(a.tokens, b.tokens) and np.array_equal(a.doc_index, b.doc_index)


def trained_to(run, stage, step):
    checkpoint.save(storage.join(run.uri, stage, "checkpoints"), step, {"x": torch.zeros(1)})


def pinisi(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_new_weights_from_a_step_on(run, capsys):
    before, _ = rows_of(run, begin(run, "pretrain/stage1"))
    trained_to(run, "pretrain/stage1", 20)
    code, _, err = pinisi(capsys, "weights", run.uri, "--from-step", 20, "--set", "th=0.7")
    assert code == 2 and "trained up to step 20; the first step that can be changed is 21" in err
    code, out, err = pinisi(capsys, "weights", run.uri, "--from-step", 21, "--set", "th=0.7", "--reason", "ไทย")
    assert code == 0, err
    assert "21 on" in out and "0.7000" in out
    line = ledger.read(data_order.ledger_uri(run.uri, "pretrain/stage1"))[0]
    assert line["weights"] == pytest.approx({"all/en": 0.25, "all/lo": 0.05, "all/th": 0.7})
    assert (line["from_sample"], line["reason"]) == (160, "ไทย")
    after, sampler = rows_of(run, begin(run, "pretrain/stage1"))
    assert all(same(a, b) for a, b in zip(before[:160], after[:160], strict=True))
    assert not all(same(a, b) for a, b in zip(before[160:], after[160:], strict=True))
    counts, start = sampler.counts(160 + 2560), sampler.counts(160)
    assert counts["all/th"] - start["all/th"] == pytest.approx(0.7 * 2560, abs=2)
    code, _, err = pinisi(capsys, "weights", run.uri, "--from-step", 21, "--set", "en=0.9")
    assert code == 2 and "must come after it" in err


def test_a_pool_that_had_no_weight_is_read_and_its_length_is_settled(run):
    data_changes.change_weights(run, "pretrain/stage1", 3, {"high_quality/th": 0.5})
    settings = begin(run, "pretrain/stage1")
    before, sampler = rows_of(run, settings)
    assert {sample.pool for sample in before[16:]} >= {"high_quality/th", "all/en"}
    uri = storage.join(data_order.pools_uri(run.uri), "high_quality/th")
    append(uri, documents("high_quality/th", 8, 20))
    again, _ = rows_of(run, begin(run, "pretrain/stage1"))
    assert all(same(a, b) for a, b in zip(before, again, strict=True))
    assert data_order.pool_names(settings) == sampler.names


def test_long_documents_are_a_pool_of_their_own(run, capsys):
    code, out, err = pinisi(capsys, "weights", run.uri, "--from-step", 3, "--set", "th>=40=0.5")
    assert code == 0 and "all/th>=40" in out, err
    samples, sampler = rows_of(run, begin(run, "pretrain/stage1"))
    lengths = np.diff(sampler.pools[sampler.names.index("all/th>=40")].starts)
    mine = [sample for sample in samples if sample.pool == "all/th>=40"]
    assert len(mine) == pytest.approx(0.5 * 384, abs=20)
    assert all((lengths[sample.doc_index] >= 40).all() for sample in mine)
    found = trace.step_rows(run, "pretrain/stage1", 4)
    assert all(d["warc_file"] for row in found for d in row["documents"])


def test_appended_documents_are_read_from_the_step_that_says_so(run):
    before, _ = rows_of(run, begin(run, "pretrain/stage1"))
    uri = storage.join(data_order.pools_uri(run.uri), "all/lo")
    append(uri, documents("all/lo", 3, 30))
    again, _ = rows_of(run, begin(run, "pretrain/stage1"))
    assert all(same(a, b) for a, b in zip(before, again, strict=True))
    data_changes.change_weights(run, "pretrain/stage1", 11, {}, grow=True)
    grown, _ = rows_of(run, begin(run, "pretrain/stage1"))
    assert all(same(a, b) for a, b in zip(before[:80], grown[:80], strict=True))
    seen = {int(d) for sample in grown[80:] if sample.pool == "all/lo" for d in sample.doc_index}
    assert seen >= set(range(33))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "th=0.3"], "--from-step N is missing"),
        (["--from-step", "5"], "changes nothing by itself"),
        (["--from-step", "5", "--set", "th"], "write POOL=SHARE"),
        (["--from-step", "5", "--set", "th=1.3"], "these sum to 1.3"),
        (["--from-step", "5", "--set", "th=0.2", "--set", "en=0.1", "--set", "lo=0.1"], "these sum to 0.4"),
        (["--from-step", "5", "--set", "xx=0.3"], "no complete token store"),
        (["--from-step", "0", "--set", "th=0.3"], "the first step that can be changed is 1"),
        (["--from-step", "5", "--set", "th=0.3", "--stage", "sft"], "it has base, pretrain/stage1"),
    ],
)
def test_what_cannot_be_is_said(run, capsys, arguments, message):
    code, _, err = pinisi(capsys, "weights", run.uri, *arguments)
    assert code == 2 and message in err and err.count("\n") == 1
    assert ledger.read(data_order.ledger_uri(run.uri, "pretrain/stage1")) == []


def test_a_run_that_is_being_trained_is_not_changed(run, monkeypatch):
    monkeypatch.setattr(lock, "alive", lambda uri: True)
    with pytest.raises(UserError, match="is running: stop it"):
        data_changes.change_weights(run, "pretrain/stage1", 5, {"th": 0.3})
    with pytest.raises(UserError, match="is running: stop it"):
        data_changes.take_down(run, "https://th.example/7", None, None)
    assert not storage.exists(storage.join(run.uri, "ledger"))


@pytest.mark.parametrize("command", [["weights", "--from-step", 5, "--set", "th=0.3"], ["takedown"]])
def test_two_changes_at_once_are_refused(run, capsys, command):
    """Each writes the whole ledger: the line of one of them would be lost without a word."""
    url = ["https://th.example/7"] if command[0] == "takedown" else []
    folder = data_order.ledger_uri(run.uri, "pretrain/stage1").rsplit("/", 1)[0]
    other = {"host": socket.gethostname(), "pid": os.getppid(), "started": lock.started(os.getppid())}
    storage.write_json(storage.join(folder, lock.FILE), other)
    code, _, err = pinisi(capsys, command[0], run.uri, *url, *command[1:])
    assert code == 2 and "is already running this; wait for it" in err
    storage.remove(storage.join(folder, lock.FILE))
    code, _, err = pinisi(capsys, command[0], run.uri, *url, *command[1:])
    assert code == 0 and len(ledger.read(data_order.ledger_uri(run.uri, "pretrain/stage1"))) == 1, err


def test_take_down_a_url(run, capsys):
    storage.write_json(storage.join(run.uri, "base", "_manifest.json"), {"fingerprint": "f"})
    before, _ = rows_of(run, begin(run, "pretrain/stage1"))
    trained_to(run, "pretrain/stage1", 12)
    code, _, err = pinisi(capsys, "takedown", run.uri, "https://th.example/7", "--from-step", 12)
    assert code == 2 and "the first step that can be changed is 13" in err
    code, out, err = pinisi(capsys, "takedown", run.uri, "https://th.example/7", "--reason", "asked to")
    assert code == 0, err
    assert "pretrain/stage1 does not read it from step 13 on" in out
    assert "pretrain/stage2 does not read it from step 1 on" in out
    assert "base is trained and may have read it" in out
    assert doc_id("all/th", 7) in out and "in high_quality/th" in out
    after, _ = rows_of(run, begin(run, "pretrain/stage1"))
    assert all(same(a, b) for a, b in zip(before[:96], after[:96], strict=True))
    hits = 0
    for i in range(96, 400):
        assert np.array_equal(before[i].doc_index, after[i].doc_index)
        gone = (before[i].doc_index == 7) & (before[i].pool == "all/th")
        hits += gone.any()
        assert (after[i].tokens[gone] == 0).all()
        np.testing.assert_array_equal(after[i].tokens[~gone], before[i].tokens[~gone])
    assert hits > 5
    second, _ = rows_of(run, begin(run, "pretrain/stage2"), 100)
    touched = [s for s in second if s.pool == "high_quality/th" and (s.doc_index == 7).any()]
    assert touched and all((s.tokens[s.doc_index == 7] == 0).all() for s in touched)
    written = storage.read_bytes(data_order.ledger_uri(run.uri, "pretrain/stage1"))
    pinisi(capsys, "takedown", run.uri, doc_id("all/th", 7), "--reason", "asked to")  # said twice
    assert storage.read_bytes(data_order.ledger_uri(run.uri, "pretrain/stage1")) == written


def test_take_down_an_instruction_or_a_stranger(run):
    said = data_changes.take_down(run, doc_id("instructions", 2), "pretrain/stage2", 4)
    assert said[0].startswith(doc_id("instructions", 2)) and "in instructions" in said[0]
    assert ledger.read(data_order.ledger_uri(run.uri, "pretrain/stage1")) == []
    assert ledger.read(data_order.ledger_uri(run.uri, "pretrain/stage2"))[0]["from_step"] == 4
    with pytest.raises(UserError, match="no document of"):
        data_changes.take_down(run, "https://th.example/none", None, None)


def test_a_url_of_a_page_and_of_pairs_takes_both_down(run):
    pages = [
        ("p1", "https://th.example/7", "s:1"),
        ("p2", "http://www.th.example/7/#x", "s:2"),
        ("p3", "https://x/", "s:3"),
    ]
    rows = [{"doc_id": name, "url": url, "source_id": own, "lang": "en-th"} for name, url, own in pages]
    table, keys = pa.Table.from_pylist(rows), Keys()
    keys.add(table.to_batches()[0])
    keys.write(run.uri, "part-00000.parquet", "parallel/pairs")
    storage.write_table(storage.join(run.uri, "parallel/pairs", "part-00000.parquet"), table)
    held = [
        {
            "doc_id": doc_id("parallel/en-th", d),
            "pair": "en-th",
            "format": "plain",
            "direction": "en>th",
            "pairs": [row],
        }
        for d, row in enumerate(("p1", "p2", "p3"))
    ]
    storage.write_table(storage.join(run.uri, "parallel/documents", "part-00000.parquet"), pa.Table.from_pylist(held))
    pool = storage.join(data_order.pools_uri(run.uri), "parallel/en-th")
    write_store(pool, documents("parallel/en-th", 0, 3), 500, 0)
    data_changes.take_down(run, "th.example/7", None, None)
    lines = ledger.read(data_order.ledger_uri(run.uri, "pretrain/stage1"))
    mine = [doc_id("parallel/en-th", d) for d in range(2)]
    assert {line["remove"] for line in lines} == {doc_id("all/th", 7), *mine}
    storage.write_json(storage.join(run.uri, "parallel/pairs", "_manifest.json"), {"fingerprint": "f"})
    assert {"p1", "p2"} <= {row["doc_id"] for row in explain.events(run, "https://th.example/7")}
    assert data_changes.take_down(run, "https://x", None, None)[0].startswith(doc_id("parallel/en-th", 2))


def test_trace_leads_to_the_warc_records(run, capsys):
    code, _, err = pinisi(capsys, "trace", run.uri, 3)
    assert code == 2 and "has not begun to train" in err
    data_changes.take_down(run, "https://th.example/7", None, None)
    samples, sampler = rows_of(run, begin(run, "pretrain/stage1"))
    found = trace.step_rows(run, "pretrain/stage1", 3)
    assert [row["row"] for row in found] == list(range(16, 24))
    for row in found:
        sample = samples[row["row"]]
        assert (row["pool"], row["epoch"], row["start"]) == tuple(sampler.address(row["row"]))
        assert sum(document["tokens"] for document in row["documents"]) == 32
        assert sum(document["share"] for document in row["documents"]) == pytest.approx(1.0)
        store = sampler.pools[sampler.names.index(row["pool"])]
        ids = store.documents["doc_id"].to_pylist()
        expected = list(dict.fromkeys(ids[d % len(ids)] for d in sample.doc_index[:-1]))
        assert [document["doc_id"] for document in row["documents"]] == expected
        for document in row["documents"]:
            number = int(document["doc_id"][-4:])
            assert document["url"] == f"https://{row['pool'].split('/')[1]}.example/{number}"
            assert (document["warc_file"], document["warc_offset"]) == (f"{number % 3}.warc.gz", 1000 * number)
            assert document["taken_down"] == (document["doc_id"] == doc_id("all/th", 7))
    code, out, err = pinisi(capsys, "trace", run.uri, 3, "--stage", "pretrain/stage1", "--json")
    assert code == 0 and json.loads(out) == found and not found[0]["left_out"]
    code, out, _ = pinisi(capsys, "trace", run.uri, 3, "--top", 4)
    assert code == 0 and ".warc.gz" in out and "rows 16 to 23" in out and "left out" not in out
    rollbacks = storage.join(run.uri, "pretrain/stage1", "checkpoints", "rollbacks.json")
    storage.write_json(rollbacks, [{"from": 3, "to": 4, "back_to": 2}])
    assert "update 3 was left out by the guard" in pinisi(capsys, "trace", run.uri, 3)[1]
    assert "left out" not in pinisi(capsys, "trace", run.uri, 5)[1]


def test_trace_after_the_last_step(run, capsys):
    begin(run, "pretrain/stage1")
    storage.write_json(storage.join(run.uri, "pretrain/stage1", "_manifest.json"), {"steps": 4})
    assert len(trace.step_rows(run, "pretrain/stage1", 4)) == 8
    code, _, err = pinisi(capsys, "trace", run.uri, 5)
    assert code == 2 and "pretrain/stage1 ended with step 4" in err


def test_trace_of_what_was_never_crawled(run):
    begin(run, "pretrain/stage2")
    rows = [row for step in range(1, 7) for row in trace.step_rows(run, "pretrain/stage2", step)]
    chats = [row for row in rows if row["pool"] == "instructions"]
    assert chats and all(d["url"] is None and d["warc_file"] is None for row in chats for d in row["documents"])


def train(run, folder, until=None):
    """Train on what the run says, up to the checkpoint of update `until`; the losses of the updates."""
    settings, losses = begin(run, "pretrain/stage1"), []
    shape = {"vocab_size": 500, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}
    config = LoopConfig(steps=12, rows_per_step=8, micro_rows=4, lr=1e-2, log_every=1, checkpoint_every=3)

    def log(record):
        losses.append(record["loss"])
        if record["step"] == until:
            raise KeyboardInterrupt

    with loader.ahead(training.packed_rows(settings), config) as batches:
        net = model.build(shape, 1)
        if until:
            with pytest.raises(KeyboardInterrupt):
                fit(net, batches, pretrain.loss, config, folder, on_log=log)
        else:
            fit(net, batches, pretrain.loss, config, folder, on_log=log)
        assert batches.restarts == 1
    return losses


def test_a_training_that_was_stopped_changed_and_continued_is_told_and_repeated(run, tmp_path):
    """Stopped after update 7 it has a checkpoint of update 6: that is where changes can begin, and the first that count."""
    torch.set_num_threads(1)
    plain = train(run, str(tmp_path / "plain"))
    stage = storage.join(run.uri, "pretrain/stage1")
    before = train(run, stage, until=7)
    with pytest.raises(UserError, match="trained up to step 6"):
        data_changes.change_weights(run, "pretrain/stage1", 6, {"th": 0.9})
    data_changes.change_weights(run, "pretrain/stage1", 8, {"th": 1.0})
    data_changes.take_down(run, "https://th.example/7", None, None)
    after = train(run, stage)
    assert before == plain[:7] and len(after) == 6 and after != plain[6:]
    replay = train(run, str(tmp_path / "replay"))
    assert replay == plain[:6] + after
    assert {row["pool"] for row in trace.step_rows(run, "pretrain/stage1", 9)} == {"all/th"}
