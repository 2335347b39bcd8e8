"""mkdocs hook: what the site has beside the pages of docs/, and links that work both there and on the forge.

README.md and the like become pages of their own, examples become pages that show their code, and so does each file that a page
links to (`files/`). A link to a folder becomes its words. Indented lines get twice their spaces: on the forge two are enough
below a list, Python's Markdown wants four.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "sample/README.md": "sample.md",
    "sample/source/README.md": "files/sample-source.md",
    "examples/README.md": "examples/index.md",
    **{f"examples/{path.name}": f"examples/{path.stem}.md" for path in sorted((ROOT / "examples").glob("*.py"))},
}
"""File of the repository -> its page, below docs/."""

CODE = re.compile(r"^ *(```+)\w*\n.*?^ *\1$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)|^(\[[^\]]+\]: )(\S+)$", re.MULTILINE)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json"}


def on_config(config: Any) -> Any:
    config.mdx_configs.setdefault("toc", {})["slugify"] = lambda title, _: anchor(title)
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    own = [ROOT / "docs" / file.src_uri for file in files.documentation_pages()]
    texts = {page: written(source) for source, page in PAGES.items()}
    for path in [*own, *(ROOT / source for source in PAGES if source.endswith(".md"))]:
        for target in (one[1] or one[3] for one in _outside_code(LINK.findall, path.read_text("utf-8"))):
            to = _path(target, path.relative_to(ROOT).as_posix())
            if to and (ROOT / to).is_file() and page_of(to).startswith("files/"):
                texts.setdefault(page_of(to), written(to))
    for page, text in texts.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    sources = {there: source for source, there in PAGES.items()}
    if page.file.src_uri.startswith(("files/", "examples/")) and not sources.get(page.file.src_uri, "").endswith(".md"):
        return markdown
    return rewritten(markdown, sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"), page.file.src_uri)


def anchor(title: str) -> str:
    """The forge's: letters, digits, hyphens and underscores of a heading, in lower case, spaces as hyphens."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def page_of(path: str) -> str:
    """The page, below docs/, of a file of the repository; of a folder that of its README.md."""
    path = f"{path}/README.md" if f"{path}/README.md" in PAGES else path
    if path in PAGES or path.startswith("docs/"):
        return PAGES.get(path) or path.removeprefix("docs/")
    return f"files/{path}.md"


def written(path: str) -> str:
    """The text of the page of a file: Markdown as it is, of anything else the code."""
    if path.endswith(".md"):
        return (ROOT / path).read_text("utf-8")
    hidden = "---\nsearch: {exclude: true}\n---\n\n"
    text = (ROOT / path).read_text("utf-8")
    shown = f"# {path}\n\n````{LANGUAGES.get(Path(path).suffix, 'text')}\n{text.rstrip()}\n````\n"
    return shown if path in PAGES else hidden + shown


def rewritten(markdown: str, source: str, page: str) -> str:
    """The text of `source`, a file of the repository, for the page `page`, with links to pages of the site."""

    def link(match: re.Match) -> str:
        words, target, defined, of_defined = match.groups()
        to = _path(target or of_defined, source)
        if to is None:
            return match[0]
        if (ROOT / to).is_dir() and page_of(to).startswith("files/"):
            return words.strip("[]") if words else ""
        there = os.path.relpath(page_of(to), PurePosixPath(page).parent)
        _, hash_, fragment = (target or of_defined).partition("#")
        return f"{words}({there}{hash_}{fragment})" if words else f"{defined}{there}{hash_}{fragment}"

    def pieces(text: str) -> list[str]:
        return [re.sub(r"^( +)(?=\S)", r"\1\1", LINK.sub(link, text), flags=re.MULTILINE)]

    return "".join(_outside_code(pieces, markdown, keep=True))


def _path(target: str, source: str) -> str | None:
    """The file or folder of the repository that a link of `source` leads to; None for a link that stays as it is."""
    name = target.partition("#")[0]
    if not name or "://" in name:
        return None
    return os.path.normpath(PurePosixPath(source).parent / name)


def _outside_code(function: Any, text: str, keep: bool = False) -> list:
    """What `function` finds in each piece of the text between blocks of code, and (`keep`) those blocks where they stand."""
    found, at = [], 0
    for block in CODE.finditer(text):
        found += [*function(text[at : block.start()]), *([block[0]] if keep else [])]
        at = block.end()
    return [*found, *function(text[at:])]
