"""The pages of sample/source are whole: heads, shells, gold, sizes, copies only where they are marked, valid rows."""

import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from ray_jobs.config.reader import SAMPLE
from train.chat import conversations
from train.selection import preference

SOURCE = SAMPLE / "source"
LANGUAGES = ("my", "ceb", "ilo", "id", "jv", "km", "lo", "ms", "su", "tl", "th", "vi", "war", "en", "zh")
UNSPACED = {"th", "lo", "km", "my", "zh"}
TYPES = {"article", "forum", "qa", "listing", "product", "documentation", "howto", "news", "notice"}
LEAST_BYTES = {"en": 75_000, "zh": 75_000}  # of main text on ordinary pages; the others 35,000
BLOCKS = {"p", "li", "h1", "h2", "h3", "h4", "tr", "td", "th", "div", "br", "dt", "dd", "pre", "blockquote"}


class Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.pieces, self.hidden = [], 0

    def handle_starttag(self, tag, attributes):
        self.hidden += tag in ("script", "style")
        self.pieces.append("\n" if tag in BLOCKS else "")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data):
        self.pieces.append("" if self.hidden else data)


def text(html):
    parser = Text()
    parser.feed(html)
    return re.sub(r"[ \t]*\n\s*", "\n", re.sub(r"[ \t]+", " ", "".join(parser.pieces))).strip()


def read(lang):
    """slug -> (head, gold) of the pages of a language."""
    pages = {}
    for path in sorted((SOURCE / lang / "pages").glob("*.html")):
        head, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", path.read_text("utf-8"), re.DOTALL).groups()
        assert body.count("<!-- main -->") == body.count("<!-- /main -->"), path
        gold = re.findall(r"<!-- main -->(.*?)<!-- /main -->", body, re.DOTALL)
        pages[path.stem] = (dict(line.split(": ", 1) for line in head.splitlines()), "\n".join(map(text, gold)))
    return pages


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request):
    return request.param, read(request.param)


def test_heads_and_shells(language):
    lang, pages = language
    shells = {path.stem: path.read_text("utf-8") for path in (SOURCE / lang / "sites").glob("*.html")}
    assert len(shells) >= 4 and all(shell.count("{{main}}") == 1 for shell in shells.values())
    for slug, (head, _) in pages.items():
        assert {"url", "site", "type", "title", "lang", "fate"} <= head.keys(), slug
        assert head["site"] in shells and head["type"] in {*TYPES, "service"}, slug
        assert re.fullmatch(r"https?://[a-z0-9.-]+\.example(/\S*)?", head["url"]), slug
        assert re.fullmatch(r"kept|dropped: \w+", head["fate"]), slug
        assert head.get("near", slug) in pages, slug
    urls = Counter(head["url"] for head, _ in pages.values())
    twice = {slug for slug, (head, _) in pages.items() if urls[head["url"]] > 1 and "near" not in head}
    assert len(twice) == sum(count > 1 for count in urls.values())


def test_enough_of_every_kind(language):
    lang, pages = language
    ordinary = {slug: page for slug, page in pages.items() if page[0]["fate"] == "kept" and "near" not in page[0]}
    assert sum(len(gold.encode()) for _, gold in ordinary.values()) >= LEAST_BYTES.get(lang, 35_000)
    kinds = Counter(head["type"] for head, _ in ordinary.values())
    assert all(kinds[kind] >= 2 for kind in TYPES), kinds
    assert all(len(gold) >= (450 if lang in UNSPACED else 800) for _, gold in ordinary.values())
    fates = {head["fate"].removeprefix("dropped: ") for head, _ in pages.values()}
    assert {"error_page", "garbled", "empty", "duplicate", "language_outside", "spam"} <= fates


def test_only_marked_pages_are_copies(language):
    lang, pages = language
    n, grams = (10 if lang in UNSPACED else 5), {}
    for slug, (_, gold) in pages.items():
        units = re.sub(r"\s", "", gold.lower()) if lang in UNSPACED else gold.lower().split()
        grams[slug] = {tuple(units[i : i + n]) for i in range(len(units) - n + 1)}
    ordinary = [slug for slug, (head, _) in pages.items() if head["fate"] == "kept" and "near" not in head]
    alike = [
        (a, b)
        for i, a in enumerate(ordinary)
        for b in ordinary[:i]
        if len(grams[a] & grams[b]) > 0.15 * min(len(grams[a]), len(grams[b]))
    ]
    assert alike == []
    for slug, (head, _) in pages.items():
        if "near" in head:
            shared = len(grams[slug] & grams[head["near"]]) / len(grams[slug] | grams[head["near"]])
            assert shared > 0.15, (slug, shared)


def rows(lang, name):
    return [json.loads(line) for line in (SOURCE / lang / f"{name}.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    "name, validate, least", [("chats", conversations.validate, 40), ("preference", preference.validate, 25)]
)
def test_conversations_and_pairs_are_valid(lang, name, validate, least):
    found = rows(lang, name)
    assert all(row["lang"] == lang for row in found) and len({row["id"] for row in found}) == len(found) >= least
    kept, rejects = validate(found)
    assert rejects == [] and len(kept) == len(found)
    if name == "preference":  # length does not give it away
        longer = sum(len(row["rejected"]) > len(row["chosen"]) for row in found)
        assert 0.35 * len(found) <= longer <= 0.65 * len(found)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_evaluation_rows(lang):
    options, answers = rows(lang, "eval_options"), rows(lang, "eval_answers")
    assert len(options) >= 25 and len(answers) >= 25
    assert all(len(set(row["options"])) == 4 for row in options)
    assert max(Counter(row["answer"] for row in options).values()) <= len(options) / 3
    assert all(row["answers"] and all(answer in row["context"] for answer in row["answers"]) for row in answers)
