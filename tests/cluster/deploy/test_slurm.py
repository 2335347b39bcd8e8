"""The scripts of `pinisi submit --slurm`, without Slurm: what they ask for, what they do with signals and exit codes, what a user
is told. tests/e2e/test_slurm_run.py runs them under a real slurmctld."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from cluster.deploy import render, slurm_spec, spec
from cluster.deploy import slurm as scripts
from ray_jobs import cli
from ray_jobs.commands import slurm
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError

EXAMPLE = Path(spec.__file__).parents[1] / "slurm.yaml"
CLOUD = EXAMPLE.with_name("cluster.yaml")
GROUPS = [
    {"name": "curate", "role": "cpu", "cpus": 4, "memory_gb": 8, "max_nodes": 2},
    {"name": "train", "role": "gpu", "cpus": 8, "memory_gb": 64, "gpus": 4, "max_nodes": 2},
]
PLACE = scripts.Place("demo", "/scratch/runs/demo", "python", {})


def cluster(nodes=GROUPS, **keys):
    return spec.Cluster.model_validate({"name": "lab", "run_dir": "/scratch/runs", "groups": nodes, "slurm": keys})


@pytest.fixture(scope="module")
def recipe():
    return recipes.load("demo", ["train.workers=8"])


def test_a_section_may_be_empty():
    assert cluster().head.cpus == 1 and cluster().slurm.ray
    with pytest.raises(ValidationError, match="head"):  # of a cloud there is always one
        spec.Cluster.model_validate(
            {**cluster().model_dump(include={"name", "run_dir"}), "slurm": {}, "kubernetes": {}}
        )
    with pytest.raises(ValidationError, match="head"):
        spec.Cluster.model_validate({"name": "lab", "run_dir": "/scratch/runs", "groups": GROUPS, "slurm": None})


def test_with_ray_curation_and_training_are_two_jobs_and_each_asks_for_its_own_group(recipe):
    own = {"partition": "gpu", "qos": "long", "time": "2-00", "constraint": "h100&ib", "options": ["--exclusive"]}
    file = cluster(partition="cpu", account="lab", groups={"train": own})
    curate, train = slurm.steps(file, recipe, "/scratch/runs/demo", [])
    assert (curate.name, curate.kind, train.name, train.kind) == ("curate", "ray", "train", "ray")
    assert curate.commands[0][-2:] == ("--until", "tokenize")
    asked = scripts.options(file, train, PLACE)
    assert {"--partition=gpu", "--account=lab", "--qos=long", "--constraint=h100&ib", "--time=48:00:00"} <= set(asked)
    assert {"--nodes=2", "--cpus-per-task=8", "--gres=gpu:4", "--signal=B:USR1@300", "--requeue"} <= set(asked)
    assert asked[-1] == "--exclusive"
    asked = scripts.options(file, curate, PLACE)
    assert {"--partition=cpu", "--account=lab", "--cpus-per-task=4", "--mem=8G"} <= set(asked)
    assert not any("gres" in option or "qos" in option for option in asked)


def test_without_ray_each_stage_that_works_part_by_part_is_an_array_that_others_wait_for(recipe):
    file = cluster(ray=False, array=16)
    made = slurm.steps(file, recipe, "/scratch/runs/demo", [])
    arrays = [step.name for step in made if step.kind == "array"]
    assert arrays == ["crawl", "extract", "language", "filter-signals", "filter-policy"]
    assert made[-1].kind == "ranks" and made[-2].commands[0][-2:] == ("--until", "tokenize")
    assert "--array=0-15%2" in scripts.options(file, made[1], PLACE)
    jobs = [str(number) for number in range(len(made))]
    waits = [scripts.dependency(step, jobs[:i]) for i, step in enumerate(made) if i]
    assert waits[:3] == [
        "afterok:0",
        "afterok:0,afterany:1",
        "afterok:2",
    ]  # an array may fail: what it leaves is done after it
    assert waits[-1] == f"afterok:{jobs[-2]}"
    left = slurm.steps(file, recipe, "/scratch/runs/demo", [], done=["crawl", "extract"])
    assert [step.name for step in left][:2] == ["before-language", "language"]
    parts = ["crawl", "extract", "language", "filter/signals", "filter/policy"]
    assert [step.name for step in slurm.steps(file, recipe, "/scratch/runs/demo", [], done=parts)] == [
        "curate",
        "train",
    ]


def test_every_script_is_one_that_bash_reads_and_names_no_place_of_its_own(recipe, tmp_path):
    for keys in ({"ray": True}, {"ray": False}, {"ray": True, "apptainer": "/images/pinisi 1.sif", "interface": "ib0"}):
        file = cluster(**keys)
        for step in slurm.steps(file, recipe, "/scratch/runs/demo", []):
            text = scripts.script(file, step, PLACE)
            path = tmp_path / "one.sh"
            path.write_text(text)
            assert subprocess.run(["bash", "-n", path], capture_output=True, check=False).returncode == 0, text
            assert "BASH_SOURCE" not in text and "dirname" not in text  # sbatch runs a copy
            assert "ray stop" not in text and ("RAY_AUTH_TOKEN=$(" in text) == (step.kind == "ray")
            assert text.count("srun") == (1 if step.kind in ("ray", "ranks") else 0)
            assert all("--cpus-per-task" in line for line in text.splitlines() if line.startswith(("srun", "run srun")))
    assert "--nv" in text and "'/images/pinisi 1.sif'" in text and "NCCL_SOCKET_IFNAME=ib0" in text


@pytest.mark.parametrize("run_dir", ["mnt/SHARED/my runs", "it's/$HOME/SHARE/16/;x", "SHARE/ä`b`"])
def test_a_run_may_lie_in_a_folder_of_any_name(recipe, tmp_path, run_dir):
    """What the words of each command are when bash has read them."""
    place = tmp_path / run_dir
    (place / scripts.FOLDER).mkdir(parents=True)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >> {tmp_path}/words\n')
    python.chmod(0o755)
    file = cluster([{**GROUPS[0], "max_nodes": 1}, {**GROUPS[1], "max_nodes": 2}], ray=False)
    made = [step for step in slurm.steps(file, recipe, str(place), []) if step.kind != "ranks"]
    environment = os.environ | {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    for step in made:
        text = scripts.script(file, step, scripts.Place("demo", str(place), str(python), {}))
        subprocess.run(["bash", "-c", text], env=environment, check=True)
    told = [word for step in made for command in step.commands for word in ("-m", *command)]
    assert (tmp_path / "words").read_text().splitlines() == [{"SHARE/16": "3/16"}.get(word, word) for word in told]


@pytest.mark.parametrize(
    ("ends", "asked_again"),
    [
        ([0], 0),
        ([2], 0),  # the user's to mend
        (["USR1", "USR1", 0], 2),
        ([1, 1, 0], 2),
        ([1, 1, 1], 2),  # failures: 2
        (["TERM"], 0),  # scancel
        ([1, "USR1", 1, "USR1", "USR1", 0], 5),  # in all
    ],
)
def test_a_job_is_put_in_the_queue_again_after_its_signal_and_after_a_failure_and_else_not(tmp_path, ends, asked_again):
    """The script itself, with a `python` that waits for its stop file and a `scontrol` that writes down what it is told."""
    (tmp_path / "bin").mkdir()
    programs = {
        "scontrol": f'echo "$@" >> {tmp_path}/asked',
        "python": f"""
end=$(sed -n "$((SLURM_RESTART_COUNT + 1))p" {tmp_path}/ends)
if [ "$end" = USR1 ] || [ "$end" = TERM ]; then
    echo > {tmp_path}/working; until [ -e "$PINISI_STOP" ]; do sleep 0.01; done; end=130
fi
echo "$end" > "$PINISI_EXIT"
exit 1  # as torchrun, which has codes of its own
""",
    }
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "ends").write_text("".join(f"{end}\n" for end in ends))
    run_dir = str(tmp_path / "run")
    Path(run_dir, scripts.FOLDER).mkdir(parents=True)
    file = cluster(failures=2)
    step = scripts.Step("train", file.groups[0], (("ray_jobs.cli", "run"),))
    (tmp_path / "job.sh").write_text(
        scripts.script(file, step, scripts.Place("demo", run_dir, str(tmp_path / "bin/python"), {}))
    )
    codes = []
    for count, end in enumerate(ends):
        environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        environment["SLURM_RESTART_COUNT"] = str(count)
        job = subprocess.Popen(["bash", tmp_path / "job.sh"], env=environment, stdout=subprocess.DEVNULL)
        if isinstance(end, str):
            deadline = time.monotonic() + 20
            while not (tmp_path / "working").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            (tmp_path / "working").unlink()
            job.send_signal(getattr(signal, f"SIG{end}"))
        codes.append(job.wait(20))
    asked = (tmp_path / "asked").read_text().split("\n")[:-1] if (tmp_path / "asked").exists() else []
    assert asked == ["requeue 7"] * asked_again
    assert codes[:-1] == [0] * (len(ends) - 1)
    assert codes[-1] == (130 if ends[-1] == "TERM" else ends[-1])


def test_times_are_slurms():
    times = {"30": 1800, "2:30": 150, "1:00:00": 3600, "2-12": 216_000, "1-00:30": 88_200, "1-01:00:05": 90_005}
    assert {time: slurm_spec.seconds(time) for time in times} == times
    for wrong in ("soon", "1:2:3:4", "", "-1"):
        with pytest.raises(ValidationError, match="is no time limit"):
            cluster(time=wrong)


def rendered(tmp_path, *arguments, **changes) -> tuple[int, list[str]]:
    """The exit code of `pinisi cluster render` for the example with `changes`, and the files that it leaves."""
    file, out = tmp_path / "lab.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(yaml.safe_load(EXAMPLE.read_text()) | changes))
    with pytest.raises(SystemExit) as end:
        cli.main(["cluster", "render", str(file), "--out", str(out), *arguments])
    return end.value.code, sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


SLURMS = ["slurm/00-curate.sh", "slurm/01-train.sh", "slurm/recipe.yaml", "slurm/submit.sh"]


def test_the_example_is_rendered_into_jobs_and_a_script_that_submits_them(tmp_path):
    assert rendered(tmp_path) == (0, SLURMS)
    text = (tmp_path / "out" / "slurm" / "submit.sh").read_text()
    assert "--dependency=afterok:${job0} 01-train.sh" in text
    assert yaml.safe_load((tmp_path / "out" / "slurm" / "recipe.yaml").read_text())["base"]["name"] == "demo"


def test_what_submit_refuses_is_not_rendered_and_overrides_are(tmp_path, capsys):
    torchrun = {"slurm": {"ray": False}}
    assert rendered(tmp_path, "--target", "slurm", **torchrun) == (2, [])
    assert "give --set train.workers=16" in capsys.readouterr().err
    assert rendered(tmp_path, "--target", "slurm", "--set", "tokenize.tokenizer=a/folder/here") == (2, [])
    assert "a/folder/here is a path of this machine" in capsys.readouterr().err
    code, made = rendered(tmp_path, "--target", "slurm", "--set", "train.workers=16", **torchrun)
    assert code == 0 and len(made) > 10
    assert yaml.safe_load((tmp_path / "out" / "slurm" / "recipe.yaml").read_text())["base"]["train"]["workers"] == 16


def test_slurm_and_a_cloud_are_rendered_together_or_not_at_all(tmp_path, capsys):
    cloud = {key: value for key, value in yaml.safe_load(CLOUD.read_text()).items() if key not in ("gcp", "azure")}
    both = {**cloud, "slurm": {"shared": ["/"]}, "run_dir": "/scratch/runs"}
    assert rendered(tmp_path, **both) == (2, [])  # a bucket is what a cloud needs
    said = capsys.readouterr().err
    both["run_dir"] = cloud["run_dir"]
    code, made = rendered(tmp_path, **both)
    assert (code, [name for name in made if name.startswith("slurm/")]) == (0, []) and "ray-aws.yaml" in made, said
    assert "warning: nothing for Slurm, as run_dir" in capsys.readouterr().err
    assert rendered(tmp_path, "--target", "slurm", **both)[0] == 2
    assert "must be an absolute path" in capsys.readouterr().err


def test_the_rendered_script_submits_once_from_wherever_it_lies(tmp_path):
    """With a `squeue` that says what is in a file, and an `sbatch` that writes down what it is told."""
    run_dir, queue, asked = tmp_path / "all my runs" / "demo", tmp_path / "queue", tmp_path / "asked"
    file = cluster().model_copy(update={"run_dir": str(run_dir.parent)})
    here = Path(slurm.write(tmp_path / "out", slurm.rendered(file, "demo"))[-1])
    (tmp_path / "bin").mkdir()
    programs = {
        "squeue": f"cat '{queue}'",
        "sbatch": f"test -f recipe.yaml || exit 1\necho $@ >> '{asked}'\necho '5;lab'",
    }
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    def submit(script: Path) -> subprocess.CompletedProcess:
        environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        return subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False)

    assert submit(here).returncode and not run_dir.exists()  # squeue fails
    queue.write_text(f"pinisi:{run_dir}-2\n(null)\n")
    for script in (here, run_dir / scripts.FOLDER / "submit.sh"):
        done = submit(script)
        assert (done.returncode, done.stdout) == (0, "curate: 5\ntrain: 5\n"), done.stderr
    one = "--parsable --kill-on-invalid-dep=yes"
    assert asked.read_text() == f"{one} 00-curate.sh\n{one} --dependency=afterok:5 01-train.sh\n" * 2
    queue.write_text(f"(null)\npinisi:{run_dir} \n" + "(null)\n" * 20_000)
    (run_dir / scripts.FOLDER / "recipe.yaml").write_text("of the run in the queue")
    done = submit(here)
    assert done.returncode == 2 and "in Slurm's queue already" in done.stderr
    assert (run_dir / scripts.FOLDER / "recipe.yaml").read_text() == "of the run in the queue"
    assert asked.read_text().count("train") == 2


def told(tmp_path, monkeypatch, *, run_dir=None, programs=(), overrides=(), **keys):
    """What a user is told by a submit. `programs` are (name, what it prints) of those that are in the PATH."""
    (tmp_path / "bin").mkdir()
    for name, prints in programs:
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\ncat << END\n{prints}\nEND\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin" if programs else str(tmp_path / "bin"))
    file = tmp_path / "lab.yaml"
    file.write_text(
        yaml.safe_dump(
            {"name": "lab", "run_dir": str(tmp_path), "groups": GROUPS, "slurm": {"shared": [str(tmp_path)], **keys}}
        )
    )
    with pytest.raises(UserError) as error:
        slurm.submit("demo", list(overrides), [], file=str(file), run_dir=run_dir)
    return str(error.value)


PARTITION = "PartitionName=cpu AllowGroups=ALL MaxTime=1:00:00 State=UP"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "there is no sbatch on this machine"),
        ({"shared": []}, "a disk of this machine alone"),
        ({"run_dir": "s3://lab/runs"}, "give its absolute path"),
        ({"run_dir": "runs/demo"}, "give its absolute path"),
        ({"time": "5:00", "programs": True}, "time limit 5:00 of group curate is too short for a checkpoint"),
        ({"partition": "cpus", "programs": True}, "no partition cpus, which group curate asks for; there are cpu"),
        ({"partition": "cpu", "programs": True}, "partition cpu allows 1:00:00, less than the time of group curate"),
        ({"time": "1:00:00", "programs": True}, "in Slurm's queue already, as job 41"),
        ({"ray": False, "programs": True}, "group train has 2 nodes of 4 GPUs: give --set train.workers=8"),
        ({"overrides": ["train.workers=9"], "programs": True}, "give --set train.workers=8"),
        ({"overrides": ["train.device=cpu", "train.workers=17"], "programs": True}, "2 nodes of 8 CPUs"),
        ({"groups": {"gpus": {}}}, "there is no group gpus; the file has curate, train"),
    ],
)
def test_what_a_user_must_mend_is_one_sentence_before_anything_is_submitted(tmp_path, monkeypatch, given, sentence):
    given = dict(given)
    if given.pop("programs", False):
        queue = f"41 pinisi:{os.path.realpath(tmp_path)}/demo"
        given["programs"] = [("sbatch", "never"), ("scontrol", PARTITION), ("squeue", queue), ("scancel", "")]
    queued = tmp_path / "demo" / scripts.FOLDER / "recipe.yaml"
    queued.parent.mkdir(parents=True)
    queued.write_text("of the run in the queue")
    assert sentence in told(tmp_path, monkeypatch, **given)
    assert [path.read_text() for path in queued.parent.iterdir()] == ["of the run in the queue"]


def test_check_says_what_the_section_lacks_and_what_only_slurm_knows():
    found = render.check(cluster(account="lab", partition="cpu"))
    assert {(one.state, one.key) for one in found} == {
        ("unseen", "run_dir"), ("unseen", "slurm.partition"), ("unseen", "slurm.account")
    }  # fmt: skip
    assert "sinfo -h -p cpu -o '%P %D %c %m %G %l'" in {one.command for one in found}
    found = render.check(cluster(time="5:00").model_copy(update={"run_dir": "s3://lab/runs"}), "slurm")
    assert [one.key for one in found if one.state == "missing"] == ["run_dir", "slurm", "slurm"]
    assert "too short for a checkpoint" in found[1].sentence()
