"""Training metrics as JSON Lines at any URI: one object per logged step, rewritten whole, so a reader sees no half line."""

from __future__ import annotations

import json

from cluster import storage


class JsonLines:
    """Metrics of one training run at `uri`. Steps logged again after a resume replace the earlier record."""

    def __init__(self, uri: str):
        self.uri = uri
        self.records = read(uri)

    def __call__(self, record: dict) -> None:
        self.records = [r for r in self.records if r["step"] < record["step"]] + [record]
        storage.write_text(self.uri, "".join(json.dumps(r) + "\n" for r in self.records))


def read(uri: str) -> list[dict]:
    """All records at `uri`; an empty list when there is no file."""
    if not storage.exists(uri):
        return []
    return [json.loads(line) for line in storage.read_bytes(uri).decode().splitlines()]
