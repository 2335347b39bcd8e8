"""The encoder of the tokenize stage: `mixture.bpe.encode` where it can, `tokenizers` where it must, the same ids from both."""

from __future__ import annotations

import hashlib
import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerFast

from cluster import document_tokens
from mixture.bpe.encode import ByteLevelBPE, Unsupported
from mixture.tokenizer.tokenizer import encode

log = logging.getLogger(__name__)


class Encoder:
    """Texts -> ids of a Hugging Face tokenizer, as `mixture.tokenizer.tokenizer.encode` gives them, by the column.

    A tokenizer that `mixture.bpe.encode` does not know, and a document that holds one of its added tokens that are not special
    (Qwen2.5's `<tool_call>` is one), is left to `tokenizers`. So the ids are equal always; a special token that stands in a
    document is letters, one that is added but not special is that token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, dropout: float = 0.0, seed: int = 0) -> None:
        """`dropout`: probability of BPE-dropout (Provilkov et al. 2020); `seed` of it. Raises ValueError when the tokenizer
        does not allow it."""
        self.tokenizer, self.dropout, self.seed = tokenizer, dropout, seed
        self.begin = document_tokens.begin(tokenizer)
        try:
            self.fast: ByteLevelBPE | None = ByteLevelBPE.of(tokenizer)
        except Unsupported as reason:
            if dropout > 0:
                raise ValueError(f"tokenize.dropout: not with this tokenizer: {reason}") from reason
            log.warning("the tokenizer is left to the tokenizers library, which is slower: %s", reason)
            self.fast = None

    def encode(
        self, texts: pa.Array | pa.ChunkedArray, doc_ids: pa.Array | pa.ChunkedArray | None = None
    ) -> pa.ListArray:
        """The ids of each text, list<uint32>. With dropout, `doc_ids` (strings) say where each document's chances come from:
        a document has the same tokens in any batch. Documents left to `tokenizers` are encoded without dropout."""
        if self.fast is None:
            return pa.array(encode(self.tokenizer, texts.to_pylist()), pa.list_(pa.uint32()))
        ids, ends = self.fast.encode(texts, self.dropout, self._seeds(doc_ids) if self.dropout else None)
        encoded = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(ids))
        marked = np.flatnonzero(self.fast.marked(texts))
        if not len(marked):
            return encoded
        theirs = encode(self.tokenizer, pc.take(texts, pa.array(marked)).to_pylist())
        order = np.arange(len(encoded))
        order[marked] = len(encoded) + np.arange(len(marked))
        return pa.concat_arrays([encoded, pa.array(theirs, encoded.type)]).take(pa.array(order))

    def documents(
        self, texts: pa.Array | pa.ChunkedArray, doc_ids: pa.Array | pa.ChunkedArray | None = None
    ) -> pa.ListArray:
        """The ids of each text as a document: behind the tokens that the tokenizer puts before a text, where it has any."""
        tokens, begin = self.encode(texts, doc_ids), self.begin
        if not begin:
            return tokens
        ends = tokens.offsets.to_numpy() - tokens.offsets[0].as_py()
        flat = np.insert(tokens.flatten().to_numpy(), np.repeat(ends[:-1], len(begin)), np.tile(begin, len(tokens)))
        return pa.ListArray.from_arrays(pa.array(ends + len(begin) * np.arange(len(ends)), pa.int32()), pa.array(flat))

    def _seeds(self, doc_ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        key = self.seed.to_bytes(8, "little")
        digests = (hashlib.blake2b(i.encode(), digest_size=8, key=key).digest() for i in doc_ids.to_pylist())
        return np.frombuffer(b"".join(digests), np.uint64).copy()  # writable, or numba compiles anew
