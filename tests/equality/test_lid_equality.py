"""The kernels of n-grams and words against plain Python: the same features, sums, passages and votes on texts of every script."""

import random

import numpy as np
import pyarrow as pa

from curation.lid.model import PREFIX_CHARS, LanguageModel
from curation.lid.ngrams import (
    BOUNDARY,
    FOLD,
    HAN,
    LATIN_ADDITIONAL,
    LONGEST_NGRAM,
    MAX_WORD,
    PASSAGE_LETTERS,
    SEPARATOR,
    SKIPPED,
    THAI,
    claim,
    passage_scores,
    text_ngrams,
    text_words,
)
from curation.text.form import one_form
from curation.text.units import text_buffers

BITS, WORD_BITS = 14, 16
U64 = (1 << 64) - 1
ALPHABETS = [
    "abcdeñéĐđ ưạ-'.",
    "กขคงแ็่้ าำ",
    "ກຂຄງແ້່ າ",
    "កខគ្ើ់ ា",
    "ကခဂ္ိုး် ါ",
    "汉字语言文 ，。",
    "дежз йё",
    "😀🌊1234 \u200b\ufeff",
]


def texts() -> list[str]:
    rng = random.Random(4)
    made = ["", "\n", "a", "\n\nab\n", "é" * 100, "x" * 3000, "ก" * 500, "a\n" * 400]
    for _ in range(120):
        letters = rng.choice(ALPHABETS) + "\n"
        made.append(one_form("".join(rng.choice(letters) for _ in range(rng.randrange(1500)))))
    return made


def hashed(letters: list[int]) -> int:
    h = 0x14650FB0739D0383
    for letter in letters:
        h = (h ^ letter) * 0x9E3779B97F4A7C15 & U64
    h ^= h >> 29
    h = h * 0xBF58476D1CE4E5B9 & U64
    return h ^ h >> 32


def word_hash(word: list[int]) -> int | None:
    """None for a run of a script without spaces."""
    if THAI <= word[0] < LATIN_ADDITIONAL or word[0] >= HAN:
        return None
    return hashed(word) | 1 << 32


def word_ngrams(word: list[int]) -> list[int]:
    framed = [BOUNDARY, *word, BOUNDARY]
    ids = []
    for first in range(len(framed)):
        for n in range(1, LONGEST_NGRAM + 1):
            if first + n <= len(framed) and not (n == 1 and framed[first] == BOUNDARY):
                ids.append(hashed(framed[first : first + n]) & ((1 << BITS) - 1))
    return ids


def word_table(
    made: list[str], rng: np.random.Generator, width: int
) -> tuple[dict[int, np.ndarray], np.ndarray, np.ndarray]:
    """Weights of every second word of these texts: by its hash, and as the model has them (owners, rows)."""
    every = sorted({h for text in made for word in words(text) if (h := word_hash(word)) is not None})[::2]
    owners, rows = claim(np.array(every, np.uint64), WORD_BITS)
    table = np.zeros((1 << WORD_BITS, width), np.int16)
    table[rows] = rng.integers(-9000, 9000, (len(every), width))
    return dict(zip(every, table[rows].astype(np.int64), strict=True)), owners, table


def words(text: str) -> list[list[int]]:
    found, word = [], []
    for character in text + " ":
        letter = int(FOLD[ord(character)])
        if letter == SKIPPED:
            continue
        if letter != SEPARATOR:
            word.append(letter)
        if word and (letter == SEPARATOR or len(word) == MAX_WORD):
            found.append(word)
            word = []
    return found


def naive_passages(text: str) -> list[list[list[int]]]:
    """Words of each passage of the prefix."""
    passages, waiting = [], []
    lines = text[:PREFIX_CHARS].split("\n")
    for number, line in enumerate(lines):
        waiting += words(line)
        enough = sum(map(len, waiting)) >= PASSAGE_LETTERS
        if waiting and (enough or number == len(lines) - 1):
            if not enough and passages:
                passages[-1] += waiting
            else:
                passages.append(waiting)
            waiting = []
    if waiting:
        passages[-1:] = [passages[-1] + waiting] if passages else [waiting]
    return passages


def summed(passage: list[list[int]], weights: np.ndarray, of_word: dict[int, np.ndarray]) -> tuple[np.ndarray, int]:
    """(Sum of the weights of n-grams and words, number of n-grams)."""
    ids = [one for word in passage for one in word_ngrams(word)]
    total = weights[ids].sum(axis=0, dtype=np.int64)
    for word in passage:
        h = word_hash(word)
        total = total + (of_word.get(h, 0) if h is not None else 0)
    return total, len(ids)


def test_ngrams_and_words():
    made = texts()
    pointers, ids = text_ngrams(*text_buffers(pa.array(made)), BITS)
    for i, text in enumerate(made):
        expected = [one for word in words(text) for one in word_ngrams(word)]
        assert ids[pointers[i] : pointers[i + 1]].tolist() == expected, text[:50]
    owners, hashes = text_words(*text_buffers(pa.array(made)))
    expected = [(i, h) for i, text in enumerate(made) for word in words(text) if (h := word_hash(word)) is not None]
    assert list(zip(owners.tolist(), hashes.tolist(), strict=True)) == expected


def test_sums_of_passages():
    made = texts()
    rng = np.random.default_rng(0)
    weights = rng.integers(-9000, 9000, (1 << BITS, 5)).astype(np.int16)
    of_word, word_owners, word_rows = word_table(made, rng, 5)
    assert len(of_word) > 1000
    most = len(made) * (PREFIX_CHARS // PASSAGE_LETTERS + 1)
    sums = np.zeros((most, 5), np.int32)
    features, letters, owners = (np.zeros(most, np.int32) for _ in range(3))
    data, offsets = text_buffers(pa.array(made))
    tables = weights, word_owners, word_rows
    n = passage_scores(data, offsets, FOLD, PREFIX_CHARS, *tables, sums, features, letters, owners)
    p = 0
    for i, text in enumerate(made):
        for passage in naive_passages(text):
            total, count = summed(passage, weights, of_word)
            assert owners[p] == i
            assert (features[p], letters[p]) == (count, sum(map(len, passage))), text[:50]
            np.testing.assert_array_equal(sums[p], total)
            p += 1
    assert p == n


def softmax(z: np.ndarray) -> np.ndarray:
    raised = np.exp(z - z.max())
    return raised / raised.sum()


def naive_label(model: LanguageModel, of_word: dict[int, np.ndarray], text: str) -> tuple[int, float, np.ndarray]:
    """(label, share, probabilities) by the rules that `curation.lid.model` states, alphabet left out."""

    def probability(parts):
        n = sum(count for _, count, _ in parts)
        z = sum(total for total, _, _ in parts) * model.scale / np.sqrt(n)
        return softmax(model.temperature[0] * n ** model.temperature[1] * z), z

    parts = []
    for passage in naive_passages(text):
        parts.append((*summed(passage, model.weights, of_word), sum(map(len, passage))))
    if not parts:
        return len(model.labels) - 1, 0.0, np.zeros(len(model.labels))
    sure = [int(p.argmax()) if (p := probability([part])[0]).max() >= 0.9 else None for part in parts]
    whole = sum(letters for _, _, letters in parts)
    votes = [sum(part[2] for part, one in zip(parts, sure, strict=True) if one == c) for c in range(len(model.labels))]
    unsure = whole - sum(votes)
    lang = int(probability(parts)[1].argmax())
    if max(votes) > votes[lang] + unsure:
        lang = int(np.argmax(votes))
    mine = [part for part, one in zip(parts, sure, strict=True) if one in (lang, None)]
    return lang, sum(part[2] for part in mine) / whole, probability(mine)[0]


def test_votes_of_lines():
    rng = np.random.default_rng(1)
    weights = rng.normal(0, 0.3, (1 << BITS, 4)).astype(np.float32)
    labels = ("a", "b", "c", "other")
    made = texts()
    of_word, owners, rows = word_table(made, rng, 4)
    alphabet = np.full(len(FOLD), 7, np.uint64)
    model = LanguageModel.of_floats(labels, weights, owners, (rows / 30_000).astype(np.float32), alphabet)
    rounded = dict(
        zip(of_word, model.words[claim(np.array(list(of_word), np.uint64), WORD_BITS)[1]].astype(np.int64), strict=True)
    )
    model.temperature = (2.0, 0.1)
    found = model.predict(pa.array(made))
    expected = [naive_label(model, rounded, text) for text in made]
    assert found.best.tolist() == [label for label, _, _ in expected]
    np.testing.assert_allclose(found.share, [share for _, share, _ in expected], rtol=1e-6)
    np.testing.assert_allclose(found.probabilities, [p for _, _, p in expected], rtol=1e-4, atol=1e-6)
    assert (found.share < 1).sum() > 10, "some of the texts have lines of several labels"
