from __future__ import annotations

import random

import pyarrow as pa
import pytest

from curation.signals.word_lists import StopWords, read, stop_words, write


def corpus(n: int = 300) -> list[str]:
    """Function words strewn evenly, a topic word in a few documents only, and rare words."""
    rng = random.Random(1)
    texts = []
    for i in range(n):
        words = rng.choices(["the", "of", "and", "to"], weights=[8, 4, 2, 1], k=30)
        words += [f"word{'abcdefghij'[rng.randrange(10)]}{'abcdefghij'[rng.randrange(10)]}" for _ in range(30)]
        words += ["ministry"] * 40 if i % 10 == 0 else []
        words += ["12", "и", "привет"]
        rng.shuffle(words)
        texts.append(" ".join(words).capitalize() + ".")
    return texts


def batches(texts: list[str], size: int):
    return lambda: (pa.array(texts[i : i + size]) for i in range(0, len(texts), size))


@pytest.mark.parametrize("size", [7, 1000])
def test_frequent_and_even_words_of_the_script(size):
    texts = corpus()
    words, facts = stop_words(batches(texts, size), StopWords(size=10), "latin")
    assert words[:4] == ["the", "of", "and", "to"]
    assert "ministry" not in words  # as frequent as `and`, in a tenth of the documents
    assert "привет" not in words
    assert facts == {"documents": 300, "words": sum(len([w for w in t.split() if w.strip(".") != "12"]) for t in texts)}
    without_script, _ = stop_words(batches(texts, size), StopWords(size=10))
    assert "привет" in without_script


def test_few_documents_give_no_list():
    words, facts = stop_words(batches(corpus(50), 20), StopWords(min_documents=51))
    assert words is None
    assert facts["documents"] == 50


def test_words_without_spaces():
    texts = ["ตลาดอยู่ไม่ไกลจากบ้าน แม่ไปตลาดทุกวัน", "แม่ไปซื้อปลาที่ตลาด ปลาอยู่ในน้ำ"] * 30
    words, _ = stop_words(batches(texts, 9), StopWords(size=3, min_documents=10, min_evenness=0), "thai")
    assert words[0] == "ตลาด"
    assert set(words) <= {"ตลาด", "แม่", "ไป", "อยู่", "ปลา"}


def test_a_list_is_written_and_read(tmp_path):
    entries = ["no", "on", "ที่", "in the", "a'b", "x: y", "# z", *(f"w{i}" for i in range(25))]
    write(str(tmp_path), "th", entries, {"documents": 3, "files": ["a.jsonl"]})
    assert read(str(tmp_path)) == {"th": {"stop_words": tuple(entries)}}
    first = (tmp_path / "th.yaml").read_bytes()
    write(str(tmp_path), "th", entries, {"documents": 3, "files": ["a.jsonl"]})
    assert (tmp_path / "th.yaml").read_bytes() == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stop_word: a", r"th.yaml: unknown key 'stop_word' \(did you mean 'stop_words'"),
        ("stop_words: [a]", "th.yaml: stop_words must be one text with a comma after each entry"),
        ("{", "th.yaml is not YAML"),
    ],
)
def test_wrong_lists(tmp_path, text, message):
    (tmp_path / "th.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(str(tmp_path))


def test_a_folder_without_lists(tmp_path):
    with pytest.raises(ValueError, match=r"no <language>.yaml in .*; `pinisi train words` writes"):
        read(str(tmp_path))
