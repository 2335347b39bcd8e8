"""Tokens per second of our sampling beside `transformers`' `generate`, same model, prompts and settings, in one run on CPU.

    python benchmarks/alignment_generate.py [ROUNDS]

A model of 4 layers and width 256 with Qwen2.5's vocabulary (151,936), 4 prompts of unequal length padded on the left, 4 samples
each at temperature 0.9 and top-p 0.95, 12 tokens. Logits are spread as a trained model's, where few tokens hold 0.95; one row
has flat ones, where 100,000 do. Rounds alternate; medians of the CPU time of this process, on one thread. Where answers end at
unequal lengths (every 8th token on average) tokens up to the end count.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
import transformers
from table import row, write
from transformers import AutoModelForCausalLM

from train import model
from train.generation.generate import Sampling, sample_batch

SHAPE = {
    "vocab_size": 151_936,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
PROMPT_TOKENS = (20, 41, 64, 97)
SAMPLES, NEW_TOKENS = 4, 12


def prompts() -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(0, SHAPE["vocab_size"], (n,), generator=draw).tolist() for n in PROMPT_TOKENS]


def ours(net, stop: list[int], sampling: Sampling) -> int:
    names = [f"prompt {i}" for i in range(len(PROMPT_TOKENS))]
    drawn = sample_batch(net, prompts(), names, stop, sampling)
    return sum(len(sample.ids) for of_prompt in drawn for sample in of_prompt)


def theirs(net, stop: list[int], sampling: Sampling) -> int:
    longest, ids = max(PROMPT_TOKENS), prompts()
    input_ids = torch.tensor([[0] * (longest - len(p)) + p for p in ids])
    seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in ids])
    torch.manual_seed(0)
    with torch.no_grad():
        found = net.generate(
            input_ids,
            attention_mask=seen,
            do_sample=sampling.temperature > 0,
            temperature=sampling.temperature or None,
            top_p=sampling.top_p,
            top_k=0,
            num_return_sequences=sampling.n,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=stop or None,
            pad_token_id=0,
        )[:, longest:]
    ends = torch.isin(found, torch.tensor(stop, dtype=torch.int64))
    first = torch.where(ends.any(-1), ends.int().argmax(-1) + 1, found.shape[-1])
    return int(first.sum())


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    net = model.build(SHAPE)
    reference = AutoModelForCausalLM.from_config(net.config, attn_implementation="sdpa").eval()
    reference.load_state_dict(net.state_dict())
    sampling = Sampling(n=SAMPLES, temperature=0.9, top_p=0.95, max_new_tokens=NEW_TOKENS)
    greedy = Sampling(n=1, temperature=0, max_new_tokens=NEW_TOKENS)
    often = list(range(0, SHAPE["vocab_size"], 8))
    name = f"transformers {transformers.__version__} generate"
    cases = (  # title, spread of the logits, stop tokens, settings
        ("answers of one length", 20.0, [], sampling),
        ("answers that end at unequal lengths", 20.0, often, sampling),
        ("greedy, one answer a prompt", 20.0, [], greedy),
        ("answers of one length, flat logits", 1.0, [], sampling),
    )
    rows = []
    for title, spread, stop, how in cases:
        for one in (net, reference):
            torch.nn.init.constant_(one.model.norm.weight, spread)
        rates: dict = {ours: [], theirs: []}
        for _ in range(rounds):
            for sample, of in ((ours, net), (theirs, reference)):
                start = time.process_time()
                tokens = sample(of, stop, how)
                rates[sample].append(tokens / (time.process_time() - start))
        mine, other = (statistics.median(rates[sample]) for sample in (ours, theirs))
        rows.append(row(title, "tokens / CPU s", mine, peer=(name, other)))
    write("alignment-generate", rows, tuned_on="nothing")


if __name__ == "__main__":
    main()
