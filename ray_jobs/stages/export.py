"""export: Hugging Face folders that `AutoModelForCausalLM.from_pretrained` loads, each with a card filled from the manifests
and a Modelfile for Ollama.

`base` is the continually pre-trained model (none where a finished one is aligned), `long` the one of a longer context, `chat` the
last aligned one, `pruned` the pruned base; those that the run has.
"""

from __future__ import annotations

from typing import TypedDict, cast

from cluster import storage
from ray_jobs.report import model_card
from ray_jobs.run import adopted
from ray_jobs.run.graph import LONG_CONTEXT, PRETRAIN_2, PRUNE, SFT_1, SFT_2, TOKENIZE, rounds
from ray_jobs.run.job import Job
from ray_jobs.training.heldout import chosen
from ray_jobs.work.tasks import off_the_head
from train.export import huggingface, ollama

HELDOUT_BYTES = 500  # of each language, to measure what rounding the weights costs


class Task(TypedDict):
    source: str
    folder: str
    heldout: str | None
    dtype: str
    gguf: str  # the file that `pinisi gguf` makes of it
    chat: bool


def run(job: Job) -> dict:
    exported = {}
    heldout = adopted.path(job.run_uri, TOKENIZE, "heldout.parquet") if job.recipe.sources else None
    chat = (*reversed(rounds(job.recipe)), SFT_2, SFT_1)
    for name, candidates in {"base": (PRETRAIN_2,), "long": (LONG_CONTEXT,), "chat": chat, "pruned": (PRUNE,)}.items():
        stage = next((stage for stage in candidates if job.has(stage)), None)
        if stage is None:
            continue
        task: Task = {
            "source": job.input(stage, "model"),
            "folder": job.path(name),
            "heldout": heldout,
            "dtype": job.recipe.export.dtype,
            "gguf": f"{job.recipe.name}-{name}.gguf",
            "chat": name == "chat",
        }
        facts = off_the_head(job, _export, task)
        storage.write_text(job.path(name, "README.md"), model_card.render(job, name, stage, facts))
        exported[name] = {"stage": stage, **facts}
    if not exported:
        raise ValueError("export: no stage of this run has a model to export; give train.pretrain or train.sft")
    return {"models": exported}


def _export(task: Task) -> dict:
    columns = ["doc_id", "lang", "text"]
    rows = storage.read_table(task["heldout"], columns).to_pylist() if task["heldout"] else []
    facts = huggingface.export(task["source"], task["folder"], task["dtype"], chosen(rows, HELDOUT_BYTES))
    modelfile = ollama.modelfile(task["folder"], task["gguf"], cast(int, facts["context"]), task["chat"])
    storage.write_text(storage.join(task["folder"], ollama.FILE), modelfile)
    return facts
