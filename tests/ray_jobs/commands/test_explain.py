"""`pinisi explain` on a run written by hand: a kept, a dropped and an unknown document."""

import pyarrow as pa
import pytest

from cluster import storage
from cluster.shards import LEDGER, ledger_rows
from ray_jobs.commands import explain
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run.locate import Keys, parts
from ray_jobs.run.run import Run

RECIPE = {"name": "tiny", "sources": [{"name": "s", "type": "jsonl", "path": "/nothing/*.jsonl", "optional": True}]}
ROWS = [
    {"doc_id": "a1", "url": "https://x.example/a", "source_id": "row-a", "lang": "th", "lang_score": 0.9},
    {"doc_id": "b2", "url": "https://x.example/b", "source_id": "row-b", "lang": "lo", "lang_score": 0.8},
]


@pytest.fixture
def run(tmp_path):
    run = Run(str(tmp_path), recipes.parse(RECIPE, "test"))
    for stage, rows in (("crawl", ROWS), ("language", ROWS), ("filter/policy", ROWS[:1])):
        storage.write_table(storage.join(run.uri, stage, "part-00000.parquet"), pa.Table.from_pylist(rows))
        storage.write_json(storage.join(run.uri, stage, "_manifest.json"), {"fingerprint": "f"})
    keys = Keys()
    keys.add(pa.RecordBatch.from_pylist(ROWS))
    keys.write(run.uri, "part-00000.parquet")
    drop = [
        {
            "doc_id": "b2",
            "url": "https://x.example/b",
            "lang": "lo",
            "rule": "word_count_min",
            "value": 3.0,
            "threshold": 10.0,
        }
    ]
    ledger = pa.Table.from_batches([ledger_rows("filter/policy", drop)], LEDGER)
    storage.write_table(storage.join(run.uri, "dropped", "filter/policy", "part-00000.parquet"), ledger)
    return run


@pytest.mark.parametrize("name", ["b2", "row-b", "https://x.example/b", "http://www.x.example/b/"])
def test_a_dropped_document_by_any_of_its_names(run, name):
    found = explain.events(run, name)
    assert [(e["stage"], e["outcome"]) for e in found] == [
        ("crawl", "kept"),
        ("language", "kept"),
        ("filter/policy", "dropped"),
    ]
    assert (found[-1]["rule"], found[-1]["value"], found[-1]["threshold"]) == ("word_count_min", 3.0, 10.0)
    assert (found[1]["rule"], found[1]["detail"], found[1]["value"]) == ("language", "lo", 0.8)
    assert {e["url"] for e in found} == {"https://x.example/b"}


def test_a_kept_document(run, capsys):
    found = explain.events(run, "row-a")
    assert [e["outcome"] for e in found] == ["kept"] * 3
    explain.show(found)
    assert "https://x.example/a" in capsys.readouterr().out


def test_a_stranger(run):
    with pytest.raises(UserError, match="no document of"):
        explain.events(run, "https://x.example/c")


def test_a_name_is_looked_up_in_the_parts_that_hold_it(tmp_path):
    names = [f"doc-{i}" for i in range(200_000)]
    for part in range(2):
        keys = Keys()
        keys.add(
            pa.RecordBatch.from_pydict(
                {"doc_id": names[part::2], "url": [f"https://{n}.example/" for n in names[part::2]]}
            )
        )
        keys.write(str(tmp_path), f"part-{part:05d}.parquet")
    for i in (0, 1, 77_777, 199_998):
        here = [f"part-{i % 2:05d}.parquet"]
        assert parts(str(tmp_path), f"doc-{i}") == parts(str(tmp_path), f"https://www.doc-{i}.example") == here
    assert parts(str(tmp_path), "doc-200000") == []


DECISION = {
    "id": "chat-1", "lang": "th", "category": "qa", "rule": "too_similar", "rank": 7, "score": 0.4, "reward": 1.5,
    "perplexity": 20.0, "reward_percentile": 0.9, "perplexity_percentile": 0.72, "cosine": 0.81, "nearest": "chat-9",
}  # fmt: skip


@pytest.fixture
def aligned(run):
    optimiser = {"rows_per_step": 1, "lr": 1.0}
    stage = {"optimiser": optimiser}
    pretrain = {"tokens": 1, "rows_per_step": 1}
    train = {
        "base": {"model": "x"},
        "expand": {"new_layers": 1},
        "pretrain": {"stage1": pretrain, "stage2": pretrain},
        "reward": {"preference": "x", "optimiser": optimiser},
        "sft": {"instruct": "x", "stage1": stage, "stage2": stage, "select": {"max_similarity": 0.7}},
    }
    run = Run(run.uri, recipes.parse({**RECIPE, "train": train}, "test"))
    other = {**DECISION, "id": "chat-9", "rule": "taken", "rank": 1, "cosine": None, "nearest": None}
    table = pa.Table.from_pylist([other, DECISION])
    storage.write_table(storage.join(run.uri, "sft/select/decisions.parquet"), table)
    for name, ids in (("sft/stage1", ("chat-1", "chat-9")), ("sft/stage2", ("chat-9",))):
        storage.write_text(storage.join(run.uri, name, "rows.jsonl"), "".join(f'{{"id": "{i}"}}\n' for i in ids))
        storage.write_text(storage.join(run.uri, name, "model", "config.json"), "{}")
    for name in ("sft/stage1", "sft/select", "sft/stage2"):
        storage.write_json(storage.join(run.uri, name, "_manifest.json"), {"fingerprint": "f"})
    drop = [{"doc_id": "chat-3", "lang": "th", "rule": "empty_turn", "detail": "turn 1 (assistant) is empty"}]
    ledger = pa.Table.from_batches([ledger_rows("sft/stage1", drop)], LEDGER)
    storage.write_table(storage.join(run.uri, "dropped", "sft/stage1", "part-chats.parquet"), ledger)
    return run


def test_why_a_conversation_was_not_selected(aligned, capsys):
    found = explain.events(aligned, "chat-1")
    assert [(e["stage"], e["outcome"], e["rule"], e["value"], e["threshold"]) for e in found] == [
        ("sft/stage1", "trained on", None, None, None),
        ("sft/select", "dropped", "reward", 1.5, None),
        ("sft/select", "dropped", "perplexity", 20.0, None),
        ("sft/select", "dropped", "score", 0.4, None),
        ("sft/select", "dropped", "too_similar", 0.81, 0.7),
    ]
    details = [e["detail"] for e in found[1:]]
    assert details[0] == "percentile 0.900 of th, qa"
    assert details[3] == "too similar to one taken before; nearest taken before: chat-9"
    explain.show(found)
    assert "chat-9" in capsys.readouterr().out


def test_a_conversation_that_was_selected_and_one_that_was_refused(aligned):
    found = explain.events(aligned, "chat-9")
    assert [(e["stage"], e["outcome"]) for e in found] == [
        ("sft/stage1", "trained on"),
        *[("sft/select", "kept")] * 4,
        ("sft/stage2", "trained on"),
    ]
    assert found[4]["detail"] == "taken; none was taken before it"
    refused = explain.events(aligned, "chat-3")
    assert [(e["stage"], e["outcome"], e["rule"]) for e in refused] == [("sft/stage1", "dropped", "empty_turn")]
    with pytest.raises(UserError, match="no document"):
        explain.events(aligned, "chat-4")


@pytest.mark.parametrize(
    "spelling",
    [
        "x.example/a",
        "HTTPS://X.EXAMPLE:443/%61#top",
        "http:\\\\x.example\\b\\..\\a",
        "http://x.example/a?utm_source=b&amp;fbclid=1",
    ],
)
def test_a_page_is_found_by_any_spelling_of_its_address(run, spelling):
    assert {event["doc_id"] for event in explain.events(run, spelling)} == {"a1"}


def test_a_page_sends_no_control_characters(capsys):
    evil = "\x1b[2J\x1b]0;x\x07\x9b1A\u202eabc\r\n\u2028\x00"
    event = dict.fromkeys(("doc_id", "url", "stage", "outcome", "rule", "detail"), evil) | {
        "value": 1.0,
        "threshold": None,
    }
    explain.show([event])
    out = capsys.readouterr().out
    assert "abc" in out and all(sign == "\n" or sign.isprintable() for sign in out)
