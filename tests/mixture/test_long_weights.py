"""Long documents are up-sampled inside each language: no language gains or loses."""

import numpy as np
import pytest

from mixture import long_weights
from mixture.weights import Pool

BEFORE = {"high_quality/th": 0.4, "all/th": 0.1, "all/lo": 0.2, "all/en": 0.25, "instructions": 0.05}
POOLS = {name: Pool(1_000_000, 4_000_000) for name in BEFORE}


def shares(made):
    found = {}
    for name, weight in made.weights.items():
        lang = name.split("/")[-1].partition(">=")[0]
        found[lang] = found.get(lang, 0.0) + weight
    return found


def test_each_language_reads_its_share_from_its_long_documents():
    long = {f"all/{lang}>=8192": Pool(500_000, 2_000_000) for lang in ("th", "en")}
    made = long_weights.long_context(BEFORE, POOLS, long, 1_000_000, share=0.6, max_epochs=4)
    assert made.weights["all/th>=8192"] == pytest.approx(0.6 * 0.5)
    assert made.weights["high_quality/th"] == pytest.approx(0.4 * 0.4) and made.weights["all/th"] == pytest.approx(0.04)
    assert made.weights["all/en>=8192"] == pytest.approx(0.6 * 0.25) and made.weights["all/en"] == pytest.approx(0.1)
    assert made.weights["all/lo"] == 0.2 and made.weights["instructions"] == 0.05
    assert made.warnings == ["languages without long documents: lo"]
    row = next(row for row in made.rows if row.pool == "all/th>=8192")
    assert (row.tokens, row.epochs) == (pytest.approx(300_000), pytest.approx(0.6))


def test_few_long_documents_are_read_so_often_and_no_more():
    long = {"all/th>=8192": Pool(10_000, 40_000), "all/en>=8192": Pool(500_000, 1)}
    made = long_weights.long_context(BEFORE, POOLS, long, 1_000_000, share=0.6, max_epochs=4)
    assert made.weights["all/th>=8192"] == pytest.approx(0.04)
    assert made.warnings[0] == "languages that have less in long documents than asked, read 4 times: th (13%) of it"


def test_shares_of_languages_stay_in_random_mixtures():
    draw = np.random.default_rng(3)
    for _ in range(100):
        langs = [f"l{i}" for i in range(draw.integers(1, 6))]
        names = ["instructions", *(f"{kind}/{lang}" for lang in langs for kind in ("all", "high_quality"))]
        before = {name: float(draw.random() * (draw.random() < 0.8)) for name in names}
        if not sum(before.values()):
            continue
        pools = {name: Pool(int(draw.integers(1, 10**6)), 9) for name in names}
        long = {f"all/{lang}>=99": Pool(int(draw.integers(1, 10**5)), 9) for lang in langs if draw.random() < 0.7}
        share, tokens = float(draw.random()), int(draw.integers(1, 10**7))
        made = long_weights.long_context(before, pools, long, tokens, share=share, max_epochs=4)
        total = sum(before.values())
        plain = long_weights.long_context(before, pools, {}, tokens, share=share, max_epochs=4)
        assert shares(made) == pytest.approx(shares(plain))
        assert plain.weights == pytest.approx({n: w / total for n, w in before.items() if w})
        for name, pool in long.items():
            assert made.weights.get(name, 0) * tokens <= 4 * pool.tokens * (1 + 1e-9)
            assert made.weights.get(name, 0) <= share * shares(made).get(name.split("/")[1].split(">")[0], 0) + 1e-9
