"""Merges for the language that is worst off: the same as a naive learner that counts everything anew before each."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
from tokenizers import Regex, pre_tokenizers

from mixture.bpe import learn as learning
from mixture.bpe import patterns, pretokenize
from mixture.bpe.encode import strings
from mixture.bpe.learn import MAX_LETTERS, MEASURED, TRAINED, WINDOW, Pieces, learn

RULES = patterns.RULES[patterns.MARKS]
CUT = pre_tokenizers.Split(Regex(patterns.MARKS), "isolated")


def pieces_of(trained: list[str], measured: list[str]) -> Pieces:
    pieces = Pieces(pretokenize.tables(RULES.any_case, RULES.marks), RULES)
    for kind, texts in ((TRAINED, trained), (MEASURED, measured)):
        for text in texts:  # one at a time, so that the tables grow
            pieces.add(*strings([text.encode()]), kind)
    return pieces


def naive_pieces(texts: list[str]) -> Counter:
    """Of `tokenizers`, cut into MAX_LETTERS characters."""
    cut = [piece for text in texts for piece, _ in CUT.pre_tokenize_str(text)]
    return Counter(piece[i : i + MAX_LETTERS].encode() for piece in cut for i in range(0, len(piece), MAX_LETTERS))


class Naive:
    """The state of a learner that keeps pieces as lists of tokens."""

    def __init__(self, counts: list[tuple[Counter, Counter]], norms: list[float], alpha: float) -> None:
        self.rows = [(lang, list(p), t[p], m[p]) for lang, (t, m) in enumerate(counts) for p in {**t, **m}]
        self.norms, self.alpha, self.made, self.turns = norms, alpha, [bytes([i]) for i in range(256)], []

    def choices(self) -> tuple[int, list[tuple[int, int]]]:
        """The language whose turn it is, and its most frequent pairs; no pair when nothing stands twice."""
        counts = [Counter() for _ in self.norms]
        tokens = [0] * len(self.norms)
        for lang, tokens_of, trained, measured in self.rows:
            tokens[lang] += measured * len(tokens_of)
            for pair in pairwise(tokens_of):
                counts[lang][pair] += trained
        while alive := [lang for lang, norm in enumerate(self.norms) if norm]:
            most = self.alpha * WINDOW / len(alive)
            due = [lang for lang in alive if self.turns[-WINDOW:].count(lang) < most] or alive
            lang = max(due, key=lambda lang: (tokens[lang] / self.norms[lang], -lang))
            best = max(counts[lang].values(), default=0)
            if best >= 2:
                return lang, [pair for pair, n in counts[lang].items() if n == best]
            self.norms[lang] = 0
        return -1, []

    def merge(self, lang: int, pair: tuple[int, int]) -> None:
        text = self.made[pair[0]] + self.made[pair[1]]
        if text not in self.made:
            self.made.append(text)
        self.turns.append(lang)
        for _, tokens, _, _ in self.rows:
            i = 0
            while i + 1 < len(tokens):
                if (tokens[i], tokens[i + 1]) == pair:
                    tokens[i : i + 2] = [self.made.index(text)]
                i += 1


def test_as_a_naive_learner():
    draw = random.Random(0)
    seen = Counter()
    for _ in range(40):
        alphabet = draw.choice(["ab", "abc", "กขิ ", "aaab x", "กิำ"])
        some = lambda most, alphabet=alphabet: [  # noqa: E731
            "".join(draw.choices(alphabet, k=draw.randint(0, 80))) for _ in range(draw.randint(0, most))
        ]
        texts = [(some(6), some(3)) for _ in range(draw.randint(1, 4))]
        pieces = [pieces_of(*both) for both in texts]
        counts = [(naive_pieces(a), naive_pieces(b)) for a, b in texts]
        for ours, (trained, measured) in zip(pieces, counts, strict=True):
            found = {ours.data[ours.ends[i] : ours.ends[i + 1]].tobytes(): tuple(ours.counts[i]) for i in range(ours.n)}
            assert found == {piece: (trained[piece], measured[piece]) for piece in {**trained, **measured}}
        norms, alpha = [float(draw.choice([0, 1, 1, 2, 5])) for _ in texts], draw.choice([0.2, 2.0])
        n = draw.randint(1, 60)
        learnt, twin = learn(pieces, np.array(norms), n, alpha), Naive(counts, norms, alpha)
        for pair, lang in zip(learnt.pairs_M2.tolist(), learnt.languages_M.tolist(), strict=True):
            turn, best = twin.choices()
            assert turn == lang and tuple(pair) in best
            twin.merge(lang, tuple(pair))
        assert twin.made[256:] == learnt.tokens
        assert len(learnt.tokens) == n or not twin.choices()[1]
        seen.update(full=len(learnt.tokens) == n, langs=len(texts) > 1)
    assert 3 < seen["full"] < 38 and seen["langs"] > 9, seen  # all of it did happen


def test_tables_that_start_small_and_a_piece_of_no_end():
    texts = [" ".join(f"w{i}" for i in range(3000)), "ก" * 100 + "x" * 33]
    found = pieces_of(texts, [])
    assert found.n == len(naive_pieces(texts)) and found.counts[:, TRAINED].sum() == naive_pieces(texts).total()
    assert (np.diff(found.ends[: found.n + 1]) <= 4 * MAX_LETTERS).all()
    assert learning.learn([found], np.array([1.0]), 50).tokens[0] == b" w"
