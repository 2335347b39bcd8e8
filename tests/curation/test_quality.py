import random
from pathlib import Path

import numpy as np
import pytest

from curation import quality

ESSAY = {
    "id": [
        "pelajaran",
        "ini",
        "menjelaskan",
        "sebab",
        "akibat",
        "peristiwa",
        "sejarah",
        "dengan",
        "contoh",
        "serta",
        "bukti",
        "yang",
        "jelas",
    ],
    "th": ["บทเรียนนี้", "อธิบาย", "สาเหตุ", "ของเหตุการณ์", "ด้วยตัวอย่าง", "และหลักฐาน", "อย่างชัดเจน"],
}
SPAM = {
    "id": [
        "klik",
        "daftar",
        "sekarang",
        "bonus",
        "gratis",
        "promo",
        "jual",
        "beli",
        "slot",
        "hubungi",
        "diskon",
        "murah",
        "kirim",
    ],
    "th": ["คลิก", "สมัคร", "ตอนนี้", "โบนัส", "ฟรี", "โปรโมชั่น", "ขาย", "ส่วนลด", "ราคาถูก"],
}


def documents(words, lang, n, seed):
    rng = random.Random(seed)
    shared = ["dan", "di", "yang", "ke"] if lang == "id" else ["และ", "ที่", "ใน"]
    return [("" if lang == "th" else " ").join(rng.choices(words + shared, k=60)) for _ in range(n)]


@pytest.mark.parametrize("lang", ["id", "th"])
def test_good_texts_score_above_the_rest(lang, tmp_path):
    path = str(tmp_path / "model.bin")
    report = quality.train(documents(ESSAY[lang], lang, 120, 1), documents(SPAM[lang], lang, 100, 2), lang, path)
    assert (report["positives"], report["heldout_positives"]) == (108, 12)
    assert (report["negatives"], report["heldout_negatives"]) == (90, 10)
    assert report["auc"] > 0.95
    model = quality.load(path)
    good = quality.score(model, documents(ESSAY[lang], lang, 50, 3), lang)
    rest = quality.score(model, documents(SPAM[lang], lang, 50, 4), lang)
    assert good.dtype == np.float32
    assert rest.min() >= 0 and good.max() <= 1
    assert np.median(good) > 0.5 > np.median(rest)
    assert quality.auc(good, rest) > 0.95


def test_equal_sides_cannot_be_told_apart(tmp_path):
    sides = [documents(ESSAY["id"], "id", 400, seed) for seed in (1, 2)]
    report = quality.train(*sides, "id", str(tmp_path / "model.bin"), heldout_share=0.5)
    assert abs(report["auc"] - 0.5) < 0.12


def test_same_examples_in_any_order_give_the_same_model(tmp_path):
    positives, negatives = documents(ESSAY["th"], "th", 60, 1), documents(SPAM["th"], "th", 60, 2)
    quality.train(positives, negatives, "th", str(tmp_path / "a.bin"))
    for _ in range(4):  # fastText alone trains on what memory held before, and gives another model each time
        dirt = [np.full(n, np.nan, np.float32) for n in (2_000_000, 1_700_000, 800_000)]
        del dirt
        quality.train(positives[::-1] + positives, [*negatives[::-1], "", "  "], "th", str(tmp_path / "b.bin"))
        assert Path(tmp_path / "a.bin").read_bytes() == Path(tmp_path / "b.bin").read_bytes()


def test_a_language_with_few_examples_gets_no_classifier(tmp_path):
    path = tmp_path / "model.bin"
    positives = documents(ESSAY["id"], "id", 40, 1)
    assert quality.train(positives, documents(SPAM["id"], "id", 19, 2), "id", str(path)) is None
    assert quality.train(["same text"] * 500, positives, "id", str(path)) is None
    assert quality.train(positives, positives, "id", str(path)) is None  # a text on both sides says nothing
    assert not path.exists()


def test_at_most_per_side_are_used(tmp_path):
    report = quality.train(
        documents(ESSAY["id"], "id", 90, 1), documents(SPAM["id"], "id", 30, 2), "id", str(tmp_path / "m"), per_side=50
    )
    assert report["positives"] + report["heldout_positives"] == 50
    assert report["negatives"] + report["heldout_negatives"] == 30


def test_odd_texts_are_scored(tmp_path):
    path = str(tmp_path / "model.bin")
    quality.train(documents(ESSAY["id"], "id", 30, 1), documents(SPAM["id"], "id", 30, 2), "id", path)
    model = quality.load(path)
    texts = ["", " \n\t ", "\0", "kata\nkata\r\nkata", "__label__good", "ไม่เคยเห็น", "a" * 50_000, "klik " * 20_000]
    scores = quality.score(model, texts, "id")
    assert scores.shape == (8,)
    assert scores[:3].tolist() == [0, 0, 0]
    assert np.isfinite(scores).all() and scores.max() <= 1
    assert quality.score(model, [], "id").shape == (0,)
    alone = quality.score(model, texts[3:4], "id")
    assert alone[0] == scores[3]


@pytest.mark.parametrize(
    ("lang", "text", "segmented"),
    [
        ("th", "เรือเล็ก2ลำ", "เรื อ เล็ ก 2 ลำ"),
        ("lo", "ເຮືອນ້ອຍ", "ເຮື ອ ນ້ ອ ຍ"),
        ("km", "ខ្មែរ ល្អ", "ខ្មែ រ ល្អ"),
        ("my", "မြန်မာစာ", "မြန် မာ စာ"),
        ("my", "သတ္တဝါ", "သ တ္တ ဝါ"),
        ("zh", "小船abc停。", "小 船 abc 停 。"),
        ("vi", "thuyền\n\n nhỏ", "thuyền nhỏ"),
    ],
)
def test_segments(lang, text, segmented):
    assert quality.segment(text, lang) == segmented
    assert quality.segment(text, lang).replace(" ", "") == "".join(text.split())


def test_threshold_keeps_the_top_share():
    scores = np.random.default_rng(0).permutation(np.linspace(0, 1, 100)).astype(np.float32)
    assert (scores >= quality.threshold(scores, 0.2)).sum() == 20
    assert (scores >= quality.threshold(scores, 1.0)).sum() == 100
    assert (scores >= quality.threshold(scores, 0.001)).sum() == 1
    assert (scores[:7] >= quality.threshold(scores[:7], 0.2)).sum() == 2
    ties = np.array([1, 1, 1, 0], np.float32)
    assert (ties >= quality.threshold(ties, 0.25)).sum() == 3
    with pytest.raises(ValueError, match="no scores"):
        quality.threshold(np.array([]))


def test_auc_by_hand():
    # Pairs: 3 > 1, 3 > 2, 2 > 1 and one tie of four: (3 + 0.5) / 4.
    assert quality.auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 4)
    assert quality.auc(np.array([0.0]), np.array([1.0])) == 0.0


def test_buckets_follow_the_size_of_the_examples():
    assert quality._buckets(["a b"]) == 1 << 14
    assert quality._buckets(["a " * 1_000_000]) == 1 << 16
    assert quality._buckets(["a " * 40_000_000]) == 2_000_000


TRANSLATED = ["adalah", "merupakan", "tersebut", "dimana", "daripada"]
NATIVE = ["nah", "lho", "begini", "ya", "toh"]


def styled(words, style, n, seed):
    """Texts of `words` in a style: five words in six say what it is about, the sixth who wrote it."""
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(style) if rng.random() < 1 / 6 else rng.choice(words) for _ in range(60)) for _ in range(n)
    ]


def checked(positives, negatives, native, tmp_path):
    return quality.train(positives, negatives, "id", str(tmp_path / "model.bin"), native=native, heldout_share=0.2)


def test_a_classifier_of_translationese_is_caught(tmp_path):
    """Positives are translations about anything; the web is about anything too, and more than half machine-translated."""
    both = ESSAY["id"] + SPAM["id"]
    positives = styled(both, TRANSLATED, 300, 1)
    negatives = styled(both, TRANSLATED, 180, 2) + styled(both, NATIVE, 120, 3)
    report = checked(positives, negatives, styled(ESSAY["id"], NATIVE, 100, 4), tmp_path)
    assert report["auc"] > 0.6, "it has learnt something, but not what is good"
    assert report["native"] == 100 and report["above_median"] < 0.3
    assert report["shortcut"]


def test_a_classifier_of_quality_passes(tmp_path):
    positives = styled(ESSAY["id"], TRANSLATED, 150, 1) + styled(ESSAY["id"], NATIVE, 150, 2)
    negatives = styled(SPAM["id"], TRANSLATED, 150, 3) + styled(SPAM["id"], NATIVE, 150, 4)
    native = styled(ESSAY["id"], NATIVE, 100, 5)
    report = checked(positives, negatives, native, tmp_path)
    assert report["above_median"] > 0.9 and not report["shortcut"]
    assert "native" not in checked(positives, negatives, [], tmp_path)


def test_native_texts_are_never_trained_on(tmp_path):
    positives, negatives = styled(ESSAY["id"], NATIVE, 60, 1), styled(SPAM["id"], NATIVE, 60, 2)
    report = checked(positives, negatives, positives[:25] + negatives[:5], tmp_path)
    assert report["positives"] + report["heldout_positives"] == 35
    assert report["negatives"] + report["heldout_negatives"] == 55
    assert report["native"] == 30
    assert checked(positives, negatives, positives[:45], tmp_path) is None


def test_words_of_a_page_are_only_words(tmp_path):
    """No label, end of text or zero byte of a page trains the classifier, or stops it; also behind a letter without spaces."""
    rng = random.Random(3)
    good = ["river", "market", "teacher", "harvest", "village", "water"]
    bad = ["casino", "bonus", "spin", "jackpot", "slot", "win"]

    def text(words: list[str], mark: str = "") -> str:
        return mark + " ".join(rng.choice(words) for _ in range(40)) + f" {rng.random()}"

    marks = [
        "__label__good ",
        "__label__rest ",
        "</s> ",
        "\0__label__good ",
        "ก__label__good ",
        "__label____label__good ",
    ]
    for lang in ("en", "th"):
        positives = [text(good, rng.choice(marks)) for _ in range(120)]
        negatives = [text(bad, "__label__good " * 3 + rng.choice(marks)) for _ in range(120)]
        path = str(tmp_path / f"{lang}.bin")
        assert quality.train(positives, negatives, lang, path)["auc"] > 0.99
        model = quality.load(path)
        assert sorted(model.get_labels()) == [quality.GOOD, quality.REST]
        for mark in ["", *marks]:
            assert quality.score(model, [text(bad, mark)], lang)[0] < 0.2
            assert quality.score(model, [text(good, mark)], lang)[0] > 0.8
        for lone in marks:
            quality.score(model, [lone], lang)
