"""Identifiers of other people: trained here by fastText, with the labels that theirs have."""

import random

import fasttext
import numpy as np
import pyarrow as pa
import pytest

from cluster import storage
from curation.lid import fasttext_file
from curation.lid.fasttext_file import FastTextFile, code_of
from curation.lid.identify import ModelName, identify, load
from curation.quality import _zeroed_allocations
from curation.schema import DOCUMENT

WORDS = {
    "zsm_Latn": "kanak-kanak itu bermain di tepi pantai kerana ibu mereka berkata bahawa hujan akan turun selepas pukul",
    "msa_Latn": "kereta api berhenti di stesen lama manakala penumpang menunggu basikal dan telefon pejabat kerajaan negeri",
    "ind_Latn": "anak-anak bermain di pantai karena ibunya bilang bahwa hujan turun setelah pukul sepeda kantor mobil",
    "fil_Latn": "ang mga bata ay naglalaro sa dalampasigan dahil sinabi ng kanilang ina na uulan pagkatapos ng hapon",
    "zho_Hans": "孩子们 在 海边 玩 因为 妈妈 说 三点 以后 会 下雨 火车 停在 老 车站",
    "zho_Hant": "孩子們 在 海邊 玩 因為 媽媽 說 三點 以後 會 下雨 火車 停在 老 車站",
    "mya_Mymr": "ကလေး များ သည် ပင်လယ် ကမ်းခြေ တွင် ကစား ကြသည် အမေ က မိုးရွာ မည် ဟု ပြော",
    "ace_Latn": "aneuk miet meu'en bak binéh pasi sabab ma awaknyan peugah ujeuen teuka lheuh poh lhèe beungoh",
    "deu_Latn": "die kinder spielen am strand weil ihre mutter sagte dass es nach drei uhr regnen wird und der zug hielt",
}
LANGUAGES = ["ms", "id", "tl", "zh", "my"]


def sentences(label, n, seed):
    rng, words = random.Random(f"{label}{seed}"), WORDS[label].split()
    return [" ".join(rng.choices(words, k=12)) for _ in range(n)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same identifier plain, quantised, and quantised in its output too; and word vectors, which have no labels."""
    folder = tmp_path_factory.mktemp("fasttext")
    rows = [f"__label__{label} {text}" for label in WORDS for text in sentences(label, 150, 1)]
    random.Random(1).shuffle(rows)
    text = folder / "train.txt"
    text.write_text("\n".join(rows) + "\n", encoding="utf-8")
    with _zeroed_allocations():
        settings = {"dim": 16, "minn": 1, "maxn": 3, "bucket": 5000, "epoch": 15, "thread": 1, "lr": 0.5, "verbose": 0}
        model = fasttext.train_supervised(str(text), **settings)
        model.save_model(str(folder / "model.bin"))
        model.quantize(input=str(text), retrain=False, cutoff=400, verbose=0)
        model.save_model(str(folder / "small.ftz"))
        many = folder / "many.txt"  # fastText quantises the output of 256 labels or more
        others = [f"__label__x{number}_Latn {'q' * (1 + number % 17)} zz{number}" for number in range(300)]
        many.write_text("\n".join(rows + others) + "\n", encoding="utf-8")
        model = fasttext.train_supervised(str(many), **settings)
        model.quantize(input=str(many), qout=True, qnorm=True, verbose=0)
        model.save_model(str(folder / "smaller.ftz"))
        vectors = fasttext.train_unsupervised(str(text), dim=8, epoch=1, thread=1, verbose=0)
        vectors.save_model(str(folder / "vectors.bin"))
    return folder


def batch(texts):
    empty = dict.fromkeys(DOCUMENT.names, "") | {"warc_offset": None}
    return pa.RecordBatch.from_pylist(
        [{**empty, "doc_id": f"{i:032x}", "url": f"u{i}", "text": text} for i, text in enumerate(texts)], DOCUMENT
    )


@pytest.mark.parametrize("name", ["model.bin", "small.ftz", "smaller.ftz"])
def test_labels_become_codes_and_other_languages_leave(files, name):
    kernel = identify(str(files / name), LANGUAGES)
    wanted = {"zsm_Latn": "ms", "msa_Latn": "ms", "ind_Latn": "id", "fil_Latn": "tl", "mya_Mymr": "my"}
    wanted |= {"zho_Hans": "zh", "zho_Hant": "zh"}
    for label, code in wanted.items():
        kept, _ = kernel(batch(sentences(label, 20, 2)))
        assert kept["lang"].to_pylist() == [code] * kept.num_rows and kept.num_rows >= 17, label
    for label in ("ace_Latn", "deu_Latn"):
        kept, ledger = kernel(batch(sentences(label, 20, 2)))
        assert kept.num_rows <= 2 and set(ledger["rule"].to_pylist()) <= {"language_outside", "language_score"}
        assert ledger["detail"].to_pylist().count("other") >= 17, "an unknown label is `other`"


@pytest.mark.parametrize("name", ["model.bin", "small.ftz"])
def test_probabilities_of_labels_with_one_code_add(files, name):
    raw, model = fasttext.load_model(str(files / name)), load(str(files / name))
    both = [f"{a} {b}" for a, b in zip(sentences("zsm_Latn", 30, 3), sentences("msa_Latn", 30, 3), strict=True)]
    texts = both + sentences("zho_Hans", 10, 3) + sentences("deu_Latn", 10, 3) + [f"{both[0]} {WORDS['deu_Latn']}"]
    found = model.predict(pa.array(texts))
    assert model.labels == ("id", "ms", "my", "tl", "zh", "other")
    shared = 0
    for text, row, best in zip(texts, found.probabilities, found.best, strict=True):
        expected = dict.fromkeys(model.labels, 0.0)
        names, values = raw.predict(text, k=-1)
        for label, value in zip(names, values, strict=True):
            expected[code_of(label.removeprefix("__label__"), {})] += value
        np.testing.assert_allclose(row, [expected[code] for code in model.labels], atol=1e-3)
        assert model.labels[best] == max(expected, key=expected.__getitem__) or expected["other"] > 0.4
        shared += min(v for label, v in zip(names, values, strict=True) if label[9:] in ("zsm_Latn", "msa_Latn")) > 0.02
    assert shared > 10, "the test has texts between two labels of one code"


def test_a_code_beats_many_small_unknown_labels():
    class Spread:
        def get_labels(self):
            return [f"__label__{name}" for name in ("zsm_Latn", "deu_Latn", "fra_Latn", "nld_Latn")]

        def get_words(self, on_unicode_error):
            return ["</s>"]

        def predict(self, lines, k, threshold):
            return [self.get_labels()] * len(lines), [[0.4, 0.3, 0.2, 0.1]] * len(lines)

    model = FastTextFile(Spread(), {})
    [best], [row], _ = model.predict(pa.array(["x"]))
    assert model.labels[best] == "ms" and row.tolist() == pytest.approx([0.4, 0.6])
    model = FastTextFile(Spread(), {"zsm_Latn": "other", "fra_Latn": "ms"})
    [best], [row], _ = model.predict(pa.array(["x"]))
    assert model.labels[best] == "other" and row.tolist() == pytest.approx([0.2, 0.8])


def test_own_map_and_least_scores(files):
    named = ModelName(str(files / "model.bin"), (("deu_Latn", "de"), ("msa_Latn", "other")), ("ms", "ace", "de"))
    kernel = identify(named, ["ms", "ace", "de"], {"default": 0.2, "ace": 1.0})
    for label, code in (("deu_Latn", "de"), ("zsm_Latn", "ms")):
        assert set(kernel(batch(sentences(label, 10, 4)))[0]["lang"].to_pylist()) == {code}
    kept, ledger = kernel(batch(sentences("ace_Latn", 10, 4) + sentences("msa_Latn", 10, 4)))
    assert kept.num_rows == 0
    rules = ledger["rule"].to_pylist()
    assert rules[:10] == ["language_score"] * 10 and rules[10:] == ["language_outside"] * 10
    assert set(ledger["threshold"].to_pylist()[:10]) == {1.0}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(("cmn_Hans", "zh"), ("cmn_Hani", "zh"), ("zho_Hant", "zh"), ("zh", "zh"), ("yue_Hant", "other")),
        *(("zsm_Latn", "ms"), ("zlm_Latn", "ms"), ("msa_Arab", "other"), ("jav_Java", "other"), ("jv", "jv")),
        *(("tgl_Latn", "tl"), ("fil", "tl"), ("lao_Laoo", "lo"), ("lao_Latn", "other"), ("eng_Latn", "en")),
        *(("min_Latn", "other"), ("ceb_Latn", "ceb"), ("WAR_LATN", "war"), ("", "other"), ("in", "other")),
    ],
)
def test_names_of_languages(name, code):
    assert code_of(name, {}) == code


def test_every_language_has_its_three_letters():
    names = "my ceb ilo id jv km lo ms su tl th vi war en zh".split()  # noqa: SIM905
    assert set(fasttext_file.CODES.values()) == set(fasttext_file.SCRIPTS) == set(names)


def test_odd_texts_do_no_harm(files):
    texts = ["", "\n", "a\r\nb\0c", "😀🌊", "</s> __label__zsm_Latn", None, "12", "x " * 5000]
    model = load(str(files / "small.ftz"))
    found = model.predict(pa.array(texts, pa.string()).fill_null(""))
    assert len(found.best) == 8 and (found.probabilities >= 0).all() and (found.probabilities <= 1).all()
    assert model.predict(pa.array([], pa.string())).probabilities.shape == (0, len(model.labels))


def test_text_is_given_as_the_vocabulary_is_written():
    class Words:
        def __init__(self, words):
            self.words = ["</s>", *words]

        def get_labels(self):
            return ["__label__eng_Latn"]

        def get_words(self, on_unicode_error):
            return self.words

    many = [f"w{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}{chr(97 + i // 676)}" for i in range(1200)]
    for words, expected in (
        (many, " wort  wort   "),
        ([*many, "3,5"], "*wort, wort 3*"),
        ([*many, "Wort"], " Wort  Wort   "),
        ([*many, "Wort", "3,5"], "*Wort, Wort 3*"),
        (many[:9], "*Wort, Wort 3*"),
    ):
        assert FastTextFile(Words(words), {})._lines(pa.array(["*Wort,\nWort 3*"])) == [expected.replace("\n", " ")]


def test_what_is_no_identifier_is_one_sentence(files, tmp_path):
    whole = (files / "model.bin").read_bytes()
    cases = {
        "text.bin": (b"hello, this is no model\n" * 9, "is no fastText model"),
        "empty.bin": (b"", "is no fastText model"),
        "head.bin": (whole[:50], "is not whole"),
        "vectors.bin": ((files / "vectors.bin").read_bytes(), "has vectors of words and no labels"),
    }
    rng = random.Random(3)
    for name in ("model.bin", "small.ftz", "smaller.ftz"):
        data = (files / name).read_bytes()
        for i, cut in enumerate([len(data) - 1, len(data) - 100, *rng.choices(range(100, len(data)), k=20)]):
            cases[f"{i}-{name}"] = (data[:cut], "is not whole")
    for name, (data, words) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=words) as error:
            load(str(tmp_path / name))
        assert str(error.value).startswith("language.model: ") and name in str(error.value)
    with pytest.raises(ValueError, match=r"there is no file .*none\.bin"):
        load(str(tmp_path / "none.bin"))
    with pytest.raises(ValueError, match=r"has no label 'ace_latn' .did you mean 'ace_Latn'"):
        load(ModelName(str(files / "model.bin"), (("ace_latn", "ace"),)))
    with pytest.raises(ValueError, match=r"does not know th; .* language.labels"):
        identify(str(files / "model.bin"), ["ms", "th"])


def test_an_object_store(files):
    """The file is fetched once; what is not there is said."""
    fs, _ = storage.filesystem("memory://models/x")
    fs.pipe("/models/lid.bin", (files / "model.bin").read_bytes())
    kernel = identify(ModelName("memory://models/lid.bin", (), ()), LANGUAGES)
    assert set(kernel(batch(sentences("ind_Latn", 5, 5)))[0]["lang"].to_pylist()) == {"id"}
    with pytest.raises(ValueError, match=r"there is no file memory://models/none.bin"):
        load("memory://models/none.bin")
    with pytest.raises(
        ValueError, match=r"^language\.model: foo://x/lid\.bin cannot be reached: Protocol not known: foo"
    ):
        load("foo://x/lid.bin")
