"""All that a GPU must show, in one run of at most 12 minutes: first that results are right, then how fast they come.

    python benchmarks/gpu_train.py [--budget 720] [--only attention decoding]     on a CUDA device
    python benchmarks/gpu_train.py --tiny                                         every item on a CPU, at tiny shapes
    python benchmarks/gpu_train.py --list                                         the items and their limits, in seconds

Nothing has to be installed but torch 2.11 or newer, transformers 5.17 or newer, safetensors, fsspec, pyarrow, psutil and xxhash:
neither Ray nor Pinisi. Each item is a process with a time limit of its own, and prints each of its numbers at once as one line
of JSON. What does not fit into the budget any more is a row "skipped, out of time"; what fails is a row that says why.

Speed: packed rows of 4096 tokens, documents of log-normal length kept apart, fp32 weights with bf16 products, random weights and
tokens. MFU counts what is computed: pairs of positions in one document, not T x T. Targets: 1B .35, 8B .45, and 1.3 times HF
Trainer with Liger and compile on the same card. Peers that are not installed are rows that say so. All 32 layers of the 8B fit
one card with 8-bit moments only (10 bytes a parameter, 86 GB).

benchmarks/results/training-gpu.json gets the rows, each with its date and hardware, and keeps those of items that were not
measured now; training-gpu-profile.txt the kernels of one update of the 1B and of the 8B.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import gc
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Pinisi need not be installed

import train_cpu
from table import row

FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
VOCABULARY = 151_936
CASES = {
    # shape, tied, target of MFU in documents
    "0.5b": ((896, 24, 14, 2, 4864), True, None),
    "1b": ((896, 48, 14, 2, 4864), False, 0.35),
    "8b, 16 of 32 layers": ((3584, 16, 28, 4, 18944), False, None),
    "8b": ((3584, 32, 28, 4, 18944), False, 0.45),
}
TINY = {"tiny": ((64, 2, 4, 2, 128), True, None)}
COMPILED = {"compile": True, "attention": "varlen"}
ACCUMULATION = 4
UNTIMED, TIMED = 2, 8  # updates
PEER_RATIO = 1.3
RESERVE = 5  # seconds at the end, to write what was measured
RESULTS = Path(__file__).parent / "results"

Emit = Callable[..., None]
"""emit(metric, unit, value, target=…, least=…, peer=(name, value)): one row, printed at once."""


class Item(NamedTuple):
    """`seconds` is its limit; `least` what it needs to be worth starting."""

    seconds: int
    least: int
    measure: Callable[..., None]
    values: tuple = ()


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=720, help="seconds of the whole run")
    parser.add_argument("--only", nargs="+", choices=[*ITEMS], metavar="ITEM", help="these, in the order of --list")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny shapes on CPU: shows that the script runs, nothing else"
    )
    parser.add_argument("--list", action="store_true", help="say what would be done")
    parser.add_argument("--one", choices=[*ITEMS], help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    began = time.monotonic()
    if args.list:
        for name, item in ITEMS.items():
            print(f"{name:<40}{item.seconds:>5}")
        return []
    if args.one:
        measure(args.one, args.tiny, lambda *of, **more: say(row(f"{args.one}: {of[0]}", *of[1:], **more)))
        return []
    if not args.tiny and not has_gpu():
        print("no CUDA device here, so nothing is measured; --tiny tries the script out on CPU")
        return []
    rows: list[dict] = []
    for name in [name for name in ITEMS if not args.only or name in args.only]:
        left = args.budget - RESERVE - (time.monotonic() - began)
        rows += run_one(name, left, args.tiny)
        if not args.tiny:  # after each, as a lent machine may go at any time
            write(rows)
    return rows


def run_one(name: str, left: float, tiny: bool) -> list[dict]:
    """The rows of an item that has `left` seconds at most, each printed when it is there."""
    if left < ITEMS[name].least:
        return [say(row(f"{name}: skipped, out of time", "", 0.0))]
    if tiny:
        return here(name)
    rows, why = in_process([sys.executable, __file__, "--one", name], min(ITEMS[name].seconds, left))
    return rows + ([say(row(f"{name}: failed, {why[:160]}", "", 0.0))] if why else [])


def in_process(command: list[str], seconds: float) -> tuple[list[dict], str]:
    """The rows that `command` printed, and what ended it before its end; empty where nothing did."""
    rows, late = [], threading.Event()
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)

        def kill() -> None:
            late.set()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # with the processes that compile for it

        clock = threading.Timer(seconds, kill)
        clock.start()
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith('{"metric"'):
                rows.append(say(json.loads(line)))
        code = child.wait()
        clock.cancel()
        errors.seek(0)
        said = [line for line in errors.read().splitlines() if line.strip()] or [f"exit code {code}"]
    if late.is_set():
        return rows, f"over its limit of {seconds:.0f} s"
    return rows, said[-1] if code else ""


def here(name: str) -> list[dict]:
    """The same in this process, for --tiny."""
    rows: list[dict] = []
    try:
        measure(name, True, lambda *of, **more: rows.append(say(row(f"{name}: {of[0]}", *of[1:], **more))))
    except ValueError as error:  # what needs a GPU says so
        rows.append(say(row(f"{name}: failed, {str(error)[:160]}", "", 0.0)))
    return rows


def measure(name: str, tiny: bool, emit: Emit) -> None:
    item = ITEMS[name]
    item.measure(emit, tiny, *item.values)


def say(made: dict) -> dict:
    print(json.dumps(made), flush=True)
    return made


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def place(tiny: bool):
    import torch

    return torch.device("cpu" if tiny else "cuda")


def write(rows: list[dict]) -> None:
    """`rows` with those of items that were not measured now, to the results."""
    stamp = {"tuned_on": "nothing", "date": datetime.date.today().isoformat(), "hardware": hardware()}
    made = merged([r | stamp for r in rows])
    RESULTS.mkdir(exist_ok=True)
    result = {"machine": hardware(), "date": stamp["date"], "rows": made}
    (RESULTS / "training-gpu.json").write_text(json.dumps(result, indent=1) + "\n")


def merged(rows: list[dict]) -> list[dict]:
    """An item that was measured now replaces its rows of before, unless it was skipped."""
    path = RESULTS / "training-gpu.json"
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    skipped = {item_of(r) for r in rows if "skipped, out of time" in r["metric"]} & {item_of(r) for r in before}
    rows = [r for r in rows if item_of(r) not in skipped]
    now = {item_of(r) for r in rows}
    return [r for r in before if item_of(r) not in now] + rows


def item_of(made: dict) -> str:
    return made["metric"].split(": ")[0]


def hardware() -> str:
    import torch

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{card}, torch {torch.__version__}, transformers {importlib.metadata.version('transformers')}"


# what is right --------------------------------------------------------------------------------------------------------


def rates(emit: Emit, tiny: bool) -> None:
    """A0: what the card does at all: bytes copied and products in bf16."""
    import torch

    device = place(tiny)
    x = torch.zeros((1 << 20 if tiny else 8 << 30) // 4, device=device)
    y = torch.empty_like(x)
    seconds = timed(lambda: y.copy_(x), device)
    emit("copy, bytes read and written", "TB/s", 2 * x.numel() * 4 / seconds / 1e12)
    x = y = x.new_empty(0)
    shapes = [(8192, 8192, 8192), (16384, 896, 4864), (4096, 3584, 18944)]
    for m, k, n in [(64, 32, 48)] if tiny else shapes:
        a, b = (torch.randn(*of, device=device, dtype=torch.bfloat16) for of in ((m, k), (k, n)))
        rate = 2 * m * k * n / timed(lambda a=a, b=b: a @ b, device)
        emit(f"product {m} x {k} x {n}", "TFLOP/s", rate / 1e12)


def attention_values(emit: Emit, tiny: bool) -> None:
    """A1: each backend against dense attention in fp32, values and gradients; anchors and shared prompts too."""
    import torch

    device = place(tiny)
    cases = [(2, 70, 4, 2, 16)] if tiny else [(2, 4096, 14, 2, 64), (2, 4059, 28, 4, 128)]
    for B, T, H, K, N in cases:
        generator = torch.Generator(device).manual_seed(0)
        q, k, v, g = (
            torch.randn(B, h, T, N, device=device, dtype=torch.bfloat16, generator=generator) for h in (H, K, K, H)
        )
        ids = some_documents(B, T).to(device)
        want = {}
        for mask in ("intra_document", "anchor", "shared_prompt"):
            want[mask] = attended("dense", mask, ids, *(x.float() for x in (q, k, v, g)))
            for backend in backends(tiny, mask):
                found = attended(backend, mask, ids, q, k, v, g)
                name = f"{backend}, {mask}, {H} heads of {N}, {T} tokens"
                emit(
                    f"{name}: relative error of values and gradients",
                    "",
                    apart(found, want[mask]),
                    target=1e-2,
                    least=False,
                )
        if not tiny:
            flex, varlen = (attended(b, "intra_document", ids, q, k, v, g) for b in ("flex", "varlen"))
            emit(f"flex against varlen, {H} heads of {N}", "", apart(flex, varlen), target=5e-3, least=False)


def attention_time(emit: Emit, tiny: bool) -> None:
    """A2: forward and backward."""
    import torch

    device = place(tiny)
    B, T = (1, 64) if tiny else (1, 4096)
    for H, K, N in [(4, 2, 16)] if tiny else [(14, 2, 64), (28, 4, 128)]:
        q, k, v, g = (torch.randn(B, h, T, N, device=device, dtype=torch.bfloat16) for h in (H, K, K, H))
        for what, ids in (("documents", some_documents(B, T)), ("one document", torch.zeros(B, T, dtype=torch.int64))):
            for backend in backends(tiny, "intra_document"):
                ids = ids.to(device)
                seconds = timed(lambda b=backend, i=ids, of=(q, k, v, g): attended(b, "intra_document", i, *of), device)
                emit(f"{backend}, {what}, {H} heads of {N}, {T} tokens", "ms", 1e3 * seconds)


def backends(tiny: bool, mask: str) -> list[str]:
    return ["sdpa", "flex", *(["varlen"] if mask != "shared_prompt" and not tiny else [])]


def attended(backend: str, mask: str, doc_ids, q, k, v, g) -> list:  # noqa: PLR0917
    """[values, gradients of q, k and v] of one backend, its mask made anew as in each micro-batch."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    from train.kernels import attention, varlen

    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    B, T = doc_ids.shape
    predicate = attention.MASKS[mask](doc_ids)
    if backend == "varlen":
        out = varlen.attention(q, k, v, varlen.documents(doc_ids, anchor=mask == "anchor"))
    elif backend == "flex":
        block = create_block_mask(predicate, B, None, T, T, device=doc_ids.device)
        if doc_ids.is_cuda:
            out, _ = attention.attention(None, q, k, v, block)
        else:  # where it has no gradient, and compiled takes a minute
            of = (x.detach() for x in (q, k, v))
            return [flex_attention(*of, block_mask=block, enable_gqa=True).transpose(1, 2)]
    else:
        out, _ = attention.attention(None, q, k, v, attention.dense_mask(predicate, B, T, doc_ids.device))
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), g.transpose(1, 2))]


def some_documents(B: int, T: int):
    """Numbers of documents: of log-normal length and one of a single token; the last of several rows is one document."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    lengths = [1, *np.maximum(1, rng.lognormal(5.3, 1.0, T) * min(1.0, T / 4096)).astype(int)]
    ids = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)[:T]).repeat(B, 1)
    if B > 1:
        ids[-1] = 0
    return ids.contiguous()


def long_attention(emit: Emit, tiny: bool) -> None:
    """Attention of one layer in long rows: full rows, documents of a mean of 8,192 tokens, and these behind an anchor."""
    import numpy as np
    import torch

    device, (H, K, N) = place(tiny), (4, 2, 16) if tiny else (28, 4, 128)
    for T in (96,) if tiny else (8192, 32_768, 131_072):
        rng = np.random.default_rng(1)
        lengths = np.maximum(1, rng.lognormal(np.log(8192) - 0.5, 1.0, T // 64 + 8) * min(1.0, T / 32_768)).astype(int)
        ids = torch.from_numpy(np.repeat(np.arange(1, len(lengths) + 1), lengths))[: T - 1]
        ids = torch.cat([torch.zeros(1, dtype=ids.dtype), ids, ids.new_full((T - 1 - len(ids),), len(lengths) + 1)])
        ids_BT = ids[None].to(device)
        q, k, v, g = (torch.randn(1, h, T, N, device=device, dtype=torch.bfloat16) for h in (H, K, K, H))
        found = {}
        for mask, name in (("intra_document", "full"), ("intra_document", ""), ("anchor", "")):
            for backend in ("flex", *([] if tiny else ["varlen"])):
                of = ids_BT * 0 + 1 if name else ids_BT
                fresh(device)
                seconds = timed(lambda b=backend, m=mask, i=of, x=(q, k, v, g): attended(b, m, i, *x), device)
                emit(f"{backend}, {name or mask}, {T} tokens", "ms", 1e3 * seconds)
                if device.type == "cuda":
                    emit(f"{backend}, {name or mask}, {T} tokens: most memory", "GB", peak_gb())
                if mask == "anchor":
                    found[backend] = attended(backend, mask, of, q, k, v, g)
        if not tiny:
            error = apart(found["varlen"], found["flex"])
            emit(f"anchor by varlen against flex, {T} tokens", "", error, target=5e-3, least=False)


def peak_gb() -> float:
    import torch

    return torch.cuda.max_memory_allocated() / 1e9


def cross_entropy(emit: Emit, tiny: bool) -> None:
    """A3: our loss and Liger's against plain fp32, some or all labels missing, and their time."""
    import torch

    from train.kernels.cross_entropy import cross_entropy_and_rows

    device = place(tiny)
    vocabulary = 997 if tiny else VOCABULARY
    liger = importlib.util.find_spec("liger_kernel") and not tiny
    ways = [("chunked", None), *([] if tiny else [("chunked", 880), ("chunked", 2048), ("chunked", 4096)])]
    for n, width in [(64, 32)] if tiny else [(16384, 896), (4096, 3584)]:
        generator = torch.Generator(device).manual_seed(0)
        hidden = torch.randn(n, width, device=device, generator=generator).bfloat16().float()
        weight = (torch.randn(vocabulary, width, device=device, generator=generator) * width**-0.5).bfloat16().float()
        labels = torch.randint(vocabulary, (n,), device=device, generator=generator)
        labels[torch.rand(n, device=device, generator=generator) < 0.1] = -100
        want = plain_loss(hidden, weight, labels)
        for kernel, chunk in [*ways, *([("liger", None)] if liger else [])]:
            name = f"{kernel}{f' by {chunk}' if chunk else ''}, {n} x {width}"

            def once(labels=labels, chunk=chunk, kernel=kernel, hidden=hidden, weight=weight) -> list:
                h, w = (x.detach().requires_grad_() for x in (hidden, weight))
                with torch.autocast(device.type, torch.bfloat16):
                    loss = cross_entropy_and_rows(h[None], w, labels[None], chunk, kernel=kernel)[0]
                return [loss.detach(), *torch.autograd.grad(loss, (h, w))]

            poison(device)
            found = once()
            emit(f"{name}: relative error of the loss", "", apart(found[:1], want[:1]), target=1e-4, least=False)
            emit(f"{name}: relative error of gradients", "", apart(found[1:], want[1:]), target=5e-3, least=False)
            none = once(labels=torch.full_like(labels, -100))
            emit(
                f"{name}: most of what no label gives",
                "",
                max(float(x.abs().max()) for x in none),
                target=0,
                least=False,
            )
            emit(name, "ms", 1e3 * timed(once, device))
        if not liger:
            emit("liger: not measured, liger-kernel is not installed or there is no GPU", "", 0.0)


def plain_loss(hidden, weight, labels) -> list:
    """[loss, gradients of hidden states and weight] in fp32, some positions at a time."""
    import torch

    h, w = (x.detach().requires_grad_() for x in (hidden, weight))
    total = torch.zeros((), device=hidden.device)
    for i in range(0, len(labels), 2048):
        part = torch.nn.functional.cross_entropy(h[i : i + 2048] @ w.T, labels[i : i + 2048], reduction="sum")
        part.backward()
        total += part.detach()
    return [total, h.grad, w.grad]


def curves(emit: Emit, tiny: bool) -> None:
    """A4: 20 updates of one small model: fp32 here and on the CPU, then bf16 in all variants against bf16 as it is."""
    device = place(tiny)
    base = {"precision": "bf16", "attention": "sdpa" if device.type == "cuda" else "auto"}
    want = curve({"precision": "fp32"}, place(True), tiny)
    emit(
        "fp32 against the CPU",
        "",
        off(curve(base | {"precision": "fp32"}, device, tiny), want),
        target=1e-5,
        least=False,
    )
    plain = curve(base, device, tiny)
    emit("bf16 against fp32 on the CPU", "", off(plain, want), target=5e-3, least=False)
    variants: list[dict] = [
        *({"activation_checkpointing": mode} for mode in ("selective", "full")),
        {"optimiser_states": "8bit"},
    ]
    if not tiny:
        variants += [{"attention": a, "compile": c} for c in (False, True) for a in ("flex", "varlen")]
        variants += [
            {**COMPILED, "activation_checkpointing": "selective"},
            {**COMPILED, "activation_checkpointing": "full"},
            {"compile": True, "attention": "flex", "activation_checkpointing": "selective"},
            {**COMPILED, "optimiser_states": "8bit"},
            {**COMPILED, "activation_checkpointing": "full", "optimiser_states": "8bit"},
        ]
    for variant in variants:
        name = ", ".join(str(value) for value in variant.values())
        # 8-bit moments are another optimiser: near, not equal
        target = 5e-2 if variant.get("optimiser_states") else 5e-3
        emit(f"bf16, {name}", "", off(curve(base | variant, device, tiny), plain), target=target, least=False)


def resumed(emit: Emit, tiny: bool) -> None:
    """A4: a run that was stopped and went on is the run that was not, bit for bit; FSDP2 with one NCCL rank is no other run."""
    import torch
    import torch.distributed as dist

    device = place(tiny)
    config = {"precision": "bf16", "deterministic": True, "checkpoint_every": 2}
    whole: list = []
    curve(config, device, tiny, steps=6, kept=whole)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(KeyboardInterrupt):
            curve(config, device, tiny, steps=6, folder=folder, stop_at=5)
        again: list = []
        curve(config, device, tiny, steps=6, folder=folder, kept=again)
    equal = all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    emit("stopped after update 5 and resumed: equal bit for bit", "", float(equal), target=1)
    torch.use_deterministic_algorithms(False)
    plain = curve({"precision": "bf16"}, device, tiny, steps=6)
    with tempfile.TemporaryDirectory() as folder:
        backend = "gloo" if tiny else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            sharded = curve({"precision": "bf16", "parallel": "fsdp"}, device, tiny, steps=6)
        finally:
            dist.destroy_process_group()
    emit("FSDP2 with one rank against none", "", off(sharded, plain), target=5e-3, least=False)


def curve(  # noqa: PLR0917
    options: dict, device, tiny: bool, steps: int = 20, folder: str = "", stop_at: int = 0, kept: list | None = None
) -> list[float]:
    """The losses of the updates of one small model; `kept` gets its weights."""
    from train import model
    from train.loop import LoopConfig, fit
    from train.methods import pretrain

    steps = min(steps, 6) if tiny else steps
    context, rows, layers, width, vocabulary = (64, 2, 2, 64, 997) if tiny else (512, 4, 4, 512, 8192)
    numbers = (width, layers, width // 16 if tiny else 8, 2, 3 * width)
    more = {"vocab_size": vocabulary, "tie_word_embeddings": True, "max_position_embeddings": context}
    net = model.build(dict(zip(FIELDS, numbers, strict=True)) | more).to(device)
    losses: list[float] = []

    def after(step: int, _) -> None:
        if step == stop_at:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as own:
        asked = argparse.Namespace(steps=steps - 1, rows=rows, context=context, vocab=vocabulary)
        train_cpu.prepare_rows(Path(own), asked, 2)
        config = LoopConfig(
            steps=steps, rows_per_step=2 * rows, micro_rows=rows, lr=3e-3, log_every=1, **options
        )  # fmt: skip
        batches = train_cpu.batches(train_cpu.load_rows(own))
        on_log = lambda record: losses.append(record["loss"])  # noqa: E731
        summary = fit(
            net, batches, pretrain.loss, config, folder or f"{own}/out", device=device, on_log=on_log, after_step=after
        )
    if config.compile and not summary["compiled"]:
        raise ValueError("torch.compile does not work here")
    if kept is not None:
        kept += [p.detach().cpu().clone() for p in net.parameters()]
    return losses


def off(losses: list[float], want: list[float]) -> float:
    return max(abs(a - b) / b for a, b in zip(losses, want, strict=True))


def moments_8bit(emit: Emit, tiny: bool) -> None:
    """A5: an update with 8-bit moments, compiled, against the CPU's; its time; how often it compiles."""
    import torch

    from train.kernels import adamw_8bit

    device = place(tiny)
    group = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "maximize": False}

    def after(shape, where, updates: int):
        generator = torch.Generator().manual_seed(0)
        p = torch.nn.Parameter(torch.randn(shape, generator=generator).to(where))
        state = {"step": torch.zeros(()), **adamw_8bit.zeros(p)}
        for _ in range(updates):
            p.grad = torch.randn(shape, generator=generator).to(where)
            with torch.no_grad():
                adamw_8bit.update(p, state, group)
        return p, state

    found, _ = after((65, 300), device, 10)
    want, _ = after((65, 300), place(True), 10)
    emit("10 updates against the CPU", "", apart([found.detach().cpu()], [want.detach()]), target=1e-5, least=False)
    p, state = after((64, 64) if tiny else (18944, 3584), device, 2)
    p.grad = torch.randn_like(p)
    with torch.no_grad():
        seconds = timed(lambda: adamw_8bit.update(p, state, group), device)
    emit(f"an update of {' x '.join(map(str, p.shape))}", "ms", 1e3 * seconds)
    if not tiny:
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for shape in [(896, 896), (128, 896), (4864, 896), (896, 4864), (151936, 896), (3584, 3584)]:
            after(shape, device, 1)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
        emit("graphs compiled for six shapes", "", graphs, target=3, least=False)


def decoding(emit: Emit, tiny: bool) -> None:
    """A6: greedy tokens of transformers; the gap to the trainer's log-probabilities; speed with and without a CUDA graph."""
    import torch
    from transformers import AutoModelForCausalLM

    from train import model
    from train.generation import decode, generate

    device = place(tiny)
    case = "tiny" if tiny else "0.5b"
    vocabulary = 997 if tiny else VOCABULARY
    net = model.build(shape_of("tiny" if tiny else "0.5b", vocabulary) | {"num_hidden_layers": 2}).to(device).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3 if p.ndim > 1 else 1)  # else every token is about as likely
    tokens = 12 if tiny else 64
    given = prompts(5, 3, 20, vocabulary)
    u = torch.rand(5, tokens, dtype=torch.float64)
    found = [ids for ids, _ in decode.decode(net, given, u, 1, [], 0.0, 1.0)]
    config = copy.deepcopy(net.config)
    config._attn_implementation = "sdpa"
    plain = AutoModelForCausalLM.from_config(config).to(device).eval()
    plain.load_state_dict(net.state_dict())
    equal = 0
    for ids, ours in zip(given, found, strict=True):
        asked = torch.tensor([ids], device=device)
        theirs = plain.generate(asked, do_sample=False, max_new_tokens=tokens, eos_token_id=None, pad_token_id=0)
        equal += theirs[0, len(ids) :].tolist() == ours
    emit(f"{case}, 2 layers, fp32: greedy answers that are those of transformers, of 5", "", equal, target=5)
    del net, plain
    with device:
        net = model.build(shape_of(case, vocabulary)).eval()
    net = net.to(torch.bfloat16)
    tokens = 12 if tiny else 256
    given = prompts(8, tokens, tokens + 1, vocabulary)
    u = torch.rand(40, tokens, dtype=torch.float64)
    decode.decode(net, given[:2], u[:10, :8], 5, [], 0.9, 0.95)  # what is done once
    for name, capture in (("CUDA graph", None), ("no graph", lambda step: step)):
        began = time.perf_counter()
        drawn = decode.decode(net, given, u, 5, [], 0.9, 0.95, capture=capture)
        emit(f"{case}, bf16, 8 prompts x 5, {name}", "tokens/s", u.numel() / (time.perf_counter() - began))
    samples = [
        {"id": str(i), "lang": "", "prompt_ids": given[i // 5], "answer_ids": ids, "answer_logprobs": logps}
        for i, (ids, logps) in enumerate(drawn)
    ]
    gap = generate.logprob_gap(net, samples[::5])
    emit(f"{case}, bf16: gap of log-probabilities to the trainer's", "nats", gap, target=5e-2, least=False)


def prompts(count: int, least: int, most: int, vocabulary: int) -> list[list[int]]:
    import numpy as np

    rng = np.random.default_rng(0)
    return [rng.integers(3, vocabulary, int(rng.integers(least, most))).tolist() for _ in range(count)]


# how fast it is -------------------------------------------------------------------------------------------------------


def speed(emit: Emit, tiny: bool, case: str, rows: int, options: dict, profile: bool = False) -> None:  # noqa: PLR0917
    """Tokens per second, MFU and memory of one variant of our loop."""
    made = train_speed("tiny" if tiny else case, min(rows, 2) if tiny else rows, options, tiny, profile)
    emit("updates", "tokens/s", made["tokens_per_second"])
    if made["mfu_doc"]:
        emit("updates", "MFU of what is computed", made["mfu_doc"], target=CASES[case][2])
        emit("updates", "MFU as PaLM counts", made["mfu"])
    emit("most memory", "GB", made["gigabytes"])


def peers(emit: Emit, tiny: bool, name: str, more: dict, ratio: float | None) -> None:
    """The 0.5B: ours beside a trainer that reads the same rows; ours runs again, so that both have this machine."""
    package, title = train_cpu.PEERS[name]
    needs = [package, *(["accelerate"] if name == "hf" else []), *(["liger_kernel"] if more else [])]
    if missing := [need for need in needs if not importlib.util.find_spec(need)]:
        emit(f"not measured, {missing[0]} is not installed", "", 0.0)
        return
    case, rows = ("tiny", 2) if tiny else ("0.5b", 8)
    theirs = peer_speed(name, case, rows, {} if tiny else more, tiny)
    ours = train_speed(case, rows, {} if tiny else COMPILED | liger_if_there(), tiny)
    peer = f"{title}{''.join(f', {key}' for key in more)}, {package} {importlib.metadata.version(package)}"
    for key, unit in (("tokens_per_second", "tokens/s"), ("gigabytes", "GB")):
        target = ratio and unit == "tokens/s" and ratio * theirs[key]
        emit("ours beside it", unit, ours[key], peer=(peer, theirs[key]), target=target or None)


def liger_if_there() -> dict:
    return {"cross_entropy": "liger"} if importlib.util.find_spec("liger_kernel") else {}


def train_speed(case: str, micro_rows: int, options: dict, tiny: bool, profile: bool = False) -> dict:
    from train import model
    from train.loop import LoopConfig, fit
    from train.methods import pretrain

    device = place(tiny)
    fresh(device)
    if tiny:  # the others are of a GPU
        options = {
            key: value for key, value in options.items() if key in {"optimiser_states", "activation_checkpointing"}
        }
    asked, folder = rows_for(micro_rows, tiny)
    with folder as path:
        train_cpu.prepare_rows(Path(path), asked, ACCUMULATION)
        rows = train_cpu.load_rows(path)
        config = LoopConfig(
            steps=asked.steps + 1, rows_per_step=ACCUMULATION * micro_rows, micro_rows=micro_rows, lr=1e-4,
            eps=1e-5, log_every=1000, **{"precision": "bf16", **options},
        )  # fmt: skip
        with device:  # made where it is trained: 8 B random numbers take minutes on a CPU
            net = model.build(shape_of(case, asked.vocab))
        times = Times(device, asked.steps if profile else 0)
        summary = fit(
            net, train_cpu.batches(rows), pretrain.loss, config, f"{path}/out", device=device,
            after_step=lambda *_: times.tick(),
        )  # fmt: skip
    if config.compile and not summary["compiled"]:
        raise ValueError("torch.compile does not work here")
    if profile:
        times.write_profile(f"{case}, {options}")
    return of_times(times, net, asked, summary["attended_per_token"])


def peer_speed(name: str, case: str, micro_rows: int, more: dict, tiny: bool) -> dict:
    """The trainer of `name`; it attends within documents too."""
    from train import model
    from train.monitor import flops

    device = place(tiny)
    asked, folder = rows_for(micro_rows, tiny)
    with folder as path:
        asked.folder, asked.precision = path, ["bf16"]
        train_cpu.prepare_rows(Path(path), asked, ACCUMULATION)
        rows = train_cpu.load_rows(path)
        model.save(model.build(shape_of(case, asked.vocab)), None, f"{path}/model", asked.context)
        own = {"use_cpu": device.type == "cpu", "bf16": True, "gradient_accumulation_steps": ACCUMULATION}
        if not importlib.util.find_spec("datasets"):  # a list is one to HF Trainer
            train_cpu.dataset = listed
        times = Times(device)
        trainer = train_cpu.TRAINERS[name](asked, rows, times.tick, own | more)
        trainer.train()
        pairs = flops.attention_pairs(rows["doc_ids"]) / rows["doc_ids"].numel()
        return of_times(times, trainer.model, asked, pairs)


def listed(rows: dict) -> list[dict]:
    names = ("input_ids", "labels", "position_ids")
    return [{name: rows[name][i] for name in names} for i in range(len(rows["labels"]))]


def rows_for(micro_rows: int, tiny: bool) -> tuple[argparse.Namespace, tempfile.TemporaryDirectory]:
    updates = 3 if tiny else UNTIMED + TIMED + 1  # the last is not timed, as a profiler may watch it
    context, vocabulary = (128, 997) if tiny else (4096, VOCABULARY)
    asked = argparse.Namespace(steps=updates - 1, rows=micro_rows, context=context, vocab=vocabulary)
    return asked, tempfile.TemporaryDirectory()


def of_times(times: Times, net, asked: argparse.Namespace, pairs: float) -> dict:
    from train.monitor import throughput

    untimed = min(UNTIMED, asked.steps - 1)
    updates = asked.steps - untimed  # without the last
    tokens = updates * ACCUMULATION * asked.rows * asked.context
    rate = tokens / (times.at[asked.steps - 1] - times.at[untimed - 1])
    use = throughput.utilisation(net, asked.context, 1, throughput.device_peak(times.device))
    share = use({"tokens_per_second": rate, "attended_per_token": pairs})
    memory = throughput.memory_bytes(times.device) / 1e9
    found = {"tokens_per_second": rate, "gigabytes": memory, "updates": updates}
    return found | {"mfu": share.get("mfu"), "mfu_doc": share.get("mfu_doc")}


class Times:
    """When each update ended. That after `watched` updates, where it is not 0, is watched by torch's profiler."""

    def __init__(self, device, watched: int = 0) -> None:
        self.device, self.at, self.watched = device, [], watched
        self.profiler = None

    def tick(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.at.append(time.perf_counter())
        if len(self.at) == self.watched:
            self.profiler = torch.profiler.profile()
            self.profiler.start()
        elif self.profiler is not None:
            self.profiler.stop()

    def write_profile(self, title: str) -> None:
        assert self.profiler is not None
        by = "self_cpu_time_total" if self.device.type == "cpu" else "self_cuda_time_total"
        table = self.profiler.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=80)
        if self.device.type == "cuda":
            RESULTS.mkdir(exist_ok=True)
            path = RESULTS / "training-gpu-profile.txt"
            before = path.read_text() if path.exists() else ""
            kept = [part for part in before.split("\f") if part.strip() and not part.strip().startswith(title)]
            path.write_text("\f".join([*kept, f"{title}\n{hardware()}\n{table}\n"]))


def reference_pass(emit: Emit, tiny: bool) -> None:
    """Memory of the pass of a model that is only read, as DPO's reference is, beside 2 bytes a parameter."""
    import numpy as np
    import torch

    from train import model
    from train.batches.examples import Example
    from train.scores import logprobs

    device = place(tiny)
    vocabulary = 997 if tiny else VOCABULARY
    with device:
        net = model.build(shape_of("tiny" if tiny else "8b", vocabulary))
    net = net.to(torch.bfloat16)
    fresh(device)
    rng, length = np.random.default_rng(0), 40 if tiny else 2000
    examples = [
        Example(str(i), "", rng.integers(3, vocabulary, length), np.arange(length) > length // 2) for i in range(16)
    ]
    began = time.perf_counter()
    found = logprobs.logprobs(net, examples, 200 if tiny else 16_384)
    emit("8b, bf16", "tokens/s", 16 * length / (time.perf_counter() - began))
    emit("8b, bf16: all log-probabilities are finite", "", float(np.isfinite(found).all()), target=1)
    if not tiny:
        weights = 2 * model.parameters(net) / 1e9
        most = torch.cuda.max_memory_allocated() / 1e9
        emit("8b, bf16: most memory", "GB", most, target=round(weights + 8, 1), least=False)


def proxies(emit: Emit, tiny: bool) -> None:
    """RegMix's proxies, many at a time: with and without a CUDA graph."""
    import torch

    from train.kernels import cuda_graph
    from train.methods import proxy

    device = place(tiny)
    models, context, steps = (2, 32, 3) if tiny else (32, 512, 40)
    shape = {"vocab_size": 997 if tiny else 32_000, "hidden_size": 32 if tiny else 256, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 64 if tiny else 512}
    shape |= {"max_position_embeddings": context, "tie_word_embeddings": True}
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(shape["vocab_size"], (64, context + 1), generator=generator)

    def batch(rows: list[int]) -> dict:
        some = ids[[r % len(ids) for r in rows]]
        position = torch.arange(context).expand(len(rows), context)
        more = {"doc_ids": position // 200, "position_ids": position}
        return {"input_ids": some[:, :-1], "labels": some[:, 1:].contiguous(), **more}

    config = proxy.ProxyConfig(steps=steps, rows_per_step=4, micro_rows=4, precision="bf16")
    own, made = cuda_graph.for_device, {}
    for name, choose in (("CUDA graph", own), ("no graph", lambda _: None)):
        cuda_graph.for_device = choose
        try:
            began = time.perf_counter()
            made[name] = proxy.losses(shape, [batch] * models, {"id": [batch([0, 1])]}, config, device=device)
            seconds = time.perf_counter() - began
        finally:
            cuda_graph.for_device = own
        emit(f"{models} models, {name}", "tokens/s", models * steps * 4 * context / seconds)
    difference = float(abs(made["CUDA graph"] - made["no graph"]).max())
    emit("losses with a graph against those without", "nats", difference, target=2e-3, least=False)


def drafts(emit: Emit, tiny: bool) -> None:
    """c, a step of a draft over a pass of its target, with the whole head and with a part of it; what a pass over five tokens
    costs beside one; and whether texts are those of greedy decoding in bf16."""
    import torch

    from train import model
    from train.drafts import measure, speculative
    from train.drafts.glide import Glide
    from train.kernels import head

    device, gamma, length = place(tiny), 4, 24 if tiny else 1024
    vocabulary, part = (997, 100) if tiny else (VOCABULARY, 32_000)
    for case in ("tiny",) if tiny else ("1b", "8b"):
        with device:
            net = model.build(shape_of(case, vocabulary)).eval()
        net = net.to(device, torch.bfloat16).requires_grad_(False)
        proposers = {
            name: speculative.GlideProposer(Glide(net, words).eval())
            for name, words in (("whole head", None), (f"{part:,} tokens", torch.arange(part, device=device)))
        }
        for batch in (1, 8):
            text = torch.randint(3, vocabulary, (batch, length + gamma + 4), device=device)
            target, lengths = speculative.Target(net, length + 8), torch.full((batch,), length + 1, device=device)
            with torch.no_grad():
                target.read(text[:, :length], torch.arange(length, device=device).expand(batch, -1))

                def scored(count: int, target=target, text=text, net=net, batch=batch):
                    at = length + torch.arange(count, device=device).expand(batch, -1)
                    return head.logits(net, target.read(text[:, length : length + count], at)).argmax(-1)

                one = timed(lambda: scored(1), device)
                emit(
                    f"{case}, batch {batch}, {length} read: {gamma + 1} tokens over 1",
                    "x",
                    timed(lambda: scored(5), device) / one,
                )
                for name, proposer in proposers.items():
                    proposer.read(text[:, :length], lengths, length + 8)
                    step = timed(lambda: proposer.propose(text, lengths, target.keys, gamma), device) / gamma  # noqa: B023
                    emit(f"{case}, batch {batch}, {length} read, {name}: c", "", step / one)
    given = prompts(4, length // 2, length, vocabulary)
    proposer = next(iter(proposers.values()))
    found = measure.acceptance(net, proposer, given, [], 12 if tiny else 64, gamma)
    emit(f"{case}, bf16: texts as without a draft, of 4", "", found["equal"])
    wrong = found["prompts"] - found["equal"] - found["near_ties"]
    emit(f"{case}, bf16: others that part elsewhere than at a near tie", "", wrong, target=0, least=False)


def shape_of(case: str, vocabulary: int) -> dict:
    numbers, tied, _ = (CASES | TINY)[case]
    own = {"vocab_size": vocabulary, "tie_word_embeddings": tied, "max_position_embeddings": 4096}
    return dict(zip(FIELDS, numbers, strict=True)) | own


def timed(step: Callable[[], object], device) -> float:
    """Seconds of one call, the mean of some, after some that are not counted."""
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        step()
    wait()
    count = 2 if device.type == "cpu" else 10
    began = time.perf_counter()
    for _ in range(count):
        step()
    wait()
    return (time.perf_counter() - began) / count


def apart(found: list, want: list) -> float:
    """The largest relative difference, of the norm, of tensors in pairs."""
    pairs = ((a.float(), b.float()) for a, b in zip(found, want, strict=False))
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def fresh(device) -> None:
    """Count memory from here."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def poison(device) -> None:
    """Memory that is not a number, so that what reads before it writes is seen."""
    import torch

    waste = torch.full((1 << 18 if device.type == "cpu" else 1 << 30,), float("nan"), device=device)
    del waste


def items() -> Iterator[tuple[str, Item]]:
    yield "rates", Item(30, 10, rates)
    yield "attention", Item(70, 25, attention_values)
    yield "cross-entropy", Item(45, 15, cross_entropy)
    yield "curves", Item(120, 30, curves)
    yield "resume and FSDP2", Item(45, 20, resumed)
    yield "8-bit moments", Item(30, 15, moments_8bit)
    yield "decoding", Item(60, 25, decoding)
    yield "attention's time", Item(30, 15, attention_time)
    yield "attention in long rows", Item(90, 30, long_attention)
    full = {**COMPILED, "optimiser_states": "8bit"}
    saving = {**full, "activation_checkpointing": "selective", "cross_entropy": "liger"}
    yield "1b, compile, varlen", Item(70, 35, speed, ("1b", 4, COMPILED, True))
    yield "1b, compile, flex", Item(60, 30, speed, ("1b", 4, {"compile": True, "attention": "flex"}))
    yield "1b, compile, varlen, liger", Item(60, 30, speed, ("1b", 4, {**COMPILED, "cross_entropy": "liger"}))
    yield "1b, eager, flex", Item(45, 20, speed, ("1b", 4, {"attention": "flex"}))
    yield "8b, 8-bit moments, compile, varlen", Item(90, 45, speed, ("8b", 1, full, True))
    yield "0.5b beside HF Trainer, Liger, compile", Item(110, 60, peers, ("hf", LIGER_AND_COMPILE, PEER_RATIO))
    yield "8b, 8-bit moments, selective, liger", Item(80, 40, speed, ("8b", 4, saving))
    yield "proxies", Item(50, 25, proxies)
    yield "drafts", Item(60, 30, drafts)
    yield "reference pass", Item(40, 20, reference_pass)
    yield "8b, fp8, 8-bit moments, compile, varlen", Item(90, 45, speed, ("8b", 1, full | {"precision": "fp8"}))
    yield "8b, 16 of 32 layers, compile, varlen", Item(60, 35, speed, ("8b, 16 of 32 layers", 2, COMPILED))
    yield "0.5b beside HF Trainer", Item(80, 45, peers, ("hf", {}, PEER_RATIO))
    yield "0.5b beside TRL", Item(80, 45, peers, ("trl", {}, PEER_RATIO))


LIGER_AND_COMPILE = {"use_liger_kernel": True, "torch_compile": True}
ITEMS = dict(items())

if __name__ == "__main__":
    main()
