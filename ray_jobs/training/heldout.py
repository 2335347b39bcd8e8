"""Which held-out text is read while training and at an export."""

from __future__ import annotations


def chosen(rows: list[dict], limit: int) -> list[tuple[str, str]]:
    """(language, text) of held-out documents in the order of their ids, up to `limit` bytes of each language; the last one
    is cut there."""
    left: dict[str, int] = {}
    found = []
    for row in sorted(rows, key=lambda row: (row["lang"], row["doc_id"])):
        lang, data = row["lang"], row["text"].encode()
        text = data[: left.setdefault(lang, limit)].decode(errors="ignore")
        left[lang] -= min(len(data), left[lang])
        if text:
            found.append((lang, text))
    return found
