import pickle

import numpy as np
import pyarrow as pa
import pytest

from curation.lm.kneser_ney import estimate
from curation.lm.perplexity import save
from curation.policy.signal_schema import SIGNALS
from curation.signals.measure import Measure

TEXT = "Hubungi kami di info@perusahaan.com atau lewat telepon 0812-3456-7890 sekarang juga."


def batch(**columns):
    return pa.record_batch({"doc_id": ["a", "b"], "url": ["u", "v"], "lang": ["id", "th"], **columns})


@pytest.fixture
def models(tmp_path):
    vocabulary = ["<unk>", "<s>", "</s>", "▁", "<", ">", *"abcdefghijklmnopqrstuvwxyzH-.0"]
    grams = estimate(np.array([3, 6, 7], np.int32), np.array([3]), 2)
    save(str(tmp_path / "id"), vocabulary, [0.0, 0, 0, *[-1.0] * (len(vocabulary) - 3)], grams, {})
    return str(tmp_path)


def test_masks_then_edits_then_measures(models):
    kernel = pickle.loads(pickle.dumps(Measure(["id", "th"], masked=("email", "phone"), perplexity_models=models)))
    texts = batch(text=[TEXT, "โทร 081-234-5678 ครับ"])
    out, ledger = kernel(texts)
    assert ledger.num_rows == 0
    assert out["text"].to_pylist() == [
        "Hubungi kami di <email> atau lewat telepon <phone> sekarang juga.",
        "โทร <phone> ครับ",
    ]
    assert out.schema.names == ["doc_id", "url", "lang", "text", "pii", *SIGNALS]
    assert [row["email"] + row["phone"] for row in out["pii"].to_pylist()] == [2, 1]
    assert out["n_chars"].to_pylist() == [len(text) for text in out["text"].to_pylist()]
    perplexity = out["perplexity"].to_pylist()
    assert perplexity[0] > 1 and perplexity[1] is None


def test_without_masks_and_models_it_is_the_signals_alone():
    out, _ = Measure(["id", "th"])(batch(text=[TEXT, None]))
    assert out.schema.names == ["doc_id", "url", "lang", "text", *SIGNALS]
    assert "<" not in out["text"][0].as_py() and "0812" in out["text"][0].as_py()
    assert out["perplexity"].null_count == 2


def test_only_kinds_that_exist(tmp_path):
    with pytest.raises(ValueError, match="no kind 'mail'"):
        Measure(["id"], masked=["mail"])
    with pytest.raises(ValueError, match="no model in"):
        Measure(["id"], perplexity_models=str(tmp_path))
