"""What a model writes after the beginning of a text: seeded, from the nucleus, without halves of characters.

The most likely continuation of a small model runs in circles; a draw from the nucleus (`train.generation.nucleus`) does not,
and the seed makes it the same in each run.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from cluster import document_tokens
from train.batches.decoder import CausalLM
from train.generation.generate import Sampling, sample_batch

BROKEN = "\ufffd"  # what a decoder puts where bytes are no character


def continuations(
    model: CausalLM, tokenizer: PreTrainedTokenizerBase, prompts: dict[str, str], sampling: Sampling
) -> dict[str, str]:
    """{name: what the model writes after the text of that name, up to its end token}. `sampling.n` is 1.

    The model is left in evaluation mode.
    """
    assert sampling.n == 1
    model.eval()
    begin, end = document_tokens.begin(tokenizer), document_tokens.end(tokenizer)
    found = {}
    names = sorted(prompts)
    for first in range(0, len(names), sampling.batch_size):
        some = names[first : first + sampling.batch_size]
        ids = [begin + tokenizer.encode(prompts[name], add_special_tokens=False) or [end] for name in some]
        for name, (drawn,) in zip(some, sample_batch(model, ids, some, [end], sampling), strict=True):
            text = tokenizer.decode([token for token in drawn.ids if token != end], skip_special_tokens=True)
            assert isinstance(text, str)  # of one sequence
            found[name] = text.rstrip(BROKEN)  # the last character may lack the bytes that were not drawn any more
    return found
