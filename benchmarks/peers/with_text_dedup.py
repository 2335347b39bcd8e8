"""text-dedup: its own steps of near-duplicate search (filter, fingerprint, cluster), read from Parquet as it reads it."""

from __future__ import annotations

import os
import tempfile

from measure import documents, main, measured
from text_dedup.config.base import Config, load_config_from_toml
from text_dedup.minhash import cluster, fingerprint, load_and_preprocess

SETTINGS = """
[input]
input_type = "local_files"
file_type = "parquet"
[input.read_arguments]
path = "parquet"
data_files = "{corpus}"
split = "train"
cache_dir = "{folder}/cache"
[algorithm]
algorithm_name = "minhash"
text_column = "text"
num_perm = 112
bands = 14
rows = 8
ngram_size = 5
threshold = 0.7
num_proc = 1
[output]
output_dir = "{folder}/out"
[debug]
"""


def minhash(corpus: str) -> dict:
    rows = documents(corpus)
    result: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "config.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(SETTINGS.format(corpus=corpus, folder=folder))
        config: Config = load_config_from_toml(path)
        with measured(result):
            kept, _, _ = load_and_preprocess(config)
            parents = cluster(config, fingerprint(config, kept))
        first: dict[int, int] = {}
        label = [first.setdefault(parents[i], i) if i in parents else i for i in range(len(rows))]
    return {**result, "label": label}


if __name__ == "__main__":
    main({"minhash": minhash})
