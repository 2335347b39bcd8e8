"""The stage's side of a partial update: which rows are measured, and that the choice is made once."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from shapes import TINY

from ray_jobs.config.training import Update
from ray_jobs.training import update
from train import model
from train.kernels import chosen
from train.loop import LoopConfig

torch.set_num_threads(1)  # tiny tensors: a second thread only waits

POOLS = {"all/en": 0.5, "high_quality/th": 0.2, "all/th": 0.1, "all/lo": 0.2, "all/my": 0.0}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Of a worker whose rows are those of `seen`."""
    seen = []

    def packed_rows(order):
        (entry,) = order["schedule"]

        def batch(rows):
            seen.append((tuple(entry["weights"]), entry["tokens"], rows))
            ids = torch.randint(
                0, 61, (1, 17), generator=torch.Generator().manual_seed(rows[0] + 9 * len("".join(entry["weights"])))
            )
            places = torch.arange(16)[None]
            doc_ids, count = torch.zeros_like(places), torch.tensor(16)
            labels = ids[:, 1:]
            inputs = {"input_ids": ids[:, :-1], "labels": labels, "doc_ids": doc_ids, "position_ids": places}
            return inputs | {"count": count}

        return batch

    monkeypatch.setattr(update.fit, "packed_rows", packed_rows)
    monkeypatch.setattr(update.fit, "start_model", lambda settings: model.build(TINY))
    return {
        "seen": seen,
        "schedule": [{"from_sample": 0, "weights": POOLS, "tokens": dict.fromkeys(POOLS, 100)}, {"from_sample": 9}],
        "update": Update(rule="contrast", share=0.25, rows=3).model_dump(),
        "replay": ["en", "zh"],
        "choice": str(tmp_path / update.FILE),
        "loop": dataclasses.asdict(LoopConfig(steps=1, rows_per_step=1, micro_rows=1, lr=1e-3)),
    }


def test_each_language_gives_as_many_rows_and_the_choice_is_made_once(settings):
    found = update.choose(settings)
    both = {"high_quality/th": 100, "all/th": 100}
    want = [(("all/lo",), {"all/lo": 100}), (tuple(both), both), (("all/en",), {"all/en": 100})]
    assert settings["seen"] == [(*pools, [row]) for pools in want for row in range(3)]
    assert update.said(Update(**settings["update"]), found)["chosen"] == {"units": 24, "heads": 2, "kv_heads": 1}
    assert 0 <= found["never_active"] < 1
    assert update.choose(settings) == found == json.loads(Path(settings["choice"]).read_text())
    assert len(settings["seen"]) == 9
    net = model.build(TINY)
    update.begin(net, Update(**settings["update"]), 0, found["chosen"])
    sized = update.sized(model.build(TINY), Update(**settings["update"]))
    learning = [sum(p.numel() for p in one.parameters() if p.requires_grad) for one in (net, sized)]
    assert learning[0] == learning[1] > 0


@pytest.mark.parametrize(
    ("replay", "said"), [(["zh"], "has none of these"), (["en", "th", "lo"], "no other languages")]
)
def test_a_mixture_of_one_side_is_refused(settings, replay, said):
    with pytest.raises(ValueError, match=said):
        update.choose(settings | {"replay": replay})


def test_updates_that_probe_change_no_choice(settings, tmp_path):
    want = update.choose(settings)
    settings["seen"].clear()
    probed = settings | {"out": str(tmp_path), "choice": str(tmp_path / "other.json")}
    found = update.choose(probed | {"update": settings["update"] | {"probe_updates": 4}})
    assert found["chosen"] == want["chosen"] and found["loss_drop_per_norm"] > 0
    assert update.said(Update(**settings["update"]), found)["loss_drop_per_norm"] == found["loss_drop"] / found["norm"]


def test_other_rules_choose_nothing(settings):
    low = Update(rule="lora", rank=3)
    assert update.choose(settings | {"update": low.model_dump()}) is None
    assert update.said(Update(), None) == {}
    assert update.said(low, None) == {"update": {"rule": "lora", "vocabulary": True, "rank": 3}}


@pytest.mark.parametrize("rule", ["all", "lora", "contrast"])
def test_the_vocabulary_learns_as_asked_or_as_the_rule_needs(rule):
    assert Update(rule=rule).whole_vocabulary == (rule == "lora")
    assert Update(rule=rule, share=1.0).whole_vocabulary
    assert (
        Update(rule=rule, vocabulary=True).whole_vocabulary and not Update(rule=rule, vocabulary=False).whole_vocabulary
    )


@pytest.mark.parametrize("share", [0.15, 0.3, 1.0, 0.001])
def test_sizes_are_counted_as_they_are_chosen(share):
    net = model.build(TINY | {"num_hidden_layers": 5, "num_attention_heads": 4})
    even = chosen.even(net, share)
    for kind, n in (("units", 48), ("heads", 4), ("kv_heads", 2)):
        assert sum(len(one[kind]) for one in even) == max(1, round(share * 5 * n))
        assert all(one[kind] == list(range(len(one[kind]))) and len(one[kind]) <= n for one in even)
