import numpy as np
import pytest

from cluster import storage
from mixture.order import ledger
from mixture.order.sampler import Sampler
from mixture.store.token_store import TokenStore, write_store

PLAN = {"en": 0.6, "th": 0.4}


def weights(step, reason="", **values):
    return {"from_step": step, "from_sample": (step - 1) * 8, "weights": values, "reason": reason}


def test_lines_are_only_added_and_a_repeated_one_is_not(tmp_path):
    uri = str(tmp_path / "stage1.jsonl")
    assert ledger.read(uri) == []
    first, second = weights(11, "ภาษาลาว", th=1.0), weights(21, th=0.5, en=0.5)
    remove = {"from_step": 3, "from_sample": 16, "remove": "a" * 32, "reason": "asked to"}
    for line in (first, remove, first, second, remove):
        ledger.append(uri, line)
    assert ledger.read(uri) == [first, remove, second]
    written = storage.read_bytes(uri)
    for late in (weights(21, th=1.0), weights(5, th=1.0), {**weights(9), "tokens": {"th": 5}}):
        with pytest.raises(ValueError, match="must come after it"):
            ledger.append(uri, late)
    with pytest.raises(ValueError, match="negative"):
        ledger.append(uri, weights(31, th=1.0, en=-0.5))
    assert storage.read_bytes(uri) == written
    ledger.append(uri, weights(31, th=1.0))
    assert storage.read_bytes(uri).startswith(written)


def test_a_reason_may_hold_any_character(tmp_path):
    """JSON leaves line ends that are not ASCII as they are; only \\n ends a line of the ledger."""
    uri = str(tmp_path / "stage1.jsonl")
    lines = [weights(11, "a\u2028b\u2029c\u0085d\ne\x1ef", th=1.0), weights(21, "th", th=1.0)]
    for line in lines:
        ledger.append(uri, line)
    assert ledger.read(uri) == lines


def test_the_schedule_is_the_plan_and_then_the_changes():
    lines = [
        {"from_step": 2, "from_sample": 8, "remove": "x", "reason": ""},
        weights(11, th=1.0),
        {"from_step": 21, "from_sample": 160, "tokens": {"th": 900}, "reason": "grown"},
    ]
    assert ledger.schedule(PLAN, {"en": 50, "th": 700}, lines) == [
        {"from_sample": 0, "weights": PLAN, "tokens": {"en": 50, "th": 700}},
        {"from_sample": 80, "weights": {"th": 1.0}, "tokens": {}},
        {"from_sample": 160, "weights": {"th": 1.0}, "tokens": {"th": 900}},
    ]
    assert ledger.removed(lines) == [{"from_sample": 8, "doc_id": "x"}]
    from_the_start = ledger.schedule(PLAN, {"en": 50, "th": 700}, [{**weights(1, th=1.0), "tokens": {"th": 900}}])
    assert from_the_start == [{"from_sample": 0, "weights": {"th": 1.0}, "tokens": {"en": 50, "th": 900}}]


def test_a_replay_from_the_ledger_gives_the_same_rows(tmp_path):
    pools = {}
    for name in PLAN:
        documents = ((f"{name}{d}", name, 1, np.arange(1, 30)) for d in range(50))
        write_store(str(tmp_path / name), documents, 100, 0)
        pools[name] = TokenStore(str(tmp_path / name))
    uri = str(tmp_path / "ledger.jsonl")
    tokens = {name: store.n_tokens for name, store in pools.items()}
    said = [weights(6, th=1.0), {"from_step": 9, "from_sample": 64, "remove": "th7", "reason": ""}]
    for line in said:
        ledger.append(uri, line)

    def sampler(lines):
        return Sampler(pools, ledger.schedule(PLAN, tokens, lines), 16, seed=3, removed=ledger.removed(lines))

    run, replay = sampler(said), sampler(ledger.read(uri))
    for i in range(200):
        np.testing.assert_array_equal(run.sample(i).tokens, replay.sample(i).tokens)
    assert {run.sample(i).pool for i in range(40, 200)} == {"th"}
    assert any(run.sample(i).removed is not None for i in range(64, 200))


def test_planned_phases_yield_to_weights_that_are_said_but_not_to_a_pool_that_grows():
    later = [{"from_sample": 100, "weights": {"a": 2}}, {"from_sample": 200, "weights": {"a": 3}}]

    def made(*lines):
        return [
            (e["from_sample"], e["weights"]["a"], e["tokens"])
            for e in ledger.schedule({"a": 1}, {"a": 9}, [*lines], later)
        ]

    assert made() == [(0, 1, {"a": 9}), (100, 2, {}), (200, 3, {})]
    grown = {"from_sample": 150, "tokens": {"a": 12}}
    assert made(grown) == [(0, 1, {"a": 9}), (100, 2, {}), (150, 2, {"a": 12}), (200, 3, {})]
    assert made({**grown, "from_sample": 100}) == [(0, 1, {"a": 9}), (100, 2, {"a": 12}), (200, 3, {})]
    assert made({"from_sample": 150, "weights": {"a": 7}}) == [(0, 1, {"a": 9}), (100, 2, {}), (150, 7, {})]
    assert made({"from_sample": 0, "weights": {"a": 7}}) == [(0, 7, {"a": 9})]
