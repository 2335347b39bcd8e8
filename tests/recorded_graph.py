"""What a CUDA graph does to a step, played on a CPU: its operations are recorded once, with the tensors that they read and write,
and repeated without its Python code. An operation that would make the host wait for a GPU is an error while recording."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
WAITS = {
    getattr(aten, name)
    for name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim")
}


def waits(func, args) -> bool:
    """Whether an operation would wait for the device: to say a value, or how many there are."""
    indices = args[1] if func.overloadpacket in {aten.index, aten.index_put_, aten.index_put} else ()
    return func.overloadpacket in WAITS or any(x is not None and x.dtype == torch.bool for x in indices)


class Waiting(TorchDispatchMode):
    """Counts the operations that would wait: `found` are their names."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if waits(func, args):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


class Graph(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list = []
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if waits(func, args):
            raise RuntimeError(f"{func} in a captured step")
        written = []
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info and argument.alias_info.is_write:
                given = args[i] if i < len(args) else kwargs.get(argument.name)
                written += [x for x in tree_leaves(given) if isinstance(x, torch.Tensor)]
        for x in written:
            base = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
            self.before.setdefault(base.data_ptr(), (base, base.clone()))
        out = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, out, bool(written)))
        return out

    @torch.no_grad()
    def undo(self) -> None:
        for base, was in self.before.values():
            base.copy_(was)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out, writes in self.operations:
            if writes:
                func(*args, **kwargs)
            elif not func.is_view:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if (
                        isinstance(old, torch.Tensor)
                        and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr()
                    ):
                        old.copy_(new)


captures = 0


def capture(step):
    """As train/kernels/cuda_graph.py captures a step on a GPU."""
    global captures  # noqa: PLW0603
    captures += 1
    graph = Graph()
    with graph:
        step()
    graph.undo()
    return graph.replay
