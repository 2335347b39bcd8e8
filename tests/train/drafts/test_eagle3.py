"""An EAGLE-3 draft: texts stay as they are, training goes through what drafting goes through, and vLLM finds its tensors."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shapes import SMALL
from test_draft_learning import examples
from test_speculative import FAMILIES, STOP, are_greedy, family, prompts

from train import model
from train.batches.examples import Example
from train.batches.labels import IGNORE
from train.drafts import eagle3, folders, learn, speculative, vocabulary
from train.loop import LoopConfig, fit

torch.set_num_threads(1)  # tiny tensors: a second thread only waits


def made(net, seed: int = 0, words: torch.Tensor | None = None) -> eagle3.Eagle3:
    torch.manual_seed(seed)
    draft = eagle3.Eagle3(net, torch.arange(160) if words is None else words).eval()
    with torch.no_grad():
        for p in draft.parameters():
            torch.nn.init.normal_(p, std=0.3 if p.ndim > 1 else 1.0)
    return draft


@pytest.mark.parametrize("gamma", [1, 3, 4, 8])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_draft_changes_no_token(name, gamma):
    net, asked = family(name), prompts(10)
    proposer = eagle3.Eagle3Proposer(made(net, gamma, torch.arange(3, 150, 2)))
    for most in (1, 5 * gamma, 80):
        found = speculative.speculate(net, proposer, asked, STOP, most, gamma)
        assert are_greedy(net, asked, found, STOP, most)


def test_training_goes_through_what_drafting_goes_through(monkeypatch):
    """The states of each step at the row where a text was drafted on, with the text itself as what was proposed."""
    net = family("qwen2", 2)
    draft = made(net, 2)
    text = torch.randint(3, 160, (1, 20), generator=torch.Generator().manual_seed(0))
    at, steps, own = 9, 4, eagle3.Eagle3.forward
    doc_ids, positions = torch.zeros(1, 20, dtype=torch.int64), torch.arange(20)[None]
    batch = {"input_ids": text, "position_ids": positions, "doc_ids": doc_ids, "labels": torch.roll(text, -1, 1)}
    trained, drafted = [], []

    def kept(into):
        def forward(self, *args):
            into.append(own(self, *args))
            return into[-1]

        return forward

    with torch.no_grad():
        monkeypatch.setattr(eagle3.Eagle3, "forward", kept(trained))
        eagle3.loss(draft, batch, steps)
        proposer, target = eagle3.Eagle3Proposer(draft), speculative.Target(net, 40)
        target.read(text[:, : at + 1], positions[:, : at + 1])
        proposer.read(text[:, : at + 1], torch.tensor([at + 1]), 40)
        # what it proposes is replaced by the text
        follows = iter(text[0, at + 2 :].tolist())
        draft.proposed = lambda state: torch.tensor([next(follows)])
        monkeypatch.setattr(eagle3.Eagle3, "forward", kept(drafted))
        proposer.propose(text, torch.tensor([at + 2]), target.keys, steps)
    torch.testing.assert_close(drafted[0][0, at], trained[0][0, at], rtol=1e-10, atol=1e-10)
    for step in range(1, steps):
        torch.testing.assert_close(drafted[step][0, 0], trained[step][0, at], rtol=1e-10, atol=1e-10)


def test_each_step_is_scored_on_the_token_behind_what_it_read():
    """Packed rows are their texts apart, and the sum over steps is that of each step by a full softmax."""
    net = family("llama, one key head", 1)
    draft, own = made(net, 1), examples(3)
    rows, n = learn.batch_fn(own, 64, 0, 1, vocabulary.numbers(np.arange(160), 160))
    together = [eagle3.loss(draft, rows([number])) for number in range(n)]
    apart = 0.0
    for example in own:
        one, _ = learn.batch_fn([example], len(example.ids), 0, 1)
        apart += float(eagle3.loss(draft, one([0])).loss_sum.detach())
    assert sum(float(parts.loss_sum.detach()) for parts in together) == pytest.approx(apart, rel=1e-6)
    (only,) = (learn.batch_fn(own[:1], 40, 0, 1)[0]([0]),)
    labels = only["labels"][0]
    agreed = eagle3.loss(draft, only).metrics
    counts = [int((labels[step + 1 :] != IGNORE).sum()) for step in range(eagle3.STEPS)]
    assert [int(agreed[f"agreed_{k + 1}"]) <= count for k, count in enumerate(counts)] == [True] * 3


def test_the_folder_is_as_vllm_reads_it(tmp_path):
    """The names of `Eagle3LlamaForCausalLM` (vllm/model_executor/models/llama_eagle3.py): fc of three states, queries, keys and
    values from two inputs, `d2t` as what is added to a token of the draft."""
    net = model.build(SMALL)
    words = torch.tensor([1, 2, 5, 90, 159])
    draft = eagle3.Eagle3(net, words)
    eagle3.save(draft, str(tmp_path / "draft"), 4, "a/model")
    tensors = load_file(tmp_path / "draft/model.safetensors")
    layer = "layers.0."
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        "fc.weight": (64, 192),
        f"{layer}input_layernorm.weight": (64,),
        f"{layer}hidden_norm.weight": (64,),
        f"{layer}self_attn.q_proj.weight": (64, 128),
        f"{layer}self_attn.k_proj.weight": (32, 128),
        f"{layer}self_attn.v_proj.weight": (32, 128),
        f"{layer}self_attn.o_proj.weight": (64, 64),
        f"{layer}post_attention_layernorm.weight": (64,),
        f"{layer}mlp.gate_proj.weight": (96, 64),
        f"{layer}mlp.up_proj.weight": (96, 64),
        f"{layer}mlp.down_proj.weight": (64, 96),
        "norm.weight": (64,),
        "lm_head.weight": (5, 64),
        "d2t": (5,),
        "t2d": (160,),
    }
    assert (torch.arange(5) + tensors["d2t"]).tolist() == words.tolist()
    assert tensors["t2d"].dtype == torch.bool and tensors["t2d"].nonzero()[:, 0].tolist() == words.tolist()
    config = json.loads((tmp_path / "draft/config.json").read_text())
    assert config["speculators_model_type"] == "eagle3" and config["draft_vocab_size"] == 5
    assert len(config["eagle_aux_hidden_state_layer_ids"]) == 3
    assert config["transformer_layer_config"]["vocab_size"] == 160
    assert config["transformer_layer_config"]["model_type"] == "llama"
    (method,) = config["speculators_config"]["proposal_methods"]
    assert method["proposal_type"] == "greedy" and method["speculative_tokens"] == 4
    assert config["speculators_config"]["verifier"] == {
        "name_or_path": "a/model",
        "architectures": ["Qwen2ForCausalLM"],
    }
    again, gamma = eagle3.load(str(tmp_path / "draft"), net)
    assert gamma == 4 and torch.equal(again.vocabulary, words)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in draft.state_dict().items())
    assert folders.vocabulary(str(tmp_path / "draft")).tolist() == words.tolist()
    with pytest.raises(ValueError, match="a draft for another model"):
        eagle3.load(str(tmp_path / "draft"), model.build(SMALL | {"intermediate_size": 80}))


def test_training_raises_acceptance(tmp_path):
    net = model.build(SMALL, seed=1).eval().requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    asked = [[5 + i, 6 + i, 7] for i in range(8)]
    answers = speculative.greedy(net, asked, [2], 24)
    own = [
        Example(str(i), "a", np.array([*p, *a]), np.arange(len(p) + len(a)) >= len(p))
        for i, (p, a) in enumerate(zip(asked, answers, strict=True))
    ]
    torch.manual_seed(0)
    draft = eagle3.Eagle3(net, torch.arange(160))
    rows, _ = learn.batch_fn(own, 64, 0, 4)

    def per_call():
        found = speculative.speculate(net, eagle3.Eagle3Proposer(draft.eval()), asked, [2], 24, 3)
        assert [one.ids for one in found] == answers
        return np.mean([one.tokens_per_call for one in found])

    untrained = per_call()
    config = LoopConfig(steps=40, rows_per_step=4, micro_rows=2, lr=5e-3, weight_decay=0.0, checkpoint_every=0)
    fit(draft, rows, eagle3.loss, config, str(tmp_path))
    assert per_call() > untrained + 0.5
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
