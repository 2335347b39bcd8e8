"""The pair rule of Sailor2 §5.2 beside a twin that tries every pair of samples, on every small case and on random ones."""

import random
from itertools import product

from train.selection import preference


def naive(answers, expected):
    """(chosen, rejected) as sample numbers, or None. `answers`: (text, language, reward)."""
    distinct = []
    for k, (text, _, _) in enumerate(answers):
        if text and text not in [answers[j][0] for j in distinct]:
            distinct.append(k)
    consistent = [k for k in distinct if answers[k][1] == expected]
    if len(consistent) >= 2:
        candidates = [(w, x) for w in consistent for x in consistent]
        candidates = [(w, x) for w, x in candidates if answers[w][2] > answers[x][2]]
    elif len(consistent) == 1:
        candidates = [(consistent[0], x) for x in distinct if x != consistent[0]]
    else:
        candidates = []
    if not candidates:
        return None
    # The widest margin; of equal ones the earliest samples.
    return min(candidates, key=lambda pair: (answers[pair[1]][2] - answers[pair[0]][2], *pair))


def ours(answers, expected):
    language = {text: lang for text, lang, _ in answers} | {"?": expected}
    rows = [
        {
            "id": "p",
            "lang": expected,
            "prompt": [{"role": "user", "content": "?"}],
            "sample": k,
            "answer": a,
            "reward": r,
        }
        for k, (a, _, r) in enumerate(answers)
    ]
    kept, rejects = preference.pairs(rows, language.__getitem__)
    if not kept:
        of_prompt = ("no_answer", "no_consistent_answer", "one_sample", "equal_reward")
        assert sum(r["rule"] in of_prompt for r in rejects) == 1
        return None
    texts = [a for a, _, _ in answers]
    pair = texts.index(kept[0]["chosen"]), texts.index(kept[0]["rejected"])
    assert (kept[0]["chosen_reward"], kept[0]["rejected_reward"]) == tuple(answers[k][2] for k in pair)
    # A sample is in the ledger or could have been in the pair, never both.
    dropped = {int(r["doc_id"].removeprefix("p#")) for r in rejects}
    assert not dropped & set(pair)
    left = [k for k in range(len(answers)) if k not in dropped]
    assert {answers[k][1] for k in left if k != pair[1]} == {expected}
    return pair


def test_every_case_of_four_samples():
    texts = (("", "th"), ("a", "th"), ("b", "th"), ("c", "id"))
    one = [(text, lang, reward) for (text, lang), reward in product(texts, (0.0, 1.0))]
    cases = 0
    for n in range(1, 5):
        for answers in product(one, repeat=n):
            assert ours(answers, "th") == naive(answers, "th"), answers
            cases += 1
    assert cases == 8 + 8**2 + 8**3 + 8**4


def test_random_cases():
    draw = random.Random(0)
    found = set()
    for _ in range(2000):
        pool = [(f"t{i}", draw.choice(["th", "id", "lo"])) for i in range(draw.randint(1, 8))] + [("", "th")]
        answers = [
            (*draw.choice(pool), draw.choice([draw.gauss(0, 1), draw.randint(-1, 1)]))
            for _ in range(draw.randint(1, 8))
        ]
        expected = draw.choice(["th", "id"])
        assert ours(answers, expected) == naive(answers, expected), answers
        found.add(naive(answers, expected) is None)
    assert found == {True, False}
