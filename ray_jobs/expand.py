"""expand: new blocks between the old ones, zero at their outputs, so that the model starts as the same function."""

from __future__ import annotations

import torch

from ray_jobs import training
from ray_jobs.run import Job
from train import expand, model


def run(job: Job) -> dict:
    settings = job.recipe.train.expand
    base = model.load(job.input("base", "model"))
    net = expand.expand(base, settings.new_layers, untie=settings.untie_embeddings, vocab_size=settings.vocab_size)
    ids_BT = torch.arange(64).remainder(net.config.vocab_size).view(1, 64)
    with torch.no_grad():
        same = torch.equal(net(ids_BT).logits, base(ids_BT).logits[..., : net.config.vocab_size])
    if not same:
        raise AssertionError("the expanded model is not the same function as its base")
    tokenizer = training.load_tokenizer({"tokenizer": f"{job.run_uri}/tokenize/tokenizer"})
    model.save(net, tokenizer, job.path("model"), base.config.max_position_embeddings)
    return {
        "layers_before": base.config.num_hidden_layers,
        "layers": net.config.num_hidden_layers,
        "parameters": training.parameters(net),
        "logits_identical": same,
    }
