"""MinHash with datasketch and rensa. Both leave words, shingles and clusters to their caller; here these are `\\w+` words,
5-grams of them, and union-find, as in their own examples."""

from __future__ import annotations

import re

from measure import documents, main, measured

PERMUTATIONS, BANDS, ROWS, NGRAM, THRESHOLD = 112, 14, 8, 5, 0.7
WORD = re.compile(r"\w+")


def shingles(text: str) -> set[str]:
    words = WORD.findall(text.lower())
    return {" ".join(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))}


def find(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def join(parent: list[int], i: int, others: list[int]) -> None:
    for other in others:
        a, b = sorted((find(parent, i), find(parent, other)))
        parent[b] = a


def datasketch(corpus: str) -> dict:
    from datasketch import MinHash, MinHashLSH

    rows = documents(corpus)
    result: dict = {}
    with measured(result):
        lsh = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS))
        parent = list(range(len(rows)))
        for i, row in enumerate(rows):
            minhash = MinHash(num_perm=PERMUTATIONS)
            minhash.update_batch([shingle.encode() for shingle in shingles(row["text"])])
            join(parent, i, lsh.query(minhash))
            lsh.insert(i, minhash)
    return {**result, "label": [find(parent, i) for i in range(len(rows))]}


def rensa(corpus: str) -> dict:
    from rensa import RMinHash, RMinHashLSH

    rows = documents(corpus)
    result: dict = {}
    with measured(result):
        lsh = RMinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, num_bands=BANDS)
        parent = list(range(len(rows)))
        for i, row in enumerate(rows):
            minhash = RMinHash(num_perm=PERMUTATIONS, seed=42)
            minhash.update(list(shingles(row["text"])))
            join(parent, i, lsh.query(minhash))
            lsh.insert(i, minhash)
    return {**result, "label": [find(parent, i) for i in range(len(rows))]}


if __name__ == "__main__":
    main({"datasketch": datasketch, "rensa": rensa})
