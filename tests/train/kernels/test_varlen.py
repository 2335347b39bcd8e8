import itertools

import pytest
import torch
from shapes import TINY
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM

from train import model
from train.batches.parts import on_device
from train.kernels import attention, layers, varlen

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

DOC_IDS = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2], [2, 2, 3, 3, 3, 3, -1, -1]])


def twin(q_SHN, k_SKN, v_SKN, begins, begins_k, most, most_k, *, scale, window_size, enable_gqa):  # noqa: PLR0917
    """What `varlen_attn` is documented to do, one document after another."""
    assert enable_gqa == (q_SHN.shape[1] != k_SKN.shape[1])
    return twin_of_2_11(q_SHN, k_SKN, v_SKN, begins, begins_k, most, most_k, scale=scale, window_size=window_size)


def twin_of_2_11(  # noqa: PLR0917
    q_SHN, k_SKN, v_SKN, begins, begins_k, most, most_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    """The same with torch 2.11's arguments: heads are seen in the tensors."""
    assert begins is begins_k and begins.dtype == torch.int32 and most == most_k == int(begins.diff().max())
    assert window_size == (-1, 0)
    assert q_SHN.dtype == k_SKN.dtype == v_SKN.dtype == torch.bfloat16
    enable_gqa = q_SHN.shape[1] != k_SKN.shape[1]
    out = [
        scaled_dot_product_attention(
            *(x[a:b].transpose(0, 1) for x in (q_SHN, k_SKN, v_SKN)), is_causal=True, scale=scale, enable_gqa=enable_gqa
        ).transpose(0, 1)
        for a, b in begins.unfold(0, 2, 1).tolist()
    ]
    return torch.cat(out)


def test_documents_begin_where_the_id_changes_and_where_a_row_does():
    found = varlen.documents(DOC_IDS)
    assert found.boundaries.tolist() == [0, 3, 5, 8, 10, 14, 16] and found.boundaries.dtype == torch.int32
    assert found.longest == 4
    whole = varlen.documents(torch.zeros(3, 5, dtype=torch.long))  # no document goes on in the next row
    assert whole.boundaries.tolist() == [0, 5, 10, 15] and whole.longest == 5
    assert varlen.documents(torch.tensor([[7]])).boundaries.tolist() == [0, 1]
    assert varlen.documents(torch.tensor([[5, 4, 3]])).boundaries.tolist() == [0, 1, 2, 3]


def test_documents_in_two_pieces_are_refused():
    with pytest.raises(ValueError, match="one id in two places"):
        varlen.documents(torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0]]))


def naive(doc_ids):
    """(boundaries, longest, whether an id is in two places of a row), position by position."""
    begins, split = [], False
    for b, row in enumerate(doc_ids.tolist()):
        runs = [t for t in range(len(row)) if t == 0 or row[t] != row[t - 1]]
        split |= len({row[t] for t in runs}) < len(runs)
        begins += [b * len(row) + t for t in runs]
    begins.append(doc_ids.numel())
    return begins, max(b - a for a, b in itertools.pairwise(begins)), split


def test_documents_are_those_of_a_naive_twin_in_random_rows():
    g = torch.Generator().manual_seed(5)
    splits = 0
    for trial in range(200):
        rows, length = (int(torch.randint(1, n, (), generator=g)) for n in (5, 40))
        p = [0.02, 0.2, 0.7][trial % 3]
        ids = torch.rand(rows, length, generator=g).lt(p).cumsum(1) + torch.randint(-3, 9, (rows, 1), generator=g)
        if trial % 4 == 0:
            ids[:, -1] = ids[:, 0]  # often an id in two places
        begins, longest, split = naive(ids)
        splits += split
        if split:
            with pytest.raises(ValueError, match="one id in two places"):
                varlen.documents(ids)
            continue
        found = varlen.documents(ids)
        assert (found.boundaries.tolist(), found.longest) == (begins, longest)
    assert 10 < splits < 100


def test_documents_of_a_batch_that_was_moved_are_found_on_the_host():
    """A tensor without values stands for one on a GPU: to look at it would be an error, as on a GPU it would be a wait."""
    moved = on_device({"doc_ids": DOC_IDS, "input_ids": DOC_IDS}, torch.device("meta"))["doc_ids"]
    found = varlen.documents(moved)
    assert found.boundaries.device.type == "meta" and found.boundaries.shape == (7,) and found.longest == 4
    with pytest.raises(NotImplementedError, match="meta tensor"):
        varlen.documents(torch.empty_like(DOC_IDS, device="meta"))
    here = on_device({"doc_ids": DOC_IDS}, torch.device("cpu"))["doc_ids"]
    assert here is DOC_IDS and not vars(here)  # a tensor that holds itself would never be freed


def heads(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("kernel", [twin, twin_of_2_11])
def test_it_equals_sdpa_under_the_mask(monkeypatch, kernel):
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(varlen, "NAMES_GROUPS", varlen.names_groups(kernel))
    q, k, v = heads(2, 4, 8, 16, seed=1), heads(2, 2, 8, 16, seed=2), heads(2, 2, 8, 16, seed=3)
    got, _ = attention.attention(None, q.float(), k, v, None, scaling=0.3, documents=varlen.documents(DOC_IDS))
    mask = attention.dense_mask(attention.intra_document(DOC_IDS), 2, 8)
    want, _ = attention.attention(None, q, k, v, mask, scaling=0.3)
    assert got.shape == (2, 8, 4, 16)
    torch.testing.assert_close(got.float(), want.float(), rtol=0, atol=2e-2)  # both are rounded to 8 bits
    with pytest.raises(ValueError, match="no dropout"):
        attention.attention(None, q, k, v, None, dropout=0.1, documents=varlen.documents(DOC_IDS))
    with pytest.raises(ValueError, match="16-bit numbers"):
        attention.attention(None, q, k, v.float(), None, documents=varlen.documents(DOC_IDS))


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_model_with_it_equals_one_with_sdpa(monkeypatch, kind):
    monkeypatch.setattr(varlen, "varlen_attn", twin)
    if kind == "qwen2":
        net = model.build(TINY | {"initializer_range": 0.2}, seed=1).eval()
    else:
        net = LlamaForCausalLM(LlamaConfig(**TINY, attn_implementation=attention.NAME)).eval()
        attention.attach(net)
    ids = torch.randint(0, 61, (2, 8), generator=torch.Generator().manual_seed(4))
    hidden = {}
    for backend in ("sdpa", "varlen"):
        net.model.attention_backend = backend
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            hidden[backend] = net.model(input_ids=ids, doc_ids=DOC_IDS, use_cache=False).last_hidden_state.float()
    torch.testing.assert_close(hidden["varlen"], hidden["sdpa"], rtol=0, atol=0.05)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        other = net.model(input_ids=ids, doc_ids=0 * DOC_IDS, use_cache=False).last_hidden_state.float()
    assert (other - hidden["sdpa"]).abs().max() > 0.2  # the documents matter


def test_what_it_cannot_do_is_refused():
    net = model.build(TINY, seed=1).eval()
    net.model.attention_backend = "varlen"
    ids = torch.zeros_like(DOC_IDS)
    net.model.context_part = type("Part", (), {"n": 1})()
    with pytest.raises(ValueError, match="varlen cannot share a row"):
        net.model(input_ids=ids, doc_ids=DOC_IDS)


def chosen(backend, device, precision):
    net = torch.nn.Module()
    net.model = torch.nn.Module()
    attention.choose(net, backend, torch.device(device), precision)
    return getattr(net.model, "attention_backend", None)


def test_the_backend_is_chosen_by_device_and_precision(monkeypatch):
    monkeypatch.setattr(layers, "why_not_compile", lambda device: "")
    assert [chosen("auto", device, "fp32") for device in ("cpu", "cuda")] == [None, None]  # by the device of the batch
    assert [chosen(b, "cuda", "bf16") for b in ("sdpa", "flex", "varlen")] == ["sdpa", "flex", "varlen"]
    monkeypatch.setattr(layers, "why_not_compile", lambda device: "no compiler")
    assert [chosen("auto", "cuda", precision) for precision in ("fp32", "bf16")] == ["sdpa", "varlen"]
    assert chosen("auto", "cpu", "bf16") is None
    for backend in ("flex", "varlen"):
        with pytest.raises(ValueError, match=f"attention: {backend} needs a GPU"):
            chosen(backend, "cpu", "bf16")
    with pytest.raises(ValueError, match="varlen needs precision bf16"):
        chosen("varlen", "cuda", "fp32")


@pytest.mark.parametrize(("reason", "on_a_gpu"), [("", "flex"), ("no compiler", "sdpa")])
def test_a_model_that_is_only_read_takes_what_works(monkeypatch, reason, on_a_gpu):
    monkeypatch.setattr(layers, "why_not_compile", lambda device: reason)
    attention.backend_of.cache_clear()
    assert [attention.backend_of(torch.device(device)) for device in ("cpu", "cuda")] == ["sdpa", on_a_gpu]
    attention.backend_of.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel needs a CUDA device")
def test_on_a_gpu_all_backends_and_their_gradients_are_equal():
    ids = (torch.arange(512) // 100).expand(2, -1).contiguous().cuda()
    results = {}
    for backend in ("sdpa", "flex", "varlen"):
        q, k, v = (heads(2, n, 512, 64, seed=n + i).cuda().requires_grad_() for i, n in ((0, 4), (1, 2), (2, 2)))
        more, mask = {}, None
        if backend == "varlen":
            more["documents"] = varlen.documents(ids)
        elif backend == "flex":
            mask = attention.create_block_mask(attention.intra_document(ids), 2, None, 512, 512, device="cuda")
        else:
            mask = attention.dense_mask(attention.intra_document(ids), 2, 512, "cuda")
        out, _ = attention.attention(None, q, k, v, mask, **more)
        out.float().square().sum().backward()
        results[backend] = [out.detach().float(), *(x.grad.float() for x in (q, k, v))]
    for backend in ("flex", "varlen"):
        for got, want in zip(results[backend], results["sdpa"], strict=True):
            assert (got - want).norm() < 0.01 * want.norm(), backend
