from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from curation.policy import percentiles
from curation.policy.keys import Percentile, Policy
from curation.policy.policy import load_all


def table(**columns) -> pa.Table:
    return pa.table({"source": ["good"] * len(columns["lang"]), **columns})


def policies(**rules) -> dict[str, Policy]:
    return {"default": Policy("default", "any", None), "aa": Policy("aa", "test", None, rules=rules)}


def test_thresholds_are_quantiles_of_the_language():
    rng = np.random.default_rng(0)
    values = rng.random(1000).astype(np.float32)
    langs = np.where(np.arange(1000) % 4, "aa", "bb")
    one = policies(char_repetition={"max": Percentile(99.0)}, word_count={"min": 5, "max": Percentile(50.0)})
    whole = table(lang=langs, char_repetition=values, word_count=np.arange(1000))
    parts = [whole.slice(0, 300), whole.slice(300)]
    numbers = percentiles.thresholds(parts, one, 200)
    mine = values[langs == "aa"].astype(np.float64)
    assert percentiles.wanted(one) == ["char_repetition", "word_count"]
    assert numbers["aa"]["char_repetition"]["max"] == {
        "percentile": 99.0,
        "documents": 750,
        "value": float(np.quantile(mine, 0.99)),
    }
    resolved = percentiles.resolve(one, numbers)["aa"]
    assert resolved.rules["char_repetition"] == {"max": float(np.quantile(mine, 0.99))}
    assert resolved.rules["word_count"] == {"min": 5, "max": float(np.quantile(np.arange(1000)[langs == "aa"], 0.5))}


def test_few_documents_switch_the_rule_off_and_say_so():
    one = policies(char_repetition={"max": Percentile(99.0)}, stopword_ratio={"min": Percentile(1.0), "max": 0.9})
    nulls = table(lang=["aa"] * 200 + [None], char_repetition=[0.5] * 201, stopword_ratio=[0.3] * 199 + [None] * 2)
    numbers = percentiles.thresholds([nulls], one, 200)
    assert numbers["aa"]["stopword_ratio"]["min"] == {"percentile": 1.0, "documents": 199, "value": None}
    resolved = percentiles.resolve(one, numbers)["aa"]
    assert resolved.rules == {"char_repetition": {"max": 0.5}, "stopword_ratio": {"max": 0.9}}
    assert percentiles.resolve(one, {})["aa"].rules == {"char_repetition": {}, "stopword_ratio": {"max": 0.9}}


def test_recipe_overrides_take_percentiles():
    every = load_all(["en", "lo"], {"default": {"char_repetition": {"max": {"percentile": 99}}}})
    assert every["en"].rules["char_repetition"] == {"max": Percentile(99.0)}
    assert percentiles.wanted(every) == ["char_repetition"]
    assert percentiles.wanted(load_all(["en"])) == []


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ({"percentil": 9}, r"rules.char_repetition.max: unknown key 'percentil' \(did you mean 'percentile'"),
        ({"percentile": 101}, "char_repetition.max.percentile must be a number from 0 to 100, not 101"),
        ({"percentile": "9"}, "char_repetition.max.percentile must be a number from 0 to 100, not '9'"),
        ({}, "char_repetition.max.percentile must be a number from 0 to 100, not None"),
    ],
)
def test_wrong_percentiles(bound, message):
    with pytest.raises(ValueError, match=message):
        load_all(["en"], {"en": {"char_repetition": {"max": bound}}})


def test_a_list_rule_for_all_skips_languages_without_the_list():
    rules = {"default": {"flagged_ratio": {"max": 0.2}, "stopword_kinds": {"min": 2}}, "lo": {"flagged_ratio": False}}
    every = load_all(["en", "lo"], rules, {"lo": {"flagged_words": None}})
    assert every["en"].rules["flagged_ratio"] == {"max": 0.2}
    assert "flagged_ratio" not in every["lo"].rules
    assert every["lo"].rules["stopword_kinds"] == {"min": 2}
    with pytest.raises(ValueError, match=r"filter.policy: en must be a mapping of signals to bounds, not 5"):
        load_all(["en"], {"en": 5})


def test_lists_of_a_recipe_replace_those_of_the_file():
    lists = {"lo": {"flagged_words": ("ຫວຍ",)}}
    every = load_all(["en", "lo"], {"lo": {"flagged_ratio": {"max": 0.01}}}, lists)
    assert every["lo"].flagged_words == ("ຫວຍ",)
    assert every["lo"].stop_words
    assert every["lo"].rules["flagged_ratio"] == {"max": 0.01}
