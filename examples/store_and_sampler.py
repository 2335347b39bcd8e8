"""The token store and the sampler as a library: texts to tokens with fixed addresses, then row i of a training of any length.

    python examples/store_and_sampler.py FOLDER FILE.txt [FILE.txt ...]

Each FILE is a language, each of its lines a document. Row i is a pure function of (seed, weights, i), so any worker can ask for
any row, today and after a crash, and a row can be traced to its documents.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mixture.order.sampler import Sampler, rows
from mixture.store.token_store import TokenStore, write_store
from mixture.tokenizer.tokenizer import encode, train_bpe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--context", type=int, default=64)
    options = parser.parse_args()

    texts = {path.stem: [line for line in path.read_text("utf-8").splitlines() if line] for path in options.files}
    tokenizer = train_bpe((text for lines in texts.values() for text in lines), 1000, f"{options.folder}/tokenizer")
    for lang, lines in texts.items():
        documents = (
            (f"{lang}-{number}", lang, len(text.encode()), ids)
            for number, (text, ids) in enumerate(zip(lines, encode(tokenizer, lines), strict=True))
        )
        write_store(f"{options.folder}/{lang}", documents, len(tokenizer), tokenizer.eos_token_id)

    stores = {lang: TokenStore(f"{options.folder}/{lang}") for lang in texts}
    even = {lang: 1.0 for lang in texts}
    first = {**even, options.files[0].stem: 3.0}  # from row 1024 on, three times as much of the first language
    schedule = [{"from_sample": 0, "weights": even}, {"from_sample": 1024, "weights": first}]
    sampler = Sampler(stores, schedule, options.context, seed=42)
    print("rows of each language among the first 1024 and 2048:", sampler.counts(1024), sampler.counts(2048))
    row = 123_456_789  # no row before it has to be read
    batch = rows(sampler, [row])
    print("row", row, "begins with", batch["input_ids"][0, :8].tolist(), "and comes from", sampler.address(row))
    ids = stores[sampler.address(row).pool].doc_ids([share.document for share in sampler.documents(row)])
    print("its documents:", ", ".join(ids.values()))


if __name__ == "__main__":
    main()
