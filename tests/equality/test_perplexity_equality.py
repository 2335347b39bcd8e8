"""Pieces against SentencePiece, estimates against lmplz, scores against KenLM, on the same models."""

import random

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece

from cluster import kenlm as tools
from curation.lm import perplexity, training
from curation.lm.kneser_ney import estimate, without_unknown
from curation.lm.pieces import encode, normal_lines, pieces_of

SCRIPTS = {
    "latin": [
        "perahu",
        "itu",
        "berlayar",
        "ke",
        "pelabuhan",
        "membawa",
        "beras",
        "ikan",
        "dari",
        "pulau",
        "être",
        "naïve",
        "2024",
        "—",
    ],
    "thai": ["เรือ", "ลำนี้", "แล่น", "ไป", "ท่าเรือ", "พร้อม", "ข้าว", "ปลา", "และ", "เกลือ", "๒๕๖๗", "ๆ"],
    "khmer": ["ទូក", "ទៅ", "កំពង់ផែ", "\u200b", "ត្រី", "អង្ករ", "។"],
    "burmese": ["လှေ", "သည်", "ဆိပ်ကမ်း", "ငါး", "ဆန်", "၂၀၂၄", "။"],
    "han": list("小船载着大米和鱼从海岛驶向港口，天亮才到。"),
}


def corpus(script, n, seed):
    rng = random.Random(seed)
    joint = " " if script == "latin" else ""
    return [
        "\n".join(joint.join(rng.choices(SCRIPTS[script], k=rng.randint(1, 15))) for _ in range(3)) for _ in range(n)
    ]


@pytest.fixture(scope="module", params=SCRIPTS)
def trained(request, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("lm"))
    settings = {"lang": "xx", "vocab_size": 90, "order": 4, "estimator": "numpy"}
    training.train(corpus(request.param, 200, 1), folder, **settings)
    strange = "�🙂 龘x\u0e31\u0301 ﷽ ▁▁ é1 \u200b\u00ad"
    texts = corpus(request.param, 60, 2) + ["".join(random.Random(i).choices(strange, k=30)) for i in range(60)]
    texts += ["".join(random.Random(i).choices("".join(corpus(request.param, 9, 3)), k=200)) for i in range(60)]
    return folder, texts


def test_pieces_are_sentencepieces(trained):
    folder, texts = trained
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/sentencepiece.model")
    names = [processor.id_to_piece(i) for i in range(len(processor))]
    pieces = pieces_of(names, [processor.get_score(i) for i in range(len(processor))])
    for text in texts:
        expected = [i for line in normal_lines(pa.array([text])) for i in processor.encode(line)]
        assert encode(pa.array([text]), pieces)[0].tolist() == expected, repr(text)


def test_estimates_are_those_of_lmplz(trained, tmp_path):
    lmplz = tools.tool("lmplz")
    if lmplz is None:
        pytest.skip(f"lmplz is not built: {tools.SCRIPT}")
    folder, texts = trained
    names = perplexity.pq.read_table(f"{folder}/pieces.parquet")["piece"].to_pylist()
    scores = perplexity.pq.read_table(f"{folder}/pieces.parquet")["score"].to_pylist()
    words, ends = without_unknown(*encode(pa.array(texts), pieces_of(names, scores)))
    ours = estimate(words, ends, 5)
    theirs = training._lmplz(words, ends, names, 5, str(tmp_path))
    for mine, other in zip(ours, theirs, strict=True):
        a, b = np.lexsort(mine.words.T), np.lexsort(other.words.T)
        assert np.array_equal(mine.words[a], other.words[b])
        own = mine.prob[a] != 0  # <s> has probability 1 here and 0 there; neither is ever asked for
        assert np.allclose(mine.prob[a][own], other.prob[b][own], atol=5e-5)
        assert np.allclose(mine.backoff[a], other.backoff[b], atol=5e-5)


def test_scores_are_those_of_kenlm(trained, tmp_path):
    kenlm = pytest.importorskip("kenlm")
    folder, texts = trained
    table = perplexity.pq.read_table(f"{folder}/pieces.parquet")
    names = table["piece"].to_pylist()
    words, ends = without_unknown(
        *encode(pa.array(corpus("latin", 50, 1) + texts[:60]), pieces_of(names, table["score"].to_pylist()))
    )
    grams = estimate(words, ends, 4)
    perplexity.save(str(tmp_path / "m"), names, table["score"].to_pylist(), grams, {})
    model = perplexity.load(str(tmp_path / "m"))
    reference = kenlm.Model(write_arpa(str(tmp_path / "m.arpa"), names, grams))
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/sentencepiece.model")
    found = perplexity.perplexity(pa.array(texts), model)
    compared = 0
    for text, value in zip(texts, found, strict=True):
        total = count = 0
        for line in normal_lines(pa.array([text])):
            pieces = ["<unk>" if i == 0 else processor.id_to_piece(i) for i in processor.encode(line)]
            total += reference.score(" ".join(pieces))
            count += len(pieces) + 1
        if count:
            assert value == pytest.approx(10 ** (-total / count), rel=1e-4), repr(text)
            compared += 1
    assert compared > 100


def write_arpa(path, names, grams):
    with open(path, "w", encoding="utf-8") as file:
        file.write("\\data\\\n" + "".join(f"ngram {n}={len(one.prob)}\n" for n, one in enumerate(grams, 1)) + "\n")
        for n, one in enumerate(grams, 1):
            file.write(f"\\{n}-grams:\n")
            for words, prob, backoff in zip(one.words.tolist(), one.prob, one.backoff, strict=True):
                last = f"\t{backoff:.9g}" if n < len(grams) else ""
                file.write(f"{prob:.9g}\t{' '.join(names[w] for w in words)}{last}\n")
            file.write("\n")
        file.write("\\end\\\n")
    return path


def test_lmplz_and_numpy_give_one_model(tmp_path):
    if tools.tool("lmplz") is None:
        pytest.skip(f"lmplz is not built: {tools.SCRIPT}")
    texts = corpus("thai", 150, 1)
    for estimator in ("kenlm", "numpy"):
        settings = {"lang": "th", "vocab_size": 80, "estimator": estimator}
        about = training.train(texts, str(tmp_path / estimator), **settings)
        assert about["estimator"] == estimator
    models = [perplexity.load(str(tmp_path / estimator)) for estimator in ("kenlm", "numpy")]
    new = pa.array(corpus("thai", 80, 2))
    a, b = (perplexity.perplexity(new, model) for model in models)
    assert np.allclose(a, b, rtol=1e-4)
    if tools.tool("build_binary"):
        assert (tmp_path / "kenlm" / "kenlm.binary").stat().st_size > 1000
