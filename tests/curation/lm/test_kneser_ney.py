"""Modified Kneser-Ney estimates by hand and against a twin that follows the formulas word by word."""

import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from curation.lm.kneser_ney import FALLBACK, estimate, without_unknown
from curation.lm.pieces import BEGIN, END, UNKNOWN


def model(sentences, order):
    """{n-gram: (probability, backoff)}, of the estimates."""
    ends = np.cumsum([len(s) for s in sentences])
    grams = estimate(np.array([w for s in sentences for w in s], np.int32), ends, order)
    assert [one.words.shape[1] for one in grams] == list(range(1, order + 1))
    return {
        tuple(words): (10.0 ** float(prob), 10.0 ** float(backoff))
        for one in grams
        for words, prob, backoff in zip(one.words.tolist(), one.prob, one.backoff, strict=True)
    }


def test_bigrams_by_hand():
    """Sentences "3 4", "3": too few counts of counts for own discounts, so 0.5, 1 and 1.5."""
    found = model([[3, 4], [3]], 2)
    # Bigrams <s>3 twice, 34, 4</s>, 3</s> once. Words before: 3 one, 4 one, </s> two (4 and 3).
    # Unigrams: a = 1, 1, 2, sum 4; discounts .5, .5, 1 leave 2 / 4 for the 4 words </s>, <unk>, 3, 4.
    left = 2 / 4 / 4
    three, end = 0.5 / 4 + left, 1 / 4 + left
    assert found[(3,)] == (pytest.approx(three), pytest.approx((0.5 + 0.5) / 2))
    assert found[(END,)] == (pytest.approx(end), pytest.approx(1.0))
    assert found[(UNKNOWN,)] == (pytest.approx(left), pytest.approx(1.0))
    assert found[(BEGIN,)] == (1.0, pytest.approx(1 / 2))  # one bigram, of count 2: D = 1
    assert found[BEGIN, 3][0] == pytest.approx((2 - 1) / 2 + 1 / 2 * three)
    assert found[3, END][0] == pytest.approx((1 - 0.5) / 2 + 1 / 2 * end)
    assert len(found) == 5 + 4


def twin(sentences, order):
    """The same by dicts."""
    counts = [Counter() for _ in range(order + 1)]
    for sentence in sentences:
        words = (BEGIN, *sentence, END)
        for i in range(len(words)):
            for n in range(1, min(order, i + 1) + 1):
                counts[n][words[i + 1 - n : i + 1]] += 1
    adjusted = [Counter() for _ in range(order + 1)]
    for n in range(1, order + 1):
        for gram, count in counts[n].items():
            if n == order or gram[0] == BEGIN:
                adjusted[n][gram] = count
            else:
                adjusted[n][gram] = sum(longer[1:] == gram for longer in counts[n + 1])
    del adjusted[1][(BEGIN,)]
    vocabulary = {gram[0] for gram in adjusted[1]} | {UNKNOWN}
    out, backoffs = {}, {}

    def discount(n, a):
        k = [sum(v == i for v in adjusted[n].values()) for i in range(5)]
        d = FALLBACK
        if all(k[1:4]):
            y = k[1] / (k[1] + 2 * k[2])
            own = [i - (i + 1) * y * k[i + 1] / k[i] for i in (1, 2, 3)]
            d = own if all(0 <= x <= i for i, x in enumerate(own, 1)) else FALLBACK
        return d[min(a, 3) - 1]

    discounts = [{a: discount(n, a) for a in set(adjusted[n].values())} if n else {} for n in range(order + 1)]
    for n in range(1, order + 1):
        contexts = defaultdict(list)
        for gram in adjusted[n]:
            contexts[gram[:-1]].append(gram)
        for context, grams in contexts.items():
            total = sum(adjusted[n][g] for g in grams)
            backoffs[context] = sum(discounts[n][adjusted[n][g]] for g in grams) / total
            for gram in grams:
                own = (adjusted[n][gram] - discounts[n][adjusted[n][gram]]) / total
                out[gram] = own + backoffs[context] * (out[gram[1:]] if n > 1 else 1 / len(vocabulary))
    out[(UNKNOWN,)], out[(BEGIN,)] = backoffs[()] / len(vocabulary), 1.0
    return {gram: (prob, backoffs.get(gram, 1.0)) for gram, prob in out.items()}


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("words", [4, 30])
def test_equals_the_twin(order, words):
    rng = random.Random(order * words)
    weights = [1 / (i + 1) for i in range(words)]
    sentences = [rng.choices(range(3, 3 + words), weights, k=rng.randint(1, 9)) for _ in range(150)]
    found, expected = model(sentences, order), twin(sentences, order)
    assert found.keys() == expected.keys()
    for gram, (prob, backoff) in expected.items():
        assert found[gram] == (pytest.approx(prob, rel=1e-5), pytest.approx(backoff, rel=1e-5)), gram


def test_probabilities_sum_to_one():
    rng = random.Random(8)
    sentences = [rng.choices(range(3, 20), k=rng.randint(1, 12)) for _ in range(200)]
    found = model(sentences, 3)
    vocabulary = [*range(3, 20), END, UNKNOWN]

    def probability(word, context):
        if (*context, word) in found:
            return found[*context, word][0]
        return found.get(context, (0, 1.0))[1] * probability(word, context[1:])

    for context in [(), (BEGIN,), (3,), (BEGIN, 5), (7, 9), (4, 4)]:
        assert sum(probability(word, context) for word in vocabulary) == pytest.approx(1, abs=1e-5)


def test_unknown_words_go_with_sentences_that_hold_nothing_else():
    words, ends = without_unknown(np.array([3, UNKNOWN, 4, UNKNOWN, UNKNOWN, 5], np.int32), np.array([3, 5, 6]))
    assert words.tolist() == [3, 4, 5] and ends.tolist() == [2, 3]
    with pytest.raises(ValueError, match="no sentences"):
        estimate(*without_unknown(np.zeros(2, np.int32), np.array([2])), 3)
