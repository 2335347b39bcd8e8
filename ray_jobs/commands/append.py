"""`pinisi append`: more documents into the token stores of a run. No token moves, and nothing reads them by itself: a training
stage reads them from the step on that `pinisi weights RUN --from-step N --grow` says."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from mixture.store import token_store
from mixture.store.token_store import TokenStore
from mixture.tokenizer import tokenizer as tokenizers
from mixture.tokenizer.encoder import Encoder
from ray_jobs.errors import UserError
from ray_jobs.run import adopted, lock
from ray_jobs.run.graph import TOKENIZE
from ray_jobs.run.run import Run, open_run
from ray_jobs.training import data_order

COLUMNS = ("doc_id", "lang", "text")
BATCH = 1000  # documents tokenised at a time


def main(options: argparse.Namespace) -> None:
    run = open_run(options.run)
    for lang, (documents, tokens) in append(run, options.documents, options.pool).items():
        print(f"{options.pool}/{lang}: {documents:,} documents, {tokens:,} tokens")
    print(f"they are read from the step on that `pinisi weights {options.run} --from-step N --grow` says")


def append(run: Run, documents: str, pool: str = "all") -> dict[str, tuple[int, int]]:
    """Tokenise documents and put them behind those of the pools `pool`/<lang>; (documents, tokens) added, by language.

    `documents`: glob of Parquet files with the columns doc_id, lang, text, such as `OTHER_RUN/quality/part-*.parquet`.
    What a pool has already, by doc_id, is left out, so the command can be repeated; and what the run is measured by. Raises
    UserError for files without these columns, for a language that the run has no pool of, and while another process appends
    to one.
    """
    if not run.recipe.sources:
        raise UserError(f"{run.uri}: this run aligns a finished model and has no token stores to append to")
    if run.manifest(TOKENIZE) is None:
        raise UserError(f"{run.uri}: there are no token stores yet; `pinisi run … --until tokenize` makes them")
    if (home := adopted.home(run.uri, TOKENIZE)) != run.uri:
        raise UserError(
            f"{run.uri}: its tokens are those of {home}, which other runs read too; append there, or copy it"
        )
    files = storage.glob(documents)
    if not files:
        raise UserError(f"{documents}: no such files")
    languages: set[str] = set()
    for uri in files:
        with storage.open_parquet(uri) as parquet:
            if missing := [name for name in COLUMNS if name not in parquet.schema_arrow.names]:
                raise UserError(f"{uri}: the column {missing[0]} is missing; documents have {', '.join(COLUMNS)}")
            languages |= set(parquet.read(["lang"])["lang"].unique().to_pylist())
    pools = {lang: _open(run, f"{pool}/{lang}").uri for lang in sorted(languages)}
    tokenizer = tokenizers.load(storage.localize(adopted.path(run.uri, TOKENIZE, "tokenizer")))
    held = set(storage.read_table(adopted.path(run.uri, TOKENIZE, "heldout.parquet"), ["doc_id"])["doc_id"].to_pylist())
    encoder = Encoder(tokenizer, run.recipe.tokenize.dropout, run.recipe.tokenize.seed)
    added = {}
    for lang, uri in pools.items():
        with lock.held(uri):  # two at a time would write files of the same names
            old = TokenStore(uri)
            new = token_store.append(uri, _documents(files, lang, old, encoder, held))
        added[lang] = new["documents"] - old.n_documents, new["tokens"] - old.n_tokens
    return added


def _open(run: Run, pool: str) -> TokenStore:
    try:
        return TokenStore(storage.join(data_order.pools_uri(run.uri), pool))
    except ValueError as error:
        raise UserError(str(error)) from None


def _documents(
    files: list[str], lang: str, old: TokenStore, encoder: Encoder, held: set[str]
) -> Iterator[tuple[str, str, int, np.ndarray]]:
    """The documents of one language that the store does not have and that are not held out, tokenised."""
    mine = pc.field("lang") == lang
    ids = [i for uri in files for i in storage.read_table(uri, ["doc_id", "lang"]).filter(mine)["doc_id"].to_pylist()]
    known = held.union(old.rows_of(ids).values())
    for uri in files:
        for batch in storage.read_table(uri, list(COLUMNS)).filter(mine).to_batches(BATCH):
            rows = {}
            for row in batch.to_pylist():
                if row["doc_id"] not in known:
                    known.add(row["doc_id"])
                    rows[row["doc_id"]] = row["text"]
            tokens = encoder.documents(pa.array(list(rows.values()), pa.string()), pa.array(list(rows), pa.string()))
            for (doc_id, text), of_text in zip(rows.items(), tokens, strict=True):
                yield doc_id, lang, len(text.encode()), of_text.values.to_numpy()
