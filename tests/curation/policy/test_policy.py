from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest

from cluster.shards import LEDGER
from curation.policy import policy
from curation.policy.keys import Policy
from curation.policy.policy import apply, load, load_all, policy_kernel
from curation.policy.signal_schema import FIELDS, SIGNALS


def measured(**columns) -> pa.RecordBatch:
    """A batch of signals in which all that is not given is 0."""
    n = len(next(iter(columns.values())))
    keys = {"doc_id": [f"d{i}" for i in range(n)], "url": [f"u{i}" for i in range(n)], "lang": ["aa"] * n}
    values = {**keys, **{name: [0] * n for name in SIGNALS}, **columns}
    schema = pa.schema([*((name, pa.string()) for name in keys), *FIELDS])
    return pa.RecordBatch.from_pydict(values, schema=schema)


def rules(**bounds) -> dict[str, Policy]:
    return {"aa": Policy("aa", "test", None, rules=bounds), "default": Policy("default", "test", None)}


def test_every_broken_rule_is_a_row():
    batch = measured(word_count=[5, 50, 500], special_ratio=[0.9, 0.1, 0.5])
    keep, ledger = apply(batch, rules(word_count={"min": 10, "max": 100}, special_ratio={"max": 0.4}))
    assert keep.to_pylist() == [False, True, False]
    assert ledger.schema == LEDGER
    assert [tuple(row[k] for k in ("doc_id", "url", "rule", "value", "threshold")) for row in ledger.to_pylist()] == [
        ("d0", "u0", "word_count_min", 5, 10),
        ("d0", "u0", "special_ratio_max", pytest.approx(0.9), 0.4),
        ("d2", "u2", "word_count_max", 500, 100),
        ("d2", "u2", "special_ratio_max", 0.5, 0.4),
    ]
    assert {(row["lang"], row["stage"], row["detail"]) for row in ledger.to_pylist()} == {("aa", "filter/policy", None)}


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.106, 0.1691])
def test_a_bound_itself_is_allowed(threshold):
    batch = measured(stopword_ratio=[threshold], char_repetition=[threshold])
    keep, _ = apply(batch, rules(stopword_ratio={"min": threshold}, char_repetition={"max": threshold}))
    assert keep.to_pylist() == [True]
    keep, _ = apply(batch, rules(stopword_ratio={"min": threshold + 1e-6}))
    assert keep.to_pylist() == [False]
    keep, _ = apply(batch, rules(char_repetition={"max": threshold - 1e-6}))
    assert keep.to_pylist() == [False]


def test_null_breaks_nothing():
    keep, ledger = apply(
        measured(flagged_ratio=[None, 0.5], stopword_ratio=[None, None]),
        rules(flagged_ratio={"max": 0.1}, stopword_ratio={"min": 0.9}),
    )
    assert keep.to_pylist() == [True, False]
    assert ledger["rule"].to_pylist() == ["flagged_ratio_max"]


def test_each_language_has_its_own_bounds():
    batch = measured(word_count=[5, 5, 5, 5], lang=["aa", "bb", "cc", None])
    one = {**rules(word_count={"min": 10}), "bb": Policy("bb", "test", None)}
    one["default"] = Policy("default", "test", None, rules={"word_count": {"min": 7}})
    keep, ledger = apply(batch, one)
    assert keep.to_pylist() == [False, True, False, False]
    assert ledger["threshold"].to_pylist() == [10, 7, 7]


def test_empty_batch():
    keep, ledger = apply(measured(word_count=[]), rules(word_count={"min": 1}))
    assert len(keep) == 0
    assert ledger.num_rows == 0
    assert ledger.schema == LEDGER


def test_kernel_takes_a_recipe_s_overrides():
    batch = measured(
        word_count=[15, 15], char_repetition=[0, 0.19], script_share=[1, 1], stopword_ratio=[1, 1], word_order=[1, 1]
    )
    batch = batch.set_column(2, "lang", pa.array(["en", "en"]))
    kept, ledger = policy_kernel(["en"])(batch)
    assert kept.num_rows == 0
    assert ledger["rule"].to_pylist() == ["word_count_min", "word_count_min", "char_repetition_max"]
    overrides = {"default": {"char_repetition": False, "word_count": {"min": 3}}, "en": {"word_count": {"min": 15}}}
    kept, ledger = policy_kernel(["en"], overrides)(batch)
    assert kept.num_rows == 2
    assert ledger.num_rows == 0


# ---- files and overrides


def test_inheritance():
    indonesian, english = load("id"), load("en")
    assert indonesian.rules["word_count"] == {"min": 10, "max": 100000}  # default
    assert indonesian.rules["script_share"] == {"min": 0.5}  # script
    assert indonesian.long_token_chars == 30
    assert indonesian.rules["char_repetition"] == {"max": 0.5}  # language
    assert indonesian.rules["stopword_ratio"] == {"min": 0.04}
    assert english.long_token_chars == 25
    assert english.rules["stopword_ratio"] == {"min": 0.16}


def test_overrides_change_single_bounds_and_not_the_file_s():
    before = load("en")
    changed = load(
        "en", {"word_count": {"min": 3}, "special_ratio": None, "n_lines": {"max": 9}, "stopword_ratio": {"min": False}}
    )
    assert changed.rules["word_count"] == {"min": 3, "max": 100000}
    assert "special_ratio" not in changed.rules
    assert changed.rules["n_lines"] == {"max": 9}
    assert not changed.rules["stopword_ratio"]
    assert load("en") == before
    assert dataclasses.replace(changed, rules=before.rules) == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"word_cout": {"min": 1}},
            r"filter.policy override of en: rules: unknown key 'word_cout' \(did you mean 'word_count'",
        ),
        ({"word_count": {"mn": 1}}, r"rules.word_count: unknown key 'mn' \(did you mean 'min'"),
        ({"special_ratio": {"n": 3}}, r"override of en: n belongs to the measurement .* curation/languages/en.yaml"),
        ({"word_count": 5}, r"rules.word_count must be a mapping of min, max, not 5"),
        ({"word_count": {"min": "5"}}, r"rules.word_count.min must be a number or off, not '5'"),
        ({"word_count": {"min": True}}, r"rules.word_count.min must be a number or off, not True"),
        ({"word_count": {"min": 10, "max": 5}}, r"rules.word_count: min 10 is above max 5"),
    ],
)
def test_wrong_overrides(overrides, message):
    with pytest.raises(ValueError, match=message):
        load("en", overrides)


def test_a_rule_needs_its_list():
    with pytest.raises(ValueError, match="flagged_ratio has a bound, but lo has no flagged_words"):
        load("lo", {"flagged_ratio": {"max": 0.1}}, {"flagged_words": None})


def test_wrong_languages():
    with pytest.raises(ValueError, match=r"curation/languages/tll.yaml for language 'tll' \(did you mean 'tl'"):
        load("tll")
    with pytest.raises(ValueError, match=r"filter.policy: 'tl' is not a language of the recipe"):
        load_all(["th"], {"tl": {}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule: {}", r"xx.yaml: unknown key 'rule' \(did you mean 'rules'"),
        ("edit: {long_token: 3}", r"xx.yaml: edit: unknown key 'long_token' \(did you mean 'long_token_chars'"),
        (
            "edit: {long_token_chars: on}",
            r"xx.yaml: edit.long_token_chars must be a whole number of at least 1 or off, not True",
        ),
        ("edit: {delete_url_tokens: 3}", r"xx.yaml: edit.delete_url_tokens must be on or off, not 3"),
        ("rules: [word_count]", r"xx.yaml: rules must be a mapping"),
        (
            "rules: {char_repetition: {n: 0}}",
            r"xx.yaml: rules.char_repetition.n must be a whole number of at least 1, not 0",
        ),
        ("script: thia", r"xx.yaml: no file script_thia.yaml \(did you mean 'thai'"),
        ("stop_words: [no, on]", r"xx.yaml: stop_words must be one text with a comma after each entry, not list"),
        (
            "rules: {script_share: {min: 0.5}, stopword_ratio: off, flagged_ratio: off}",
            r"script_share has a bound, but there is no",
        ),
        ("{", r"xx.yaml is not YAML"),
    ],
)
def test_wrong_files(tmp_path, monkeypatch, text, message):
    for file in policy.FOLDER.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "xx.yaml").write_text(text)
    monkeypatch.setattr(policy, "FOLDER", tmp_path)
    policy._from_files.cache_clear()
    with pytest.raises(ValueError, match=message):
        load("xx")
    policy._from_files.cache_clear()


def test_strings_and_truths_of_others_are_allowed_or_forbidden():
    batch = pa.record_batch(
        {
            **{name: list("abcd") for name in ("doc_id", "url")},
            "lang": ["en", "en", "lo", "en"],
            "kind": ["blog", "spam", "spam", None],
            "safe": [True, False, None, True],
            "score": [0.1, 0.9, None, float("nan")],
        }
    )
    own, off = ("kind", "safe", "score"), dict.fromkeys(load("en").rules, False)
    rules = {"default": {**off, "kind": {"forbidden": "spam"}, "score": {"min": 0.5}}}
    rules["en"] = {"kind": {"forbidden": None, "allowed": ["news", "spam"]}, "safe": {"forbidden": [False]}}
    policies = {lang: load("default", {**rules["default"], **rules.get(lang, {})}, own=own) for lang in ("en", "lo")}
    policies["default"] = policies["lo"]
    keep, ledger = apply(batch, policies)
    assert keep.to_pylist() == [False, False, False, True], "what is unknown breaks nothing"
    found = [
        tuple(row[name] for name in ("doc_id", "rule", "value", "threshold", "detail")) for row in ledger.to_pylist()
    ]
    assert sorted(found, key=lambda row: row[:2]) == [
        ("a", "kind_allowed", None, None, "blog: allowed are news, spam"),
        ("a", "score_min", 0.1, 0.5, None),
        ("b", "safe_forbidden", None, None, "false: forbidden is false"),
        ("c", "kind_forbidden", None, None, "spam: forbidden is spam"),
    ]
    assert load("en", {"kind": False}, own=own).lists == {}
    with pytest.raises(ValueError, match=r"rules.kind.allowed must be a list of strings, or of true and false, not 3"):
        load("en", {"kind": {"allowed": 3}}, own=own)
    with pytest.raises(ValueError, match=r"rules.word_count: unknown key 'allowed'"):
        load("en", {"word_count": {"allowed": ["1"]}}, own=own)
