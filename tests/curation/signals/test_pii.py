import random
import re
from pathlib import Path

import pyarrow as pa
import pytest

from curation.signals import masking, pii_patterns
from curation.signals.pii_patterns import KINDS, PLAIN

MARKED = re.compile(r"«(\w+):([^»]*)»")


def cases():
    """(Language, text, the same with tokens) of the table written by hand."""
    for line in (Path(__file__).parent / "pii_cases.tsv").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            lang, text = line.split("\t")
            yield lang, MARKED.sub(r"\2", text), MARKED.sub(r"<\1>", text)


def masked(texts, langs, kinds=KINDS):
    batch = pa.record_batch({"text": pa.array(texts, pa.string()), "lang": pa.array(langs, pa.string())})
    return masking.mask(batch, kinds)


@pytest.mark.parametrize(("lang", "text", "expected"), cases())
def test_by_hand(lang, text, expected):
    out = masked([text], [lang])
    assert out["text"][0].as_py() == expected
    found = {kind: len(re.findall(f"<{kind}>", expected)) for kind in KINDS}
    assert out["pii"][0].as_py() == found


def test_every_kind_and_script_has_cases():
    rows = list(cases())
    langs = {"my", "ceb", "ilo", "id", "jv", "km", "lo", "ms", "su", "tl", "th", "vi", "war", "en", "zh"}
    assert {lang for lang, _, _ in rows} == langs
    assert all(sum(f"<{kind}>" in expected for _, _, expected in rows) >= 4 for kind in KINDS)
    assert sum(text == expected for _, text, expected in rows) >= 40


def test_a_batch_is_each_text_alone():
    rows = list(cases())
    random.Random(1).shuffle(rows)
    texts = [text for _, text, _ in rows] + [None, "", "\n".join(text for lang, text, _ in rows if lang == "id")]
    langs = [lang for lang, _, _ in rows] + ["id", "id", "id"]
    out = masked(texts, langs)
    assert out["text"].to_pylist()[:-3] == [expected for _, _, expected in rows]
    assert out["text"].to_pylist()[-3:-1] == [None, ""]
    assert out["text"].to_pylist()[-1] == "\n".join(expected for lang, _, expected in rows if lang == "id")
    table = pa.record_batch({"text": texts, "lang": langs})
    assert masking.mask(table.slice(5, 20)).equals(out.slice(5, 20))
    assert out["text"].type == pa.string()
    empty = masking.mask(table.slice(0, 0))
    assert empty.num_rows == 0 and empty.schema == out.schema


def test_long_texts_are_masked_at_their_place():
    filler = "Kalimat biasa tanpa data siapa pun, sepanjang apa saja. ภาษาไทย ภาษาลาว " * 40
    text = filler + "email a.b@kantor.go.id " + filler + "telp 0812-3456-7890 " + filler
    assert masked([text], ["id"])["text"][0].as_py() == text.replace("a.b@kantor.go.id", "<email>").replace(
        "0812-3456-7890", "<phone>"
    )


def test_only_the_kinds_asked_for():
    text = "a.b@kantor.go.id 0812-3456-7890 36.66.77.88 3174012501900001"
    assert masked([text], ["id"], ["email"])["text"][0].as_py() == text.replace("a.b@kantor.go.id", "<email>")
    assert masked([text], ["id"], ["id"])["text"][0].as_py() == text.replace("3174012501900001", "<id>")
    assert masked([text], ["id"], [])["text"][0].as_py() == text
    assert masked([text], ["id"])["text"][0].as_py() == "<email> <phone> <ip> <id>"
    with pytest.raises(ValueError, match="no kind 'mail'; the kinds are email, phone, ip, id"):
        masked(["x"], ["id"], ["mail"])


def test_national_forms_belong_to_their_language():
    out = masked(["13812345678"] * 4, ["zh", "th", "xx", None])["text"].to_pylist()
    assert out == ["<phone>"] + ["13812345678"] * 3
    assert masked(["+63 917 123 4567"] * 2, ["xx", None])["text"].to_pylist() == ["<phone>"] * 2


def test_masking_twice_is_masking_once():
    texts, langs = [text for _, text, _ in cases()], [lang for lang, _, _ in cases()]
    once = masked(texts, langs)
    twice = masking.mask(once.drop_columns(["pii"]))
    assert twice["text"].equals(once["text"])
    assert sum(sum(row.values()) for row in twice["pii"].to_pylist()) == 0


@pytest.mark.parametrize(
    ("check", "right"),
    [
        (pii_patterns.thai_id, "1101700230708"),
        (pii_patterns.nric, "S1234567D"),
        (pii_patterns.nric, "F1234567N"),
        (pii_patterns.nric, "M1234567K"),
        (pii_patterns.china_id, "11010519491231002X"),
    ],
)
def test_check_digits_catch_each_changed_digit(check, right):
    assert check(right)
    for place, digit in enumerate(right):
        if digit.isdigit():
            others = [right[:place] + d + right[place + 1 :] for d in "0123456789" if d != digit]
            wrong = sum(check(other) for other in others)
            if check is not pii_patterns.thai_id:
                assert wrong == 0
            elif place != 2:  # its weight is 11, so this digit is not checked
                assert wrong <= 1  # eleven remainders share ten digits


def test_every_gate_lets_its_own_through():
    """What a window is cut for must be found wherever it stands among bytes of any script."""
    rng = random.Random(4)
    good = [(lang, text, expected) for lang, text, expected in cases() if text != expected]
    parts = ["\n", " ยาว ", "。", " x ", " ၊ ", "🙂 ", " é\n"]
    for _ in range(400):
        lang, text, expected = rng.choice(good)
        before, after = ("\n" + "".join(rng.choices(parts, k=rng.randint(0, 60))) + "\n" for _ in range(2))
        assert masked([before + text + after], [lang])["text"][0].as_py() == before + expected + after


def test_garbage_passes():
    rng = random.Random(2)
    alphabet = "0123456789٠٣๕໕៥၅５ .-()+/:@abfABF_<>\n\u200b\u00a0ก中é🙂\ud7ff"
    texts = ["".join(rng.choices(alphabet, k=rng.randint(0, 200))) for _ in range(2000)]
    texts += ["1 " * 20_000, "@" * 5000, "0" * 50_000, ":" * 3000, "a@" * 3000, "+1(" * 2000, "1.1." * 5000]
    out = masked(texts, ["id", "th", "vi", "my", "en"] * 400 + ["zh"] * 7)
    for before, after, counts in zip(texts, out["text"].to_pylist(), out["pii"].to_pylist(), strict=True):
        assert sum(counts.values()) == sum(len(re.findall(f"<{kind}>", after)) for kind in KINDS) - sum(
            len(re.findall(f"<{kind}>", before)) for kind in KINDS
        )


def test_the_table_of_plain_characters_keeps_places():
    assert all(len(plain) == 1 for plain in PLAIN.values())
    assert "๑໒៣၄５".translate(PLAIN) == "12345" and "（０２）－\u00a0\u2011".translate(PLAIN) == "(02)- -"
