"""The report's sections about data: each number against brute force over the documents, for any number of parts."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import numpy as np
import pytest
import reported_run
import xxhash
from reported_run import BOUNDS, there

from cluster import storage
from ray_jobs.alignment import probe_records
from ray_jobs.config import reader as recipes
from ray_jobs.report import page
from ray_jobs.report.data import clusters, examples, histograms, losses, parts, provenance, shown
from ray_jobs.report.data.provenance import Amount
from ray_jobs.run import adopted, graph
from ray_jobs.run.graph import DEDUP, LANGUAGE, POLICY, SIGNALS, TOKENIZE

SEED = 7
STAGES = ["crawl", LANGUAGE, SIGNALS, POLICY, DEDUP, TOKENIZE]


def near(doc: dict) -> int:
    return xxhash.xxh3_64_intdigest(doc["doc_id"].encode(), SEED)


@pytest.fixture(params=[1, 3, 11])
def made(request, tmp_path):
    """(URI, documents, manifests) of a run in so many parts."""
    docs = reported_run.documents(seed=request.param)
    return str(tmp_path), docs, reported_run.write(str(tmp_path), docs, request.param)


def html_of(uri: str, languages=("km", "en", "lo"), stages=None) -> str:
    source = {"name": "web", "type": "jsonl", "path": "/nothing/web.jsonl", "optional": True}
    recipe = recipes.parse({"name": "tiny", "seed": SEED, "languages": list(languages), "sources": [source]}, "test")
    return storage.read_bytes(page.written(uri, recipe, stages or STAGES)).decode()


def test_where_documents_are_from(made):
    uri, docs, manifests = made
    kept = there(docs, DEDUP)

    def counted(value):
        want = defaultdict(lambda: defaultdict(lambda: [0, 0]))
        for doc in kept:
            cell = want[value(doc)][doc["lang"]]
            cell[0] += 1
            cell[1] += 0 if doc["heldout"] else doc["n_tokens"]
        return {key: {lang: Amount(*cell) for lang, cell in of.items()} for key, of in want.items()}

    def site(doc):
        found = re.match(r"https?://(?:www\.)?([^/:]+)", doc["url"])
        return found[1].lower() if found else ""

    found = provenance.read(uri, manifests)
    assert found.unit == "tokens" and found.looked.whole and found.documents == len(kept)
    assert found.by == {
        "source": counted(lambda doc: doc["source"]),
        "site": counted(site),
        "captured": counted(lambda doc: doc["fetched_at"][:4]),
        "published": counted(lambda doc: doc["published"][:4]),
        "licence": counted(lambda doc: doc["licence"]),
    }
    heads, rows = provenance.table(found.by["source"])
    assert sorted(heads) == ["books", "web"] and [lang for lang, _ in rows] == ["en", "km"]
    assert sum(amounts[-1].documents for _, amounts in rows) == len(kept)
    first, rest = provenance.lines(found.by["site"], 3)
    assert len(first) == 3 and rest and sum(line.documents for line in [*first, rest]) == len(kept)
    untokenised = {name: one for name, one in manifests.items() if name != TOKENIZE}
    sizes = provenance.read(uri, untokenised)
    assert sizes.unit == "bytes"
    total = sum(one.tokens for langs in sizes.by["source"].values() for one in langs.values())
    assert total == sum(doc["n_bytes"] for doc in kept)


def test_a_column_that_the_run_does_not_keep_is_said_to_be_missing(tmp_path):
    docs = reported_run.documents(40)
    manifests = reported_run.write(str(tmp_path), docs, 2)
    for uri in storage.glob(f"{tmp_path}/dedup/part-*.parquet"):
        storage.write_table(uri, storage.read_table(uri).drop_columns(["licence", "published"]))
    found = provenance.section(provenance.read(str(tmp_path), manifests))
    assert found["missing"] == ["published", "licence"] and set(found["tops"]) == {"site", "captured"}
    assert "keeps no column for: published, licence" in html_of(str(tmp_path))


def test_rules_with_their_counts_and_the_documents_of_smallest_hash(made):
    uri, docs, manifests = made
    found = examples.section(uri, manifests, SEED)
    assert found.left_out == 0 and found.read == found.of
    want = defaultdict(list)
    for doc in docs:
        for rule, value, bound, _ in doc["fate"][1] if doc["fate"] else ():
            want[doc["fate"][0], rule, doc["lang"] or "?"].append((near(doc), doc, value, bound))
    seen = set()
    for rule in found.rules:
        of_rule = {key[2]: rows for key, rows in want.items() if key[:2] == (rule.stage, rule.name)}
        assert rule.rows == sum(map(len, of_rule.values()))
        assert rule.share == pytest.approx(rule.rows / manifests[rule.stage]["docs_in"])
        assert {one.lang: one.rows for one in rule.languages} == {lang: len(rows) for lang, rows in of_rule.items()}
        for one in rule.languages:
            values = [value for _, _, value, _ in of_rule[one.lang]]
            assert one.values == (min(values), max(values)) and one.bounds[0] == of_rule[one.lang][0][3]
        for lang, rows in of_rule.items():
            first = [doc for _, doc, _, _ in sorted(rows, key=lambda row: row[0])[: examples.OF_EACH]]
            mine = [one for one in rule.examples if one.lang == lang]
            assert [one.text.url for one in mine] == [doc["url"] for doc in first]
            begins = [" ".join(doc["text"].split())[:50] for doc in first]
            assert [one.text.pieces[0].text[:50] for one in mine] == begins
        seen |= {(rule.stage, rule.name, lang) for lang in of_rule}
    assert seen == set(want)
    kept = defaultdict(list)
    for doc in there(docs, DEDUP):
        kept[doc["lang"]].append(doc)
    assert {lang: [one.url for one in texts] for lang, texts in found.kept} == {
        lang: [doc["url"] for doc in sorted(of, key=near)[: examples.OF_EACH]] for lang, of in kept.items()
    }


def test_too_many_examples_are_shared_out(made, monkeypatch):
    uri, _, manifests = made
    monkeypatch.setattr(examples, "MOST", 5)
    found = examples.section(uri, manifests, SEED)
    assert sum(len(rule.examples) for rule in found.rules) == 5 and found.left_out > 0
    assert "examples are left out to keep the page small" in html_of(uri)


def test_histograms_drop_what_the_rules_dropped(made):
    uri, docs, _ = made
    found = histograms.section(uri)
    measured = there(docs, SIGNALS)
    cells = {(one.name, h.lang): h for one in (*found.dropping, *found.idle) for h in one.languages}
    assert {lang for _, lang in cells} == {"km", "en"}  # no page of Lao came
    for lang, rules in BOUNDS.items():
        for signal, bounds in rules.items():
            values = [doc[signal] for doc in measured if doc["lang"] == lang and doc[signal] is not None]
            if not values:
                assert (signal, lang) not in cells
                continue
            h = cells[signal, lang]
            rules_of = {f"{signal}_{bound}" for bound in bounds}
            broken = {
                doc["doc_id"]
                for doc in measured
                if doc["lang"] == lang and doc["fate"] and any(rule in rules_of for rule, *_ in doc["fate"][1])
            }
            assert (h.documents, h.broken, h.dropped) == (len(values), len(broken), len(broken) / len(values))
            assert dict(h.bounds) == bounds


@pytest.mark.parametrize("seed", range(70))
def test_every_document_is_in_a_bar_and_on_its_side_of_the_bound(seed):
    rng = np.random.default_rng(seed)
    kind = [np.float32, np.float64][seed % 2]
    kinds = (
        rng.random(9),
        rng.lognormal(3, 4, 9),
        np.zeros(4),
        -rng.random(7),
        [0.3, 0.3, 1e9, np.inf],
        [-np.inf, np.inf],
    )
    values = np.asarray((*kinds, rng.integers(0, 3, 9))[seed % 7]).astype(kind)
    middle = float(np.median([*values[np.isfinite(values)], 0.5]))
    bounds = [{"min": 0.3}, {"max": 0.3}, {"min": 0.1, "max": 50}, {"min": middle}, {"max": np.inf}][seed % 5]
    found = histograms.histogram("km", values, bounds)
    gone = np.zeros(len(values), bool)
    for bound, limit in bounds.items():
        gone |= values < kind(limit) if bound == "min" else values > kind(limit)
    assert found.broken == gone.sum()
    svg = str(found.picture)
    most = None
    counts = {}
    bars = {side: re.findall(r"M([\d.]+) [\d.]+v-([\d.]+)", _path(svg, side)) for side in ("keep", "drop")}
    for n in range(1, len(values) + 1):  # the highest bar is one of these counts: only one makes the sum right
        tops: Counter[str] = Counter()
        for of in bars.values():
            for x, height in of:
                tops[x] += float(height)
        counts = {x: (height / histograms.HEIGHT) ** 2 * n for x, height in tops.items()}
        if round(sum(counts.values())) == len(values):
            most = n
            break
    assert most and all(abs(n - round(n)) < 0.1 for n in counts.values())
    assert bool(bars["drop"]) == bool(gone.any()) and bool(bars["keep"]) == bool((~gone).any())
    marks = [float(x) for x in re.findall(r"M(-?[\d.]+) 0v", _path(svg, "bound"))]
    assert len(marks) == np.isfinite([*bounds.values()]).sum() and all(0 <= x <= histograms.WIDTH for x in marks)
    assert "nan" not in svg and "inf" not in svg


def _path(svg: str, name: str) -> str:
    found = re.search(rf'class="{name}" d="([^"]*)"', svg)
    return found[1] if found else ""


def test_clusters_are_the_connected_components_of_the_ledger(made):
    uri, docs, _ = made
    parent = {doc["doc_id"]: doc["fate"][1][0][3] for doc in docs if doc["fate"] and doc["fate"][0] == DEDUP}

    def end(name):
        return end(parent[name]) if name in parent else name

    members = defaultdict(list)
    for name in parent:
        members[end(name)].append(name)
    found = clusters.section(uri, SEED)
    assert (found.clusters, found.documents) == (len(members), len(parent))
    assert sum(n for _, n, _ in found.bands) == len(members) and sum(n for *_, n in found.bands) == len(parent)
    sizes = sorted((len(of) + 1 for of in members.values()), reverse=True)
    assert [one.size for one in found.largest] == sizes[: clusters.LARGEST]
    by_id = {doc["doc_id"]: doc for doc in docs}
    for one in found.largest:
        of = [by_id[name] for name in members[one.kept]]
        assert dict(one.rules) == Counter(doc["fate"][1][0][0] for doc in of)
        assert sum(n for _, n in one.sites) <= len(of)
        assert one.sample.url == min(of, key=near)["url"]


def test_a_ring_in_the_ledger_ends(tmp_path):
    docs = [{**doc, "fate": None} for doc in reported_run.documents(3)]
    for number, doc in enumerate(docs):
        doc["lang"] = "en"
        doc["fate"] = (DEDUP, [("near_duplicate", 0.9, 0.7, docs[(number + 1) % 3]["doc_id"])])
    reported_run.write(str(tmp_path), docs, 1)
    assert clusters.section(str(tmp_path), SEED).documents == 3


def test_losses_add_up(made):
    _, docs, manifests = made
    found = losses.section(manifests)
    assert [name for name, _ in found.stages] == [SIGNALS, POLICY, DEDUP, TOKENIZE]
    for row in found.rows:
        of = {stage: [d for d in there(docs, stage) if d["lang"] == row.lang] for stage in (LANGUAGE, POLICY, DEDUP)}
        size = {stage: sum(d["n_bytes"] for d in kept) for stage, kept in of.items()}
        trained = [d for d in of[DEDUP] if not d["heldout"]]
        left = sum(d["n_bytes"] for d in trained)
        assert (row.came, row.left) == (size[LANGUAGE], left)
        assert row.lost == [0, size[LANGUAGE] - size[POLICY], size[POLICY] - size[DEDUP], size[DEDUP] - left]
        assert row.tokens == sum(d["n_tokens"] for d in trained)
        assert row.lost_tokens[1] == pytest.approx(row.lost[1] * row.tokens / left, abs=1)
    assert found.total.came == sum(row.came for row in found.rows)
    assert found.total_tokens[2] == sum(row.lost_tokens[2] for row in found.rows)


def test_a_language_of_which_nothing_is_left_has_no_rate():
    sizes = [{"km": 100, "en": 50}, {"km": 0, "en": 50}]
    made = {
        LANGUAGE: {"bytes_per_lang": sizes[0]},
        TOKENIZE: {"bytes_per_lang": sizes[1], "tokens_per_lang": {"en": 10}},
    }
    found = losses.section(made)
    km = next(row for row in found.rows if row.lang == "km")
    assert (km.lost, km.lost_tokens, found.total_tokens) == ([100], [None], [None])
    assert losses.section({LANGUAGE: {"bytes_per_lang": {}}}) is None


def test_text_of_strangers_is_text_and_personal_data_are_masked(tmp_path):
    evil = "<script>alert(1)</script>\u202e<img src=x onerror=alert(2)> write to budi.santoso@gmail.com now"
    docs = reported_run.documents(60)
    for doc in docs:
        doc["text"], doc["url"] = evil, 'https://"><b>x</b>.example/<script>?mail=budi.santoso@gmail.com'
        doc["source"] = doc["licence"] = "<script>source"
    reported_run.write(str(tmp_path), docs, 2)
    html = html_of(str(tmp_path))
    assert "<script" not in html and "<img" not in html and "<b>x" not in html
    assert "&lt;script&gt;alert(1)" in html and '<b class="sign">U+202E</b>' in html and "\u202e" not in html
    assert "budi.santoso" not in html  # also of what language dropped, which the run keeps as it came
    assert 'class="said" lang="km"' in html


def test_offensive_examples_lie_behind_a_second_click(made):
    html = html_of(made[0])
    at = html.index("<b>flagged_ratio_max</b>")
    assert "these words may hurt" in html[at : html.index("</details>", at)]
    assert html.count("<details") == html.count("</details>")


def test_the_page_names_languages_and_says_what_was_counted(made, monkeypatch):
    uri = made[0]
    html = html_of(uri)
    assert "<td>Khmer (km)</td>" in html and "<td>German (de)</td>" in html and "Counted in" not in html
    if len(storage.glob(f"{uri}/dedup/part-*.parquet")) == 1:
        return
    monkeypatch.setattr(parts, "MOST_DOCUMENTS", 30)
    looked = parts.looked_at(storage.join(uri, DEDUP))
    assert not looked.whole and 0 < looked.documents <= max(30, looked.documents if len(looked.names) == 1 else 0)
    assert f"Counted in {len(looked.names)} of {looked.of} parts" in html_of(uri)


def test_a_run_of_many_languages_and_rules_stays_a_page(tmp_path):
    """What is shown is capped: 40 languages with 30 rules each, of long Burmese texts."""
    langs = [f"l{n:02}" for n in range(40)]
    docs = []
    for number, base in enumerate(reported_run.documents(2400)):
        doc = {**base, "lang": langs[number % 40], "text": "ငါးနှင့်ထမင်း" * 400, "fate": None}
        doc["fate"] = (POLICY, [(f"rule_{(number // 40) % 30:02}_max", 1.0, 0.5, None)])
        docs.append(doc)
    reported_run.write(str(tmp_path), docs, 2)
    html = html_of(str(tmp_path))
    assert len(html.encode()) < 2_000_000
    assert html.count('class="page"') <= examples.MOST + examples.MOST_KEPT + clusters.LARGEST


def test_an_empty_run_has_no_such_sections(tmp_path):
    html = html_of(str(tmp_path))
    assert not re.findall(r'<h[23] id="(losses|provenance|drops|examples|kept|signals|clusters)"', html)


@pytest.mark.parametrize("text", ["ที่นี่" * 200, "a" * 299 + "ត្រី" * 9, "x\u0301" * 400, "", " \n\t "])
def test_a_beginning_ends_behind_the_marks_of_its_last_letter(text):
    import unicodedata

    cut = shown.beginning(text)
    rest = text[len(cut) :]
    assert text.startswith(cut) and len(cut) <= shown.MOST_CHARS + 8
    assert not rest or not unicodedata.category(rest[0]).startswith("M")


def test_what_models_write_is_shown_greedy_and_drawn():
    drawn = {"km": {"prompt": "p", "greedy": {"base": "the the"}, "texts": {"base": "rice"}}}
    assert page._samples({"samples": drawn}) == [("km", "p", [("base", ["the the", "rice"])])]
    only = {"km": {"prompt": "p", "greedy": {"base": "the"}}}
    assert page._samples({"samples": only}) == [("km", "p", [("base", ["the", None])])]
    before = {"km": {"prompt": "p", "texts": {"base": "rice"}}}  # of a run before greedy ones were made
    assert page._samples({"samples": before}) == [("km", "p", [("base", [None, "rice"])])]


def _luminance(colour: str) -> float:
    linear = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in linear)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_colours_can_be_read_in_light_and_in_dark():
    """WCAG 2.1: 4.5 to 1 for text, 3 to 1 for what is drawn."""
    style = (page.TEMPLATES / "style.html").read_text("utf-8")
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", one)) for one in re.findall(r":root \{([^}]*)\}", style))
    assert light.keys() == dark.keys() and len(light) == 19
    for colours in (light, dark):
        for ground in ("ground", "soft", "warn"):
            for ink in ("ink", "muted", "blue", "orange", "sign"):
                assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground, colours[ink])
        for number in range(10):
            assert _contrast(colours[f"c{number}"], colours["ground"]) >= 3, (number, colours[f"c{number}"])


def _contrast(one: str, other: str) -> float:
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_an_arm_that_adopted_everything_reads_the_same_page(tmp_path):
    """Every reader of the report asks where a result lies."""
    donor, arm = str(tmp_path / "donor"), str(tmp_path / "arm")
    reported_run.write(donor, reported_run.documents(), 3)
    cell = {"length": 256, "depth": None, "chance": 0.1}
    cell |= {key: {"value": 0.5, "low": 0.2, "high": 0.8, "items": 4} for key in ("score", "choice")}
    storage.write_json(f"{donor}/long/metrics.json", {"needle": {"km": {"base": [cell]}}})
    storage.write_json(f"{donor}/long/_manifest.json", {"stage": "long", "seconds": 1.0, "fingerprint": "x"})
    storage.write_text(f"{donor}/metrics/probe.jsonl", '{"step": 1, "stage": "dpo/off_policy", "update": 1}\n')
    adopted.write(arm, dict.fromkeys([stage.name for stage in graph.STAGES], donor))
    assert html_of(arm, stages=[*STAGES, "long"]).replace(arm, donor) == html_of(donor, stages=[*STAGES, "long"])
    assert "Long context" in html_of(arm, stages=[*STAGES, "long"])
    assert probe_records.records(arm) == probe_records.records(donor) != []
