"""`pinisi train tokenizer` on files written here: a tokenizer for the recipe, and its fertility beside another."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from cluster import storage
from mixture.bpe.encode import ByteLevelBPE
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs import cli

THAI, LATIN = list("กขคงจชดตถทนบปพมยรลวสหอ"), list("abcdefghijklmnop")
RNG = np.random.default_rng(0)
WORDS = {
    lang: ["".join(row) for row in RNG.choice(letters, (300, 5))] for lang, letters in (("th", THAI), ("en", LATIN))
}


def call(*arguments) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(arguments))
    return exit_.value.code


@pytest.fixture
def documents(tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"en": 900, "th": 90}
    rows = [
        {"lang": lang, "text": ("" if lang == "th" else " ").join(rng.choice(WORDS[lang], 30))}
        for lang, n in sizes.items()
        for _ in range(n)
    ]
    rows += [{"lang": "lo", "text": None}, {"lang": None, "text": "x"}]
    storage.write_table(str(tmp_path / "a.parquet"), pa.Table.from_pylist(rows))
    return str(tmp_path / "*.parquet")


def test_a_tokenizer_and_its_fertility_beside_another(documents, tmp_path, capsys):
    out, again = str(tmp_path / "one"), str(tmp_path / "two")
    common = ["train", "tokenizer", "--documents", documents, "--vocab-size", "330", "--out"]
    assert call(*common, out) == 0
    assert "tokenize: {tokenizer: " in capsys.readouterr().out
    assert call(*common, again, "--beside", out) == 0
    one, table = tokenizers.load(again), capsys.readouterr().out
    assert storage.read_bytes(f"{out}/tokenizer.json") == storage.read_bytes(f"{again}/tokenizer.json")
    assert len(one) == 330
    ByteLevelBPE.of(one)  # the tokenize stage has the fast path for it
    rows = storage.read_json(f"{again}/fertility.json")["rows"]
    assert [(row["lang"], row["tokenizer"]) for row in rows] == [(x, t) for x in ("en", "th") for t in ("trained", out)]
    for ours, same in zip(rows[::2], rows[1::2], strict=True):
        assert ours["tokens"] == same["tokens"] > ours["words"] > 0
        assert f"{ours['tokens_per_word']:.2f}" in table
        assert f"{ours['bytes_per_token']:.2f}" in table
    en, th = rows[0], rows[2]
    assert en["words"] == 30 * en["documents"]
    assert 20 < en["documents"] < 80  # about 5 % of 900
    assert th["words"] > 10 * th["documents"]  # Thai is cut into words by dictionary


def test_temperature_makes_languages_even(documents, tmp_path):
    """Of the same budget, the small language gets more as the temperature rises, so that its tokens hold more bytes."""
    per_token = {}
    for temperature in ("1", "5"):
        out = str(tmp_path / temperature)
        arguments = ["--vocab-size", "700", "--temperature", temperature, "--max-bytes", "60000", "--out", out]
        assert call("train", "tokenizer", "--documents", documents, *arguments) == 0
        rows = storage.read_json(f"{out}/fertility.json")["rows"]
        per_token[temperature] = {row["lang"]: row["bytes_per_token"] for row in rows}
    assert per_token["5"]["th"] > per_token["1"]["th"]
    assert per_token["5"]["en"] < per_token["1"]["en"]


def test_temperature_counts_where_all_text_fits(documents, tmp_path):
    """A corpus smaller than --max-bytes: the small language is read several times, and nothing of the large one is left out."""
    per_token, files = {}, {}
    for temperature in ("1", "2", "8"):
        out = str(tmp_path / temperature)
        arguments = ["--vocab-size", "700", "--temperature", temperature, "--out", out]
        assert call("train", "tokenizer", "--documents", documents, *arguments) == 0
        files[temperature] = storage.read_bytes(f"{out}/tokenizer.json")
        rows = storage.read_json(f"{out}/fertility.json")["rows"]
        per_token[temperature] = {row["lang"]: row["bytes_per_token"] for row in rows}
    assert len(set(files.values())) == 3
    assert per_token["8"]["th"] > per_token["2"]["th"] > per_token["1"]["th"]
    assert per_token["8"]["en"] < per_token["1"]["en"]


def test_parity_on_parallel_documents(documents, tmp_path, capsys):
    pairs = [(WORDS["en"][i], WORDS["th"][i]) for i in range(300)]
    rng = np.random.default_rng(1)
    rows = []
    for key in range(30):
        some = rng.choice(len(pairs), 30)
        rows += [
            {"key": str(key), "lang": lang, "text": " ".join(pairs[i][k] for i in some)}
            for k, lang in ((0, "en"), (1, "th"))
        ]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ["train", "tokenizer", "--documents", documents, "--vocab-size", "600", "--out"]
    common = [*common[:-1], "--parallel", str(tmp_path / "said.jsonl"), "--out"]
    assert call(*common, str(tmp_path / "plain")) == 0
    assert (
        call(*common, str(tmp_path / "parity"), "--parity", "--pieces", "marks", "--beside", str(tmp_path / "plain"))
        == 0
    )
    shown = capsys.readouterr().out
    found = storage.read_json(str(tmp_path / "parity" / "fertility.json"))
    ours, plain = found["parity"]
    assert ours["gini"] < 0.5 * plain["gini"] and f"Gini {ours['gini']:.3f}" in shown and "against en" in shown
    costs = {(row["tokenizer"], row["lang"]): row for row in found["cost"]}
    assert costs["trained", "en"]["cost"] == 1.0 and costs["trained", "en"]["documents"] == 15
    assert f"{costs['trained', 'th']['cost']:.2f}" in shown
    ByteLevelBPE.of(tokenizers.load(str(tmp_path / "parity")))
    (tmp_path / "said.jsonl").write_text(json.dumps({"lang": "th", "text": "x"}))
    assert call(*common, str(tmp_path / "third")) == 2
    assert "--parallel: row 1" in capsys.readouterr().err


def test_of_a_run(documents, tmp_path):
    run = tmp_path / "run"
    (run / "quality").mkdir(parents=True)
    (run / "quality" / "_manifest.json").write_text("{}")
    (tmp_path / "a.parquet").rename(run / "quality" / "part-00000.parquet")
    assert (
        call("train", "tokenizer", "--documents", str(run), "--vocab-size", "300", "--out", str(tmp_path / "out")) == 0
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--temperature", "0"], "must be above 0"),
        (["--vocab-size", "100"], "259"),
        (["--beside", "."], "no tokenizer in this folder"),
        (["--documents", "/no/such/*.parquet"], "no file matches"),
    ],
)
def test_errors(documents, tmp_path, capsys, more, message):
    arguments = ["--documents", documents, "--vocab-size", "300", "--out", str(tmp_path / "out"), *more]
    assert call("train", "tokenizer", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
