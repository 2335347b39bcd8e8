"""A draft's folder, whatever its method: `draft.json` beside a GliDe draft, vLLM's `config.json` beside an EAGLE-3 one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file

from cluster import storage
from train.batches.decoder import CausalLM
from train.drafts import eagle3, glide
from train.drafts.speculative import GlideProposer, Proposer

GLIDE, EAGLE3 = "draft.json", "config.json"


def there(folder: str) -> bool:
    return any(storage.exists(storage.join(folder, name)) for name in (GLIDE, EAGLE3))


def proposer(folder: str, target: CausalLM) -> tuple[Proposer, int]:
    """(what proposes to `target`, how many tokens at a time). Raises ValueError when it is a draft for another model, or none."""
    try:
        if storage.exists(storage.join(folder, GLIDE)):
            draft, gamma = glide.load(folder, target)
            return GlideProposer(draft), gamma
        other, gamma = eagle3.load(folder, target)
        return eagle3.Eagle3Proposer(other), gamma
    except (OSError, KeyError, TypeError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder}: it is no draft that can be read ({type(error).__name__}: {error})") from error


def vocabulary(folder: str) -> np.ndarray | None:
    """The tokens that the draft may propose; None is all."""
    name = "draft.safetensors" if storage.exists(storage.join(folder, GLIDE)) else "model.safetensors"
    tensors = load_file(str(Path(storage.localize(folder), name)))
    if "d2t" in tensors:
        return tensors["d2t"].numpy() + np.arange(len(tensors["d2t"]))
    return tensors["vocabulary"].numpy() if "vocabulary" in tensors else None
