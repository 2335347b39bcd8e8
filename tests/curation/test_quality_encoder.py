"""An encoder as quality classifier: the head, windows, batches, one for all languages or one for each, classifiers of others."""

import json
import random

import numpy as np
import pytest
import tiny_encoder
import torch

from curation import encoder, quality

GOOD = ["sejarah", "bukti", "sebab", "akibat", "contoh", "pelajaran"]
REST = ["klik", "bonus", "promo", "slot", "diskon", "gratis"]
BOTH = ["dan", "yang", "di", "ke"]
CPU = torch.device("cpu")


def texts(words, n, seed, length=20):
    rng = random.Random(seed)
    return [" ".join(rng.choices(words + BOTH, k=rng.randint(3, length))) for _ in range(n)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_encoder.write(tmp_path_factory.mktemp("encoder"), GOOD + REST + BOTH)


def opened(place, **reading):
    return encoder.Encoder(str(place), encoder.Reading(**reading), CPU, torch.float32)


def test_long_texts_are_read_in_windows_and_batches_do_not_show(folder, monkeypatch):
    model = opened(folder / "base", windows=3)
    assert model.reading.max_tokens == 16  # what the model has room for
    long = " ".join(GOOD * 30)
    owners, windows = model._windows(["", long, "bukti"])
    assert owners == [1, 1, 1, 2] and [len(w) for w in windows] == [16, 16, 14, 3]  # 180 words: the last has 12
    ids = [model.tokenizer(long)["input_ids"][1:-1][14 * i : 14 * i + 14] for i in (0, 6, 12)]
    assert [window[1:-1] for window in windows[:3]] == ids
    some = [*texts(GOOD + REST, 30, 1, 40), "", long]
    whole = model(some)
    monkeypatch.setitem(encoder.BATCH_TOKENS, "cpu", 20)
    assert np.abs(model(some) - whole).max() < 1e-5
    assert not whole[-2].any()
    [ids] = model._windows([some[0]])[1][:1]
    if len(ids) < 16:
        with torch.inference_mode():
            by_hand = model.model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
        assert np.abs(whole[0] - by_hand).max() < 1e-5


def test_the_head_is_the_least_of_its_loss():
    rng = np.random.default_rng(1)
    good, rest = (rng.normal(size=(n, 8)) + shift for n, shift in ((40, 0.3), (30, 0)))
    good, rest = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (good, rest))
    head = encoder.regression(good, rest)

    def loss(head):
        w, z = head[:-1] / np.sqrt(8), [x @ head[:-1] + head[-1] for x in (good, rest)]
        return np.logaddexp(0, -z[0]).sum() + np.logaddexp(0, z[1]).sum() + w @ w / 2

    assert all(loss(head) < loss(head + 0.01 * step) for step in rng.normal(size=(200, 9)))
    apart = encoder.regression(np.ones((3, 4)) / 2, -np.ones((3, 4)) / 2)  # what a line divides has a head too
    assert np.isfinite(apart).all() and apart[:-1].sum() > 0


def test_one_for_all_languages_or_one_for_each(folder, tmp_path):
    examples = {lang: (texts(GOOD, n, 1), texts(REST, n, 2)) for lang, n in (("id", 80), ("ms", 40), ("su", 5))}
    reports = {}
    for pooled in (True, False):
        out = tmp_path / str(pooled)
        out.mkdir()
        about = encoder.train(
            examples, str(folder / "base"), str(out), encoder.Reading(), CPU, torch.float32, pooled=pooled, per_side=60
        )
        reports[pooled] = about["languages"]
        model = encoder.open_model(str(out), "", CPU, torch.float32)
        assert about == json.loads((out / "quality.json").read_text())
        scores = [model.score(texts(words, 30, 9), "id") for words in (GOOD, REST)]
        assert quality.auc(*scores) > 0.9 and scores[0].dtype == np.float32
        assert [model.scores_languages(lang) for lang in ("id", "su", "xx")] == [True, pooled, pooled]
        again = encoder.open_model(str(out), "", CPU, torch.float32).score(texts(GOOD, 30, 9)[:7], "id")
        assert np.abs(again - scores[0][:7]).max() <= 1.01e-5  # whatever else is in the batch
    assert list(reports[True]) == ["id", "ms", "su"] and list(reports[False]) == ["id", "ms"]
    held = ("positives", "negatives", "heldout_positives", "heldout_negatives")
    for lang in ("id", "ms"):  # the same are held out, so that both may be compared
        assert [reports[True][lang][name] for name in held] == [reports[False][lang][name] for name in held]
    with pytest.raises(ValueError, match="is a classifier of ours, which has none"):
        encoder.open_model(str(tmp_path / "True"), "good", CPU, torch.float32)
    with pytest.raises(ValueError, match="no language has 20 examples on both sides"):
        encoder.train({"su": examples["su"]}, "x", "y", encoder.Reading(), CPU, torch.float32, pooled=False)


def test_classifiers_of_others(folder):
    some = texts(GOOD, 6, 3)
    one = encoder.open_model(str(folder / "one"), "", CPU, torch.float32)
    assert np.abs(one.score(some, "id") - one.encoder(some)[:, 0]).max() < 1e-5
    assert one.scores_languages("any")
    three = encoder.open_model(str(folder / "three"), "high", CPU, torch.float32)
    logits = torch.from_numpy(three.encoder(some))
    assert np.abs(three.score(some, "id") - logits.softmax(1)[:, 2].numpy()).max() < 1e-5
    for name, label, said in [
        ("three", "", r"quality\.label: say which label of .* is good: low, middle, high"),
        ("three", "top", r"quality\.label: .* has no label 'top': it has low, middle, high"),
        ("base", "", r"quality\.model: .* is no sequence classifier; train one on it: pinisi train quality --encoder"),
        ("none", "", r"quality\.model: .* is no model"),
    ]:
        with pytest.raises(ValueError, match=said):
            encoder.check(str(folder / name), label)


def test_the_first_token_where_the_model_says_so(folder, tmp_path):
    place = tmp_path / "cls"
    for file in (folder / "base").iterdir():
        place.mkdir(exist_ok=True)
        (place / file.name).write_bytes(file.read_bytes())
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    model = opened(place)
    [ids] = model._windows(["bukti sebab"])[1]
    with torch.inference_mode():
        first = model.model(torch.tensor([ids])).last_hidden_state[0, 0].numpy()
    assert np.abs(model(["bukti sebab"])[0] - first).max() < 1e-6
    out = tmp_path / "out"
    out.mkdir()
    sides = {"id": (texts(GOOD, 30, 1), texts(REST, 30, 2))}
    encoder.train(sides, str(place), str(out), encoder.Reading(), CPU, torch.float32)
    assert encoder.open_model(str(out), "", CPU, torch.float32).encoder.first_token
