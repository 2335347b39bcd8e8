"""KenLM models of others, beside an evaluation of the same ARPA file that is written here from its definition."""

import io
import json
import pickle
import random
import subprocess
import sys
import types

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece

from cluster import kenlm as tools
from curation.lm import kenlm_files, perplexity, training
from curation.lm.kneser_ney import estimate
from curation.lm.pieces import encode, normal_lines, pieces_of
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run.run import Run

WORDS = ["perahu", "itu", "berlayar", "ke", "pelabuhan", "membawa", "beras", "ikan", "dan", "garam", "dari", "pulau"]
WORDS += ["seberang", "sejak", "pagi", "Ibu", "12", "café"]


def documents(n, number):
    rng = random.Random(number)
    return [
        "\n".join(" ".join(rng.choices(WORDS, k=rng.randint(1, 14))) for _ in range(rng.randint(1, 5)))
        for _ in range(n)
    ]


class Arpa:
    """p(w | h) of an ARPA file by its definition: the longest n-gram that is there, times the weights of backing off to it."""

    def __init__(self, path, config=None):
        self.grams, self.order = {}, 0
        with open(path, encoding="utf-8") as file:
            for line in file.read().split("\n"):
                if line.startswith("\\") and line.endswith("-grams:"):
                    self.order = int(line[1:-7])
                elif "\t" in line:
                    prob, words, *backoff = line.split("\t")
                    self.grams[tuple(words.split(" "))] = (float(prob), float(backoff[0]) if backoff else 0.0)

    def log10(self, word, history):
        if (*history, word) in self.grams:
            return self.grams[*history, word][0]
        if not history:
            return self.grams["<unk>",][0]
        return self.grams.get(history, (0.0, 0.0))[1] + self.log10(word, history[1:])

    def score(self, sentence):
        words = ["<s>", *(word if (word,) in self.grams else "<unk>" for word in sentence.split()), "</s>"]
        return sum(self.log10(words[i], tuple(words[max(0, i - self.order + 1) : i])) for i in range(1, len(words)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """xx.arpa, zz.arpa and their pieces; SentencePiece normalises and knows only some of the letters."""
    out = tmp_path_factory.mktemp("models")
    lines = normal_lines(pa.array(documents(200, 1)))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=70, hard_vocab_limit=False, minloglevel=2,
        num_threads=1, character_coverage=0.98,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    names = [processor.id_to_piece(i) for i in range(len(processor))]
    pieces = pieces_of(names, [processor.get_score(i) for i in range(len(processor))])
    words, ends = training.without_unknown(*encode(pa.array(documents(200, 1)), pieces))
    grams = estimate(words, ends, 3)
    parts = ["\\data\\\n" + "".join(f"ngram {n}={len(one.prob)}\n" for n, one in enumerate(grams, 1))]
    for n, one in enumerate(grams, 1):
        parts.append(f"\n\\{n}-grams:\n")
        for ids, prob, backoff in zip(one.words.tolist(), one.prob, one.backoff, strict=True):
            last = f"\t{backoff:.7g}" if n < 3 else ""
            parts.append(f"{min(prob, 0):.7g}\t{' '.join(names[i] for i in ids)}{last}\n")
    text = "".join(parts) + "\n\\end\\\n"
    (out / "xx.arpa").write_text(text, encoding="utf-8")
    (out / "zz.arpa").write_text(text, encoding="utf-8")
    for lang in ("xx", "zz"):
        (out / f"{lang}.sp.model").write_bytes(model.getvalue())
    return out


QUIET = {"Config": types.SimpleNamespace, "ARPALoadComplain": types.SimpleNamespace(NONE=0)}


@pytest.fixture
def module(monkeypatch):
    """A module `kenlm` that evaluates as `Arpa` does, for machines that have not the real one."""
    monkeypatch.setitem(sys.modules, "kenlm", types.SimpleNamespace(Model=Arpa, **QUIET))


def expected(folder, text):
    model = Arpa(str(folder / "xx.arpa"))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "xx.sp.model"))
    total = count = 0
    for line in text.split("\n"):
        pieces = processor.encode(" ".join(line.replace("1", "0").replace("2", "0").split()), out_type=str)
        if pieces:
            total += model.score(" ".join(pieces))
            count += len(pieces) + 1
    return 10 ** (-total / count) if count else None


TEXTS = [*documents(40, 2), "Ibu!\n\n  ikan   dan \n", "xyz 日本 Ω", "", " \n", "a" * 300, "dan"]


def column(fill, texts, langs):
    batch = pa.record_batch(
        {"text": pa.array(texts, pa.string()), "lang": langs, "perplexity": pa.nulls(len(texts), pa.float32())}
    )
    return fill(batch)["perplexity"].to_pylist()


def equal(found, wanted):
    assert [one is None for one in found] == [one is None for one in wanted]
    np.testing.assert_allclose([f for f in found if f], [w for w in wanted if w], rtol=2e-4)


def test_the_column_by_an_evaluation_of_the_definition(folder, module):
    fill = pickle.loads(pickle.dumps(perplexity.PerplexityColumn(str(folder))))
    assert fill.languages == ["xx", "zz"]
    wanted = [expected(folder, text) for text in TEXTS]
    equal(column(fill, TEXTS, ["xx"] * len(TEXTS)), wanted)
    found = column(fill, [*TEXTS, None, "dan"], ["zz"] * (len(TEXTS) + 1) + ["yy"])
    equal(found, [*wanted, None, None])
    assert perplexity.PerplexityColumn(f"{folder}/").kenlm.keys() == {"xx", "zz"}


def test_the_numbers_are_kenlms(folder, tmp_path):
    pytest.importorskip("kenlm", reason="kenlm is not installed: pip install ufal-kenlm (the extra pinisi[lm])")
    for name in ("xx.arpa", "xx.sp.model"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    if build := tools.tool("build_binary"):
        subprocess.run([build, str(folder / "zz.arpa"), str(tmp_path / "zz.arpa.bin")], check=True, capture_output=True)
        (tmp_path / "zz.sp.model").write_bytes((folder / "xx.sp.model").read_bytes())
    models = kenlm_files.found(str(tmp_path))
    kenlm_files.check(models)
    for lang in models:
        found = column(perplexity.PerplexityColumn(str(tmp_path)), TEXTS, [lang] * len(TEXTS))
        equal(found, [expected(folder, text) for text in TEXTS])
    (tmp_path / "xx.arpa").write_bytes((folder / "xx.arpa").read_bytes()[:900])
    with pytest.raises(ValueError, match=r"KenLM cannot read .*xx\.arpa"):
        column(perplexity.PerplexityColumn(str(tmp_path)), ["dan"], ["xx"])


def test_ours_and_theirs_in_one_folder(folder, module, tmp_path):
    for name in ("xx.arpa", "xx.sp.model"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    training.train(documents(40, 3), str(tmp_path / "id"), lang="id", vocab_size=60, order=3, estimator="numpy")
    fill = perplexity.PerplexityColumn(str(tmp_path))
    assert fill.languages == ["id", "xx"]
    ours, theirs = column(fill, ["ikan dan beras"] * 2, ["id", "xx"])
    assert ours > 1 and theirs == pytest.approx(expected(folder, "ikan dan beras"), rel=1e-4)
    (tmp_path / "id.arpa").write_bytes((folder / "xx.arpa").read_bytes())
    (tmp_path / "id.sp.model").write_bytes((folder / "xx.sp.model").read_bytes())
    with pytest.raises(ValueError, match="has two models of id, id/ and KenLM's; keep one"):
        perplexity.PerplexityColumn(str(tmp_path))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["xx.arpa"], r"xx\.arpa has no xx\.sp\.model beside it"),
        (["xx.arpa", "xx.arpa.bin", "xx.sp.model"], r"two models of xx: xx\.arpa and xx\.arpa\.bin"),
        (["xx.arpa.gz", "xx.sp.model"], r"xx\.arpa\.gz is packed, .*: gunzip it"),
        (["xx.sp.model"], r"no model in .* nor <language>\.arpa\.bin with <language>\.sp\.model"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_read(folder, module, tmp_path, names, words):
    models = tmp_path / "models"
    models.mkdir()
    for name in names:
        (models / name).write_bytes((folder / ("xx.sp.model" if "sp" in name else "xx.arpa")).read_bytes())
    refused(tmp_path, models, words)


def test_the_module_is_missing(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kenlm", None)
    refused(tmp_path, folder, r"xx\.arpa is read by the module kenlm, which is not installed: pip install ufal-kenlm")


def test_files_that_are_something_else(folder, module, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    (models / "xx.arpa.bin").write_bytes(b"something else" * 9)
    (models / "xx.sp.model").write_bytes((folder / "xx.sp.model").read_bytes())
    refused(tmp_path, models, r"xx\.arpa\.bin is neither a binary of KenLM nor an ARPA file")
    (models / "xx.arpa.bin").write_bytes((folder / "xx.arpa").read_bytes())
    (models / "xx.sp.model").write_bytes(b"no pieces")
    with pytest.raises(ValueError, match=r"xx\.sp\.model is no SentencePiece model"):
        column(perplexity.PerplexityColumn(str(models)), ["dan"], ["xx"])


def refused(tmp_path, models, words):
    (tmp_path / "one.jsonl").write_text(json.dumps({"id": "1", "text": "satu"}))
    changes = [f"sources=[{{name: s, type: jsonl, path: {tmp_path}/one.jsonl}}]", "quality={}", "train=null"]
    run = Run(str(tmp_path / "run"), recipes.load("demo", [*changes, f"filter.perplexity_models={models}"]))
    with pytest.raises(UserError, match=words):
        run.execute(say=lambda line: None, until="filter")
    assert not (tmp_path / "run" / "crawl").exists()


def test_text_is_given_as_the_pieces_are_written(module, monkeypatch):
    class Pieces(list):
        id_to_piece = list.__getitem__

    def model(names):
        monkeypatch.setattr(sentencepiece, "SentencePieceProcessor", lambda model_file: Pieces(names))
        monkeypatch.setitem(sys.modules, "kenlm", types.SimpleNamespace(Model=lambda *_: None, **QUIET))
        return kenlm_files.KenLM("x", "x")

    many = ["<unk>", "<S>", *(f"▁{chr(97 + i % 26)}{i}" for i in range(1200))]
    for names, small, bare in (
        (many, True, True),
        ([*many, "Á"], False, False),
        ([*many, "á"], True, False),
        ([*many, "A"], False, True),
        ([*many, "ก\u0e34"], True, False),
        (many[:20], False, False),
    ):
        found = model(names)
        assert (found.small, found.bare) == (small, bare), names[-1]
    assert kenlm_files._bare("Cà phê sữa đá") == "Ca phe sua đa"
