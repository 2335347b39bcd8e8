"""Assistant masks against TRL's: its training template for Qwen2.5, rendered and masked by transformers."""

import random
from pathlib import Path

import pytest

from train.chat import encode

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


def conversation(rng: random.Random) -> list[dict]:
    def text() -> str:
        while not (drawn := "".join(rng.choices(SYLLABLES, k=rng.randint(1, 12))).strip()):
            pass
        return drawn

    messages = [{"role": "system", "content": text()}]
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
