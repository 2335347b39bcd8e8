"""Sampling answers with the training model itself: engine "hf", batched, with a KV cache, on CPU or GPU; and what every
engine shares: the settings, the rows that answers become, and the probe that compares an engine with the trainer.

Token t of sample k to a prompt is drawn by inverting the cumulative distribution of its nucleus (`nucleus`) at u(seed, prompt
id, k, t). So what is sampled depends on the seed, the prompt and the model, not on its neighbours in the batch (up to rounding
of the logits, which may differ in the last bit between batch shapes) nor on how prompts are spread over workers.

Axes: B prompt, S sample (prompt-major, n per prompt), T token of the answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from cluster import document_tokens
from train.batches.decoder import CausalLM
from train.batches.examples import Example
from train.chat.conversations import encode_prompts
from train.chat.tokens import im_end_id
from train.generation.decode import decode
from train.scores.logprobs import token_logprobs


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


def sample_batch(
    model: CausalLM, prompts: list[list[int]], names: list[str], stop: list[int], sampling: Sampling
) -> list[list[Drawn]]:
    """The n samples of each prompt."""
    n = sampling.n
    u_ST = torch.from_numpy(
        np.stack([uniforms(sampling.seed, name, k, sampling.max_new_tokens) for name in names for k in range(n)])
    )
    samples = [Drawn(*of) for of in decode(model, prompts, u_ST, n, stop, sampling.temperature, sampling.top_p)]
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
