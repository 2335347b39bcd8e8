import copy
import logging

import kept_bytes
import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from shapes import TINY
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import Olmo2Config, Olmo2ForCausalLM

from train import model
from train.kernels import attention, layers, varlen
from train.methods import pretrain

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

SHAPE = TINY | {"intermediate_size": 96, "num_hidden_layers": 3, "attention_dropout": 0.1}


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 61, (2, 48), generator=torch.Generator().manual_seed(0))
    doc_ids = (torch.arange(48) // 20).expand(2, -1)
    return {"input_ids": ids, "labels": ids, "doc_ids": doc_ids, "position_ids": torch.arange(48).expand(2, -1)}


def gradients_of(net: nn.Module) -> list[torch.Tensor]:
    torch.manual_seed(1)  # dropout
    pretrain.loss(net.train(), batch()).loss_sum.backward()
    return [p.grad for p in net.parameters()]


def test_checkpointing_changes_no_bit_of_the_gradients():
    net = model.build(SHAPE, seed=2)
    gradients = {}
    for mode in layers.CHECKPOINTING:
        copied = copy.deepcopy(net)
        layers.checkpoint_activations(copied, mode)
        gradients[mode] = gradients_of(copied)
    for mode in ("selective", "full"):
        assert all(torch.equal(a, b) for a, b in zip(gradients[mode], gradients["none"], strict=True)), mode


@pytest.mark.parametrize(("mode", "products"), [("none", 0), ("selective", 3), ("full", 6)])
def test_a_mode_repeats_what_it_says(mode, products):
    """A layer has seven matrix products forward (q, k, v, o, gate, up, down; nobody needs the last again), 14 backward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Products(TorchDispatchMode):
        count = attention = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func in layers._PRODUCTS
            self.attention += func in layers._ATTENTION
            return func(*args, **(kwargs or {}))

    net = model.build(SHAPE | {"attention_dropout": 0.0}, seed=2).train()
    layers.checkpoint_activations(net, mode)
    hidden = net.model(batch()["input_ids"], doc_ids=batch()["doc_ids"], use_cache=False).last_hidden_state
    with Products() as counted:
        hidden.sum().backward()
    assert counted.count - 3 * 14 == 3 * products
    assert counted.attention == (3 if mode == "full" else 0)


@pytest.mark.parametrize(("kind", "kept"), [("qwen2", 3), ("olmo2", 4)])
def test_selective_keeps_no_product_that_nobody_needs(monkeypatch, kind, kept):
    """q, v and gate; down where a norm reads it."""
    decided = []
    contexts = layers.create_selective_checkpoint_contexts

    def spied(policy):
        def noted(context, operation, *args, **kwargs):
            decision = policy(context, operation, *args, **kwargs)
            if operation in layers._PRODUCTS and not context.is_recompute:
                decided.append(decision == layers.CheckpointPolicy.MUST_SAVE)
            return decision

        return contexts(noted)

    monkeypatch.setattr(layers, "create_selective_checkpoint_contexts", spied)
    shape = SHAPE | {"num_hidden_layers": 1, "attention_dropout": 0.0}
    if kind == "olmo2":
        net = Olmo2ForCausalLM(Olmo2Config(**shape, attn_implementation=attention.NAME)).train()
        attention.attach(net)
    else:
        net = model.build(shape, seed=2).train()
    layers.checkpoint_activations(net, "selective")
    pretrain.loss(net, batch()).loss_sum.backward()
    assert len(decided) == 7 and sum(decided) == kept


def test_a_mode_can_be_set_again_and_does_nothing_outside_training():
    net = model.build(SHAPE, seed=2)
    own = type(net.model.layers[0])
    for mode in ("full", "selective"):
        layers.checkpoint_activations(net, mode)
        made = type(net.model.layers[0])
        assert issubclass(made, own) and made.__mro__.count(own) == 1 and made.__mro__[1] is own
    copied = copy.deepcopy(net)
    with torch.no_grad():
        for p in copied.parameters():
            p.zero_()
    ids = batch()["input_ids"]
    hidden = [one.train()(ids, use_cache=False).logits for one in (net, copied)]
    assert hidden[0].abs().sum() > 0 == hidden[1].abs().sum()  # a copy computes with its own weights
    assert net.eval().generate(ids[:1], max_new_tokens=3, do_sample=False).shape == (1, 51)  # with a cache


@pytest.mark.parametrize("number", [2, 4])
def test_bytes_kept_of_a_token_are_as_the_formula_says(number):
    net = model.build(SHAPE | {"num_key_value_heads": 4, "attention_dropout": 0.0}, seed=2).train()
    net = net.bfloat16() if number == 2 else net
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = net.model(torch.arange(48)[None], use_cache=False).last_hidden_state
    measured = sum(kept.values()) / (3 * 48)
    formula = kept_bytes.per_token(net.config, "none", number)
    assert hidden.requires_grad and 0.9 * measured < formula < 1.1 * measured
    selective, full = (kept_bytes.per_token(net.config, mode, number) for mode in ("selective", "full"))
    assert (full, selective) == (32 * number, (4 * 32 + 96) * number)


def test_unknown_modes_and_models_without_layers_are_refused():
    with pytest.raises(ValueError, match="one of none, selective, full, not 'some'"):
        layers.checkpoint_activations(model.build(SHAPE), "some")
    with pytest.raises(ValueError, match="decoder layers"):
        layers.checkpoint_activations(nn.Linear(2, 2), "full")
    layers.checkpoint_activations(nn.Linear(2, 2), "none")


def test_without_a_compiler_training_goes_on_and_says_why(monkeypatch, caplog):
    def broken(function):
        raise RuntimeError("no C++ compiler here\nand a long trace")

    monkeypatch.setattr(torch, "compile", broken)
    net = model.build(SHAPE)
    with caplog.at_level(logging.WARNING):
        assert layers.compile_layers(net, torch.device("cpu")) is False
    assert caplog.messages == [
        "torch.compile does not work on this machine, so training goes on without it: no C++ compiler here"
    ]
    assert all(layer._compiled_call_impl is None for layer in net.model.layers)


@pytest.fixture
def traced(monkeypatch):
    """Graphs are made and counted, no machine code; flex attention is told that it is not on a CPU, where it has no backward
    pass, and varlen's kernel is an operation that gives back the queries."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    monkeypatch.setattr(varlen, "varlen_attn", lambda q, k, v, begins, _, most, *a, **b: _queries(q, begins, most))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@torch.library.custom_op("pinisi_tests::queries", mutates_args={})
def _queries(q: torch.Tensor, begins: torch.Tensor, most: int) -> torch.Tensor:
    return q.clone()


_queries.register_fake(lambda q, begins, most: torch.empty_like(q))
_queries.register_autograd(lambda ctx, grad: (grad, None, None))


def documents(rows: int, length: int, seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    doc_ids = torch.rand(rows, length, generator=g).lt(0.05).cumsum(1)
    ids = torch.randint(0, 61, (rows, length), generator=g)
    return {"input_ids": ids, "labels": ids, "doc_ids": doc_ids, "position_ids": torch.arange(length).expand(rows, -1)}


@pytest.mark.parametrize(("backend", "mode"), [("sdpa", "none"), ("flex", "none"), ("varlen", "selective")])
def test_all_layers_are_one_graph_that_other_documents_and_lengths_do_not_compile_anew(traced, backend, mode):
    net = model.build(SHAPE | {"attention_dropout": 0.0}, seed=2).train()
    net.model.attention_backend = backend
    layers.checkpoint_activations(net, mode)
    counter = CompileCounterWithBackend("eager")
    for layer in net.model.layers:
        layer.compile(backend=counter, fullgraph=True)  # a break of the graph is an error
    compiled = []
    for seed, (rows, length) in enumerate([*[(2, 128)] * 4, (2, 256), (3, 200), (2, 130), (4, 172), (5, 290)]):
        with torch.autocast("cpu", torch.bfloat16):
            pretrain.loss(net, documents(rows, length, seed)).loss_sum.backward()
        compiled.append(counter.frame_count)
    assert compiled[:4] == ([1, 2, 2, 2] if backend == "varlen" else [1] * 4)  # varlen: as many boundaries as documents
    assert compiled[6] == compiled[8] <= 4, compiled  # lengths and numbers of rows become variables


@pytest.mark.parametrize(("mode", "products"), [("none", 0), ("selective", 3), ("full", 6)])
@pytest.mark.parametrize("backend", ["sdpa", "flex"])
def test_a_compiled_layer_repeats_what_the_mode_says(traced, backend, mode, products):
    """As the layer that is not compiled does above: the graph of the backward pass has what is computed again."""
    graphs: dict[str, list[str]] = {}

    def kept(name: str):
        def compiler(graph: torch.fx.GraphModule, _) -> object:
            graphs[name] = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
            return make_boxed_func(graph.forward)

        return compiler

    net = model.build(SHAPE | {"attention_dropout": 0.0, "num_hidden_layers": 1}, seed=2).train()
    net.model.attention_backend = backend
    layers.checkpoint_activations(net, mode)
    partition = min_cut_rematerialization_partition
    whole = aot_autograd(fw_compiler=kept("forward"), bw_compiler=kept("backward"), partition_fn=partition)
    net.model.layers[0].compile(backend=whole, fullgraph=True)
    pretrain.loss(net, documents(2, 128, 0)).loss_sum.backward()
    again = "flex_attention" if backend == "flex" else "run_with_rng_state"  # which wraps what may draw numbers
    assert sum("mm" in name for name in graphs["forward"]) == 7
    assert sum("mm" in name for name in graphs["backward"]) == 14 + products
    assert (again in graphs["backward"]) == (mode == "full")


@pytest.mark.slow
def test_compiled_layers_compute_the_same_loss_and_gradients():
    net = model.build(SHAPE | {"attention_dropout": 0.0}, seed=2)
    compiled = copy.deepcopy(net)
    assert layers.compile_layers(compiled, torch.device("cpu")) is True
    layers.checkpoint_activations(compiled, "selective")
    want = gradients_of(net)
    got = gradients_of(compiled)
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm() + 1e-7
