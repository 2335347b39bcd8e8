"""Preference losses against hand-written formulas, finite differences, and TRL's DPOTrainer (losses and gradients)."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from train import model as models
from train.methods import dpo
from train.methods.dpo import Objective
from train.preference_losses import lr_dpo
from train.preference_losses.answers import Answers
from train.scores.logprobs import logprobs

WORDS = ["ikan", "perahu", "ข้าว", "ເຮືອ", "nasi goreng", "ya", "tidak", "漢字", "ရန်ကုန်"]
ATOL = 1e-6


@pytest.fixture
def pairs(chatml_tokenizer):
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": str(i),
            "lang": "id",
            "prompt": [{"role": "user", "content": " ".join(rng.choice(WORDS, rng.integers(1, 5)))}],
            "chosen": " ".join(rng.choice(WORDS, rng.integers(1, 9))),
            "rejected": " ".join(rng.choice(WORDS, rng.integers(1, 9))),
        }
        for i in range(4)
    ]
    return dpo.encode_pairs(chatml_tokenizer, rows, 512)[0]


@pytest.fixture
def nets(tiny_model):
    """(policy, reference) that differ a little, as after some steps."""
    policy, reference = tiny_model(), tiny_model()
    with torch.no_grad():
        torch.manual_seed(9)
        for p in policy.parameters():
            p.add_(0.01 * torch.randn_like(p))
    return policy, reference


def ours(policy, pairs, reference_logprobs, objective, packed=False):
    """(mean loss, gradients by name) of all pairs in one batch."""
    policy.zero_grad()
    batch = dpo.batch_fn(pairs, reference_logprobs, seed=0, packed=packed)(list(range(len(pairs.chosen))))
    parts = dpo.loss_fn(objective)(policy, batch)
    (parts.loss_sum / parts.count).backward()
    return (parts.loss_sum / parts.count).item(), {name: p.grad.clone() for name, p in policy.named_parameters()}


def naive_logps(net, pairs):
    """log p of the answers from whole logits, one example at a time, fp64 sums: [2][pairs]."""
    table = []
    for example in pairs.examples:
        with torch.no_grad():
            logp = net(input_ids=torch.tensor(example.ids)[None]).logits[0].double().log_softmax(-1)
        table.append(sum(float(logp[t - 1, example.ids[t]]) for t in np.flatnonzero(example.scored)))
    return np.array(table).reshape(2, -1)


def test_lr_dpo_is_the_papers_formula(nets, pairs, tmp_path):
    policy, reference = nets
    beta, alpha = 0.1, 0.02
    ratio = naive_logps(policy, pairs) - naive_logps(reference, pairs)
    length = np.array([int(e.scored.sum()) for e in pairs.examples]).reshape(2, -1)
    assert (length[0] != length[1]).any()
    z = beta * ratio[0] - beta * ratio[1] + alpha * length[0] - alpha * length[1]
    expected = np.mean(-np.log(1 / (1 + np.exp(-z))))
    loss, _ = ours(
        policy, pairs, dpo.reference_logprobs(reference, pairs, str(tmp_path)), Objective("lr_dpo", beta, alpha)
    )
    assert loss == pytest.approx(expected, abs=1e-5)


def test_gradient_of_lr_dpo_is_the_derivative_by_hand():
    """d loss / d log pi(y_w|x) = - beta sigmoid(-z), and the opposite for y_l; a longer winner makes it smaller."""
    rng = np.random.default_rng(4)
    logp, reference = rng.normal(-40, 5, (2, 6)), rng.normal(-40, 5, (2, 6))
    length = rng.integers(3, 60, (2, 6)).astype(np.float64)
    beta, alpha = 0.1, 0.02
    policy = torch.tensor(logp, requires_grad=True)
    sides = [Answers(policy[i], torch.tensor(reference[i]), torch.tensor(length[i])) for i in (0, 1)]
    loss_P = Objective("lr_dpo", beta, alpha)(*sides)
    loss_P.sum().backward()
    ratio = logp - reference
    z = beta * (ratio[0] - ratio[1]) + alpha * (length[0] - length[1])
    assert np.allclose(loss_P.detach(), np.log1p(np.exp(-z)), atol=1e-12)
    by_hand = -beta / (1 + np.exp(z))
    assert np.allclose(policy.grad, [by_hand, -by_hand], atol=1e-12)


def test_swapping_the_sides_negates_the_logit_with_its_length_term(nets, pairs, tmp_path):
    policy, reference = nets
    objective = Objective("lr_dpo", 0.1, 0.05)
    swapped = dpo.Pairs(pairs.rejected, pairs.chosen)
    logits = []
    for sides in (pairs, swapped):
        one = dpo.Pairs(sides.chosen[:1], sides.rejected[:1])
        loss, _ = ours(policy, one, dpo.reference_logprobs(reference, one, str(tmp_path)), objective)
        logits.append(-math.log(math.expm1(loss)))
    assert logits[0] == pytest.approx(-logits[1], abs=1e-4)
    assert abs(logits[0]) > 0.01


def test_derivative_in_alpha_is_the_finite_difference(nets, pairs, tmp_path):
    policy, reference = nets
    cached = dpo.reference_logprobs(reference, pairs, str(tmp_path)).astype(np.float64)
    logp = logprobs(policy, pairs.examples).astype(np.float64).reshape(2, -1)
    length = np.array([e.n_scored for e in pairs.examples], np.float64).reshape(2, -1)
    chosen, rejected = (Answers(*map(torch.tensor, (logp[i], cached[i], length[i]))) for i in (0, 1))
    alpha = torch.tensor(0.03, dtype=torch.float64, requires_grad=True)
    lr_dpo.loss(chosen, rejected, 0.1, alpha).sum().backward()
    step = 1e-5
    up, down = (lr_dpo.loss(chosen, rejected, 0.1, 0.03 + s).sum().item() for s in (step, -step))
    assert alpha.grad.item() == pytest.approx((up - down) / (2 * step), rel=1e-6)
    assert abs(alpha.grad.item()) > 0.1


@pytest.mark.parametrize("loss", ["dpo", "lr_dpo", "ln_dpo"])
def test_policy_equal_to_reference_gives_ln_2(loss, tiny_model, pairs, tmp_path):
    net = tiny_model()
    value, _ = ours(net, pairs, dpo.reference_logprobs(net, pairs, str(tmp_path)), Objective(loss, beta=0.1))
    assert value == pytest.approx(math.log(2), abs=ATOL)


def test_cached_reference_equals_fresh(nets, pairs, tmp_path):
    _, reference = nets
    first = dpo.reference_logprobs(reference, pairs, str(tmp_path / "a"))
    assert np.array_equal(first, dpo.reference_logprobs(reference, pairs, str(tmp_path / "a")))
    assert np.array_equal(first, dpo.reference_logprobs(reference, pairs, str(tmp_path / "b")))
    assert np.allclose(first, naive_logps(reference, pairs), rtol=1e-5)


def test_packed_equals_padded(nets, pairs, tmp_path):
    policy, reference = nets
    cached = dpo.reference_logprobs(reference, pairs, str(tmp_path))
    objective = Objective("lr_dpo", 0.1, 0.01)
    padded, padded_gradients = ours(policy, pairs, cached, objective)
    packed, packed_gradients = ours(policy, pairs, cached, objective, packed=True)
    assert packed == pytest.approx(padded, abs=ATOL)
    for name, gradient in padded_gradients.items():
        assert torch.allclose(packed_gradients[name], gradient, rtol=1e-4, atol=1e-5), name


@pytest.fixture
def trl_loss(nets, chatml_tokenizer, pairs, tmp_path):
    """TRL's (loss, gradients) for a loss type, on plain Hugging Face copies of the same two models."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    for name, net in zip(("policy", "reference"), nets, strict=True):
        models.save(net, chatml_tokenizer, str(tmp_path / name), 512)

    def run(loss_type, beta):
        policy, reference = (
            AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)
            for name in ("policy", "reference")
        )
        prompt = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
        args = trl.DPOConfig(
            output_dir=str(tmp_path / "out"), loss_type=[loss_type], beta=beta, use_cpu=True, bf16=False, report_to=[],
            gradient_checkpointing=False,
        )  # fmt: skip
        trainer = trl.DPOTrainer(
            policy, reference, args=args, train_dataset=Dataset.from_list(prompt), processing_class=chatml_tokenizer
        )
        features = []
        for chosen, rejected in zip(pairs.chosen, pairs.rejected, strict=True):
            start = int(np.flatnonzero(chosen.scored)[0])
            features.append(
                {
                    "prompt_ids": chosen.ids[:start].tolist(),
                    "chosen_ids": chosen.ids[start:].tolist(),
                    "rejected_ids": rejected.ids[start:].tolist(),
                }
            )
        policy.train()
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(features))
        loss.backward()
        return loss.item(), {name: p.grad for name, p in policy.named_parameters()}

    return run


@pytest.mark.parametrize(
    ("objective", "loss_type"),
    [
        (Objective("lr_dpo", beta=0.1, alpha=0.0), "sigmoid"),
        (Objective("dpo", beta=0.1), "sigmoid"),
        (Objective("ln_dpo", beta=5.0), "sigmoid_norm"),
    ],
)
def test_loss_and_gradients_equal_trl(  # noqa: PLR0917
    objective, loss_type, nets, pairs, trl_loss, tmp_path
):
    policy, reference = nets
    policy.train()
    theirs, their_gradients = trl_loss(loss_type, objective.beta)
    loss, gradients = ours(policy, pairs, dpo.reference_logprobs(reference, pairs, str(tmp_path)), objective)
    assert loss == pytest.approx(theirs, abs=ATOL)
    assert abs(loss - math.log(2)) > 1e-3
    assert gradients.keys() == their_gradients.keys()
    scale = max(g.abs().max().item() for g in their_gradients.values())
    for name, gradient in their_gradients.items():
        assert torch.allclose(gradients[name], gradient, rtol=1e-4, atol=1e-5 * scale), name


def test_simpo_equals_trl(nets, chatml_tokenizer, pairs, tmp_path, monkeypatch):
    """Loss and gradients of TRL's CPOTrainer with loss_type "simpo", on a Hugging Face copy of the policy."""
    pytest.importorskip("trl")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from datasets import Dataset
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    beta, gamma = 2.5, 0.8
    models.save(nets[0], chatml_tokenizer, str(tmp_path / "policy"), 512)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    args = CPOConfig(
        output_dir=str(tmp_path / "out"), loss_type="simpo", beta=beta, simpo_gamma=gamma, cpo_alpha=0.0, use_cpu=True,
        bf16=False, report_to=[], gradient_checkpointing=False, max_length=512,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    trainer = CPOTrainer(theirs, args=args, train_dataset=rows, processing_class=chatml_tokenizer)
    batch = {}
    for name, side in pairs._asdict().items():
        longest = max(len(e.ids) for e in side)
        ids, labels, mask = (torch.full((len(side), longest), fill) for fill in (0, -100, 0))
        for row, e in enumerate(side):
            ids[row, : len(e.ids)] = torch.tensor(e.ids)
            labels[row, : len(e.ids)] = torch.tensor(np.where(e.scored, e.ids, -100))
            mask[row, : len(e.ids)] = 1
        batch |= {f"{name}_input_ids": ids, f"{name}_labels": labels, f"{name}_attention_mask": mask}
    expected, _ = trainer.get_batch_loss_metrics(theirs, batch)
    expected.backward()
    loss, gradients = ours(nets[0], pairs, None, Objective("simpo", beta=beta, gamma=gamma))
    assert loss == pytest.approx(expected.item(), abs=ATOL)
    scale = max(p.grad.abs().max().item() for p in theirs.parameters())
    for name, p in theirs.named_parameters():
        assert torch.allclose(gradients[name], p.grad, rtol=1e-4, atol=1e-5 * scale), name
