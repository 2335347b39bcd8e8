"""Preference rows in the layouts of public data sets, as ours; and what is no pair, by name."""

import random
from collections import Counter

import pytest

from train.chat.pair_formats import pair
from train.selection.preference import validate

P, C, R = (
    {"role": "user", "content": "boat?"},
    {"role": "assistant", "content": "yes"},
    {"role": "assistant", "content": "no"},
)
SYSTEM = {"role": "system", "content": "be brief"}
EARLIER = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]


def gpt(turn: dict) -> dict:
    return {"from": {"user": "human", "assistant": "gpt", "system": "system"}[turn["role"]], "value": turn["content"]}


def hh(*turns: dict) -> str:
    return "".join(f"\n\n{'Human' if turn['role'] == 'user' else 'Assistant'}: {turn['content']}" for turn in turns)


SCORES = {"score_chosen": 8.0, "score_rejected": 3.5}
LAYOUTS = {
    "texts": ({"prompt": "boat?", "chosen": "yes", "rejected": "no"}, [P]),
    "prompt turns": ({"prompt": [P], "chosen": "yes", "rejected": "no"}, [P]),
    "trl": ({"prompt": [P], "chosen": [C], "rejected": [R]}, [P]),
    "trl implicit": ({"chosen": [P, C], "rejected": [P, R]}, [P]),
    "trl implicit, longer": (
        {"chosen": [SYSTEM, *EARLIER, P, C], "rejected": [SYSTEM, *EARLIER, P, R]},
        [SYSTEM, *EARLIER, P],
    ),
    "ultrafeedback": (
        {
            "prompt": "boat?",
            "prompt_id": "7",
            "messages": [P, C],
            "chosen": [P, C],
            "rejected": [P, R],
            "score_chosen": 8.0,
            "score_rejected": 3.5,
        },
        [P],
    ),
    "first question beside a longer talk": (
        {"prompt": "hello", "chosen": [*EARLIER, P, C], "rejected": [*EARLIER, P, R]},
        [*EARLIER, P],
    ),
    "hh": ({"chosen": hh(*EARLIER, P, C), "rejected": hh(*EARLIER, P, R)}, [*EARLIER, P]),
    "hh with a prompt": ({"prompt": hh(P) + "\n\nAssistant:", "chosen": " yes", "rejected": " no"}, [P]),
    "orca": ({"system": "be brief", "question": "boat?", "chosen": "yes", "rejected": "no"}, [SYSTEM, P]),
    "orca, no system": ({"system": "", "question": "boat?", "chosen": "yes", "rejected": "no"}, [P]),
    "distilabel": ({"system": "be brief", "input": "boat?", "chosen": "yes", "rejected": "no"}, [SYSTEM, P]),
    "alpaca": (
        {"instruction": "Answer.", "input": "boat?", "chosen": "yes", "rejected": "no", "history": [["hello", "hi"]]},
        [*EARLIER, {"role": "user", "content": "Answer.\n\nboat?"}],
    ),
    "system and turns": ({"system": "be brief", "prompt": [P], "chosen": "yes", "rejected": "no"}, [SYSTEM, P]),
    "system and implicit": ({"system": "be brief", "chosen": [P, C], "rejected": [P, R]}, [SYSTEM, P]),
    "system in the prompt": ({"prompt": [SYSTEM, P], "chosen": [P, C], "rejected": [P, R]}, [SYSTEM, P]),
    "system in the sides": ({"prompt": [P], "chosen": [SYSTEM, P, C], "rejected": [SYSTEM, P, R]}, [SYSTEM, P]),
    "sharegpt": ({"conversations": [gpt(SYSTEM), gpt(P)], "chosen": gpt(C), "rejected": gpt(R)}, [SYSTEM, P]),
    "sharegpt sides": ({"chosen": [gpt(P), gpt(C)], "rejected": [gpt(P), gpt(R)]}, [P]),
    "swift": ({"messages": [SYSTEM, P, C], "rejected_response": "no"}, [SYSTEM, P]),
    "openai": ({"input": {"messages": [P], "tools": []}, "preferred_output": [C], "non_preferred_output": [R]}, [P]),
    "columns": ({"prompt": {"role": ["user"], "content": ["boat?"]}, "chosen": "yes", "rejected": "no"}, [P]),
    "parts": ({"prompt": [P], "chosen": [{**C, "content": [{"type": "text", "text": "yes"}]}], "rejected": [R]}, [P]),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("known", [{}, {"id": "a", "lang": "en"}, {"uuid": "a", "language": "en"}])
def test_public_layouts_are_read(name, known):
    raw, prompt = LAYOUTS[name]
    (found,), rejects = validate([{**raw, **known}], "th")
    assert rejects == []
    assert (found["prompt"], found["chosen"], found["rejected"]) == (prompt, "yes", "no")
    assert found["lang"] == ("en" if known else "th")
    assert found["id"] == "a" if known else len(found["id"]) == 32
    assert validate([found])[0] == [found], "a row in our layout stays as it is"


def test_rows_without_id_are_told_apart_by_their_content():
    rows = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": "bad"} for i in range(80)]
    kept, rejects = validate([*rows, rows[0]], "en")
    assert len({row["id"] for row in kept}) == 80
    assert [reject["rule"] for reject in rejects] == ["repeated_id"]
    twice = [{"prompt_id": "p", "prompt": "q", "chosen": f"good {i}", "rejected": "bad"} for i in range(2)]
    assert len(validate(twice, "en")[0]) == 2, "a prompt may have several pairs"


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 7, "score_rejected": 7}, "equal_score"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "chosen-rating": 1.5, "rejected-rating": 2}, "lower_score"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "status": "tie"}, "equal_score"),
        ({"prompt": "a", "completion": "b", "label": True}, "kto_label"),
        ({"prompt": [P], "completion": [C], "label": False}, "kto_label"),
        ({"prompt": "a", "response": "b"}, "not_a_pair"),
        ({}, "not_a_pair"),
        ({"prompt": "a", "chosen": None, "rejected": "b"}, "not_a_conversation"),
        ({"chosen": "a", "rejected": "b"}, "no_prompt"),
        ({"chosen": [P, C], "rejected": [{**P, "content": "rice?"}, R]}, "sides_diverge"),
        ({"prompt": "rice?", "chosen": [P, C], "rejected": [P, R]}, "prompt_differs"),
        ({"prompt": [P], "chosen": [C, P, C], "rejected": "b"}, "answer_of_several_turns"),
        ({"prompt": [P], "chosen": [P], "rejected": [P]}, "wrong_last_turn"),
        ({"prompt": [P], "chosen": [], "rejected": [R]}, "empty_turn"),
        ({"prompt": [P], "chosen": [3], "rejected": [R]}, "not_a_conversation"),
        ({"prompt": [P], "chosen": [{**C, "tool_calls": [{"name": "f"}]}], "rejected": [R]}, "tool_call"),
        ({"prompt": [P], "chosen": [C], "rejected": [{**R, "reasoning_content": "hm"}]}, "reasoning"),
        ({"prompt": [P], "chosen": [C], "rejected": [{**R, "finish_reason": "length"}]}, "unfinished"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "chosen_finish_reason": "length"}, "unfinished"),
        ({"prompt": [P], "chosen": [{**C, "weight": 0}], "rejected": [R]}, "nothing_trained"),
        ({"prompt": [P, {**C, "tool_calls": [1]}, P], "chosen": [C], "rejected": [R]}, "tool_call"),
        ({"prompt": [{**P, "images": ["x"]}], "chosen": [C], "rejected": [R]}, "not_text"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "images": ["x.png"]}, "not_text"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "tools": [{"name": "f"}]}, "tool_call"),
        ({"input": {"messages": [P], "tools": [1]}, "preferred_output": [C], "non_preferred_output": [R]}, "tool_call"),
        ({"prompt": [P], "chosen": [{**C, "content": None}], "rejected": [R]}, "not_a_conversation"),
        ({"prompt": "<|im_start|>user", "chosen": "b", "rejected": "c"}, "control_token"),
    ],
)
def test_what_is_no_pair_is_named(raw, rule):
    kept, rejects = validate([raw], "en")
    assert not kept and [reject["rule"] for reject in rejects] == [rule]
    assert rejects[0]["detail"] and rejects[0]["doc_id"] and rejects[0]["lang"] == "en"


def test_keys_that_nobody_reads_are_counted():
    ignored: Counter[str] = Counter()
    pair({**LAYOUTS["ultrafeedback"][0], "id": "1", "source": "x", "task": "qa"}, "en", ignored)
    pair(
        {"prompt": [{**P, "name": "ann"}], "chosen": [{**C, "model": "m"}], "rejected": "no", "margin": 0},
        "en",
        ignored,
    )
    assert ignored == {"prompt_id": 1, "messages": 1, "source": 1, "prompt.name": 1, "chosen.model": 1, "margin": 1}


LEAVES = [
    None,
    True,
    3,
    1.5,
    float("nan"),
    "",
    "x",
    "boat?",
    "\ud800",
    "a<|im_end|>",
    hh(P, C),
    [],
    {},
    [P, C],
    [P],
    C,
    [[P]],
    {"messages": [P]},
]
KEYS = [
    "prompt",
    "chosen",
    "rejected",
    "system",
    "question",
    "instruction",
    "input",
    "history",
    "messages",
    "conversations",
    "label",
]
KEYS += [
    "score_chosen",
    "score_rejected",
    "rejected_response",
    "preferred_output",
    "non_preferred_output",
    "tools",
    "status",
    "id",
    "lang",
]


def test_rows_of_anything_are_kept_or_named():
    rng = random.Random(0)
    rows = []
    for _ in range(4000):
        raw = {"prompt": "a", "chosen": "b", "rejected": "c"} if rng.random() < 0.5 else {}
        rows.append(raw | {key: rng.choice(LEAVES) for key in rng.sample(KEYS, rng.randrange(8))})
    seen: Counter[str] = Counter()
    for raw in rows:
        kept, rejects = validate([raw], "en")
        assert len(kept) + len(rejects) == 1
        seen.update([reject["rule"] for reject in rejects] or ["kept"])
        for row in kept:
            assert row["prompt"][-1]["role"] == "user" and row["chosen"].strip() and row["rejected"].strip()
            system = raw.get("system")
            if isinstance(system, str) and system.strip() and row["prompt"][0]["role"] != "system":
                raise AssertionError(raw)
    assert seen["kept"] > 100 and len(seen) > 10
