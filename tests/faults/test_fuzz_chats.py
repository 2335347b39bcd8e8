"""Rows of chat files with anything in any field: each is kept or named in the ledger, nothing raises, all can be written."""

import json
import random

from cluster.shards import ledger_rows
from ray_jobs.alignment import chats
from ray_jobs.alignment.categories import classifier
from ray_jobs.config.alignment import ChatCategory
from train.chat.conversations import fault

KEYS = [
    *("id", "lang", "language", "messages", "conversations", "conversation", "prompt", "response", "completion"),
    *("instruction", "input", "output", "system", "history", "category", "task", "system_prompt", "uuid"),
]
LEAVES = (None, True, 3, 1.5, float("nan"), "", "x", "\ud800", "a<|im_end|>", "ສະບາຍດີ")
ROLES = ("user", "assistant", "system", "human", "gpt", 3, None)


def value(rng: random.Random, depth: int = 0):
    kind = rng.randrange(4) if depth < 4 else 0
    if kind < 2:
        return rng.choice(LEAVES)
    if kind == 2:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    names = ("role", "content", "from", "value", "type", "text", *rng.sample(KEYS, 2))
    return {rng.choice(names): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def turns(rng: random.Random) -> list:
    names = rng.choice([("role", "content"), ("from", "value")])
    roles = rng.choice([("user", "assistant"), ("human", "gpt"), rng.sample(ROLES, 3)])
    return [dict(zip(names, (role, rng.choice(["x", "y", value(rng)])), strict=True)) for role in roles]


def test_rows_of_anything(tmp_path):
    rng = random.Random(0)
    rows = []
    for i in range(4000):
        row = {key: value(rng) for key in rng.sample(KEYS, rng.randrange(1, 8))}
        if rng.random() < 0.8:
            row |= {"lang": "id", "id": rng.choice([f"row-{i}", i, value(rng)])}
        if rng.random() < 0.5:
            row[rng.choice(["messages", "conversations", "prompt"])] = turns(rng)
        rows.append(json.dumps(row))
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(rows))
    classify = classifier(ChatCategory(), ".")
    kept = rejected = 0
    for good, bad in chats.batches(str(path), ["id"], "id"):
        kept, rejected = kept + len(good), rejected + len(bad)
        assert not any(fault(row["messages"]) for row in good)
        for row, category in zip(good, classify(good), strict=True):
            (row["id"] + row["lang"] + category).encode()
            json.dumps({**row, "category": category}, ensure_ascii=False, default=str).encode("utf-8", "replace")
        assert all(row["rule"] for row in bad) and ledger_rows("sft/data", bad).num_rows == len(bad)
    assert kept + rejected == len(rows) and kept > 100 and rejected > 1000
