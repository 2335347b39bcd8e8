"""`pinisi translate`: rows and ledger, a kill and a second start, wrong settings; with a tiny NLLB."""

import argparse
import json

import pyarrow.parquet as pq
import pytest

from ray_jobs.errors import UserError
from ray_jobs.prepare import translate
from train import model as models


def talk(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


ROWS = [
    {
        "id": "a",
        "lang": "en",
        "licence": "CC0",
        "messages": [{"role": "system", "content": "sea"}, *talk("boat", "fish.")],
    },
    {"id": "b", "lang": "en", "messages": talk("sun. moon", "- rice\n- `rice`")},
    {"id": "c", "lang": "en", "category": "maths", "messages": talk("1 + 1", "2")},
    {"id": "d", "lang": "en", "messages": talk("boat", " ")},
    {"id": "e", "lang": "th", "messages": talk("x", "y")},
    {"id": "f", "lang": "en", "messages": talk("boat " * 600, "sun")},
    *(
        {"id": f"g{i}", "lang": "en", "messages": talk("boat", word)}
        for i, word in enumerate(["fish", "rice", "sea", "sun"])
    ),
]


def in_order(function, tasks):
    return [function(task) for task in tasks]


@pytest.fixture
def options(tmp_path, nllb):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def made(*more: str, out="out") -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        translate.add_arguments(parser)
        fixed = [str(tmp_path / "rows.jsonl"), "--model", nllb, "--beams", "1", "--shard-rows", "3"]
        return parser.parse_args(
            [*fixed, "--out", str(tmp_path / out), *([] if "--to" in more else ["--to", "id"]), *more]
        )

    return made


def read(folder, lang="id"):
    return [json.loads(line) for line in (folder / f"{lang}.jsonl").read_text().splitlines()]


def test_a_turn_that_is_only_read_stays_so(options, tmp_path):
    messages = talk("boat", "fish", "sun", "rice")
    messages[1]["weight"] = 0
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "a", "lang": "en", "messages": messages}))
    translate.run(options(), in_order)
    (row,) = read(tmp_path / "out")
    assert [turn.get("train") for turn in row["messages"]] == [None, False, None, None]


def test_rows_and_ledger(options, tmp_path, nllb, capsys):
    assert translate.run(options("--to", "id", "th"), in_order) == 0
    made = read(tmp_path / "out")
    assert [row["id"] for row in made] == ["a:id", "b:id", "c:id", "g0:id", "g1:id", "g2:id", "g3:id"]
    assert [turn["content"] for turn in made[0]["messages"]] == ["laut", "perahu", "ikan."]
    assert [turn["content"] for turn in made[1]["messages"]] == ["surya. bulan", "- beras\n- `rice`"]
    assert [turn["role"] for turn in made[0]["messages"]] == ["system", "user", "assistant"]
    about = {"lang": "id", "licence": "CC0", "translated_from": "en", "translated_by": nllb.rsplit("/", 1)[1]}
    assert about.items() <= made[0].items() and made[2]["category"] == "maths"
    assert read(tmp_path / "out", "th")[0]["messages"][1]["content"] == "เรือ"
    ledger = pq.read_table(tmp_path / "out" / "dropped.parquet").to_pylist()
    assert {(row["doc_id"], row["rule"]) for row in ledger} == {
        ("d", "empty_turn"),
        ("e", "language_outside"),
        ("f:id", "not_translated"),
        ("f:th", "not_translated"),
    }
    assert "id: 7 conversations; dropped: not_translated 1" in capsys.readouterr().out


def test_a_killed_command_translates_only_what_is_left(options, tmp_path):
    def dies(function, tasks):
        in_order(function, tasks[:2])
        raise RuntimeError("killed")

    seen = []
    with pytest.raises(RuntimeError):
        translate.run(options(), dies)
    translate.run(options(), lambda function, tasks: seen.append(len(tasks)) or in_order(function, tasks))
    translate.run(options(out="undisturbed"), in_order)
    assert seen == [1]
    for name in ("id.jsonl", "dropped.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_the_worst_by_perplexity_go(options, tmp_path, chatml_tokenizer):
    shape = {
        "vocab_size": 300,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "max_position_embeddings": 64,
    }
    base = str(tmp_path / "base")
    models.save(
        models.build({**shape, "num_attention_heads": 2, "num_key_value_heads": 2}, seed=1), chatml_tokenizer, base, 64
    )
    translate.run(options("--perplexity-model", base, "--drop-worst", "0.3"), in_order)
    ledger = [
        row for row in pq.read_table(tmp_path / "out" / "dropped.parquet").to_pylist() if row["rule"] == "perplexity"
    ]
    made = read(tmp_path / "out")
    assert len(ledger) == 2 and len(made) == 5  # 30 % of 7, rounded down
    assert all(row["value"] > row["threshold"] for row in ledger)
    assert not any("perplexity" in row for row in made)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--to", "zh"], "NLLB cannot translate Chinese"),
        (["--to", "xx"], "xx: the translation model knows no such language"),
        (["--drop-worst", "1"], "--drop-worst must be at least 0 and below 1"),
        (["--beams", "0"], "must be at least 1"),
        (["--from", "lo"], "lo: the translation model knows no such language"),
        (["--model", "/no/such/model"], "no tokenizer of a translation model"),
    ],
)
def test_wrong_settings_are_said_before_anything_is_written(options, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        translate.run(options(*more), in_order)
    assert not (tmp_path / "out").exists()


def test_other_settings_do_not_mix_with_what_is_there(options):
    translate.run(options("--max-rows", "1"), in_order)
    with pytest.raises(UserError, match="holds translations of other rows or by other settings"):
        translate.run(options("--max-rows", "2"), in_order)
