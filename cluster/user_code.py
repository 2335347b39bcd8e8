"""Functions of the user's own, which a recipe names as `package.module:function`.

They are imported from wherever Python finds them, and from the folder in which the run was started.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path


def function(name: str, folder: str, key: str) -> Callable:
    """The function `name`. Raises ValueError naming the recipe key when it cannot be imported."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{key}: {name!r} must be written as package.module:function")
    _reach(folder)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the user's own lines
        raise ValueError(f"{key}: {name} cannot be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"{key}: {name} is not a function")
    return found


def files(name: str, folder: str) -> list[Path]:
    """The source file of the function's module and those that it imports of the same top-level package or folder, sorted."""
    _reach(folder)
    found: set[Path] = set()
    waiting = [name.partition(":")[0]]
    roots = {waiting[0].partition(".")[0]}
    while waiting:
        path = _file(waiting.pop())
        if path is None or path in found:
            continue
        found.add(path)
        roots |= {one.stem for one in path.parent.glob("*.py")} if not (path.parent / "__init__.py").exists() else set()
        for node in ast.walk(ast.parse(path.read_bytes())):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            waiting += [module for module in named if module.partition(".")[0] in roots]
    return sorted(found)


def _reach(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
