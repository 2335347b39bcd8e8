"""docs/ as a site: every page is in its navigation and found from docs/index.md, links lead on, and nothing asks another host."""

import importlib.util
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
hook = importlib.util.module_from_spec(
    importlib.util.spec_from_file_location("site_pages", ROOT / "docs/site_pages.py")
)
hook.__spec__.loader.exec_module(hook)
OWN = {path.name: f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
SOURCES = {**OWN, **{page: source for source, page in hook.PAGES.items() if not page.startswith("files/")}}


def in_nav(entries):
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from in_nav(value) if isinstance(value, list) else [value]


def linked(page):
    """Pages of the site that a page of it links to."""
    source = SOURCES[page]
    text = hook.written(source)
    text = hook.rewritten(text, source, page) if source.endswith(".md") else text
    targets = [(one[1] or one[3]).partition("#")[0] for one in hook._outside_code(hook.LINK.findall, text)]
    return {os.path.normpath(PurePosixPath(page).parent / target) for target in targets if target.endswith(".md")}


def test_every_page_is_in_the_navigation_once():
    assert sorted(in_nav(CONFIG["nav"])) == sorted(SOURCES)


def test_every_page_is_found_from_the_index():
    found, waiting = set(), ["index.md"]
    while waiting:
        page = waiting.pop()
        if page not in found and page in SOURCES:
            found.add(page)
            waiting += linked(page)
    assert sorted(SOURCES.keys() - found) == []


def test_the_index_itself_names_every_page_of_docs():
    assert sorted(OWN.keys() - linked("index.md") - {"index.md"}) == []


@pytest.mark.parametrize(
    ("source", "page", "text", "expected"),
    [
        ("docs/cluster.md", "cluster.md", "[a](recipe.md#fetch) [b](#x)", "[a](recipe.md#fetch) [b](#x)"),
        ("docs/cluster.md", "cluster.md", "[a](../README.md#two-commands)", "[a](overview.md#two-commands)"),
        ("README.md", "overview.md", "[a](docs/cluster.md#rates)", "[a](cluster.md#rates)"),
        ("README.md", "overview.md", "[`train/`](train) [e](examples)", "`train/` [e](examples/index.md)"),
        ("docs/index.md", "index.md", "[e](../examples) [s](../sample)", "[e](examples/index.md) [s](sample.md)"),
        ("README.md", "overview.md", "[r]: benchmarks/results/a.json", "[r]: files/benchmarks/results/a.json.md"),
        ("docs/curation.md", "curation.md", "![p](plots/a.svg)", "![p](plots/a.svg)"),
        ("sample/README.md", "sample.md", "[s](source/README.md)", "[s](files/sample-source.md)"),
        ("README.md", "overview.md", "[w](https://example.org/a)", "[w](https://example.org/a)"),
        (
            "README.md",
            "overview.md",
            "- a\n  - b\n\n```sh\n  [x](train)\n```\n",
            "- a\n    - b\n\n```sh\n  [x](train)\n```\n",
        ),
    ],
)
def test_links_and_lists_of_both_places(source, page, text, expected):
    assert hook.rewritten(text, source, page) == expected


class Loaded(HTMLParser):
    """What a browser loads to show a page, and how many tables it has."""

    def __init__(self):
        super().__init__()
        self.addresses, self.tables = [], 0

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tables += tag == "table"
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.addresses.append(values.get("src") or "")
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev", "edit"):
            self.addresses.append(values.get("href") or "")


@pytest.mark.slow
@pytest.mark.skipif(not MKDOCS.exists(), reason="no .venv-docs; make docs makes it")
def test_the_site_is_whole_and_asks_no_other_host(tmp_path):
    """`--strict` fails on a link or anchor that leads nowhere and on a page that no navigation has."""
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [str(MKDOCS), "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert built.returncode == 0, built.stderr
    for page, source in SOURCES.items():
        html = (tmp_path / page).with_suffix(".html").read_text("utf-8")
        seen = Loaded()
        seen.feed(html)
        assert seen.addresses and [one for one in seen.addresses if re.match(r"(https?:)?//", one)] == [], page
        if source.endswith(".md"):
            text = "".join(hook._outside_code(lambda piece: [piece], (ROOT / source).read_text("utf-8")))
            assert seen.tables >= len(re.findall(r"^\|[-:| ]+\|$", text, re.MULTILINE)), (
                page
            )  # more where code has numbers
    outside = re.compile(r"""(?:url\(|@import)\s*["']?(?:https?:)?//""")
    assert [path for path in tmp_path.rglob("*.css") if outside.search(path.read_text("utf-8"))] == []
    index = (tmp_path / "search" / "search_index.json").read_text("utf-8")
    assert all(f'"{Path(page).with_suffix(".html")}' in index for page in SOURCES)
    assert "files/benchmarks" not in index
    kernels = (tmp_path / "examples" / "kernels_on_parquet.html").read_text("utf-8")
    assert "parse_args" in kernels and "highlight" in kernels
