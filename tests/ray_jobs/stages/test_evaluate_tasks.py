"""The stage `tasks` on small rows: what is asked, answered, refused and compared; lm-eval's tasks by name."""

import json

import pyarrow as pa
import pytest
from shapes import TINY
from silent import Silent

from cluster import storage
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.report import tasks as section
from ray_jobs.run import task_choice
from ray_jobs.run.graph import enabled
from ray_jobs.run.job import Job
from ray_jobs.stages.evaluation import tasks as evaluate_tasks
from ray_jobs.training import contamination
from train import model

OPTIONS = [
    {"id": f"{i}", "lang": "id", "question": f"apa {i}", "options": ["satu", "dua"], "answer": i % 2} for i in range(12)
]


SEEN = "Siapa nama nakhoda tua yang membawa kapal kecil itu pulang dari pulau karang sebelum badai besar datang?"
CHATTED = "Berapa lama perahu nelayan itu harus menunggu di muara sungai sampai air laut pasang naik lagi?"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with a tokenizer, two models, and what they read."""
    run = tmp_path_factory.mktemp("run")
    texts = [f"Berita hari ini.\n{SEEN} Lalu mereka pulang bersama-sama.", "Tidak ada apa-apa di sini."]
    storage.write_table(str(run / "quality/part-0.parquet"), pa.table({"lang": ["id", "id"], "text": texts}))
    chat = {"messages": [{"role": "user", "content": f"Saya ingin tahu: {CHATTED}"}]}
    storage.write_text(str(run / "sft/data/rows.jsonl"), json.dumps(chat) + "\n")
    tokenizer = tokenizers.train_bpe(
        ["satu dua tiga apa Pertanyaan Jawaban " * 30], 300, str(run / "tokenize/tokenizer")
    )
    for name, seed in (("base", 1), ("pretrain/stage2", 2)):
        net = model.build({**TINY, "vocab_size": 300}, seed)
        model.save(net, tokenizer, str(run / name / "model"), context=256)
    return run


@pytest.fixture
def ask(finished, tmp_path, monkeypatch):
    for module in (evaluate_tasks, contamination):
        monkeypatch.setattr(module, "map_on_ray", lambda job, do, items, *_, **__: [do(item) for item in items])

    def asked(files, **settings):
        storage.remove(str(finished / "tasks"))
        for name, rows in files.items():
            path = tmp_path / "eval" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        tasks = {"rows": [str(tmp_path / "eval/**/*.jsonl")], "models": ["base", "pretrain/stage2"], **settings}
        recipe = recipes.load("demo", [f"evaluate.tasks={json.dumps(tasks)}"])
        stage = next(stage for stage in enabled(recipe) if stage.name == "tasks")
        return Job(recipe, str(finished), stage, "x", Silent())

    return asked


def test_two_models_answer_and_are_compared(ask, finished):
    answers = [{"id": "a", "lang": "id", "context": "C", "question": "Q", "answers": ["x"]}, {"id": "b", "lang": "id"}]
    job = ask(
        {"options/id.jsonl": OPTIONS, "answers/id.jsonl": answers, "lid.jsonl": [{"lang": "id", "text": "x"}]}, shots=0
    )
    made = evaluate_tasks.run(job)
    assert made["items"] == 13
    assert made["dropped_by_rule"] == {"no_task": 1, "not_an_item": 1}
    results = storage.read_table(str(finished / "tasks/results.parquet")).to_pylist()
    assert len(results) == 26
    of = {(row["model"], row["task"], row["id"]): row for row in results}
    for row in OPTIONS:
        one = of["base", "options", row["id"]]
        best = max((0, 1), key=lambda i: one["logprobs"][i] / len(row["options"][i]))
        assert one["answer"] == row["options"][best]
        assert one["correct"] == dict(one["scores"])["per_byte"] == (best == row["answer"])
        assert one["prompt"] == of["pretrain/stage2", "options", row["id"]]["prompt"]
    found = json.loads((finished / "tasks/metrics.json").read_text())["options"]["id"]
    right = {
        name: [of[name, "options", row["id"]]["correct"] for row in OPTIONS] for name in ("base", "pretrain/stage2")
    }
    assert found["models"]["base"]["value"] == pytest.approx(sum(right["base"]) / 12)
    change = sum(right["pretrain/stage2"]) / 12 - sum(right["base"]) / 12
    assert found["differences"]["pretrain/stage2"]["value"] == pytest.approx(change)
    assert found["chance"] == 0.5
    shown = section.section(str(finished))
    assert shown.against == "base"
    assert {title.split(":")[0] for title, *_ in shown.tables} == {"options", "answers"}


def test_items_that_were_trained_on_are_named_beside_the_score(ask, finished):
    rows = [{**row, "question": {3: SEEN, 7: CHATTED}.get(i, row["question"])} for i, row in enumerate(OPTIONS)]
    assert evaluate_tasks.run(ask({"options/id.jsonl": rows}, shots=0))["seen"] == 2
    results = storage.read_table(str(finished / "tasks/results.parquet")).to_pylist()
    assert {row["id"]: row["seen"] for row in results if row["seen"]} == {"3": ["documents"], "7": ["chats"]}
    cell = json.loads((finished / "tasks/metrics.json").read_text())["options"]["id"]
    assert (cell["items"], cell["seen"]) == (12, 2)
    rest = [row["correct"] for row in results if row["model"] == "base" and not row["seen"]]
    assert len(rest) == 10
    assert cell["models"]["base"]["without_seen"] == pytest.approx(sum(rest) / 10)
    assert len({row["group"] for row in results}) == 12
    (_, _, (line,)), *_ = section.section(str(finished)).tables
    assert line.seen.startswith("2 seen in training; without: ")


def test_rows_of_a_data_set_of_the_hub_by_its_configuration(ask, finished, tmp_path):
    """In the hub's own layout on this disk: a folder with configurations in its README, one a language."""
    folder = tmp_path / "hub/xcopa"
    rows = [
        {"idx": i, "premise": f"Laut {i}", "choice1": "pasang", "choice2": "surut", "question": "cause", "label": i % 2}
        for i in range(5)
    ]
    for tag in ("ind_Latn", "tha_Thai"):
        (folder / tag).mkdir(parents=True)
        (folder / tag / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- {config_name: ind_Latn, data_files: [{split: test, path: ind_Latn/test.jsonl}]}\n"
        "- {config_name: tha_Thai, data_files: [{split: test, path: tha_Thai/test.jsonl}]}\n---\n"
    )
    made = evaluate_tasks.run(ask({}, rows=[f"hf:{folder}:ind_Latn@test", f"hf:{folder}:tha_Thai@test"], shots=0))
    assert (made["items"], made["dropped_by_rule"]) == (10, {})
    assert json.loads((finished / "tasks/metrics.json").read_text())["xcopa"].keys() == {"id", "th"}
    for other in ("ind_Latn@dev", "ind@test"):
        with pytest.raises(UserError, match=r"evaluate\.tasks\.rows: hf:.*no such data set or split"):
            evaluate_tasks.run(ask({}, rows=[f"hf:{folder}:{other}"]))


def test_a_killed_stage_goes_on_behind_the_last_cell(ask, finished, monkeypatch):
    job = ask({"options/id.jsonl": OPTIONS}, shots=0)
    evaluate_tasks.run(job)
    before = (finished / "tasks/models/base/options.id.json").read_bytes()
    (finished / "tasks/models/pretrain-stage2/options.id.json").unlink()
    loaded = []
    load = model.load
    monkeypatch.setattr(model, "load", lambda folder, *dtype: loaded.append(folder) or load(folder, *dtype))
    evaluate_tasks.run(job)
    assert [folder.endswith("pretrain/stage2/model") for folder in loaded] == [True]
    assert (finished / "tasks/models/base/options.id.json").read_bytes() == before


def test_questions_longer_than_the_model_reads_are_ledger_rows(ask, finished):
    long = {"id": "long", "lang": "id", "question": "apa " * 2000, "options": ["satu", "dua"], "answer": 0}
    made = evaluate_tasks.run(ask({"options/id.jsonl": [*OPTIONS, long]}, shots=0))
    assert made["dropped_by_rule"] == {"too_long": 1}
    ledger = storage.read_table(str(finished / "dropped/tasks/part-long.parquet")).to_pylist()
    assert [row["doc_id"] for row in ledger] == ["long"]


def test_sentences_of_two_languages_become_translations(ask):
    rows = {
        f"flores/{lang}.jsonl": [{"id": i, "text": f"{lang} {i}", "lang": lang} for i in range(3)]
        for lang in ("en", "id")
    }
    made = evaluate_tasks.run(ask(rows, shots=1))
    assert made["tasks"] == ["flores"]
    assert made["items"] == 4  # 2 of each direction


def test_no_row_of_a_task_is_a_sentence(ask):
    with pytest.raises(UserError, match=r"evaluate\.tasks\.rows"):
        evaluate_tasks.run(ask({"lid.jsonl": [{"lang": "id"}]}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"include": ["xcoppa"]}, "evaluate.tasks.include: there is no task xcoppa"),
        ({"own": ["/nowhere/*.yaml"]}, "evaluate.tasks.own: no file matches"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_runs(settings, said):
    recipe = recipes.load("demo", [f"evaluate.tasks={json.dumps({'rows': ['x'], **settings})}"])
    with pytest.raises(UserError, match=said):
        task_choice.specifications(recipe.evaluate.tasks)


def test_models_of_the_run_are_named(ask):
    with pytest.raises(UserError, match=r"evaluate.tasks.models: .* 'sft/stage9'"):
        evaluate_tasks.run(ask({"options/id.jsonl": OPTIONS}, models=["sft/stage9"]))


def test_ones_own_task_stands_beside_the_shipped_ones(ask, tmp_path):
    own = tmp_path / "capital.yaml"
    own.write_text("name: capital\nkind: answers\nlayouts: [{land: land, answers: capital}]\nprompt: '{{ land }}:'\n")
    rows = [{"id": str(i), "lang": "id", "land": "Laos", "capital": "Vientiane"} for i in range(2)]
    made = evaluate_tasks.run(ask({"capital/id.jsonl": rows}, own=[str(own)], shots=0))
    assert made["tasks"] == ["capital"]


def test_a_task_of_lm_eval_by_name_without_a_network(ask, finished, tmp_path):
    rows = tmp_path / "theirs.json"
    rows.write_text("".join(json.dumps({"q": "apa", "o": ["satu", "dua"], "a": i % 2}) + "\n" for i in range(6)))
    folder = tmp_path / "harness"
    folder.mkdir()
    (folder / "own.yaml").write_text(
        f"task: own_choice\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: o\ndoc_to_target: a\n"
        "metric_list: [{metric: acc}]\n"
    )
    settings = {"lm_eval": ["own_choice"], "lm_eval_tasks": str(folder), "models": ["base"], "shots": 0}
    evaluate_tasks.run(ask({"options/id.jsonl": OPTIONS}, **settings))
    found = json.loads((finished / "tasks/lm_eval.json").read_text())
    assert found["base"]["own_choice"]["acc,none"] == 0.5  # one text, so one choice for all
    with pytest.raises(ValueError, match="no task 'nothing'"):
        evaluate_tasks.run(ask({"options/id.jsonl": OPTIONS}, **{**settings, "lm_eval": ["nothing"]}))


def test_questions_about_a_passage_belong_together_and_are_all_seen(ask, finished):
    passage = f"{SEEN} Nakhoda tua itu bernama Lanang, dan kapalnya dicat merah pada musim hujan yang lalu."
    storage.write_table(str(finished / "quality/part-1.parquet"), pa.table({"lang": ["id"], "text": [passage]}))
    rows = [{"id": f"{i}", "context": passage, "question": f"apa {i}", "answers": ["Lanang"]} for i in range(5)]
    rows += [{"id": f"o{i}", "context": f"Lain lagi {i}.", "question": "apa", "answers": ["x"]} for i in range(5)]
    assert evaluate_tasks.run(ask({"answers/id.jsonl": rows}, shots=0))["seen"] == 5
    results = storage.read_table(str(finished / "tasks/results.parquet")).to_pylist()
    assert len({row["group"] for row in results}) == 6
    storage.remove(str(finished / "quality/part-1.parquet"))
