"""How a command of ours ends: one sentence on stderr and exit code 2 when the user can mend it, else 1; signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from cluster import terminal
from ray_jobs.errors import StageFailed, UserError

STOP = "PINISI_STOP"  # environment variable: a file at whose appearance the run stops as by SIGTERM
EXIT = "PINISI_EXIT"  # another, which gets the exit code: torchrun and srun give their own
WATCH_SECONDS = 0.3


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
    if (file := os.environ.get(EXIT)) and os.environ.get("RANK", "0") == "0":
        with open(file, "w", encoding="utf-8") as written:
            written.write(f"{code or 0}\n")
        if "RANK" in os.environ and code in (2, 130):  # told by the file; torchrun need not write a page about it
            code = 0
    sys.exit(code or 0)


def stop_by_file() -> None:
    """From now on the appearance of the file of PINISI_STOP, where that is set, is SIGTERM to this process."""
    file = os.environ.get(STOP)
    if not file:
        return

    def watch() -> None:
        while not os.path.exists(file):
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a run as Ctrl-C does; sent again it changes nothing, what must be written is being written."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _say(error: Exception) -> None:
    print("pinisi:", "\n".join(map(terminal.clean, str(error).splitlines())), file=sys.stderr)
