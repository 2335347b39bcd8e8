import numpy as np
import pytest

from mixture.regmix.search import best_mixture, epoch_caps, objective

NAMES = ["en", "id", "lo", "th", "vi", "zh"]
PRIOR = {"en": 40.0, "id": 20.0, "lo": 0.5, "th": 6.0, "vi": 30.0, "zh": 10.0}


class Law:
    """L_l = w_l^-a_l: J = -sum a_l ln w_l is least at w = a / sum(a)."""

    def __init__(self, a):
        self.a = np.asarray(a, dtype=float)

    def predict(self, weights_ND):
        return np.maximum(weights_ND, 1e-9) ** -self.a


def found(law, **constraints):
    mixture = best_mixture(law, PRIOR, seed=3, n_candidates=20_000, **constraints)
    assert list(mixture) == NAMES
    assert sum(mixture.values()) == pytest.approx(1.0, abs=1e-12)
    return np.array(list(mixture.values()))


def test_the_known_optimum_is_found_and_refinement_is_what_finds_it():
    law = Law([0.3, 0.1, 0.2, 0.25, 0.05, 0.1])
    assert found(law) == pytest.approx(law.a / law.a.sum(), abs=0.03)
    rough = found(law, refine=False)
    at = objective(law, np.stack([law.a / law.a.sum(), found(law), rough]))
    assert at[0] <= at[1] < at[0] + 0.005
    assert at[2] > at[0] + 0.02


def test_weights_of_targets_move_the_optimum():
    law = Law(np.full(6, 0.2))
    wanted = np.array([1, 1, 5, 1, 1, 1]) / 10
    assert found(law, target_weights=[1, 1, 5, 1, 1, 1]) == pytest.approx(wanted, abs=0.03)


def test_caps_minimum_and_fixed_shares_hold_and_the_rest_is_optimal():
    """By hand: en + zh get 0.2 in proportion 3 : 1; of 0.8, lo is held at 0.05 and vi at 0.2, id : th = 2 : 5 share 0.55."""
    law = Law([0.3, 0.1, 0.2, 0.25, 0.05, 0.1])
    weights = found(law, caps={"lo": 0.05}, minimum={"vi": 0.2}, fixed_shares={("en", "zh"): 0.2})
    assert weights[2] <= 0.05
    assert weights[4] >= 0.2
    assert weights[0] + weights[5] == pytest.approx(0.2, abs=1e-12)
    by_hand = [0.15, 0.55 * 2 / 7, 0.05, 0.55 * 5 / 7, 0.2, 0.05]
    assert weights == pytest.approx(by_hand, abs=0.03)


@pytest.mark.parametrize("seed", range(8))
def test_constraints_hold_whatever_they_are(seed):
    rng = np.random.default_rng(seed)
    tokens = dict(zip(NAMES, np.exp(rng.uniform(0, 6, 6)), strict=True))
    caps = epoch_caps(tokens, budget=sum(tokens.values()) * 1.5, readings=dict.fromkeys(tokens, 4))
    minimum = {name: caps[name] * float(rng.uniform(0, 0.1)) for name in NAMES}
    share = float(rng.uniform(minimum["en"] + minimum["zh"], min(0.5, caps["en"] + caps["zh"])))
    law = Law(rng.uniform(0.05, 0.5, 6))
    try:
        mixture = best_mixture(
            law, PRIOR, seed=0, n_candidates=2000, caps=caps, minimum=minimum, fixed_shares={("en", "zh"): share}
        )
    except ValueError as error:  # the other four may not be able to give the rest
        assert "their caps allow only" in str(error)
        assert sum(caps[name] for name in ("id", "lo", "th", "vi")) < 1 - share
        return
    for name, weight in mixture.items():
        assert minimum[name] <= weight <= caps[name]
        assert weight * sum(tokens.values()) * 1.5 / tokens[name] <= 4 * (1 + 1e-12)
    assert mixture["en"] + mixture["zh"] == pytest.approx(share, abs=1e-12)
    assert sum(mixture.values()) == pytest.approx(1.0, abs=1e-12)


def test_the_same_seed_gives_the_same_mixture():
    law = Law([0.3, 0.1, 0.2, 0.25, 0.05, 0.1])
    assert found(law).tolist() == found(law).tolist()


@pytest.mark.parametrize(
    ("constraints", "sentence"),
    [
        ({"caps": dict.fromkeys(NAMES, 0.1)}, "the pools should get 1 of the tokens, but their caps allow only 0.6"),
        ({"minimum": {"th": 0.7, "lo": 0.5}}, "the pools must get 1.2 of the tokens at least, but only 1 is theirs"),
        ({"caps": {"lo": 0.1}, "minimum": {"lo": 0.2}}, "lo should get at least 0.2 of the tokens, but its cap is 0.1"),
        (
            {"caps": {"en": 0.1, "zh": 0.05}, "fixed_shares": {("en", "zh"): 0.2}},
            "en \\+ zh should get 0.2 of the tokens, but their caps allow only 0.15",
        ),
        (
            {"fixed_shares": {("en",): 0.7, ("zh",): 0.6}},
            "the other pools must get 0 of the tokens at least, but only 0",
        ),
        ({"fixed_shares": {("en", "zh"): 0.2, ("zh", "th"): 0.1}}, "a pool is in two groups"),
        ({"minimum": {"xx": 0.1}}, "constraints of pools that do not exist: xx"),
        (
            {"minimum": {"th": 0.9}, "fixed_shares": {("en",): 0.2}},
            "the other pools must get 0.9 .* only 0.8 is theirs",
        ),
    ],
)
def test_what_cannot_be_kept_is_one_sentence(constraints, sentence):
    with pytest.raises(ValueError, match=sentence):
        best_mixture(Law(np.full(6, 0.2)), PRIOR, seed=0, n_candidates=100, **constraints)
