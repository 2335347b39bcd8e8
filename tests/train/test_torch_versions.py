"""The training code names nothing that torch 2.11 lacks: a GPU machine may have 2.11 while 2.13 is what is tested here."""

import ast
import importlib.util
import inspect
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.nn.attention.varlen import varlen_attn

import train
from train.kernels import context_parallel

NEWER = {
    # torch.distributed
    "all_gather_single",
    "reduce_scatter_single",
    "FlightRecorderHook",
    # fully_shard, its modules and its policies
    "DataParallelMeshDims",
    "dp_mesh_dims",
    "set_reduce_scatter_max_input_buffers",
    "set_reduce_scatter_unused_params",
    "set_separate_reduce_scatter_group",
    "set_symm_mem_for_comm",
    # torch.nn.attention.varlen
    "varlen_attn_out",
    "enable_gqa of varlen_attn",
    "block_table",
    "num_splits",
    "seqused_k",
    # torch.nn.functional, torch.compiler, operations
    "linear_cross_entropy of F",
    "set_default_backend",
    "_foreach_clone",
    "_foreach_mm",
}
"""What 2.13 has and 2.11 has not, of the modules that train/ imports from (found by comparing their definitions)."""


def names(tree: ast.AST):
    """Names that are looked up or given as keywords; a string in `getattr` is a question, and no use."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
            if isinstance(node.value, ast.Name):
                yield f"{node.attr} of {node.value.id}"
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if (node.module or "").startswith("torch"))
        elif isinstance(node, ast.Call):
            function = getattr(node.func, "id", getattr(node.func, "attr", ""))
            for keyword in node.keywords:
                yield from (keyword.arg, f"{keyword.arg} of {function}")


FILES = sorted(Path(train.__file__).parent.rglob("*.py"))


def test_no_name_is_newer_than_torch_2_11():
    found = {(path.name, name) for path in FILES for name in names(ast.parse(path.read_text())) if name in NEWER}
    assert len(FILES) > 50 and not found


@pytest.mark.parametrize(
    "text",
    [
        "dist.all_gather_single(a, b)",
        "from torch.distributed import reduce_scatter_single",
        "varlen_attn(q, enable_gqa=True)",
        "F.linear_cross_entropy(h, w, y)",
    ],
)
def test_such_a_name_would_be_found(text):
    assert NEWER & set(names(ast.parse(text)))
    assert not NEWER & set(names(ast.parse("flex_attention(q, enable_gqa=True); getattr(dist, 'all_gather_single')")))


@pytest.mark.parametrize(
    ("newer", "older"),
    [("all_gather_single", "all_gather_into_tensor"), ("reduce_scatter_single", "reduce_scatter_tensor")],
)
def test_both_names_of_a_collective_take_the_same_arguments(newer, older):
    if hasattr(dist, newer):
        assert inspect.signature(getattr(dist, newer)) == inspect.signature(getattr(dist, older))


def test_without_the_newer_name_the_older_collective_is_taken(monkeypatch):
    for name in ("all_gather_single", "reduce_scatter_single"):
        monkeypatch.delattr(dist, name, raising=False)
    spec = importlib.util.spec_from_file_location("with_2_11", context_parallel.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "with_2_11", module)
    spec.loader.exec_module(module)
    assert module._all_gather is dist.all_gather_into_tensor
    assert module._reduce_scatter is dist.reduce_scatter_tensor


def test_varlen_is_given_only_what_2_11_takes_but_for_the_flag():
    of_2_11 = ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k", "return_aux", "scale", "window_size"]
    assert list(inspect.signature(varlen_attn).parameters)[: len(of_2_11)] == of_2_11
