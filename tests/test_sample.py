"""The repository's own corpus is what sample/README.md says it is: counts, markup, special pages, chats and pairs."""

import json
import re
from collections import Counter

import pytest
from resiliparse.parse.html import HTMLTree

from curation.sources import documents
from ray_jobs.config.reader import SAMPLE
from train.chat import conversations as chat
from train.selection import preference

LANGUAGES = ("my", "ceb", "ilo", "id", "jv", "km", "lo", "ms", "su", "tl", "th", "vi", "war", "en", "zh")
UNSPACED = {"th", "lo", "km", "my", "zh"}
MIRRORS = {
    "en": "bees-in-town",
    "id": "perahu-kayu",
    "my": "khayanchin",
    "th": "hongsamut",
    "tl": "tindahan-sari-sari",
    "vi": "cho-noi",
    "zh": "yangtai-zhongcai",
}
LEGACY = {"th/loi-krathong-874.html": "cp874", "zh/laochaguan-gb18030.html": "gb18030"}
BROKEN, EMPTY, SPAM = "special/broken-truncated.html", "special/empty-menu.html", "special/spam-cheap-shoes.html"
SHORT, FULL = "id/perpustakaan-sore-cetak.html", "id/perpustakaan-sore.html"
OUTSIDE = {"de/windmuehle.html", "sw/soko-la-samaki.html"}
SPECIAL = {f"{lang}/mirror-{slug}.html" for lang, slug in MIRRORS.items()} | OUTSIDE | {BROKEN, EMPTY, SPAM, SHORT}

PAGES = {path.relative_to(SAMPLE / "pages").as_posix(): path for path in sorted(SAMPLE.glob("pages/*/*.html"))}
ORDINARY = [name for name in PAGES if name not in SPECIAL]


def tree(name):
    return HTMLTree.parse(PAGES[name].read_bytes().decode(LEGACY.get(name, "utf-8")))


def paragraphs(name):
    nodes = tree(name).document.query_selector_all("article p:not(.byline):not(.updated), article div > p")
    return [" ".join(node.text.split()) for node in nodes]


def url(name):
    ((rows, _),) = documents.read_html(str(PAGES[name]), source="pages")
    return rows["url"][0].as_py()


def shingles(name):
    text = "\n".join(paragraphs(name)).lower()
    parts = "".join(text.split()) if name.partition("/")[0] in UNSPACED else text.split()
    return {tuple(parts[i : i + 5]) for i in range(len(parts) - 4)}


def test_every_language_has_six_ordinary_pages():
    counts = Counter(name.partition("/")[0] for name in ORDINARY)
    assert set(counts) == set(LANGUAGES)
    assert min(counts.values()) >= 6


def test_the_readme_lists_the_counts_and_every_special_page():
    readme = (SAMPLE / "README.md").read_text("utf-8")
    for lang in LANGUAGES:
        pages = sum(name.startswith(f"{lang}/") for name in PAGES)
        chats, pairs = (len(rows(SAMPLE / kind / f"{lang}.jsonl")) for kind in ("instruct", "preference"))
        assert f"| {lang} | {pages} | {chats} | {pairs} |" in readme
    assert [name for name in sorted(SPECIAL | set(LEGACY)) if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_page_is_a_whole_page(name):
    lang = name.partition("/")[0]
    page = tree(name)
    assert page.document.query_selector("html").getattr("lang") == lang
    assert page.title.strip()
    for selector in ("header", "nav a", "article h1, article h2", "article p", "footer", "aside a, .related-posts a"):
        assert page.document.query_selector(selector) is not None, selector
    assert sum(map(len, paragraphs(name))) >= (600 if lang in UNSPACED else 900)
    assert re.fullmatch(r"https://[a-z0-9-]+\.example/[a-z0-9/-]+", url(name))


def test_only_one_url_is_used_twice_and_its_full_page_is_the_longer():
    counts = Counter(url(name) for name in PAGES if name != BROKEN)
    assert [link for link, n in counts.items() if n > 1] == [url(FULL)] == [url(SHORT)]
    assert sum(map(len, paragraphs(FULL))) > sum(map(len, paragraphs(SHORT)))


@pytest.mark.parametrize("lang", MIRRORS)
def test_a_mirror_is_a_near_duplicate_and_no_exact_one(lang):
    original, mirror = f"{lang}/{MIRRORS[lang]}.html", f"{lang}/mirror-{MIRRORS[lang]}.html"
    assert url(original) != url(mirror)
    first, second = shingles(original), shingles(mirror)
    assert 0.8 < len(first & second) / len(first | second) < 1


def test_no_other_pages_come_near_the_near_duplicate_threshold():
    known = {f"{lang}/mirror-{slug}.html" for lang, slug in MIRRORS.items()} | {SHORT}
    sets = {name: shingles(name) for name in PAGES if name not in known and name not in (EMPTY, BROKEN)}
    names = sorted(sets)
    alike = [
        (a, b) for i, a in enumerate(names) for b in names[:i] if len(sets[a] & sets[b]) > 0.2 * len(sets[a] | sets[b])
    ]
    assert alike == []


def test_pages_outside_the_set_say_their_language():
    langs = {tree(name).document.query_selector("html").getattr("lang") for name in OUTSIDE}
    assert langs == {"de", "sw"}


@pytest.mark.parametrize("name", LEGACY)
def test_a_legacy_page_is_not_utf8_and_names_its_charset(name):
    payload = PAGES[name].read_bytes()
    with pytest.raises(UnicodeDecodeError):
        payload.decode("utf-8")
    assert b"windows-874" in payload if name.startswith("th") else b"gb18030" in payload
    assert "\ufffd" not in "".join(paragraphs(name))


def test_the_broken_page_is_broken():
    payload = PAGES[BROKEN].read_bytes()
    with pytest.raises(UnicodeDecodeError):
        payload.decode("utf-8")
    assert b"</article>" not in payload
    assert url(BROKEN) == "broken-truncated.html"


def test_the_empty_page_has_links_and_no_prose():
    page = tree(EMPTY)
    assert page.document.query_selector("nav a") is not None
    assert page.document.query_selector("article").text.strip() == ""
    assert page.document.query_selector("p") is None


def test_the_spam_page_repeats_itself():
    words = " ".join(paragraphs(SPAM)).lower().split()
    grams = Counter(tuple(words[i : i + 5]) for i in range(len(words) - 4))
    assert sum(n for n in grams.values() if n > 1) / sum(grams.values()) > 0.9


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    "kind, validate, total", [("instruct", chat.validate, 60), ("preference", preference.validate, 40)]
)
def test_chat_rows_are_valid_for_the_chain(kind, validate, total):
    files = sorted((SAMPLE / kind).glob("*.jsonl"))
    assert {path.stem for path in files} == set(LANGUAGES)
    everything = [row for path in files for row in rows(path)]
    assert all(row["lang"] == path.stem for path in files for row in rows(path))
    assert len({row["id"] for row in everything}) == len(everything) >= total
    kept, rejects = validate(everything)
    assert rejects == []
    assert len(kept) == len(everything)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_chats_per_language(lang):
    assert len(rows(SAMPLE / "instruct" / f"{lang}.jsonl")) >= (12 if lang in ("en", "zh", "th", "id", "vi") else 4)
