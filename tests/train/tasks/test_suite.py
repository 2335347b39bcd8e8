"""Items that are asked while a model trains, against the same items asked of the finished model, on any number of ranks."""

import json
import random

import numpy as np
import pytest
from shapes import TINY

from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run import preflight
from ray_jobs.run.graph import enabled
from ray_jobs.run.job import Job
from ray_jobs.training import task_items, task_suite
from train import model
from train.distributed import data_parallel as parallel
from train.tasks import measure
from train.tasks import task as task_files

WORDS = ["satu", "dua", "tiga", "apa", "itu", "siapa", "di", "mana", "dan", "atau", "batu", "air"]


@pytest.fixture
def asked(tmp_path):
    """(job of a recipe that asks two tasks while it trains, cells, tokenizer, model)."""
    rng = random.Random(3)
    some = lambda n: " ".join(rng.choices(WORDS, k=n))  # noqa: E731
    folder = tmp_path / "eval"
    (folder / "options").mkdir(parents=True)
    rows = [
        {"id": f"{i}", "question": some(5), "options": [f"{some(2)} {j}" for j in range(3)], "answer": i % 3}
        for i in range(23)
    ]
    (folder / "options/id.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"id": "bad", "question": "x"}])
    )
    xcopa = [
        {
            "id": f"{i}",
            "premise": some(4),
            "choice1": some(3),
            "choice2": f"{some(3)} lain",
            "question": "effect",
            "label": i % 2,
        }
        for i in range(9)
    ]
    (folder / "xcopa.id.jsonl").write_text("".join(json.dumps(row) + "\n" for row in xcopa))
    settings = {"rows": [str(folder / "**/*.jsonl")], "shots": 2, "limit": None}
    recipe = recipes.load("demo", [f"train.eval_tasks={json.dumps(settings)}"])
    stage = next(stage for stage in enabled(recipe) if stage.name == "pretrain/stage1")
    job = Job(recipe, str(tmp_path / "run"), stage, "x", None)
    tokenizer = tokenizers.train_bpe([" ".join(WORDS) + " Pertanyaan Jawaban " * 30], 300, str(tmp_path / "tokenizer"))
    return job, task_suite.cells(job), tokenizer, model.build({**TINY, "vocab_size": 300}, 1)


def test_it_is_what_the_finished_model_is_asked(asked):
    job, cells, tokenizer, net = asked
    net.train()
    found = task_suite.suite(cells, tokenizer, 256).measure(net)
    assert net.training
    assert set(found["task_accuracy"]) == {"options/id", "xcopa/id"}
    known = task_files.shipped()
    items, rejects = task_items.read(job.train.eval_tasks, job.recipe.languages, known, "train.eval_tasks")
    assert [one["rule"] for one in rejects] == ["not_an_item"]
    for (name, lang), (shots, some) in items.items():
        results, _ = measure.measure(
            net, tokenizer, known[name], shots, some, max_tokens=256, split=str.split,
            encode=lambda texts: tokenizers.encode(tokenizer, texts),
        )  # fmt: skip
        assert found["task_accuracy"][f"{name}/{lang}"] == np.mean([one["correct"] for one in results])
        losses = []
        for item, one in zip(some, results, strict=True):
            sizes = [len(option.strip().encode()) for option in item.options] if known[name].score == "per_byte" else 1
            p = np.exp(np.array(one["logprobs"]) / sizes)
            losses.append(-np.log(p[item.gold] / p.sum()))
        assert found["task_loss"][f"{name}/{lang}"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("world", [2, 3, 40])
def test_ranks_share_the_rows_and_each_counts_once(asked, monkeypatch, world):
    _, cells, tokenizer, net = asked
    suite = task_suite.suite(cells, tokenizer, 256)
    want, parts, passes = suite.measure(net), [], []
    reads = type(net.model).forward

    monkeypatch.setattr(parallel, "sum_over_ranks", lambda values, device: parts.append(list(values)) or parts[-1])
    for rank in range(world):
        calls = []
        monkeypatch.setattr(parallel, "rank_world", lambda rank=rank: (rank, world))
        monkeypatch.setattr(type(net.model), "forward", lambda *a, calls=calls, **k: calls.append(1) or reads(*a, **k))
        suite.measure(net)
        passes.append(len(calls))
    assert len(set(passes)) == 1  # as FSDP needs
    monkeypatch.setattr(parallel, "sum_over_ranks", lambda values, device: np.sum(parts[:world], 0).tolist())
    found = suite.measure(net)
    assert found["task_accuracy"] == want["task_accuracy"]
    assert found["task_loss"] == pytest.approx(want["task_loss"], rel=1e-12)


def test_items_longer_than_the_context_are_left_out_aloud(asked, caplog):
    _, cells, tokenizer, net = asked
    lengths = sorted(question.longest for question in task_suite.suite(cells, tokenizer, 256).questions)
    found = task_suite.suite(cells, tokenizer, lengths[5])
    assert len(found.items) == sum(length <= lengths[5] for length in lengths) < len(lengths)
    assert f"are longer than {lengths[5]} tokens" in caplog.text
    assert found.measure(net)["task_loss"]
    with pytest.raises(ValueError, match=r"train\.eval_tasks: each item is longer than 9 tokens"):
        task_suite.suite(cells, tokenizer, 9)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"include": ["xquad"]}, "xquad wants answers, and only options are asked while a model trains"),
        ({"include": ["no_such"]}, "train.eval_tasks.include: there is no task no_such"),
        ({"rows": ["/nowhere/*.jsonl"]}, "train.eval_tasks.rows: no file matches /nowhere"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_runs(asked, settings, said):
    rows = asked[0].train.eval_tasks.rows
    recipe = recipes.load("demo", [f"train.eval_tasks={json.dumps({'rows': rows, **settings})}"])
    stage = next(stage for stage in enabled(recipe) if stage.name == "pretrain/stage1")
    assert any(said in sentence for sentence in preflight._tasks(recipe, [stage]))


def test_it_is_asked_only_with_measurements(asked):
    rows = asked[0].train.eval_tasks.rows
    for other, said in (
        (["train.eval_every=0"], r"train\.eval_tasks.*nothing reads it without"),
        (["train.context_parallel=2", "train.workers=2"], "eval_tasks asks whole rows"),
    ):
        with pytest.raises(UserError, match=said):
            recipes.load("demo", [f"train.eval_tasks={json.dumps({'rows': rows})}", *other])
