"""The decoding loop: what it gives is that of `transformers` and of itself however rarely the host looks, and with the step as a
graph; and the host waits once for so many tokens."""

import copy

import pytest
import recorded_graph
import torch
from shapes import SMALL
from transformers import AutoConfig, AutoModelForCausalLM

from train import model
from train.generation import decode, nucleus
from train.kernels import attention

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

SHAPE = SMALL
FAMILIES = {
    "qwen2": ("qwen2", {}),
    "qwen2, windows": ("qwen2", {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 8}),
    "llama, one key head": ("llama", {"num_key_value_heads": 1}),
    "mistral, windows": ("mistral", {"sliding_window": 5}),
    "gemma2": ("gemma2", {"head_dim": 16, "sliding_window": 8}),
    "gemma3": ("gemma3_text", {"head_dim": 16, "sliding_window": 8}),
    "cohere2": ("cohere2", {"head_dim": 16, "logit_scale": 0.25, "sliding_window": 8}),
    "granite": ("granite", {"logits_scaling": 8.0, "embedding_multiplier": 12.0}),
}


def family(name: str, seed: int = 0):
    kind, own = FAMILIES[name]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **SHAPE | own)
    plain = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for p in plain.parameters():
            torch.nn.init.normal_(p, std=0.3 if p.ndim > 1 else 1.0)
    ours = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention.NAME).eval()
    ours.load_state_dict(plain.state_dict())
    return model._attached(ours), plain


def prompts(seed: int, longest: int = 21, count: int = 5) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = [1, longest, *torch.randint(1, longest, (count - 2,), generator=generator).tolist()]
    return [torch.randint(3, 160, (n,), generator=generator).tolist() for n in lengths]


def uniforms(samples: int, tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(samples, tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def of_transformers(plain, ids: list[int], tokens: int, stop: list[int]) -> list[int]:
    found = plain.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=tokens, eos_token_id=stop or None, pad_token_id=0
    )
    return found[0, len(ids) :].tolist()


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """A step that does not look at values, as on a GPU."""
    monkeypatch.setattr(decode, "LOOKS", ())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_is_that_of_transformers_for_prompts_of_all_lengths_together(name, seed):
    net, plain = family(name, seed)
    some = prompts(seed)
    endless = [of_transformers(plain, ids, 40, []) for ids in some]
    stop = [endless[1][10], endless[3][30]]
    found = decode.decode(net, some, uniforms(5, 40), 1, stop, 0.0, 1.0)
    assert [ids for ids, _ in found] == [of_transformers(plain, ids, 40, stop) for ids in some]
    padded = torch.tensor([[0] * (21 - len(ids)) + ids for ids in some])
    together = plain.generate(
        padded,
        attention_mask=(padded != 0).long(),
        do_sample=False,
        max_new_tokens=40,
        eos_token_id=stop,
        pad_token_id=0,
    )
    for (ids, _), row in zip(found, together[:, 21:].tolist(), strict=True):
        assert row[: len(ids)] == ids


@pytest.mark.parametrize("name", ["qwen2, windows", "gemma2", "llama, one key head"])
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_a_recorded_step_gives_the_same(name, temperature, as_on_a_gpu, monkeypatch):
    """Through growth of the cache and samples that leave."""
    monkeypatch.setitem(decode.ROOM, "cpu", 13)
    net, _ = family(name)
    some, u_ST = prompts(3), uniforms(10, 60)
    plainly = decode.decode(net, some, u_ST, 2, [2, 3, 4], temperature, 0.95, check=1)
    before = recorded_graph.captures
    recorded = decode.decode(net, some, u_ST, 2, [2, 3, 4], temperature, 0.95, check=7, capture=recorded_graph.capture)
    assert recorded_graph.captures >= before + 3
    for (ids, logps), (want_ids, want_logps) in zip(recorded, plainly, strict=True):
        assert ids == want_ids
        assert torch.allclose(torch.tensor(logps), torch.tensor(want_logps), atol=2e-5)


@pytest.mark.parametrize("top_p", [0.9, 0.5, 1.0])
def test_going_back_for_wide_nuclei_gives_what_the_whole_vocabulary_gives(top_p, as_on_a_gpu, monkeypatch):
    net, _ = family("qwen2")
    some, u_ST = prompts(4), uniforms(15, 30, seed=1)
    want = decode.decode(net, some, u_ST, 3, [2, 3], 1.0, top_p, check=1)
    went_back = []
    back_to = decode.Batch.back_to
    monkeypatch.setattr(decode.Batch, "back_to", lambda self, t: (went_back.append(t), back_to(self, t)))
    for near in (40, 2):  # nuclei are wider now and then, and nearly always
        monkeypatch.setitem(nucleus.NEAR, "cpu", near)
        for check in (1, 5, 100):
            found = decode.decode(net, some, u_ST, 3, [2, 3], 1.0, top_p, check=check)
            assert [ids for ids, _ in found] == [ids for ids, _ in want]
    assert bool(went_back) == (top_p < 1)  # all of the vocabulary is no nucleus: it is sorted at once
    assert len(went_back) < 80  # often wide: then sorted at once too


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@torch.no_grad()
def test_the_host_waits_once_for_many_tokens(temperature, as_on_a_gpu, monkeypatch):
    """10 samples of 65 tokens, none of which ends: a look after the first token and each 16, and three lists at the end."""
    some, lists, tolist = prompts(5), [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: (lists.append(self.shape), tolist(self))[1])
    net, _ = family("qwen2")
    with recorded_graph.Waiting() as waiting:
        decode.decode(net, some, uniforms(10, 65), 2, [], temperature, 0.95, check=16)
    assert len(lists) == 1 + 64 // 16 + 3
    assert waiting.found == []
    batch = decode.Batch(net, some, uniforms(10, 64), 2, [2], temperature, 0.95)
    batch.cache.grow(40)
    lists.clear()
    with recorded_graph.Waiting() as waiting:
        for _ in range(3):
            batch.step()
    assert waiting.found == lists == []


def test_a_sample_that_has_ended_does_not_change_the_others():
    net, _ = family("llama, one key head")
    some, u_ST = prompts(6), uniforms(5, 25)
    want = [
        decode.decode(net, [ids], u_ST[i : i + 1], 1, [5, 6, 7, 8, 9], 1.0, 0.9)[0][0] for i, ids in enumerate(some)
    ]
    for check in (1, 3, 25):
        found = decode.decode(net, some, u_ST, 1, [5, 6, 7, 8, 9], 1.0, 0.9, check=check)
        assert [ids for ids, _ in found] == want


def test_one_token_is_drawn_from_the_prompt_alone():
    net, plain = family("qwen2")
    ((ids, logps),) = decode.decode(net, [[5, 6]], uniforms(1, 1), 1, [2], 0.0, 1.0)
    with torch.no_grad():
        logits = plain(torch.tensor([[5, 6]])).logits[0, -1]
    assert ids == [int(logits.argmax())]
    assert logps == pytest.approx([float(logits.log_softmax(-1).max())], abs=1e-5)
