"""`pinisi experiment hand-check`: the run that is judged, and the table of what has been."""

import pytest

from ray_jobs import cli
from ray_jobs.commands import inspect
from ray_jobs.run.run import Run


@pytest.mark.parametrize("given", [["--from", "runs/mine"], ["--run-dir", "runs/new"]])
def test_which_run_is_judged(monkeypatch, given):
    judged, ran = [], []
    monkeypatch.setattr(inspect, "main", lambda options: judged.append(options) or 0)
    monkeypatch.setattr(Run, "execute", lambda run, **options: ran.append((run.uri, options["until"])))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["experiment", "hand-check", *given, "--as", "srey"])
    assert exit_.value.code in (0, None)
    assert (judged[0].run, judged[0].name, judged[0].scores) == (given[1], "srey", False)
    assert [(uri.endswith("runs/new"), stage) for uri, stage in ran] == (
        [] if given[0] == "--from" else [(True, "quality")]
    )


def test_the_table_of_a_run_that_is_none(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["experiment", "hand-check", "--from", str(tmp_path), "--json"])
    assert exit_.value.code == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1
