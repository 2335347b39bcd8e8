"""Documents of grammars that a very small model learns in seconds, and rubbish, as `ray_jobs.experiment.ablate` reads them."""

import numpy as np

from ray_jobs.experiment.ablate import Document, Setting
from train.methods.proxy import ProxyConfig

WORDS, EOD = 22, 47
LANGUAGES = ("aa", "bb")
SHAPE = {
    **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
    **{"intermediate_size": 32, "vocab_size": 48, "tie_word_embeddings": True},
    **{"max_position_embeddings": 64, "rope_theta": 1e4},
}


def setting(steps: int = 80) -> Setting:
    return Setting(SHAPE, 32, EOD, ProxyConfig(steps, rows_per_step=4, micro_rows=4, lr=1e-2, warmup_steps=5))


def documents(rng: np.random.Generator, n: int, tag: str, good: bool = True) -> dict[str, Document]:
    """`n` of each language: walks in its Markov chain, or one to three of its words again and again."""
    found = {}
    for number, lang in enumerate(LANGUAGES):
        chain = _chain(number)
        for i in range(n):
            length = int(rng.integers(20, 60))
            ids = _walk(rng, chain, length) if good else np.resize(rng.integers(WORDS, size=rng.integers(1, 4)), length)
            found[f"{tag}-{lang}-{i}"] = Document(lang, ids + number * (WORDS + 1), 3 * length)
    return found


def sentences(rng: np.random.Generator, good: bool) -> str:
    """Words in a fixed order with a word of chance now and then, or three words again and again."""
    words = [f"{a}{b}" for a in ("ka", "lo", "mi", "tu") for b in ("na", "re", "si", "po")]
    if not good:
        return " ".join(np.resize(rng.permutation(words)[:3], 60))
    first = int(rng.integers(16))
    return " ".join(words[(first + 3 * n) % 16] if rng.random() < 0.8 else words[rng.integers(16)] for n in range(60))


def without(rng: np.random.Generator, corpus: dict[str, Document], share: float) -> dict[str, Document]:
    """Less each document with the odds of `share`."""
    return {key: one for key, one in corpus.items() if rng.random() >= share}


def _chain(number: int) -> np.ndarray:
    """Of each word the distribution function of the next, of which there are four."""
    rng = np.random.default_rng([7, number])
    odds = np.zeros((WORDS, WORDS))
    for word in range(WORDS):
        odds[word, rng.choice(WORDS, 4, replace=False)] = rng.dirichlet(np.ones(4))
    return odds.cumsum(1)


def _walk(rng: np.random.Generator, chain: np.ndarray, length: int) -> np.ndarray:
    found, word = np.empty(length, np.int64), int(rng.integers(WORDS))
    for place in range(length):
        found[place] = word
        word = min(WORDS - 1, int(np.searchsorted(chain[word], rng.random())))
    return found
