import json
from pathlib import Path

import pytest

from curation.lid.identify import load
from ray_jobs.cli import main

SENTENCES = {
    "en": "The {} goes to the market in the morning and comes back with {} before the rain of the evening.",
    "vi": "Con {} đi chợ vào buổi sáng và trở về với {} trước cơn mưa của buổi chiều.",
    "th": "{} ไปตลาดในตอนเช้าและกลับมาพร้อมกับ {} ก่อนฝนตกในตอนเย็น",
}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.fixture
def documents(tmp_path) -> str:
    rows = [
        {"lang": lang, "source": source, "text": sentence.format(number, number * 7)}
        for lang, sentence in SENTENCES.items()
        for number in range(60)
        for source in ("news", "web", "spam")
    ]
    return write(tmp_path / "documents.jsonl", rows)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(["train", "lid", *arguments])
    return done.value.code


def test_trains_measures_and_reports(documents, tmp_path, capsys):
    test = write(tmp_path / "test.jsonl", [{"lang": lang, "text": text} for lang, text in SENTENCES.items()])
    out = str(tmp_path / "model")
    options = ["--segments", "100", "--bits", "12", "--drop-source", "spam", "--test", test]
    assert run("--documents", documents, "--out", out, *options) == 0
    model = load(out)
    assert model.labels == ("en", "th", "vi", "other")
    report = json.loads((tmp_path / "model" / "report.json").read_text())
    assert report["dropped_sources"] == ["spam"] and report["sources"]["en"] == ["news", "web"]
    assert report["documents"] == {"en": 120, "th": 120, "vi": 120}
    assert report["test"]["all"]["all"]["macro_f1"] == 1.0
    assert 0 <= report["unseen_sources"]["calibration_error"] <= 1
    printed = capsys.readouterr().out
    assert "sources that the model had not seen" in printed and f"language: {{model: {out}}}" in printed


def test_the_same_command_gives_the_same_bytes(documents, tmp_path):
    for name in ("one", "two"):
        assert run("--documents", documents, "--out", str(tmp_path / name), "--segments", "100", "--bits", "10") == 0
    for name in ("model.json", "weights.safetensors", "report.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_wrong_use_is_one_sentence(documents, tmp_path, capsys):
    out = str(tmp_path / "model")
    broken = write(tmp_path / "broken.jsonl", [{"lang": "en"}])
    cases = [
        (["--documents", documents, "--drop-source", "books"], "no document is of the source books"),
        (["--documents", documents, "--languages", "en", "lo"], "too little text"),
        (["--documents", documents, "--bits", "40"], "--bits must be from 10 to 22"),
        (["--documents", broken], "a row has no text"),
        (["--documents", str(tmp_path / "none*.jsonl")], "no file matches"),
    ]
    for options, sentence in cases:
        assert run("--out", out, *options) == 2
        assert sentence in capsys.readouterr().err
    assert not Path(out).exists()
