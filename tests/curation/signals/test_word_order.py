"""word_order: real text beside the same words shuffled, in languages with and without spaces, and a plain twin."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from curation.signals import word_order
from curation.signals.text_signals import signals_kernel
from curation.text.words import split_words


def documents(rng: random.Random, count: int, sites: int = 3) -> tuple[list[str], list[str]]:
    """Texts of a small grammar with 150 nouns, and their sites; each site has nouns of its own."""
    texts, groups = [], []
    for i in range(count):
        site = i % sites
        nouns = [f"noun{chr(97 + n % 26)}{chr(97 + n // 26)}{chr(97 + site)}" for n in range(150)]
        sentences = []
        for _ in range(rng.randint(6, 14)):
            kind = rng.choice(
                ["the {} of the {} is in the {}", "a {} has been to a {}", "we see that {} and {} are here"]
            )
            sentences.append(kind.format(*rng.choices(nouns, k=3)))
        texts.append(". ".join(sentences) + ".")
        groups.append(f"site{site}")
    return texts, groups


def measured(texts: list[str], order: word_order.Order | None) -> list[float | None]:
    ids = [str(i) for i in range(len(texts))]
    batch = pa.record_batch({"doc_id": ids, "url": ids, "text": texts, "lang": ["en"] * len(ids)})
    return signals_kernel(["en"], None, {"en": order} if order else None)(batch)[0]["word_order"].to_pylist()


def shuffled(rng: random.Random, text: str) -> str:
    words = split_words(text)
    rng.shuffle(words)
    return " ".join(words)


def twin(text: str, classes: dict[str, int], scores: np.ndarray) -> float:
    found = [classes.get(word, 0) for word in split_words(text)]
    beside = [scores[pair] for pair in pairwise(found)]
    apart = [scores[a, b] for lag in (3, 5, 7, 9) for a, b in zip(found, found[lag:], strict=False)]
    return float(np.mean(beside) - np.mean(apart))


def test_text_has_an_order_and_its_words_shuffled_have_none():
    rng = random.Random(4)
    texts, groups = documents(rng, 200)
    order = word_order.learn(pa.array(texts, pa.large_string()), groups)
    unseen, _ = documents(rng, 40)
    good = measured(unseen, order)
    salad = measured([shuffled(rng, text) for text in unseen], order)
    assert min(good) > 0.4 and 0.7 < np.median(good) < 1.4
    assert max(salad) < 0.3 and abs(np.median(salad)) < 0.1


def test_equals_the_twin():
    rng = random.Random(5)
    texts, groups = documents(rng, 120)
    order = word_order.learn(pa.array(texts, pa.large_string()), groups)
    frequent = Counter(word for text in texts for word in split_words(text))
    hashes = {
        word: int(word_order._sequences(*word_order.text_buffers(pa.array([word])), word_order.alphabet())[0][0])
        for word in frequent
    }
    classes = {word: int(np.searchsorted(order.hashes, h)) + 1 for word, h in hashes.items() if h in order.hashes}
    assert len(classes) == word_order.CLASSES - 1
    assert min(frequent[w] for w in classes) >= max(c for w, c in frequent.items() if w not in classes)
    for text, value in zip(texts[:20], measured(texts[:20], order), strict=True):
        both = [twin(text, classes, scores) / order.usual for scores in order.scores]
        assert min(abs(value - expected) for expected in both) < 1e-5


def test_nothing_is_learnt_from_too_little_or_from_no_order():
    rng = random.Random(6)
    texts, groups = documents(rng, 200)
    assert word_order.learn(pa.array(texts[:15], pa.large_string()), groups[:15]) is None
    salad = [shuffled(rng, text) for text in texts]
    assert word_order.learn(pa.array(salad, pa.large_string()), groups) is None
    assert word_order.learn(pa.array([""] * 5, pa.large_string()), [""] * 5) is None
    assert measured(texts[:2], None) == [None, None]


def test_a_short_document_has_no_value():
    texts, groups = documents(random.Random(7), 200)
    order = word_order.learn(pa.array(texts, pa.large_string()), groups)
    assert measured(["the noun of the noun is in the noun", "", "a b"], order) == [None] * 3


def test_half_of_rubbish_does_not_hide_it():
    rng = random.Random(8)
    texts, groups = documents(rng, 200)
    mixed = [shuffled(rng, text) if i % 2 else text for i, text in enumerate(texts)]
    order = word_order.learn(pa.array(mixed, pa.large_string()), groups)
    values = measured(mixed, order)
    assert np.median(values[1::2]) < 0.2 < np.min(values[::2])


@pytest.mark.parametrize("largest", [1, 40])
def test_the_largest_site_does_not_decide_what_is_usual(largest):
    """A site of formulas, many times the size of another, leaves the other's texts above the bound of the policy."""
    rng = random.Random(9)
    texts, groups = documents(rng, 100, sites=1)
    formula = "it is said in the book that of all the men and of all the days there is one that he has seen. "
    texts += [formula * 3 + shuffled(rng, text)[:80] for text in texts[:25]] * largest
    groups += ["formulas"] * 25 * largest
    order = word_order.learn(pa.array(texts, pa.large_string()), groups)
    assert np.mean(np.array(measured(texts[:100], order)) > 0.05) == 1


def test_a_sample_takes_a_part_of_each_language():
    texts, _ = documents(random.Random(10), 60)
    sample = word_order.Sample()
    columns = {"url": ["https://a.example/x", None, "", "https://b.example"] * 15, "source": ["web"] * 60}
    sample.add(pa.record_batch({"lang": ["en", "de"] * 30, "text": [*texts[:59], None], **columns}))
    assert {lang: len(found) for lang, found in sample.texts.items()} == {"en": 30, "de": 29}
    assert set(sample.groups["en"]) == {"a.example", "web"} and sample.groups["de"][0] == "web"
    assert set(sample.learn()) <= {"en", "de"}
