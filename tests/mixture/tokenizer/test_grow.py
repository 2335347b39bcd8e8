"""Which tokens a vocabulary gains: each the most frequent pair of the language that pays most, against a naive count."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from mixture.bpe.encode import byte_symbols
from mixture.bpe.patterns import GPT2, LLAMA3, QWEN2, with_marks, without_marks
from mixture.tokenizer import grow, tokenizer

SCRIPTS = {"my": (0x1000, 0x1040), "km": (0x1780, 0x17C0), "ru": (0x430, 0x450)}


@pytest.mark.parametrize("seed", range(3))
def test_each_token_is_the_most_frequent_pair_of_who_pays_most(seed, tmp_path):
    rng = np.random.default_rng(seed)
    words = {
        lang: ["".join(map(chr, rng.integers(*span, rng.integers(1, 5)))) for _ in range(30)]
        for lang, span in SCRIPTS.items()
    }
    words["ru"] += ["boat", "’x", "сс" * 9]
    texts = {
        lang: [" ".join(rng.choice(of, 30)) for _ in range(int(rng.integers(8, 30)))] for lang, of in words.items()
    }
    judge, size = {lang: of[::2] for lang, of in texts.items()}, {lang: float(rng.integers(50, 99)) for lang in texts}
    base = tokenizer.train_bpe(["the boat sails " * 20, texts["ru"][0][:40]], 300, str(tmp_path))
    rows = set().union(*(grow.own_rows(of) for of in texts.values()))
    spec = grow.joining_marks(grow.spec_of(base), grow.marks_of(rows) if seed % 2 else "")
    growth = grow.choose(spec, texts, judge, size, rows, 60)
    assert len(growth.tokens) == len(growth.merges) == 60

    symbols, backend = byte_symbols(), grow.backend_of(spec)
    spelled = {i: bytes(symbols[c] for c in t) for t, i in spec["model"]["vocab"].items() if set(t) <= symbols.keys()}

    def cut(text: str) -> list[list[bytes]]:
        pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
        return [[spelled[token.id] for token in backend.model.tokenize(piece)] for piece, _ in pieces]

    begins = {chr(code).encode()[:2] for row in rows for code in range(row << 6, (row + 1) << 6)}

    def shows(token: bytes) -> bool:
        return any(token[i : i + 2] in begins for i in range(len(token) - 1))

    counted, judged = (
        {lang: [piece for text in some for piece in cut(text)] for lang, some in of.items()} for of in (texts, judge)
    )
    for merge, served in zip(growth.merges, growth.served, strict=True):
        costs = {lang: sum(map(len, judged[lang])) / size[lang] for lang in texts}
        assert served == max(costs, key=costs.__getitem__)
        pairs = Counter(
            pair
            for piece in counted[served]
            for pair in pairwise(piece)
            if shows(b"".join(pair)) and b"".join(pair) not in spelled.values()
        )
        assert pairs[merge] == max(pairs.values())
        for pieces in (*counted.values(), *judged.values()):
            for piece in pieces:
                place = 0
                while place < len(piece) - 1:
                    if (piece[place], piece[place + 1]) == merge:
                        piece[place : place + 2] = [b"".join(merge)]
                    place += 1
    assert all(
        b"".join(spelled[i] for i in ids) == token for ids, token in zip(growth.made_of, growth.tokens, strict=True)
    )


def test_rows_and_marks_of_a_language():
    assert grow.own_rows(["ကြောင် GPU 12"]) == {0x1000 >> 6}
    assert grow.own_rows(["Nelayan α menjual"]) == grow.own_rows(["渔民 卖鱼"]) == grow.own_rows([]) == set()
    assert (
        grow.marks_of({0xE80 >> 6, 0xEC0 >> 6})
        == "\u0eb1\u0eb4\u0eb5\u0eb6\u0eb7\u0eb8\u0eb9\u0eba\u0ebb\u0ebc\u0ec8\u0ec9\u0eca\u0ecb\u0ecc\u0ecd\u0ece"
    )


@pytest.mark.parametrize("pattern", [GPT2, QWEN2, LLAMA3])
def test_a_pattern_with_marks_is_known_again(pattern):
    assert without_marks(with_marks(pattern, "\u0e31\u0e34\u0e35\u103a")) == (pattern, "\u0e31\u0e34\u0e35\u103a")
    assert without_marks(pattern) == (pattern, "")
    assert without_marks(r"[\p{L}x]+") == (r"[\p{L}x]+", "")


@pytest.mark.parametrize("pieces", ["qwen2", "marks"])
def test_own_tokenizers_of_both_kinds_grow(pieces, tmp_path):
    words = ["\u1000\u102d\u1001", "\u1002\u102e", "\u1004\u1031\u102c\u1005"]
    texts = {"my": [" ".join(np.random.default_rng(i).choice(words, 20)) for i in range(20)]}
    spec = grow.spec_of(tokenizer.train_bpe(["the boat sails"], 270, str(tmp_path), pieces=pieces))
    rows = grow.own_rows(texts["my"])
    wider = grow.joining_marks(spec, grow.marks_of(rows))
    assert grow.keeps_marks(spec) == (wider == spec) == (pieces == "marks")
    long = "\u1000\u102d" * tokenizer.MAX_TRAINING_LETTERS
    cut = grow.count_pieces(wider, {"my": [long]})
    assert {len(piece) // 3: counts for piece, counts in cut.items()} == {tokenizer.MAX_TRAINING_LETTERS: [2]}
    growth = grow.choose(wider, texts, texts, {"my": 1.0}, rows, 30)
    assert f" {words[0]}".encode() in growth.tokens
    backend = grow.backend_of(grow.grown(wider, growth))
    assert len(backend.encode(f" {words[0]}", add_special_tokens=False).ids) == 1
