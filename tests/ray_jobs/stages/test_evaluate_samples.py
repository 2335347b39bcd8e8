"""Prompts of samples end with a word, models write twice, and how readable a sample is."""

import pyarrow as pa
import pytest

from cluster import storage
from ray_jobs.stages.evaluation import bits_per_byte
from ray_jobs.stages.evaluation.bits_per_byte import beginning, readability
from train import model


@pytest.mark.parametrize(
    ("text", "chars", "want"),
    [
        ("Ikan itu  besar\nsekali", 12, "Ikan itu"),
        ("Ikan itu besar", 14, "Ikan itu besar"),
        ("Ikan itu besar, kata orang.", 15, "Ikan itu besar"),
        ("ประเทศไทยอยู่ในเอเชีย", 11, "ประเทศไทย"),  # country, Thailand, is in, Asia
        ("ທີ່ນະຄອນຫຼວງ", 4, "ທີ່"),
        ("我们在北京大学学习", 4, "我们在"),
        ("x" * 50, 10, "x" * 10),
        ("", 10, ""),
    ],
)
def test_a_prompt_ends_behind_a_word(text, chars, want):
    assert beginning(text, chars) == want


def test_readability():
    found = readability({"th": "น้ำ fish \ufffd", "en": "a river", "km": "", "xx": "ok"})
    assert found["th"] == {"broken": pytest.approx(1 / 10), "right_script": pytest.approx(3 / 7)}
    assert found["en"] == {"broken": 0, "right_script": 1}
    assert found["km"] == {"broken": 0, "right_script": 0}
    assert found["xx"]["right_script"] == 1  # of whose scripts nothing is known


def test_a_model_writes_greedy_and_drawn_from_the_same_prompts(tmp_path, chatml_tokenizer, tiny_model):
    folder, out = str(tmp_path / "model"), str(tmp_path / "out.json")
    model.save(tiny_model(), chatml_tokenizer, folder, 64)
    texts = {"id": "perahu itu berlayar ke pelabuhan", "th": "เรือแล่นไปที่ท่าเรือพร้อมข้าวและปลา"}
    rows = [{"doc_id": lang, "lang": lang, "bytes": len(text.encode()), "text": text} for lang, text in texts.items()]
    storage.write_table(str(tmp_path / "heldout.parquet"), pa.Table.from_pylist(rows))
    greedy = {"n": 1, "temperature": 0.0, "max_new_tokens": 12}
    drawn = {**greedy, "temperature": 0.7, "top_p": 0.8, "seed": 3}
    task = {"stage": "base", "model": folder, "tokenizer": folder, "precision": "fp32"}
    task |= {"heldout": str(tmp_path / "heldout.parquet"), "context": 64, "prompt_chars": 12, "out": out}
    found = []
    for samplings in ({"greedy": greedy, "texts": drawn}, {"greedy": greedy, "texts": {**drawn, "seed": 4}}, {}):
        storage.remove(out)
        bits_per_byte._measure({**task, "samplings": samplings})
        found.append(storage.read_json(out))
    first, second, none = (one["samples"] for one in found)
    assert first["greedy"].keys() == first["texts"].keys() == texts.keys() == found[0]["prompts"].keys()
    assert first["greedy"] == second["greedy"]  # no seed decides it
    assert first["texts"] != second["texts"] and first["texts"] != first["greedy"]
    assert none == {} and found[2]["documents"] == found[0]["documents"]
