"""Whom Common Crawl may write to instead of blocking us: asked for once, kept in the user's own configuration.

The first of these that is there: `fetch.contact` of the recipe, the variable `PINISI_CONTACT`, and the file
`pinisi/contact` below `XDG_CONFIG_HOME` (`~/.config`), which the answer to the question is written to. What stands in the last
two is sent in the User-Agent of requests to `fetch.base` and to nobody else: no run, manifest, log or report holds it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import UserError

VARIABLE = "PINISI_CONTACT"
ADDRESS = re.compile(r"[!-~]+@[!-~]+|https?://[!-~]+")  # what may stand in a header
TRIES = 3  # answers that are no address, after which we stop asking


def needed(recipe: Recipe) -> bool:
    """Whether the recipe reads Common Crawl from a web server, which knows nothing of us but the User-Agent."""
    on_the_web = recipe.fetch.base.startswith(("http://", "https://"))
    return on_the_web and any(source.type == "commoncrawl" for source in recipe.sources)


def known(recipe: Recipe) -> str:
    """The address, empty where there is none. Raises UserError for one that cannot be one."""
    file = _file()
    places = {
        "fetch.contact": recipe.fetch.contact,
        VARIABLE: os.environ.get(VARIABLE, "").strip(),
        str(file): file.read_text("utf-8", errors="replace").strip() if file.is_file() else "",
    }
    for place, address in places.items():
        if address and not _is_one(address):
            raise UserError(f"{place}: {address!r} is neither an e-mail address nor a web address of yours")
        if address:
            return address
    return ""


def settle(recipe: Recipe) -> None:
    """See to it that the address is known that the recipe needs: on a terminal it is asked for and kept. Raises UserError."""
    if not needed(recipe) or known(recipe):
        return
    if sys.stdin is not None and sys.stdin.isatty():
        _keep(_asked(recipe.fetch.base))
        return
    raise UserError(
        f"fetch.contact: {recipe.fetch.base} is read under your name, so that it can write to you instead of blocking "
        f"you; give your e-mail address once, by `export {VARIABLE}=you@example.org` or `--set "
        "fetch.contact=you@example.org`, and run the same command again"
    )


def _asked(base: str) -> str:
    offered = _of_git()
    _say(
        f"{base} is read under your name, so that it can write to you instead of blocking you.\n"
        f"Your address is sent to it with each request, to nobody else, and kept in {_file()}."
    )
    for _ in range(TRIES):
        print(f"Your e-mail address{f' [{offered}]' if offered else ''}: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            break
        if _is_one(address := line.strip() or offered):
            return address
        _say("That is no e-mail address, such as you@example.org.")
    raise UserError(f"fetch.contact: no address was given; `export {VARIABLE}=you@example.org` gives one, too")


def _of_git() -> str:
    """The address of `git config user.email`, empty without git or without one."""
    if not shutil.which("git"):
        return ""
    asked = subprocess.run(["git", "config", "user.email"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if _is_one(asked.stdout.strip()) else ""


def _is_one(address: str) -> bool:
    return ADDRESS.fullmatch(address) is not None


def _file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "pinisi" / "contact"


def _keep(address: str) -> None:
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(_file(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(f"{address}\n")
    except OSError as error:
        os.environ[VARIABLE] = address
        _say(f"The address could not be kept ({error}), so it will be asked for again.")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
