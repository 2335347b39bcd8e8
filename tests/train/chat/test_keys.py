"""Keys beside role and text: each decides, refuses the row by a rule, or is counted as not read; in every layout and spelling."""

import random
from collections import Counter

import pytest

from train.chat.conversations import encode, validate
from train.chat.formats import row

CALL = [{"function": {"name": "weather", "arguments": "{}"}}]


def talk(key: str | None = None, value: object = None, naming: str = "openai", where: int = 1) -> dict:
    """Two questions and answers; turn `where` has the key."""
    role, text, user, bot = {
        "openai": ("role", "content", "user", "assistant"),
        "sharegpt": ("from", "value", "human", "gpt"),
    }[naming]
    said = [(user, "boat?"), (bot, "no no"), (user, "rice?"), (bot, "yes yes")]
    turns = [{role: who, text: what} for who, what in said]
    if key:
        turns[where][key] = value
    return {"messages" if naming == "openai" else "conversations": turns}


def outcome(raw: dict) -> str:
    kept, rejects = validate([row(raw, "en")])
    assert len(kept) + len(rejects) == 1
    return rejects[0]["rule"] if rejects else "kept"


def trained_text(raw: dict, tokenizer) -> str:
    kept, _ = validate([row(raw, "en")])
    (example,) = encode(tokenizer, kept)
    return tokenizer.decode(example.ids[example.scored])


@pytest.mark.parametrize("naming", ["openai", "sharegpt"])
@pytest.mark.parametrize(
    "key", ["weight", "train", "loss", "trainable", "training", "loss_mask", "Train", "train-on-turn"]
)
@pytest.mark.parametrize("no", [0, 0.0, False, "0", "false", "No"])
def test_a_turn_without_weight_is_read_and_not_trained(key, no, naming, chatml_tokenizer):
    assert trained_text(talk(key, no, naming), chatml_tokenizer) == "\nyes yes<|im_end|>\n"
    assert trained_text(talk(key, no, naming, where=3), chatml_tokenizer) == "\nno no<|im_end|>\n"


@pytest.mark.parametrize("key", ["masked", "ignore_loss", "context_only"])
def test_keys_that_say_no_by_one(key, chatml_tokenizer):
    assert trained_text(talk(key, True), chatml_tokenizer) == "\nyes yes<|im_end|>\n"
    assert "no no" in trained_text(talk(key, 0), chatml_tokenizer)


@pytest.mark.parametrize("yes", [1, 1.0, True, "1", "true", None, ""])
def test_a_turn_with_full_weight_or_none_given_is_trained(yes, chatml_tokenizer):
    assert "no no" in trained_text(talk("weight", yes), chatml_tokenizer)


@pytest.mark.parametrize("value", [0.5, 2, -1, "half", [1, 0], {"a": 1}])
def test_a_weight_between_is_refused(value):
    assert outcome(talk("weight", value)) == "turn_weight"


@pytest.mark.parametrize("value", [0, 1, True, False])
def test_a_mask_may_mean_either_and_is_refused(value):
    assert outcome(talk("mask", value)) == "turn_weight"
    parts = [{"begin_offset": 0, "end_offset": 1, "train": value}]
    assert outcome(talk("train_detail", parts)) == "turn_weight"


def test_only_what_the_assistant_says_is_trained_and_a_weight_elsewhere_is_counted():
    for value, counted in ((1, 1), (0.5, 1), (0, 0)):
        ignored: Counter[str] = Counter()
        kept, _ = validate([row(talk("weight", value, where=2), "en", ignored)])
        assert kept and ignored["messages.weight"] == counted


def test_weights_beside_the_turns_and_of_the_row():
    assert outcome({**talk(), "weights": [0, 1]}) == outcome({**talk(), "loss_mask": [0, 0, 0, 1]}) == "turn_weight"
    assert outcome({**talk(), "weight": 0}) == outcome({**talk(), "train": False}) == "nothing_trained"
    assert outcome({**talk(), "weight": 1}) == outcome({**talk(), "weight": 0.3}) == "kept"
    both = talk("weight", 0)
    both["messages"][3]["weight"] = 0
    assert outcome(both) == "nothing_trained"


def test_what_is_only_read_stays_so_in_the_row_that_is_written(chatml_tokenizer):
    kept, _ = validate([row(talk("weight", 0), "en")])
    assert [turn.get("train") for turn in kept[0]["messages"]] == [None, False, None, None]
    again, _ = validate(kept)
    assert again == kept
    assert [e.n_scored for e in encode(chatml_tokenizer, kept, "content")] == [
        len(chatml_tokenizer("yes yes")["input_ids"])
    ]


@pytest.mark.parametrize("naming", ["openai", "sharegpt"])
@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("tool_calls", CALL, "tool_call"),
        ("function_call", {"name": "f", "arguments": ""}, "tool_call"),
        ("tool_call_id", "call_1", "tool_call"),
        ("reasoning_content", "two and two", "reasoning"),
        ("reasoning", "two and two", "reasoning"),
        ("thinking", "hm", "reasoning"),
        ("images", ["a.png"], "not_text"),
        ("audio", {"id": "x"}, "not_text"),
        ("refusal", "I cannot", "refusal"),
        ("finish_reason", "length", "unfinished"),
        ("stop_reason", "max_tokens", "unfinished"),
        ("truncated", True, "unfinished"),
        ("toolCalls", CALL, "tool_call"),
        ("finishReason", "MAX_TOKENS", "unfinished"),
    ],
)
def test_what_a_turn_says_beside_its_text_is_refused_by_name(key, value, rule, naming):
    assert outcome(talk(key, value, naming)) == rule
    for nothing in (None, [], {}, "", {"name": None, "arguments": None}, [None]):
        assert outcome(talk(key, nothing, naming)) == "kept"


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("tools", [{"name": "weather"}], "tool_call"),
        ("tools", '[{"name": "weather"}]', "tool_call"),
        ("functions", [{"name": "weather"}], "tool_call"),
        ("images", ["a.png"], "not_text"),
        ("image", "a.png", "not_text"),
        ("audios", ["a.wav"], "not_text"),
        ("reasoning", "First we add two and two.", "reasoning"),
        ("Complex_CoT", "First we add two and two.", "reasoning"),
        ("chat_template_kwargs", {"xml_tools": ["f"], "enable_thinking": False}, "tool_call"),
        ("finish_reason", "length", "unfinished"),
        ("truncated", 1, "unfinished"),
        ("finish_reasons", ["stop", "length"], "unfinished"),
        ("label", False, "kto_label"),
        ("tools", "[]", "kept"),
        ("tools", [], "kept"),
        ("reasoning", "off", "kept"),
        ("images", [None], "kept"),
        ("finish_reason", "stop", "kept"),
        ("truncated", False, "kept"),
        ("chat_template_kwargs", {"xml_tools": [], "enable_thinking": False}, "kept"),
    ],
)
def test_what_a_row_says_beside_its_turns(key, value, rule):
    assert outcome({**talk(), key: value}) == rule


@pytest.mark.parametrize("role", ["tool", "function", "ipython", "observation", "function_call", "tool_response"])
def test_turns_by_tools_are_refused(role):
    raw = talk()
    raw["messages"].insert(1, {"role": role, "content": "31 degrees"})
    assert outcome(raw) == "tool_call"


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "kept"),
        ([{"type": "output_text", "text": "a", "annotations": []}], "kept"),
        ([{"type": "text", "text": "a"}, None], "null_part"),
        ([{"type": "text", "text": None}], "null_part"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}], "reasoning"),
        ([{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"}], "reasoning"),
        ([{"type": "tool_use", "name": "f", "input": {}}], "tool_call"),
        ([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}], "not_text"),
        ([{"type": "input_audio", "input_audio": {"data": "x"}}], "not_text"),
        ([{"type": "image"}, {"type": "text", "text": "a"}], "not_text"),
        ([{"type": "refusal", "refusal": "no"}], "refusal"),
        ([3], "not_text"),
        (None, "not_a_conversation"),
    ],
)
def test_parts_of_content(content, rule):
    raw = talk()
    raw["messages"][1]["content"] = content
    assert outcome(raw) == rule


def test_a_turn_that_is_only_read_may_be_cut_off():
    raw = talk("finish_reason", "length")
    raw["messages"][1]["weight"] = 0
    assert outcome(raw) == "kept"


def test_every_other_key_is_counted_as_not_read():
    ignored: Counter[str] = Counter()
    first = {
        **talk("name", "ann", where=0),
        "id": "1",
        "lang": "en",
        "licence": "CC0",
        "task": "qa",
        "toxic": False,
        "note": None,
    }
    row(first, ignored=ignored)
    row(
        {"conversations": talk(naming="sharegpt")["conversations"], "prompt": "boat?", "licence": "CC0"},
        ignored=ignored,
    )
    row({"instruction": "a", "input": "b", "output": "c", "text": "a b c"}, ignored=ignored)
    assert ignored == {"messages.name": 1, "licence": 2, "toxic": 1, "prompt": 1, "text": 1}


TURN_KEYS = [
    "weight",
    "train",
    "mask",
    "tool_calls",
    "reasoning_content",
    "images",
    "finish_reason",
    "name",
    "id",
    "score",
    "masked",
]
ROW_KEYS = [
    "tools",
    "reasoning",
    "images",
    "weight",
    "truncated",
    "licence",
    "system",
    "source",
    "label",
    "score",
    "history",
    "input",
]
VALUES = [None, 0, 1, 0.5, True, False, "", "0", "x", "length", [], [1], {}, {"a": None}, {"a": 1}, float("nan")]


def test_no_key_of_any_row_vanishes(chatml_tokenizer):
    """Whatever keys a row and its turns have: it is kept and its keys are used or counted, or it is refused by a rule."""
    rng = random.Random(0)
    seen: Counter[str] = Counter()
    for number in range(4000):
        raw = talk(naming=rng.choice(["openai", "sharegpt"]))
        turns = next(iter(raw.values()))
        for turn in turns:
            turn |= {key: rng.choice(VALUES) for key in rng.sample(TURN_KEYS, rng.choice([0, 0, 1, 2]))}
        raw |= {key: rng.choice(VALUES) for key in rng.sample(ROW_KEYS, rng.choice([0, 0, 1, 2]))}
        ignored: Counter[str] = Counter()
        made = row({**raw, "id": str(number)}, "en", ignored)
        kept, rejects = validate([made])
        seen.update(reject["rule"] for reject in rejects)
        if not kept:
            assert rejects[0]["rule"] and rejects[0]["detail"]
            continue
        seen["kept"] += 1
        (example,) = encode(chatml_tokenizer, kept)
        trained = chatml_tokenizer.decode(example.ids[example.scored])
        for i, text in ((1, "no no"), (3, "yes yes")):
            weights = [turns[i].get(key) for key in ("weight", "train")]
            no = any(w in (0, "0") and w is not None for w in weights) or turns[i].get("masked") in (1, True)
            assert (text in trained) == (not no), turns[i]
        for key, value in raw.items():
            says = value not in (None, "", [], {}, {"a": None}) and value == value and value is not turns  # noqa: PLR0124
            used = key in ("truncated", "system")
            assert not says or used or key in ignored, (key, value)
    assert seen["kept"] > 1000 and len(seen) > 8
