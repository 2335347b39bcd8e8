"""How documents begin and end in the tokens of a base, as its tokenizer says; the same in training, evaluation and generation.

Llama 3, Gemma and Mistral were trained with a token before each document and are lost without it (a toy Llama: 2.1 against 11
bits a token); Qwen and OLMo were not. An instruct model's `eos_token` ends a turn; a document ends with another token.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

ENDS = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "<|eos|>", "<|eod|>", "<|endofdocument|>", "<EOS_TOKEN>")
"""What tokenizers call the end of a document, the more usual first."""


def begin(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the tokenizer puts before a text by itself; none for most."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return list(whole[:start])
    return []


def end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a document: `eos_token`, or, where that ends a turn of a chat, the special token that is named so.

    Raises ValueError for a tokenizer that has neither."""
    if tokenizer.eos_token in ENDS:
        return tokenizer.eos_token_id
    special = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    found = next((special[name] for name in ENDS if name in special), tokenizer.eos_token_id)
    if found is None:
        raise ValueError("The tokenizer has no end-of-text token; set eos_token in its tokenizer_config.json.")
    return found
