"""Chat rows in the layouts of public data sets, as our rows."""

import pytest

from train.chat.conversations import fault, validate
from train.chat.formats import row

USER, BOT = {"role": "user", "content": "Apa kabar?"}, {"role": "assistant", "content": "Baik."}
SYSTEM = {"role": "system", "content": "Jawab singkat."}


@pytest.mark.parametrize(
    ("raw", "messages"),
    [
        ({"messages": [USER, BOT]}, [USER, BOT]),
        ({"messages": [{**USER, "tool_calls": None, "name": "x"}, BOT]}, [USER, BOT]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Apa kabar?"}]}, BOT]}, [USER, BOT]),
        ({"messages": {"role": ["user", "assistant"], "content": ["Apa kabar?", "Baik."]}}, [USER, BOT]),
        ({"conversations": [{"from": "human", "value": "Apa kabar?"}, {"from": "gpt", "value": "Baik."}]}, [USER, BOT]),
        (
            {"system": "Jawab singkat.", "conversations": [{"from": "user", "value": "Apa kabar?"}, BOT]},
            [SYSTEM, USER, BOT],
        ),
        ({"system": "other", "messages": [SYSTEM, USER, BOT]}, [SYSTEM, USER, BOT]),
        ({"prompt": "Apa kabar?", "response": "Baik."}, [USER, BOT]),
        ({"prompt": [SYSTEM, USER], "completion": [BOT]}, [SYSTEM, USER, BOT]),
        (
            {"instruction": "Apa", "input": "kabar?", "output": "Baik."},
            [{"role": "user", "content": "Apa\n\nkabar?"}, BOT],
        ),
        (
            {"instruction": "Lagi", "input": "", "output": "Ya.", "history": [["Apa kabar?", "Baik."]]},
            [USER, BOT, {"role": "user", "content": "Lagi"}, {"role": "assistant", "content": "Ya."}],
        ),
        ({"conversation": [{"human": "Apa kabar?", "assistant": "Baik."}]}, [USER, BOT]),
        ({"conversations": {"from": ["human", "gpt"], "value": ["Apa kabar?", "Baik."]}}, [USER, BOT]),
        ({"conversations": [{"from": "human", "value": "Apa kabar?", "role": None}, BOT]}, [USER, BOT]),
        ({"data": ["Apa kabar?", "Baik."]}, [USER, BOT]),
        ({"question": "Apa kabar?", "answer": "Baik.", "system_prompt": "Jawab singkat."}, [SYSTEM, USER, BOT]),
        (
            {"instruction": "Apa", "context": "kabar?", "response": "Baik."},
            [{"role": "user", "content": "Apa\n\nkabar?"}, BOT],
        ),
        ({"input": [SYSTEM, USER], "output": "Baik."}, [SYSTEM, USER, BOT]),
        ({"messages": [{"role": "developer", "content": "Jawab singkat."}, USER, BOT]}, [SYSTEM, USER, BOT]),
    ],
)
def test_layouts(raw, messages):
    made = row({"id": "a", "lang": "id", "licence": "CC0", **raw})
    assert made == {"id": "a", "lang": "id", "licence": "CC0", "messages": messages}
    assert fault(made["messages"]) is None


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        ({"text": "hello"}, "not_a_conversation"),
        ({"messages": "hello"}, "not_a_conversation"),
        ({"messages": ["hello"]}, "not_a_conversation"),
        ({"conversations": [{"from": "alien", "value": "x"}, {"from": "gpt", "value": "y"}]}, "unknown_role"),
        ({"prompt": "x", "response": None, "completion": ""}, "empty_turn"),
        ({"instruction": 3, "output": "x"}, "not_a_conversation"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, BOT]}, "not_text"),
        ({"messages": [{"role": "user", "content": "half \ud800"}, BOT]}, "broken_unicode"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "roles_do_not_alternate"),
    ],
)
def test_what_fits_no_layout_is_rejected_by_name(raw, rule):
    _, (reject,) = validate([row({"id": "a", "lang": "id", **raw})])
    assert (reject["doc_id"], reject["rule"]) == ("a", rule)


def test_ids_and_languages_that_are_missing():
    one, two = row({"prompt": "a", "response": "b"}, "th"), row({"prompt": "a", "response": "b", "language": "vi"})
    assert one["id"] == two["id"] and len(one["id"]) == 32
    assert row({"prompt": "a", "response": "c"})["id"] != one["id"]
    assert (one["lang"], two["lang"], row({"prompt": "a", "response": "b"})["lang"]) == ("th", "vi", None)
    assert row({"uuid": 7, "prompt": "a", "response": "b"})["id"] == "7"
    row({"id": "\ud800", "prompt": "a", "response": "b"})["id"].encode()
