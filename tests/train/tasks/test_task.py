"""Rows of public sets in their own layouts become items in their language; wrong ones are refused by what is wrong."""

import pytest

from curation.lid.tags import code
from train.tasks import rows, task
from train.tasks.task import RowError

LETTER = {"question": "Q?", "option_a": "x", "option_b": "y", "option_c": "z", "option_d": "w", "answer": "C"}
SQUAD = {"id": "1", "context": "Lan lives in Hue.", "question": "Where?", "answers": {"text": ["Hue", "in Hue"]}}
ROWS = {
    # task: (language, row in the set's own layout, what the prompt ends with, options or answers, the right one)
    "xcopa": (
        "th",
        {"premise": "ฝนตก", "choice1": "ถนนเปียก", "choice2": "ถนนแห้ง", "question": "effect", "label": 0},
        "ฝนตกดังนั้น",
        ("ถนนเปียก", "ถนนแห้ง"),
        0,
    ),
    "belebele": (
        "su",
        {
            "flores_passage": "P.",
            "question": "Q?",
            "mc_answer1": "a",
            "mc_answer2": "b",
            "mc_answer3": "c",
            "mc_answer4": "d",
            "correct_answer_num": "4",
        },
        "Waleran:",
        (" a", " b", " c", " d"),
        3,
    ),
    "xquad": ("vi", SQUAD, "Trả lời:", (), ("Hue", "in Hue")),
    "tydiqa": ("id", {**SQUAD, "title": "t"}, "Jawaban:", (), ("Hue", "in Hue")),
    "iapp_wiki_qa": ("th", {**SQUAD, "answers": ["เว้"]}, "คำตอบ:", (), ("เว้",)),
    "global_mmlu": ("my", LETTER, "C. z\nD. w\nအဖြေ:", (" A", " B", " C", " D"), 2),
    "global_mmlu_lite": ("tl", LETTER, "D. w\nSagot:", (" A", " B", " C", " D"), 2),
    "m3exam": (
        "jv",
        {"question_text": "Q?", "background_description": ["B"], "options": ["A. x", "B. y"], "answer_text": "B"},
        "A. x\nB. y\nWangsulan:",
        (" A", " B"),
        1,
    ),
    "indoculture": (
        "id",
        {"context": "Orang Bali memakai", "options": ["udeng.", "topi."], "answer": "A"},
        "Orang Bali memakai",
        (" udeng.", " topi."),
        0,
    ),
    "vmlu": (
        "vi",
        {"id": "01-1", "question": "Q?", "choices": ["A. x", "B. y", "C. z", "D. w"], "answer": "D"},
        "D. w\nTrả lời:",
        (" A", " B", " C", " D"),
        3,
    ),
    "tatabahasa": (
        "ms",
        {"question": "Q?", "choices": ["x", "y"], "answer": "B"},
        "A. x\nB. y\nJawapan:",
        (" A", " B"),
        1,
    ),
    "mabl": ("su", {"startphrase": "S.", "ending1": "x", "ending2": "y", "labels": 1}, "S. Hartina:", (" x", " y"), 1),
    "nusax_sentiment": (
        "id",
        {"id": 3, "text": "Enak.", "label": 2},
        "Sentimen:",
        (" negatif", " netral", " positif"),
        2,
    ),
    "paraphrase": ("tl", {"sentence1": "x", "sentence2": "y", "label": 1}, "pangungusap?", (" Hindi", " Oo"), 1),
    "mgsm": ("zh", {"question": "Q？", "answer": None, "answer_number": 18}, "答案:", (), ("18",)),
    "blend": (
        "id",
        {"ID": "x", "question": "Q?", "annotations": [{"answers": ["nasi", "padi"], "count": 3}, {"answers": ["ubi"]}]},
        "Jawaban:",
        (),
        ("nasi", "padi", "ubi"),
    ),
    "culturalbench": (
        "en",
        {
            "prompt_question": "Q?",
            "prompt_option_a": "x",
            "prompt_option_b": "y",
            "prompt_option_c": "z",
            "prompt_option_d": "w",
            "answer": "A",
        },
        "D. w\nAnswer:",
        (" A", " B", " C", " D"),
        0,
    ),
    "options": ("km", {"question": "Q?", "options": ["x", "y"], "answer": 1}, "ចម្លើយ:", (" x", " y"), 1),
    "answers": ("lo", {"context": "C", "question": "Q?", "answers": ["x"]}, "ຄຳຕອບ:", (), ("x",)),
    "flores": (
        "lo",
        {"source": "Hello", "source_lang": "en", "target": "ສະບາຍດີ"},
        "English: Hello\nພາສາລາວ:",
        (),
        ("ສະບາຍດີ",),
    ),
    "ntrex": (
        "en",
        {"source": "ສະບາຍດີ", "source_lang": "lo", "target": "Hello"},
        "ພາສາລາວ: ສະບາຍດີ\nEnglish:",
        (),
        ("Hello",),
    ),
}


@pytest.mark.parametrize("name", task.shipped())
def test_shipped_tasks_read_the_sets_own_rows(name):
    lang, row, end, options, gold = ROWS[name]
    item = task.shipped()[name].item(row, lang)
    assert item.prompt.endswith(end)
    assert (item.options, item.gold) == (options, gold)
    assert item.solved().startswith(item.prompt)


@pytest.mark.parametrize("name", task.shipped())
def test_a_row_without_a_column_is_refused_by_its_name(name):
    lang, row, *_ = ROWS[name]
    for key in row.keys() - {"id", "ID", "title", "background_description", "task"}:
        if row[key] is None:
            continue
        with pytest.raises(RowError):
            task.shipped()[name].item({**row, key: None}, lang)


def test_every_language_has_every_word():
    known = task._words()
    assert {len(words) for words in known.values()} == {len(known["en"])}
    assert len(known) == 15


@pytest.mark.parametrize(("gold", "number"), [("C", 2), ("c", 2), (2, 2), ("2", 2), ("ค", 2), ("ဂ", 2), ("z", 2)])
def test_the_right_option_by_number_letter_or_text(gold, number):
    row = {"question": "Q?", "options": ["x", "y", "z"], "answer": gold}
    assert task.shipped()["options"].item(row, "en").gold == number


@pytest.mark.parametrize("gold", ["Q", 3, -1, "none of them"])
def test_a_right_option_that_is_none_is_refused(gold):
    with pytest.raises(RowError, match="right option"):
        task.shipped()["options"].item({"question": "Q?", "options": ["x", "y", "z"], "answer": gold}, "en")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "mapping"),
        ("name: x\nkind: options\nlayouts: [{gold: a}]\nprompt: x", "options"),
        ("name: x\nkind: quiz\nlayouts: [{answers: a}]\nprompt: x", "kind"),
        ("name: x\nkind: answers\nlayouts: [{answers: a}]\nprompt: '{{ x'", "x.yaml"),
        ("name: x\nkind: answers\nlayouts: [{answers: a}]\nprompt: x\nshot: 3", "shot"),
        ("name: x\nkind: answers", "layouts"),
        ("a: [", "x.yaml"),
    ],
)
def test_a_wrong_task_file_is_refused_in_one_sentence(text, said):
    with pytest.raises(ValueError, match=r"x\.yaml") as error:
        task.load("x.yaml", text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_template_can_do_nothing_but_write():
    text = "name: x\nkind: answers\nlayouts: [{answers: a}]\nprompt: '{{ a.__class__.__mro__ }}'"
    with pytest.raises(RowError):
        task.load("x.yaml", text).item({"a": "b"}, "en")


def test_shots_come_from_their_split_and_else_leave_the_score():
    own = task.shipped()["options"]
    items = [own.item({"id": str(i), "question": "Q?", "options": ["x", "y"], "answer": 0}, "en") for i in range(6)]
    shots, scored = task.shots(items, 2)
    assert [item.id for item in shots] == ["0", "1"]
    assert [item.id for item in scored] == ["2", "3", "4", "5"]
    xcopa = task.shipped()["xcopa"]
    marked = [
        xcopa.item({**ROWS["xcopa"][1], "id": str(i), "split": s}, "th") for i, s in enumerate(["test", "val"] * 3)
    ]
    shots, scored = task.shots(marked, 2)
    assert [item.id for item in shots] == ["1", "3"]
    assert [item.id for item in scored] == ["0", "2", "4"]


@pytest.mark.parametrize(
    ("path", "row", "name", "lang"),
    [
        ("eval/xcopa.th.jsonl.gz", {}, "xcopa", "th"),
        ("eval/options/km.jsonl", {}, "options", "km"),
        ("hf:facebook/belebele:tha_Thai@test", {"dialect": "tha_Thai"}, "belebele", "th"),
        ("hf:CohereLabs/Global-MMLU:vi@test", {}, "global_mmlu", "vi"),
        ("hf:indonlp/NusaX-senti:jav@test", {}, "nusax_sentiment", "jv"),
        ("rows.jsonl", {"task": "mgsm", "lang": "th"}, "mgsm", "th"),
        ("flores_plus/devtest.jsonl", {"iso_639_3": "zsm", "iso_15924": "Latn"}, "flores", "ms"),
        ("lid.jsonl.gz", {"lang": "id"}, None, "id"),
    ],
)
def test_task_and_language_of_a_row(path, row, name, lang):
    known = rows.names({name: one.known_as for name, one in task.shipped().items()})
    assert rows.task_of(row, path, known) == name
    assert rows.language_of(row, path, ("th", "km", "vi", "jv"), code) == lang


def test_sentences_of_one_language_each_become_translations():
    found = [("en", {"id": 1, "text": "Hello"}), ("lo", {"id": 1, "text": "ສະບາຍດີ"}), ("en", {"id": 2, "text": "No"})]
    assert rows.translations(found, [("en", "lo"), ("lo", "en"), ("en", "th")]) == [
        ("lo", {"id": "en-lo-1", "text": "ສະບາຍດີ", "source": "Hello", "source_lang": "en", "target": "ສະບາຍດີ"}),
        ("en", {"id": "lo-en-1", "text": "Hello", "source": "ສະບາຍດີ", "source_lang": "lo", "target": "Hello"}),
    ]
