"""Contaminated documents against a twin that compares lists of units one by one."""

import json
import random

import numpy as np
import pyarrow as pa
import pytest

from curation.decontaminate import Lengths, build, search
from curation.text.units import CLASSES, HAN, LETTER, MARK, WORD

ALPHABETS = {
    "latin": ["a", "b", "ab", "Ba", "é"],
    "thai": ["ก", "ข", "กั", "ค่"],
    "han": ["中", "文", "字"],
    "mixed": ["a", "B", "ก", "กำ", "中", "ab"],
}


def units(text):
    """(unit, weight class) of each unit of a text of words, letters with marks, and spaces."""
    out, run, joined = [], "", False  # joined: the last character belongs to the last of `out`
    for character in [*text, " "]:
        kind = CLASSES[ord(character)]
        if kind == MARK and run:
            run += character
        elif kind == MARK and joined:
            out[-1] = (out[-1][0] + character, out[-1][1])
        elif kind == WORD:
            run, joined = run + character, False
        else:
            if run:
                out.append((run.lower(), WORD))
            run, joined = "", kind == LETTER
            if joined:
                out.append((character, HAN if character in ALPHABETS["han"] else LETTER))
    return out


def windows(parts, lengths, share):
    """The shortest run of at least `share` of the full weight from each start, as tuples."""
    found = []
    for start in range(len(parts)):
        total = 0.0
        for end in range(start, len(parts)):
            total += 1 / {WORD: lengths.words, LETTER: lengths.letters, HAN: lengths.han}[parts[end][1]]
            if total >= share - 1e-9:
                found.append(tuple(u for u, _ in parts[start : end + 1]))
                break
    return found


def naive(documents, passages, lengths):
    """Number of contaminated places per document: starts of a shared run, and starts of a short passage as a whole."""
    runs, wholes = set(), set()
    for passage in passages:
        parts = units(passage)
        if full := windows(parts, lengths, 1.0):
            runs.update(full)
        elif windows(parts, lengths, 8 / 13):
            wholes.add(tuple(u for u, _ in parts))
    counts = []
    for document in documents:
        parts = units(document)
        places = sum(run in runs for run in windows(parts, lengths, 1.0))
        bare = tuple(u for u, _ in parts)
        places += sum(any(bare[i : i + len(w)] == w for w in wholes) for i in range(len(bare)))
        counts.append(places)
    return counts


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("lengths", [Lengths(), Lengths(4, 7, 5), Lengths(1, 1, 1), Lengths(6, 3, 9)])
def test_equals_the_naive_search(alphabet, lengths, tmp_path):
    rng = random.Random(f"{alphabet}{lengths}")

    def text(n):
        return "".join(rng.choice(ALPHABETS[alphabet]) + rng.choice(["", " ", ", "]) for _ in range(n))

    passages = [text(rng.randint(0, 50)) for _ in range(60)]
    documents = [text(rng.randint(0, 60)) for _ in range(80)]
    for passage in passages:  # quotes, whole and cut
        cut = rng.randint(0, len(passage))
        documents.append(text(8) + " " + passage[cut // 2 :] + " " + text(8))
    (tmp_path / "e.jsonl").write_text("".join(json.dumps({"q": p}) + "\n" for p in passages))
    index = build([str(tmp_path / "e.jsonl")], lengths=lengths)
    expected = naive(documents, passages, lengths)
    hits, first = search(pa.array(documents), index)
    assert hits.tolist() == expected
    assert ((first >= 0) == (np.array(expected) > 0)).all()
    assert any(expected)
    parts = [search(pa.array(documents)[i : i + 7], index)[0] for i in range(0, len(documents), 7)]
    assert np.concatenate(parts).tolist() == expected
