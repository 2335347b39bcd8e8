"""The lines that end a run: what there is and no more, commands that work, and the same numbers as in the report."""

import runpy
import shlex
from pathlib import Path
from xml.etree import ElementTree

import printed
import pyarrow as pa
import pytest

from cluster import storage, terminal
from cluster.shards import LEDGER, ledger_rows
from ray_jobs import cli
from ray_jobs.config import reader as recipes
from ray_jobs.report import page, summary
from ray_jobs.run.locate import Keys
from ray_jobs.run.run import Run
from ray_jobs.training import data_order

PAGES = [{"doc_id": f"{i:032x}", "url": f"https://x.example/{i}?a=b&c='d'", "source_id": None} for i in range(4)]
CORPUS = ("crawl", "extract", "language", "filter/policy", "dedup")
EVERY = [*CORPUS, "tokenize", "evaluate"]


def manifest(run, stage, **fields):
    made = {
        "stage": stage,
        "fingerprint": "f",
        "seconds": 2.0,
        "hosts": ["elsewhere"],
        "versions": {},
        "config": {},
        "inputs": {},
    }
    storage.write_json(storage.join(run.uri, stage, "_manifest.json"), {**made, **fields})


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Four pages read, one of them a near-duplicate; no model yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    run = Run("a run", recipes.load("demo"))
    storage.write_text(storage.join(run.uri, "recipe.yaml"), recipes.resolved(run.recipe))
    storage.write_table(storage.join(run.uri, "crawl", "part-00000.parquet"), pa.Table.from_pylist(PAGES))
    keys = Keys()
    keys.add(pa.RecordBatch.from_pylist(PAGES, pa.schema([(name, pa.string()) for name in PAGES[0]])))
    keys.write(run.uri, "part-00000.parquet")
    near = {**{key: PAGES[2][key] for key in ("doc_id", "url")}, "lang": "th", "rule": "near_duplicate", "detail": "x"}
    ledger = pa.Table.from_batches([ledger_rows("dedup", [near])], LEDGER)
    storage.write_table(storage.join(run.uri, "dropped", "dedup", "part-00000.parquet"), ledger)
    for stage in CORPUS:
        kept = 3 if stage == "dedup" else 4
        rules = {"near_duplicate": 1} if stage == "dedup" else {}
        langs = {"?": 4} if stage in ("crawl", "extract") else {"th": 2, "en": kept - 2, "lo": 0}
        manifest(run, stage, docs_in=4, docs_out=kept, docs_per_lang=langs, bytes_per_lang=langs, rules=rules)
    return run


def evaluated(run):
    """`run` with a trained model."""
    scores = {
        "base": {"th": 3.0, "lo": 3.0, "en": 2.0},
        "pretrain/stage2": {"th": 2.5, "lo": 2.9, "en": 2.2},
        "control/stage2": {"th": 2.5, "lo": 2.9, "en": 2.3},
    }
    rows = [
        {"model": model, "lang": lang, "doc_id": str(i), "bytes": 100, "tokens": 9, "bits": 100 * value + i % 2}
        for model, by_lang in scores.items()
        for lang, value in by_lang.items()
        for i in range(4)
    ]
    storage.write_table(storage.join(run.uri, "evaluate", "documents.parquet"), pa.Table.from_pylist(rows))
    heldout = {lang: {"documents": 4, "bytes": 400, "tokens": 36} for lang in scores["base"]}
    storage.write_json(storage.join(run.uri, "evaluate", "metrics.json"), {"bits_per_byte": scores, "heldout": heldout})
    manifest(run, "tokenize", tokens=12_345, tokens_per_lang={"th": 12_345}, docs_in=3, docs_out=3, bytes=3000)
    storage.write_table(storage.join(run.uri, "tokenize", "heldout.parquet"), pa.table({"doc_id": ["a"]}))
    manifest(run, "evaluate", warnings=["a: read more than 4 times", "b: read more than 4 times"])
    manifest(run, "dpo/watch", prompts=50, last={"win_rate": 0.6, "language_consistency": 0.9})
    page.write(run)


def shown(run, capsys):
    terminal.show(summary.lines(summary.of("a run", run.recipe, [stage.name for stage in run.stages])))
    text = capsys.readouterr().out
    printed.check(text)
    return text


def test_a_finished_run(run, capsys):
    evaluated(run)
    text = shown(run, capsys)
    assert text.splitlines()[1:9] == [
        "demo: 4 pages read, 3 kept in 2 languages: 12.3 k tokens",
        "learnt: most Thai 3.00 -> 2.50, least Lao 3.00 -> 2.90 bits per byte",
        "known before: English 2.00 -> 2.20 (forgotten)",
        "expansion: protected them: -0.100 (95 % interval -0.100 to -0.100)",
        "chat model: preferred to the SFT model in 60% of 50 questions (46% to 72%)",
        "warnings: 2, of one kind; the report says what to do",
        "report: a run/report/index.html",
        "try next: a near-duplicate; every stage; a report of what there is",
    ]
    assert len(text.splitlines()) == 12
    html = storage.read_bytes(f"{run.uri}/report/index.html").decode()
    assert "most in Thai 3.00 → 2.50, least in Lao 3.00 → 2.90" in html and "English 2.00 → 2.20 (forgotten)" in html
    assert "60% of 50 questions" in html and html.index("<svg") < html.index('class="cards"')
    assert html.count("Pools are read too often") == 1 and "a, b" in html


def test_a_run_until_dedup_has_commands_that_work(run, capsys):
    text = shown(run, capsys)
    assert "4 pages read, 3 kept in 2 languages\n" in text
    assert not any(word in text for word in ("learnt", "known", "chat", "warnings", "report:"))
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith(" " * 8)]
    assert [command[:2] for command in commands] == [["pinisi", name] for name in ("explain", "status", "report")]
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            cli.main(command[1:])
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        assert command[1] != "explain" or "near_duplicate" in said.out
    assert "report: " in shown(run, capsys)  # which there is now


@pytest.mark.parametrize("stage", EVERY)
@pytest.mark.parametrize("text", ["{", '{"docs_in": "many"}', "[]"])
def test_a_manifest_that_cannot_be_read_is_left_out(run, capsys, stage, text):
    evaluated(run)
    storage.write_text(storage.join(run.uri, stage, "_manifest.json"), text)
    assert "try next: " in shown(run, capsys)


def test_a_url_that_cannot_be_shown_is_an_id(run):
    assert summary._named({"doc_id": "a1", "url": "https://x.example/\x1b[2J"}) == "a1"
    assert summary._named({"doc_id": "a1", "url": None}) == "a1"


def test_the_step_to_trace_is_of_a_stage_that_reads_the_mixture(run):
    assert summary.ORDER == data_order.FILE
    for stage, want in (("base", " --stage base"), ("pretrain/stage1", "")):
        manifest(run, stage, steps=9)
        storage.write_text(storage.join(run.uri, stage, "order.json"), "{}")
        found = summary.of("a run", run.recipe, [*CORPUS, "base", "pretrain/stage1"])
        assert summary.commands(found, "pinisi")[1][1] == f"pinisi trace 'a run' 4{want}"


def test_pages_alone_make_a_report_and_no_picture(run):
    html = storage.read_bytes(page.write(run)).decode()
    assert (
        "4 pages read, 3 kept" in html
        and "<svg" not in html[: html.index('class="cards"')]
        and "pinisi explain" in html
    )
    assert "3 were kept (75%)" in html and "Bits per byte" not in html


def test_the_pictures_of_readme_need_no_font_and_no_page_colour(run, tmp_path):
    script = runpy.run_path(str(Path(__file__).parents[3] / "docs" / "plots" / "of_a_run.py"))
    with pytest.raises(SystemExit, match="has no evaluated model"):
        script["main"](run.uri, tmp_path)
    evaluated(run)
    drawn = script["main"](run.uri, tmp_path)
    assert [path.name for path in drawn] == ["learnt.svg", "funnel.svg"]
    for path in drawn:
        svg = path.read_text("utf-8")
        tree = ElementTree.fromstring(svg)
        assert "<text" not in svg and "font-family" not in svg
        first = next(element for element in tree.iter() if element.tag.endswith("}path"))
        assert "fill: #ffffff" in first.get("style")
