"""A draft learns from what it would see when it drafts; the target stays as it is, bit for bit."""

import numpy as np
import pytest
import torch
from shapes import SMALL
from test_speculative import FAMILIES, family, noisy

from cluster import storage
from train import model
from train.batches.examples import Example
from train.batches.labels import IGNORE
from train.checkpoint import checkpoint
from train.drafts import glide, learn, speculative, vocabulary
from train.loop import LoopConfig, fit

torch.set_num_threads(1)  # tiny tensors: a second thread only waits


def examples(seed: int, count: int = 6, langs: str = "ab") -> list[Example]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        prompt, answer = int(rng.integers(1, 6)), int(rng.integers(1, 12))
        ids = rng.integers(3, 160, prompt + answer)
        found.append(Example(str(i), langs[i % len(langs)], ids, np.arange(prompt + answer) >= prompt))
    return found


def naive_loss(draft, batch, gamma, kind):
    """Position by position, each text alone, with a full softmax."""
    target, total, count, agreed = draft.target, 0.0, 0, 0
    for b in range(len(batch["doc_ids"])):
        for doc in batch["doc_ids"][b].unique():
            at = (batch["doc_ids"][b] == doc).nonzero()[:, 0]
            ids, labels = batch["input_ids"][b, at], batch["labels"][b, at]
            one = {"input_ids": ids[None], "position_ids": torch.arange(len(ids))[None]}
            hidden, keys = learn.read(target, one | {"doc_ids": torch.zeros(1, len(ids), dtype=torch.int64)})
            for t in range(len(ids)):
                if labels[t] == IGNORE:
                    continue
                begin = t - (t + int(batch["offset"][b])) % gamma
                seen_keys = torch.zeros(1, 1, t + 1, len(ids), dtype=torch.bool)
                seen_keys[..., : max(begin, 0)] = True
                causal = torch.ones(t + 1, t + 1).tril().bool()[None, None]
                out = draft(ids[None, : t + 1], torch.arange(t + 1)[None], causal, keys, seen_keys)[0, -1]
                logq = (draft.head @ out).log_softmax(-1)
                p = (draft.head @ hidden[0, t]).softmax(-1)
                kl = (p * (p.log() - logq)).sum()
                alpha = torch.minimum(p, logq.exp()).sum()
                weight = torch.exp(-3 * alpha)
                total += {"ce": -logq[labels[t]], "kl": kl, "lk": weight * kl + (1 - weight) * (1 - alpha)}[kind]
                count, agreed = count + 1, agreed + int(logq.argmax() == labels[t])
    return total, count, agreed


@pytest.mark.parametrize("kind", learn.LOSSES)
@pytest.mark.parametrize("gamma", [1, 3, 4, 8])
@pytest.mark.parametrize("cut", [False, True])
def test_the_loss_is_that_of_each_position_alone(kind, gamma, cut):
    net = family([*FAMILIES][gamma % 4], gamma)
    words = torch.arange(5, 120) if cut else None
    draft = noisy(net, gamma, words, final_norm=not cut)
    numbers = vocabulary.numbers(words.numpy(), 160) if cut else None
    rows, n = learn.batch_fn(examples(gamma), 40, 0, gamma, numbers)
    batch = rows([*range(n)])
    found = learn.loss_fn(gamma, kind)(draft, batch)
    total, count, agreed = naive_loss(draft, batch, gamma, kind)
    assert int(found.count) == int(batch["count"]) == count and count
    assert float(found.loss_sum.detach()) == pytest.approx(float(total.detach()), rel=1e-9 if kind != "ce" else 1e-6)
    assert int(found.metrics["agreed"]) == agreed


def test_tokens_that_the_draft_lacks_are_not_counted():
    words = np.arange(5, 120)
    whole, _ = learn.batch_fn(examples(1), 64, 0, 4)
    cut, _ = learn.batch_fn(examples(1), 64, 0, 4, vocabulary.numbers(words, 160))
    before, after = whole([0])["labels"], cut([0])["labels"]
    has = (before >= 5) & (before < 120)
    assert torch.equal(after[has], before[has] - 5) and (after[~has] == IGNORE).all() and not has.all()


@pytest.mark.parametrize("gamma", range(1, 9))
def test_training_sees_what_drafting_sees(gamma):
    """What a block of training gives at each position is what was drafted there."""
    net = family("qwen2", gamma)
    draft, text = noisy(net, gamma), torch.randint(3, 160, (1, 30), generator=torch.Generator().manual_seed(gamma))
    seen: dict[int, torch.Tensor] = {}
    proposer = speculative.GlideProposer(draft)
    plain = draft.proposed
    # a block begins at position 9, where the text so far ends; what is drafted is replaced by the text
    target = speculative.Target(net, 40)
    with torch.no_grad():
        target.read(text[:, :9], torch.arange(9)[None])
        proposer.read(text[:, :9], torch.tensor([9]), 40)

        def told(hidden):
            seen[9 + len(seen)] = hidden[0]
            return text[:, 9 + len(seen)]

        draft.proposed = told
        proposer.propose(text, torch.tensor([10]), target.keys, gamma)
        draft.proposed = plain
        batch = {
            "input_ids": text,
            "position_ids": torch.arange(30)[None],
            "doc_ids": torch.zeros(1, 30, dtype=torch.int64),
            "offset": torch.tensor([-9 % gamma]),
        }
        _, keys = learn.read(net, batch)
        trained = learn.hidden_states(draft, batch, keys, gamma)[0]
    assert [*seen] == [*range(9, 9 + gamma)]
    for t, hidden in seen.items():
        torch.testing.assert_close(hidden, trained[t], rtol=1e-10, atol=1e-10)


def test_queries_without_a_key_are_numbers_and_so_are_their_gradients():
    draft = noisy(family("qwen2"), 0)
    rows, _ = learn.batch_fn([Example("a", "a", np.array([5, 6]), np.array([False, True]))], 8, 0, 8)
    found = learn.loss_fn(8)(draft, rows([0]))
    found.loss_sum.backward()
    # the first block of a text sees no key: as if there were no cross-attention
    batch = learn.batch_fn(examples(1, 1), 40, 0, 8)[0]([0]) | {"offset": torch.tensor([0])}
    first = batch["position_ids"][0] < 8
    _, keys = learn.read(draft.target, batch)
    with torch.no_grad():
        some = learn.hidden_states(draft, batch, keys, 8)[0]
        draft.cross_attn.o_proj.weight.zero_()
        none = learn.hidden_states(draft, batch, keys, 8)[0]
    assert torch.equal(some[first], none[first]) and not torch.equal(some[~first], none[~first])
    assert torch.isfinite(found.loss_sum)
    assert all(torch.isfinite(p.grad).all() for p in draft.parameters() if p.grad is not None)


def test_a_language_with_less_comes_again():
    few = [Example("x", "a", np.arange(11), np.arange(11) > 0)]
    many = [Example(str(i), "b", np.arange(11), np.arange(11) > 0) for i in range(5)]
    found = learn.evened(few + many)
    assert [example.lang for example in found] == ["a"] * 5 + ["b"] * 5
    assert len([e for e in learn.evened(few + many * 9) if e.lang == "a"]) == learn.MOST_REPEATS


def _trained(folder: str, steps: int, seed: int = 0):
    """A draft trained on the greedy answers of a small model."""
    net = model.build(SMALL, seed=1).eval()
    asked = [[5 + i, 6 + i, 7] for i in range(8)]
    answers = speculative.greedy(net, asked, [2], 24)
    made = [
        Example(str(i), "a", np.array([*p, *a]), np.arange(len(p) + len(a)) >= len(p))
        for i, (p, a) in enumerate(zip(asked, answers, strict=True))
    ]
    rows, _ = learn.batch_fn(made, 64, seed, 4)
    draft = glide.Glide(net.requires_grad_(False))
    config = LoopConfig(
        steps=steps, rows_per_step=4, micro_rows=2, lr=5e-3, weight_decay=0.0, checkpoint_every=5, clip=1.0
    )
    return net, draft, asked, fit(draft, rows, learn.loss_fn(4), config, folder)


def test_training_raises_acceptance_and_changes_the_draft_alone(tmp_path):
    net, draft, asked, summary = _trained(str(tmp_path), 40)
    fresh = model.build(SMALL, seed=1).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in net.state_dict().items())
    untrained = glide.Glide(net)
    before, after = (
        np.mean(
            [
                one.tokens_per_call
                for one in speculative.speculate(net, speculative.GlideProposer(of.eval()), asked, [2], 24, 4)
            ]
        )
        for of in (untrained, draft)
    )
    assert after > before + 0.5 and summary["agreed"] > 0.7
    newest = checkpoint.latest(storage.join(str(tmp_path), "checkpoints"))
    assert newest is not None and newest.step == 40


def test_only_the_draft_is_in_checkpoint_and_folder(tmp_path):
    net, draft, _, _ = _trained(str(tmp_path), 5)
    from train.loop import named_tensors

    named, _ = named_tensors(draft, [])
    assert all(name.split("/")[1].split(".")[0] in OWN for name in named)
    glide.save(draft, str(tmp_path / "draft"), 4, {"loss": "ce"})
    again, gamma = glide.load(str(tmp_path / "draft"), net)
    assert gamma == 4
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in draft.state_dict().items())
    assert (tmp_path / "draft" / "draft.safetensors").stat().st_size < 1.1 * 4 * sum(
        p.numel() for p in draft.parameters()
    ) + 4096


OWN = {"self_norm", "self_attn", "cross_norm", "cross_attn", "mlp_norm", "mlp"}


def test_a_draft_of_another_model_is_refused(tmp_path):
    net = model.build(SMALL)
    glide.save(glide.Glide(net, torch.arange(40)), str(tmp_path / "draft"), 4)
    loaded, _ = glide.load(str(tmp_path / "draft"), net)
    assert loaded.vocabulary.tolist() == [*range(40)]
    with pytest.raises(ValueError, match="a draft for another model"):
        glide.load(str(tmp_path / "draft"), model.build(SMALL | {"intermediate_size": 80}))


def test_kinds_that_have_no_draft_are_said():
    from transformers import AutoConfig, AutoModelForCausalLM

    other = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", **SMALL, head_dim=16))
    with pytest.raises(ValueError, match="of the kind gemma2"):
        glide.Glide(other)
    with pytest.raises(ValueError, match="must be one of ce, kl, lk"):
        learn.loss_fn(4, "mse")
