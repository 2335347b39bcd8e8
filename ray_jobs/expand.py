"""expand: new blocks between the old ones, zero at their outputs, so that the model starts as the same function."""

from __future__ import annotations

import torch

from ray_jobs import training
from ray_jobs.run import Job
from train import expand, model


def run(job: Job) -> dict:
    settings = job.recipe.train.expand
    net = model.load(job.input("base", "model"))
    layers_before, context = net.config.num_hidden_layers, net.config.max_position_embeddings
    ids_BT = torch.arange(64).remainder(settings.vocab_size or net.config.vocab_size).view(1, 64)
    with torch.no_grad():
        before_BTV = net(ids_BT).logits
        net = expand.expand(net, settings.new_layers, untie=settings.untie_embeddings, vocab_size=settings.vocab_size)
        after_BTV = net(ids_BT).logits
    if not torch.equal(after_BTV, before_BTV[..., : net.config.vocab_size]):
        raise AssertionError("the expanded model is not the same function as its base")
    tokenizer = training.load_tokenizer(training.tokenizer_of(job))
    model.save(net, tokenizer, job.path("model"), context)
    return {
        "layers_before": layers_before,
        "layers": net.config.num_hidden_layers,
        "parameters": training.parameters(net),
        "logits_identical": True,
    }


if __name__ == "__main__":
    from ray_jobs.job import main

    main(__file__)
