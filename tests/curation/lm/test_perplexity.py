import json
import pickle
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster import kenlm
from curation.lm import perplexity, training
from curation.lm.kneser_ney import estimate
from curation.lm.pieces import END, UNKNOWN

WORDS = {
    "id": "perahu itu berlayar ke pelabuhan membawa beras ikan dan garam dari pulau seberang sejak pagi".split(),  # noqa: SIM905
    "th": ["เรือ", "ลำนี้", "แล่น", "ไป", "ท่าเรือ", "พร้อม", "ข้าว", "ปลา", "และ", "เกลือ", "จาก", "เกาะ"],
}


def documents(lang, n, seed):
    """Texts in which a word is mostly followed by the next one of the list, so that there is something to learn."""
    rng, words = random.Random(seed), WORDS[lang]
    joint = "" if lang == "th" else " "
    out = []
    for _ in range(n):
        lines = []
        for _ in range(rng.randint(1, 5)):
            at, line = rng.randrange(len(words)), []
            for _ in range(rng.randint(3, 14)):
                at = (at + 1) % len(words) if rng.random() < 0.8 else rng.randrange(len(words))
                line.append(words[at])
            lines.append(joint.join(line))
        out.append("\n".join(lines))
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models of two languages, estimated without KenLM."""
    out = tmp_path_factory.mktemp("models")
    for lang in WORDS:
        settings = {"lang": lang, "vocab_size": 60, "order": 4, "estimator": "numpy"}
        training.train(documents(lang, 120, 1), str(out / lang), **settings)
    return out


def test_perplexity_by_hand(tmp_path):
    """A model of the one sentence "a": 10 ** (-(log p(a|<s>) + log p(</s>|a)) / 2), and backing off for "b"."""
    grams = estimate(np.array([3], np.int32), np.array([1]), 2)
    vocabulary = ["<unk>", "<s>", "</s>", "▁a", "▁b"]
    perplexity.save(str(tmp_path), vocabulary, [0, 0, 0, -1.0, -1.0], grams, {})
    model = perplexity.load(str(tmp_path))
    found = perplexity.perplexity(pa.array(["a", "a\n\na\n", "b", "", None], pa.string()), model)
    # a of "3" and </s>: 1 each, discount 0.5 leaves 1 / 2 for three words: 1/4 + 1/6 each. Bigrams 1/2 + 1/2 * that.
    unigram = 0.25 + 0.5 / 3
    pair = 0.5 + 0.5 * unigram
    assert found[0] == pytest.approx(1 / pair)
    assert found[1] == pytest.approx(1 / pair)
    unknown = 0.5 / 3 * 0.5  # <s> backs off with 1/2 to the unigram of <unk>, and from that nothing is left to back off
    assert found[2] == pytest.approx((unknown * unigram) ** -0.5)
    assert np.isnan(found[3:]).all()
    assert perplexity.piece_counts(pa.array(["a", "a a\nb", ""]), model).tolist() == [2, 5, 0]
    assert model.known.tolist() == [UNKNOWN, 1, END, 3, UNKNOWN]


@pytest.mark.parametrize("lang", WORDS)
def test_texts_like_the_corpus_have_the_lower_perplexity(folder, lang):
    model = perplexity.load(str(folder / lang))
    good = documents(lang, 60, 2)
    rng = random.Random(3)
    bad = ["".join(rng.sample(text, len(text))) for text in good]
    score = perplexity.perplexity(pa.array(good + bad), model)
    assert np.median(score[:60]) * 3 < np.median(score[60:])
    about = json.loads(Path(folder, lang, "lm.json").read_text())
    percentiles = about["heldout"]["percentiles"]
    assert about["order"] == 4 and len(about["ngrams"]) == 4 and about["heldout"]["documents"] == 12
    assert 1 < percentiles["1"] <= percentiles["50"] <= percentiles["90"]
    assert percentiles["1"] * 0.8 < np.median(score[:60]) < percentiles["99"] * 1.2


def test_the_column_is_filled_by_language(folder):
    fill = perplexity.PerplexityColumn(str(folder))
    texts = [*documents("id", 3, 5), *documents("th", 2, 5), "", "text of another language", None]
    langs = ["id", "id", "id", "th", "th", "id", "xx", "th"]
    batch = pa.record_batch({"text": texts, "lang": langs, "perplexity": pa.nulls(8, pa.float32()), "last": range(8)})
    out = fill(batch)
    assert out.schema == batch.schema
    values = out["perplexity"].to_pylist()
    assert values[5:] == [None, None, None] and all(v > 1 for v in values[:5])
    assert pickle.loads(pickle.dumps(fill))(batch).equals(out)
    assert fill(batch.slice(2, 3))["perplexity"].to_pylist() == values[2:5]
    th = perplexity.load(str(folder / "th"))
    assert values[3] == pytest.approx(perplexity.perplexity(pa.array(texts[3:4]), th)[0])
    with pytest.raises(ValueError, match=r"no model in .*, neither of `pinisi train lm"):
        perplexity.PerplexityColumn(str(folder / "id"))


def test_same_documents_in_any_order_give_the_same_files(tmp_path):
    texts = documents("th", 60, 1)
    for name, order in (("a", texts), ("b", [*texts[::-1], texts[0], "  "])):
        settings = {"lang": "th", "vocab_size": 50, "estimator": "numpy"}
        training.train(order, str(tmp_path / name), **settings)
    for file in sorted(tmp_path.glob("a/*")):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "srilm"}, "no estimator 'srilm'"),
        ({"order": 1}, "order must be 2 to 6"),
        ({"texts": ["one", "two"] * 50}, "xx: 2 different documents are too few"),
    ],
)
def test_what_cannot_be_trained_is_said(settings, message, tmp_path):
    texts = settings.pop("texts", documents("id", 60, 1))
    with pytest.raises(ValueError, match=message):
        training.train(texts, str(tmp_path), lang="xx", **settings)


def test_lmplz_that_is_not_built_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PINISI_KENLM", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kenlm.tool("lmplz") is None
    with pytest.raises(ValueError, match=r"lmplz is not built; run cluster/kenlm.sh"):
        training.train(documents("id", 60, 1), str(tmp_path), lang="id", estimator="kenlm")
    (tmp_path / "lmplz").write_text("")
    monkeypatch.setenv("PINISI_KENLM", str(tmp_path))
    assert kenlm.tool("lmplz") == str(tmp_path / "lmplz")


def test_arpa_files_are_read(tmp_path):
    vocabulary = ["<unk>", "<s>", "</s>", "▁a", "b"]
    path = tmp_path / "m.arpa"
    path.write_text(
        "\\data\\\nngram 1=5\nngram 2=2\n\n\\1-grams:\n-2.5\t<unk>\t0\n0\t<s>\t-0.5\n-1\t</s>\t0\n-0.25\t▁a\t-0.125\n"
        "-0.75\tb\t0\n\n\\2-grams:\n-0.1\t<s> ▁a\n-0.2\t▁a </s>\n\n\\end\\\n",
        encoding="utf-8",
    )
    one, two = perplexity.read_arpa(str(path), vocabulary)
    assert one.words.tolist() == [[0], [1], [2], [3], [4]] and two.words.tolist() == [[1, 3], [3, 2]]
    assert one.prob.tolist() == [-2.5, 0, -1, -0.25, -0.75] and one.backoff.tolist() == [0, -0.5, 0, -0.125, 0]
    assert two.prob.tolist() == pytest.approx([-0.1, -0.2]) and two.backoff.tolist() == [0, 0]
    with pytest.raises(ValueError, match="no piece of the vocabulary"):
        perplexity.read_arpa(str(path), vocabulary[:4])


def test_odd_texts_are_scored(folder):
    model = perplexity.load(str(folder / "id"))
    texts = ["\0", "\n" * 99, "a" * 100_000, "🙂" * 3000, "\u0301" * 50, "x\n" * 5000, "<s> </s> <unk> ▁"]
    values = perplexity.perplexity(pa.array(texts), model)
    assert np.isnan(values[:2]).all() and np.isfinite(values[2:]).all() and (values[2:] > 1).all()


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="no language model here"):
        perplexity.load(str(tmp_path))
