"""A tokenizer for rows that begin with an anchor (train/batches/long_rows.py), and the bytes that tokens stand for."""

from __future__ import annotations

import numpy as np
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from cluster import document_tokens
from mixture.tokenizer.tokenizer import letters_only, with_chat_template


def encode_with_bytes(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[int], list[int]]:
    """As `tokenizer.encode` of one text, and how many UTF-8 bytes of it each token stands for; they add up to those of the text.

    A token that is a part of a character has none, unless it is the first of it."""
    with letters_only(tokenizer) as backend:
        encoding = backend.encode(text, add_special_tokens=False)
    bytes_before = np.append(0, np.cumsum([len(letter.encode()) for letter in text]))
    ends = np.maximum.accumulate([0, *(end for _, end in encoding.offsets)])
    if len(ends) > 1:
        ends[-1] = len(text)
    return encoding.ids, np.diff(bytes_before[ends]).tolist()


def anchor(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that all documents of a row may share: what the tokenizer puts before a text, else its end of a document."""
    return [*document_tokens.begin(tokenizer), document_tokens.end(tokenizer)][0]


def with_anchor(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """`tokenizer`, which from now on puts the anchor before each text and each chat, as the rows of training had it: `bos_token`,
    its post-processor and the chat template say so. One that begins texts by itself stays as it is."""
    if document_tokens.begin(tokenizer):
        return tokenizer
    number = anchor(tokenizer)
    name = str(tokenizer.convert_ids_to_tokens(number))
    tokenizer.bos_token = name
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{name} $A", pair=f"{name} $A {name} $B", special_tokens=[(name, number)]
    )
    return with_chat_template(tokenizer)
