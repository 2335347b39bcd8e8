"""The stage `wildbench` on tiny models without Ray, with a judge on loopback, a reward model that counts vowels, and people."""

import json
import random
import re
from types import SimpleNamespace

import model_server
import numpy as np
import pytest
from jinja2 import Environment, FileSystemLoader
from judged_rows import ROWS
from model_server import say

from cluster import storage
from ray_jobs.alignment import generate, judged, reward_model
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.inspect import pairs
from ray_jobs.plan import alignment as plan
from ray_jobs.plan import dry_run
from ray_jobs.report import page
from ray_jobs.report import wildbench as section
from ray_jobs.run import wildbench_choice
from ray_jobs.run.graph import enabled
from ray_jobs.run.job import Job
from ray_jobs.stages.evaluation import judges, wildbench
from train import model
from train.tasks import checklist_rows

STAGES = ("base", "pretrain/stage2", "sft/stage2", "dpo/off_policy", "dpo/on_policy")
EASY = [{**row, "conversation_input": row["conversation_input"][-1:]} for row in ROWS]


@pytest.fixture
def server():
    """A judge."""
    with model_server.serving(lambda n, text: say("Verdict: A=B")) as found:
        yield found


def at(server, **settings):
    return {"base_url": server.url, "model": "judge-1", "attempts": 1, "key_variable": "", **settings}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, chatml_tokenizer):
    """A run with a tokenizer and models that say noise."""
    run = tmp_path_factory.mktemp("run")
    chatml_tokenizer.save_pretrained(run / "tokenize" / "tokenizer")
    shape = {
        **{"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024},
    }
    for seed, stage in enumerate(STAGES):
        model.save(model.build(shape, seed), chatml_tokenizer, str(run / stage / "model"), 1024)
        storage.write_json(str(run / stage / "_manifest.json"), {"fingerprint": stage})
    storage.write_json(str(run / "reward" / "_manifest.json"), {"fingerprint": "r"})
    return run


@pytest.fixture
def ask(finished, tmp_path, monkeypatch):
    for module in (generate, judges):
        monkeypatch.setattr(module, "map_on_ray", lambda job, do, items, *_, **__: [do(item) for item in items])
    vowels = lambda of: lambda talks: np.array([len(re.findall("[aeiou]", t[-1]["content"])) for t in talks], float)  # noqa: E731
    monkeypatch.setattr(reward_model, "scorer", vowels)

    def asked(rows=EASY, fresh=True, **settings):
        if fresh:
            storage.remove(str(finished / "wildbench"))
            storage.remove(str(finished / "judge"))
            storage.remove(str(finished / "dropped"))
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        own = {"rows": str(path), "max_new_tokens": 6, **settings}
        recipe = recipes.load("demo", [f"evaluate.wildbench={json.dumps(own)}", "train.device=cpu"])
        stage = next(stage for stage in enabled(recipe) if stage.name == "wildbench")
        said = []
        progress = SimpleNamespace(start=lambda *_: None, set=lambda *_: None, say=said.append, said=said)
        return Job(recipe, str(finished), stage, "f", progress)

    return asked


def results(job):
    return storage.read_table(job.path(wildbench.RESULTS)).to_pylist()


def metrics(job):
    return storage.read_json(job.path(wildbench.METRICS))


def test_a_judge_compares_each_model_with_the_reference(ask, server):
    def behave(n, text):  # prefers the reference answer, whichever it is
        reference = next(row["references"]["a-model"] for row in EASY if row["references"]["a-model"] in text)
        return say("Hm.\nVerdict: A++" if reference in text.split("# Answer B")[0] else "Hm.\nVerdict: B++")

    server.behave = behave
    job = ask(judge=at(server))
    made = wildbench.run(job)
    assert made["judges"] == ["judge-1"] and made["models"] == 2 and made["invalid"] == 0
    found = results(job)
    assert len(found) == 2 * len(EASY) and {one["model"] for one in found} == {"sft/stage2", "dpo/on_policy"}
    assert {one["reward"] for one in found} == {-1.0}
    assert {one["answer_first"] for one in found} == {True, False}  # however they were shown
    table = metrics(job)["judges"]["judge-1"]["models"]["sft/stage2"]
    assert table["all"]["value"] == table["macro"]["value"] == 0
    assert set(table["categories"]) == {"planning", "math", "coding", "creative", "information"}
    assert sorted(table["languages"]) == ["id", "km", "lo", "my", "th", "tl", "vi"]
    of = {one["lang"]: one for one in found}
    assert of["id"]["categories"] == ["planning", "information"]
    body = server.bodies[0]
    assert body["temperature"] == 0 and body["model"] == "judge-1"
    # The order is one for all models, so a judge of positions prefers none of them.
    assert len({(one["lang"], one["id"], one["answer_first"]) for one in found}) == len(EASY)


@pytest.mark.parametrize("mark", ["A++", "A+", "B+", "B++"])
def test_a_verdict_is_mirrored_when_the_order_is(mark, ask, server, monkeypatch):
    server.behave = lambda n, text: say(f"Verdict: {mark}")
    job = ask(judge=at(server), longer_chars=100_000)
    wildbench.run(job)
    one = {(row["model"], row["lang"], row["id"]): row["reward"] for row in results(job)}
    turned = lambda lang, name, real=judges.checklist.answer_first: not real(lang, name)  # noqa: E731
    monkeypatch.setattr(judges.checklist, "answer_first", turned)
    wildbench.run(job)
    other = {(row["model"], row["lang"], row["id"]): row["reward"] for row in results(job)}
    assert one == {key: -value for key, value in other.items()}
    assert set(map(abs, one.values())) == {1.0 if len(mark) > 2 else 0.5}


def test_slight_wins_of_longer_answers_are_ties_and_strong_ones_stay(ask, server):
    rows = [{**row, "references": {"m": "panjang " * 100}} for row in EASY]
    for mark, kept in (("+", False), ("++", True)):

        def behave(n, text, mark=mark):
            return say(f"Verdict: {'A' if 'panjang' in text.split('# Answer B')[0] else 'B'}{mark}")

        server.behave = behave
        job = ask(rows, judge=at(server, model=f"judge{mark}"))
        wildbench.run(job)
        found = results(job)
        assert {one["reward"] for one in found} == ({-1.0} if kept else {0.0})
        assert {one["how"] for one in found} == ({"judge"} if kept else {"length rule"})


def test_empty_answers_lose_and_equal_ones_tie_without_a_question(ask, server, monkeypatch):
    said = iter(["", "", "sama", "lain"] * 10)
    real = generate.greedy

    def greedy(*arguments, **settings):
        found = real(*arguments, **settings)
        return {folder: [{**row, "answer": next(said)} for row in rows] for folder, rows in found.items()}

    monkeypatch.setattr(generate, "greedy", greedy)
    rows = [{**row, "references": {"m": "sama"}} for row in EASY[:4]]
    job = ask(rows, judge=at(server), models=["sft/stage2"])
    wildbench.run(job)
    assert [(one["reward"], one["how"]) for one in results(job)] == [
        *[(-1.0, "empty")] * 2,
        (0.0, "equal"),
        (0.0, "judge"),
    ]
    assert len(server.bodies) == 1


def test_what_cannot_be_read_is_counted_and_counts_nowhere(ask, server):
    replies = ["Verdict: A++", "I'm sorry, I can't judge that.", "Verdict: A+ or B+", "{}", "", "ขออภัย", "Verdict: A++"]
    server.behave = lambda n, text: say(
        replies[next(i for i, row in enumerate(EASY) if row["references"]["a-model"] in text)]
    )
    job = ask(judge=at(server), models=["sft/stage2"])
    made = wildbench.run(job)
    table = metrics(job)["judges"]["judge-1"]["models"]["sft/stage2"]
    assert table["invalid"] == made["invalid"] == 5
    assert table["all"]["judged"] == 2
    assert all(one["verdict"] is None and one["problem"] for one in results(job)[1:6])
    assert any("no valid verdict on 71%" in warning for warning in made["warnings"])
    shown = section.section(job.run_uri)
    assert "5 verdicts could not be read" in shown.tables[0].remarks
    assert all(not cell.certain for _, _, cells in shown.tables[0].lines for cell in cells)


def test_faults_of_the_line_are_tried_again_or_stand_alone(ask, server):
    said = [(500, b"down"), (429, b""), (None, b""), (200, b"<html>"), (200, b"{}"), (200, b'{"choices": []}')]
    faults = [(status, {}, body) for status, body in said]
    rng = random.Random(1)
    plans = {}

    def behave(n, text):
        plan = plans.setdefault(text, rng.sample(faults, 3))
        return plan[n - 1] if n < 4 else say("Verdict: B+")

    server.behave = behave
    job = ask(judge=at(server, attempts=5, concurrency=4), models=["sft/stage2"])
    job.recipe.evaluate.wildbench.judge[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judges.judge, "MAX_PAUSE_SECONDS", 0.01)
        assert wildbench.run(job)["invalid"] == 0
    server.behave = lambda n, text: (400, {}, b"content filter") if "มะม่วง" in text else say("Verdict: A=B")
    job = ask(judge=at(server), models=["sft/stage2"])
    wildbench.run(job)
    (refused,) = [one for one in results(job) if one["problem"]]
    assert refused["lang"] == "th" and refused["problem"] == "HTTP 400: content filter"


def test_an_unreachable_judge_is_one_sentence_before_and_after_the_answers(ask, server, monkeypatch):
    drawn = []
    real = generate.draw
    monkeypatch.setattr(generate, "draw", lambda task: drawn.append(1) or real(task))
    gone = {**at(server), "base_url": "http://127.0.0.1:9/v1"}
    monkeypatch.setattr(judges.judge.Judge, "pause_seconds", 0.01, raising=False)
    job = ask(judge=gone)
    with pytest.raises(
        ValueError, match=r"The judge at http://127.0.0.1:9/v1 cannot be reached .* what is done is kept"
    ):
        wildbench.run(job)
    assert not drawn  # hours of answers for nobody
    wildbench.run(ask(judge=at(server)))
    made = len(drawn)
    with pytest.raises(ValueError, match="cannot be reached"):
        wildbench.run(ask(judge=gone, fresh=False))
    assert len(drawn) == made + len(storage.glob(f"{job.run_uri}/wildbench/answers/*/settings.json"))
    assert sum(server.seen.values()) == 2 * len(EASY)


def test_a_judge_that_dies_half_way_goes_on_and_pays_nothing_twice(ask, server):
    told = []

    def behave(n, text):
        told.append(text)
        return (500, {}, b"down") if len(told) > 4 else say("Verdict: A+")

    server.behave = behave
    job = ask(judge=at(server, concurrency=1))
    with pytest.raises(ValueError, match="gave no reply to 5 pairs in a row"):
        wildbench.run(job)
    server.behave = lambda n, text: say("Verdict: A+")
    before = len(server.bodies)
    wildbench.run(ask(judge=at(server, concurrency=1), fresh=False))
    assert len(server.bodies) - before == 2 * len(EASY) - 4
    resumed = results(job)
    wildbench.run(ask(judge=at(server, concurrency=1)))
    assert results(job) == resumed


def test_answers_are_made_shard_by_shard_and_a_killed_stage_makes_the_others(ask, monkeypatch):
    monkeypatch.setattr(generate, "PROMPTS_PER_SHARD", 2)
    job = ask(reward={}, models=["sft/stage2"])
    wildbench.run(job)
    whole, answered = metrics(job), results(job)
    storage.remove(job.path("answers"))
    storage.remove(job.path("rewards"))
    real, calls = generate.draw, []

    def killed(task):
        calls.append(task)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(generate, "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        wildbench.run(ask(reward={}, models=["sft/stage2"], fresh=False))
    left = len(storage.glob(job.path("answers", "*", "drawn", "*.jsonl")))
    assert left == 2
    wildbench.run(ask(reward={}, models=["sft/stage2"], fresh=False))
    assert metrics(job) == whole and results(job) == answered


def test_the_reward_model_judges_by_the_difference(ask, monkeypatch):
    ended, by_reward = {"finished": True, "reference_finished": True}, judges._by_reward
    monkeypatch.setattr(
        judges, "_by_reward", lambda job, own, some: by_reward(job, own, [{**one, **ended} for one in some])
    )
    job = ask(reward={"slight": 3, "strong": 6}, longer_chars=100_000)
    wildbench.run(job)
    count = lambda text: len(re.findall("[aeiou]", text))  # noqa: E731
    for one in results(job):
        above = count(one["answer"]) - count(one["reference"])
        size = 0 if abs(above) <= 3 else 0.5 if abs(above) <= 6 else 1
        assert one["verdict"] == np.sign(above) * size, one
    assert not storage.exists(f"{job.run_uri}/judge")


def test_a_model_of_the_run_may_be_the_reference(ask):
    rows = [{key: value for key, value in row.items() if key != "references"} for row in EASY]
    job = ask(rows, reward={}, reference="sft/stage2", models=["sft/stage2", "dpo/on_policy", "base"])
    made = wildbench.run(job)
    assert made["reference"] == "sft/stage2" and made["models"] == 2
    assert {one["model"] for one in results(job)} == {"base", "dpo/on_policy"}
    change = metrics(job)["judges"]["reward"]["differences"]
    assert list(change) == ["dpo/on_policy"]  # beside the first of them
    place = str(job.run_uri) + "/pretrain/stage2/model"
    job = ask(rows, reward={}, reference=place, models=["sft/stage2"])
    assert wildbench.run(job)["reference"] == place
    assert all(one["reference"] for one in results(job))


def test_people_are_judges_and_agree_or_not(ask, server, finished):
    job = ask(judge=at(server), models=["sft/stage2"])
    wildbench.run(job)
    rows = pairs.read(job.path(judges.PAIRS))
    assert len(rows) == len(EASY)
    assert {name for row in rows.values() for name, _ in row["answers"]} == {"sft/stage2", "reference"}
    assert {row["judge"] for row in rows.values()} == {"tie"}  # as the judge of the run said
    run = SimpleNamespace(uri=str(finished))
    storage.remove(f"{finished}/inspect")
    for who in ("ani", "bua"):
        desk = pairs.Pairs(run, rows, who)
        for key, row in list(rows.items())[:-1]:
            shown = [name for name, _ in desk._shown(key)]
            wanted = "reference" if row["lang"] in ("th", "lo", "km") else "sft/stage2"
            label = "tie" if row["lang"] == "vi" else ("first", "second")[shown.index(wanted)]
            assert desk.judge({"key": [key], "label": [label]}) is None
    reads = {row["references"]["a-model"]: row for row in EASY}

    def behave(n, text):
        row = next(row for answer, row in reads.items() if answer in text)
        reference_is_a = row["references"]["a-model"] in text.split("# Answer B")[0]
        likes_reference = row["language"] in ("tha_Thai", "lo", "km")
        return say(f"Verdict: {'A' if likes_reference == reference_is_a else 'B'}++")

    server.behave = behave
    job = ask(
        judge=at(server, model="judge-2"),
        models=["sft/stage2"],
        fresh=False,
        people=f"{finished}/inspect/answers/*.jsonl",
    )
    made = wildbench.run(job)
    assert made["judges"] == ["judge-2", "people"]
    by_people = {one["lang"]: one["reward"] for one in results(job) if one["judge"] == "people"}
    last = list(rows.values())[-1]["lang"]
    assert by_people == {
        **dict.fromkeys(("id", "my", "tl"), 1.0),
        **dict.fromkeys(("th", "lo", "km"), -1.0),
        "vi": 0.0,
        last: None,
    }
    table = metrics(job)["judges"]["people"]["models"]["sft/stage2"]
    assert table["not_judged"] == 1 and table["invalid"] == 0
    whole = next(one for one in metrics(job)["agreement"] if one["lang"] == "all")
    assert whole["judges"] == ["judge-2", "people"] and whole["pairs"] == 6
    assert whole["alike"]["value"] == pytest.approx(5 / 6)
    assert whole["kappa"]["low"] < whole["kappa"]["value"] < whole["kappa"]["high"]
    assert section.section(job.run_uri).agreement


def test_rows_that_cannot_be_asked_go_to_the_ledger_with_the_reason(ask):
    good = EASY[0]
    rows = [
        good,
        "{not json\n",
        {**good},
        {**good, "session_id": "x1", "references": {"a": "", "b": None}},
        {**good, "session_id": "x2", "references": {"a": "one", "b": "two"}},
        {**good, "session_id": "x3", "language": "fr"},
        {**good, "session_id": "x4", "language": None},
        {**good, "session_id": "x5", "checklist": {"a": 1}},
        {**good, "session_id": "x6", "conversation_input": [{"role": "assistant", "content": "hi"}]},
        {**good, "session_id": "x7", "conversation_input": None},
        {**good, "session_id": "x8", "conversation_input": [{"role": "user", "content": "kata " * 2000}]},
        {"id": "plain", "lang": "id", "prompt": "Apa kabar?", "category": "Coding", "reference": "Baik."},
    ]
    job = ask(rows, reward={}, models=["sft/stage2"])
    made = wildbench.run(job)
    assert made["rows_in"] == 12 and made["rows_kept"] == 2
    assert made["dropped_by_rule"] == {
        **{"language_outside": 2, "not_a_row": 1, "not_an_item": 5, "repeated_id": 1, "too_long": 1}
    }
    ledger = {row["doc_id"]: row["detail"] for row in storage.read_table(job.ledger).to_pylist()}
    assert "references has no answer" in ledger["x1"] and "name one in reference_column" in ledger["x2"]
    assert "its language is fr" in ledger["x3"] and "checklist must be" in ledger["x5"] and "room for" in ledger["x8"]
    job = ask(rows[1:3][:1], reward={})
    with pytest.raises(UserError, match=r"no row in the recipe's languages can be asked \(not_a_row 1\)"):
        wildbench.run(job)
    assert storage.read_table(job.ledger).num_rows == 1


def test_a_limit_takes_the_same_rows_in_each_language(ask):
    rows = [{**row, "session_id": f"r{i}"} for i in range(9) for row in EASY[:3]]
    job = ask(rows, reward={}, models=["sft/stage2"], limit=4)
    made = wildbench.run(job)
    assert made["rows_in"] == made["rows_kept"] == 12 and made["beyond_limit"] == 15 and not made["dropped_by_rule"]
    chosen = {lang: {one["id"] for one in results(job) if one["lang"] == lang} for lang in ("id", "th", "vi")}
    assert len(chosen["id"]) == 4 and chosen["id"] == chosen["th"] == chosen["vi"]


def test_any_row_is_asked_or_refused_in_one_sentence(ask, tmp_path):
    """Rows of random values under the keys that are read never stop the reading."""
    rng = random.Random(2)
    values = [
        None,
        "",
        "x",
        3,
        1.5,
        True,
        [],
        {},
        ["a"],
        [None],
        {"a": "b"},
        [{"role": "user", "content": "q"}],
        "\ud800",
    ]
    keys = (
        "id session_id lang language conversation_input prompt messages category primary_tag secondary_tags checklist"
    )
    keys = [*keys.split(), "reference", "references"]
    rows = [
        {key: rng.choice(values) for key in rng.sample(keys, rng.randint(0, 8))} | {"lang": "id"} for _ in range(3000)
    ]
    found = judged.read(ask(rows).recipe)
    assert found.read == 3000 == len(found.kept) + len(found.rejects)
    assert all(one["detail"] for one in found.rejects)
    assert found.kept and all(row["prompt"][-1]["role"] == "user" and row["reference"] for row in found.kept)


def test_the_cost_is_said_before_anything_is_asked(ask, server):
    said_when_asked = []
    job = ask(
        judge=at(server, input_per_million=2.5, output_per_million=10.0, request={"temperature": 0, "max_tokens": 100})
    )

    def behave(n, text):
        said_when_asked.append(list(job.progress.said))
        return say("Verdict: A=B")

    server.behave = behave
    wildbench.run(job)
    rows, before, exact = said_when_asked[0]
    assert "7 rows, answered by sft/stage2, dpo/on_policy" in rows
    assert "judge-1: 14 requests, at most" in before and "by the run's tokenizer" in before
    tokens = sum(
        len(generate.load_tokenizer({"tokenizer": f"{job.run_uri}/tokenize/tokenizer"}).encode(turn["content"]))
        for body in server.bodies
        for turn in body["messages"]
    )
    cost = judged.cost(
        job.recipe.evaluate.wildbench.judge[0],
        [body["messages"] for body in server.bodies],
        judged.counter(job.recipe, job.run_uri),
    )
    assert (cost.requests, cost.input_tokens, cost.output_tokens) == (14, tokens, 1400)
    assert cost.money == pytest.approx((tokens * 2.5 + 1400 * 10) / 1e6)
    assert f"{cost.money:,.2f} at the recipe's prices" in exact
    wildbench.run(ask(judge=at(server, request={"temperature": 0, "max_tokens": 100}), fresh=False))
    assert len(server.bodies) == 14


def test_a_judge_of_positions_is_found_out(ask, server):
    rows = [{**EASY[0], "session_id": f"r{i}"} for i in range(40)]
    server.behave = lambda n, text: say("Verdict: A++")
    job = ask(rows, judge=at(server), models=["sft/stage2"])
    made = wildbench.run(job)
    found = metrics(job)["judges"]["judge-1"]
    assert found["first_shown"]["value"] == 100 and found["first_shown"]["certain"]
    assert any("likes the answer that stands first" in warning for warning in made["warnings"])
    assert not found["models"]["sft/stage2"]["all"]["certain"]


def test_what_this_run_cannot_give_is_said_before_it_starts(ask):
    inputs = ask().stage.inputs
    assert "has no model of 'nope'" in next(wildbench_choice.faults(ask(models=["nope"]).recipe, inputs))
    off = [f"train.{key}=null" for key in ("sft", "reward", "dpo")]
    base_only = recipes.load("demo", [*off, 'evaluate.wildbench={"rows": ["x"]}'])
    there = ["tokenize", "base", "pretrain/stage2", "control/stage2", "prune"]
    assert wildbench_choice.models(base_only, there) == ["pretrain/stage2"]
    assert "neither `column`" in next(wildbench_choice.faults(ask(reference="nope").recipe, inputs))
    without = [name for name in inputs if name != "reward"]
    assert "has no reward model" in next(wildbench_choice.faults(ask(reward={}).recipe, without))
    assert list(wildbench_choice.faults(ask(reward={}).recipe, inputs)) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"judge": {"base_url": "ftp://x", "model": "m"}}, "base_url must begin with https://"),
        ({"judge": [{"base_url": "http://x", "model": "m"}] * 2}, "two judges are called 'm'"),
        ({"judge": {"base_url": "http://x", "model": "people"}}, "two judges are called 'people'"),
        ({"reward": {"slight": 2, "strong": 1}}, "slight 2 is more than strong 1"),
        ({"weights": {"math": 0}}, "at least one must be above 0"),
        ({"reference": "base", "reference_column": "x"}, "reference_column"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(settings, message, ask):
    with pytest.raises(UserError, match=message):
        ask(**settings)


def test_without_a_judge_people_get_the_pairs(ask):
    job = ask(models=["sft/stage2"])
    made = wildbench.run(job)
    assert made["judges"] == [] and len(storage.read_bytes(job.path(judges.PAIRS)).splitlines()) == len(EASY)
    assert section.section(job.run_uri).nobody


def test_the_report_shows_what_is_separated_and_greys_what_is_not(ask, server):
    rows = [{**EASY[i % 2], "session_id": f"r{i}"} for i in range(40)]

    def behave(n, text):  # Indonesian answers always lose, Thai ones half of the time
        reference_is_a = any(row["references"]["a-model"] in text.split("# Answer B")[0] for row in EASY)
        lost = "papan" in text or "rencana" in text or len(server.bodies) % 2
        return say(f"Verdict: {'A' if lost == reference_is_a else 'B'}++")

    server.behave = behave
    job = ask(rows, judge=at(server, concurrency=1), models=["sft/stage2"])
    wildbench.run(job)
    found = section.section(job.run_uri)
    (table,) = found.tables
    by_language = {code: cells[0] for _, code, cells in table.lines}
    assert by_language["id"].shown == "0.0" and by_language["id"].certain and by_language["id"].judged == "20"
    assert not by_language["th"].certain
    environment = Environment(loader=FileSystemLoader(page.TEMPLATES), autoescape=True, trim_blocks=True)
    html = environment.get_template("wildbench.html").render(wildbench=found)
    assert "<td>0.0<br>" in html and f'<span class="muted">{by_language["th"].shown}</span>' in html
    assert "sft/stage2, judged by judge-1" in html and "{{" not in html
    assert html.count("<tr>") == 1 + len(table.lines)


def test_the_dry_run_says_requests_and_price(ask, server):
    job = ask(judge=at(server, input_per_million=1, output_per_million=1), models=["sft/stage2"])
    said = dry_run._judging(job.recipe, [job.stage], None)
    assert "7 rows, answered by sft/stage2" in said[0]
    assert "judge-1: 7 requests" in said[1] and "at the recipe's prices" in said[1] and "3 bytes a token" in said[1]
    rows = {what: number for what, number, *_ in plan.judges(job.recipe)}
    assert rows["judge-1: requests"] == 7 and rows["judge-1: price, at most"] > 0
    assert not server.bodies
    (step,) = plan._judged(
        job.recipe, {"generate_rate": SimpleNamespace(value=100.0, unit="tokens/s", source="assumed")}
    )
    assert step.tokens == 7 * 6 and step.gpu_seconds == pytest.approx(0.42)


def test_an_answer_that_was_cut_off_loses_before_a_reward_model(ask, monkeypatch):
    """Behind any text it sees an end."""
    row = {"lang": "id", "id": "1", "prompt": [], "categories": [], "checklist": [], "reference": None}
    pair = {"model": "m", "row": row, "answer": "a", "reference": "b", "finished": True, "reference_finished": True}
    sides = [(True, False), (False, True), (False, False)]
    waiting = [{**pair, "finished": one, "reference_finished": other} for one, other in sides]
    monkeypatch.setattr(judges, "map_on_ray", lambda *_, **__: [])
    monkeypatch.setattr(judges.storage, "read_json", lambda _: {"rewards": [5.0, 1.0]})
    job = ask(reward={"model": "x"})
    assert [one.verdict for one in judges._by_reward(job, job.recipe.evaluate.wildbench.reward, waiting)] == [1, -1, 0]


def test_what_people_have_not_judged_says_nothing(ask, monkeypatch):
    """Answers that are settled without a judge are no sample of the others."""
    row = {"lang": "id", "id": "1", "prompt": [], "categories": [], "checklist": [], "reference": None}
    pair = {"model": "m", "row": row, "reference": "b", "finished": True, "reference_finished": True}
    compared = [{**pair, "answer": ""}, {**pair, "answer": "c"}]
    job = ask(people="x")
    for said, wanted in ((judges.Said(None, judges.NOT_JUDGED), [None, None]), (judges.Said(1.0), [-1.0, 1.0])):
        monkeypatch.setattr(judges, "_by_people", lambda *_, said=said: [said])
        found = judges.verdicts(job, job.recipe.evaluate.wildbench, compared, "reference")["people"]
        assert [one.verdict for one in found] == wanted


@pytest.mark.parametrize(
    ("row", "roles"),
    [
        ({"system": "Jawab singkat.", "messages": [{"role": "user", "content": "a"}]}, ["system", "user"]),
        ({"system_prompt": "Jawab singkat.", "instruction": "a"}, ["system", "user"]),
        ({"prompt": "a", "data": {"source": "web"}}, ["user"]),
        ({"prompt": "a", "items": [3, 4]}, ["user"]),
    ],
)
def test_the_whole_request_is_asked(row, roles):
    found = checklist_rows.asked({**row, "reference": "b"}, "id", reference=True)
    assert [turn["role"] for turn in found["prompt"]] == roles


def test_names_of_references_may_have_dots():
    row = {"prompt": "a", "references": {"gpt-4.1": "b", "Qwen2.5-72B": "c"}}
    for name, wanted in row["references"].items():
        found = checklist_rows.asked(row, "id", reference=True, column=f"references.{name}")
        assert found["reference"] == wanted
