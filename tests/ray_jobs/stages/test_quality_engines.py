"""Where the score of `quality` comes from: one classifier for all languages, an encoder, a number that is there."""

import json
import random

import numpy as np
import pyarrow as pa
import pytest
import tiny_encoder

from cluster import storage
from curation import quality
from ray_jobs import cli
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run import files, preflight
from ray_jobs.run.run import Run
from ray_jobs.stages import quality as stage

GOOD = ["sejarah", "bukti", "sebab", "akibat", "contoh", "pelajaran"]
REST = ["klik", "bonus", "promo", "slot", "diskon", "gratis"]
BOTH = ["dan", "yang", "di", "ke"]
PLACE = "type: jsonl, path: /nothing/*.jsonl, optional: true"
SOURCE = f"sources=[{{name: documents, {PLACE}}}, {{name: web, {PLACE}}}]"


def texts(words, n, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(words + BOTH, k=30)) for _ in range(n)]


def documents(langs=("id", "su", None)):
    some = [*texts(GOOD, 3, 7), *texts(REST, 3, 8)]
    langs = [langs[i % len(langs)] for i in range(6)]
    return pa.record_batch(
        {"doc_id": list("abcdef"), "lang": pa.array(langs, pa.string()), "text": some, "edu": [1.5, None] * 3}
    )


def scores(kernel, batch):
    kept, drops = kernel(batch)
    assert kept["doc_id"].equals(batch["doc_id"]) and not drops.num_rows
    return kept["quality"].to_pylist()


def test_one_classifier_for_all_languages(tmp_path):
    examples = {
        "id": (texts(GOOD, 60, 1), texts(REST, 60, 2), texts(GOOD, 20, 3)),
        "su": (texts(GOOD, 8, 4), texts(REST, 8, 5), []),  # too few for one of its own
        "jv": ([], texts(REST, 8, 6), []),
    }
    path = str(tmp_path / "all.bin")
    reports = stage._train_pooled((examples, path, {"per_side": 100, "min_examples": 50}))
    assert list(reports) == ["id", "su"] and reports["id"]["auc"] > 0.9
    assert (reports["su"]["positives"], reports["su"]["heldout_positives"]) == (7, 1)
    assert reports["id"]["native"] == 20 and reports["id"]["above_median"] > 0.9
    found = scores(stage._kernel(dict.fromkeys(reports, path)), documents(("id", "su", "jv")))
    assert found[2] is None and found[5] is None and min(found[:2]) > max(found[3:5])
    own = quality.train(*examples["id"][:2], "id", str(tmp_path / "id.bin"), native=examples["id"][2])
    same = ("positives", "heldout_positives", "negatives", "heldout_negatives", "native")
    assert [own[name] for name in same] == [reports["id"][name] for name in same]
    assert stage._train_pooled(({}, str(tmp_path / "none.bin"), {"per_side": 9})) == {}
    assert not storage.exists(str(tmp_path / "none.bin"))


def test_a_number_that_is_there():
    assert scores(stage._of_signal("edu"), documents()) == [1.5, None] * 3
    odd = documents().drop_columns(["edu"]).append_column("edu", pa.array([1.5, np.nan, np.inf, -np.inf, 1e300, None]))
    assert scores(stage._of_signal("edu"), odd) == [1.5, *[None] * 5]  # NaN would be every quantile of its language


def test_an_encoder_that_was_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_encoder.write(tmp_path, GOOD + REST + BOTH)
    rows = [("id", text, True) for text in texts(GOOD, 60, 1)] + [("id", text, False) for text in texts(REST, 60, 2)]
    lines = [json.dumps({"lang": lang, "text": text, "good": good}) for lang, text, good in rows]
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    words = ["train", "quality", "--encoder", "base", "--documents", "labels.jsonl", "--out", "made", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--by-language"])
    assert ended.value.code == 0 and "quality: {engine: encoder, model: made}" in capsys.readouterr().out
    found = scores(stage._of_encoder("made", "", "auto"), documents())
    assert [value is None for value in found] == [False, True, True] * 2  # one of Indonesian alone
    assert found[0] > 0.5 > found[3]
    found = scores(stage._of_encoder("three", "high", "auto"), documents())
    assert [value is None for value in found] == [False, False, True] * 2  # of others: all that have a language
    for change, said in [
        (["--encoder", "none"], "--encoder: none: cannot be read as an encoder"),
        (["--languages", "th"], "--documents: no document is in th"),
        (["--min-examples", "61", "--by-language"], "--documents: no language has 61 examples on both sides"),
    ]:
        with pytest.raises(SystemExit) as ended:
            cli.main([*words[:-4], "--out", "other", *change])
        assert ended.value.code == 2 and said in capsys.readouterr().err and not storage.exists("other")
    recipe = recipes.load("demo", [SOURCE, "train=null", "quality={engine: encoder, model: made}"])
    before = files.listing(recipe, "quality.model")
    np.save("made/heads.npy", np.zeros((1, 33)))
    assert files.listing(recipe, "quality.model") != before, "another classifier scores again"


def test_what_cannot_be_used_is_said_before(tmp_path):
    tiny_encoder.write(tmp_path, GOOD)

    def said(*changes):
        recipe = recipes.load("demo", [SOURCE, "train=null", *changes])
        return list(preflight._quality(recipe, [one for one in Run("x", recipe).stages if one.name == "quality"]))

    assert said(f"quality={{engine: encoder, model: {tmp_path}/one}}") == []
    assert "say which label" in said(f"quality={{engine: encoder, model: {tmp_path}/three}}")[0]
    assert (
        "is no sequence classifier; train one on it" in said(f"quality={{engine: encoder, model: {tmp_path}/base}}")[0]
    )
    assert said("quality={engine: signal, signal: word_order}") == []
    [sentence] = said("quality={engine: signal, signal: word_ordr}")
    assert sentence == "quality.signal: no document has the signal 'word_ordr' (did you mean 'word_order'?)"
    [sentence] = said("quality={engine: signal, signal: perplexity}")
    assert "no document has perplexity without filter.perplexity_models" in sentence
    assert said("quality={engine: signal, signal: perplexity}", f"filter.perplexity_models={tmp_path}") == []
    for changes, sentence in [
        (["quality={engine: encoder}"], "engine encoder needs `model`"),
        (["quality={engine: signal}"], "engine signal needs `signal`"),
        (["quality.engine=signal", "quality.signal=word_order", "quality.pooled=true"], "quality.pooled"),
        (["quality.model=x"], "nothing reads it without `quality.engine: encoder`"),
    ]:
        with pytest.raises(UserError, match=sentence):
            said(*changes)


def test_keys_that_came_later_do_not_count_where_nobody_sets_them():
    plain, pooled = (
        recipes.load("demo", [SOURCE, "train=null", *changes]) for changes in ([], ["quality.pooled=true"])
    )
    assert {"engine", "pooled", "model"} & recipes.fingerprinted(plain, "quality").keys() == set()
    assert recipes.fingerprinted(pooled, "quality")["pooled"] is True
    assert Run("x", plain).asked["quality"] != Run("x", pooled).asked["quality"]
