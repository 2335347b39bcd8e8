"""Files of pairs as a stage reads them: any layout, what is no row, languages, the counts of the manifest, and few rows left."""

import json
from datetime import datetime
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_jobs.alignment import chats
from ray_jobs.errors import UserError
from ray_jobs.report import notices
from ray_jobs.run.run import _few

TURN, ANSWER = {"role": "user", "content": "boat?"}, {"role": "assistant", "content": "yes"}


@pytest.fixture
def job(tmp_path):
    data = SimpleNamespace(language="tha")
    return SimpleNamespace(
        stage=SimpleNamespace(name="reward"),
        recipe=SimpleNamespace(languages=["th", "en"]),
        train=SimpleNamespace(sft=SimpleNamespace(data=data)),
        ledger=str(tmp_path / "dropped"),
    )


def write(path, rows) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def test_rows_are_read_named_and_counted(job, tmp_path):
    rows = [
        {"prompt": "boat?", "chosen": "yes", "rejected": "no", "source": "x"},
        {"language": "en-GB", "question": "boat?", "chosen": "yes", "rejected": "no", "system": "be brief"},
        {"lang": "fr", "chosen": [TURN, ANSWER], "rejected": [TURN, {**ANSWER, "content": "no"}]},
        {"prompt": "boat?", "completion": "yes", "label": True},
        "{oops",
        "[1, 2]",
        {"prompt": "half \ud800", "chosen": "yes", "rejected": "no"},
    ]
    found = chats.preferences(job, write(tmp_path / "pairs.jsonl", rows))
    assert [(row["lang"], len(row["prompt"])) for row in found.rows] == [("th", 1), ("en", 2)]
    facts = chats.account(*found[1:])
    assert facts == {
        "rows_in": 7,
        "rows_kept": 2,
        "dropped_by_rule": {"broken_unicode": 1, "kto_label": 1, "language_outside": 1, "not_a_row": 2},
        "ignored_keys": {"source": 1},
    }
    ledger = pq.read_table(job.ledger).to_pylist()
    assert len(ledger) == 5 and all(row["doc_id"] for row in ledger)
    assert [row["lang"] for row in ledger if row["rule"] == "language_outside"] == ["fr"]
    chats.write_rows(str(tmp_path / "out.jsonl"), found.rows)
    assert chats.read_rows(str(tmp_path / "out.jsonl")) == found.rows


def test_parquet_gives_every_row_every_key(job, tmp_path):
    """Nulls of another row's keys say nothing, and what JSON has no form for can be written."""
    prompts = [[{**TURN, "tool_calls": calls}] for calls in (None, ["f"])]
    sides = {"chosen": ["yes", "yes"], "rejected": ["no", "no!"]}
    table = pa.table({"prompt": prompts, **sides, "tools": [None, None], "made": [datetime(2026, 11, 30), None]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    found = chats.preferences(job, str(tmp_path / "pairs.parquet"))
    assert len(found.rows) == 1 and found.rules == {"tool_call": 1} and found.ignored == {"made": 1}
    chats.write_rows(str(tmp_path / "out.jsonl"), found.rows)


def test_nothing_left_and_no_file_are_one_sentence(job, tmp_path):
    with pytest.raises(UserError, match=r"no valid preference pair in the recipe's languages; see .*dropped"):
        chats.preferences(job, write(tmp_path / "pairs.jsonl", [{"text": "x"}]))
    with pytest.raises(UserError, match=r"none.*no file matches"):
        chats.preferences(job, str(tmp_path / "none*.jsonl"))


def test_a_stage_that_keeps_under_half_says_so():
    few = _few(chats.account(80, {"repeated_id": 70, "too_long": 9}))
    assert few == "keeps 1 of 80 rows, most go by repeated_id (70)"
    assert _few(chats.account(80, {"too_long": 40})) == _few({"docs_in": 9, "docs_out": 1}) == _few({}) == ""
    assert _few({"rows_in": 5, "rows_kept": 0}) == "keeps 0 of 5 rows"
    (notice,) = notices.grouped([f"reward: {few}", f"dpo/off_policy: {few}"])
    assert notice.title == "Most rows are dropped" and notice.where == ["reward", "dpo/off_policy"]
