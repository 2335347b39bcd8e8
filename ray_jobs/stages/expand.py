"""expand: new blocks between the old ones, zero at their outputs, so that the model starts as the same function."""

from __future__ import annotations

import torch

from ray_jobs.config.given import given
from ray_jobs.run.graph import BASE
from ray_jobs.run.job import Job
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work.tasks import off_the_head
from train import model
from train.methods import expand


class Settings(TokenizerSetting):
    source: str
    target: str
    new_layers: int
    untie_embeddings: bool
    vocab_size: int | None


def run(job: Job) -> dict:
    own = given(job.train.expand)
    settings: Settings = {
        **tokenizer_of(job),
        "source": job.input(BASE, "model"),
        "target": job.path("model"),
        "new_layers": own.new_layers,
        "untie_embeddings": own.untie_embeddings,
        "vocab_size": own.vocab_size,
    }
    return off_the_head(job, _expand, settings)


def _expand(settings: Settings) -> dict:
    net = model.load(settings["source"])
    layers_before, context = net.config.num_hidden_layers, net.config.max_position_embeddings
    new_layers, vocab_size = settings["new_layers"], settings["vocab_size"]
    tokenizer = load_tokenizer(settings)
    if vocab_size is not None and vocab_size < len(tokenizer):
        raise ValueError(
            f"train.expand.vocab_size: {vocab_size:,} rows are fewer than the {len(tokenizer):,} tokens of the tokenizer; "
            "give at least as many"
        )
    ids_BT = torch.arange(64).remainder(vocab_size or net.config.vocab_size).view(1, 64)
    with torch.no_grad():
        before_BTV = net(ids_BT).logits
        net = expand.expand(net, new_layers, untie=settings["untie_embeddings"], vocab_size=vocab_size)
        after_BTV = net(ids_BT).logits
    if not torch.equal(after_BTV, before_BTV[..., : net.config.vocab_size]):
        raise AssertionError("the expanded model is not the same function as its base")
    model.save(net, tokenizer, settings["target"], context)
    return {
        "layers_before": layers_before,
        "layers": net.config.num_hidden_layers,
        "parameters": model.parameters(net),
        "logits_identical": True,
    }
