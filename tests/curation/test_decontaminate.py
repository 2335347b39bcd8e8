import gzip
import json
import random

import numpy as np
import pyarrow as pa
import pytest

from curation.decontaminate import Lengths, build, decontaminate_kernel, search

QUESTION = "Which harbour did the seven fishermen leave when the eastern monsoon had finally turned that year"
THAI = "ชาวประมงทั้งเจ็ดคนออกจากท่าเรือใดเมื่อลมมรสุมตะวันออกเปลี่ยนทิศในปีนั้น"
LAO = "ຊາວປະມົງເຈັດຄົນອອກຈາກທ່າເຮືອໃດເມື່ອລົມມໍລະສຸມຕາເວັນອອກປ່ຽນທິດໃນປີນັ້ນ"
KHMER = "តើអ្នកនេសាទទាំងប្រាំពីរនាក់ចាកចេញពីកំពង់ផែណានៅពេលដែលខ្យល់មូសុងបូព៌ាបានប្រែទិសនៅឆ្នាំនោះ"
BURMESE = "တံငါသည်ခုနစ်ဦးသည်အရှေ့မုတ်သုံလေပြောင်းသောအခါမည်သည့်ဆိပ်ကမ်းမှထွက်ခွာခဲ့ကြသနည်း"
CHINESE = "那一年东季风终于转向的时候七位渔夫究竟是从哪一个港口出发前往南方的海岛捕鱼并且没有再回来的呢"
FILLER = {"en": "Some other sentences stand here. ", "th": "ประโยคอื่นอยู่ตรงนี้ ", "zh": "这里还有别的句子。"}


@pytest.fixture
def evaluation(tmp_path):
    """Writes an evaluation file of rows and returns its path."""

    def write(*rows, name="quiz.jsonl"):
        path = tmp_path / name
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(path)

    return write


def found(text, index):
    hits, first = search(pa.array([text], pa.string()), index)
    return int(hits[0]), int(first[0])


@pytest.mark.parametrize("text", [QUESTION, THAI, LAO, KHMER, BURMESE, CHINESE])
def test_a_quoted_question_is_found_in_every_script(text, evaluation):
    index = build([evaluation({"id": "q", "question": text})])
    for before, after in (("", ""), ("Answer:\n\n", " (b)"), (FILLER["en"], FILLER["th"]), (FILLER["zh"], "123")):
        assert found(before + text.upper().replace(" ", ",\n") + after, index)[0] > 0
    assert found(text[: len(text) // 4] + FILLER["en"] + text[-len(text) // 4 :], index) == (0, -1)
    assert found(FILLER["en"] * 9, index) == (0, -1)


def test_thirteen_words_are_found_and_twelve_are_not(evaluation):
    words = [f"w{i}" for i in range(40)]
    index = build([evaluation({"q": " ".join(words)})])
    assert found("x " + " ".join(words[5:18]) + " y", index)[0] == 1
    assert found("x " + " ".join(words[5:20]) + " y", index)[0] == 3
    assert found("x " + " ".join(words[5:17]) + " y", index)[0] == 0


@pytest.mark.parametrize(("first", "step", "n"), [(0x4E00, 7, 21), (0x0E01, 1, 48), (0x1000, 1, 48), (0x20000, 1, 21)])
def test_a_run_of_letters_is_found_and_one_less_is_not(first, step, n, evaluation):
    letters = [chr(first + step * (i % 40)) for i in range(80)]
    index = build([evaluation({"q": "".join(letters)})])
    assert found("。" + "".join(letters[9 : 9 + n]) + "。", index)[0] == 1
    assert found("。" + "".join(letters[9 : 8 + n]) + "。", index)[0] == 0


def test_a_run_may_mix_scripts(evaluation):
    mixed = "ระบบ Linux kernel ใช้ scheduler แบบ completely fair เพื่อแบ่งเวลาของ CPU ให้แก่ process"
    index = build([evaluation({"q": mixed})])
    assert found("บทความ " + mixed + " ครับ", index)[0] > 0
    assert found("บทความ " + mixed.replace("scheduler", "x") + " ครับ", index)[0] > 0  # edited
    assert found("บทความ " + mixed[: len(mixed) // 2] + " ครับ", index)[0] == 0


def test_short_items_match_whole(evaluation):
    rows = [
        {"id": "a", "premise": "The man broke his toe that day."},  # 7 words: too short
        {"id": "b", "premise": "The man broke his toe on that very day."},  # 9
        {"id": "c", "premise": "The man broke his toe on that very day in spring."},  # 11, begins like b
        {"id": "d", "premise": "ชายคนนั้นนิ้วเท้าหักในวันนั้นเพราะเขาเดินเตะโต๊ะ"},  # 33 letters of Thai
    ]
    index = build([evaluation(*rows)])
    assert index.too_short == 1 and len(index.starts) == 3
    assert found("Once the man broke his toe that day.", index) == (0, -1)
    assert found("Once the man broke his toe on that very day, and went home.", index) == (1, 1)
    assert found("Once: the man broke his toe on that very day in spring.", index) == (1, 1)
    assert found("Once the man broke his toe on that very", index)[0] > 0  # but for a word
    assert found("Once the man broke his toe on", index) == (0, -1)
    assert found("เขาเล่าว่าชายคนนั้นนิ้วเท้าหักในวันนั้นเพราะเขาเดินเตะโต๊ะจริง", index) == (1, 3)
    assert found("เขาเล่าว่าชายคนนั้นนิ้วเท้าหักในวันนี้เพราะเขาเดินเตะโต๊ะ", index) == (1, 3)  # edited
    assert found("เขาเล่าว่าชายคนนั้นนิ้วเท้าหักในวันนี้", index) == (0, -1)


ITEMS = {
    "id": ["Lelaki itu menyalakan keran.", "Toilet terisi dengan air.", "Air mengalir dari keran."],
    "th": ["ผู้ชายเปิดก๊อกน้ำ", "ห้องสุขาเต็มไปด้วยน้ำ", "น้ำไหลออกมาจากก๊อก"],
    "my": ["ဒီ ဟာ မ ဟုတ် ဘူး ထင် တယ် ။", "ဟို ဟာ မ ဟုတ် ဘူး ပြော တယ် ။", "ဘာ လို့ မေး တာ လဲ ။"],
    "zh": ["这个男人打开了水龙头。", "厕所里装满了水。", "水从水龙头里流出来。"],
    "lo": ["ຜູ້ຊາຍເປີດກ໊ອກນ້ຳ", "ຫ້ອງນ້ຳເຕັມໄປດ້ວຍນ້ຳ", "ນ້ຳໄຫຼອອກມາຈາກກ໊ອກ"],
    "km": ["បុរសនោះបើករ៉ូប៊ីណេ", "បង្គន់ពេញដោយទឹក", "ទឹកហូរចេញពីរ៉ូប៊ីណេ"],
}


@pytest.mark.parametrize("lang", ITEMS)
def test_an_item_of_short_strings_is_found_where_all_stand_together_and_not_by_one(lang, evaluation):
    strings = ITEMS[lang]
    row = {
        "id": f"xcopa-{lang}-17",
        "split": "test",
        "premise": strings[0],
        "choice1": strings[1],
        "choice2": strings[2],
    }
    many = [
        {"id": str(i), "question": f"{word} " * 9, "licence": "CC BY 4.0 or so"}
        for i, word in enumerate("abcdefghijklmnopqrst")
    ]
    index = build([evaluation({**row, "licence": "CC BY 4.0 or so"}, *many)])
    around = FILLER["en"] * 40
    assert found(around + "\n".join(strings) + "\n" + around, index) == (1, 0)
    assert found(around + " 2) ".join(strings).upper() + around, index) == (1, 0)
    for string in strings:
        assert found(around + (string + " and more. ") * 5 + around, index) == (0, -1)
    assert found(strings[0] + around + strings[1] + around + strings[2], index) == (0, -1)
    assert found(around + "CC BY 4.0 or so", index) == (0, -1)


@pytest.mark.parametrize("text", [QUESTION, THAI, LAO, KHMER, BURMESE, CHINESE])
def test_an_edited_question_is_found_in_every_script(text, evaluation):
    index = build([evaluation({"id": "q", "question": text, "answer": text[::-1]})])
    rng = random.Random(text)
    at = [i for i in range(3, len(text) - 3) if text[i].isalpha() and text[i + 1 : i + 2].isalpha()]
    for _ in range(20):
        k = rng.choice(at)
        assert (
            found(FILLER["en"] * 9 + text[:k] + rng.choice(["", text[k] * 2]) + text[k + 1 :] + FILLER["th"], index)[0]
            > 0
        )


def test_a_phrase_that_all_strings_begin_with_is_no_item(evaluation):
    begin = "Kamus Besar Bahasa Indonesia"
    index = build(
        [evaluation({"a": f"{begin} setebal buku", "b": f"{begin} sangat tebal", "c": f"{begin} biasa saja"})]
    )
    assert found(f"Menurut {begin} kata itu berarti lain. {begin} adalah kamus.", index) == (0, -1)


@pytest.mark.parametrize(("one", "other"), [("2024", "๒๐๒๔"), ("15", "၁၅"), ("ABC", "ＡＢＣ"), ("7", "៧"), ("7", "໗")])
def test_digits_of_all_scripts_and_full_width_letters_are_one(one, other, evaluation):
    index = build([evaluation({"q": QUESTION.replace("seven", one)})])
    assert found(QUESTION.replace("seven", other), index) == found(QUESTION.replace("seven", one), index)


def test_fields_nested_strings_and_what_is_no_passage(evaluation):
    other = QUESTION.replace("harbour", "island")
    row = {
        "id": 7,
        "url": "https://quiz.example/a/very/long/path/with/many/words/in/it/one/two/three/four",
        "turns": [{"role": "user", "content": QUESTION}],
        "answer": other,
        "n": 3,
    }
    path = evaluation(row)
    every, answers = build([path]), build([path], ["answer", "missing"])
    assert found(QUESTION, every)[0] > 0 and found(other, every)[0] > 0
    assert found(QUESTION, answers)[0] < found(QUESTION, every)[0] and found(other, answers)[0] > 0
    assert found(row["url"].replace("/", " "), every)[0] == 0
    assert every.items == [("quiz.jsonl", "7")]


def test_the_first_item_of_the_first_file_is_named(evaluation):
    files = [
        evaluation({"q": "nothing like it"}, {"q": QUESTION}, name="a.jsonl.gz"),
        evaluation({"id": "again", "q": QUESTION}, name="b.jsonl"),
    ]
    batch = pa.record_batch(
        {
            "doc_id": ["x", "y", "z"],
            "url": pa.array([None, "u", "v"], pa.string()),
            "lang": ["en"] * 3,
            "text": [FILLER["en"], FILLER["en"] + QUESTION, None],
        }
    )
    kept, ledger = decontaminate_kernel(files)(batch)
    assert kept["doc_id"].to_pylist() == ["x", "z"]
    assert ledger.to_pylist() == [
        {
            "doc_id": "y",
            "url": "u",
            "lang": "en",
            "stage": "decontaminate",
            "rule": "contaminated",
            "value": 4.0,
            "threshold": 1.0,
            "detail": "a.jsonl.gz 2",
        }
    ]
    kept, ledger = decontaminate_kernel(files)(batch.slice(1, 1))
    assert (kept.num_rows, ledger["detail"].to_pylist()) == (0, ["a.jsonl.gz 2"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{\n", "line 1: not JSON"),
        (b'{}\n["a"]\n', "line 2: a row"),
        (b'{"n": 1}\n', "hold no text"),
        (b"", "no text"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        build([str(path)])


def test_odd_texts(evaluation):
    index = build([evaluation({"q": QUESTION}, {"q": "\ud800 broken " * 20}, {"q": ""})])
    texts = ["", None, "\u200b" * 99, "a" * 100_000, "\u0e31\u0301 " * 50, "😀" * 40, "x " * 50_000]
    hits, first = search(pa.array(texts, pa.large_string()), index)
    assert (hits == 0).all() and (first == -1).all()
    hits, first = search(pa.array([], pa.string()), index)
    assert hits.shape == first.shape == (0,)
    assert np.array_equal(*(search(pa.array(t), index)[0] for t in (["a", QUESTION], ["b", QUESTION])))


def test_lengths_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        Lengths(0, 5, 5)
