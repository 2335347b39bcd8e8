"""How a command of ours ends: one sentence on stderr and exit code 2 when the user can mend it, else 1; signals."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from cluster import terminal
from ray_jobs.errors import StageFailed, UserError


def guarded(run: Callable[[], int | None]) -> None:
    """Call `run` and exit with its code; what it raises becomes one sentence and the exit code for it."""
    try:
        code = run()
    except UserError as error:
        _say(error)
        code = 2
    except StageFailed as error:
        _say(error)
        code = 1
    except KeyboardInterrupt:
        print("pinisi: stopped; the same command continues", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.stdout.flush()
    sys.exit(code or 0)


def terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a run as Ctrl-C does; sent again it changes nothing, what must be written is being written."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _say(error: Exception) -> None:
    print("pinisi:", "\n".join(map(terminal.clean, str(error).splitlines())), file=sys.stderr)
