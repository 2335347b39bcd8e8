"""The tokens that a draft may propose: a part of the target's vocabulary, balanced over languages.

The head is most of a small draft, so it is cut to the tokens that texts need. What is cut away can never be proposed: there a
run of accepted tokens ends, though the text stays right. Counted over all texts together, the largest language decides: the
32,000 tokens most frequent in English cover 33 to 50 % of Lao, Thai, Burmese, Khmer and Vietnamese (Qwen's tokenizer). So a
token's worth is the sum over languages of its share of the language's tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np


def balanced(counts: Mapping[str, np.ndarray], size: int, always: Collection[int] = ()) -> np.ndarray:
    """The `size` tokens of the highest worth, ascending, int64; those of `always` are among them.

    `counts`: language -> how often each token of the target's vocabulary [V] was seen in its texts. Of equal worth the lower
    number goes first. Raises ValueError where no token was counted, and for a size that does not hold `always`.
    """
    seen = {lang: of.astype(np.float64) for lang, of in counts.items() if of.sum()}
    if not seen:
        raise ValueError("A draft vocabulary needs texts to count, and there is none.")
    worth_V = np.sum([of / of.sum() for of in seen.values()], axis=0)
    worth_V[list(always)] = np.inf
    if not len(set(always)) <= size:
        raise ValueError(f"A draft vocabulary of {size} does not hold the {len(set(always))} tokens that it must have.")
    return np.sort(np.argsort(-worth_V, kind="stable")[:size])


def coverage(counts: Mapping[str, np.ndarray], vocabulary: np.ndarray) -> dict[str, float]:
    """Of each language the share of its tokens that are in `vocabulary`."""
    return {lang: float(of[vocabulary].sum() / of.sum()) for lang, of in sorted(counts.items()) if of.sum()}


def count(texts: Mapping[str, Collection[np.ndarray]], vocabulary_size: int) -> dict[str, np.ndarray]:
    """How often each token is in the tokenised `texts` of each language: language -> [V]."""
    return {
        lang: np.bincount(np.concatenate([np.zeros(0, np.int64), *of]), minlength=vocabulary_size)
        for lang, of in sorted(texts.items())
    }


def numbers(vocabulary: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Of each token of the target its number in the draft's vocabulary, -1 where it has none: int64 [V]."""
    found = np.full(vocabulary_size, -1, np.int64)
    found[vocabulary] = np.arange(len(vocabulary))
    return found
