"""Selection by reward and perplexity, by hand."""

import numpy as np
import pytest
import torch

from train import select
from train.chat import encode
from train.logprobs import perplexity


def test_percentiles_share_the_rank_of_equal_values():
    assert select.percentiles(np.array([3.0, 1.0, 3.0, 2.0, 9.0])).tolist() == [0.625, 0.0, 0.625, 0.25, 1.0]
    assert select.percentiles(np.array([4.0])).tolist() == [1.0]
    assert select.percentiles(np.array([2.0, 2.0])).tolist() == [0.5, 0.5]


def test_scores_are_half_the_harmonic_mean():
    assert select.scores(np.array([1.0, 0.5, 0.0, 0.0]), np.array([1.0, 0.25, 1.0, 0.0])).tolist() == [
        0.5,
        pytest.approx(1 / 6),
        0.0,
        0.0,
    ]


def decide(embeddings, quota=9, rewards=(4.0, 3.0, 2.0, 1.0), **more):
    n = len(embeddings)
    return select.select(
        [f"id{i}" for i in range(n)], ["th"] * n, ["qa"] * n, np.array(rewards[:n]), np.array(rewards[:n]),
        np.array(embeddings, np.float32), {("th", "qa"): quota}, **more,
    )  # fmt: skip


def test_every_decision_says_why():
    taken, similar, other, over = decide([[1, 0], [9, 1], [0, 2], [1, -1]], quota=2)
    assert (taken.rule, taken.rank, taken.cosine, taken.nearest) == ("taken", 1, None, None)
    assert (taken.score, taken.reward_percentile, taken.perplexity_percentile) == (0.5, 1.0, 1.0)
    assert (similar.rule, similar.rank, similar.nearest) == ("too_similar", 2, "id0")
    assert similar.cosine == pytest.approx(9 / np.sqrt(82))
    assert (other.rule, other.nearest, other.cosine) == ("taken", "id0", 0.0)
    assert (over.rule, over.rank, over.nearest, over.cosine) == ("quota", 4, None, None)


def test_a_cosine_at_the_limit_is_allowed():
    rules = [d.rule for d in decide([[1, 0], [0.5, np.sqrt(0.75)]], max_cosine=0.5000001)]
    assert rules == ["taken", "taken"]
    assert [d.rule for d in decide([[1, 0], [0.5, np.sqrt(0.75)]], max_cosine=0.4999)] == ["taken", "too_similar"]


def test_a_row_of_zeros_is_similar_to_nothing():
    assert [d.rule for d in decide([[0, 0], [0, 0], [1, 0]])] == ["taken", "taken", "taken"]


def test_cells_are_apart_and_rows_may_come_in_any_order():
    rng = np.random.default_rng(0)
    n = 60
    ids = [f"{i:02}" for i in range(n)]
    langs, categories = rng.choice(["th", "lo"], n).tolist(), rng.choice(["qa", "chat"], n).tolist()
    rewards, perplexities = rng.integers(0, 5, n).astype(float), rng.integers(1, 5, n).astype(float)
    embeddings = rng.normal(size=(n, 3)).astype(np.float32)
    quotas = {("th", "qa"): 3, ("lo", "chat"): 2, ("th", "chat"): 100}
    decisions = select.select(ids, langs, categories, rewards, perplexities, embeddings, quotas)
    assert [d.id for d in decisions] == ids
    taken = [(d.lang, d.category) for d in decisions if d.rule == "taken"]
    assert taken.count(("th", "qa")) == 3
    assert taken.count(("lo", "chat")) == 2
    assert taken.count(("lo", "qa")) == 0
    assert 1 < taken.count(("th", "chat")) < 15  # in 3 dimensions no more fit below a cosine of 0.6

    order = rng.permutation(n)
    shuffled = select.select(
        [ids[i] for i in order], [langs[i] for i in order], [categories[i] for i in order],
        rewards[order], perplexities[order], embeddings[order], quotas,
    )  # fmt: skip
    assert sorted(shuffled, key=lambda d: d.id) == decisions


def test_bad_values_are_clear_errors():
    with pytest.raises(ValueError, match="not a finite number"):
        decide([[1, 0]], rewards=[float("nan")])
    with pytest.raises(ValueError, match="same id"):
        select.select(["a", "a"], ["th"] * 2, ["qa"] * 2, np.ones(2), np.ones(2), np.ones((2, 2), np.float32), {})


def test_quotas_sum_to_the_languages_number():
    cells = [("th", "qa"), ("th", "chat"), ("th", "code"), ("lo", "qa"), ("th", "qa"), ("km", "other")]
    quotas = select.cell_quotas(cells, {"th": 10, "lo": 7}, {"qa": 25, "chat": 35, "code": 5})
    assert quotas == {("th", "chat"): 5, ("th", "qa"): 4, ("th", "code"): 1, ("lo", "qa"): 7}


def rows(texts):
    return [
        {
            "id": str(i),
            "lang": lang,
            "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}],
        }
        for i, (lang, text) in enumerate(texts)
    ]


def test_embeddings_are_centred_means_of_hidden_states(chatml_tokenizer, tiny_model):
    texts = [("id", "ikan"), ("id", "perahu layar itu"), ("th", "ข้าว"), ("th", "ปลา"), ("id", "nasi"), ("lo", "ເຮືອ")]
    examples = encode(chatml_tokenizer, rows(texts))
    net = tiny_model()
    embeddings = select.embed(net, examples, tokens_per_batch=150)
    with torch.no_grad():
        raw = np.stack(
            [net.model(input_ids=torch.tensor(e.ids[:-1])[None]).last_hidden_state.mean(1)[0].numpy() for e in examples]
        )
    langs = np.array([lang for lang, _ in texts])
    for lang in ("id", "th", "lo"):
        expected = raw[langs == lang] - raw[langs == lang].mean(0)
        assert np.allclose(embeddings[langs == lang], expected, atol=1e-5)


def test_perplexity_is_of_the_answers_content_alone(chatml_tokenizer, tiny_model):
    texts = [("id", "ikan besar"), ("th", "ข้าวและปลา"), ("id", "a")]
    examples = encode(chatml_tokenizer, rows(texts), score="content")
    net = tiny_model()
    found = perplexity(net, examples, tokens_per_batch=64)
    for e, (_, text), value in zip(examples, texts, found, strict=True):
        assert chatml_tokenizer.decode(e.ids[e.scored]) == text
        with torch.no_grad():
            logp = net(input_ids=torch.tensor(e.ids)[None]).logits[0].double().log_softmax(-1)
        positions = np.flatnonzero(e.scored)
        mean = np.mean([float(logp[t - 1, e.ids[t]]) for t in positions])
        assert value == pytest.approx(np.exp(-mean), rel=1e-4)
