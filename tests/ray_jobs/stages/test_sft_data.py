"""The stage sft/data: what stays, what goes and why, the statistics; equal at any order of files and after a kill."""

import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run.graph import STAGES
from ray_jobs.run.job import Job
from ray_jobs.run.progress import Progress
from ray_jobs.stages import sft_data
from train.chat import conversations as chat

STAGE = next(stage for stage in STAGES if stage.name == "sft/data")
BASE = """
name: t
languages: [id, th, en]
sources: [{name: web, type: jsonl, path: /data/*.jsonl}]
train:
  base: {model: x}
  expand: {new_layers: 1}
  pretrain: {stage1: {tokens: 1, rows_per_step: 1}, stage2: {tokens: 1, rows_per_step: 1}}
  sft:
    instruct: INSTRUCT
    data: DATA
    stage1: {optimiser: {rows_per_step: 1, lr: 1}}
"""
STORY = "Perahu itu berlayar dari pelabuhan pada pagi hari dan membawa beras, ikan kering, kain serta rempah ke pulau "
ENGLISH = "The boats leave the harbour early in the morning with rice and fish, and come back late in the evening."


def talk(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


ROWS = [
    {"id": "plain", "lang": "id", "messages": talk("Apa kabar?", "Baik."), "task": "qa"},
    {"id": "short", "lang": "id", "messages": talk("Ceritakan", STORY + "Bali.")},
    {"id": "long", "lang": "id", "messages": talk("Ceritakan", STORY + "Bali. Lalu pulang.")},
    {"id": "elsewhere", "lang": "th", "task": "translate-news", "messages": talk("Ceritakan", STORY + "Bali.")},
    {"id": "code", "lang": "id", "messages": talk("Hitung 2 + 2", f"```\n{ENGLISH}\n```")},
    {"id": "english", "lang": "th", "messages": talk("เล่าเรื่อง", ENGLISH)},
    {"id": "translated", "lang": "th", "task": "translate-news", "messages": talk("แปลเป็นภาษาอังกฤษ", ENGLISH)},
    {"id": "sorted", "lang": "ind", "category": "maths", "messages": talk("2 + 2?", "4")},
    {"id": "other", "lang": "fr", "messages": talk("Ça va ?", "Oui.")},
    {"id": "bad", "lang": "id", "messages": talk("Apa kabar?", " ")},
    {"id": "plain", "lang": "id", "messages": talk("Siapa?", "Saya.")},
]


@pytest.fixture
def run(tmp_path, chatml_tokenizer, monkeypatch):
    monkeypatch.setattr(
        sft_data, "map_on_ray", lambda job, function, items, *_, **__: [function(item) for item in items]
    )

    def go(data: str = "{other_language: 0.8}", files: int = 2, name: str = "run", rows=ROWS, max_rows=None):
        folder, uri = tmp_path / f"{name}-in", str(tmp_path / name)
        folder.mkdir(exist_ok=True)
        for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
            lines = "".join(json.dumps(rows[i]) + "\n" for i in part)
            (folder / f"{number}.jsonl").write_text(lines + ("{oops\n" if number == 0 else ""))
        (tmp_path / "recipe.yaml").write_text(BASE.replace("INSTRUCT", f"'{folder}/*.jsonl'").replace("DATA", data))
        chatml_tokenizer.save_pretrained(storage.join(uri, "tokenize", "tokenizer"))
        recipe = recipes.load(str(tmp_path / "recipe.yaml"), [f"train.sft.max_rows={max_rows}"] if max_rows else [])
        with Progress("sft/data", lambda _: None, uri) as progress:
            result = sft_data.run(Job(recipe, uri, STAGE, "f", progress, None))
        kept = [json.loads(line) for line in (tmp_path / name / "sft/data/rows.jsonl").read_text().splitlines()]
        return result, kept, pq.read_table(f"{uri}/dropped/sft/data").to_pylist(), uri

    return go


def test_what_stays_and_why_the_rest_went(run, chatml_tokenizer):
    result, kept, ledger, uri = run()
    assert [row["id"] for row in kept] == ["plain", "long", "elsewhere", "code", "translated", "sorted"]
    assert [row["category"] for row in kept] == [
        "qa",
        "general",
        "translate-news",
        "general",
        "translate-news",
        "maths",
    ]
    assert kept[-1]["lang"] == "id"
    said = {row["doc_id"].rsplit("/", 1)[-1]: row for row in ledger}
    rules = {name: row["rule"] for name, row in said.items()}
    assert rules == {
        "short": "near_duplicate",
        "english": "answer_in_other_language",
        "other": "language_outside",
        "bad": "empty_turn",
        "plain": "repeated_id",
        "0.jsonl, line 7": "not_a_row",
    }
    assert said["short"]["detail"] == "long" and said["short"]["threshold"] == 0.8
    assert said["english"]["detail"] == "en" and said["english"]["value"] >= 0.8
    statistics = storage.read_json(f"{uri}/sft/data/statistics.json")
    assert sum(cell["conversations"] for cell in statistics["cells"]) == result["conversations"] == 6
    assert Counter(row["rule"] for row in ledger) == result["rules"] and result["dropped"] == len(ledger)
    assert result["conversations_in"] == len(ROWS) + 1
    encoded = {example.id: example for example in chat.encode(chatml_tokenizer, kept)}
    tokens = {}
    for row in kept:
        cell = (row["lang"], row["category"])
        tokens[cell] = tokens.get(cell, 0) + len(encoded[row["id"]].ids)
    assert {(cell["lang"], cell["category"]): cell["tokens"] for cell in statistics["cells"]} == tokens
    (cell,) = (cell for cell in statistics["cells"] if (cell["lang"], cell["category"]) == ("th", "translate-news"))
    wanted = [row for row in kept if row["category"] == "translate-news"]
    lengths = [example.n_scored for example in chat.encode(chatml_tokenizer, wanted, score="content")]
    assert cell["answer_tokens"]["p50"] == np.mean(lengths) and cell["turns"] == 4


def test_turns_that_are_only_read_and_keys_that_nobody_reads(run):
    rows = [{"id": "a", "lang": "th", "source": "x", "messages": talk("เล่าเรื่อง", ENGLISH, "อีก", "ครับ")}]
    rows[0]["messages"][1]["weight"] = 0
    rows.append(
        {"id": "b", "lang": "id", "source": "x", "messages": talk("Cuaca?", "Sebentar."), "tools": [{"name": "f"}]}
    )
    result, kept, ledger, uri = run(rows=rows, files=1)
    assert [turn.get("train") for turn in kept[0]["messages"]] == [None, False, None, None], (
        "its language is not checked"
    )
    assert {row["rule"] for row in ledger} == {"tool_call", "not_a_row"}
    assert (result["rows_in"], result["rows_kept"], result["dropped_by_rule"]) == (
        3,
        1,
        {"not_a_row": 1, "tool_call": 1},
    )
    assert result["ignored_keys"] == {"source": 1}, "of rows that are not refused"
    (cell,) = storage.read_json(f"{uri}/sft/data/statistics.json")["cells"]
    assert cell["answer_tokens"]["p50"] < 40, "only what is trained is an answer"


def test_the_result_depends_neither_on_files_nor_on_batches(run, monkeypatch):
    once = run(name="one", files=1)[1:3]
    monkeypatch.setattr(sft_data.chats, "BATCH_ROWS", 2)
    monkeypatch.setattr(sft_data, "HERE_BYTES", 0)  # as for large files, by Ray's tasks
    for name, files in (("two", 2), ("five", 5)):
        kept, ledger = run(name=name, files=files)[1:3]
        assert kept == once[0]
        assert sorted((row["doc_id"].rsplit("/")[-1][-6:], row["rule"]) for row in ledger if row["lang"]) == sorted(
            (row["doc_id"].rsplit("/")[-1][-6:], row["rule"]) for row in once[1] if row["lang"]
        )


def test_checks_can_be_turned_off_and_rows_sampled(run):
    _, kept, ledger, _ = run("{similarity: null, other_language: null}")
    assert {"short", "english"} <= {row["id"] for row in kept}
    assert not {"near_duplicate", "answer_in_other_language"} & {row["rule"] for row in ledger}
    result, kept, _, _ = run(name="few", max_rows=3)
    assert len(kept) == 3 and result["not_sampled"] == 3


def test_a_killed_stage_reads_only_the_files_that_are_left(run, monkeypatch):
    part, seen = sft_data._part, []

    def dies(task):
        if task["uri"].endswith("1.jsonl") and not seen:
            seen.append(task["uri"])
            raise RuntimeError("killed")
        return part(task)

    monkeypatch.setattr(sft_data, "_part", dies)
    with pytest.raises(RuntimeError):
        run()
    monkeypatch.setattr(sft_data.chats, "batches", lambda uri, *rest: seen.append(uri) or BATCHES(uri, *rest))
    resumed = run()
    assert [uri.rsplit("/", 1)[1] for uri in seen] == ["1.jsonl", "1.jsonl"]
    monkeypatch.setattr(sft_data.chats, "batches", BATCHES)
    assert resumed[:2] == run(name="undisturbed")[:2]


BATCHES = sft_data.chats.batches


def test_nothing_left_is_one_sentence(run):
    with pytest.raises(UserError, match=r"no valid conversation in the recipe's languages; see .*dropped/sft/data"):
        run(rows=ROWS[8:10])


def test_categories_by_rules(run):
    kept = run("{category: {rules: {maths: ['\\d\\s*\\+'], story: [ceritakan]}}}")[1]
    assert {row["id"]: row["category"] for row in kept} == {
        "plain": "general",
        "long": "story",
        "elsewhere": "story",
        "code": "maths",
        "translated": "general",
        "sorted": "maths",
    }


def test_categories_by_a_function_of_the_user(run, tmp_path, monkeypatch):
    (tmp_path / "my_topics.py").write_text(
        "def by_turns(rows):\n    return [f'turns-{len(row[\"messages\"])}' for row in rows]\n"
        "def too_few(rows):\n    return []\n"
    )
    monkeypatch.chdir(tmp_path)
    assert {row["category"] for row in run("{category: {function: my_topics:by_turns}}")[1]} == {"turns-2"}
    with pytest.raises(ValueError, match="must return one name for each of"):
        run("{category: {function: my_topics:too_few}}", name="few")
    with pytest.raises(ValueError, match=r"train\.sft\.data\.category\.function: my_topics:none cannot be imported"):
        run("{category: {function: my_topics:none}}", name="none")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{category: {rules: {a: ['(']}}}", "is not a regular expression"),
        ("{category: {function: f}}", "not of the form module:function"),
        ("{category: {function: 'm:f', rules: {a: [b]}}}", "give either `rules` or `function`"),
        ("{similarity: 1.0}", "similarity"),
    ],
)
def test_wrong_settings_are_named(run, data, message):
    with pytest.raises(UserError, match=message):
        run(data)
