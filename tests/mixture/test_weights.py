import numpy as np
import pytest

from mixture.weights import Pool, overdraw, stage1, stage2, tempered

SAILOR2_TOKENS = {  # billions, Sailor2 tables 2 and 3
    "vi": 475, "id": 325, "th": 61, "ms": 11, "my": 6.5, "tl": 4.4, "km": 1.7,
    "ceb": 0.5, "lo": 0.5, "jv": 0.3, "war": 0.2, "su": 0.2, "ilo": 0.1,
}  # fmt: skip


def test_temperature_one_keeps_natural_sizes_and_a_high_one_levels_them():
    tokens = {"vi": 600, "th": 300, "lo": 100}
    assert tempered(tokens, 1.0, 100, 10) == pytest.approx({"vi": 0.6, "th": 0.3, "lo": 0.1})
    assert tempered(tokens, 1e9, 100, 10) == pytest.approx({"vi": 1 / 3, "th": 1 / 3, "lo": 1 / 3})
    roots = np.sqrt([600, 300, 100])
    assert list(tempered(tokens, 2.0, 100, 10).values()) == pytest.approx(list((roots / roots.sum())[[2, 1, 0]]))


def test_water_filling_by_hand():
    # Square roots 10 : 2 : 1. `c` may give 1 * 4 of 130 and wants 10: capped. The rest, 126, is split 10 : 2, that is
    # 105 : 21, but `b` may give only 16: capped too. `a` gets 110 <= 400.
    weights = tempered({"a": 100, "b": 4, "c": 1}, 2.0, budget=130, max_epochs=4)
    assert weights == pytest.approx({"a": 110 / 130, "b": 16 / 130, "c": 4 / 130})


@pytest.mark.parametrize("seed", range(20))
def test_caps_hold_and_uncapped_pools_keep_their_proportions(seed):
    rng = np.random.default_rng(seed)
    tokens = {f"p{i}": int(x) for i, x in enumerate(np.exp(rng.uniform(3, 15, 12)))}
    max_epochs, temperature = 4.0, float(rng.uniform(1, 5))
    budget = float(rng.uniform(0.01, 0.99)) * max_epochs * sum(tokens.values())
    weights = tempered(tokens, temperature, budget, max_epochs)
    assert sum(weights.values()) == pytest.approx(1.0, abs=1e-12)
    epochs = {name: weights[name] * budget / tokens[name] for name in tokens}
    assert max(epochs.values()) <= max_epochs * (1 + 1e-9)
    free = [name for name in tokens if epochs[name] < max_epochs * (1 - 1e-9)]
    level = {weights[name] / tokens[name] ** (1 / temperature) for name in free}
    assert max(level) == pytest.approx(min(level))
    for name in set(tokens) - set(free):  # a capped pool would have taken more
        assert tokens[name] ** (1 / temperature) * max(level) >= weights[name] * (1 - 1e-9)


def test_a_budget_beyond_all_pools_repeats_them_equally():
    tokens = {"th": 30, "lo": 10, "empty": 0}
    assert overdraw(tokens, budget=400, max_epochs=4) == pytest.approx(2.5)
    assert overdraw(tokens, budget=160, max_epochs=4) == pytest.approx(1.0)
    assert tempered(tokens, 2.0, 400, 4) == pytest.approx({"empty": 0.0, "lo": 0.25, "th": 0.75})
    assert tempered(tokens, 2.0, 160, 4) == pytest.approx({"empty": 0.0, "lo": 0.25, "th": 0.75})
    assert tempered(tokens, 2.0, 160 - 1e-9, 4) == pytest.approx({"empty": 0.0, "lo": 0.25, "th": 0.75})


def test_order_of_the_dict_changes_nothing():
    tokens = {"a": 100, "b": 4, "c": 1, "d": 7}
    back = dict(reversed(tokens.items()))
    assert list(tempered(tokens, 2.0, 130, 4).items()) == list(tempered(back, 2.0, 130, 4).items())


def test_nothing_to_read_is_an_error():
    with pytest.raises(ValueError, match="no pool has any tokens"):
        tempered({"th": 0}, 2.0, 10, 4)
    with pytest.raises(ValueError, match="above 0"):
        tempered({"th": 10}, 0.0, 10, 4)


ROOTS = {"temperature": 2.0, "max_epochs": 4}


def pools(tokens, bytes_per_token=4):
    return {name: Pool(int(count), int(count) * bytes_per_token) for name, count in tokens.items()}


def test_stage_1_gives_the_replay_languages_their_share_exactly():
    stage = stage1(
        pools({"th": 1000, "lo": 50, "en": 9000, "zh": 1000}),
        1000,
        temperature=2.0,
        max_epochs=4,
        replay=["en", "zh"],
        replay_share=0.2,
    )
    weights = stage.weights
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights["en"] + weights["zh"] == pytest.approx(0.2)
    assert weights["en"] == pytest.approx(3 * weights["zh"])
    assert stage.warnings == []
    lao = next(row for row in stage.rows if row.pool == "lo")
    assert lao.tokens == pytest.approx(lao.weight * 1000)
    assert lao.epochs == pytest.approx(lao.tokens / 50)
    assert lao.bytes == pytest.approx(lao.tokens * 4)


def test_stage_1_says_what_is_repeated_too_often():
    stage = stage1(pools({"th": 100, "lo": 10, "en": 9000}), 1000, **ROOTS, replay=["en"], replay_share=0.2)
    assert stage.weights == pytest.approx({"en": 0.2, "lo": 0.8 * 10 / 110, "th": 0.8 * 100 / 110})
    assert len(stage.warnings) == 1
    assert "lo (7.3), th (7.3)" in stage.warnings[0]


def test_stage_1_without_replay_pools_gives_all_to_the_others():
    stage = stage1(pools({"th": 100, "lo": 100, "en": 0}), 100, **ROOTS, replay=["en"], replay_share=0.2)
    assert stage.weights == pytest.approx({"en": 0.0, "lo": 0.5, "th": 0.5})
    assert stage.warnings == ["the replay pools should get 20% of the tokens but hold none; the others get that share"]
    with pytest.raises(ValueError, match="do not exist: xx"):
        stage1(pools({"th": 100}), 100, **ROOTS, replay=["xx"], replay_share=0.2)


def test_stage_2_has_the_three_shares():
    all_pools = pools({"all/th": 1000, "all/en": 4000})
    first = stage1(all_pools, 1000, **ROOTS, replay=["all/en"], replay_share=0.25)
    best = pools({"best/th": 300, "best/lo": 100})
    second = stage2(
        best,
        pools({"instructions": 500}),
        all_pools,
        first.weights,
        100,
        temperature=2.0,
        max_epochs=4,
        replay_share=0.2,
        instruction_share=0.04,
    )
    weights = second.weights
    assert weights["all/en"] == pytest.approx(0.2 * 0.25)
    assert weights["all/th"] == pytest.approx(0.2 * 0.75)
    assert weights["instructions"] == pytest.approx(0.04)
    assert weights["best/th"] == pytest.approx(0.76 * 3**0.5 / (1 + 3**0.5))
    assert sum(weights.values()) == pytest.approx(1.0)
    assert second.warnings == []


def test_stage_2_without_instructions_scales_the_rest():
    all_pools = pools({"all/th": 1000})
    second = stage2(
        pools({"best/th": 300}),
        {},
        all_pools,
        {"all/th": 1.0},
        100,
        temperature=2.0,
        max_epochs=4,
        replay_share=0.2,
        instruction_share=0.2,
    )
    assert second.weights == pytest.approx({"all/th": 0.25, "best/th": 0.75})
    assert "instruction pools should get 20%" in second.warnings[0]
    with pytest.raises(ValueError, match="leave something"):
        stage2(
            pools({"best/th": 300}),
            {},
            all_pools,
            {"all/th": 1.0},
            100,
            temperature=2.0,
            max_epochs=4,
            replay_share=0.7,
            instruction_share=0.5,
        )


def test_sailor2_pools_at_its_budget():
    """349 B tokens of 13 languages. By hand: km and smaller give 4 * 3.5 B = 14 B; the other 335 B are split by roots
    21.8 : 18.0 : 7.81 : 3.32 : 2.55 : 2.10, so that Burmese gets 15.4 B of its 6.5 B and Thai 47.1 B of its 61 B."""
    tokens = {name: int(billions * 1e9) for name, billions in SAILOR2_TOKENS.items()}
    stage = stage1(pools(tokens), 349_000_000_000, temperature=2.0, max_epochs=4.0)
    epochs = {row.pool: row.epochs for row in stage.rows}
    capped = [name for name in tokens if epochs[name] == pytest.approx(4.0)]
    assert capped == ["km", "ceb", "lo", "jv", "war", "su", "ilo"]
    assert epochs["my"] == pytest.approx(15.4 / 6.5, rel=0.01)
    assert epochs["th"] == pytest.approx(47.1 / 61, rel=0.01)
    assert epochs["th"] > epochs["id"] > epochs["vi"]
    assert stage.warnings == []
