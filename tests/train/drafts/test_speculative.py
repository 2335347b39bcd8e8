"""Decoding with a draft gives the text of greedy decoding, token by token, whatever the draft proposes."""

import functools

import pytest
import torch
from shapes import SMALL
from transformers import AutoConfig, AutoModelForCausalLM

from train import model
from train.drafts import speculative
from train.drafts.glide import Glide
from train.kernels import attention

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

GAMMAS = range(1, 9)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10_000.0}
FAMILIES = {
    "qwen2": ("qwen2", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, pruned": ("qwen2", {"hidden_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}),
    "qwen3": ("qwen3", {"head_dim": 24}),
    "qwen2, YaRN": ("qwen2", {"rope_parameters": YARN}),
    "llama, one key head": ("llama", {"num_key_value_heads": 1}),
}
STOP = [2, 90, 91, 92]


def family(name: str, seed: int = 0, dtype: torch.dtype = torch.float64):
    """A random model, with weights so wide that its greedy text wanders."""
    kind, own = FAMILIES[name]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **SMALL | own)
    net = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME).eval()
    with torch.no_grad():
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3 if p.ndim > 1 else 1.0)
    return model._attached(net.to(dtype))


def noisy(net, seed: int, vocabulary: torch.Tensor | None = None, final_norm: bool = True) -> Glide:
    """A draft that is not only a copy."""
    draft = Glide(net, vocabulary, final_norm)
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in draft.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return draft.eval()


def prompts(seed: int, count: int = 5, longest: int = 17) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = [1, longest, *torch.randint(1, longest + 1, (max(0, count - 2),), generator=generator).tolist()]
    return [torch.randint(3, 160, (n,), generator=generator).tolist() for n in lengths[:count]]


def one_by_one(net, ids: list[int], stop: list[int], most: int) -> list[int]:
    """Greedy decoding without any cache."""
    found: list[int] = []
    while len(found) < most and not (found and found[-1] in stop):
        with torch.no_grad():
            found.append(int(net(torch.tensor([ids + found]), use_cache=False).logits[0, -1].argmax()))
    return found


def are_greedy(net, asked: list[list[int]], found, stop: list[int], most: int) -> bool:
    """Whether each token is the likeliest after those before it, by one pass without any cache, and the first of `stop` or the
    limit ends each text: then they are what `one_by_one` gives."""

    def is_greedy(ids: list[int], said: list[int]) -> bool:
        with torch.no_grad():
            logits = net(torch.tensor([ids + said]), use_cache=False).logits[0, len(ids) - 1 : -1]
        ends = [place for place, token in enumerate(said) if token in stop]
        in_time = ends == [len(said) - 1] or (not ends and len(said) == most)
        return in_time and logits.argmax(-1).tolist() == said

    return all(is_greedy(ids, one.ids) for ids, one in zip(asked, found, strict=True))


@functools.cache
def long_answers():
    """(a model, prompts, the answers to them of 64 tokens, which nothing ends)."""
    net, asked = family("qwen2"), prompts(1)
    return net, asked, {tuple(ids): one_by_one(net, ids, [], 64) for ids in asked}


class Told:
    """Proposes what it is told: `told(text, gamma)` for the tokens of one text."""

    def __init__(self, told):
        self.told = told

    def read(self, text_BC, length_B, places):
        pass

    def propose(self, text_BC, length_B, keys, gamma):
        rows = [row[:n] for row, n in zip(text_BC.tolist(), length_B.tolist(), strict=True)]
        return torch.tensor([self.told(row, gamma) for row in rows])

    def grow(self, places):
        pass

    def select(self, texts):
        pass


def knows(answers: dict[tuple[int, ...], list[int]], right: bool = True):
    """A proposer that knows what comes next, and says it or something else."""

    def told(text: list[int], gamma: int) -> list[int]:
        prompt = max((p for p in answers if tuple(text[: len(p)]) == p), key=len)
        after = answers[prompt][len(text) - len(prompt) :][:gamma]
        after += [3] * (gamma - len(after))
        return after if right else [(token + 1) % 160 for token in after]

    return Told(told)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_draft_changes_no_token(name, gamma):
    net, asked = family(name), prompts(10)
    proposer = speculative.GlideProposer(noisy(net, gamma))
    found = speculative.speculate(net, proposer, asked, STOP, 80, gamma)
    assert are_greedy(net, asked, found, STOP, 80)


def test_it_is_what_our_decoding_gives():
    net = family("qwen2", 5, torch.float32)
    asked = prompts(5, 8)
    found = speculative.speculate(net, speculative.GlideProposer(noisy(net, 5)), asked, [2], 60, 4)
    assert [one.ids for one in found] == speculative.greedy(net, asked, [2], 60)


def test_windows_of_the_first_layers():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2", **SMALL | {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2}
    )
    config.layer_types = ["sliding_attention", "full_attention"] * 2
    net = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME).eval().double()
    with torch.no_grad():
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3 if p.ndim > 1 else 1.0)
    net = model._attached(net)
    asked = prompts(3)
    found = speculative.speculate(net, speculative.GlideProposer(noisy(net, 3)), asked, [], 20, 3)
    assert are_greedy(net, asked, found, [], 20)


@pytest.mark.parametrize("seed", range(12))
def test_fuzz(seed):
    """Any family, gamma, batch, vocabulary, limit and ends; longer than a cache's first places."""
    rng = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=rng))

    net = family([*FAMILIES][seed % len(FAMILIES)], seed)
    words = torch.randperm(160, generator=rng)[: pick(20, 160)].sort().values if seed % 3 else None
    proposer = speculative.GlideProposer(noisy(net, seed, words, final_norm=bool(seed % 2)))
    gamma, most = pick(1, 8), pick(1, 90)
    asked = prompts(seed, pick(1, 4), pick(1, 30))
    stop = torch.randperm(160, generator=rng)[: pick(0, 6)].tolist()
    found = speculative.speculate(net, proposer, asked, stop, most, gamma)
    assert are_greedy(net, asked, found, stop, most)
    for one in found:
        counted = 1 + len(one.accepted) + sum(one.accepted)
        assert len(one.ids) in (counted, counted - 1)  # the end may be a token that was accepted


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_draft_that_is_always_right_gives_gamma_and_one_tokens_a_pass(gamma):
    net, asked, answers = long_answers()
    most = 1 + 3 * (gamma + 1)
    found = speculative.speculate(net, knows(answers), asked, [], most, gamma)
    for ids, one in zip(asked, found, strict=True):
        assert one.ids == answers[tuple(ids)][:most]
        assert one.accepted == [gamma] * 3 and one.tokens_per_call == gamma + 1


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_draft_that_is_always_wrong_gives_one_token_a_pass(gamma):
    net, asked, answers = long_answers()
    found = speculative.speculate(net, knows(answers, right=False), asked, [], 12, gamma)
    for ids, one in zip(asked, found, strict=True):
        assert one.ids == answers[tuple(ids)][:12]
        assert one.accepted == [0] * 11 and one.tokens_per_call == 1


@pytest.mark.parametrize("end", range(6))
def test_an_end_inside_an_accepted_run_ends_the_text(end):
    net, asked, answers = long_answers()
    stop = [answers[tuple(asked[1])][end]]
    found = speculative.speculate(net, knows(answers), asked, stop, 30, 4)
    whole = [answers[tuple(ids)][:30] for ids in asked]
    assert [one.ids for one in found] == [ids[: ids.index(stop[0]) + 1] if stop[0] in ids else ids for ids in whole]
    assert len(found[1].ids) == answers[tuple(asked[1])].index(stop[0]) + 1


@pytest.mark.parametrize("most", range(1, 12))
def test_the_limit_may_lie_inside_a_run(most):
    net, asked, answers = long_answers()
    found = speculative.speculate(net, knows(answers), asked, [], most, 4)
    assert [one.ids for one in found] == [answers[tuple(ids)][:most] for ids in asked]


def test_a_near_tie_is_a_small_gap():
    net = family("qwen2", dtype=torch.float32)
    with torch.no_grad():
        net.lm_head.weight[7] = net.lm_head.weight[8]
    assert speculative.gap(net, [5, 6], 7, 8) < 2
    with torch.no_grad():
        net.lm_head.weight[9] = -net.lm_head.weight[8]
    assert speculative.gap(net, [5, 6], 9, 8) > 1e3
