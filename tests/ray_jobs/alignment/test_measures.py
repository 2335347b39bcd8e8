"""Rewards, perplexities and embeddings by shards: as without shards, and a killed run goes on; then the selection of a run."""

import json
import types
from collections import Counter

import numpy as np
import pytest
import torch

from cluster import storage
from ray_jobs.alignment import chats, measures, reward_model
from ray_jobs.config.alignment import Select
from ray_jobs.stages import reward, sft_select
from train import model as models
from train.batches import examples
from train.chat.conversations import encode
from train.methods import reward as rewards
from train.scores import embed, reward_scores


@pytest.fixture(scope="module")
def words():
    return ["ikan", "perahu", "nasi", "laut", "ya", "tidak", "kapal layar", "padi"]


@pytest.fixture
def run(chat_tokenizer, tiny_model, tmp_path, words, monkeypatch, request):  # noqa: PLR0917
    """A folder with tokenizer, base and reward model and 23 chats, five a shard; one chat is longer than the context."""
    monkeypatch.setattr(measures, "ROWS", getattr(request, "param", 5))
    monkeypatch.setattr(measures, "SHARDS", 2)
    chat_tokenizer.save_pretrained(tmp_path / "tokenizer")
    models.save(tiny_model(), chat_tokenizer, str(tmp_path / "base"), 512)
    models.save(rewards.build(tiny_model(1), pad_token_id=0), chat_tokenizer, str(tmp_path / "rm"), 512)
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": f"chat-{i:02}",
            "lang": ("id", "ms")[i % 2],
            "category": ("qa", "talk")[i % 3 == 0],
            "messages": [
                {"role": "user", "content": " ".join(rng.choice(words, 3))},
                {"role": "assistant", "content": " ".join(rng.choice(words, 400 if i == 7 else rng.integers(2, 9)))},
            ],
        }
        for i in range(23)
    ]
    chats.write_rows(str(tmp_path / "rows.jsonl"), rows)
    folder = str(tmp_path / "measures")
    names = measures.split(str(tmp_path / "rows.jsonl"), folder)
    of = {"tokenizer": str(tmp_path / "tokenizer"), "folder": folder, "context": 512, "precision": "fp32"}
    kinds = {
        "reward": {"reward": {"model": str(tmp_path / "rm"), "precision": "fp32"}},
        "surprise": {"model": str(tmp_path / "base"), "embed": True},
    }
    tasks = [{**of, **own, "measure": kind, "names": names} for kind, own in kinds.items()]
    return types.SimpleNamespace(rows=rows, names=names, folder=folder, tasks=tasks, root=tmp_path)


@pytest.mark.parametrize("run", [5, 1], indirect=True)  # with one row a shard, one shard has none that fits
def test_shards_give_what_one_pass_gives(run, tiny_model, chat_tokenizer, tmp_path):
    assert len(run.names) in (5, 23)
    assert list(measures.rows(run.folder, run.names)) == run.rows
    for task in run.tasks:
        measures.measure_shards(task)
    fitting, _ = examples.within(encode(chat_tokenizer, run.rows, score="content"), 512)
    perplexity, vectors = embed.surprise(tiny_model(), fitting)
    found = measures.column(run.folder, "surprise", run.names, "perplexity")
    fits = ~np.isnan(found)
    assert [row["id"] for row, fit in zip(run.rows, fits, strict=True) if not fit] == ["chat-07"]
    assert np.allclose(found[fits], perplexity, rtol=1e-5)
    kept = measures.embeddings(run.folder, "surprise", run.names, fits, str(tmp_path / "vectors"))
    assert np.allclose(kept, vectors, atol=1e-5)
    model, tokenizer = reward_scores.load(str(run.root / "rm"))
    expected = reward_scores.score(model, tokenizer, [row["messages"] for row in run.rows])
    assert np.allclose(measures.column(run.folder, "reward", run.names, "reward"), expected, atol=1e-5)


def test_a_killed_task_keeps_its_shards_and_goes_on(run, monkeypatch):
    for task in run.tasks:
        measures.measure_shards(task)
    uris = storage.glob(storage.join(run.folder, "*", "part-*.parquet"))
    undisturbed = {uri: storage.read_bytes(uri) for uri in uris}
    assert len(uris) == 10
    for uri in uris:
        storage.remove(uri)
    write, left = storage.write_table, [3]

    def dies(uri, table):
        left[0] -= 1
        if left[0] < 0:
            raise OSError("killed")
        write(uri, table)

    monkeypatch.setattr(storage, "write_table", dies)
    with pytest.raises(OSError, match="killed"):
        measures.measure_shards(run.tasks[0])
    monkeypatch.setattr(storage, "write_table", write)
    assert len(storage.glob(storage.join(run.folder, "*", "part-*.parquet"))) == 3
    before = {uri: storage.filesystem(uri)[0].info(uri)["mtime"] for uri in uris[:3]}
    for task in run.tasks:
        measures.measure_shards(task)
    assert {uri: storage.read_bytes(uri) for uri in uris} == undisturbed
    assert {uri: storage.filesystem(uri)[0].info(uri)["mtime"] for uri in uris[:3]} == before
    monkeypatch.setattr(reward_model, "scorer", lambda of: pytest.fail("all shards are there"))
    measures.measure_shards(run.tasks[0])


@pytest.fixture
def job(run, monkeypatch):
    """A job of sft/select whose tasks run in this process."""
    monkeypatch.setattr(
        measures, "map_on_ray", lambda job, function, tasks, *_, **__: [function(task) for task in tasks]
    )
    monkeypatch.setattr(measures.device, "wants_gpus", lambda job: False)
    (run.root / "run" / "tokenize").mkdir(parents=True)
    (run.root / "tokenizer").rename(run.root / "run" / "tokenize" / "tokenizer")
    inputs = {"sft/stage1": run.root, "reward": run.root, "pretrain/stage2": run.root}
    names = {"rows.jsonl": "rows.jsonl"}

    def make(stage="sft/select", given=None, **select):
        settings = types.SimpleNamespace(select=Select(**select))
        given = types.SimpleNamespace(model=given, preference="x", max_rows=None, heldout_rows=1000)
        train = types.SimpleNamespace(
            context=512, precision="fp32", sft=settings, reward=given, pretrain=True, long_context=None
        )
        return types.SimpleNamespace(
            recipe=types.SimpleNamespace(train=train),
            train=train,
            sft=settings,
            reward=given,
            stage=types.SimpleNamespace(name=stage),
            run_uri=str(run.root / "run"),
            path=lambda *parts: storage.join(str(run.root / "run" / stage), *parts),
            input=lambda of, name: str(inputs[of] / names.get(name, {"reward": "rm"}.get(of, "base"))),
            ledger=str(run.root / "run" / "dropped" / stage),
        )

    return make


def decisions(one):
    return storage.read_table(one.path("decisions.parquet")).to_pylist()


def test_a_selection_says_of_each_row_why(run, job):
    one = job(per_cell=3)
    result = sft_select.run(one)
    found = decisions(one)
    assert result["candidates"] == len(found) == 22  # one does not fit
    assert result["decisions"] == {
        rule: sum(d["rule"] == rule for d in found) for rule in sorted({d["rule"] for d in found})
    }
    assert result["asked"] == 12
    taken = {d["id"] for d in found if d["rule"] == "taken"}
    kept = chats.read_rows(one.path("rows.jsonl"))
    assert kept == [row for row in run.rows if row["id"] in taken]
    assert result["per_language"] == chats.per_language(kept)
    ledger = storage.read_table(storage.join(one.ledger, "part-chats.parquet")).to_pylist()
    assert {row["doc_id"]: row["rule"] for row in ledger} == {d["id"]: d["rule"] for d in found if d["rule"] != "taken"}
    assert not storage.exists(one.path("measures"))


def test_a_languages_number_is_shared_by_categories(job):
    one = job(per_language={"default": 4, "ms": 0}, shares={"qa": 3, "talk": 1}, max_similarity=1.0)
    sft_select.run(one)
    taken = [(d["lang"], d["category"]) for d in decisions(one) if d["rule"] == "taken"]
    assert sorted(taken) == [("id", "qa")] * 3 + [("id", "talk")]
    with pytest.raises(ValueError, match="names none of the categories of id, which are: qa, talk"):
        sft_select.run(job(per_language={"default": 4}, shares={"code": 1}))


def test_a_sentence_model_by_key(run, job, chat_tokenizer):
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=300, **sizes)).save_pretrained(run.root / "sentences")
    chat_tokenizer.save_pretrained(run.root / "sentences")
    one = job(per_cell=30, max_similarity=0.99, embedding_model=str(run.root / "sentences"))
    sft_select.run(one)
    compared = [d for d in decisions(one) if d["nearest"]]
    net = embed.SentenceModel(str(run.root / "sentences"))
    talk = {row["id"]: row["messages"] for row in run.rows}
    for d in compared[:5]:
        a, b = net.embed([talk[d["id"]], talk[d["nearest"]]])
        assert d["cosine"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)


def test_held_out_pairs_share_no_prompt_with_the_others():
    rows = [
        {"id": str(i), "prompt": [{"role": "user", "content": f"apa {i // 3}?"}], "chosen": "a", "rejected": "b"}
        for i in range(300)
    ]
    seen, held = reward.split(rows)
    assert len(seen) + len(held) == 300
    assert 10 < len(held) < 60
    prompts = [{json.dumps(row["prompt"]) for row in side} for side in (seen, held)]
    assert not prompts[0] & prompts[1]


def test_a_given_reward_model_is_measured(run, job, words, monkeypatch):
    rows = [
        {"id": str(i), "lang": ("id", "ms")[i % 2], "prompt": [{"role": "user", "content": f"apa {i}?"}],
         "chosen": f"{words[i % 8]} laut", "rejected": words[i % 8]}
        for i in range(200)
    ]  # fmt: skip
    monkeypatch.setattr(chats, "preferences", lambda *_: chats.Pairs(rows, len(rows), Counter(), Counter()))
    one = job("reward", given=str(run.root / "rm"))
    result = reward.run(one)
    held = reward.split(rows)[1]
    assert result["heldout_pairs"] == len(held) > 5
    model, tokenizer = reward_scores.load(str(run.root / "rm"))
    sides = [
        reward_scores.score(model, tokenizer, [[*r["prompt"], {"role": "assistant", "content": r[side]}] for r in held])
        for side in ("chosen", "rejected")
    ]
    table = storage.read_table(one.path("heldout.parquet"))
    assert np.allclose(table["chosen_reward"], sides[0], atol=1e-5)
    assert np.allclose(table["rejected_reward"], sides[1], atol=1e-5)
    assert result["heldout_accuracy"] == pytest.approx(np.mean(sides[0] > sides[1]))
    assert result["length_bias"]["accuracy_of_longer"] == 1.0
    assert set(result["heldout_accuracy_per_language"]) == {"id", "ms"}
