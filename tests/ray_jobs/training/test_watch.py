import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cluster import storage
from ray_jobs.training import watch
from ray_jobs.training.heldout import chosen
from train import model
from train.monitor import metrics

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

SHAPE = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}
WATCH = {
    "trackers": [],
    "project": "demo",
    "peak": None,
    "eval_every": 5,
    "eval_bytes": 12,
    "replay": ["en"],
    "alarm": 0.1,
    "tasks": [],
}
RECORD = {"step": 3, "loss": 2.0, "tokens_per_second": 100.0, "attended_per_token": 4.0}


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(models.WordLevel({"<end>": 0, "a": 1, "bb": 2, "ຂ": 3, "?": 4}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="?")


def heldout(folder) -> str:
    rows = [("2", "en", "bb bb bb"), ("1", "en", "a a a"), ("9", "lo", "ຂ ຂ ຂ ຂ"), ("8", "id", "")]
    uri = str(folder / "heldout.parquet")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("doc_id", "lang", "text"))}
    storage.write_table(uri, pa.table(columns | {"bytes": [len(row[2].encode()) for row in rows]}))
    return uri


def test_documents_by_id_up_to_so_many_bytes_never_half_a_character():
    rows = [{"doc_id": d, "lang": lang, "text": text} for d, lang, text in (("b", "en", "xy"), ("a", "en", "123"))]
    assert chosen(rows, 4) == [("en", "123"), ("en", "x")]
    assert chosen(rows, 3) == [("en", "123")]
    assert chosen([{"doc_id": "a", "lang": "lo", "text": "ກຂ"}], 5) == [("lo", "ກ")]  # 3 bytes each


def test_held_out_text_is_packed_with_its_own_bytes(tmp_path, tokenizer):
    found = watch.validation(WATCH | {"heldout": heldout(tmp_path)}, 8, tokenizer)
    assert found.heldout.sizes == {
        "en": {"bytes": 12, "tokens": 6, "documents": 2},  # "a a a" and "bb bb b" of "bb bb bb"
        "lo": {"bytes": 12, "tokens": 3, "documents": 1},
    }
    assert (found.every, found.replay, found.alarm, found.start) == (5, ("en",), 0.1, None)
    assert watch.validation(WATCH | {"eval_every": 0}, 8, tokenizer) is None


@pytest.mark.parametrize("peak", [None, 1e9])
def test_records_go_to_the_run_with_their_utilisation_and_to_the_trackers(tmp_path, monkeypatch, peak):
    seen = []
    fake = lambda curves: watch.trackers.Tracker(lambda *a: seen.append((curves.name, *a)), seen.clear)  # noqa: E731
    monkeypatch.setitem(watch.trackers.TRACKERS, "tensorboard", fake)
    net = model.build(SHAPE, seed=0)
    uri = str(tmp_path / "metrics" / "pretrain-stage1.jsonl")
    settings = WATCH | {"trackers": ["tensorboard"], "peak": peak}
    where = {"metrics_uri": uri, "context": 8, "config": {"lr": 1.0, "steps": 9}, "device": torch.device("cpu")}
    with watch.reporting(net, settings, **where) as report:
        report(RECORD)
        (written,) = metrics.read(uri)
        ((name, step, values),) = seen
    assert seen == []  # closed
    assert written["steps"] == 9 and "steps" not in values
    assert written | RECORD == written and written["teraflops"] > 0
    assert ("mfu" in written) == ("mfu_6n" in written) == ("mfu_doc" in written) == (peak is not None)
    assert (name, step) == ("pretrain-stage1", 3) and values["teraflops"] == written["teraflops"]
