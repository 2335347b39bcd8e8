"""The draft of an aligned model, without Ray: answers of the model itself, training, and what is said of each language."""

import copy
from types import SimpleNamespace

import draft_talks
import pytest
import torch

from cluster import storage
from mixture.tokenizer import anchor as anchors
from ray_jobs.alignment import chats, generate
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.report import draft as draft_section
from ray_jobs.run.graph import enabled
from ray_jobs.run.job import Job
from ray_jobs.stages.adapt import draft as draft_job
from ray_jobs.stages.adapt import draft_answers
from train import model
from train.drafts import glide
from train.monitor import metrics


def here(job, function, items, unit="", **_):
    return [function(item) for item in items]


@pytest.fixture
def stages(tmp_path, chatml_tokenizer, tiny_model, monkeypatch):
    """`stages(*overrides)`: the results of both stages, in this process."""
    chatml_tokenizer.save_pretrained(tmp_path / "tokenize" / "tokenizer")
    net = tiny_model(vocab_size=len(chatml_tokenizer))
    model.save(net, chatml_tokenizer, str(tmp_path / "sft/stage1/model"), 128)
    chats.write_rows(str(tmp_path / "sft/data/rows.jsonl"), draft_talks.rows(id=10, th=7))
    for module in (generate, draft_job):
        monkeypatch.setattr(module, "map_on_ray", here)
        monkeypatch.setattr(module.device, "here", lambda: torch.device("cpu"))
        monkeypatch.setattr(module.device, "wants_gpus", lambda job: False)
    monkeypatch.setattr(draft_job, "launch", lambda job, function, settings: function(settings))

    def run(*overrides):
        own = "{vocabulary: 100, answers: {max_new_tokens: 24}, eval_prompts_per_language: 2, epochs: 12, "
        own += "optimiser: {rows_per_step: 2, micro_rows: 1, lr: 3e-3, weight_decay: 0.0}}"
        settings = [
            *("languages=[id, th]", "train.reward=null", "train.dpo=null", "train.context=128"),
            *("train.precision=fp32", f"train.draft={own}"),
        ]
        recipe = recipes.load("demo", [*settings, *overrides])
        found = []
        for name, job in (("draft_answers", draft_answers), ("draft", draft_job)):
            stage = next(stage for stage in enabled(recipe) if stage.name == name)
            found.append(job.run(Job(recipe, str(tmp_path), stage, "f", SimpleNamespace())))
        return found

    run.net = net
    return run


def test_a_draft_is_made_and_measured_in_each_language(stages, tmp_path):
    answered, drafted = stages()
    assert answered["model"] == drafted["model"] == "sft/stage1"
    assert {lang: of["answers"] for lang, of in answered["per_language"].items()} == {"id": 10, "th": 7}
    rows = chats.read_rows(str(tmp_path / "draft_answers/rows.jsonl"))
    assert all(len(row["answer_ids"]) <= 24 and row["prompt_ids"] for row in rows)
    learnt = {row["id"] for row in chats.read_rows(str(tmp_path / "draft/rows.jsonl"))}
    assert len(rows) - len(learnt) == 2 + 1  # a fifth at most

    found = storage.read_json(str(tmp_path / "draft/acceptance.json"))
    assert found["gamma"] == 4 and [*found["languages"]] == ["id", "th"]
    for of in found["languages"].values():
        assert of["equal"] == of["prompts"] and of["near_ties"] == 0
        assert 1 <= of["tokens_per_call"] <= 5 and len(of["accepted"]) == 4
        assert of["accepted"] == sorted(of["accepted"], reverse=True)
        assert 0 < of["coverage"] <= 1 and of["seconds"]["plain"] > 0
    assert drafted["vocabulary"] == 100
    curve = metrics.read(str(tmp_path / "metrics/draft.jsonl"))
    assert curve[-1]["loss"] < curve[0]["loss"] and curve[-1]["steps"] == drafted["steps"]

    draft, gamma = glide.load(str(tmp_path / "draft/model"), model.load(str(tmp_path / "sft/stage1/model")))
    assert gamma == 4 and len(draft.vocabulary) == 100
    assert found["worst"] == {
        "language": (worst := min("id", "th", key=lambda lang: found["languages"][lang]["tokens_per_call"])),
        "tokens_per_call": found["languages"][worst]["tokens_per_call"],
        "of_english": None,
    }
    card = (tmp_path / "draft/model/README.md").read_text()
    assert "A draft for the model `demo-chat` (`export/chat`, stage `sft/stage1`) and for no other" in card
    assert "| th | " in card and "it proposes 4 tokens at a time out of 100." in card
    section = draft_section.section(drafted)
    assert section["vocabulary"] == 100 and {lang for lang, _ in section["languages"]} == {"id", "th"}
    assert not storage.exists(str(tmp_path / "draft/checkpoints")) or not storage.ls(
        str(tmp_path / "draft/checkpoints")
    )


def test_an_eagle3_draft_goes_the_same_way(stages, tmp_path):
    _, drafted = stages("train.draft.method=eagle3", "train.draft.gamma=3", "train.precision=auto")
    for of in drafted["languages"].values():
        assert of["equal"] == of["prompts"] and len(of["accepted"]) == 3
    config = storage.read_json(str(tmp_path / "draft/model/config.json"))
    assert config["speculators_model_type"] == "eagle3" and config["draft_vocab_size"] == 100


def test_the_model_is_what_it_was(stages, tmp_path):
    before = {
        name: value.clone() for name, value in model.load(str(tmp_path / "sft/stage1/model")).state_dict().items()
    }
    stages()
    after = model.load(str(tmp_path / "sft/stage1/model")).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_run_that_was_killed_while_it_measured_does_not_train_again(stages, tmp_path, monkeypatch):
    stages()
    weights = (tmp_path / "draft/model/draft.safetensors").read_bytes()
    (tmp_path / "draft/measured/th.json").unlink()
    (tmp_path / "draft/acceptance.json").unlink()
    monkeypatch.setattr(draft_job, "launch", None)
    _, drafted = stages()
    assert (tmp_path / "draft/model/draft.safetensors").read_bytes() == weights
    assert [*drafted["languages"]] == ["id", "th"]


def test_a_model_behind_an_anchor_is_asked_and_drafted_behind_it(stages, tmp_path, chatml_tokenizer):
    tokenizer = anchors.with_anchor(copy.deepcopy(chatml_tokenizer))
    tokenizer.save_pretrained(tmp_path / "long_context" / "tokenizer")
    optimiser = "{rows_per_step: 2, lr: 1e-3}"
    longer = f"train.long_context={{context: 256, tokens: 1000, align: true, optimiser: {optimiser}}}"
    _, drafted = stages(longer, "train.draft.epochs=1")
    begin = anchors.anchor(tokenizer)
    rows = chats.read_rows(str(tmp_path / "draft_answers/rows.jsonl"))
    assert rows and all(row["prompt_ids"][0] == begin and row["prompt_ids"][1] != begin for row in rows)
    for of in drafted["languages"].values():
        assert of["equal"] == of["prompts"]


@pytest.mark.parametrize(("counts", "measured"), [((1, 2, 4, 5, 9, 100), (0, 1, 1, 1, 1, 3))])
def test_a_fifth_is_measured_but_one_of_few(counts, measured):
    rows = [{"id": f"{n}-{i}", "lang": str(n)} for n in counts for i in range(n)]
    learnt, found = draft_job._split(rows, 3)
    assert [sum(row["lang"] == str(n) for row in found) for n in counts] == [*measured]
    assert sorted(row["id"] for row in learnt + found) == sorted(row["id"] for row in rows)


def test_answers_without_room_for_a_prompt_are_said(stages):
    with pytest.raises(UserError, match="none has room for an answer of 127 tokens"):
        stages("train.draft.answers.max_new_tokens=127")


def test_nothing_is_asked_without_sft():
    for overrides, said in (
        (["train.sft=null", "train.reward=null", "train.dpo=null"], "draft needs `sft`"),
        (["train.context=256", "train.draft.answers.max_new_tokens=256"], "leaves no room for a prompt"),
    ):
        with pytest.raises(UserError, match=said):
            recipes.load("demo", ["train.draft={optimiser: {rows_per_step: 2, lr: 1e-3}}", *overrides])
