"""Tokens and assistant masks against transformers' `return_assistant_tokens_mask` and TRL's `assistant_only_loss`."""

import random
from pathlib import Path

import pytest

from cluster.chatml import TEMPLATE
from train.batches.examples import collate
from train.batches.labels import IGNORE
from train.chat.conversations import encode
from train.methods import sft

SYLLABLES = [
    "ba",
    "ເມືອງ",
    "ရန်ကုန်",
    "ข้าว",
    "ភ្នំ",
    "漢",
    "Ü",
    "👩‍👩‍👧",
    "e\u0301",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "1",
    "'",
    "...",
    "<|",
    "|>",
]


def conversation(rng: random.Random, system: bool = True) -> list[dict]:
    def text() -> str:
        while not (drawn := "".join(rng.choices(SYLLABLES, k=rng.randint(1, 12))).strip()):
            pass
        return drawn

    messages = [{"role": "system", "content": text()}] if system else []
    for _ in range(rng.randint(1, 4)):
        messages += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
    return messages


@pytest.fixture(scope="module")
def trl_template() -> str:
    trl = pytest.importorskip("trl")
    return (Path(trl.__file__).parent / "chat_templates" / "qwen2_5_training.jinja").read_text()


def test_tokens_and_masks_equal_trl(chatml_tokenizer, trl_template):
    rng = random.Random(0)
    rows = [{"id": str(i), "lang": "id", "messages": conversation(rng)} for i in range(200)]
    examples = encode(chatml_tokenizer, rows)
    for row, example in zip(rows, examples, strict=True):
        theirs = chatml_tokenizer.apply_chat_template(
            row["messages"], chat_template=trl_template, return_dict=True, return_assistant_tokens_mask=True
        )
        assert example.ids.tolist() == theirs["input_ids"]
        assert example.scored.astype(int).tolist() == theirs["assistant_masks"]
        assert 0 < example.scored.sum() < len(example.ids)


def test_the_template_of_exported_models_marks_the_same_tokens(chatml_tokenizer):
    """With and without a system turn, one turn and several: what a user continues with in TRL is what we train."""
    rng = random.Random(1)
    rows = [{"id": str(i), "lang": "id", "messages": conversation(rng, system=i % 2 == 0)} for i in range(100)]
    for row, example in zip(rows, encode(chatml_tokenizer, rows), strict=True):
        theirs = chatml_tokenizer.apply_chat_template(
            row["messages"], chat_template=TEMPLATE, return_dict=True, return_assistant_tokens_mask=True
        )
        assert example.ids.tolist() == theirs["input_ids"]
        assert example.scored.astype(int).tolist() == theirs["assistant_masks"]


def test_packed_labels_equal_those_of_trls_collator(chatml_tokenizer, trl_template):
    """A packed row of ours against TRL's padding-free batch of the same conversations: tokens, positions and labels."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rng = random.Random(2)
    rows = [{"id": str(i), "lang": "id", "messages": conversation(rng)} for i in range(6)]
    encoded = [
        chatml_tokenizer.apply_chat_template(
            row["messages"], chat_template=trl_template, return_dict=True, return_assistant_tokens_mask=True
        )
        for row in rows
    ]
    features = [  # as its trainer folds the mask into labels
        {"input_ids": ids, "labels": [t if m else IGNORE for t, m in zip(ids, one["assistant_masks"], strict=True)]}
        for one in encoded
        for ids in [one["input_ids"]]
    ]
    theirs = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(features)
    examples = encode(chatml_tokenizer, rows)
    (packed,) = sft.pack([example.positions for example in examples], sum(e.positions for e in examples))
    ours = collate([[examples[i] for i in sorted(packed)]])
    # Theirs keep the last token of each conversation and let the model shift the labels; ours are shifted already.
    last = [len(one["input_ids"]) - 1 for one in encoded]
    where = theirs["position_ids"][0]
    ends = {*(where == 0).nonzero().flatten().tolist()[1:], len(where)}
    keep = [i for i in range(len(where)) if i + 1 not in ends]
    assert len(keep) == sum(last) and ours["input_ids"][0].tolist() == theirs["input_ids"][0][keep].tolist()
    assert ours["position_ids"][0].tolist() == where[keep].tolist()
    assert ours["labels"][0].tolist() == [theirs["labels"][0][i + 1].item() for i in keep]
    assert (ours["labels"] != IGNORE).sum() == ours["count"] == sum(sum(one["assistant_masks"]) for one in encoded)
