"""A change of a kernel in one module reaches the kernels of other modules that were compiled with it."""

import os
import subprocess
import sys
from pathlib import Path

from cluster import kernel_files

ROOT = Path(__file__).parents[2]
INNER = "import numba\n\n@numba.njit(cache=True)\ndef inner(x):\n    return x * {factor}\n"
OUTER = (
    "import numba\nfrom curation.inner import inner\n\n@numba.njit(cache=True)\ndef outer(x):\n    return inner(x)\n"
)


def test_an_edited_callee_is_compiled_anew(tmp_path):
    for name in kernel_files.PACKAGES:
        (tmp_path / name).mkdir()
    (tmp_path / "curation" / "__init__.py").write_text(
        f"import pathlib\nfrom kernel_files import drop_stale\ndrop_stale(pathlib.Path({str(tmp_path)!r}))\n"
    )
    (tmp_path / "kernel_files.py").write_bytes((ROOT / "cluster" / "kernel_files.py").read_bytes())
    (tmp_path / "curation" / "outer.py").write_text(OUTER)

    def answer() -> str:
        code = "from curation.outer import outer; print(outer(10), sum(outer.stats.cache_hits.values()))"
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout.strip()

    (tmp_path / "curation" / "inner.py").write_text(INNER.format(factor=2))
    assert answer() == "20 0"
    assert answer() == "20 1", "what is not changed is not compiled again"
    (tmp_path / "curation" / "inner.py").write_text(INNER.format(factor=33))
    assert answer() == "330 0"
    assert answer() == "330 1"


def test_a_folder_that_cannot_be_written_is_left(tmp_path, monkeypatch):
    for name in kernel_files.PACKAGES:
        (tmp_path / name).mkdir()
    kernel = tmp_path / "curation" / "a.nbi"
    kernel.write_bytes(b"x")
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError("read-only")))
    assert kernel_files.drop_stale(tmp_path) == 0
    assert kernel.exists()
