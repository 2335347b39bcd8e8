"""`pinisi train words` on files written here: a folder that a recipe's `filter.word_lists` takes."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pytest

from cluster import storage
from curation.signals import word_lists
from ray_jobs import cli

THAI = ["แม่ไปตลาดทุกวัน", "ตลาดอยู่ไม่ไกลจากบ้าน แม่ไปซื้อปลา", "ปลาอยู่ในน้ำ แม่ไปตลาด"]
ENGLISH = ["The boat is at the pier.", "The ferry of the island", "Fish and rice of the market"]


def call(*arguments) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(arguments))
    return exit_.value.code


def rows(lang: str, texts: list[str], n: int) -> list[dict]:
    return [{"id": i, "lang": lang, "text": texts[i % len(texts)]} for i in range(n)]


def test_from_jsonl_and_parquet(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    with gzip.open(data / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows("th", THAI, 40) + rows("war", ["an isda"], 3))
    storage.write_table(str(data / "b.parquet"), pa.Table.from_pylist(rows("en", ENGLISH, 60)))
    arguments = ["train", "words", "--documents", str(data / "*"), "--size", "3", "--min-documents", "20"]
    arguments += ["--min-evenness", "0", "--out"]
    assert call(*arguments, str(tmp_path / "lists")) == 0
    found = word_lists.read(str(tmp_path / "lists"))
    assert set(found) == {"en", "th"}
    assert found["en"]["stop_words"][:2] == ("the", "of")
    assert {"แม่", "ไป"} <= set(found["th"]["stop_words"])
    assert "war: 3 documents, fewer than 20: no list" in capsys.readouterr().out
    assert "documents: 40" in (tmp_path / "lists" / "th.yaml").read_text(encoding="utf-8")
    assert call(*arguments, str(tmp_path / "again")) == 0
    for name in ("en.yaml", "th.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "lists" / name).read_bytes()


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (None, [], "no file matches"),
        ('{"lang": "en"}', [], "has no text in the field 'text'"),
        ('{"lang": "en", "text": "a"}', [], "no language has 200 documents"),
        ('{"lang": "en", "text": "a"}', ["--size", "0"], "must be at least 1"),
        ("{", [], "not JSON"),
    ],
)
def test_errors(tmp_path, capsys, content, more, message):
    if content:
        (tmp_path / "a.jsonl").write_text(content + "\n")
    assert call("train", "words", "--documents", str(tmp_path / "*.jsonl"), "--out", str(tmp_path / "o"), *more) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
