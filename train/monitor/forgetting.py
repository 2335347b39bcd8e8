"""The forgetting alarm in words."""

from __future__ import annotations


def warnings(record: dict) -> list[str]:
    """What a training record has to say about forgetting, one sentence a language."""
    return [
        f"{lang} is being forgotten: {rise:.3f} bits per byte more than before training "
        f"({record['bits_per_byte'][lang]:.3f} at update {record['step']}); more replay or a lower learning rate helps."
        for lang, rise in record.get("forgetting", {}).items()
    ]
