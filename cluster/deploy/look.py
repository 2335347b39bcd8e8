"""`pinisi cluster check`: what a cluster file lacks, what may go wrong, and what nobody looked at, or was asked."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from cluster import terminal
from cluster.deploy.findings import Finding

SECONDS = 30.0  # for one question


@dataclass(frozen=True)
class Seen:
    """A finding, and what the command of an unseen one answered: `answer` is None where it was not asked."""

    finding: Finding
    answer: str | None = None
    good: bool = False

    @property
    def state(self) -> str:
        if self.answer is None:
            return self.finding.state
        return "answered" if self.good else "missing"


def asked(findings: Sequence[Finding], seconds: float = SECONDS) -> list[Seen]:
    """Run the command of every finding that is `unseen`. A program that is not installed leaves it unseen."""
    return [_ask(one, seconds) if one.state == "unseen" and one.command else Seen(one) for one in findings]


def _ask(finding: Finding, seconds: float) -> Seen:
    words = shlex.split(finding.command)
    if shutil.which(words[0]) is None:
        return Seen(finding)
    try:
        done = subprocess.run(
            words, check=False, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return Seen(finding)
    said = (done.stdout if done.returncode == 0 else done.stderr).strip() or "nothing"
    return Seen(finding, said.splitlines()[-1] if done.returncode else said, done.returncode == 0)


def as_json(seen: Sequence[Seen]) -> list[dict[str, str | None]]:
    """One mapping for each finding."""
    return [
        {
            "state": one.state,
            "key": one.finding.key,
            "text": one.finding.text,
            "command": one.finding.command or None,
            "answer": one.answer,
        }
        for one in seen
    ]


TITLES = {
    "missing": "Missing: render refuses it, or a cloud said no",
    "warning": "Warnings",
    "answered": "Asked, for you to judge",
    "unseen": "Not looked at: run these, or say --online",
}


def show(seen: Sequence[Seen], path: str) -> None:
    """Print it, the worst first."""
    for state, title in TITLES.items():
        rows = [one for one in seen if one.state == state]
        if not rows:
            continue
        print(f"{title} ({len(rows)})")
        for one in rows:
            print(terminal.clean(f"  {one.finding.key}: {one.finding.text}"))
            if one.finding.command:
                print(terminal.clean(f"      {one.finding.command}"))
            for line in (one.answer or "").splitlines():
                print(terminal.clean(f"      > {line}"))
    if not any(one.state == "missing" for one in seen):
        print(f"{path}: nothing is missing as far as the file says")
