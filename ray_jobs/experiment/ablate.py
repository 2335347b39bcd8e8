"""Two filters compared by training small models on what each keeps, on rows that are shared as far as they are equal.

With k seeds the documents are parted in k by a hash of their id, and each seed trains on its own part, from weights of its own.
So the seeds are k trials that have nothing in common, and what chance puts into one filter's documents is part of the spread
over seeds. (With the same documents for all seeds, two filters that keep different documents equally good would differ for
sure: a little, but always in the same direction.) Both arms of a seed begin with the same weights and read common rows at the
same steps (mixture/order/shared.py).

Languages have the same share of rows in both arms, in proportion to their tokens in both together: what a filter does to the
mixture is not asked here. Each held-out document is one item, its score bits per byte.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import xxhash

from cluster import storage
from mixture.order import sampler, shared
from mixture.order.permute import derive, permute
from mixture.order.sampler import Sampler
from mixture.order.schedule import quotas
from mixture.store.token_store import TokenStore, write_store
from train.batches.parts import Batch, BatchFn
from train.methods import proxy
from train.methods.proxy import ProxyConfig


class Document(NamedTuple):
    """`ids` without an end token; `bytes` in UTF-8."""

    lang: str
    ids: Sequence[int] | np.ndarray
    bytes: int


class Setting(NamedTuple):
    """How every model is trained. `shape`: the fields of a Qwen2 config with `vocab_size`; the seed of `config` is not read."""

    shape: Mapping
    context: int
    eod: int
    config: ProxyConfig

    @property
    def rows(self) -> int:
        return self.config.steps * self.config.rows_per_step


Corpus = Mapping[str, Document]  # by id
Scores = dict[int, dict[str, float]]  # seed -> id of a held-out document -> bits per byte


def scores(
    ours: Corpus,
    other: Corpus,
    heldout: Corpus,
    setting: Setting,
    seeds: Sequence[int],
    *,
    device: torch.device | str = "cpu",
) -> tuple[Scores, Scores]:
    """Bits per byte of every held-out document under the models of both filters, as `statistics.difference` takes them.

    Documents that are held out are not trained on. Raises ValueError where a filter leaves a language without documents in one
    of the parts, or a model diverges.
    """
    found: tuple[Scores, Scores] = {}, {}
    test = measured(heldout, setting)
    for number, seed in enumerate(seeds):
        one, another = (part(side, number, len(seeds), heldout) for side in (ours, other))
        config = dataclasses.replace(setting.config, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            batches = shared_batches(one, another, folder, setting, seed)
            loss_MH = proxy.losses(setting.shape, batches, test, config, device=device)
        for side, loss_H in zip(found, loss_MH, strict=True):
            side[seed] = bits_per_byte(loss_H, heldout)
    return found


def shared_batches(ours: Corpus, other: Corpus, folder: str, setting: Setting, seed: int) -> tuple[BatchFn, BatchFn]:
    """The batch functions of two corpora, common rows in the same places. `folder` is for their token stores.

    Raises ValueError where one of them has no document of a language."""
    alone = [
        {key: one for key, one in side.items() if key not in held} for side, held in ((ours, other), (other, ours))
    ]
    parts = {"common": {key: one for key, one in ours.items() if key in other}, "ours": alone[0], "other": alone[1]}
    tokens = {name: _tokens(corpus) for name, corpus in parts.items()}
    read = {
        (name, lang): _sampler(corpus, name, lang, folder, setting, seed)
        for name, corpus in parts.items()
        for lang in tokens[name]
    }
    langs = sorted({lang for _, lang in read})
    counts = quotas([sum(size.get(lang, 0) for size in tokens.values()) for lang in langs], setting.rows)
    places = permute(np.arange(setting.rows), setting.rows, derive(seed, "languages"))
    rows: tuple[dict, dict] = {}, {}
    for lang, of_lang in zip(langs, np.split(places, np.cumsum(counts)[:-1]), strict=True):
        common, own, others = (tokens[name].get(lang, 0) for name in parts)
        try:
            both = shared.orders(common, own, others, len(of_lang), derive(seed, lang))
        except ValueError:
            raise ValueError(f"one of the filters keeps no document of {lang} in one of the parts") from None
        for side, name, order in zip(rows, ("ours", "other"), both, strict=True):
            for place, row in zip(np.sort(of_lang).tolist(), order, strict=True):
                side[place] = read["common" if row.common else name, lang], row.rank
    return _batches(rows[0]), _batches(rows[1])


def _sampler(corpus: Corpus, name: str, lang: str, folder: str, setting: Setting, seed: int) -> Sampler:  # noqa: PLR0917
    """The documents of one part and language, in an order of chance that is the same whatever else there is."""
    ids = sorted(
        (key for key, one in corpus.items() if one.lang == lang), key=lambda key: derive(seed, "document", key)
    )
    uri, pool = storage.join(folder, name, lang), f"{name}/{lang}"
    documents = ((key, lang, corpus[key].bytes, np.asarray(corpus[key].ids)) for key in ids)
    write_store(uri, documents, setting.shape["vocab_size"], setting.eod)
    schedule = [{"from_sample": 0, "weights": {pool: 1}}]
    return Sampler({pool: TokenStore(uri)}, schedule, setting.context, seed)


def _batches(order: Mapping[int, tuple[Sampler, int]]) -> BatchFn:
    def batch(numbers: list[int]) -> Batch:
        each = [sampler.rows(order[n][0], [order[n][1]]) for n in numbers]
        return {name: torch.from_numpy(np.concatenate([one[name] for one in each])) for name in each[0]}

    return batch


def measured(heldout: Corpus, setting: Setting) -> dict[str, list[Batch]]:
    """Each held-out document as the batches of a language of its own: its tokens and its end, in windows of `context`."""
    eod = setting.eod
    return {key: list(_windows(np.array([eod, *one.ids, eod]), setting.context)) for key, one in heldout.items()}


def _windows(ids_T: np.ndarray, context: int) -> Iterable[Batch]:
    for first in range(0, len(ids_T) - 1, context):
        window = torch.from_numpy(ids_T[first : first + context + 1].astype(np.int64))[None]
        zeros = torch.zeros_like(window[:, 1:])
        positions = torch.arange(window.shape[1] - 1)[None]
        yield {"input_ids": window[:, :-1], "labels": window[:, 1:], "doc_ids": zeros, "position_ids": positions}


def bits_per_byte(loss_H: np.ndarray, heldout: Corpus) -> dict[str, float]:
    """From losses per token in nats, in the order of `heldout`."""
    return {
        key: float(loss) * (len(document.ids) + 1) / math.log(2) / document.bytes
        for loss, (key, document) in zip(loss_H, heldout.items(), strict=True)
    }


def part(corpus: Corpus, number: int, parts: int, heldout: Corpus) -> Corpus:
    """The documents that seed `number` of `parts` trains on."""
    return {
        key: document
        for key, document in corpus.items()
        if key not in heldout and xxhash.xxh3_64_intdigest(key.encode("utf-8", "replace")) % parts == number
    }


def _tokens(corpus: Corpus) -> dict[str, int]:
    found: dict[str, int] = {}
    for document in corpus.values():
        found[document.lang] = found.get(document.lang, 0) + len(document.ids) + 1
    return found
