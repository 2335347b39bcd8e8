"""Train a byte-level BPE in which all languages pay alike, and one whose pieces keep combining marks with their letters.

The merges are those of `mixture.bpe.learn`: each for the language that is worst off by its tokens for parallel documents, or,
without such, by its tokens for the training texts and the letters of these (`cost.letters`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from cluster import storage
from mixture.bpe import nfc, patterns, pretokenize
from mixture.bpe.encode import buffers, byte_symbols
from mixture.bpe.learn import MEASURED, TRAINED, Learnt, Pieces, learn
from mixture.tokenizer import cost
from mixture.tokenizer.tokenizer import MAX_TRAINING_CHARS, PATTERNS, SPECIAL, check_size, made_of

BATCH_BYTES = 500_000  # of a language that are counted at a time


def train_parity(
    texts: Iterable[tuple[str, str]],
    vocab_size: int,
    folder: str,
    max_bytes: int = 1 << 30,
    *,
    parallel: cost.Parallel | None = None,
    pieces: str = "qwen2",
) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most `vocab_size` tokens on pairs of language and text, and save it in `folder` (path or URI).

    Reading stops after `max_bytes` of UTF-8. `parallel`: documents by which it is judged who is worst off; they are not
    trained on. A language that is not among them has its turn by the letters of its training texts, set against the letters of
    the parallel ones. `pieces`: a key of PATTERNS. The same texts in the same order give a byte-identical tokenizer.json.
    Raises ValueError as `train_bpe`."""
    check_size(vocab_size)
    counted, letters = _counted(texts, max_bytes, PATTERNS[pieces])
    if not counted:
        raise ValueError("there is no text to train a tokenizer on")
    parallel = {lang: of_lang for lang, of_lang in (parallel or {}).items() if lang in counted}
    said = cost.said(parallel) if parallel else {}
    for lang, of_lang in counted.items():
        if lang in said:
            _count(of_lang, list(parallel[lang].values()), MEASURED)
        else:
            of_lang.counts[:, MEASURED] = of_lang.counts[:, TRAINED]
    langs = sorted(counted)
    norms = np.array([said.get(lang, letters[lang]) for lang in langs], float)
    learnt = learn([counted[lang] for lang in langs], norms, vocab_size - 256 - len(SPECIAL))
    tokenizer = _tokenizer(learnt, pieces)
    with storage.atomic_folder(folder) as local:
        tokenizer.save_pretrained(local)
    return tokenizer


def _counted(
    texts: Iterable[tuple[str, str]], max_bytes: int, pattern: str
) -> tuple[dict[str, Pieces], dict[str, int]]:
    """The pieces of each language in the start of each document, until `max_bytes` are used up, and the letters of these."""
    rules = patterns.RULES[pattern]
    tables = pretokenize.tables(rules.any_case, rules.marks)
    counted: dict[str, Pieces] = {}
    letters: dict[str, int] = defaultdict(int)
    waiting: dict[str, list[str]] = defaultdict(list)
    sizes: dict[str, int] = defaultdict(int)
    used = 0
    for lang, whole in texts:
        text = whole[:MAX_TRAINING_CHARS]
        if not text:
            continue
        size = len(text.encode())
        used, sizes[lang] = used + size, sizes[lang] + size
        letters[lang] += cost.letters(text)
        waiting[lang].append(text)
        if sizes[lang] >= BATCH_BYTES:
            _count(counted.setdefault(lang, Pieces(tables, rules)), waiting.pop(lang), TRAINED)
            sizes[lang] = 0
        if used >= max_bytes:
            break
    for lang, rest in waiting.items():
        _count(counted.setdefault(lang, Pieces(tables, rules)), rest, TRAINED)
    return counted, letters


def _count(pieces: Pieces, texts: list[str], kind: int) -> None:
    pieces.add(*nfc.normalise(*buffers(pa.array(texts, pa.large_string())), nfc.tables()), kind)


def _tokenizer(learnt: Learnt, pieces: str) -> PreTrainedTokenizerFast:
    """Special tokens, bytes, then what was learnt: the ids of `train_bpe`."""
    symbol = {byte: char for char, byte in byte_symbols().items()}
    names = [symbol[byte] for byte in range(256)]
    names += ["".join(symbol[byte] for byte in token) for token in learnt.tokens]
    ordered = [*SPECIAL, *sorted(names[:256]), *names[256:]]
    vocab = {name: i for i, name in enumerate(ordered)}
    merges = [(names[left], names[right]) for left, right in learnt.pairs_M2.tolist()]
    return made_of(vocab, merges, pieces)
