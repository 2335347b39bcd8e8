"""Two made-up languages of different fertility: a draft whose tokens each language chose by its shares serves both alike, one
whose tokens were counted over all texts does not (benchmarks/draft.py)."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from train.drafts import glide

BENCHMARKS = str(Path(glide.__file__).parents[2] / "benchmarks")


@pytest.mark.slow
def test_the_worst_language_has_nine_tenths_of_the_best(monkeypatch):
    monkeypatch.setattr(sys, "path", [BENCHMARKS, *sys.path])
    draft = importlib.import_module("draft")
    torch.set_num_threads(1)
    made = draft.toy(draft.SMALL, 200, 100)
    worst = {}
    for kind in made.drafts:
        found = draft.acceptance(made, kind, 12)
        assert all(of["equal"] == of["prompts"] for of in found.values())
        assert all(2 * of["looping"] < of["prompts"] for of in found.values())  # else acceptance would say little
        per_call = [of["tokens_per_call"] for of in found.values()]
        worst[kind] = min(per_call) / max(per_call)
    assert worst["balanced"] >= 0.9
    assert worst["unbalanced"] < 0.8
