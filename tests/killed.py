"""A run that is killed hard."""

import os
import signal

import psutil


def kill(run):
    """SIGKILL `run`, and return when the processes that it had started are gone."""
    family = [p for p in psutil.Process(run.pid).children(recursive=True) if "Agent" not in p.name()]
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    psutil.wait_procs(family, timeout=60)
