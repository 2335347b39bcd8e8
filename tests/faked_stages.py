"""All stages of a run as fakes that write a few bytes in no time, so that a whole graph runs in a test.

Each says that it ran and reads a file of each of its inputs; those that train leave a small real config.json, `evaluate` and
`tasks` leave tables of scores that follow from the fingerprint of the model, so equal models have equal scores.
"""

import hashlib
import sys
import types

import pyarrow as pa
import pytest

from cluster import storage
from ray_jobs.run import graph, preflight
from ray_jobs.run import run as runs
from ray_jobs.stages.evaluation import bits_per_byte, tasks
from train import model

SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "vocab_size": 64,
    "tie_word_embeddings": True,
}
DOCUMENTS = 12
LANGUAGES = ("th", "lo", "en")
TRAINS = ("base", "pretrain", "sft", "dpo")


class Log:
    """`ran`: (run URI, stage) in order; `fail`: the stage that dies, once it has written; `better`: stage -> how much lower its
    bits per byte are."""

    def __init__(self):
        self.ran, self.fail, self.better = [], None, {}

    def of(self, folder):
        """The stages that ran in the run whose URI ends so."""
        return [stage for uri, stage in self.ran if uri.endswith(folder)]


@pytest.fixture
def faked(monkeypatch):
    log = Log()

    def run(job):
        log.ran.append((job.run_uri, job.stage.name))
        for name in job.stage.inputs:
            assert storage.exists(job.input(name, "made.txt")), f"{job.stage.name} finds nothing of {name}"
            assert job.manifest(name)["stage"] == name
        storage.write_text(job.path("made.txt"), job.fingerprint)
        if log.fail == job.stage.name:
            raise KeyboardInterrupt
        return results(job)

    def results(job):
        name = job.stage.name
        if name == "mixture":
            plan = {name: {"tokens": tokens} for name, tokens in {"base": 8192, "stage1": 8192, "stage2": 4096}.items()}
            storage.write_json(job.path("plan.json"), plan)
        if name == "evaluate":
            storage.write_table(job.path("documents.parquet"), documents(job))
        if name == "tasks":
            storage.write_table(job.path("results.parquet"), answers(job))
            cell = {"measure": "per_byte"}
            storage.write_json(job.path("metrics.json"), {"xcopa": dict.fromkeys(LANGUAGES, cell)})
        if job.stage.job not in (*TRAINS, "expand"):
            return {}
        grown = job.recipe.train.expand and not name.startswith(("base", "control"))
        layers = SHAPE["num_hidden_layers"] + (job.recipe.train.expand.new_layers if grown else 0)
        config = model.config_from({**SHAPE, "num_hidden_layers": layers})
        storage.write_text(job.path("model", "config.json"), config.to_json_string())
        if job.stage.job == "expand":
            return {}
        return {"tokens": 8192, "tokens_per_second": 1000.0, "memory_bytes": 1000}

    def documents(job):
        rows = []
        for stage in (one for one in job.stage.inputs if storage.exists(job.input(one, "model", "config.json"))):
            better = log.better.get(job.manifest(stage)["fingerprint"], 0.0)
            for lang in LANGUAGES:
                for i in range(DOCUMENTS):
                    size = 100 + 37 * i
                    rate = 2.0 + number(job, stage, lang, i) - better
                    row = {"model": stage, "lang": lang, "doc_id": f"{lang}{i}", "bytes": size, "tokens": size}
                    rows.append({**row, "bits": rate * size})
        return pa.Table.from_pylist(rows, bits_per_byte.COLUMNS)

    def answers(job):
        rows = []
        for stage in (one for one in job.stage.inputs if storage.exists(job.input(one, "model", "config.json"))):
            for lang in LANGUAGES:
                for i in range(DOCUMENTS):
                    right = float(number(job, stage, lang, i) > 0.5)
                    rows.append({"model": stage, "task": "xcopa", "lang": lang, "id": str(i), "correct": right})
        return pa.Table.from_pylist(rows, tasks.COLUMNS)

    for name in {stage.job for stage in graph.STAGES}:
        module = types.SimpleNamespace(run=run, check=lambda recipe: None)
        monkeypatch.setitem(sys.modules, f"ray_jobs.stages.{name}", module)
    monkeypatch.setattr(preflight, "check", lambda *_, **__: None)
    monkeypatch.setattr(runs, "code", lambda job, languages: {job: "as it is"})  # reading it takes most of the time
    return log


def number(job, stage, lang, i):
    """In [0, 1), the same for the same model and item."""
    text = f"{job.manifest(stage)['fingerprint']} {lang} {i}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
