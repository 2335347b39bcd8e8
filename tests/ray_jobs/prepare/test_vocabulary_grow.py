"""`pinisi vocabulary grow` on small models of three kinds: tokens, rows, pieces, and what must stay as it was."""

from __future__ import annotations

import argparse
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from shapes import SMALL
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cluster import storage
from mixture.bpe.encode import ByteLevelBPE
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs import cli
from ray_jobs.prepare import vocabulary as prepare
from ray_jobs.stages import base, expand
from train import model
from train.export import grow as rows_of

RNG = np.random.default_rng(0)


def words(low: int, high: int, marks: tuple[int, int] | None = None, n: int = 60) -> list[str]:
    """Words of random letters, each second one with a combining mark behind."""
    letters = RNG.integers(low, high, (n, 4))
    return [
        "".join(chr(a) + (chr(RNG.integers(*marks)) if marks and i % 2 else "") for i, a in enumerate(row))
        for row in letters
    ]


WORDS = {
    "en": words(0x61, 0x7B),
    "zh": words(0x4E00, 0x4E60),
    "my": words(0x1000, 0x1021, (0x102D, 0x1033)),
    "lo": words(0xE94, 0xE98, (0xEC8, 0xECE)),
}


def texts(lang: str, n: int, seed: int = 1) -> list[str]:
    rng = np.random.default_rng(seed)
    gap = " " if lang == "en" else ""
    return [gap.join(rng.choice(WORDS[lang], 40)) + (". 12\n" if i % 3 else " ") for i in range(n)]


def call(*arguments) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(map(str, arguments)))
    return exit_.value.code


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tokenizer of English and Chinese, documents, and models with it: tied, untied in shards, rows behind the last token."""
    folder = tmp_path_factory.mktemp("grow")
    tokenizer = tokenizers.train_bpe(texts("en", 200) + texts("zh", 200), 400, str(folder / "tokenizer"))
    rows = [{"id": f"{i}", "lang": lang, "text": text} for lang in WORDS for i, text in enumerate(texts(lang, 200))]
    storage.write_table(str(folder / "documents.parquet"), pa.Table.from_pylist(rows))
    same = [{"key": f"{i}", "lang": lang, "text": t} for lang in WORDS for i, t in enumerate(texts(lang, 200, 5))]
    storage.write_table(str(folder / "parallel.parquet"), pa.Table.from_pylist(same))
    for name, kind, tied, vocabulary in (
        ("qwen2", "qwen2", True, 448),
        ("qwen3", "qwen3", False, 403),
        ("llama", "llama", False, 640),
    ):
        shape = SMALL | {
            "vocab_size": vocabulary,
            "tie_word_embeddings": tied,
            "head_dim": 16,
            "initializer_range": 0.2,
        }
        torch.manual_seed(0)
        net = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape))
        net.to(torch.bfloat16 if name == "qwen3" else torch.float32)
        net.save_pretrained(folder / name, max_shard_size="30KB" if name == "qwen3" else "5GB")
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def grown(made):
    for name in ("qwen2", "qwen3", "llama"):
        assert (
            call(
                "vocabulary",
                "grow",
                made / name,
                "--documents",
                made / "documents.parquet",
                "--out",
                made / f"{name}+",
                "--add",
                160,
            )
            == 0
        )
    return made


def encoded(tokenizer, some: list[str]) -> list[list[int]]:
    return [ids.tolist() for ids in tokenizers.encode(tokenizer, some)]


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama"])
def test_old_tokens_and_what_the_model_makes_of_them_stay_to_the_last_bit(grown, name):
    old, new = (AutoTokenizer.from_pretrained(grown / each) for each in (name, f"{name}+"))
    plain = Tokenizer.from_file(str(grown / f"{name}+" / "tokenizer.json"))
    rng = np.random.default_rng(2)
    alphabet = [*map(chr, range(1, 0x250)), *"’“—…🚢é\u0301中文ñ\u200b\u3000αяกกา", *texts("zh", 2)[0]]
    fuzz = ["".join(rng.choice(alphabet, rng.integers(0, 60))) for _ in range(2000)]
    same = [*fuzz, *texts("en", 50, 3), *texts("zh", 50, 3)]
    assert encoded(new, same) == encoded(old, same)
    theirs = [texts(lang, 1, seed)[0] + noise for seed, noise in enumerate(fuzz[:300]) for lang in ("my", "lo")]
    plain.encode_special_tokens = True
    want = [each.ids for each in plain.encode_batch_fast(theirs, add_special_tokens=False)]
    assert encoded(new, theirs) == want
    ids, ends = ByteLevelBPE.of(new).encode(pa.array(theirs))
    assert [ids[a:b].tolist() for a, b in pairwise(ends)] == want
    assert sum(map(len, want)) < 0.5 * sum(map(len, encoded(old, theirs[:600])))
    assert all(
        new.decode(ids, skip_special_tokens=False) == old.backend_tokenizer.normalizer.normalize_str(text)
        for ids, text in zip(want, theirs, strict=True)
    )
    assert {token: new.get_vocab()[token] for token in old.get_vocab()} == old.get_vocab()
    assert len(new) == len(old) + 160
    before, after = (
        AutoModelForCausalLM.from_pretrained(grown / each, dtype=torch.float32) for each in (name, f"{name}+")
    )
    row = torch.tensor(encoded(old, theirs)[0][:100]).view(1, -1)
    with torch.no_grad():
        one, two = (net(row, output_hidden_states=True) for net in (before, after))
    assert all(torch.equal(a, b) for a, b in zip(one.hidden_states, two.hidden_states, strict=True))
    kept = [i for i in range(before.config.vocab_size) if not len(old) <= i < len(new)]
    assert torch.equal(one.logits[..., kept], two.logits[..., kept])
    about = storage.read_json(str(grown / f"{name}+" / "vocabulary.json"))
    assert 0 <= about["nats_lost_by_old_tokens"] < max(0.02, 0.1 * about["nats_lost_with_means_alone"])
    assert about["rows"] == after.config.vocab_size == {"qwen2": 576, "qwen3": 560, "llama": 640}[name]


def test_rows_are_means_of_their_pieces(grown):
    old, new = AutoTokenizer.from_pretrained(grown / "llama"), AutoTokenizer.from_pretrained(grown / "llama+")
    before, after = model.load(str(grown / "llama")), model.load(str(grown / "llama+"))
    backend = new.backend_tokenizer
    for number in range(len(old), len(new)):
        token = new.convert_ids_to_tokens(number)
        pieces = [piece.id for piece in Tokenizer.from_str(old.backend_tokenizer.to_str()).model.tokenize(token)]
        assert [piece.id for piece in backend.model.tokenize(token)] == [number]
        want = before.model.embed_tokens.weight[pieces].mean(0)
        torch.testing.assert_close(after.model.embed_tokens.weight[number], want, rtol=0, atol=1e-6)
    own = before.lm_head.weight.mean(0)
    assert len({tuple(row.tolist()) for row in after.lm_head.weight[len(old) : len(new)]}) > 100
    assert not torch.equal(own, after.lm_head.weight[-1])


def test_words_keep_their_marks_where_the_model_opens_so(grown, capsys):
    pieces = {
        name: AutoTokenizer.from_pretrained(grown / f"{name}+").backend_tokenizer.pre_tokenizer.pre_tokenize_str(
            WORDS["my"][0]
        )
        for name in ("qwen2", "qwen3", "llama")
    }
    assert {name: len(found) for name, found in pieces.items()} == {"qwen2": 3, "qwen3": 1, "llama": 1}
    common = ["vocabulary", "grow", "--documents", grown / "documents.parquet", "--dry-run"]
    assert call(*common, grown / "qwen2", "--pieces", "marks") == 2
    assert "gives every model of kind qwen2 pieces that end at combining marks" in capsys.readouterr().err


def test_pieces_that_keep_all_marks_stay_as_they_are(made, tmp_path, capsys):
    shutil.copytree(made / "qwen2", tmp_path / "marks")
    tokenizers.train_bpe(texts("en", 200), 300, str(tmp_path / "tokenizer"), pieces="marks")
    for file in (tmp_path / "tokenizer").iterdir():
        shutil.copyfile(file, tmp_path / "marks" / file.name)
    given = [tmp_path / "marks", "--documents", made / "documents.parquet", "--add", 40, "--probe-tokens", 0]
    assert call("vocabulary", "grow", *given, "--out", tmp_path / "new", "--pieces", "old") == 0
    assert "marks" not in capsys.readouterr().out.replace(str(tmp_path), "")
    old, new = (tokenizers.load(str(tmp_path / name)) for name in ("marks", "new"))
    assert len(new) == len(old) + 40


def test_a_grown_vocabulary_grows_again_and_takes_chat_tokens_and_layers(grown):
    common = [
        "vocabulary",
        "grow",
        "--documents",
        grown / "documents.parquet",
        "--languages",
        "lo",
        "--add",
        20,
        "--probe-tokens",
        0,
    ]
    assert call(*common, grown / "qwen3+", "--out", grown / "qwen3++") == 0
    once, twice = tokenizers.load(str(grown / "qwen3+")), tokenizers.load(str(grown / "qwen3++"))
    assert len(twice) == len(once) + 20
    assert encoded(twice, texts("my", 20)) == encoded(once, texts("my", 20))
    assert twice.add_tokens(["<|new|>"]) == 1
    assert twice.convert_tokens_to_ids("<|new|>") == len(twice) - 1
    place = {"source": str(grown / "qwen3++"), "target": str(grown / "base"), "tokenizer": str(grown / "qwen3++")}
    assert base._copy({**place, "own_tokenizer": str(grown / "qwen3++")})["tokens_added"] == 0
    place |= {"source": str(grown / "base"), "target": str(grown / "expanded")}
    assert expand._expand({**place, "new_layers": 2, "untie_embeddings": True, "vocab_size": None})["logits_identical"]
    again = AutoTokenizer.from_pretrained(grown / "expanded")
    assert encoded(again, texts("my", 20) + texts("lo", 20)) == encoded(
        tokenizers.load(str(grown / "qwen3++")), texts("my", 20) + texts("lo", 20)
    )


def test_the_language_that_pays_most_is_served_and_a_dry_run_writes_nothing(made, capsys):
    common = ["vocabulary", "grow", made / "llama", "--documents", made / "documents.parquet", "--add", 60]
    assert call(*common, "--dry-run", "--parallel", made / "parallel.parquet") == 0
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line[:2] in WORDS}
    assert rows["en"][2:5] == [rows["en"][2]] * 2 + ["1.00"]
    after = {lang: float(rows[lang][3].replace(",", "")) for lang in ("my", "lo")}
    assert max(after.values()) / min(after.values()) < 1.1  # of the same documents
    assert not storage.exists(str(made / "vocabulary.json"))
    assert "tokens/doc" in shown
    asked = argparse.Namespace(
        documents=str(made / "*s.parquet"), parallel=str(made / "parallel.parquet"), max_bytes=10**9
    )
    alone = prepare._read(asked)
    asked.documents = str(made / "*.parquet")  # the parallel ones are among them
    assert prepare._read(asked) == alone and len(alone.parallel["my"]) == 200
    assert call(*common, "--dry-run", "--parallel", made / "documents.parquet") == 2
    assert "has no text in `key`" in capsys.readouterr().err
    assert "texts without a letter of these scripts have the very tokens that they had" in shown


def test_shards_that_hold_no_vocabulary_are_copied_and_index_and_dtype_stay(grown):
    old, new = Path(grown, "qwen3"), Path(grown, "qwen3+")
    index = [json.loads((folder / "model.safetensors.index.json").read_text()) for folder in (old, new)]
    assert index[0]["weight_map"] == index[1]["weight_map"]
    assert index[1]["metadata"]["total_size"] - index[0]["metadata"]["total_size"] == 2 * 2 * 64 * (560 - 403)
    touched = {index[0]["weight_map"][name] for name in (rows_of.EMBEDDING, rows_of.HEAD)}
    shards = set(index[0]["weight_map"].values())
    assert len(shards - touched) > 2
    assert all((old / name).read_bytes() == (new / name).read_bytes() for name in shards - touched)
    assert model.load(str(new), torch.bfloat16).lm_head.weight.dtype == torch.bfloat16


FAULTS = {
    "no config.json": ["{made}/nowhere", "--documents", "{made}/documents.parquet", "--dry-run"],
    "give --out FOLDER": ["{made}/llama", "--documents", "{made}/documents.parquet"],
    "no document is in xx": [
        "{made}/llama",
        "--documents",
        "{made}/documents.parquet",
        "--languages",
        "xx",
        "--dry-run",
    ],
    "en: written in Latin": [
        "{made}/llama",
        "--documents",
        "{made}/documents.parquet",
        "--languages",
        "en",
        "--dry-run",
    ],
    "above 0": ["{made}/llama", "--documents", "{made}/documents.parquet", "--add", "0", "--dry-run"],
    "has a model already": ["{made}/llama", "--documents", "{made}/documents.parquet", "--out", "{made}/qwen2"],
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_one_sentence(made, message, capsys):
    assert call("vocabulary", "grow", *(argument.replace("{made}", str(made)) for argument in FAULTS[message])) == 2
    assert message in capsys.readouterr().err


def test_a_tokenizer_of_another_kind_is_refused(made, tmp_path, capsys):
    from chat_tokenizers import by_pieces

    storage.write_text(str(tmp_path / "config.json"), (made / "llama" / "config.json").read_text())
    by_pieces().save_pretrained(tmp_path)
    assert call("vocabulary", "grow", tmp_path, "--documents", made / "documents.parquet", "--dry-run") == 2
    assert "only byte-level vocabularies" in capsys.readouterr().err
