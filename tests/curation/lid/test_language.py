import random

import numpy as np
import pyarrow as pa
import pytest

from curation.lid.familiar import familiar
from curation.lid.identify import identify, load, of_most
from curation.lid.script import share
from curation.lid.tags import code
from curation.lid.telltales import telltales
from curation.schema import DOCUMENT

TEXTS = {
    "th": "ชาวประมงออกเรือก่อนรุ่งสางทุกวัน และกลับมาพร้อมปลาในตอนเย็น",
    "lo": "ຊາວປະມົງອອກເຮືອກ່ອນຮຸ່ງແຈ້ງທຸກມື້ ແລະ ກັບມາພ້ອມປາໃນຕອນແລງ",
    "km": "អ្នកនេសាទចេញទូកជារៀងរាល់ថ្ងៃ ហើយត្រឡប់មកវិញនៅពេលល្ងាច",
    "my": "တံငါသည်များသည် နေ့စဉ် လှေထွက်ကြပြီး ညနေတွင် ပြန်လာကြသည်",
    "vi": "Ngư dân ra khơi mỗi ngày trước bình minh và trở về vào buổi chiều.",
    "zh": "渔民每天在黎明前出海，傍晚带着满舱的鱼回到村里。",
    "en": "The fishermen go out every day before dawn and come back in the evening.",
    "id": "Para nelayan pergi melaut setiap hari sebelum fajar dan mereka pulang pada sore hari karena itu kebiasaan.",
    "tl": "Ang mga mangingisda ay pumapalaot araw-araw bago magbukang-liwayway at umuuwi sa hapon.",
}
LANGUAGES = [*TEXTS, "ms", "jv", "su", "war", "ceb", "ilo"]


def table(*rows: dict) -> pa.RecordBatch:
    empty = dict.fromkeys(DOCUMENT.names, "") | {"warc_offset": None}
    filled = [{**empty, "doc_id": f"{i:032x}", "url": f"u{i}", **row} for i, row in enumerate(rows)]
    return pa.RecordBatch.from_pylist(filled, schema=DOCUMENT)


def test_labels_and_columns():
    kept, ledger = identify(languages=LANGUAGES)(table(*({"text": text} for text in TEXTS.values())))
    assert ledger.num_rows == 0
    assert kept["lang"].to_pylist() == list(TEXTS)
    assert kept.schema.names == [*DOCUMENT.names, "lang", "lang_score", "lang_share"]
    assert kept.schema.field("lang_score").type == pa.float32()
    assert all(0.5 <= score <= 1.0 for score in kept["lang_score"].to_pylist())


def test_outside_the_set():
    german = "Die Fischer fahren jeden Tag vor der Dämmerung hinaus und kommen am Abend zurück."
    kept, ledger = identify(languages=LANGUAGES)(table({"text": german}, {"text": TEXTS["th"]}))
    assert kept["lang"].to_pylist() == ["th"]
    [row] = ledger.to_pylist()
    assert (row["rule"], row["detail"], row["lang"], row["url"], row["stage"]) == (
        *("language_outside", "de", "de", "u0", "language"),
    )


def test_score_below_the_language_s_own_threshold():
    batch = table({"text": TEXTS["en"]}, {"text": TEXTS["th"]})
    kept, ledger = identify(languages=LANGUAGES, min_score={"default": 0.1, "en": 0.9999})(batch)
    assert kept["lang"].to_pylist() == ["th"]
    [row] = ledger.to_pylist()
    assert (row["rule"], row["threshold"]) == ("language_score", 0.9999)
    assert 0.1 < row["value"] < 0.9999
    assert identify(languages=LANGUAGES, min_score={"default": 0.9999, "en": 0.1, "th": 0})(batch)[0].num_rows == 2


def test_a_trusted_source_says_its_language_itself():
    malay = "Para nelayan pergi ke laut setiap hari sebelum fajar dan pulang pada waktu petang."
    row = {"text": malay, "lang_hint": "msa", "source": "books"}
    kept, _ = identify(languages=LANGUAGES, min_score={"default": 0.0})(table(row))
    assert kept["lang"].to_pylist() == ["id"], "lid.176 takes it for Indonesian"
    kept, ledger = identify(languages=LANGUAGES, trust_language={"books"})(table(row))
    assert kept["lang"].to_pylist() == ["ms"] and ledger.num_rows == 0
    assert 0.0 < kept["lang_score"][0].as_py() < 0.5, "the score stays the model's"
    kept, _ = identify(languages=LANGUAGES, trust_language={"books"})(
        table({**row, "source": "web"}, {**row, "lang_hint": ""})
    )
    assert "ms" not in kept["lang"].to_pylist()


def test_words_tell_malay_from_indonesian_where_lid_176_does_not():
    malay = (
        "Kanak-kanak itu bermain di tepi pantai kerana ibu mereka berkata bahawa hujan akan turun selepas pukul tiga."
    )
    indonesian = "Anak-anak itu bermain di pantai karena ibu mereka berkata bahwa hujan akan turun setelah pukul tiga."
    undecided = "Mereka bermain di tepi laut pada waktu pagi dan pulang ke rumah."
    kernel = identify(languages=LANGUAGES, min_score={"default": 0.0})
    kept, _ = kernel(table(*({"text": text} for text in (malay, indonesian, undecided, malay.upper(), TEXTS["tl"]))))
    assert kept["lang"].to_pylist() == ["ms", "id", "id", "ms", "tl"]
    assert kept["lang_score"][0].as_py() > 0.2, "the score that it gave to the other one"
    for words in telltales().values():
        assert min(len([word for word in words if words[word] == sign]) for sign in (1, -1)) > 50


def test_trusted_but_outside_or_in_another_script():
    kernel = identify(languages=LANGUAGES, trust_language={"books"})
    rows = [
        {"text": TEXTS["en"], "lang_hint": "fr", "source": "books"},
        {"text": TEXTS["en"], "lang_hint": "th", "source": "books"},
    ]
    kept, ledger = kernel(table(*rows))
    assert kept.num_rows == 0
    assert ledger["rule"].to_pylist() == ["language_outside", "script_mismatch"]
    assert ledger["value"][1].as_py() == 0.0


def test_only_a_bounded_prefix_is_read():
    long = TEXTS["th"] * 40 + TEXTS["en"] * 4000
    kept, _ = identify(languages=LANGUAGES)(table({"text": long}))
    assert kept["lang"].to_pylist() == ["th"]


def test_newlines_and_odd_texts_do_no_harm():
    texts = ["", "\n", "a\r\nb\x00c", "😀🌊", "\u200b\ufeff", "12 34 56", TEXTS["km"].replace(" ", "\n")]
    kept, ledger = identify(languages=LANGUAGES)(table(*({"text": text} for text in texts)))
    assert kept.num_rows + len(set(ledger["doc_id"].to_pylist())) == len(texts)
    assert kept["lang"].to_pylist()[-1] == "km"
    assert identify(languages=LANGUAGES)(table())[0].num_rows == 0


@pytest.mark.parametrize(
    ("hint", "label"),
    [
        ("th-TH", "th"),
        ("fil", "tl"),
        ("zh_Hans_CN", "zh"),
        ("IND", "id"),
        ("jw", "jv"),
        ("vn", "vi"),
        ("ceb", "ceb"),
        ("", ""),
    ],
)
def test_declared_codes(hint: str, label: str):
    assert code(hint) == label


def test_shares_by_hand():
    texts = pa.array(["กขabc", "abc", "កa្1 2", "", "123", "汉字ab", "ab"])
    langs = ["th", "th", "km", "en", "en", "zh", None]
    np.testing.assert_allclose(share(texts, langs), [2 / 5, 0, 2 / 3, 0, 0, 1 / 2, 1])


def test_wrong_settings_are_one_sentence():
    with pytest.raises(ValueError, match="does not know xx"):
        identify(languages=["th", "xx"])
    with pytest.raises(ValueError, match="no language model here"):
        identify(model="cld9", languages=["th"])


ENGLISH = "We use cookies and similar technologies to give you a better experience on our website and to learn how it is used. "
INDONESIAN = "Kemarin kami mengunjungi sebuah desa kecil di tepi sungai tempat warga menanam padi dan memelihara ikan. "
THAI_PROSE = "เมื่อวานนี้พวกเราเดินทางไปเยี่ยมหมู่บ้านเล็กๆริมแม่น้ำที่ชาวบ้านส่วนใหญ่ทำนาและเลี้ยงปลาเป็นอาชีพหลัก "


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        (ENGLISH * 9, INDONESIAN * 22, "id"),
        (ENGLISH * 9, THAI_PROSE * 25, "th"),
        (INDONESIAN * 10, ENGLISH * 40, "en"),
        (INDONESIAN * 20, ENGLISH * 3, "id"),
        (ENGLISH * 8, INDONESIAN * 4, "en"),
        (THAI_PROSE * 300, ENGLISH * 3, "th"),
    ],
)
def test_the_label_is_that_of_most_letters(head, body, expected):
    row = dict.fromkeys(DOCUMENT.names, "") | {"warc_offset": None, "text": head + "\n" + body}
    kept, ledger = identify(languages=["id", "en", "th"])(pa.RecordBatch.from_pylist([row], DOCUMENT))
    assert kept["lang"].to_pylist() == [expected] and ledger.num_rows == 0


class Counting:
    """A model that counts what it is asked."""

    def __init__(self):
        self.model, self.asked = load("lid.176"), 0
        self.labels = self.model.labels

    def predict(self, texts):
        self.asked += len(texts)
        return self.model.predict(texts)


def test_a_long_text_is_looked_at_again_only_where_its_rest_looks_different():
    model = Counting()
    of_most(model, pa.array([INDONESIAN * 60, THAI_PROSE * 60, "海上的风很大，渔民早上出海，傍晚回到村里。" * 120]))
    assert model.asked == 3
    _, found = of_most(model, pa.array([ENGLISH * 9 + INDONESIAN * 22, THAI_PROSE * 10 + ENGLISH * 40]))
    assert model.asked == 3 + 4 and [model.labels[best] for best in found.best] == ["id", "en"]


def test_familiar_by_hand():
    texts = [
        "abcd" * 3,
        "abcdefghij",
        "abcd wxyz!",
        "กขคกขคกขคกขค",
        "abcdกขคงจฉช",
        "中文字中文字中文字文",
        "abcd",
        "",
        "\x00\ufffd",
    ]
    expected = [2 / 3, 0, 0, 1, 0, 1, 0, 0, 0]
    np.testing.assert_allclose(familiar(pa.array(texts), 6, 1, 100), expected)
    rng = random.Random(2)
    noise = ["".join(chr(rng.randrange(1, 0xD800)) for _ in range(rng.randrange(300))) for _ in range(200)]
    found = familiar(pa.array([*noise, None]), 50, 4, 33)
    assert ((found >= 0) & (found <= 1)).all()


def test_no_word_of_a_page_is_a_command_to_fasttext():
    texts = [
        "</s> </s>",
        "</s>" + ENGLISH,
        "__label__th " + ENGLISH,
        "__label__xx",
        "\0" + ENGLISH,
        "\v\f\r" + ENGLISH,
        "\u2028" + ENGLISH,
    ]
    rows = [dict.fromkeys(DOCUMENT.names, "") | {"warc_offset": None, "text": text} for text in texts]
    kept, ledger = identify(languages=["en"])(pa.RecordBatch.from_pylist(rows, DOCUMENT))
    assert kept.num_rows >= 5 and kept.num_rows + len({*ledger["doc_id"].to_pylist()}) >= 6
