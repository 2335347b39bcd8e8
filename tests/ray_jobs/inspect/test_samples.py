"""The sample that people judge: what brute force over all rows gives, whatever the parts; nested; by id and text."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise

import inspected_run
import pytest
import xxhash

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.inspect import samples
from ray_jobs.run.graph import DECONTAMINATE, DEDUP, LANGUAGE, POLICY

LANGUAGES = ("km", "en", "zz")
RULES = {
    LANGUAGE: ["language_score"],
    POLICY: ["a_min", "b_max", "c_max"],
    DEDUP: ["near_duplicate"],
    DECONTAMINATE: ["contaminated"],
}


def corpus(seed: int, n: int = 400) -> list[dict]:
    chance = random.Random(seed)
    documents = []
    for number in range(n):
        lang = chance.choices(["km", "en", "xx", None], [5, 3, 1, 0.2])[0]
        layer = chance.choice([*RULES, None, None])
        fate = layer and (layer, chance.sample(RULES[layer], chance.randint(1, len(RULES[layer]))))
        text = chance.choice(["ភាសាខ្មែរ", "text", "\u202e\x00", ""]) * chance.randint(0, 3) + str(number)
        document = {"doc_id": f"{chance.getrandbits(64):032x}", "lang": lang, "text": text, "fate": fate}
        documents.append(document | ({"edited": text + " cut"} if chance.random() < 0.3 else {}))
    return documents


def naive(documents, layer, side, lang, most, seed):  # noqa: PLR0917
    """doc_ids by the definition: all rows sorted by hash."""
    order = list(RULES)
    rank = {d["doc_id"]: xxhash.xxh3_64_intdigest(d["doc_id"].encode(), seed) for d in documents}
    mine = sorted((d for d in documents if d["lang"] == lang), key=lambda d: rank[d["doc_id"]])
    if side == "kept":
        return {d["doc_id"] for d in [d for d in mine if inspected_run.reaches(d, layer, order)][:most]}
    strata = defaultdict(list)
    for d in mine:
        if d["fate"] and d["fate"][0] == layer:
            strata[min(d["fate"][1])].append(d["doc_id"])
    taken = dict.fromkeys(strata, 0)
    while sum(taken.values()) < most and any(taken[s] < len(strata[s]) for s in strata):
        open_ = [s for s in sorted(strata, key=lambda s: (len(strata[s]), s)) if taken[s] < len(strata[s])]
        taken[min(open_, key=lambda s: (taken[s], open_.index(s)))] += 1
    return {doc_id for s in strata for doc_id in strata[s][: taken[s]]}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parts", [1, 3, 11])
def test_the_sample_is_that_of_brute_force_for_any_number_of_parts(tmp_path, seed, parts):
    documents = corpus(seed)
    run = inspected_run.run_at(str(tmp_path / "run"), LANGUAGES[:2], seed=seed - 1)
    inspected_run.write(run, documents, parts)
    table, counts = samples.drawn(run, 20)
    for layer in RULES:
        for side in ("kept", "dropped"):
            for lang in ("km", "en"):
                found = {
                    row["doc_id"]
                    for row in table.to_pylist()
                    if (row["layer"], row["side"], row["lang"]) == (layer, side, lang)
                }
                assert found == naive(documents, layer, side, lang, 20, (seed - 1) % 2**64), (layer, side, lang)
    by_id = {d["doc_id"]: d for d in documents}
    for row in table.to_pylist():
        document = by_id[row["doc_id"]]
        late = row["layer"] in (DEDUP, DECONTAMINATE) and (row["layer"], row["side"]) != (DEDUP, "dropped")
        text = (late and document.get("edited")) or document["text"]
        assert row["text"] == text
        assert row["key"] == f"{row['doc_id']}-{xxhash.xxh3_64_hexdigest(row['text'].encode())}"
        assert row["rules"] == (sorted(document["fate"][1]) if row["side"] == "dropped" else [])
    kept = sum(d["lang"] == "km" and inspected_run.reaches(d, DEDUP, list(RULES)) for d in documents)
    assert counts["layers"][DEDUP]["kept"]["km"] == {"": kept}


def test_survivors_stay_and_a_larger_sample_holds_the_smaller(tmp_path):
    run = inspected_run.run_at(str(tmp_path / "run"))
    documents = corpus(9)
    inspected_run.write(run, documents, 4)
    rows = samples.drawn(run, 30)[0].to_pylist()
    ids = {
        layer: {r["doc_id"] for r in rows if r["layer"] == layer and r["side"] == "kept" and r["lang"] == "km"}
        for layer in RULES
    }
    order = list(RULES)
    by_id = {d["doc_id"]: d for d in documents}
    for before, after in pairwise(order):
        assert {i for i in ids[before] if inspected_run.reaches(by_id[i], after, order)} <= ids[after]
    assert (samples.size(run), samples.size(run, 60)) == (30, 60)  # as it was drawn, unless another is asked for
    more = samples.drawn(run, 60)[0].to_pylist()
    assert {(r["key"], r["layer"], r["side"]) for r in rows} <= {(r["key"], r["layer"], r["side"]) for r in more}


def test_a_document_that_was_read_twice_is_judged_once(tmp_path):
    run = inspected_run.run_at(str(tmp_path / "run"))
    twice = {"doc_id": "d" * 32, "lang": "km", "text": "x", "fate": None}
    inspected_run.write(run, [twice, twice, {**twice, "doc_id": "e" * 32}], 2)
    rows = [r for r in samples.drawn(run, 2)[0].to_pylist() if r["layer"] == POLICY]
    assert sorted(r["doc_id"][0] for r in rows) == ["d", "e"]


def test_it_is_drawn_anew_when_a_layer_is_another(tmp_path):
    run = inspected_run.run_at(str(tmp_path / "run"))
    inspected_run.write(run, corpus(1, 50))
    first = samples.drawn(run, 5)[0]
    inspected_run.write(run, corpus(2, 50))
    assert samples.drawn(run, 5)[0] == first  # equal fingerprints: the layers are what they were
    storage.write_json(storage.join(run.uri, DEDUP, "_manifest.json"), {"fingerprint": "another"})
    assert samples.drawn(run, 5)[0] != first


def test_any_storage_and_no_documents():
    run = inspected_run.run_at("memory://inspect-samples/run")
    with pytest.raises(UserError, match="language is not done"):
        samples.drawn(run, 5)
    inspected_run.write(run, [], 2)
    assert samples.drawn(run, 5)[0].num_rows == 0
    inspected_run.write(run, corpus(3, 60), 2)
    storage.write_json(storage.join(run.uri, DEDUP, "_manifest.json"), {"fingerprint": "another"})
    assert samples.drawn(run, 5)[0].num_rows > 20
