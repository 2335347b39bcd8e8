"""Sampling answers with the training model itself: engine "hf", batched, with a KV cache, on CPU or GPU; and what every
engine shares: the settings, the rows that answers become, and the probe that compares an engine with the trainer.

Token t of sample k to a prompt is drawn by inverting the cumulative distribution at u(seed, prompt id, k, t), over the
smallest set of most probable tokens that holds `top_p` of softmax(logits / temperature) (Holtzman et al. 2020). So what
is sampled depends on the seed, the prompt and the model, not on its neighbours in the batch (up to rounding of the
logits, which may differ in the last bit between batch shapes) nor on how prompts are spread over workers.

Axes: B prompt, S sample (prompt-major, n per prompt), T position, V vocabulary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from cluster import document_tokens
from train.batches.decoder import CausalLM
from train.batches.examples import Example
from train.chat.conversations import encode_prompts, im_end_id
from train.kernels import head
from train.scores.logprobs import token_logprobs

_NUCLEUS = 1024  # tokens looked at before a row is sorted


@dataclass(frozen=True)
class Sampling:
    """`n` samples a prompt; `temperature` 0 is greedy; `batch_size` prompts at a time."""

    n: int = 5
    temperature: float = 0.9
    top_p: float = 0.95
    max_new_tokens: int = 2048
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_new_tokens < 1 or self.batch_size < 1:
            raise ValueError("n, max_new_tokens and batch_size of sampling must be at least 1.")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError("Sampling needs temperature >= 0 and 0 < top_p <= 1.")


def generate(
    model: CausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[dict], sampling: Sampling
) -> list[dict]:
    """Samples for prompts {"id", "lang", "prompt": messages that end with a user turn, …}, in the order given.

    Each is the prompt's row with "sample" (0 .. n - 1), "answer" (text), "tokens" (with the end token), "finished"
    (whether it ended by itself: `<|im_end|>` or the tokenizer's end of text), "logprob" (of the tokens under the model
    at temperature 1) and "prompt_ids", "answer_ids", "answer_logprobs". The model is left in evaluation mode.
    """
    model.eval()
    stop = stop_ids(tokenizer)
    prompt_ids = encode_prompts(tokenizer, [row["prompt"] for row in prompts])
    drawn: list[list[Drawn]] = [[] for _ in prompts]
    # Prompts of like length together, so that little is padded.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompt_ids[i]), prompts[i]["id"]))
    for start in range(0, len(order), sampling.batch_size):
        chosen = order[start : start + sampling.batch_size]
        batch = sample_batch(model, [prompt_ids[i] for i in chosen], [prompts[i]["id"] for i in chosen], stop, sampling)
        for i, of_prompt in zip(chosen, batch, strict=True):
            drawn[i] = of_prompt
    return answers(tokenizer, prompts, prompt_ids, drawn)


class Drawn(NamedTuple):
    """One sample: its tokens, with the one that ended it, and the log-probability of each at temperature 1."""

    ids: list[int]
    logprobs: list[float]


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: `<|im_end|>`, the tokenizer's `eos_token` and its end of a document."""
    return sorted({im_end_id(tokenizer), tokenizer.eos_token_id, document_tokens.end(tokenizer)} - {None})


def answers(
    tokenizer: PreTrainedTokenizerBase, prompts: list[dict], prompt_ids: list[list[int]], drawn: list[list[Drawn]]
) -> list[dict]:
    """The rows of `generate` from what an engine drew for each prompt."""
    stop = set(stop_ids(tokenizer))
    rows = []
    for prompt, begin, of_prompt in zip(prompts, prompt_ids, drawn, strict=True):
        for k, (ids, logprobs) in enumerate(of_prompt):
            finished = ids[-1] in stop
            text = tokenizer.decode(ids[:-1] if finished else ids, skip_special_tokens=True)
            assert isinstance(text, str)  # of one sequence
            rows.append(
                {
                    **prompt,
                    "sample": k,
                    "answer": text.strip(),
                    "tokens": len(ids),
                    "finished": finished,
                    "logprob": sum(logprobs),
                    "prompt_ids": begin,
                    "answer_ids": ids,
                    "answer_logprobs": logprobs,
                }
            )
    return rows


def uniforms(seed: int, prompt_id: str, sample: int, n: int) -> np.ndarray:
    """The `n` numbers in [0, 1), float64, that decide the tokens of one sample."""
    digest = hashlib.blake2b(prompt_id.encode(), digest_size=8).digest()
    return np.random.default_rng((seed, int.from_bytes(digest, "little"), sample)).random(n)


def draw(logits_SV: Tensor, u_S: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token [S] of each row: the nucleus' inverse distribution function at `u_S`; argmax at temperature 0."""
    if temperature == 0:
        return logits_SV.argmax(-1)
    p_SV = torch.softmax(logits_SV / temperature, -1)
    # The nucleus is mostly small, and to sort a whole vocabulary takes longer than the model: only where it must be.
    top_SK = p_SV.topk(min(_NUCLEUS, p_SV.shape[-1]), -1)
    token_S = _invert(top_SK.values, top_SK.indices, u_S, top_p)
    wide_S = top_SK.values.double().sum(-1) < top_p
    if wide_S.any():
        sorted_SV = p_SV[wide_S].sort(stable=True, dim=-1, descending=True)
        token_S[wide_S] = _invert(sorted_SV.values, sorted_SV.indices, u_S[wide_S], top_p)
    return token_S


def _invert(p_SK: Tensor, token_SK: Tensor, u_S: Tensor, top_p: float) -> Tensor:
    """The token [S] at u of each row's nucleus, given its tokens in descending order of probability."""
    p_SK = p_SK.double()
    cumulative_SK = p_SK.cumsum(-1)
    # A token is in the nucleus when those before it hold less than top_p; so the first always is.
    kept_S1 = (cumulative_SK - p_SK < top_p).sum(-1, keepdim=True)
    mass_S1 = cumulative_SK.gather(-1, kept_S1 - 1)
    rank_S1 = torch.searchsorted(cumulative_SK, u_S.double().unsqueeze(-1) * mass_S1, right=True)
    return token_SK.gather(-1, rank_S1.minimum(kept_S1 - 1)).squeeze(-1)


@torch.no_grad()
def sample_batch(
    model: CausalLM, prompts: list[list[int]], names: list[str], stop: list[int], sampling: Sampling
) -> list[list[Drawn]]:
    """The n samples of each prompt."""
    device = next(model.parameters()).device
    n, longest = sampling.n, max(map(len, prompts))
    input_ids_BT = torch.zeros(len(prompts), longest, dtype=torch.int64)
    seen_BT = torch.zeros(len(prompts), longest, dtype=torch.int64)
    for b, ids in enumerate(prompts):  # padded on the left: the next token of every row is in the same column
        input_ids_BT[b, longest - len(ids) :] = torch.tensor(ids)
        seen_BT[b, longest - len(ids) :] = 1
    input_ids_BT, seen_BT = input_ids_BT.to(device), seen_BT.to(device)
    u_ST = torch.from_numpy(
        np.stack([uniforms(sampling.seed, name, k, sampling.max_new_tokens) for name in names for k in range(n)])
    ).to(device)

    cache = DynamicCache(config=model.config)
    position_BT = (seen_BT.cumsum(-1) - 1).clamp(min=0)
    hidden_BTD = model.model(
        input_ids=input_ids_BT, attention_mask=seen_BT, position_ids=position_BT, past_key_values=cache, use_cache=True
    ).last_hidden_state
    # The prompt is read once; its samples share what was computed.
    cache.batch_repeat_interleave(n)
    hidden_SD = hidden_BTD[:, -1].repeat_interleave(n, 0)
    seen_ST, position_S1 = seen_BT.repeat_interleave(n, 0), position_BT[:, -1:].repeat_interleave(n, 0)

    ends = torch.tensor(stop, device=device)
    samples = [Drawn([], []) for _ in range(len(u_ST))]
    rows_S = torch.arange(len(u_ST), device=device)  # which sample each row of the running batch is
    for t in range(sampling.max_new_tokens):
        logits_SV = head.logits(model, hidden_SD)
        token_S = draw(logits_SV, u_ST[rows_S, t], sampling.temperature, sampling.top_p)
        logprob_S = logits_SV.gather(-1, token_S.unsqueeze(-1)).squeeze(-1) - logits_SV.logsumexp(-1)
        for row, token, logprob in zip(rows_S.tolist(), token_S.tolist(), logprob_S.tolist(), strict=True):
            samples[row].ids.append(token)
            samples[row].logprobs.append(logprob)
        running_S = ~torch.isin(token_S, ends)
        if t + 1 == sampling.max_new_tokens or not running_S.any():
            break
        if not running_S.all():  # finished samples leave the batch
            alive = running_S.nonzero().squeeze(1)
            cache.batch_select_indices(alive)
            rows_S, token_S, seen_ST, position_S1 = rows_S[alive], token_S[alive], seen_ST[alive], position_S1[alive]
        seen_ST = torch.cat([seen_ST, torch.ones_like(position_S1)], -1)
        position_S1 = position_S1 + 1
        hidden_SD = model.model(
            input_ids=token_S.unsqueeze(-1),
            attention_mask=seen_ST,
            position_ids=position_S1,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
    return [samples[b * n : (b + 1) * n] for b in range(len(prompts))]


def logprob_gap(model: CausalLM, samples: list[dict], tokens_per_batch: int = 8192) -> float:
    """Mean absolute difference, over the samples' tokens, of the log-probability that the engine recorded and `model`'s.

    A probe for on-policy rounds: a gap well above rounding (1e-5 in fp32, 1e-2 in bf16) means that the engine runs
    other weights or another template than the trainer (trl#5312).
    """
    examples = []
    for sample in samples:
        ids = np.asarray([*sample["prompt_ids"], *sample["answer_ids"]], np.int64)
        scored = np.arange(len(ids)) >= len(sample["prompt_ids"])
        examples.append(Example(sample["id"], sample["lang"], ids, scored))
    own = token_logprobs(model, examples, tokens_per_batch)
    gaps = [np.abs(np.array(sample["answer_logprobs"]) - logp) for sample, logp in zip(samples, own, strict=True)]
    return float(np.concatenate(gaps).mean())
