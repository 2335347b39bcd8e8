"""What a text costs in tokens in each language beside the others (Petrov et al. 2023; Foroutan et al. 2025).

Parallel documents say the same, so a language's cost is its tokens for them over those of the reference language for the same
ones: 2 = twice the compute, half the context. Where there are none, the size of what texts say is estimated by their letters
(`letters`), which is a proxy and called so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import xxhash
from transformers import PreTrainedTokenizerFast

from mixture.tokenizer.encoder import Encoder

Parallel = Mapping[str, Mapping[str, str]]
"""Language -> key of a document -> text; texts with one key say the same."""
HAN, HANGUL = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"), re.compile("[\uac00-\ud7a3]")


def letters(text: str) -> int:
    """The proxy for how much a text says: its characters; a Han character counts 3, a Hangul syllable 2.

    On the news of NTREX-128 it is between .95 (Thai) and 1.25 (Burmese) times that of the same text in English, on the
    Universal Declaration between .8 (Chinese) and 1.45 (Burmese); bytes are between .74 and 3.6. The value of Hangul was not
    measured: a syllable is two or three letters."""
    return len(text) + 2 * len(HAN.findall(text)) + len(HANGUL.findall(text))


def reference(parallel: Parallel) -> str:
    """The language that others are compared with: English, else that of the most documents."""
    return "en" if parallel.get("en") else max(parallel, key=lambda lang: (len(parallel[lang]), lang))


def said(parallel: Parallel) -> dict[str, int]:
    """How much the documents of each language say: bytes of the same documents in the reference language. A language that
    shares no document with it is left out."""
    of = reference(parallel)
    sizes = {key: len(text.encode()) for key, text in parallel[of].items()}
    shared = {lang: sum(sizes.get(key, 0) for key in texts) for lang, texts in parallel.items()}
    return {lang: size for lang, size in shared.items() if size}


def halves(parallel: Parallel) -> tuple[Parallel, Parallel]:
    """The documents that a tokenizer may be made by, and those that it is judged by: every second one, by a hash of its key.

    Raises ValueError for fewer than two documents in two languages, with which there is nothing to compare."""
    shared = Counter(key for texts in parallel.values() for key in texts)
    keys = sorted((key for key, n in shared.items() if n > 1), key=lambda key: xxhash.xxh3_64_intdigest(key.encode()))
    if len(keys) < 2:
        raise ValueError(f"parallel documents: {len(keys)} in more than one language, and two are needed at least")
    return _of_keys(parallel, keys[::2]), _of_keys(parallel, keys[1::2])


def _of_keys(parallel: Parallel, keys: Sequence[str]) -> Parallel:
    some = {lang: {key: texts[key] for key in keys if key in texts} for lang, texts in parallel.items()}
    return {lang: texts for lang, texts in some.items() if texts}


def token_costs(tokenizers: Mapping[str, PreTrainedTokenizerFast], parallel: Parallel) -> list[dict]:
    """A row for each language and tokenizer: `documents` that it shares with the reference language, the `tokens` of one on
    average, and `cost`, these over those of the reference language."""
    of, rows = reference(parallel), []
    for name, tokenizer in tokenizers.items():
        encoder = Encoder(tokenizer)
        counts = {lang: _counts(encoder, texts) for lang, texts in parallel.items()}
        for lang in sorted(counts):
            keys = [key for key in counts[lang] if key in counts[of]]
            tokens, theirs = (sum(counts[side][key] for key in keys) for side in (lang, of))
            if theirs:
                values = {"documents": len(keys), "tokens": tokens / len(keys), "cost": tokens / theirs}
                rows.append({"tokenizer": name, "lang": lang, "against": of, **values})
    return rows


def _counts(encoder: Encoder, texts: Mapping[str, str]) -> dict[str, int]:
    ids = encoder.encode(pa.array(list(texts.values()), pa.string()))
    return dict(zip(texts, map(len, ids), strict=True))


def gini(costs: Sequence[float]) -> float:
    """Gini coefficient: 0 when all pay the same, near 1 when one pays all."""
    x = np.sort(np.asarray(costs, float))
    return float((2 * np.arange(1, len(x) + 1) - len(x) - 1) @ x / (len(x) * x.sum()))


def parity(rows: Sequence[dict]) -> list[dict]:
    """Of `token_costs`, a row for each tokenizer: the Gini coefficient of its costs, the greatest over the least, and the
    tokens of all documents."""
    summed = []
    for name in dict.fromkeys(row["tokenizer"] for row in rows):
        mine = [row for row in rows if row["tokenizer"] == name]
        costs = [row["cost"] for row in mine]
        tokens = round(sum(row["tokens"] * row["documents"] for row in mine))
        spread = {"gini": gini(costs), "max_over_min": max(costs) / min(costs)}
        summed.append({"tokenizer": name, **spread, "tokens": tokens})
    return summed
