"""One text, one form: what looks the same is the same string, and what is in form is left alone."""

import json
import random
import unicodedata

import numpy as np
import pyarrow as pa
import pytest

from curation.decontaminate import build, search
from curation.dedup.lines import line_hashes, remove_lines
from curation.dedup.minhash import jaccard_estimate, shingle_sets, signatures
from curation.extract.extractor import Extractor
from curation.lid import identify
from curation.schema import RAW, raw
from curation.signals.measure import Measure
from curation.text import form, zawgyi
from sample import pack

TEXTS = {
    "vi": "Hôm nay chúng tôi đi thăm một làng nhỏ nằm bên bờ sông, nơi người dân sống bằng nghề trồng lúa và nuôi cá suốt năm.",
    "th": "วันนี้น้ำท่วมหมู่บ้านริมแม่น้ำ ชาวบ้านจึงช่วยกันขนข้าวของขึ้นที่สูง และเด็กๆ ไม่ได้ไปโรงเรียนตั้งแต่เช้า",
    "lo": "ມື້ນີ້ນ້ຳຖ້ວມໝູ່ບ້ານ ຊາວບ້ານຊ່ວຍກັນຂົນເຄື່ອງຂຶ້ນບ່ອນສູງ ແລະ ເດັກນ້ອຍບໍ່ໄດ້ໄປໂຮງຮຽນຕັ້ງແຕ່ເຊົ້າ",
    "km": "ថ្ងៃនេះទឹកជំនន់លិចភូមិនៅមាត់ទន្លេ អ្នកស្រុកបាននាំគ្នាដឹកជញ្ជូនទ្រព្យសម្បត្តិទៅទីខ្ពស់ ហើយក្មេងៗមិនបានទៅសាលារៀនទេ",
    "my": "ယနေ့ မြစ်ကမ်းဘေးရွာတွင် ရေကြီးနေသဖြင့် ရွာသားများက ပစ္စည်းများကို မြင့်ရာသို့ ရွှေ့ကြပြီး ကလေးများ ကျောင်းမတက်ရချေ။",
    "zh": "今天村子被洪水淹没，村民们互相帮助把东西搬到高处，孩子们从早上起就没有去上学，老人们说这样的大水三十年没有见过了。",
    "jv": "Dina iki kali banjir lan wong désa padha mbantu mindhah barang-baranging omah menyang panggonan sing luwih dhuwur.",
}
PAIRS = [
    ("\u0e19\u0e4d\u0e49\u0e32", "น้ำ"),
    ("\u0e19\u0e49\u0e4d\u0e32", "น้ำ"),
    ("\u0e19\u0e33\u0e49", "น้ำ"),
    ("\u0e17\u0e48\u0e35", "ที่"),
    ("\u0e17\u0e35\u0e35\u0e48", "ที่"),
    ("\u0e1e\u0e31\u0e19\u0e18\u0e4c\u0e38", "พันธุ์"),
    ("เเม่", "แม่"),
    ("\u0e1b\uf702\uf706\uf70e", "ปี้์"),
    ("\u0e99\u0ecd\u0ec9\u0eb2", "ນ້ຳ"),
    ("\u0e9a\u0ec9\u0eb1\u0e99", "ບັ້ນ"),
    ("\u0ec0\u0ec0\u0ea1\u0ec8", "ແມ່"),
    ("\u179f\u17d2\u179a\u17d2\u178f\u17b8", "ស្ត្រី"),
    ("\u1780\u17b6\u17d2\u179a", "ក្រា"),
    ("\u1785\u17c6\u17b6", "ចាំ"),
    ("\u1780\u17c1\u17b6", "កោ"),
    ("\u1780\u17c1\u17b8", "កើ"),
    ("\u1794\u17d2\u178a\u17b8", "\u1794\u17d2\u178f\u17b8"),
    ("\u179f\u17bb\u17b8", "ស៊ី"),
    ("\u1794\u17b8\u17c9", "ប៉ី"),
    ("\u17a3\u17a8", "\u17a2\u17a7\u1780"),
    ("\u1010\u102f\u102d\u1037", "တို့"),
    ("\u1010\u1037\u102f\u102d", "တို့"),
    ("\u1014\u1031\u103c", "နြေ"),
    ("\u1019\u103e\u103c\u103b", "မျြှ"),
    ("\u1004\u103a\u1037", "\u1004\u1037\u103a"),
    ("\u1000\u1031\u102c\u1004\u1038\u103a", "ကောင်း"),
    ("\u1016\u103c\u1005\u103a\u1005\u1025\u103a", "ဖြစ်စဉ်"),
    ("\u1040\u102d\u102f", "ဝို"),
    ("\u1044\u1004\u103a\u1038", "၎င်း"),
    ("၂၀\u101d၈", "၂၀၀၈"),
    ("၁\u101d\u101d။", "၁၀၀။"),
    ("\u1005\u103b\u1031\u1038", "ဈေး"),
    ("\u101e\u103c\u1002\u102f\u1010\u103a", "ဩဂုတ်"),
    ("e\u0301\u0302", "ế"),
    ("\u00d0à Nẵng", "Đà Nẵng"),
    ("\u2f00\u2ed8", "一⻘"[0] + unicodedata.normalize("NFKC", "\u2ed8")),
    ("\ufb01nd", "find"),
]
LEFT_ALONE = [
    "hòa hoà",
    "Ð í Íslandi",
    "ฤๅษี มากกกก",
    "ຫມາ ໝາ",
    "ယောက်ျား လက်ျာ",
    "၂၀၀၀ ၇ ဝန်",
    "၁ဝန်",
    "က္က စင်္ကာပူ",
    "m̄ n̂ x̌",
    "⁠ʔ ﷺ",
]


@pytest.mark.parametrize(("typed", "one"), PAIRS)
def test_two_spellings_that_look_the_same_are_one(typed, one):
    assert form.one_form(typed) == form.one_form(one) == unicodedata.normalize("NFC", one)
    assert form.suspects(pa.array([typed])).tolist() == [True]


@pytest.mark.parametrize("text", [*LEFT_ALONE, *TEXTS.values(), "", " \n"])
def test_what_is_in_form_or_is_spelling_stays(text):
    assert form.one_form(text) == text and form.normalised(text)[1] == form.KEPT


def any_text(rng, n=40):
    blocks = [
        (0x41, 0x7A),
        (0xC0, 0x233),
        (0x300, 0x345),
        (0x900, 0x9FF),
        (0xE01, 0xE4E),
        (0xE81, 0xECE),
        (0xF40, 0xFBC),
    ]
    blocks += [
        (0x1000, 0x109D),
        (0x1000, 0x104A),
        (0x1100, 0x11FF),
        (0x1780, 0x17DD),
        (0x1EA0, 0x1EF9),
        (0xA980, 0xA9CD),
    ]
    blocks += [(0x2F00, 0x2FD5), (0x4E00, 0x4E40), (0xAC00, 0xAC40), (0xF700, 0xF71A), (0xF900, 0xF940), (0x20, 0x24)]
    first, last = rng.choice(blocks)
    second = rng.choice(blocks)
    return "".join(
        chr(rng.randint(*((first, last) if rng.random() < 0.9 else second))) for _ in range(rng.randint(1, n))
    )


def test_the_form_is_kept_by_nfc_and_by_itself_and_the_pass_over_bytes_misses_nothing():
    rng = random.Random(5)
    texts = [any_text(rng) for _ in range(20_000)] + [any_text(rng, 3) for _ in range(40_000)]
    found = form.suspects(pa.array(texts))
    for text, suspect in zip(texts, found.tolist(), strict=True):
        one = form.one_form(text)
        assert unicodedata.is_normalized("NFC", one), ascii(text)
        assert form.one_form(one) == one or zawgyi.is_zawgyi(one), ascii(text)  # which noise may turn into
        assert suspect or one == text, ascii(text)
        assert form.one_form(unicodedata.normalize("NFD", text)) == one, ascii(text)
    batch, done = form.forms(pa.chunked_array([texts[:100], texts[100:]]))
    assert batch.to_pylist() == [form.one_form(text) for text in texts] and len(done) == len(texts)


def shuffled(text, rng):
    """Another spelling of a text: decomposed, and marks of different canonical classes in any order."""
    text, out = unicodedata.normalize(rng.choice(["NFD", "NFC"]), text), []
    for char in text:
        k = len(out)
        while k and unicodedata.combining(char) and unicodedata.combining(out[k - 1]) > 0 and rng.random() < 0.5:
            if unicodedata.combining(out[k - 1]) == unicodedata.combining(char):
                break
            k -= 1
        out.insert(k, char)
    return "".join(out)


SWAPS = [
    ("\u0e33", "\u0e4d\u0e32"),
    ("แ", "เเ"),
    ("\u0eb3", "\u0ecd\u0eb2"),
    ("\u17c4", "\u17c1\u17b6"),
    ("\u17be", "\u17c1\u17b8"),
]
SWAPS += [
    ("\u17d2\u178f", "\u17d2\u178a"),
    ("\u102d\u102f", "\u102f\u102d"),
    ("\u103c\u103d", "\u103d\u103c"),
    ("ဝ", "\u1040"),
]


def other_spelling(text, rng):
    for one, typed in SWAPS:
        if rng.random() < 0.5 and one != "ဝ":
            text = text.replace(one, typed)
    return shuffled(text, rng)


@pytest.mark.parametrize("lang", TEXTS)
def test_every_spelling_of_a_text_has_one_hash_line_label_signals_and_contaminates(lang, tmp_path):
    rng = random.Random(lang)
    text = TEXTS[lang] + "\n" + TEXTS[lang][::1] + " 2."
    others = [other_spelling(text, rng) for _ in range(12)]
    array = pa.array([text, *others])
    minima = signatures(array)
    assert (minima == minima[0]).all() and float(jaccard_estimate(minima[0], minima[-1])) == 1
    assert len({one.tobytes() for one in shingle_sets(array)}) == 1
    rows, hashes = line_hashes(array, 20)
    lines = [hashes[rows == k].tolist() for k in range(len(array))]
    assert all(line == lines[0] for line in lines)
    left, removed = remove_lines(array, np.zeros(len(array), np.int64), {0: np.unique(hashes[:1])}, 20)
    assert set(left.to_pylist()) == {left[0].as_py()} and removed.tolist() == [removed[0]] * len(array) and removed[0]
    predicted = identify.load("lid.176").predict(array)
    assert (predicted.probabilities == predicted.probabilities[0]).all()
    for item in (text, others[0]):
        path = tmp_path / "items.jsonl"
        path.write_text(json.dumps({"question": item}, ensure_ascii=False), "utf-8")
        hits, _ = search(array, build([str(path)]))
        assert hits.min() == hits.max() > 0


@pytest.mark.parametrize("lang", TEXTS)
def test_documents_leave_extraction_in_one_form_and_measure_alike(lang):
    rng = random.Random(lang)
    others = [TEXTS[lang], *(other_spelling(TEXTS[lang], rng) for _ in range(6))]
    as_text = [raw(f"t{k}", "", source="s", text=text, title=text) for k, text in enumerate(others)]
    pages = [
        raw(f"p{k}", "", source="s", payload=f"<meta charset=utf-8><p>{text}</p>".encode(), content_type="text/html")
        for k, text in enumerate(others)
    ]
    extractor = Extractor("lines")
    documents, _ = extractor(pa.RecordBatch.from_pylist([*as_text, *pages], RAW))
    extractor.close()
    assert documents["text"].to_pylist() == [form.one_form(TEXTS[lang])] * 14
    assert {form.one_form(title) for title in documents["title"].to_pylist()[:7]} == set(
        documents["title"].to_pylist()[:7]
    )
    assert [bool(done) for done in documents["form"].to_pylist()[:7]] == [form.one_form(o) != o for o in others]
    batch = pa.table({"lang": [lang] * len(others), "text": others}).to_batches()[0]
    measured, _ = Measure([lang])(batch)
    assert (
        len(
            {
                str(row)
                for row in measured.drop_columns(["doc_id"] if "doc_id" in measured.schema.names else []).to_pylist()
            }
        )
        == 1
    )


def test_a_long_run_of_marks_takes_linear_time():
    marks = "\u0323\u0302" * 50_000
    assert form.one_form("a" + marks).startswith("ậ")


BURMESE = [
    "ယောက်ျား", "ကျောင်းသားများ", "စင်္ကာပူ", "ဥက္ကဋ္ဌ", "ဩဂုတ်", "ဪ", "သြော်", "မြန်မာနိုင်ငံ", "ပြည်ထောင်စု", "အင်္ဂလိပ်", "ဝန်ကြီးချုပ်",
    "ဖြစ်စဉ်", "ဉာဏ်", "ရွှေ့", "တို့", "မြွှာ", "ပစ္စည်း", "သို့မဟုတ်", "၎င်း", "ဥပဒေ", "ဝင်္ဂ", "ပုဂ္ဂိုလ်",
]  # fmt: skip
ZAWGYI = ["ေယာက္်ား", "ေက်ာင္းသားမ်ား", "စကၤာပူ", "ဥကၠ႒", "ၾသဂုတ္"]  # as such pages have them


@pytest.mark.parametrize(("glyphs", "word"), zip(ZAWGYI, BURMESE, strict=False))
def test_zawgyi_as_pages_have_it(glyphs, word):
    page = f"{glyphs} ေနာက္ေန႔ ေကာင္းေသာ ေျပာသည္။"
    assert form.normalised(page) == (form.one_form(f"{word} နောက်နေ့ ကောင်းသော ပြောသည်။"), form.ZAWGYI)


def test_zawgyi_pages_become_their_unicode_twins():
    rng = random.Random(3)
    words = [
        form.one_form(word) for word in BURMESE if "\u103a\u103b" not in word
    ]  # this writer has no asat before a medial
    for _ in range(300):
        text = " ".join(rng.choices(words, k=12)) + "။ " + form.one_form(TEXTS["my"])
        page = pack.zawgyi(text)
        assert zawgyi.is_zawgyi(page) and not zawgyi.is_zawgyi(text)
        assert form.normalised(page) == (text, form.ZAWGYI)
        assert form.normalised(unicodedata.normalize("NFD", page))[0] == text


UNICODE = {
    "shan": "ၵူၼ်းမိူင်းတႆး ၼႂ်းမိူင်းမၢၼ်ႈ ဢၼ်ယူႇသဝ်းၼႂ်းၸႄႈမိူင်းတႆး လႄႈ ႁူမ်ႈတုမ်ႊ ၵႂႃႇၵေႃႉၼၼ်ႉ ၸေႈမွၵ်ႇၵူၼ်း",
    "mon": "ဘာသာမန်ဂှ် ဒှ်အရေဝ်ဘာသာ မွဲပ္ဍဲဂကူမန် ညးဂမၠိုၚ် ဟီုဂးစကာကၠောန်စဒၟံၚ် ပ္ဍဲဍုၚ်ဗၟာ ကေုာံ သေံ",
    "karen": "ပှၤကညီဖိအိၣ်ဆိးလၢကီၢ်ပယီၤပူၤဒီးကီၢ်ယိၣ်ပူၤန့ၣ်လီၤ တၢ်ကတိၤကညီကျိာ်",
    "pali": "နမော တဿ ဘဂဝတော အရဟတော သမ္မာသမ္ဗုဒ္ဓဿ ဗုဒ္ဓံ သရဏံ ဂစ္ဆာမိ ဓမ္မံ သရဏံ ဂစ္ဆာမိ သံဃံ သရဏံ ဂစ္ဆာမိ",
    "burmese": TEXTS["my"],
    "typed E first": "ေကျာင်း ေနာက် ေကာင်း ကျောင်းသားများက စာမေးပွဲကို ဖြေဆိုကြသည်။ ကောင်းကောင်း",
}


@pytest.mark.parametrize("name", UNICODE)
def test_unicode_in_any_language_and_mixed_pages_are_not_converted(name):
    text = UNICODE[name]
    assert not zawgyi.is_zawgyi(text * 20)
    mixed = "\n".join([pack.zawgyi(form.one_form(TEXTS["my"]))] * 3 + [TEXTS["my"]])
    assert not zawgyi.is_zawgyi(mixed) and form.normalised(mixed)[1] != form.ZAWGYI


def test_words_of_a_list_are_found_however_the_list_spells_them():
    lists = {"vi": {"stop_words": ("và", "các"), "flagged_words": ("làng nhỏ",)}}
    other = {
        "vi": {key: tuple(unicodedata.normalize("NFD", word) for word in words) for key, words in lists["vi"].items()}
    }
    batch = pa.table({"lang": ["vi"], "text": [TEXTS["vi"]]}).to_batches()[0]
    one, two = (Measure(["vi"], which)(batch)[0] for which in (lists, other))
    assert one.equals(two) and one["flagged_ratio"][0].as_py() > 0
