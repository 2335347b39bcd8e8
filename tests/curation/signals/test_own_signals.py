"""Signals of the user's own: measured, bounded, in the ledger, part of the stage's code; a wrong one is said before the run."""

import pickle
import re
import sys
import textwrap
import uuid

import pyarrow as pa
import pytest

from cluster import storage
from curation.policy import policy
from curation.signals.measure import Measure
from curation.signals.own_signals import NOTHING, OwnSignals
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run import fingerprint
from ray_jobs.run.run import Run

GOOD = """
    import numpy as np
    import {helper}

    def shouting(batch):
        texts = batch["text"].to_pylist()
        return {{"capital_share": [{helper}.share(text) for text in texts], "title_length": [None] * len(texts)}}
"""
HELPER = """
    def share(text):
        return sum(letter.isupper() for letter in text) / max(1, len(text))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """`module(source)`: the name of a module with that source, in the folder in which runs are started."""
    monkeypatch.chdir(tmp_path)
    made = []

    def write(source, **names):
        name = f"signals_{uuid.uuid4().hex[:8]}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source).format(**names))
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)
    sys.path[:] = [folder for folder in sys.path if folder != str(tmp_path)]


def documents(*texts):
    rows = [{"doc_id": str(i), "url": f"u{i}", "lang": "en", "text": text} for i, text in enumerate(texts)]
    columns = {name: [row.get(name) for row in rows] for name in ("doc_id", "url", "lang", "text")}
    return pa.record_batch({name: pa.array(values, pa.string()) for name, values in columns.items()})


def test_columns_are_appended_and_bounded_like_any_other(module, tmp_path):
    name = f"{module(GOOD, helper=module(HELPER))}:shouting"
    own = OwnSignals([name], str(tmp_path))
    assert own.names == ("capital_share", "title_length")
    measured, _ = pickle.loads(pickle.dumps(Measure(["en"], own=own)))(documents("ABCD", "abCD", "abcd"))
    assert measured["capital_share"].to_pylist() == [1.0, 0.5, 0.0]
    assert measured["title_length"].null_count == 3
    rules = {"default": {signal: False for signal in policy.load("en").rules} | {"capital_share": {"max": 0.4}}}
    kept, ledger = policy.policy_kernel(["en"], rules, own=own.names)(measured)
    assert kept["doc_id"].to_pylist() == ["2"]
    assert [(row["doc_id"], row["rule"], row["value"]) for row in ledger.to_pylist()] == [
        ("0", "capital_share_max", 1.0),
        ("1", "capital_share_max", 0.5),
    ]
    with pytest.raises(ValueError, match=r"unknown key 'capital_shares' \(did you mean 'capital_share'\?\)"):
        policy.load_all(["en"], {"default": {"capital_shares": {"max": 1}}}, own=own.names)


@pytest.mark.parametrize(
    "source, said",
    [
        ("def f(batch): return {{'a': [1]}}", "gives 1 values of a for 0 documents"),
        ("def f(batch): return {{'word_count': []}}", "gives 'word_count', which is a column already"),
        ("def f(batch): return {{'text': []}}", "gives 'text', which is a column already"),
        ("def f(batch): return {{}}", "gives no column for a batch without documents"),
        ("def f(batch): return None", "fails on a batch of 0 documents"),
        ("def f(batch): 1 / 0", "fails on a batch of 0 documents: division by zero"),
        ("f = 3", "is not a function"),
        ("import nothing_of_that_name", "cannot be imported: No module named 'nothing_of_that_name'"),
        ("1 / 0", "cannot be imported: division by zero"),
        ("def g(batch): return {{'a': []}}", "cannot be imported"),
    ],
)
def test_a_function_that_cannot_be_used_is_one_sentence(module, tmp_path, source, said):
    with pytest.raises(ValueError, match=rf"^filter\.signals: .*{re.escape(said)}"):
        OwnSignals([f"{module(source)}:f"], str(tmp_path))
    with pytest.raises(ValueError, match=r"^filter\.signals: 'f' must be written as package\.module:function"):
        OwnSignals(["f"], str(tmp_path))


def test_values_that_are_no_numbers_say_so(module, tmp_path):
    own = OwnSignals(
        [f"{module('def f(batch): return {{chr(97): batch[chr(117) + chr(114) + chr(108)]}}')}:f"], str(tmp_path)
    )
    with pytest.raises(ValueError, match=r"^filter\.signals: .* fails on a batch of 1 documents"):
        own(documents("x"))


def test_a_column_called_as_two_functions_call_theirs_is_refused(module, tmp_path):
    names = [f"{module('def f(batch): return {{chr(97): [0.0] * batch.num_rows}}')}:f" for _ in range(2)]
    with pytest.raises(ValueError, match="gives 'a', which is a column already"):
        OwnSignals(names, str(tmp_path))


def test_the_source_is_code_of_the_stage_and_what_it_imports_beside_it_too(module, tmp_path):
    helper = module(HELPER)
    name = f"{module(GOOD, helper=helper)}:shouting"
    (tmp_path / "one.jsonl").write_text('{"id": "1", "text": "satu"}\n')
    change = [
        f"sources=[{{name: s, type: jsonl, path: {tmp_path}/*.jsonl}}]",
        "quality={}",
        f"filter.signals=['{name}']",
    ]

    def prints():
        fingerprint._module.cache_clear()
        return Run(str(tmp_path / "run"), recipes.load("demo", change)).fingerprints()

    before = prints()
    file = tmp_path / f"{helper}.py"
    file.write_text(f"# only said\n{file.read_text()}")
    assert prints() == before
    file.write_text(file.read_text().replace("isupper", "islower"))
    after = prints()
    assert after["language"] == before["language"] and after["filter/signals"] != before["filter/signals"]


def test_a_wrong_name_is_said_before_anything_is_read(module, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"id": "1", "text": "satu"}\n')
    change = [f"sources=[{{name: s, type: jsonl, path: {tmp_path}/*.jsonl}}]", "quality={}", "filter.signals=['a.b:c']"]
    run = Run(str(tmp_path / "run"), recipes.load("demo", [*change, "train=null"]))
    with pytest.raises(UserError, match=r"filter\.signals: a\.b:c cannot be imported"):
        run.execute(say=lambda line: None, until="filter")
    assert not storage.exists(str(tmp_path / "run" / "crawl"))


def test_a_batch_without_documents_has_the_columns_of_one_that_has():
    assert {"doc_id", "url", "lang", "text", "word_count", "title", "source"} <= set(NOTHING.schema.names)
