"""What is converted to fp8 and what is saved, with a torchao that only says so; and what is refused in one sentence."""

import sys
from types import ModuleType

import pytest
import torch
from shapes import TINY
from torch import nn

from train import loop, model
from train.kernels import fp8
from train.loop import LoopConfig, fit
from train.methods import pretrain

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

SHAPE = TINY | {"intermediate_size": 40, "vocab_size": 64}  # 40 is no multiple of 16
ROWS = torch.arange(64).view(2, 32) % 60


class Float8Linear(nn.Linear):
    """As torchao's: the parameters of the layer that it replaces, and products of another precision."""

    def forward(self, x):
        return nn.functional.linear(x.to(torch.float8_e4m3fn).to(x.dtype), self.weight, self.bias)


def convert(module: nn.Module, *, module_filter_fn, config=None) -> nn.Module:
    for name, child in list(module.named_modules()):
        if type(child) is nn.Linear and module_filter_fn(child, name):
            with torch.device("meta"):
                made = Float8Linear(child.in_features, child.out_features, bias=False)
            made.weight, made.bias = child.weight, child.bias
            module.set_submodule(name, made)
    return module


@pytest.fixture
def torchao(monkeypatch):
    package, float8 = ModuleType("torchao"), ModuleType("torchao.float8")
    float8.convert_to_float8_training = convert
    package.float8 = float8
    monkeypatch.setitem(sys.modules, "torchao", package)
    monkeypatch.setitem(sys.modules, "torchao.float8", float8)


@pytest.fixture
def new_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H200")


def batch(numbers: list[int]) -> dict:
    more = {"doc_ids": torch.zeros_like(ROWS), "position_ids": torch.arange(32).expand(2, -1)}
    return {"input_ids": ROWS, "labels": ROWS.roll(-1, 1), "count": torch.tensor(ROWS.numel()), **more}


def test_linear_layers_of_the_decoder_with_sides_of_16_are_converted(torchao, new_card, monkeypatch):
    monkeypatch.setattr(fp8, "LEAST_WIDTH", 32)
    net = model.build(SHAPE)
    before = {name: id(p) for name, p in net.named_parameters()}
    fp8.convert(net, torch.device("cuda"))
    converted = {name.split(".", 3)[3] for name, module in net.named_modules() if type(module) is Float8Linear}
    assert converted == {f"self_attn.{name}_proj" for name in "qkvo"}
    assert type(net.lm_head) is nn.Linear and {name: id(p) for name, p in net.named_parameters()} == before


def test_training_in_fp8_is_another_and_saves_plain_weights(torchao, monkeypatch, tmp_path):
    monkeypatch.setattr(fp8, "require", lambda *of: None)
    more = {"steps": 3, "rows_per_step": 2, "micro_rows": 2, "lr": 1e-2}
    weights = {}
    for precision in ("bf16", "fp8"):
        net = model.build(SHAPE)
        config = LoopConfig(**more, precision=precision)
        summary = fit(net, batch, pretrain.loss, config, str(tmp_path / precision))
        assert summary["precision"] == "bf16"  # of all else
        model.save(net, None, str(tmp_path / precision / "model"), 64)
        weights[precision] = model.load(str(tmp_path / precision / "model"))
    assert not any(type(module) is Float8Linear for module in weights["fp8"].modules())
    assert weights["fp8"].state_dict().keys() == weights["bf16"].state_dict().keys()
    own, theirs = (weights[name].model.layers[0].self_attn.q_proj.weight for name in ("fp8", "bf16"))
    assert own.dtype == torch.float32 and not torch.equal(own, theirs)
    assert loop.fp8 is fp8


def test_refused_without_torchao_in_narrow_models_and_on_other_hardware(torchao, monkeypatch, new_card):
    with pytest.raises(ValueError, match="width 896; take bf16 below 3584"):
        fp8.require(896)
    fp8.require(3584)
    fp8.require(4096, torch.device("cuda"))
    with pytest.raises(ValueError, match="needs a GPU; on a CPU take bf16"):
        fp8.require(4096, torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    with pytest.raises(ValueError, match=r"capability 8\.9 or newer, but A100 has 8\.0"):
        fp8.require(4096, torch.device("cuda"))
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(ValueError, match=r"pip install 'pinisi\[fp8\]'"):
        fp8.require(4096)
