"""The trained language identifier, on the texts of sample/: what it learns, what it refuses, what it writes."""

import gzip
import json
import random

import numpy as np
import pyarrow as pa
import pytest

from curation.lid import synthesis
from curation.lid.identify import identify
from curation.lid.model import OTHER, LanguageModel, features_and_sums, load
from curation.lid.ngrams import FOLD
from curation.lid.report import expected_calibration_error, scores
from curation.lid.training import Training, fit_temperature, make_segments, train
from curation.schema import DOCUMENT
from curation.text.form import one_form
from ray_jobs.config.reader import SAMPLE

SMALL = Training(bits=16, segments=250, neighbour_segments=5)

GOLDEN = {
    "my": "ယနေ့ မိုးရွာနေသောကြောင့် ကလေးများသည် အိမ်ထဲတွင် စာဖတ်နေကြသည်။ မနက်ဖြန် ဈေးသို့ သွားမည်။",
    "th": "วันนี้ฝนตกหนักมาก เด็ก ๆ จึงอ่านหนังสืออยู่ในบ้าน พรุ่งนี้แม่จะไปตลาดแต่เช้า",
    "lo": "ມື້ນີ້ຝົນຕົກແຮງຫຼາຍ ເດັກນ້ອຍຈຶ່ງອ່ານປຶ້ມຢູ່ໃນເຮືອນ ມື້ອື່ນແມ່ຈະໄປຕະຫຼາດແຕ່ເຊົ້າ",
    "km": "ថ្ងៃនេះភ្លៀងធ្លាក់ខ្លាំងណាស់ ដូច្នេះក្មេងៗអានសៀវភៅនៅក្នុងផ្ទះ ស្អែកម្តាយនឹងទៅផ្សារ",
    "zh": "今天雨下得很大，所以孩子们在家里看书。明天早上妈妈要去市场买菜。",
    "vi": "Hôm nay trời mưa rất to nên bọn trẻ ở trong nhà đọc sách. Ngày mai mẹ sẽ đi chợ từ sáng sớm.",
    "en": "It is raining hard today, so the children are reading books at home. Tomorrow their mother will go to the market.",
    "id": "Hari ini hujan deras sekali, jadi anak-anak membaca buku di rumah karena mereka tidak bisa bermain di luar.",
    "ms": "Hari ini hujan sangat lebat, jadi kanak-kanak membaca buku di rumah kerana mereka tidak boleh bermain di luar.",
    "jv": "Dina iki udane deres banget, mula bocah-bocah padha maca buku ana ing omah. Sesuk ibu arep menyang pasar.",
    "su": "Poé ieu hujan gedé pisan, ku kituna barudak maca buku di imah. Isukan indung rék ka pasar balanja.",
    "tl": "Malakas ang ulan ngayon kaya nagbabasa ng mga libro ang mga bata sa bahay. Bukas ay pupunta sa palengke ang nanay.",
    "ceb": "Kusog kaayo ang ulan karon maong nagbasa og libro ang mga bata sa balay. Ugma moadto sa merkado ang ilang nanay.",
    "ilo": "Napigsa unay ti tudo ita nga aldaw isu nga agbasbasa dagiti ubbing iti balay. Mapan ni nanang idiay tiendaan.",
    "war": "Makusog an uran yana salit nagbabasa hin libro an mga bata ha balay. Buwas makadto ha merkado an ira nanay.",
}


def documents(*languages: str) -> list[tuple[str, str, str]]:
    """(language, site, text) of the good pages of sample/."""
    found = []
    for lang in languages or GOLDEN:
        with gzip.open(SAMPLE / "gold" / f"{lang}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [row for row in map(json.loads, file) if row["fate"] == "kept" and row["lang"] == lang]
        found += [(lang, row["url"].split("/")[2], row["text"]) for row in rows]
    return found


@pytest.fixture(scope="module")
def trained() -> tuple[LanguageModel, dict]:
    return train(documents(), config=SMALL)


def named(model: LanguageModel, *texts: str) -> list[str]:
    return [model.labels[number] for number in model.predict(pa.array(texts)).best]


def test_golden_sentences_of_all_fifteen_languages(trained):
    model, _ = trained
    assert set(model.labels) == {*GOLDEN, OTHER}
    assert named(model, *GOLDEN.values()) == list(GOLDEN)
    probabilities = model.predict(pa.array(list(GOLDEN.values()))).probabilities
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_a_word_decides_where_the_letters_do_not(trained):
    model, _ = trained
    silent = LanguageModel(
        model.labels, model.weights, model.owners, 0 * model.words, model.scale, model.alphabet, model.least_known
    )
    pairs = [("id", "karena"), ("ms", "kerana"), ("id", "bahwa"), ("ms", "bahawa"), ("war", "yana"), ("ceb", "gahapon")]
    rows = [model.labels.index(lang) for lang, _ in pairs]
    sums, n = features_and_sums(model, pa.array([word for _, word in pairs]))
    of_ngrams, same = features_and_sums(silent, pa.array([word for _, word in pairs]))
    assert (n == same).all(), "words are not counted among the n-grams"
    words = sums - of_ngrams
    assert words.argmax(axis=1).tolist() == rows
    unknown, _ = features_and_sums(model, pa.array(["zqxzqx vvkvvk", "ไม่มีคำนี้ในพจนานุกรม"]))
    np.testing.assert_array_equal(
        unknown, features_and_sums(silent, pa.array(["zqxzqx vvkvvk", "ไม่มีคำนี้ในพจนานุกรม"]))[0]
    )


def test_everyday_words_have_all_languages_in_every_line():
    lists = synthesis.listed_words()
    assert [lang for lang, _ in lists] == ["id", "ms", "tl", "ceb", "war", "ilo"]
    assert dict(lists)["war"].split()[:3] == ["an", "hin", "han"]


def test_text_of_a_page_is_only_words(trained):
    """What no word has between letters changes nothing: control tokens of other models, control characters, any symbol."""
    model, _ = trained
    rng = random.Random(7)
    odd = [chr(code) for code in range(0x3000) if not FOLD[code] and one_form(chr(code)) == chr(code)]
    for text in GOLDEN.values():
        words = text.split(" ")
        noisy = "".join(f"{word} {''.join(rng.choices(odd, k=rng.randrange(6)))} " for word in words).replace("\n", " ")
        marked = f"</s> <s> \u0002 __\u0002__ {text} <|im_end|> [INST] \0"
        clean = f"s s {text} im end INST"
        plain, other = model.predict(pa.array([text])), model.predict(pa.array([noisy]))
        np.testing.assert_array_equal(plain.probabilities, other.probabilities)
        said, meant = model.predict(pa.array([marked])), model.predict(pa.array([clean]))
        np.testing.assert_array_equal(said.probabilities, meant.probabilities)
        label, same = (model.predict(pa.array([f"{head} {text}"])) for head in ("__label__xx", "label xx"))
        np.testing.assert_array_equal(label.probabilities, same.probabilities)


def test_lower_case_digits_and_accents_change_little(trained):
    model, _ = trained
    changed = [text.upper() + " 2024 12/31 :)" for text in GOLDEN.values()]
    assert named(model, *changed) == list(GOLDEN)
    assert named(model, GOLDEN["jv"].replace("a", "á"), GOLDEN["war"].replace("i", "í")) == ["jv", "war"]


def test_texts_without_letters_are_of_no_language(trained):
    model, _ = trained
    odd = ["", "\n\n", "12 34 56", "😀🌊", "\u200b\ufeff", "... --- !!!"]
    found = model.predict(pa.array(odd))
    assert [model.labels[number] for number in found.best] == [OTHER] * len(odd)
    assert not found.probabilities.any()
    assert len(model.predict(pa.array([], pa.string())).best) == 0
    rng = random.Random(1)
    noise = ["".join(chr(rng.randrange(1, 0xD800)) for _ in range(rng.randrange(400))) for _ in range(200)]
    found = model.predict(pa.array([*noise, None]))
    assert np.isfinite(found.probabilities).all() and (found.share >= 0).all() and (found.share <= 1).all()


def test_other_scripts_are_refused_by_the_alphabet(trained):
    model, _ = trained
    japanese = "きょうはあめがたくさんふっているので、こどもたちはいえでほんをよんでいます。"
    shan = "ဝၼ်းၼႆႉ ၽူၼ်တူၵ်းႁႅင်းၼႃႇ လုၵ်ႈဢွၼ်ႇၸိူဝ်းၼႆႉ ဢၢၼ်ႇပပ်ႉယူႇၼႂ်းႁိူၼ်း"
    jawi = "هاري اين هوجن ساڠت لبت جادي کانق٢ ممباچ بوکو د رومه"
    javanese = "ꦢꦶꦤꦲꦶꦏꦶꦲꦸꦢꦤꦺꦢꦼꦫꦺꦱ꧀ꦧꦔꦼꦠ꧀"
    russian = "Сегодня идёт сильный дождь, поэтому дети читают книги дома."
    assert named(model, japanese, shan, jawi, javanese, russian) == [OTHER] * 5


def test_languages_without_documents_are_other(trained):
    model, _ = trained
    german = "Die Kinder sind heute im Haus und lesen, weil es regnet und sie nicht in die Stadt gehen können."
    spanish = "Los niños están hoy en la casa porque hace mucho agua y no pueden ir a la ciudad con su gente."
    assert named(model, german, spanish) == [OTHER] * 2


def test_lines_vote_for_the_page(trained):
    model, _ = trained
    alone = model.predict(pa.array([GOLDEN["vi"]]))
    assert alone.share[0] == 1.0
    mixed = model.predict(pa.array([f"{GOLDEN['vi']}\n{GOLDEN['en']}\n{GOLDEN['vi']}"]))
    assert model.labels[mixed.best[0]] == "vi"
    assert 0.55 < mixed.share[0] < 0.75
    clean = mixed.probabilities[0, mixed.best[0]]
    assert clean > 0.9, "the probability is of the passages in the language of the page"
    other_way = model.predict(pa.array([f"{GOLDEN['vi']}\n{GOLDEN['en']}\n{GOLDEN['en']}"]))
    assert model.labels[other_way.best[0]] == "en"


def test_only_the_beginning_is_read(trained):
    model, _ = trained
    long = "\n".join([GOLDEN["th"]] * 15) + "\n" + GOLDEN["en"] * 500
    assert named(model, long) == ["th"]


def test_a_saved_model_is_the_same(trained, tmp_path):
    model, _ = trained
    model.save(str(tmp_path))
    again = load(str(tmp_path))
    texts = pa.array([text for _, _, text in documents()])
    for ours, theirs in zip(model.predict(texts), again.predict(texts), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="is not what model"):
        load(str(tmp_path))
    (tmp_path / "model.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        load(str(tmp_path))
    with pytest.raises(ValueError, match="no language model here"):
        load(str(tmp_path / "nothing"))


def test_equal_documents_give_equal_bytes(tmp_path):
    some = documents("id", "ms", "th")
    for name in ("one", "two"):
        model, report = train(some, config=SMALL)
        model.save(str(tmp_path / name))
        (tmp_path / name / "report.json").write_text(json.dumps(report))
    for name in ("weights.safetensors", "model.json", "report.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_the_report_is_of_sources_held_out(trained):
    _, report = trained
    waray = documents("war")
    assert report["documents"]["war"] == len(waray) > 20
    assert len(report["sources"]["war"]) == len({site for _, site, _ in waray}) > 3
    unseen = report["unseen_sources"]
    assert set(unseen["all"]["labels"]) == set(GOLDEN)
    assert unseen["paragraphs"]["macro_f1"] > 0.9
    assert 0 <= unseen["calibration_error"] < 0.1


def test_languages_not_asked_for_are_other():
    model, _ = train(documents("en", "th", "vi", "tl"), ["en", "th"], SMALL)
    assert model.labels == ("en", "th", OTHER)
    assert named(model, GOLDEN["en"], GOLDEN["th"], GOLDEN["vi"], GOLDEN["tl"]) == ["en", "th", OTHER, OTHER]
    with pytest.raises(ValueError, match=r"too little text .* xx"):
        train(documents("en"), ["en", "xx"], SMALL)
    with pytest.raises(ValueError, match="1 languages: two"):
        train(documents("en"), config=SMALL)


def test_rewriting_by_hand():
    spelling = synthesis.spellings()["id", "ms"]
    rng = random.Random(0)
    assert synthesis.rewrite("Dia mencoba obat itu karena perbedaannya.", spelling, rng) == (
        "dia mencuba ubat itu kerana perbezaannya.",
        4 / 6,
    )
    assert synthesis.rewrite("di rumah sakit, aktivitasnya", spelling, rng) == ("di hospital, aktivitinya", 3 / 4)
    assert synthesis.rewrite("rumah. sakit", spelling, rng) == ("rumah. sakit", 0.0)
    assert synthesis.rewrite("", spelling, rng) == ("", 0.0)


def test_frequent_words_are_those_of_every_source():
    sources = {"a": ["the cat and the dog and the cat"], "b": ["the ship and the sea ship ship ship"]}
    assert synthesis.frequent_words(sources, 2) == {"the", "and"}
    rng = random.Random(0)
    assert synthesis.transplant("The cat and ship.", {"the", "and"}, ["nga"], rng) == "nga cat nga ship."


def test_segments_of_thin_and_missing_languages():
    some = documents("id", "ms", "ceb")
    segments = make_segments(some, ("ceb", "id", "ms", OTHER), {"ceb", "id", "ms"}, SMALL)
    assert segments == make_segments(some, ("ceb", "id", "ms", OTHER), {"ceb", "id", "ms"}, SMALL)
    malay = " ".join(text for lang, text in segments if lang == "ms")
    pages = " ".join(text for lang, _, text in some if lang == "ms").lower()
    assert "kerana" in malay and len(malay) > 2 * len(pages)
    assert any(lang == OTHER and " kag " in text for lang, text in segments), "Hiligaynon of the neighbours"
    with_documents = make_segments(some, ("ceb", "id", "ms", OTHER), {"ceb", "id", "ms", "hil"}, SMALL)
    assert sum(lang == OTHER for lang, _ in with_documents) < sum(lang == OTHER for lang, _ in segments)


def test_scores_by_hand():
    labels = ("a", "b", OTHER)
    result = scores(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2]), labels)
    assert result["labels"]["a"] == {"precision": 1.0, "recall": 0.6667, "f1": 0.8, "texts": 3}
    assert result["labels"]["b"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "texts": 2}
    assert result["macro_f1"] == 0.65 and result["accuracy"] == 0.6
    assert result["confusions"][0] == {"true": "a", "predicted": "b", "texts": 1}
    sure = np.array([[0.9, 0.1], [0.9, 0.1]])
    assert expected_calibration_error(sure, np.array([0, 1])) == pytest.approx(0.4)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_the_temperature_makes_probabilities_true():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 3)) * 2
    odds = np.exp(z / 3)  # the truth is three times less sure than z says
    truth = np.array([rng.choice(3, p=row / row.sum()) for row in odds])
    a, b = fit_temperature(z, np.full(4000, 1), truth)
    assert a == pytest.approx(1 / 3, rel=0.15)
    assert isinstance(b, float)


def test_a_trained_model_in_the_kernel(trained, tmp_path):
    model, _ = trained
    model.save(str(tmp_path))
    rows = [GOLDEN["ms"], GOLDEN["ilo"], f"{GOLDEN['vi']}\n{GOLDEN['km']}\n{GOLDEN['th']}", "12 34", GOLDEN["zh"]]
    empty = dict.fromkeys(DOCUMENT.names, "") | {"warc_offset": None}
    batch = pa.RecordBatch.from_pylist(
        [{**empty, "doc_id": str(i), "text": text} for i, text in enumerate(rows)], schema=DOCUMENT
    )
    kernel = identify(str(tmp_path), languages=[*GOLDEN], min_score={"default": 0.3}, min_share={"default": 0.8})
    kept, ledger = kernel(batch)
    assert kept["lang"].to_pylist() == ["ms", "ilo", "zh"]
    assert kept.schema.names[-3:] == ["lang", "lang_score", "lang_share"]
    found = {(row["doc_id"], row["rule"]): row for row in ledger.to_pylist()}
    assert found["2", "language_mixed"]["threshold"] == 0.8 and found["2", "language_mixed"]["value"] < 0.8
    assert found["3", "language_outside"]["detail"] == OTHER
    with pytest.raises(ValueError, match="does not know de"):
        identify(str(tmp_path), languages=["de"])
