"""sample/: its pages are whole (heads, shells, gold, sizes, copies only where marked), packed, and its rows valid."""

import gzip
import io
import json
import re
import unicodedata
from collections import Counter

import pytest
from fastwarc.warc import ArchiveIterator

from curation.extract.encoding import decode
from curation.sources.warc import read_warc
from ray_jobs.config.reader import SAMPLE
from sample import pack
from train.chat import conversations
from train.selection import preference

LANGUAGES = pack.LANGUAGES
UNSPACED = {"th", "lo", "km", "my", "zh"}
TYPES = ("article", "forum", "qa", "listing", "product", "documentation", "howto", "news", "notice")
LEAST_BYTES = {"en": 75_000, "zh": 75_000}  # of main text on ordinary pages; the others 35,000


def read(lang):
    """slug -> (head, gold) of the pages of a language."""
    return {page["page"].partition("/")[2]: (page, pack.part(page["body"], "main")) for page in pack.pages(lang)}


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request):
    return request.param, read(request.param)


def test_heads_and_shells(language):
    _, pages = language
    shells = {head["site"]: head["shell"] for head, _ in pages.values()}
    assert len(shells) >= 4 and all(shell.count("{{main}}") == 1 for shell in shells.values())
    for slug, (head, _) in pages.items():
        assert {"url", "type", "title", "date", "lang", "fate"} <= head.keys(), slug
        assert head["type"] in {*TYPES, "service"}, slug
        for name in ("main", "optional"):
            assert head["body"].count(f"<!-- {name} -->") == head["body"].count(f"<!-- /{name} -->"), slug
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
    return [json.loads(line) for line in (SAMPLE / name / f"{lang}.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    "name, validate, least", [("instruct", conversations.validate, 40), ("preference", preference.validate, 25)]
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
    options, answers = rows(lang, "eval/options"), rows(lang, "eval/answers")
    assert len(options) >= 25 and len(answers) >= 25
    assert all(len(set(row["options"])) == 4 for row in options)
    assert max(Counter(row["answer"] for row in options).values()) <= len(options) / 3
    assert all(row["answers"] and all(answer in row["context"] for answer in row["answers"]) for row in answers)


def test_the_readme_has_the_counts():
    readme = (SAMPLE / "README.md").read_text("utf-8")
    kinds, pages = Counter(), 0
    for lang in LANGUAGES:
        found = pack.pages(lang)
        types = Counter(page["type"] for page in found)
        good = [page for page in found if page["fate"] == "kept"]
        kinds += Counter(page["fate"].removeprefix("dropped: ") for page in found if page["fate"] != "kept")
        text_kb = round(sum(len(pack.part(page["body"], "main").encode()) for page in good) / 1000)
        counts = [*(types[kind] for kind in (*TYPES, "service")), len(found), len(good), text_kb]
        assert re.search(rf"^\| {lang}, \w+ \| ", readme, re.MULTILINE), lang
        assert f" | {' | '.join(map(str, counts))} |\n" in readme, (lang, counts)
        pages += len(found)
    assert f"{pages} pages in fifteen languages" in readme
    for kind, count in kinds.items():
        assert f"| `{kind}` | {count} | " in readme, kind
    for folder in ("instruct", "preference", "eval/options", "eval/answers", "judged"):
        assert f"| `{folder}/<language>.jsonl` | {sum(len(rows(lang, folder)) for lang in LANGUAGES)} " in readme, (
            folder
        )


# ---- packed


def packed(lang):
    """[(headers of the record, its block)] and the rows of the gold, as they lie in sample/."""
    data = (SAMPLE / "warc" / f"{lang}.warc.gz").read_bytes()
    found = [
        (dict(record.headers), record.reader.read()) for record in ArchiveIterator(io.BytesIO(data), parse_http=False)
    ]
    with gzip.open(SAMPLE / "gold" / f"{lang}.jsonl.gz", "rt", encoding="utf-8") as file:
        return found, [json.loads(line) for line in file]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_is_committed_is_what_the_source_packs(lang):
    source = pack.pages(lang)
    again = "run `python sample/pack.py` and commit what it writes"
    assert gzip.decompress((SAMPLE / "warc" / f"{lang}.warc.gz").read_bytes()) == b"".join(pack.archive(source)), again
    assert gzip.decompress((SAMPLE / "gold" / f"{lang}.jsonl.gz").read_bytes()) == pack.gold_lines(source), again


@pytest.mark.parametrize("lang", LANGUAGES)
def test_records_are_read_as_the_gold_says(lang):
    found, gold = packed(lang)
    assert found[0][0]["WARC-Type"] == "warcinfo"
    assert [head["WARC-Record-ID"] for head, _ in found[1:]] == [row["id"] for row in gold]
    assert len({row["id"] for row in gold}) == len(gold)
    pages, errors = [], []
    for batch, ledger in read_warc(str(SAMPLE / "warc" / f"{lang}.warc.gz"), source="web"):
        pages += batch.to_pylist()
        errors += ledger.to_pylist()
    answered = {page["source_id"]: page for page in pages}
    assert {row["rule"] for row in errors} <= {"http_status"}
    assert [row["id"] for row in gold if row["id"] not in answered] == [
        row["id"] for row in gold if row["fate"] == "dropped: error_page" and row["url"] in {e["url"] for e in errors}
    ]
    for row in gold:
        if row["id"] in answered and row["encoding"] != "zawgyi":
            page = answered[row["id"]]
            text = unicodedata.normalize("NFC", pack.plain(decode(page["payload"], page["charset_hint"])))
            assert page["url"] == row["url"] and ("\ufffd" in text) == ("\ufffd" in row["text"]), row["page"]
            assert all(line in text for line in row["text"].split("\n")), row["page"]


def test_archives_are_small():
    assert sum(path.stat().st_size for path in (SAMPLE / "warc").iterdir()) <= 3_000_000


def test_legacy_pages_are_in_their_encodings():
    pages = {page["page"]: page for lang in LANGUAGES for page in pack.pages(lang) if "encoding" in page}
    assert Counter(page["encoding"] for page in pages.values()) == {
        **{"windows-1252": 8, "windows-1258": 1, "windows-874": 1, "gb18030": 2, "utf-16": 3, "zawgyi": 1}
    }
    payloads = {name: pack.payload(page) for name, page in pages.items()}
    for name, page in pages.items():
        if page["encoding"] not in ("zawgyi", "windows-1252"):
            with pytest.raises(UnicodeDecodeError):
                payloads[name].decode("utf-8")
        if page["encoding"] == "utf-16":
            assert payloads[name].startswith(b"\xff\xfe") and pack.content_type(page).endswith("utf-16")
    assert "chiê\u0301u".encode("cp1258") in payloads["vi/det-chieu"]
    assert b"charset=gb2312" in payloads["zh/list-jiushu"]


@pytest.mark.parametrize(
    "unicode, glyphs",
    [
        ("မြန်မာ", "ျမန္မာ"),
        ("ကျောင်း", "ေက်ာင္း"),
        ("ကြောင့်", "ေၾကာင့္"),
        ("ကြီး", "ႀကီး"),
        ("ပြု", "ျပဳ"),
        ("များ", "မ်ား"),
        ("ပေါ်", "ေပၚ"),
        ("သင်္ဘော", "သေဘၤာ"),
        ("အင်္ဂါ", "အဂၤါ"),
        ("နေ့", "ေန႔"),
        ("နှစ်", "ႏွစ္"),
        ("ညွှန်", "ၫႊန္"),
        ("ရွှေ", "ေရႊ"),
        ("မှု", "မႈ"),
        ("ထုံးစံ", "ထံုးစံ"),
        ("စက္ကူ", "စကၠဴ"),
        ("ပတ္တမြား", "ပတၱျမား"),
        ("ကျွန်ုပ်", "ကၽြန္ုပ္"),
        ("ဦး", "ဦး"),
        ("no Burmese 12", "no Burmese 12"),
    ],
)
def test_unicode_to_zawgyi(unicode, glyphs):
    assert pack.zawgyi(unicode) == glyphs
