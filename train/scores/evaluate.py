"""Bits per byte of held-out documents.

bits per byte = - sum over tokens of log2 p(token | tokens before it) / UTF-8 bytes of the text

Unlike loss or perplexity it does not depend on the tokenizer's granularity, so models with different vocabularies can be
compared. Languages can not: a letter of Burmese, Khmer, Lao or Thai is three bytes, one of English is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from train.batches.decoder import CausalLM
from train.batches.labels import IGNORE
from train.distributed import data_parallel
from train.kernels import context_parallel, head


def bits_per_byte(
    model: CausalLM,
    documents: Iterable[tuple[str, Sequence[int] | np.ndarray, int]],
    *,
    context: int,
    eod: int,
    batch_rows: int = 8,
    precision: str = "fp32",
    begin: Sequence[int] | None = None,
) -> dict[str, dict]:
    """{language: {"bits_per_byte", "bits", "bytes", "tokens", "documents"}} of (language, token ids, UTF-8 bytes) triples.

    Every token is scored once: the first of a document after `eod` alone, the others after the document's own tokens only,
    as in packed training rows. Documents of a base that was trained with tokens before each come after these, `begin`, and see
    them (left out: the config's `bos_token_id`, where it is another token than `eod`). A longer document is cut in windows
    of `context` that each start from the last token of the one before. `precision` is "fp32" or "bf16".
    """
    if begin is None:
        bos = getattr(model.config, "bos_token_id", None)
        begin = [] if bos in (None, eod) else [bos]
    return score(model, pack(documents, context=context, eod=eod, batch_rows=batch_rows, begin=begin), precision)


class Heldout(NamedTuple):
    """Documents packed for scoring: rows of windows, `batch_rows` at a time, and {language: bytes, tokens, documents}."""

    batches: list[list[list[Window]]]
    sizes: dict[str, dict[str, int]]
    context: int
    eod: int


def pack(
    documents: Iterable[tuple[str, Sequence[int] | np.ndarray, int]],
    *,
    context: int,
    eod: int,
    batch_rows: int = 8,
    begin: Sequence[int] = (),
) -> Heldout:
    """The arguments of `bits_per_byte` in the form that `score` reads, for scoring the same documents again and again."""
    sizes: dict[str, dict[str, int]] = {}
    windows: list[Window] = []
    for lang, tokens, n_bytes in documents:
        entry = sizes.setdefault(lang, {"bytes": 0, "tokens": 0, "documents": 0})
        entry["bytes"] += int(n_bytes)
        entry["tokens"] += len(tokens)
        entry["documents"] += 1
        before = np.asarray(begin or [eod], np.int64)
        sequence = np.concatenate([before, np.asarray(tokens, dtype=np.int64)])
        for i in range(0, len(sequence) - 1 if len(tokens) else 0, context):
            given = max(0, len(before) - 1 - i)
            windows.append(Window(lang, sequence[i : i + context + 1], i == 0 and not begin, given))
    batches = list(_batches(_pack(windows, context), batch_rows))
    return Heldout(batches, dict(sorted(sizes.items())), context, eod)


class Tokens(NamedTuple):
    """Tokens one after another, and the UTF-8 bytes that each stands for (none for one that ends a document)."""

    ids: list[int]
    bytes: list[int]


def pack_by_position(texts: dict[str, Tokens], *, edges: Sequence[int], eod: int, begin: Sequence[int] = ()) -> Heldout:
    """Rows for scoring by place: tokens of each language in rows of `edges[-1]` positions, each read as one text.

    `sizes`, and what `score` returns, are by "language first-last" of each bucket: positions 0 .. edges[0] - 1, and so on. What
    is left over at the end of a language makes no row, so that all its buckets are of the same rows; a language of less than
    a row is left out. Tokens that end documents are read and not scored."""
    length, given = edges[-1], len(begin or [eod]) - 1
    room = length - given  # tokens of a text in a row
    sizes: dict[str, dict[str, int]] = {}
    rows: list[list[Window]] = []
    for lang, tokens in sorted(texts.items()):
        for start in range(0, len(tokens.ids) - room + 1, room):
            ids = np.asarray([*(begin or [eod]), *tokens.ids[start : start + room]], np.int64)
            counts = np.asarray([0] * given + tokens.bytes[start : start + room])
            buckets = []
            for first, end in zip((0, *edges), edges, strict=False):
                name = f"{lang} {first}-{end - 1}"
                entry = sizes.setdefault(name, {"bytes": 0, "tokens": 0, "documents": 0})
                entry["bytes"] += int(counts[first:end].sum())
                entry["tokens"] += int((ids[1:][max(first, given) : end] != eod).sum())
                entry["documents"] += 1
                buckets.append((name, first, end))
            rows.append([Window(lang, ids, not begin, given, tuple(buckets), eod)])
    return Heldout([[row] for row in rows], dict(sorted(sizes.items())), length, eod)


@torch.no_grad()
def score(model: CausalLM, heldout: Heldout, precision: str = "fp32") -> dict[str, dict]:
    """`bits_per_byte` of packed documents. With torch.distributed every rank calls it, scores its share of the batches,
    and gets the whole."""
    # by batch, so that the sum over batches has one order, whichever rank has scored them
    bits = [dict.fromkeys(heldout.sizes, 0.0) for _ in heldout.batches]
    part = context_parallel.of(model)
    rank, world = data_parallel.data_rank_world(part.n if part else 1)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    for first in range(0, len(heldout.batches), world):
        mine = first + rank < len(heldout.batches)
        rows = heldout.batches[
            first + rank if mine else 0
        ]  # all ranks go through the model equally often, as FSDP needs
        inputs_BT, labels_BT, doc_ids_BT, positions_BT = (
            t.to(device) for t in _tensors(rows, heldout.context, heldout.eod)
        )
        if part:
            here_S = part.positions(heldout.context, device)
            inputs_BT, labels_BT, positions_BT = (x[:, here_S] for x in (inputs_BT, labels_BT, positions_BT))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            hidden_BTD = model.model(
                input_ids=inputs_BT, position_ids=positions_BT, doc_ids=doc_ids_BT, use_cache=False
            ).last_hidden_state
            logp_BT = head.token_logprobs(model, hidden_BTD, labels_BT)
        if part:
            logp_BT = part.whole(logp_BT, heldout.context)  # what is 0 here is added by the other parts' ranks
        logp = logp_BT.double().cpu().numpy()
        for r, row in enumerate(rows if mine else ()):
            start = 0
            for window in row:
                for name, begin, end in window.parts():
                    bits[first + rank][name] -= float(logp[r, start + begin : start + end].sum()) / math.log(2)
                start += window.positions
    model.train(training)
    found = data_parallel.sum_over_ranks((value for of_batch in bits for value in of_batch.values()), device)
    totals = [math.fsum(found[i :: len(heldout.sizes)]) for i in range(len(heldout.sizes))]
    return {
        lang: {"bits_per_byte": total / size["bytes"] if size["bytes"] else math.nan, "bits": total, **size}
        for (lang, size), total in zip(heldout.sizes.items(), totals, strict=True)
    }


@dataclass(frozen=True)
class Window:
    """A piece of a document: the token that it starts from, and those that are predicted, all but the first `given` of them
    scored, and all but those that are `unscored`. `first`: it starts from `eod`. `buckets`: parts of it that are summed apart
    under a name, (name, first position, end)."""

    lang: str
    tokens: np.ndarray
    first: bool
    given: int = 0
    buckets: tuple[tuple[str, int, int], ...] = ()
    unscored: int | None = None

    def parts(self) -> tuple[tuple[str, int, int], ...]:
        return self.buckets or ((self.lang, 0, self.positions),)

    @property
    def positions(self) -> int:
        return len(self.tokens) - 1


def _pack(windows: list[Window], context: int) -> Iterator[list[Window]]:
    """Rows of at most `context` scored tokens, windows in the order of their length, so that little is padding."""
    row: list[Window] = []
    used = 0
    for window in sorted(windows, key=lambda w: -w.positions):
        if used + window.positions > context:
            yield row
            row, used = [], 0
        row.append(window)
        used += window.positions
    if row:
        yield row


def _batches(rows: Iterator[list[Window]], size: int) -> Iterator[list[list[Window]]]:
    while batch := list(islice(rows, size)):
        yield batch


def _tensors(rows: list[list[Window]], context: int, eod: int) -> tuple[torch.Tensor, ...]:
    """(inputs, labels, document ids, positions), each [rows, context]; what is left over is a document of padding."""
    inputs = np.full((len(rows), context), eod, dtype=np.int64)
    labels = np.full_like(inputs, IGNORE)
    doc_ids = np.full_like(inputs, -1)
    positions = np.zeros_like(inputs)
    for r, row in enumerate(rows):
        start = 0
        for d, window in enumerate(row):
            stop = start + window.positions
            inputs[r, start:stop] = window.tokens[:-1]
            labels[r, start:stop] = window.tokens[1:]
            labels[r, start : start + window.given] = IGNORE
            if window.unscored is not None:
                labels[r, start:stop][window.tokens[1:] == window.unscored] = IGNORE
            doc_ids[r, start:stop] = 2 * d + 1
            if window.first:
                doc_ids[r, start] = 2 * d  # in training, a document does not see what ends the one before
            positions[r, start:stop] = np.arange(stop - start)
            start = stop
    return tuple(torch.from_numpy(a) for a in (inputs, labels, doc_ids, positions))
