"""Tasks of lm-eval by name, run by lm-eval itself on one of our models (extra `eval`)."""

from __future__ import annotations

from functools import cache
from typing import TypedDict

import torch


class Setting(TypedDict):
    """`include_path`: a folder with tasks of lm-eval's own YAML; where these name local files, no network is needed."""

    tasks: list[str]
    include_path: str | None
    shots: int | None
    limit: int | None
    out: str


def run(folder: str, setting: Setting, device: torch.device) -> dict[str, dict[str, float]]:
    """{task: {"metric,filter": value, …}} of the model in the Hugging Face `folder`, in fp32 on a CPU and bf16 on a GPU.

    Raises ValueError for a task that lm-eval does not know, or whose data it cannot reach.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device).eval()
    batch = "auto" if device.type == "cuda" else 16
    theirs = HFLM(pretrained=net, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=batch, device=str(device))
    manager = _known_tasks(setting["include_path"])
    known = {*manager.all_tasks}
    for name in setting["tasks"]:
        if name not in known:
            raise ValueError(
                f"evaluate.tasks.lm_eval: lm-eval has no task {name!r}; `lm-eval ls tasks` prints those it has"
            )
    try:
        found = simple_evaluate(
            model=theirs,
            tasks=setting["tasks"],
            num_fewshot=setting["shots"],
            limit=setting["limit"],
            task_manager=manager,
            bootstrap_iters=0,
            log_samples=False,
        )
    except OSError as error:
        raise ValueError(f"evaluate.tasks.lm_eval: its data cannot be read: {error}") from None
    assert found is not None  # of the only rank
    return {
        name: {key: float(value) for key, value in scores.items() if isinstance(value, int | float)}
        for name, scores in found["results"].items()
    }


@cache
def _known_tasks(folder: str | None):
    """lm-eval's own tasks and those of `folder`: thousands of files, which are read once for all models."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder)
