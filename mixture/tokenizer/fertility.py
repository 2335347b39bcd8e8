"""Fertility: tokens that a tokenizer needs for a word of each language (Rust et al. 2021), and bytes that a token holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from mixture.tokenizer.encoder import Encoder

FERTILITY = pa.schema(
    [
        ("lang", pa.string()),
        ("tokenizer", pa.string()),
        ("documents", pa.int64()),
        ("bytes", pa.int64()),
        ("words", pa.int64()),
        ("tokens", pa.int64()),
        ("bytes_per_token", pa.float64()),
        ("tokens_per_word", pa.float64()),
    ]
)
"""`bytes_per_token`: more is better; `tokens_per_word`, the fertility: less is better. Null without tokens or words."""


def fertility(
    tokenizers: Mapping[str, PreTrainedTokenizerFast],
    texts: Mapping[str, Sequence[str]],
    words: Mapping[str, int] | None = None,
) -> pa.Table:
    """A row (FERTILITY) for each language and tokenizer. `tokenizers`: by the name to give them; `texts`: documents of each
    language; `words`: how many words these have, by whatever cuts words in that language."""
    encoders = {name: Encoder(tokenizer) for name, tokenizer in tokenizers.items()}
    rows = []
    for lang in sorted(texts):
        n_bytes = sum(len(text.encode()) for text in texts[lang])
        n_words = (words or {}).get(lang)
        for name, encoder in encoders.items():
            n_tokens = len(encoder.encode(pa.array(texts[lang], pa.string())).values)
            per_token = n_bytes / n_tokens if n_tokens else None
            per_word = n_tokens / n_words if n_words else None
            rows.append((lang, name, len(texts[lang]), n_bytes, n_words, n_tokens, per_token, per_word))
    return pa.Table.from_pylist([dict(zip(FERTILITY.names, row, strict=True)) for row in rows], schema=FERTILITY)
