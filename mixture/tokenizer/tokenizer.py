"""Byte-level BPE: train one for a set of languages, load any Hugging Face one, encode in batches.

Text is put in Unicode NFC and cut into pieces that no token crosses, exactly as Qwen2 does it (words, single digits, runs
of signs, white space), then byte pairs are merged over UTF-8 (Sennrich et al. 2016; Radford et al. 2019), so every text
can be encoded. Special tokens and chat format (ChatML) are Qwen2.5's too. `train_bpe` merges what is most frequent of all;
mixture.tokenizer.parity what the language needs that is worst off, in pieces of either kind.

Whatever a tokenizer.json says, transformers 5 gives the tokenizer of a `qwen2` model folder Qwen2's pieces. It does so only
where tokenizer_config.json has no `auto_map`; so one with other pieces has one (`KEEP_PIECES`), which is never followed
without `trust_remote_code=True`, and its tokenizer.json is then read as it stands.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from cluster import document_tokens, storage
from cluster.chatml import END_OF_TEXT, IM_END, IM_START, TEMPLATE
from mixture.bpe.patterns import MARKS, QWEN2

SPECIAL = [END_OF_TEXT, IM_START, IM_END]
SETTINGS: dict[str, Any] = {
    "eos_token": END_OF_TEXT,
    "pad_token": END_OF_TEXT,
    "extra_special_tokens": [IM_START, IM_END],
    "clean_up_tokenization_spaces": False,
    "model_max_length": 131_072,
    "chat_template": TEMPLATE,
}
PATTERNS = {"qwen2": QWEN2, "marks": MARKS}
"""How text is cut: by Qwen2's expression, or by Qwen3.5's, which keeps combining marks in the word."""
KEEP_PIECES = {"AutoTokenizer": [None, "own_pieces.Tokenizer"]}
"""`auto_map` of a tokenizer whose pieces are not Qwen2's. There is no such module, and none is asked for: it is not followed."""
MAX_TRAINING_CHARS = 20_000  # of one document: one book must not decide the vocabulary
MAX_TRAINING_LETTERS = 32  # of one piece: without spaces a piece can be a whole line, and training 12 times slower


def sampling_rates(sizes: dict[str, int], budget: int, temperature: float) -> dict[str, float]:
    """Share of each language's bytes that a sample of about `budget` bytes takes: languages stand in it as their bytes to the
    power 1 / `temperature` (1: as they are; larger: more even), and a language smaller than its part is taken whole."""
    sizes = {lang: size for lang, size in sizes.items() if size}
    total = sum(size ** (1 / temperature) for size in sizes.values())
    return {lang: min(1.0, budget * size ** (1 / temperature) / total / size) for lang, size in sizes.items()}


def reading_rates(sizes: dict[str, int], budget: int, temperature: float) -> dict[str, float]:
    """How often each language's text is read so that languages stand as their bytes to the power 1 / `temperature`, whatever
    their sizes: a small one several times. Nothing is left out where all this fits into `budget` bytes."""
    sizes = {lang: size for lang, size in sizes.items() if size}
    rates = {lang: size ** (1 / temperature - 1) for lang, size in sizes.items()}
    whole = 1 / min(rates.values(), default=1.0)
    fits = budget / sum(rate * sizes[lang] for lang, rate in rates.items()) if rates else 0.0
    return {lang: rate * min(whole, fits) for lang, rate in rates.items()}


def times(rate: float, chance: float) -> int:
    """How often a document is read where its language is read `rate` times; `chance`: a hash of it in [0, 1)."""
    return int(rate) + (chance < rate % 1)


def train_bpe(
    texts: Iterable[str], vocab_size: int, folder: str, max_bytes: int = 1 << 30, pieces: str = "qwen2"
) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most `vocab_size` tokens, special ones included, and save it in `folder` (path or URI).

    `texts` are documents, already sampled so that each language has the share that it shall have; reading stops after
    `max_bytes` of UTF-8. `pieces`: a key of PATTERNS. Equal texts give a byte-identical tokenizer.json.
    `AutoTokenizer.from_pretrained(folder)` loads it. Raises ValueError for a vocabulary that does not hold the 256 bytes and the
    special tokens, and without text.
    """
    check_size(vocab_size)
    tokenizer = made_of({}, [], pieces)
    backend = tokenizer.backend_tokenizer
    cut = backend.pre_tokenizer
    letter = r"[\p{L}\p{M}]" if pieces == "marks" else r"\p{L}"
    short = pre_tokenizers.Split(Regex(f"{letter}{{{MAX_TRAINING_LETTERS}}}"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([cut[0], short, cut[1]])  # cut, then map bytes
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    sample = _Sample(texts, max_bytes)
    backend.train_from_iterator(sample, trainer)
    if not sample.bytes:
        raise ValueError("there is no text to train a tokenizer on")
    backend.pre_tokenizer = cut
    with storage.atomic_folder(folder) as local:
        tokenizer.save_pretrained(local)
    return tokenizer


def made_of(vocab: dict[str, int], merges: list[tuple[str, str]], pieces: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a vocabulary and its merges, with ChatML. `pieces`: a key of PATTERNS."""
    if pieces == "qwen2":
        learnt: dict[str, Any] = {"vocab": vocab, "merges": merges} if vocab else {}
        return Qwen2Tokenizer(**learnt, **SETTINGS)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.normalizer, backend.decoder = normalizers.NFC(), decoders.ByteLevel()
    cut = pre_tokenizers.Split(Regex(PATTERNS[pieces]), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, auto_map=KEEP_PIECES, **SETTINGS)


def check_size(vocab_size: int) -> None:
    """Raises ValueError for a vocabulary that does not hold the 256 bytes and the special tokens."""
    least = 256 + len(SPECIAL)
    if vocab_size < least:
        raise ValueError(f"vocab_size must be {least} (bytes and special tokens) or more, not {vocab_size}")


class _Sample:
    """The start of each document, until `max_bytes` are used up; `bytes` counts them."""

    def __init__(self, texts: Iterable[str], max_bytes: int) -> None:
        self.texts = texts
        self.max_bytes = max_bytes
        self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            text = text[:MAX_TRAINING_CHARS]
            self.bytes += len(text.encode())
            yield text
            if self.bytes >= self.max_bytes:
                return


def load(folder_or_name: str) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder (local path or any URI) or of a Hugging Face name. Raises ValueError when there is none."""
    path = folder_or_name
    if storage.exists(path) if "://" in path else os.path.isdir(path):
        path = storage.localize(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder_or_name}: no tokenizer in this folder, nor at Hugging Face by this name") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"{folder_or_name}: only tokenizers with a tokenizer.json are supported")
    return tokenizer


def chat_tokens_lacking(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Of ChatML's two tokens those that the tokenizer does not have."""
    return [token for token in (IM_START, IM_END) if token not in tokenizer.get_vocab()]


def with_chat_tokens(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """`tokenizer` with ChatML's two tokens; those that it lacks get the ids behind its last."""
    lacking = [AddedToken(token, special=True, normalized=False) for token in chat_tokens_lacking(tokenizer)]
    tokenizer.add_tokens(lacking, special_tokens=True)
    return tokenizer


def with_chat_template(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """`tokenizer` with the chat template that the models of a run are trained on, where it knows ChatML.

    Qwen2.5's own would open each chat without a system turn with "You are Qwen", which training never shows.
    """
    if {IM_START, IM_END} <= tokenizer.get_vocab().keys():
        begin = json.dumps(tokenizer.decode(document_tokens.begin(tokenizer)))
        tokenizer.chat_template = TEMPLATE if begin == '""' else f"{{{{- {begin} }}}}{TEMPLATE}"
    return tokenizer


@contextmanager
def letters_only(tokenizer: PreTrainedTokenizerFast) -> Iterator[Tokenizer]:
    """The backend of `tokenizer`, which for so long encodes special tokens in a text as the letters they are made of."""
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        yield backend
    finally:
        backend.encode_special_tokens = before


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[np.ndarray]:
    """Token ids of each text: uint32 arrays. No special token is added, and one that stands in a text is encoded as the
    letters it is made of, so that a web page can not end a document or open a chat turn. Runs on all cores that
    RAYON_NUM_THREADS leaves, or one with TOKENIZERS_PARALLELISM=false."""
    with letters_only(tokenizer) as backend:
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    return [np.array(encoding.ids, np.uint32) for encoding in encodings]
