"""Contaminated documents against a twin that compares lists of units one by one."""

import json
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from curation.decontaminate import Lengths, build, search
from curation.text.form import one_form
from curation.text.units import CLASSES, HAN, LETTER, MARK, WORD

ALPHABETS = {
    "latin": ["a", "b", "ab", "Ba", "é"],
    "thai": ["ก", "ข", "กั", "ค่"],
    "han": ["中", "文", "字"],
    "mixed": ["a", "B", "ก", "กำ", "中", "ab"],
}

PIECE = Lengths(3, 8, 4)


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


def naive(documents, items, lengths):
    """Places per document: starts of a shared run and of a short passage as a whole; without one, items found in pieces."""
    runs, wholes = set(), set()
    for passage in [p for item in items for p in item]:
        parts = units(passage)
        if full := windows(parts, lengths, 1.0):
            runs.update(full)
        elif windows(parts, lengths, 8 / 13):
            wholes.add(tuple(u for u, _ in parts))
    targets = piece_targets(items, lengths)
    counts = []
    for document in documents:
        parts = units(document)
        places = sum(run in runs for run in windows(parts, lengths, 1.0))
        bare = tuple(u for u, _ in parts)
        places += sum(any(bare[i : i + len(w)] == w for w in wholes) for i in range(len(bare)))
        pieces = [piece for piece in windows(parts, PIECE, 1.0) if any(piece in starts for _, starts, _ in targets)]
        in_pieces = len(pieces) > 1 and not places
        counts.append(sum(stands_in(parts, target, lengths) for target in targets) if in_pieces else places)
    return counts


def weight(kind, lengths):
    """In parts of a run, as a whole number."""
    run = lengths.words * lengths.letters * lengths.han
    return run // {WORD: lengths.words, LETTER: lengths.letters, HAN: lengths.han}[kind]


def piece_targets(items, lengths):
    """(Units, {piece: its starts}, weight needed) of what is searched for in pieces."""
    with_text = Counter(text for item in items for text in set(item))
    own = [[p for p in item if with_text[p] <= 16 and not (p.isascii() and len(p.split()) < 2)] for item in items]
    run = lengths.words * lengths.letters * lengths.han
    some = [
        (n, "\n".join(texts), int(2 / 13 * run))
        for n, texts in enumerate(own)
        if texts and max(map(len, texts)) < 0.75 * sum(map(len, texts))
    ]
    alone = {text: n for n, texts in reversed(list(enumerate(own))) for text in texts}
    some += [(n, text, -(-8 * run // 13)) for text, n in alone.items()]
    owners = {}
    for n, text, _ in some:
        for piece in windows(units(text), PIECE, 1.0):
            owners.setdefault(piece, set()).add(n)
    targets = []
    for _, text, least in some:
        parts, starts = units(text), {}
        for start, piece in enumerate(windows(parts, PIECE, 1.0)):
            if len(owners[piece]) <= 16:
                starts.setdefault(piece, []).append(start)
        covered = {start + k for piece, every in starts.items() for start in every for k in range(len(piece))}
        total = sum(weight(parts[u][1], lengths) for u in covered)
        if total >= least and total:
            targets.append((parts, starts, int(max(0.6 * total, min(0.75 * total, int(7 / 13 * run))))))
    return targets


def stands_in(document, target, lengths):
    """Whether the pieces that a window of twice the target has cover enough of the target, and of the document."""
    parts, starts, need = target
    spots = [
        (at, start, len(piece))
        for at, piece in enumerate(windows(document, PIECE, 1.0))
        for start in starts.get(piece, [])
    ]
    for last, (end, _, _) in enumerate(spots):
        near = [spot for spot in spots[: last + 1] if spot[0] >= end - 2 * len(parts) - 30]
        covered = {start + k for _, start, n in near for k in range(n)}
        quoted = {at + k for at, _, n in near for k in range(n)}
        of_both = ([parts[u] for u in covered], [document[u] for u in quoted])
        if min(sum(weight(kind, lengths) for _, kind in some) for some in of_both) >= need:
            return True
    return False


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("lengths", [Lengths(), Lengths(4, 7, 5), Lengths(1, 1, 1), Lengths(6, 3, 9)])
def test_equals_the_naive_search(alphabet, lengths, tmp_path):
    rng = random.Random(f"{alphabet}{lengths}")

    def text(n):
        return "".join(rng.choice(ALPHABETS[alphabet]) + rng.choice(["", " ", ", "]) for _ in range(n))

    items = [[text(rng.randint(0, 50 // k)) for _ in range(k)] for k in [1] * 40 + [2] * 10 + [4] * 20]
    documents = [text(rng.randint(0, 60)) for _ in range(80)]
    for passage in map(" ".join, items):  # quotes, whole, cut and with a hole
        cut = rng.randint(0, len(passage))
        documents.append(text(8) + " " + passage[cut // 2 :] + " " + text(8))
        documents.append(text(8) + " " + passage[: cut // 2] + text(2) + passage[cut // 2 + 2 :] + " " + text(8))
    (tmp_path / "e.jsonl").write_text("".join(json.dumps({"q": item}) + "\n" for item in items))
    index = build([str(tmp_path / "e.jsonl")], lengths=lengths)
    in_form = [[one_form(passage) for passage in item] for item in items]
    expected = naive(map(one_form, documents), in_form, lengths)
    hits, first = search(pa.array(documents), index)
    assert hits.tolist() == expected
    assert ((first >= 0) == (np.array(expected) > 0)).all()
    assert any(expected)
    parts = [search(pa.array(documents)[i : i + 7], index)[0] for i in range(0, len(documents), 7)]
    assert np.concatenate(parts).tolist() == expected
