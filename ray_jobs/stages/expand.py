"""expand: new blocks between the old ones, zero at their outputs, so that the model starts as the same function."""

from __future__ import annotations

import torch

from ray_jobs.config.given import given
from ray_jobs.run.job import Job
from ray_jobs.training.tokenizer import load_tokenizer, tokenizer_of
from ray_jobs.work.tasks import off_the_head
from train import model
from train.methods import expand


def run(job: Job) -> dict:
    paths = {**tokenizer_of(job), "from": job.input("base", "model"), "to": job.path("model")}
    return off_the_head(job, _expand, {**paths, **given(job.train.expand).model_dump()})


def _expand(settings: dict) -> dict:
    net = model.load(settings["from"])
    layers_before, context = net.config.num_hidden_layers, net.config.max_position_embeddings
    new_layers, vocab_size = settings["new_layers"], settings["vocab_size"]
    ids_BT = torch.arange(64).remainder(vocab_size or net.config.vocab_size).view(1, 64)
    with torch.no_grad():
        before_BTV = net(ids_BT).logits
        net = expand.expand(net, new_layers, untie=settings["untie_embeddings"], vocab_size=vocab_size)
        after_BTV = net(ids_BT).logits
    if not torch.equal(after_BTV, before_BTV[..., : net.config.vocab_size]):
        raise AssertionError("the expanded model is not the same function as its base")
    model.save(net, load_tokenizer(settings), settings["to"], context)
    return {
        "layers_before": layers_before,
        "layers": net.config.num_hidden_layers,
        "parameters": model.parameters(net),
        "logits_identical": True,
    }
