"""The forgetting alarm in words."""

from __future__ import annotations


def warnings(record: dict) -> list[str]:
    """What a training record has to say about forgetting: one sentence of all languages, or none."""
    rises = record.get("forgetting", {})
    if not rises:
        return []
    numbers = [
        ", ".join(f"{value:.3f}" for value in values)
        for values in (rises.values(), (record["bits_per_byte"][lang] for lang in rises))
    ]
    return [
        f"{', '.join(rises)} {'are' if len(rises) > 1 else 'is'} being forgotten: {numbers[0]} bits per byte more than before "
        f"training ({numbers[1]} at update {record['step']}); more replay or a lower learning rate helps."
    ]
