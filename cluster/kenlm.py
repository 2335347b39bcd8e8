"""Where KenLM's command-line tools lie, which `cluster/kenlm.sh` builds: they are in no package."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

SCRIPT = "cluster/kenlm.sh"


def tool(name: str) -> str | None:
    """The path of `lmplz` or `build_binary`: in $PINISI_KENLM, in ~/.cache/pinisi/kenlm, or on PATH; None when not built."""
    folder = os.environ.get("PINISI_KENLM") or Path.home() / ".cache" / "pinisi" / "kenlm"
    built = Path(folder) / name
    return str(built) if built.is_file() else shutil.which(name)
