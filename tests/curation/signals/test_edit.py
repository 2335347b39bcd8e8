from __future__ import annotations

import random
import re
import unicodedata

import pyarrow as pa
import pytest

from curation.policy.keys import Policy
from curation.policy.policy import languages
from curation.signals.edit import normalise

THAI = "ภาษาไทยเป็นภาษาที่เขียนติดกันโดยไม่มีช่องว่างระหว่างคำจึงยาวกว่าสามสิบตัวอักษรเสมอ"


def edited(text: str | None, **switches) -> str | None:
    batch = pa.RecordBatch.from_pydict(
        {"doc_id": ["a"], "text": [text], "lang": ["xx"]},
        schema=pa.schema([(n, pa.string()) for n in ("doc_id", "text", "lang")]),
    )
    out = normalise(batch, {"xx": Policy("xx", "test", None, **switches)})
    assert out.schema == batch.schema
    return out["text"][0].as_py()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (None, None),
        ("  a\u00a0\u3000 b\t\tc ", "a b c"),
        ("a\nb", "a\nb"),
        ("a \n \n\n b\r\nc\rd\u2028e", "a\n\nb\nc\nd\ne"),
        ("\n\n a \n\n", "a"),
        ("\ufeffa\x00b\x07 c\u0085d", "ab c\nd"),
        ("１２ ＡＢ，“x”", "１２ ＡＢ，“x”"),
        (f"http://a.com {'z' * 99} {THAI}", f"http://a.com {'z' * 99} {THAI}"),
        ("ខ្ញុំ\u200bចង់ 🙂\ufe0f e\u0301", "ខ្ញុំ\u200bចង់ 🙂\ufe0f e\u0301"),
    ],
)
def test_whitespace(text, expected):
    assert edited(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“a” ‘b’ «c» 「d」 — e… f。", '"a" \'b\' "c" "d" - e... f.'),
        ("１２３，４５６！（ＡＢｃ）％～", "１２３,４５６!(ＡＢｃ)%~"),
        ("ភាសា។ မြန်မာ။ ฿ é", "ភាសា។ မြန်မာ။ ฿ é"),
    ],
)
def test_punctuation(text, expected):
    assert edited(text, ascii_punctuation=True) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see http://x.y/z now", "see now"),
        ("WWW.X.org, a.COM/b and//or HREF=1 kept", "kept"),
        ("a\nhttp://x\nb", "a\nb"),
        ("a\n\nhttp://x\n\nb", "a\n\nb"),
        ("http://x", ""),
        ("htt p:/ ww w.co m/", "htt p:/ ww w.co m/"),
        ("ดูที่http://x.com/ไทยแล้ว นะ", "ดูที่ไทยแล้ว นะ"),
        ("ดูที่ (www.x.org)ครับ", "ดูที่ ครับ"),
    ],
)
def test_url_tokens(text, expected):
    assert edited(text, delete_url_tokens=True) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abcde abcdef g", "abcde g"),
        ("(“abcde”)... x", "(“abcde”)... x"),
        ("ab-cdef", ""),
        ("ééééé éééééé", "ééééé"),
        (THAI, THAI),
        (f"{THAI}abcdefgh{THAI}", THAI + THAI),
        ("我们一起去看电影吧好不好", "我们一起去看电影吧好不好"),
        ("-" * 40, "-" * 40),
    ],
)
def test_long_tokens(text, expected):
    assert edited(text, long_token_chars=5) == expected


def twin(text: str, ascii_punctuation: bool, delete_url_tokens: bool, limit: int | None) -> str:
    """The edits by regular expressions, for texts without full-width characters and without control characters."""

    def special(c):
        return unicodedata.category(c)[0] not in "LM" and unicodedata.category(c) not in ("Nl", "Cf")

    def keep(token: re.Match) -> str:
        shown = token[0]
        while shown and special(shown[0]):
            shown = shown[1:]
        while shown and special(shown[-1]):
            shown = shown[:-1]
        url = delete_url_tokens and re.search(r"http|www|\.com|href|//", token[0].lower())
        return "" if url or (limit and len(shown) > limit) else token[0].translate(table)

    table = str.maketrans({"“": '"', "—": "-", "…": "..."}) if ascii_punctuation else {}
    blocks = [[]]
    for line in re.split(r"\r\n|[\n\r]", text):
        if not line.strip():
            blocks.append([])
            continue
        line = re.sub(r"[^\s\u0e00-\u0e7f\u4e00-\u9fff]+", keep, line)
        if line.split():
            blocks[-1].append(" ".join(line.split()))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def test_equals_the_twin():
    rng = random.Random(5)
    parts = [" ", " ", "\n", "\n\n", "\r\n", "\t", "a", "bcdef", "ghijkl", "-", "...", "…", "“", "—"]
    parts += ["http", "://", "www", ".COM", "ไทย", "ก", "中文", "é"]
    for _ in range(3000):
        text = "".join(rng.choices(parts, k=rng.randint(0, 30)))
        switches = rng.random() < 0.5, rng.random() < 0.5, rng.choice([None, 3, 8])
        got = edited(text, ascii_punctuation=switches[0], delete_url_tokens=switches[1], long_token_chars=switches[2])
        assert got == twin(text, *switches), (text, switches)


def test_each_document_is_edited_by_its_language():
    long = "a" * 28
    texts = {"en": long, "id": long, "zh": "看http://x.com", "th": THAI, "qq": "“http://x.com”"}
    batch = pa.record_batch({"text": list(texts.values()), "lang": list(texts)})
    assert normalise(batch)["text"].to_pylist() == ["", long, "看http://x.com", THAI, "“http://x.com”"]
    assert normalise(batch.slice(1, 2))["text"].to_pylist() == [long, "看http://x.com"]


@pytest.mark.parametrize("lang", languages())
def test_twice_is_once(lang):
    text = f"“A” — １ b…\n\n\n http://x.com \n {THAI} {'x' * 60} ភាសាខ្មែរ。 မြန်မာ\u200bစာ"
    once = normalise(pa.record_batch({"text": [text], "lang": [lang]}))
    assert normalise(once).equals(once)
