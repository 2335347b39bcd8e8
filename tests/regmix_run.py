"""A run whose stages up to tokenize are done, made by hand: three languages of their own letters, one of them small."""

import random

import pyarrow as pa
import yaml

from cluster import storage
from mixture.store.token_store import write_store
from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config import reader as recipes
from ray_jobs.run.job import Job
from ray_jobs.run.run import Run

LETTERS = {"id": "abdegiklmnprstu", "lo": "ກຂຄງຈສຊຍດຕຖທນ", "en": "cfhjoqvwxyz"}
DOCUMENTS = {"id": 300, "lo": 60, "en": 200}
RECIPE = {
    "name": "regmix",
    "cluster": {"cpus": 2},
    "sources": [{"name": "none", "type": "jsonl", "path": "/nowhere/*.jsonl", "optional": True}],
    "mixture": {
        "replay_languages": ["en"],
        "regmix": {
            "regression": "linear",
            "candidates": 2000,
            "average": 16,
            "min_correlation": 0.0,
            "proxies": {
                "runs": 12,
                "heldout_runs": 4,
                "group": 4,
                "shape": {
                    "hidden_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 2,
                    "intermediate_size": 16,
                },
                "vocab_size": 300,
                "context": 32,
                "tokens": 4000,
                "rows_per_step": 8,
                "micro_rows": 8,
                "lr": 1e-2,
                "warmup_steps": 2,
                "heldout_tokens": 400,
            },
        },
    },
}


def texts(lang, n, seed):
    draw = random.Random(seed)
    words = ["".join(draw.choices(LETTERS[lang], k=draw.randint(2, 7))) for _ in range(30)]
    return [" ".join(draw.choices(words, k=30)) + "." for _ in range(n)]


def build(folder, **proxies):
    """The recipe's file and the run, with changed keys of `mixture.regmix.proxies`."""
    values = yaml.safe_load(yaml.safe_dump(RECIPE))
    values["mixture"]["regmix"]["proxies"] |= proxies
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    run = Run(str(folder / "run"), recipes.load(str(path)))
    root = folder / "run" / "tokenize"
    corpus = {lang: texts(lang, n, seed=n) for lang, n in DOCUMENTS.items()}
    tokenizer = tokenizers.train_bpe([t for many in corpus.values() for t in many], 500, str(root / "tokenizer"))
    tokens, held = {}, []
    for lang, documents in corpus.items():
        encoded = tokenizers.encode(tokenizer, documents)
        rows = [
            (f"{lang}{i:030}", lang, len(text.encode()), ids)
            for i, (text, ids) in enumerate(zip(documents, encoded, strict=True))
        ]
        held += [
            {"doc_id": row[0], "lang": lang, "bytes": row[2], "text": text}
            for row, text in zip(rows[:8], documents[:8], strict=True)
        ]
        kept = rows[8:]
        tokens[lang] = write_store(str(root / "pools" / "all" / lang), kept, len(tokenizer), tokenizer.eos_token_id)[
            "tokens"
        ]
    storage.write_table(str(root / "heldout.parquet"), pa.Table.from_pylist(held))
    made = {"seconds": 1.0, "versions": {}, "tokens": sum(tokens.values())}
    manifest = {**made, "stage": "tokenize", "fingerprint": run.fingerprints()["tokenize"], "tokens_per_lang": tokens}
    storage.write_json(str(root / "_manifest.json"), manifest)
    storage.write_text(str(folder / "run" / "recipe.yaml"), recipes.resolved(run.recipe))
    return path, run


class Quiet:
    """A progress bar that nobody sees."""

    def start(self, total, unit=""):
        pass

    def set(self, done):
        pass


def job(run, name):
    stage = next(stage for stage in run.stages if stage.name == name)
    return Job(run.recipe, run.uri, stage, run.fingerprints()[name], Quiet())
