"""What `train.pretrain.update` makes of a model before it is pre-trained, and of the trained one before it is saved."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
from collections.abc import Callable

import torch
import torch.distributed as dist

from cluster import storage
from ray_jobs.config.training import Update
from ray_jobs.training import fit
from ray_jobs.work import device
from train import loop
from train.batches.decoder import CausalLM
from train.batches.parts import Batch
from train.distributed import data_parallel
from train.kernels import chosen, low_rank
from train.loop_config import LoopConfig
from train.methods import contrast, plasticity, pretrain

FILE = "update.json"  # in the folder of pretrain/stage1: what was chosen, which stage 2 takes too


class Settings(fit.PackedSettings):
    model: str
    update: dict  # the fields of an `Update`
    choice: str  # URI of FILE
    replay: list[str]  # languages


def begin(net: CausalLM, own: Update, seed: int, choice: chosen.Choice | None = None) -> None:
    """Let only what the rule says learn, in place. `choice`: of contrast."""
    if own.rule == "lora":
        low_rank.attach(net, own.rank, own.whole_vocabulary, seed)
    elif own.rule == "contrast":
        assert choice is not None
        chosen.attach(net, choice, own.whole_vocabulary)


def sized(net: CausalLM, own: Update) -> CausalLM:
    """A model without memory as `begin` makes it: a copy, unless the rule changes nothing."""
    return net if own.rule == "all" else begun(copy.deepcopy(net), own)


def begun(net: CausalLM, own: Update) -> CausalLM:
    """The model after `begin`, in place, with units chosen evenly where nothing was measured: for sizes."""
    begin(net, own, seed=0, choice=chosen.even(net, own.share) if own.rule == "contrast" else None)
    return net


def after_step(step: int, net: CausalLM) -> None:
    chosen.write_back(net)


def finish(net: CausalLM) -> None:
    """Make the model that is saved, which has the shape of the base. Call it on every rank."""
    low_rank.merge(net)
    chosen.finish(net)


def choose(settings: Settings) -> dict | None:
    """What contrast has chosen, measured now or by an earlier start of the run, with the indicators of FILE; None for another
    rule. Call it on every rank. Raises ValueError where the mixture has no language of one side."""
    own, rank = Update(**settings["update"]), data_parallel.rank_world()[0]
    if own.rule != "contrast":
        return None
    known = data_parallel.sum_over_ranks([rank == 0 and storage.exists(settings["choice"])], device.here())[0]
    if not known:
        found = _measured(settings, own)
        gc.collect()
        if rank == 0:
            storage.write_json(settings["choice"], found)
        if dist.is_initialized():
            dist.barrier()
    return storage.read_json(settings["choice"])


def _measured(settings: Settings, own: Update) -> dict:
    net, where = fit.start_model(settings), device.here()
    rows = _rows(settings, own.rows)
    config = dataclasses.replace(LoopConfig(**settings["loop"]), compile=False, context_parallel=1)
    precision, _ = loop.place(net, config, where)
    autocast = torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16")
    found = contrast.measure(net, pretrain.loss, *rows, autocast)
    choice = contrast.choose(found.target, found.replay, own.share)
    units = sum(len(layer["units"]) for layer in found.target)
    del net
    gc.collect()  # sharded layers lie in cycles, and the probe has a model of its own
    probe = _plasticity(settings, own, rows[0]) if own.probe_updates else {}
    return {
        **probe,
        "share": own.share,
        "rows_per_language": own.rows,
        "never_active": sum(found.never) / units,
        "never_active_by_layer": found.never,
        "by_layer": contrast.ratios(found.target, found.replay, choice),
        "chosen": choice,
    }


def _plasticity(settings: Settings, own: Update, rows: list[Callable[[], Batch]]) -> dict:
    """Of a copy of the base, trained whole on the measured rows of the target languages."""
    config = dataclasses.replace(
        LoopConfig(**settings["loop"]),
        steps=own.probe_updates,
        checkpoint_every=0,
        guard=None,
        schedule="constant",
        warmup_steps=0,
        context_parallel=1,
        log_every=1,
    )
    out = storage.join(settings["out"], "probe")
    net = fit.start_model(settings)
    found = plasticity.measure(net, rows, pretrain.loss, config, out, device=device.here())
    return dict(found)


def _rows(settings: Settings, number: int) -> tuple[list[Callable[[], Batch]], list[Callable[[], Batch]]]:
    """What makes the rows of the target languages and those of replay: the first `number` of each language."""
    entry = settings["schedule"][0]
    target: list[Callable[[], Batch]] = []
    replay: list[Callable[[], Batch]] = []
    pools = [name for name, weight in entry["weights"].items() if weight > 0]
    for lang in sorted({name.split("/")[-1] for name in pools}):
        mine = [name for name in pools if name.split("/")[-1] == lang]
        alone = {
            key: {n: entry[key][n] for n in mine if n in entry[key]} for key in ("weights", "tokens") if key in entry
        }
        batch = fit.packed_rows(settings | {"schedule": [{"from_sample": 0, **alone}]})
        side = replay if lang in settings["replay"] else target
        side.extend(functools.partial(batch, [row]) for row in range(number))
    for side, what in ((target, "no other languages than these"), (replay, "none of these")):
        if not side:
            raise ValueError(
                "train.pretrain.update.rule: contrast compares languages with mixture.replay_languages "
                f"({', '.join(settings['replay'])}), but the mixture has {what}; take lora, or "
                "change these"
            )
    return target, replay


def said(own: Update, found: dict | None) -> dict:
    """What the manifest of a stage says of its rule and of what was chosen."""
    if own.rule == "all":
        return {}
    rule: dict = {"rule": own.rule, "vocabulary": own.whole_vocabulary}
    if found is None:
        return {"update": rule | {"rank": own.rank}}
    counts = {kind: sum(len(layer[kind]) for layer in found["chosen"]) for kind in chosen.KINDS}
    told = {key: found[key] for key in ("never_active", "loss_drop_per_norm") if key in found}
    return {"update": rule | {"share": own.share}, "chosen": counts, **told}
