"""`pinisi status RUN --page`: a page that loads itself anew while somebody works on the run, and not any more afterwards."""

import json
import re
import time

import pytest

from cluster import storage
from ray_jobs import cli
from ray_jobs.commands import status
from ray_jobs.config import reader as recipes
from ray_jobs.run.run import Run

RECIPE = {
    "name": "far",
    "languages": ["km", "en"],
    "sources": [{"name": "s", "type": "jsonl", "path": "/only/there/*.jsonl", "optional": True}],
}
HOLDER = {"host": "head", "pid": 1, "started": 0.0, "holder": "x", "beat": 1}


@pytest.fixture
def run(tmp_path):
    run = Run(str(tmp_path / "run"), recipes.parse(RECIPE, "test"))
    storage.write_text(f"{run.uri}/recipe.yaml", recipes.resolved(run.recipe))
    manifest = {"fingerprint": "f", "config": {}, "inputs": {}, "code": "older", "hosts": ["head"], "config_hash": "x"}
    counts = {
        "docs_in": 12_345,
        "docs_out": 9_876,
        "bytes": 5_000_000,
        "seconds": 90.0,
        "warnings": ["<script>bad</script>"],
    }
    storage.write_json(f"{run.uri}/crawl/_manifest.json", manifest | counts)
    storage.write_json(f"{run.uri}/extract/_started.json", {"fingerprint": "g"})
    found = {"done": 30, "total": 120, "unit": "shards", "before": 0, "lately": [20, 10.0], "at": time.time()}
    storage.write_json(f"{run.uri}/extract/_progress.json", found)
    return run


def read(target) -> str:
    return storage.read_bytes(str(target)).decode()


def test_it_says_what_status_says_and_runs_no_script(run, tmp_path, capsys):
    storage.write_json(f"{run.uri}/_lock.json", {**HOLDER, "at": time.time()})
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", run.uri, "--page", str(tmp_path / "out" / "a.html")])
    assert not ended.value.code
    assert "extract" in capsys.readouterr().out  # the table is printed as ever
    html = read(tmp_path / "out" / "a.html")
    assert "30/120 shards" in html and '<progress max="120" value="30"' in html
    assert "12,345" in html and "9,876" in html and "1 m 30 s" in html
    assert "<script" not in html and "&lt;script&gt;bad" in html
    assert 'http-equiv="refresh"' not in html  # nobody writes it again
    assert re.search(r"script-src|default-src 'none'", html) and not re.search(r'(src|href)="', html)


def test_the_losses_so_far_are_drawn_with_languages_in_words(run, tmp_path):
    record = {"step": 3, "tokens": 900, "loss": 4.5, "loss_by_language": {"km": 4.0, "en": 5.0}}
    record |= {"bits_per_byte": {"km": 2.0}, "bits_per_byte_change": {"km": -0.5}}
    name = "pretrain/stage1"
    recipe = recipes.load("demo")
    trained = Run(run.uri, recipe)
    storage.write_text(f"{run.uri}/metrics/{name.replace('/', '-')}.jsonl", f"{json.dumps(record)}\n" * 3)
    storage.write_json(f"{run.uri}/{name}/_started.json", {"fingerprint": "g"})
    status.write_page(trained, status.rows(trained), str(tmp_path / "b.html"))
    html = read(tmp_path / "b.html")
    assert "Losses so far" in html and "<svg" in html and "var(--c0)" in html
    assert re.search(r"<td>Khmer \(km\)</td><td>4.000</td><td>2.000</td><td>-0.500</td>", html)
    assert re.search(r"<td>English \(en\)</td><td>5.000</td><td></td><td></td>", html)


def test_watching_writes_it_anew_and_the_last_one_stands_still(run, tmp_path, monkeypatch):
    storage.write_json(f"{run.uri}/_lock.json", {**HOLDER, "at": time.time()})
    target, seen = tmp_path / "c.html", []

    def sleep(seconds):
        seen.append(read(target))
        if len(seen) == 2:
            storage.remove(f"{run.uri}/_lock.json")

    monkeypatch.setattr(status.time, "sleep", sleep)
    assert status.watch(run.uri, 30, page=str(target)) == 1  # the run ended before its end
    assert len(seen) == 2 and all('http-equiv="refresh" content="30"' in html for html in seen)
    assert 'http-equiv="refresh"' not in read(target)


def test_a_place_that_cannot_be_written_is_one_sentence(run, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", run.uri, "--page", str(tmp_path / "file" / "x.html")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--page" in said and "Traceback" not in said
