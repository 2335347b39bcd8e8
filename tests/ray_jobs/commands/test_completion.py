"""`pinisi completion`: what real shells complete; zsh and fish where they are installed."""

import shutil
import subprocess
import sys

import pytest

from ray_jobs import cli
from ray_jobs.commands import completion
from ray_jobs.config.reader import RECIPES
from ray_jobs.experiment.specification import shipped
from ray_jobs.run.graph import ROUNDS, STAGES


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The script of each shell, as the command prints it."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in completion.SHELLS:
        command = [sys.executable, "-m", "ray_jobs.cli", "completion", shell]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        (folder / shell).write_text(said.stdout)
    return folder


def bash(scripts, *words):
    """What bash offers for the last of `words`."""
    body = f'source "{scripts}/bash"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _pinisi; printf "%s\\n" "${{COMPREPLY[@]}}"'
    said = subprocess.run(["bash", "-c", body, "bash", "pinisi", *words], capture_output=True, text=True, check=True)
    assert said.stderr == ""
    return said.stdout.split()


def test_bash_completes_commands_flags_recipes_and_stages(scripts):
    commands = {"run", "submit", "status", "plan", "doctor", "cluster", "train", "completion", "tokens", "weights"}
    assert commands <= set(bash(scripts, ""))
    assert bash(scripts, "stat") == ["status"]
    assert set(bash(scripts, "--")) == {"--help", "--version"}
    assert bash(scripts, "cluster", "") == ["render", "check"]
    assert set(bash(scripts, "run", "")) == {path.stem for path in RECIPES.glob("*.yaml")}
    assert bash(scripts, "run", "dem") == ["demo", "demo-full"]
    assert set(bash(scripts, "experiment", "")) == set(shipped())
    assert set(bash(scripts, "run", "demo", "--")) >= {"--until", "--from", "--only", "--set", "--dry-run", "--run-dir"}
    assert bash(scripts, "status", "runs/demo", "--w") == ["--watch"]
    assert set(bash(scripts, "run", "demo", "--until", "")) >= {stage.name for stage in STAGES} | {*ROUNDS, "sft"}
    assert bash(scripts, "run", "demo", "--only", "pretrain/") == ["pretrain/stage1", "pretrain/stage2"]
    assert bash(scripts, "cluster", "render", "x.yaml", "--target", "k") == ["kuberay"]
    assert bash(scripts, "status", "run", "--") != bash(scripts, "run", "status", "--")  # the first word is the command
    assert bash(scripts, "plan", "demo", "--cluster", "") == []  # files, which bash then offers by itself


@pytest.mark.parametrize(
    ("shell", "check"), [("bash", ["-n"]), ("zsh", ["-f", "-n"]), ("fish", ["--no-config", "--no-execute"])]
)
def test_the_script_is_one(scripts, shell, check):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    said = subprocess.run([shell, *check, str(scripts / shell)], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")


def test_fish_completes(scripts):
    if shutil.which("fish") is None:
        pytest.skip("no fish here")

    def fish(line):
        body = f'source "{scripts}/fish"; complete -C "{line}"'
        said = subprocess.run(["fish", "--no-config", "-c", body], capture_output=True, text=True, check=True)
        assert said.stderr == ""
        return [words.split("\t")[0] for words in said.stdout.splitlines()]

    assert fish("pinisi stat") == ["status"]
    assert fish("pinisi run demo --only pretrain/") == ["pretrain/stage1", "pretrain/stage2"]
    assert fish("pinisi completion ") == ["bash", "fish", "zsh"]


def test_every_command_and_flag_is_in_every_script(scripts):
    found = list(completion.commands(cli._parser()))
    assert {"", "cluster render", "train lid"} <= {command.path for command in found}
    for shell in completion.SHELLS:
        text = (scripts / shell).read_text()
        for command in found:
            assert command.path in text
            for name in (name for flag in command.flags for name in flag.names):
                assert (name.lstrip("-") if shell == "fish" else name) in text
