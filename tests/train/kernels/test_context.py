"""Parts of rows, in one process; tests/equality/test_loop_equality.py trains on them in two and four."""

import kept_bytes
import pytest
import torch
from shapes import TINY
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from train import model
from train.distributed import data_parallel as parallel
from train.kernels import attention, layers
from train.kernels import context_parallel as context
from train.monitor import flops

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

SHAPE = TINY | {"num_hidden_layers": 1, "num_key_value_heads": 4}


def batch(length: int = 24) -> dict[str, torch.Tensor]:
    ids = torch.arange(2 * length).view(2, -1)
    labels = ids.clone()
    labels[0, :5] = -100
    doc_ids = (torch.arange(length) // 7).expand(2, -1)
    more = {"position_ids": torch.arange(length).expand(2, -1), "pool": torch.tensor([3, 4])}
    return {"input_ids": ids, "labels": labels, "doc_ids": doc_ids, "count": (labels != -100).sum(), **more}


def test_a_part_is_a_chunk_from_the_head_and_one_from_the_tail(monkeypatch):
    found = [context.Part(i, 3).positions(12).tolist() for i in range(3)]
    assert found == [[0, 1, 10, 11], [2, 3, 8, 9], [4, 5, 6, 7]]
    monkeypatch.setattr(context, "CHUNK", 1)
    assert context.Part(0, 3).positions(12).tolist() == [0, 5, 6, 11]


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("chunks", [1, 4])
def test_parts_have_every_position_once_and_equally_many_pairs(n, chunks):
    length = 24 * n if chunks == 1 else 2 * n * context.CHUNK * chunks
    parts = [context.Part(i, n).positions(length) for i in range(n)]
    assert torch.cat(parts).sort().values.tolist() == list(range(length))
    pairs = [int((p + 1).sum()) for p in parts]
    assert len(set(pairs)) == 1 and sum(pairs) == flops.attention_pairs(torch.zeros(1, length))


def test_documents_of_any_length_leave_the_parts_equal_work():
    """Two large chunks a part would leave the last of the eight 1.5 to 2.2 times the mean (docs/decisions.md)."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.ones(65_536)
    for start in torch.randint(0, 65_536, (20,), generator=generator).sort().values:
        pairs[start:] = torch.arange(1, 65_536 - start + 1)
    work = [float(pairs[context.Part(i, 8).positions(65_536)].sum(dtype=torch.float64)) for i in range(8)]
    assert max(work) < 1.05 * sum(work) / 8


def test_the_parts_of_a_batch_make_the_batch():
    whole = batch()
    parts = [context.Part(i, 2) for i in range(2)]
    cut = [part.of(whole) for part in parts]
    assert sum(int(c["count"]) for c in cut) == int(whole["count"])
    for name in context.CUT:
        assert torch.equal(sum(p.whole(c[name], 24) for p, c in zip(parts, cut, strict=True)), whole[name])
    assert all(torch.equal(c[name], whole[name]) for c in cut for name in ("doc_ids", "pool"))


def test_what_cannot_be_split_is_refused():
    part = context.Part(0, 4)
    with pytest.raises(ValueError, match="one has 20 positions; make it a multiple of 8"):
        part.of(batch(20))
    with pytest.raises(ValueError, match="sum over labels"):
        part.of(batch() | {"count": torch.tensor(2)})
    with pytest.raises(ValueError, match="has no doc_ids"):
        part.of({k: v for k, v in batch().items() if k != "doc_ids"})
    with pytest.raises(ValueError, match="context_parallel 2 does not divide the number of workers, 1"):
        parallel.data_rank_world(2)


class Alone(context.Part):
    """A part whose rank was given the keys and values of the others."""

    def gather(self, key, value):
        return key, value


@pytest.mark.parametrize("backend", ["sdpa", "flex"])
@pytest.mark.parametrize("name", attention.MASKS)
def test_queries_of_a_part_attend_as_in_the_whole_row(monkeypatch, backend, name):
    monkeypatch.setattr(attention, "_flex", lambda: flex_attention)  # uncompiled: the same function, on CPU
    generator = torch.Generator().manual_seed(3)
    length = 512
    q = torch.randn(2, 4, length, 16, generator=generator)
    k, v = torch.randn(2, 2, 2, length, 16, generator=generator)
    doc_ids = torch.randint(0, 5, (2, length), generator=generator).sort(-1).values
    mask = attention.MASKS[name](doc_ids)
    want, _ = attention.attention(None, q, k, v, attention.dense_mask(mask, 2, length), scaling=0.25)
    for i in range(2):
        part = Alone(i, 2)
        here_S = part.positions(length)
        shifted = attention.of_queries(mask, here_S)
        built = (
            create_block_mask(shifted, 2, None, len(here_S), length, device="cpu")
            if backend == "flex"
            else attention.dense_mask(shifted, 2, length, queries=len(here_S))
        )
        got, _ = attention.attention(None, q[:, :, here_S], k, v, built, scaling=0.25, context_part=part)
        torch.testing.assert_close(got, want[:, here_S], rtol=0, atol=2e-6)


class Repeated(context.Part):
    """A part whose neighbours have the same keys and values."""

    def gather(self, key, value):
        return torch.cat([key] * self.n, 2), torch.cat([value] * self.n, 2)


@pytest.mark.parametrize("n", [2, 4])
def test_a_part_keeps_its_share_and_the_keys_and_values_of_the_row(n):
    """The formula of ray_jobs/plan/gpu_memory.py; SDPA keeps a mask too, which flex attention has none of."""
    net, length = model.build(SHAPE), 256
    net.model.context_part = part = Repeated(0, n)
    ids = torch.zeros(1, length, dtype=torch.long)
    row = {"input_ids": ids, "labels": ids, "doc_ids": ids, "position_ids": torch.arange(length)[None]}
    inputs = {name: x for name, x in part.of(row).items() if name not in {"labels", "count"}}
    kept = {p.untyped_storage().data_ptr(): 0 for p in net.parameters()}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.is_floating_point() and x.shape[-2:] != (length // n, length):
            kept.setdefault(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        hidden = net.model(**inputs, use_cache=False).last_hidden_state
    share = kept_bytes.per_token(net.config, "none", 4) * length / n
    assert hidden.requires_grad
    assert sum(kept.values()) == pytest.approx(share + 4 * 2 * 32 * length * (n - 1) / n, rel=0.1)


@pytest.mark.slow
def test_the_block_mask_of_a_long_row_is_made_by_a_compiled_function_and_equal():
    if reason := layers.why_not_compile(torch.device("cpu")):
        pytest.skip(reason)
    doc_ids = torch.arange(1024).floor_divide(300)[None]
    for i in range(2):
        mask = attention.of_queries(attention.intra_document(doc_ids), context.Part(i, 2).positions(1024))
        got, want = (
            f(mask, 1, None, 512, 1024, device="cpu") for f in (attention._long_block_mask(), create_block_mask)
        )
        assert torch.equal(got.kv_num_blocks, want.kv_num_blocks) and torch.equal(got.to_dense(), want.to_dense())
        assert torch.equal(got.full_kv_num_blocks, want.full_kv_num_blocks)


@pytest.mark.parametrize(("n", "backend"), [(1, "varlen"), (2, "sdpa")])
def test_auto_is_a_backend_that_can_share_rows(monkeypatch, n, backend):
    monkeypatch.setattr(layers, "why_not_compile", lambda device: "no compiler")
    net = model.build(SHAPE)
    attention.choose(net, "auto", torch.device("cuda"), "bf16", n)
    assert net.model.attention_backend == backend


def test_a_model_on_parts_needs_doc_ids_of_whole_rows():
    net = model.build(SHAPE)
    net.model.context_part = Alone(0, 2)
    ids = torch.zeros(1, 8, dtype=torch.long)
    with pytest.raises(ValueError, match="needs doc_ids"):
        net.model(input_ids=ids)
    with pytest.raises(ValueError, match="give one for each token"):
        net.model(input_ids=ids, doc_ids=ids)
