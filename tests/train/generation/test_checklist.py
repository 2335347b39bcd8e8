"""What a judge with a checklist is asked, and how its verdict is read: never guessed."""

import random
from itertools import pairwise

import pytest

from train.generation import checklist

ROW = {
    "prompt": [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": "Halo"},
        {"role": "assistant", "content": "Ya?"},
        {"role": "user", "content": "Apa ibu kota Laos?"},
    ],
    "checklist": ["Is Vientiane named?"],
    "answer": "Vientiane.",
    "reference": "Pakse.",
}
MARKS = {"A++": 1.0, "A+": 0.5, "A=B": 0.0, "B+": -0.5, "B++": -1.0}


def test_the_first_item_of_every_checklist_is_the_language():
    system, user = (turn["content"] for turn in checklist.messages(ROW, True, 100))
    items = user.split("# Checklist\n\n")[1].splitlines()
    assert items == [f"- {checklist.LANGUAGE}", "- Is Vientiane named?"]
    assert "same language as the query" in items[0] and "critical" in items[0]
    assert all(f"\n{mark} means" in system for mark in MARKS)
    assert checklist.messages({**ROW, "checklist": []}, True, 100)[1]["content"].endswith(f"- {checklist.LANGUAGE}")


def test_the_query_is_the_last_turn_and_the_rest_is_history():
    user = checklist.messages(ROW, True, 100)[1]["content"]
    history, query = user.split("# Query")
    assert "Ya?" in history and "You are kind." in history and "Apa ibu" not in history
    assert "<query>\nApa ibu kota Laos?\n</query>" in query
    assert "# Conversation" not in checklist.messages({**ROW, "prompt": ROW["prompt"][-1:]}, True, 100)[1]["content"]


def test_the_order_is_turned_whole():
    one, other = (checklist.messages(ROW, first, 100)[1]["content"] for first in (True, False))
    assert "<A>\nVientiane.\n</A>" in one and "<B>\nPakse.\n</B>" in one
    assert other == one.replace("Vientiane.\n", "\0").replace("Pakse.\n", "Vientiane.\n").replace("\0", "Pakse.\n")


def test_what_is_not_shown_is_said():
    cut = {**ROW, "answer": "panjang " * 100, "finished": False, "reference_finished": False}
    text = checklist.messages(cut, True, 80)[1]["content"]
    assert "[719 more characters are not shown.]" in text
    assert f"Pakse.\n{checklist.CUT_OFF}" in text


def test_which_answer_is_a_is_a_fair_coin_of_the_id():
    names = [f"row-{i}" for i in range(20_000)]
    first = [checklist.answer_first("th", name) for name in names]
    assert first == [checklist.answer_first("th", name) for name in names]
    assert abs(sum(first) - 10_000) < 4 * (20_000 / 4) ** 0.5
    runs = sum(a != b for a, b in pairwise(first))  # no pattern along the numbers
    assert abs(runs - 10_000) < 4 * (20_000 / 4) ** 0.5
    other = [checklist.answer_first("lo", name) for name in names]
    assert abs(sum(a == b for a, b in zip(first, other, strict=True)) - 10_000) < 4 * (20_000 / 4) ** 0.5


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A is right.\n\nVerdict: A++", 1.0),
        ("Verdict: B+\n\n", -0.5),
        ("**Verdict:** B++", -1.0),
        ("**Verdict: A+**", 0.5),
        ("## Final Verdict: `A=B`", 0.0),
        ("Verdict: tie.", 0.0),
        ("I see.\n[[A++]]", 1.0),
        ("verdict: a+", 0.5),
        ("判定理由。\nＶｅｒｄｉｃｔ：Ａ＋＋", 1.0),
        ("Verdict: A+\n```", 0.5),
        ("<think>Verdict: A+</think>\nVerdict: B+", -0.5),
        ("<think>Let me see.\nVerdict: A+", None),
        ("Verdict: A+\nNo:\nVerdict: B+", None),
        ("Verdict: A+ or B+", None),
        ("Verdict: A+++", None),
        ("Verdict: A", None),
        ("Verdict: A>B", None),
        ("Verdict: C++", None),
        ("Verdict: А++", None),  # a Cyrillic letter
        ("Verdict: A++\nI hope that this helps.", None),
        ("I would say A++", None),
        ("I'm sorry, but I cannot compare these.", None),
        ("Sebagai AI, saya tidak dapat menilai.", None),
        ("", None),
        ("\n \n", None),
        ("{}", None),
    ],
)
def test_verdicts_are_read_and_never_guessed(reply, verdict):
    assert checklist.parse(reply) == verdict


def naive(reply):
    """The same by hand, for replies that are made of plain pieces."""
    lines = [line.strip() for line in reply.split("</think>")[-1].split("\n")]
    lines = [line for line in lines if line]
    found = [MARKS.get(line.removeprefix("Verdict:").strip()) for line in lines if line.startswith("Verdict:")]
    found = [one for one in found if one is not None]
    last = MARKS.get(lines[-1].removeprefix("Verdict:").strip()) if lines else None
    return last if last is not None and len({*found, last}) == 1 else None


def test_replies_of_any_pieces():
    rng = random.Random(135)
    pieces = ["Verdict: ", "\n", "\n", "\n", " ", "A is better", "ดีกว่า", "</think>", "+", "=", "[", "B", *MARKS, *MARKS]
    seen = set()
    for _ in range(30_000):
        reply = "".join(rng.choices(pieces, k=rng.randint(0, 9)))
        if any(c in reply for c in "[") or " +" in reply or " =" in reply or "+ " in reply.replace("\n", "x"):
            assert checklist.parse(reply) in (None, *MARKS.values())
            continue
        assert checklist.parse(reply) == naive(reply), reply
        seen.add(naive(reply))
    assert seen == {None, *MARKS.values()}


def test_bytes_of_noise_are_no_verdict():
    rng = random.Random(7)
    for _ in range(3000):
        reply = "".join(
            chr(rng.choice([rng.randrange(32, 127), rng.randrange(0xE00, 0xE80), 10, 0x202E, 0xFFFD]))
            for _ in range(30)
        )
        said = checklist.parse(reply)
        assert said is None or reply.strip()[-1] in "+B=e.)]}"


def test_a_mirrored_verdict_is_the_negative():
    mirror = str.maketrans("AB", "BA")
    for mark in ("A++", "A+", "B+", "B++"):
        assert checklist.parse(f"Verdict: {mark.translate(mirror)}") == -checklist.parse(f"Verdict: {mark}")
