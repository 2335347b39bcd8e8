"""`python tests/standard_names.py FOLDER…` with any Python: what that version cannot read, lacks, or is about to drop.

Reads every module below the folders, runs none; so it needs nothing but the standard library. One line per fault.
"""

import ast
import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

SHIPPED_BEFORE_312 = {"pkg_resources", "setuptools"}  # an environment holds these no longer


def faults(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        yield f"{path}: {error}"
        return
    names = {}  # what a module of the standard library is called here -> the module
    wanted = []  # (module, attribute, line)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                wanted.append((alias.name, None, node.lineno))
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            wanted += [(node.module, alias.name, node.lineno) for alias in node.names]
            names.update({alias.asname or alias.name: None for alias in node.names})
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and names.get(node.value.id):
            wanted.append((names[node.value.id], node.attr, node.lineno))
    for module, attribute, line in wanted:
        if fault := missing(module, attribute):
            yield f"{path}:{line}: {fault}"


def missing(module: str, attribute: str | None) -> str | None:
    """What is wrong with `from module import attribute`, where `module` is of the standard library."""
    top = module.partition(".")[0]
    if top in SHIPPED_BEFORE_312:
        return f"{top} is in no new environment"
    if top not in KNOWN:
        return None
    try:
        found = importlib.import_module(module)
        if attribute and not hasattr(found, attribute):
            importlib.import_module(f"{module}.{attribute}")
    except DeprecationWarning as warning:
        return str(warning)
    except ImportError:
        return f"no {module}{f'.{attribute}' if attribute else ''} in Python {sys.version.split()[0]}"
    return None


REMOVED = (
    "asynchat asyncore distutils imp smtpd aifc audioop cgi cgitb chunk crypt imghdr lib2to3 mailcap nntplib pipes"
)
KNOWN = sys.stdlib_module_names | set(f"{REMOVED} sndhdr spwd sunau telnetlib uu xdrlib".split())  # in 3.12 and 3.13

if __name__ == "__main__":
    warnings.simplefilter("error")
    found = [fault for folder in sys.argv[1:] for path in sorted(Path(folder).rglob("*.py")) for fault in faults(path)]
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
