"""base: the model that is continued. A real run loads one; the demo trains a small one on English and Chinese only, so
that there is something to forget."""

from __future__ import annotations

from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config.given import given
from ray_jobs.run.graph import TOKENIZE
from ray_jobs.run.job import Job
from ray_jobs.training import budget, data_order, fit
from ray_jobs.training.tokenizer import TokenizerSetting, load_tokenizer, tokenizer_of
from ray_jobs.work.tasks import off_the_head
from ray_jobs.work.trainer import launch
from train import model
from train.bases import same_loss
from train.methods.add_tokens import add_rows
from train.methods.pretrain import loss


class Copy(TokenizerSetting):
    source: str
    target: str
    own_tokenizer: str  # as the recipe names it


class Settings(fit.PackedSettings):
    shape: dict  # of a Qwen2 configuration


def run(job: Job) -> dict:
    base = job.train.base
    if base.model is not None:
        own = job.recipe.tokenize.tokenizer
        copy: Copy = {
            **tokenizer_of(job),
            "source": base.model,
            "target": job.path("model"),
            "own_tokenizer": own,
        }
        return off_the_head(job, _copy, copy)
    optimiser = given(base.optimiser)
    tokens = budget.of_stage(job.run_uri, "base", job.train)
    steps = fit.steps_for(tokens, optimiser.rows_per_step, job.train.context)
    shape = {**given(base.shape).model_dump(), "vocab_size": job.manifest(TOKENIZE)["vocab_size"]}
    shape["max_position_embeddings"] = job.train.context
    settings: Settings = {
        **fit.settings(job, fit.loop_config(job, optimiser, steps)),
        **data_order.settle(job, job.seed),
        "shape": shape,
    }
    return launch(job, train_worker, settings, steps)


def _copy(settings: Copy) -> dict:
    net, tokenizer = model.load(settings["source"]), load_tokenizer(settings)
    same_loss.check(net)
    vocabulary = tokenizer.get_vocab()
    own = tokenizers.load(settings["own_tokenizer"]) if settings["own_tokenizer"] != "train" else tokenizer
    added = [vocabulary[token] for token in tokenizers.chat_tokens_lacking(own) if token in vocabulary]
    if added:
        add_rows(net, added)
    if len(tokenizer) > net.config.vocab_size:
        raise ValueError(
            f"tokenize.tokenizer: it has {len(tokenizer):,} tokens, but train.base.model {settings['source']} embeddings for "
            f"{net.config.vocab_size:,}; name the model's own tokenizer"
        )
    model.save(net, tokenizer, settings["target"], net.config.max_position_embeddings)
    return {"parameters": model.parameters(net), "tokens_added": len(added)}


def train_worker(settings: Settings) -> dict:
    net = model.build(settings["shape"], settings["seed"])
    rows, pools, heldout = fit.packed_rows(settings), data_order.pool_names(settings), fit.heldout_text(settings)
    summary = fit.fit_and_save(net, rows, loss, settings, pools=pools, validation=heldout)
    return {**summary, "parameters": model.parameters(net)}
