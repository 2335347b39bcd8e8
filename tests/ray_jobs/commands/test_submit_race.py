"""Two submits in one second: one gets the number, the other one sentence, or the next number of another folder."""

import types

import pytest

from ray_jobs.commands import submit
from ray_jobs.errors import UserError

TAKEN = (
    "Request failed\nValueError: Job with submission_id demo-1 already exists. Please use a different submission_id.\n."
)


class Cluster:
    """Takes a job unless its number is given; `just_before` submits what another shell does between our look and our call."""

    def __init__(self, *just_before):
        self.jobs, self.just_before = {}, list(just_before)

    def list_jobs(self):
        return list(self.jobs.values())

    def submit_job(self, *, submission_id, metadata, **_):
        if self.just_before:
            self._add(submission_id, self.just_before.pop(0))
        if submission_id in self.jobs:
            raise RuntimeError(TAKEN)
        self._add(submission_id, metadata["run_dir"])

    def _add(self, name, run_dir):
        status = types.SimpleNamespace(is_terminal=lambda: False)
        self.jobs[name] = types.SimpleNamespace(submission_id=name, status=status, metadata={"run_dir": run_dir})


@pytest.fixture
def submitted(monkeypatch):
    def of(cluster):
        monkeypatch.setattr(submit, "connect", lambda address: cluster)
        recipe = "commoncrawl"
        return submit.submit(
            recipe,
            ["fetch.contact=lab@example.org"],
            [],
            address="http://h:8265",
            run_dir="s3://b/r",
            grace=1,
            code=False,
        )[1]

    return of


def test_the_loser_of_a_race_for_one_folder_is_told_who_won(submitted):
    with pytest.raises(UserError) as error:
        submitted(Cluster("s3://b/r"))
    assert str(error.value).startswith("s3://b/r: attempt commoncrawl-1 still works on it; ")
    assert "\n" not in str(error.value)


def test_races_for_the_number_alone_go_on_with_the_next(submitted):
    assert submitted(Cluster("s3://b/another", "s3://b/third")) == "commoncrawl-3"
    with pytest.raises(UserError, match="others submit runs called commoncrawl at the same time"):
        submitted(Cluster(*(f"s3://b/{i}" for i in range(9))))


def test_a_refusal_is_not_a_lone_full_stop(submitted):
    cluster = Cluster()
    cluster.submit_job = lambda **_: (_ for _ in ()).throw(RuntimeError("Request failed\nno room for a driver\n."))
    with pytest.raises(UserError, match=r"the cluster did not take the job: no room for a driver$"):
        submitted(cluster)
