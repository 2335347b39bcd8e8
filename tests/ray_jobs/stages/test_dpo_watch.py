"""dpo/watch on tiny models without Ray: what it records, what it keeps, how it asks the judge, and the report's section."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from cluster import storage
from ray_jobs.alignment import chats, generate, pairs, probe_records, reward_model
from ray_jobs.config import reader as recipes
from ray_jobs.report import watch as watch_section
from ray_jobs.run.graph import enabled
from ray_jobs.run.job import Job
from ray_jobs.stages import dpo_watch
from train import model
from train.generation.judge import Judgement
from train.methods import dpo
from train.scores import logprobs

BETA = 0.1
PROMPTS = [
    {
        "id": f"p{i}",
        "lang": "id" if i % 2 else "lo",
        "prompt": [{"role": "user", "content": "perahu " * (i + 1)}],
        "chosen": "ikan " * (i % 3 + 1),
        "rejected": "ya",
    }
    for i in range(4)
]
STAGES = ("sft/stage2", "dpo/off_policy", "dpo/on_policy", "dpo/on_policy_2")


@pytest.fixture
def job(tmp_path, chatml_tokenizer, tiny_model, monkeypatch):
    """A run with two rounds, the first stage with a snapshot at update 2; a reward is the number of vowels."""
    overrides = [
        "train.dpo.on_policy.rounds=2",
        "train.dpo.on_policy.max_new_tokens=6",
        "train.dpo.watch.every=2",
        "train.device=cpu",
        f"train.dpo.beta={BETA}",
    ]
    recipe = recipes.load("demo", overrides)
    chatml_tokenizer.save_pretrained(tmp_path / "tokenize" / "tokenizer")
    for seed, stage in enumerate(STAGES):
        model.save(tiny_model(seed=seed), chatml_tokenizer, str(tmp_path / stage / "model"), 256)
        steps = {"steps": 3} if stage.startswith("dpo") else {}
        storage.write_json(str(tmp_path / stage / "_manifest.json"), {"fingerprint": stage, **steps})
    model.save(tiny_model(seed=9), chatml_tokenizer, str(tmp_path / "dpo/off_policy/snapshots/000002"), 256)
    storage.write_json(str(tmp_path / "reward" / "_manifest.json"), {"fingerprint": "r"})
    chats.write_rows(str(tmp_path / "dpo/off_policy" / pairs.PROBE), PROMPTS)
    for module in (generate, dpo_watch):
        monkeypatch.setattr(module, "map_on_ray", lambda job, f, tasks, *_, **__: [f(task) for task in tasks])
    vowels = lambda of: lambda talks: np.array([len(re.findall("[aeiou]", t[-1]["content"])) for t in talks], float)  # noqa: E731
    monkeypatch.setattr(reward_model, "scorer", vowels)
    monkeypatch.setattr(pairs, "namer", lambda model_name: lambda text: "id")
    stage = next(stage for stage in enabled(recipe) if stage.name == "dpo/watch")
    progress = SimpleNamespace(start=lambda *_: None, set=lambda *_: None)
    return Job(recipe, str(tmp_path), stage, "f", progress)


def test_every_model_is_watched_against_the_sft_model(job, chatml_tokenizer, tiny_model):
    result = dpo_watch.run(job)
    found = probe_records.records(job.run_uri)
    assert [(r["step"], r["stage"], r["update"]) for r in found] == [
        (0, "sft/stage2", 0),
        (2, "dpo/off_policy", 2),
        (3, "dpo/off_policy", 3),
        (6, "dpo/on_policy", 3),
        (9, "dpo/on_policy_2", 3),
    ]
    assert result["prompts"] == 4 and result["models"] == 5 and result["last"] == found[-1]
    assert (found[0]["reward_margin"], found[0]["win_rate"]) == (0, 0.5)
    encoded, _ = dpo.encode_pairs(chatml_tokenizer, PROMPTS, 256)
    start, snapshot, last = (
        logprobs.logprobs(tiny_model(seed=seed), encoded.examples).reshape(2, -1) for seed in (0, 9, 3)
    )
    for record, logp in ((found[1], snapshot), (found[4], last)):
        change = logp - start
        assert record["reward_margin"] == pytest.approx(BETA * (change[0] - change[1]).mean(), rel=1e-4)
        assert record["chosen_logp"] == pytest.approx(logp[0].mean(), rel=1e-4)
    assert set(found[-1]["win_rate_by_language"]) == {"id", "lo"}
    asked = chats.read_rows(job.path(probe_records.QUESTIONS))
    assert [row["lang"] for row in asked] == ["id", "lo"]
    first = next(row for row in PROMPTS if row["lang"] == "id")
    assert asked[0]["question"] == first["prompt"][-1]["content"] and asked[0]["before"] != asked[0]["after"]
    shown = watch_section.section(job.run_uri)["questions"]
    assert shown == [("id", asked[0]), ("lo", asked[1])]


def test_a_model_that_did_not_change_does_not_answer_again(job, monkeypatch):
    dpo_watch.run(job)
    before = probe_records.records(job.run_uri)
    monkeypatch.setattr(model, "load", lambda *_: pytest.fail("a model was loaded again"))
    dpo_watch.run(job)
    assert probe_records.records(job.run_uri) == before


def test_a_changed_round_is_answered_again_alone(job):
    dpo_watch.run(job)
    before = probe_records.records(job.run_uri)
    folders = {
        path.split("/answers/")[1].split("/")[0] for path in storage.glob(job.path("answers", "*", "logprobs.json"))
    }
    storage.write_json(job.input("dpo/on_policy_2", "_manifest.json"), {"fingerprint": "other", "steps": 5})
    dpo_watch.run(job)
    after = probe_records.records(job.run_uri)
    assert after[:-1] == before[:-1] and after[-1]["step"] == 11
    now = {path.split("/answers/")[1].split("/")[0] for path in storage.glob(job.path("answers", "*", "logprobs.json"))}
    assert len(now) == len(folders) == 5 and len(now - folders) == 1


def test_the_judge_compares_every_model_with_the_sft_model(job, monkeypatch):
    judged = recipes.load(
        "demo",
        ["train.dpo.on_policy.rounds=2", "train.dpo.on_policy.max_new_tokens=6", "train.dpo.watch.every=2", "train.device=cpu",
         "train.dpo.watch.judge={base_url: 'http://judge/v1', model: j}"],
    )  # fmt: skip
    job.recipe = judged
    calls = []

    def compare(judge, rows, cache, on_done):
        calls.append((judge.base_url, judge.model, cache, [(row["answer"], row["baseline"]) for row in rows]))
        return [Judgement(1.0), Judgement(-0.5), Judgement(0.0), Judgement(None, "invalid")][: len(rows)]

    monkeypatch.setattr(dpo_watch.judge, "compare", compare)
    dpo_watch.run(job)
    found = probe_records.records(job.run_uri)
    assert len(calls) == 4
    assert {call[:3] for call in calls} == {("http://judge/v1", "j", f"{job.run_uri}/judge")}
    assert len({tuple(other for _, other in call[3]) for call in calls}) == 1  # always the SFT model's answers
    assert "judge_win_rate" not in found[0]
    assert {(r["judge_win_rate"], r["judge_invalid"]) for r in found[1:]} == {(np.mean([1, 0.25, 0.5]), 0.25)}
    verdicts = chats.read_rows(job.path("verdicts", "004.jsonl"))
    assert [v["verdict"] for v in verdicts] == [1.0, -0.5, 0.0, None] and verdicts[3]["problem"] == "invalid"


def test_without_held_out_prompts_nothing_is_watched(job):
    chats.write_rows(job.input("dpo/off_policy", pairs.PROBE), [])
    assert dpo_watch.run(job)["prompts"] == 0
    assert probe_records.records(job.run_uri) == [] and watch_section.section(job.run_uri) is None


def test_the_reports_section_shows_every_measure(tmp_path):
    records = [
        {
            "step": step, "stage": stage, "update": step % 5, "reward_margin": 0.1 * step, "chosen_logp": -9.0,
            "rejected_logp": -8.0,
            "reward": 1.0, "finished": 0.5, "answer_chars": 90.0 + step, "answer_tokens": 9.0, "language_consistency": 1.0,
            "emoji_rate": 0.0, "win_rate": 0.5, "win_rate_length_controlled": 0.5,
            "win_rate_by_language": {"lo": 0.5, "th": 0.75},
            "language_consistency_by_language": {"lo": 1.0, "th": 1.0}, **more,
        }
        for step, stage, more in (
            (0, "sft/stage2", {}),
            (5, "dpo/off_policy", {"judge_win_rate": 0.625, "judge_win_rate_length_controlled": 0.6, "judge_invalid": 0.0,
                                   "judge_win_rate_by_language": {"lo": 0.5, "th": 0.75}}),
        )
    ]  # fmt: skip
    storage.write_text(f"{tmp_path}/metrics/{probe_records.RECORDS}", "".join(json.dumps(r) + "\n" for r in records))
    found = watch_section.section(str(tmp_path))
    assert [title for title, _ in found["plots"]] == list(watch_section.PLOTS)
    drawn = "".join(str(svg) for _, svg in found["plots"]) + str(found["languages"])
    for text in (
        "by the judge",
        "by reward, at equal lengths",
        "answers with emoji",
        "rejected",
        "Thai (th)",
        "win rate by the judge",
    ):
        assert f">{text}<" in drawn, text
    assert [row[0] for row in found["table"]] == ["sft/stage2, update 0", "dpo/off_policy, update 0"]
    assert found["table"][0][found["keys"].index("judge_win_rate") + 1] is None
    assert found["table"][1][found["keys"].index("judge_win_rate") + 1] == 0.625
