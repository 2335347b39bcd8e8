"""Bases of the rotation for a longer context, YaRN, and that a saved model has them."""

import numpy as np
import pytest
import torch
from shapes import TINY
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen2Config

from train import model
from train.bases import rotation
from train.bases.rotation import Rotation

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

BOUNDS = {  # (positions, width of a head): the smallest base with no negative sum of cosines
    (4096, 128): 4.5e4,
    (32_768, 128): 6.3e5,
    (131_072, 128): 8.9e6,
    (4096, 64): 2.0e5,
    (32_768, 64): 4.5e6,
    (131_072, 64): 2.2e8,
}


@pytest.mark.parametrize(("positions", "width"), BOUNDS)
def test_bounds_are_those_of_the_table(positions, width):
    assert rotation.smallest_base(positions, width) == pytest.approx(BOUNDS[positions, width], rel=0.02)


def test_the_bound_is_the_smallest_as_a_naive_loop_says():
    def least(base, width, positions):
        return min(sum(np.cos(m * base ** (-2 * i / width)) for i in range(width // 2)) for m in range(positions))

    for width, positions in ((8, 30), (16, 200), (64, 300)):
        found = rotation.smallest_base(positions, width)
        assert least(found, width, positions) >= 0
        below = found / 10**rotation.GRID
        assert below < 100 or least(below, width, positions) < 0


def test_usual_bases_are_those_of_the_anchor_paper_at_heads_of_128():
    usual = {positions: rotation.usual_base(positions, 128) for positions in (32_768, 65_536, 131_072)}
    assert usual == {32_768: 1e6, 65_536: 5e6, 131_072: 1e7}


def qwen(theta=1e6, **more):
    shape = TINY | {"hidden_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2} | more  # heads of 128
    return Qwen2Config(**shape, rope_parameters={"rope_type": "default", "rope_theta": theta})


def test_what_is_not_said_is_chosen_and_the_rest_taken():
    assert rotation.settled(qwen(), 131_072, None) == Rotation(131_072, 1e7)
    assert rotation.settled(qwen(3e7), 131_072, None) == Rotation(131_072, 3e7)  # never made smaller
    assert rotation.settled(qwen(), 131_072, 2e6) == Rotation(131_072, 2e6)
    assert rotation.settled(qwen(), 131_072, None, 4.0) == Rotation(131_072, 1e6, 4.0, 64)  # as max_position_embeddings
    assert rotation.settled(qwen(), 131_072, 2e6, 4.0, 32_768) == Rotation(131_072, 2e6, 4.0, 32_768)


def test_a_base_below_the_bound_is_said():
    said = rotation.warning(qwen(), 131_072, None)
    assert said.startswith(
        "a rotation of base 1e+06 is below 8.9e+06, the least for 131,072 positions and heads of 128"
    )
    assert not rotation.warning(qwen(), 131_072, Rotation(131_072, 1e7))
    assert not rotation.warning(qwen(), 32_768, None)
    assert not rotation.warning(qwen(), 131_072, Rotation(131_072, 1e6, 4.0, 32_768))
    assert "is below" in rotation.warning(qwen(3e7), 131_072, Rotation(131_072, 1e5))


def test_only_a_plain_rotation_is_changed():
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    config = LlamaConfig(**TINY, rope_parameters=scaled)
    with pytest.raises(
        ValueError, match="only a plain rotation can be given another base, and that of this model is linear"
    ):
        rotation.settled(config, 4096, None)
    assert not rotation.warning(config, 4096, None)


@pytest.mark.parametrize("yarn", [False, True])
def test_a_model_is_made_with_it_and_a_saved_one_gives_the_same_logits_elsewhere(tmp_path, yarn):
    source, target = str(tmp_path / "source"), str(tmp_path / "target")
    model.save(model.build(TINY | {"initializer_range": 0.3}, seed=2), None, source, 64)
    new = Rotation(512, 3e5, *((4.0, 64) if yarn else ()))
    ids = torch.randint(61, (1, 300), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = model.load(source)(ids).logits
        nets = [model.load(source, rotation=new), model.on_meta(source, rotation=new)]
        model.weights.fill(nets[1], torch.device("cpu"))
        after = [net(ids).logits for net in nets]
        assert torch.equal(*after) and (after[0] - before).abs().max() > 0.1
        model.save(nets[0], None, target, 512)
        plain = AutoModelForCausalLM.from_pretrained(target)
        torch.testing.assert_close(plain(ids).logits, after[0], rtol=0, atol=1e-4)
    config = AutoConfig.from_pretrained(target)
    assert config.max_position_embeddings == 512 and config.rope_parameters["rope_theta"] == 3e5
    kind = (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
        if yarn
        else {"rope_type": "default"}
    )
    assert config.rope_parameters == {"rope_theta": 3e5, **kind}
    assert AutoConfig.from_pretrained(source).rope_parameters["rope_theta"] == 1e6
