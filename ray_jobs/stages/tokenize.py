"""tokenize: a tokenizer, the held-out documents, and the token stores that training reads.

Pools: `all/<lang>`, `high_quality/<lang>` (the best share by quality score), `instructions` (chat rows as text) and
`parallel/<a>-<b>` (translations, of which the tokenizer learns nothing and none are held out). Held-out
documents are chosen by their id, a hash, and are in no pool; of few documents those with the smallest, so that no language
is left without by chance. Of a recipe without sources there is the tokenizer only.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster import document_tokens, storage
from cluster.shards import Kernel, ledger_rows
from mixture.store.token_store import write_store
from mixture.tokenizer import tokenizer as tokenizers
from mixture.tokenizer.encoder import Encoder
from ray_jobs.alignment import chats
from ray_jobs.errors import UserError
from ray_jobs.prepare import own_tokenizer
from ray_jobs.run.graph import PARALLEL_DOCUMENTS, QUALITY, SYNTHESIZE
from ray_jobs.run.job import Job
from ray_jobs.work.rows import write_ledger
from ray_jobs.work.shards import run_one, run_parts, totals
from ray_jobs.work.tasks import map_on_ray
from train.chat import conversations

MIN_HELDOUT, MAX_HELDOUT = 3, 0.25  # documents of a language, and the share of it that they may take
FEW_HELDOUT = 20  # where the hash chooses fewer on average, they are counted: it chooses none of 20 with odds of 2e-9

PARTS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("lang", pa.string()),
        ("url", pa.string()),
        ("licence", pa.string()),
        ("quality", pa.float32()),
        ("bytes", pa.int64()),
        ("n_tokens", pa.int64()),
        ("tokens", pa.list_(pa.uint32())),
        ("heldout", pa.bool_()),
        ("text", pa.string()),
    ]
)
"""One row per document; `tokens` is null for held-out documents and `text` for all others."""


def run(job: Job) -> dict:
    settings = job.recipe.tokenize
    folder, rates = job.path("tokenizer"), _heldout_rates(job) if job.recipe.sources else {}
    if not storage.exists(storage.join(folder, "tokenizer.json")):
        with storage.atomic_folder(folder) as local:
            if settings.tokenizer == "train":
                _train(job, rates, local)
            else:
                given = tokenizers.load(settings.tokenizer)
                given = tokenizers.with_chat_tokens(given) if settings.add_chat_tokens else given
                tokenizers.with_chat_template(given).save_pretrained(local)
    tokenizer = tokenizers.load(storage.localize(folder))
    if not job.recipe.sources:  # a finished model is aligned: all that it needs is its tokenizer
        return {"vocab_size": len(tokenizer)}
    if settings.dropout:
        Encoder(tokenizer, settings.dropout)  # a tokenizer that does not allow it is said here, not on a worker
    read = [stage for stage in (QUALITY, SYNTHESIZE) if job.has(stage)]
    how = (_kernel, folder, rates, settings.dropout, settings.seed)
    markers = [marker for stage in read for marker in run_parts(job, stage, run_one, *how)]
    result = totals(markers, docs_in=sum(job.manifest(stage)["docs_out"] for stage in read))
    vocab, eod = len(tokenizer), document_tokens.end(tokenizer)
    parts = {uri: storage.read_json(_marker(uri))["docs_per_lang"] for uri in storage.glob(job.path("part-*.parquet"))}
    languages = sorted(result["docs_per_lang"])
    tasks = [
        (
            lang,
            [uri for uri, langs in parts.items() if lang in langs],
            job.path(),
            job.recipe.quality.top_share,
            vocab,
            eod,
        )
        for lang in languages
    ]
    sizes = map_on_ray(job, _write_pools, tasks, "languages")
    _write_instructions(job, tokenizer)
    pairs = _write_parallel(job, folder, vocab, eod) if job.has(PARALLEL_DOCUMENTS) else None
    _write_heldout(job, list(parts))
    tokens = {lang: size["all"] for lang, size in zip(languages, sizes, strict=True)}
    text_bytes = {lang: size["bytes"] for lang, size in zip(languages, sizes, strict=True)}
    return {
        **result,
        "vocab_size": vocab,
        "tokens": sum(tokens.values()),
        "tokens_per_lang": tokens,
        "bytes": sum(text_bytes.values()),
        "bytes_per_lang": text_bytes,
        "high_quality_tokens_per_lang": {
            lang: size["high_quality"] for lang, size in zip(languages, sizes, strict=True)
        },
        **_token_costs(folder),
        **({} if pairs is None else {"parallel_tokens_per_pair": pairs}),
        "warnings": _not_measured(result["docs_per_lang"], rates),
    }


def heldout(batch: pa.RecordBatch | pa.Table, rates: dict[str, float]) -> list[bool]:
    """Which documents are held out: those whose id, a hash, ends in the first `rates[lang]` of its range."""
    ends = pc.utf8_slice_codeunits(batch["doc_id"], 24, 32).to_pylist()
    limits = {lang: format(int(rate * (16**8 - 1)), "08x") for lang, rate in rates.items()}
    return [end < limits[lang] for end, lang in zip(ends, batch["lang"].to_pylist(), strict=True)]


def _heldout_rates(job: Job) -> dict[str, float]:
    """`heldout_share`; of a language of few documents the rate that takes exactly so many as it shall hold out."""
    counts = job.manifest(QUALITY)["docs_per_lang"]
    share = job.recipe.tokenize.heldout_share
    few = {lang: heldout_documents(n, share) for lang, n in counts.items() if n * share < FEW_HELDOUT}
    smallest: dict[str, list[str]] = {lang: [] for lang in few}
    for part in storage.glob(job.input(QUALITY, "part-*.parquet")):
        if here := few.keys() & storage.read_json(_marker(part))["docs_per_lang"].keys():
            table = storage.read_table(part, ["doc_id", "lang"])
            for lang in here:
                ids = table.filter(pc.field("lang") == lang)["doc_id"]
                ends = pc.utf8_slice_codeunits(ids, 24, 32).to_pylist()
                smallest[lang] = heapq.nsmallest(few[lang], smallest[lang] + ends)
    exact = {lang: (int(ends[-1], 16) + 1.5) / (16**8 - 1) if ends else 0.0 for lang, ends in smallest.items()}
    return dict.fromkeys(counts, share) | exact


def heldout_documents(documents: int, share: float) -> int:
    """How many of few documents of a language are held out: the share, but three, or a quarter where that is less."""
    return max(min(MIN_HELDOUT, int(documents * MAX_HELDOUT)), round(documents * share))


def _not_measured(counts: dict[str, int], rates: dict[str, float]) -> list[str]:
    """A warning of the languages that hold out nothing."""
    few = [f"{lang} ({n})" for lang, n in counts.items() if not rates[lang]]
    least = math.ceil(1 / MAX_HELDOUT)
    return [f"no held-out text of languages with fewer than {least} documents: {', '.join(few)}"] if few else []


def _train(job: Job, held_rates: dict[str, float], folder: str) -> None:
    """The tokenizer of `tokenize.tokenizer: train`, and, with `tokenize.parallel`, fertility.json with its cost by language."""
    settings = job.recipe.tokenize
    parallel = own_tokenizer.parallel_documents(settings.parallel, "tokenize.parallel")
    texts = _training_texts(job, held_rates)
    try:
        made, judged = own_tokenizer.train(
            texts,
            folder,
            vocab_size=settings.vocab_size,
            parity=settings.parity,
            pieces=settings.pieces,
            parallel=parallel,
        )
    except ValueError as error:
        raise UserError(f"tokenize: {error}") from error
    if judged:
        measured = own_tokenizer.costs({"trained": made}, judged)
        storage.write_json(storage.join(folder, own_tokenizer.FERTILITY), measured)


def _token_costs(folder: str) -> dict:
    """For the manifest: tokens of a parallel document in each language against English, and their Gini coefficient."""
    uri = storage.join(folder, own_tokenizer.FERTILITY)
    if not storage.exists(uri):
        return {}
    measured = storage.read_json(uri)
    costs = {row["lang"]: round(row["cost"], 3) for row in measured["cost"]}
    return {"token_cost_per_lang": costs, "token_cost_gini": round(measured["parity"][0]["gini"], 4)}


def _training_texts(job: Job, held_rates: dict[str, float]) -> Iterator[tuple[str, str]]:
    """Language and text for the tokenizer: each language in proportion to its bytes to the power 1 / `tokenize.temperature`, the
    square root without one, chosen by id. With a temperature a small language is read several times, as parity never needs."""
    sizes, settings = job.manifest(QUALITY)["bytes_per_lang"], job.recipe.tokenize
    again = settings.temperature is not None and not settings.parity
    rates_of = tokenizers.reading_rates if again else tokenizers.sampling_rates
    rates = rates_of(sizes, settings.train_bytes, settings.temperature or 2.0)
    for part in storage.glob(job.input(QUALITY, "part-*.parquet")):
        table = storage.read_table(part, ["doc_id", "lang", "text"])
        for row, out in zip(table.to_pylist(), heldout(table, held_rates), strict=True):
            if not out:
                number = tokenizers.times(rates[row["lang"]], int(row["doc_id"][8:16], 16) / 16**8)
                yield from [(row["lang"], row["text"])] * number


def _kernel(folder: str, rates: dict[str, float], dropout: float, seed: int) -> Kernel:
    encoder = Encoder(tokenizers.load(storage.localize(folder)), dropout, seed)

    def encode(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        batch, held, gone = _apart(batch, rates)
        tokens = encoder.documents(batch["text"], batch["doc_id"])
        columns = {
            **{name: batch[name] for name in ("doc_id", "lang", "url", "licence", "quality")},
            "bytes": pc.cast(pc.binary_length(batch["text"]), pa.int64()),
            "n_tokens": pc.cast(pc.list_value_length(tokens), pa.int64()),
            "tokens": pc.if_else(held, pa.scalar(None, tokens.type), tokens),
            "heldout": held,
            "text": pc.if_else(held, batch["text"], pa.scalar(None, pa.string())),
        }
        return pa.RecordBatch.from_arrays([columns[n] for n in PARTS.names], schema=PARTS), gone

    return encode


def _apart(batch: pa.RecordBatch, rates: dict[str, float]) -> tuple[pa.RecordBatch, pa.BooleanArray, pa.RecordBatch]:
    """(Documents, which are held out, ledger). Text that a model made measures nothing, so it is never held out; made of a
    held-out document it would give that away, so it leaves."""
    if "made_from" not in batch.schema.names:
        return batch, pa.array(heldout(batch, rates), pa.bool_()), ledger_rows("tokenize", [])
    of = pa.table({"doc_id": batch["made_from"], "lang": batch["made_from_lang"]})
    leaves = pa.array(heldout(of, rates), pa.bool_())
    gone = [
        {**{name: row[name] for name in ("doc_id", "url", "lang")}, "rule": "of_heldout", "detail": row["made_from"]}
        for row in batch.filter(leaves).to_pylist()
    ]
    batch = batch.filter(pc.invert(leaves))
    return batch, pa.array([False] * batch.num_rows, pa.bool_()), ledger_rows("tokenize", gone)


def _marker(part: str) -> str:
    folder, name = part.rsplit("/", 1)
    return storage.join(folder, "_shards", name.replace(".parquet", ".json"))


def _write_pools(task: tuple[str, list[str], str, float, int, int]) -> dict:
    """The pools of one language. The threshold of `high_quality` is that quantile of the language's scores."""
    lang, parts, folder, top_share, vocab, eod = task
    mine = (pc.field("lang") == lang) & ~pc.field("heldout")
    columns = ["doc_id", "lang", "quality", "bytes", "tokens", "heldout"]
    scores = [storage.read_table(part, ["lang", "heldout", "quality"]).filter(mine)["quality"] for part in parts]
    known = np.array([s for column in scores for s in column.to_pylist() if s is not None], np.float32)
    threshold = float(np.quantile(known, 1.0 - top_share)) if len(known) else None

    def documents(only_best: bool) -> Iterator[tuple[str, str, int, np.ndarray]]:
        wanted = mine & (pc.field("quality") >= threshold) if only_best and threshold is not None else mine
        for part in parts:
            for batch in storage.read_table(part, columns).filter(wanted).to_batches():
                tokens, ends = batch["tokens"].flatten().to_numpy(), np.cumsum(pc.list_value_length(batch["tokens"]))
                pieces = np.split(tokens, ends[:-1])
                yield from zip(
                    batch["doc_id"].to_pylist(), [lang] * len(pieces), batch["bytes"].to_pylist(), pieces, strict=True
                )

    sizes = {}
    for pool, only_best in (("all", False), ("high_quality", True)):
        meta = write_store(storage.join(folder, "pools", pool, lang), documents(only_best), vocab, eod)
        sizes[pool] = meta["tokens"]
        sizes.setdefault("bytes", meta["bytes"])
    return sizes


def _write_instructions(job: Job, tokenizer) -> None:
    """The pool of instruction texts for stage 2: the chat rows of `train.sft.instruct`, when the recipe has any."""
    train = job.recipe.train
    if train is None or train.sft is None:
        return
    rows = chats.conversations(job, train.sft.instruct, None)
    # All of a text is trained here, so a conversation with a turn that is only to be read has no place in it.
    left = [row for row in rows if any("train" in turn for turn in row["messages"])]
    reason = {"rule": "turn_not_trained", "detail": "a turn is only to be read, and pre-training has no mask"}
    write_ledger(job, [{"doc_id": row["id"], "lang": row["lang"], **reason} for row in left], "part-instructions")
    rows = [row for row in rows if not any("train" in turn for turn in row["messages"])]
    sizes = [len(conversations.render(row["messages"])[0].encode()) for row in rows]
    documents = (
        (e.id, e.lang, size, e.ids) for e, size in zip(conversations.encode(tokenizer, rows), sizes, strict=True)
    )
    write_store(job.path("pools", "instructions"), documents, len(tokenizer), document_tokens.end(tokenizer))


def _write_parallel(job: Job, tokenizer: str, vocab: int, eod: int) -> dict[str, int]:
    """The pools of documents of parallel text; their tokens by pair of languages."""
    parts = storage.glob(job.input(PARALLEL_DOCUMENTS, "part-*.parquet"))
    names = sorted(job.manifest(PARALLEL_DOCUMENTS)["pairs"])
    own = job.recipe.tokenize
    root = job.path("pools", "parallel")
    tasks = [(storage.join(root, pair), pair, parts, tokenizer, own.dropout, own.seed, vocab, eod) for pair in names]
    return dict(zip(names, map_on_ray(job, _write_pairs, tasks, "pairs of languages"), strict=True))


def _write_pairs(task: tuple[str, str, list[str], str, float, int, int, int]) -> int:
    """The pool of one pair of languages; its tokens."""
    uri, pair, parts, folder, dropout, seed, vocab, eod = task
    encoder = Encoder(tokenizers.load(storage.localize(folder)), dropout, seed)

    def documents() -> Iterator[tuple[str, str, int, np.ndarray]]:
        for part in parts:
            with storage.open_parquet(part) as parquet:
                for batch in parquet.iter_batches(1024, columns=["doc_id", "lang", "pair", "text"]):
                    mine = batch.filter(pc.equal(batch["pair"], pair))
                    tokens = encoder.documents(mine["text"], mine["doc_id"])
                    sizes = pc.binary_length(mine["text"]).to_pylist()
                    ids = [np.asarray(one.values) for one in tokens]
                    yield from zip(mine["doc_id"].to_pylist(), mine["lang"].to_pylist(), sizes, ids, strict=True)

    return write_store(uri, documents(), vocab, eod)["tokens"]


def _write_heldout(job: Job, parts: list[str]) -> None:
    """`heldout.parquet`: doc_id, lang, bytes, text; per language as many documents as fit the byte limit, by id."""
    tables = [
        storage.read_table(part, ["doc_id", "lang", "bytes", "text", "heldout"]).filter(pc.field("heldout"))
        for part in parts
    ]
    table = pa.concat_tables(tables).drop_columns(["heldout"]).sort_by([("lang", "ascending"), ("doc_id", "ascending")])
    limit = job.recipe.tokenize.heldout_bytes_per_language
    used: dict[str, int] = {}
    keep = []
    for lang, size in zip(table["lang"].to_pylist(), table["bytes"].to_pylist(), strict=True):
        fits = used.get(lang, 0) + size <= limit or lang not in used
        keep.append(fits)
        used[lang] = used.get(lang, 0) + (size if fits else 0)
    storage.write_table(job.path("heldout.parquet"), table.filter(pa.array(keep, pa.bool_())))
