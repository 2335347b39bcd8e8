"""Gauges of a run on Ray's metrics endpoint, from which Prometheus and Grafana read them (cluster/grafana/pinisi.json).

Nothing happens in a process without Ray, and Ray is not imported for it.
"""

from __future__ import annotations

import sys

GAUGES = {
    "pinisi_stage_done": ("units of work of a stage that are done", ("stage", "unit")),
    "pinisi_stage_total": ("units of work of a stage", ("stage", "unit")),
    "pinisi_stage_rate": ("units of work per second since the stage began", ("stage", "unit")),
    "pinisi_documents": ("documents of a finished stage: flow is in or out", ("stage", "flow")),
    "pinisi_dropped": ("documents that a rule dropped", ("stage", "rule")),
    "pinisi_tokens": ("tokens of a finished stage", ("stage", "language")),
    "pinisi_stage_seconds": ("seconds that a finished stage took", ("stage",)),
    "pinisi_train_step": ("updates done", ("stage",)),
    "pinisi_train_tokens": ("tokens read by training", ("stage",)),
    "pinisi_tokens_per_second": ("tokens per second of training, all workers", ("stage",)),
    "pinisi_loss": ("training loss, nats per token", ("stage",)),
    "pinisi_language_loss": ("training loss of a language, nats per token", ("stage", "language")),
    "pinisi_validation_loss": ("held-out loss while training, nats per token or pair", ("stage", "language")),
    "pinisi_validation_accuracy": (
        "share of held-out pairs whose chosen answer is preferred, while training",
        ("stage", "language"),
    ),
    "pinisi_validation_margin": ("reward margin of held-out pairs while training", ("stage", "language")),
    "pinisi_validation_bits_per_byte": ("held-out loss while training, bits per byte", ("stage", "language")),
    "pinisi_bits_per_byte_change": ("change of it since training began; forgetting is above 0", ("stage", "language")),
    "pinisi_learning_rate": ("learning rate", ("stage",)),
    "pinisi_gradient_norm": ("norm of the gradient before clipping", ("stage",)),
    "pinisi_mfu": ("share of the accelerators' peak: 6 N + attention FLOPs per token, not causal", ("stage",)),
    "pinisi_mfu_6n": ("share of the accelerators' peak: 6 N FLOPs per token", ("stage",)),
    "pinisi_mfu_doc": (
        "share of the accelerators' peak: FLOPs under the document mask, without frozen weights",
        ("stage",),
    ),
    "pinisi_teraflops": ("TFLOP/s of each worker, counted as in pinisi_mfu_doc", ("stage",)),
    "pinisi_data_wait": ("share of training's time that waits for batches", ("stage",)),
    "pinisi_memory_bytes": ("peak of allocated GPU memory of worker 0, or its resident memory on a CPU", ("stage",)),
    "pinisi_bits_per_byte": ("held-out loss of a model in a language, bits per byte", ("model", "language")),
    "pinisi_probe": (
        "the probe's newest measures of a stage of preference tuning (train/generation/probe.py)",
        ("stage", "measure"),
    ),
    "pinisi_win_rate": ("win rate of a stage's model against the SFT model", ("stage", "by", "language")),
}
"""Name -> (description, tags). Ray puts `ray_` before the name."""

TRAINING = {
    "step": "pinisi_train_step",
    "tokens": "pinisi_train_tokens",
    "tokens_per_second": "pinisi_tokens_per_second",
    "loss": "pinisi_loss",
    "lr": "pinisi_learning_rate",
    "grad_norm": "pinisi_gradient_norm",
    "mfu": "pinisi_mfu",
    "mfu_6n": "pinisi_mfu_6n",
    "mfu_doc": "pinisi_mfu_doc",
    "teraflops": "pinisi_teraflops",
    "data_wait": "pinisi_data_wait",
    "memory_bytes": "pinisi_memory_bytes",
    "loss_by_language": "pinisi_language_loss",
    "validation_loss": "pinisi_validation_loss",
    "validation_accuracy": "pinisi_validation_accuracy",
    "validation_margin": "pinisi_validation_margin",
    "bits_per_byte": "pinisi_validation_bits_per_byte",
    "bits_per_byte_change": "pinisi_bits_per_byte_change",
}
"""Key of a training record -> gauge; a value per language sets it for each."""

_made: dict = {}


def put(name: str, value: float, **tags: str) -> None:
    """Set one gauge of `GAUGES`, with exactly its tags."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    description, keys = GAUGES[name]
    assert tuple(tags) == keys, f"{name} has the tags {keys}"
    if name not in _made:
        from ray.util.metrics import Gauge

        _made[name] = Gauge(name, description=description, tag_keys=keys)
    _made[name].set(float(value), tags=tags)


def training(stage: str, record: dict) -> None:
    """The gauges of one training record (`train.loop.fit`, and its utilisation)."""
    for key, name in TRAINING.items():
        value = record.get(key)
        if isinstance(value, dict):
            for language, of_language in value.items():
                put(name, of_language, stage=stage, language=language)
        elif value is not None:
            put(name, value, stage=stage)


def probe(records: list[dict]) -> None:
    """The gauges of the records of dpo/watch, in their order: the newest of a stage is what stays."""
    for record in records:
        for key, value in record.items():
            if key in ("win_rate_by_language", "judge_win_rate_by_language"):
                by = "judge" if key.startswith("judge") else "reward"
                for language, of_language in value.items():
                    put("pinisi_win_rate", of_language, stage=record["stage"], by=by, language=language)
            elif isinstance(value, float):
                put("pinisi_probe", value, stage=record["stage"], measure=key)


def stage(name: str, manifest: dict) -> None:
    """The gauges of a stage that has ended, from its manifest."""
    put("pinisi_stage_seconds", manifest["seconds"], stage=name)
    for flow in ("in", "out"):
        if f"docs_{flow}" in manifest:
            put("pinisi_documents", manifest[f"docs_{flow}"], stage=name, flow=flow)
    for rule, count in manifest.get("rules", {}).items():
        put("pinisi_dropped", count, stage=name, rule=rule)
    for language, count in manifest.get("tokens_per_lang", {}).items():
        put("pinisi_tokens", count, stage=name, language=language)
