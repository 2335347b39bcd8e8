"""What the report says of a pre-training that changed a part of the base."""

import re

import torch

from ray_jobs.report import page, partial
from train.methods import contrast

SIZES = {"units": 4, "heads": 2, "kv_heads": 1}


def choice():
    target = [{kind: torch.full((n,), 2.0 + layer) for kind, n in SIZES.items()} for layer in range(2)]
    replay = [{kind: torch.ones(n) for kind, n in SIZES.items()} for _ in range(2)]
    target[1]["units"][3] = 9.0
    replay[0]["heads"] *= 0  # English has no gradient there
    chosen = [{"units": [], "heads": [0, 1], "kv_heads": []}, {"units": [0, 3], "heads": [], "kv_heads": [0]}]
    by_layer = contrast.ratios(target, replay, chosen)
    return {"by_layer": by_layer, "never_active_by_layer": [0, 1], "rows_per_language": 8, "chosen": chosen}


def rendered(manifest, found=None):
    template = page.environment().get_template("partial.html")
    return re.sub(r"<[^>]+>", " ", template.render(partial=partial.section(manifest, found)))


def test_the_numbers_of_each_layer_are_there():
    manifest = {
        "update": {"rule": "contrast", "share": 0.25, "vocabulary": False},
        "learning": 1234,
        "parameters": 5000,
    }
    manifest |= {"never_active": 0.125, "loss_drop_per_norm": 0.0471}
    found = partial.section(manifest, choice())
    first, second = (layer[1] for layer in found["table"])
    assert first[0] == {"units": 4, "chosen": 0, "ratio": 2.0, "ratio_of_chosen": None}
    assert first[1] == {"units": 2, "chosen": 2, "ratio": None, "ratio_of_chosen": None}
    assert second[0] == {"units": 4, "chosen": 2, "ratio": 18 / 4, "ratio_of_chosen": 12 / 2}
    assert "<svg" in found["plot"]
    text = rendered(manifest, choice())
    for said in ("25% of the units", "1,234 of 5,000", "12.5% of the", "0.0471 nats", "2 of 4", "4.50 → 6.00"):
        assert said in text, said
    assert "embedding" not in text


def test_low_ranks_are_a_sentence_and_plain_training_none():
    manifest = {"update": {"rule": "lora", "rank": 16, "vocabulary": True}, "learning": 1234, "parameters": 5000}
    text = rendered(manifest)
    assert "updates of rank 16" in text and "embedding, head and norms whole" in text and "1,234 numbers" in text
    assert partial.section({"learning": 1}, None) is None and not rendered({}).strip()


class Anything(dict):
    """Of which everything is there and empty, so that a template is asked only about what a test gives."""

    def __missing__(self, key):
        return Anything()

    def __getattr__(self, key):
        return self[key]

    def __str__(self):
        return ""

    def __format__(self, how):
        return ""


def card(manifest):
    given = {"updated": manifest, "recipe": Anything(mixture={"replay_languages": ["en", "zh"]}, languages=[])}
    manifests = Anything({"pretrain/stage1": Anything(), "pretrain/stage2": Anything(done=True)})
    manifests["tokenize"] = Anything(tokens_per_lang={})
    return (
        page.environment()
        .get_template("model_card.md")
        .render(Anything(facts=Anything(dtype=""), manifests=manifests, base="one", pairs=[], licences=[], **given))
    )


def test_the_card_says_how_the_model_was_trained():
    low = card({"update": {"rule": "lora", "rank": 16, "vocabulary": True}, "learning": 1234})
    assert "| what it changed | updates of rank 16 for each linear layer, added to its weights; embedding, head" in low
    some = card({"update": {"rule": "contrast", "share": 0.15, "vocabulary": False}, "learning": 1234})
    assert "15 % of the feed-forward units and heads" in some and "beside en, zh: 1,234 numbers learnt" in some
    assert "what it changed" not in card(None)
