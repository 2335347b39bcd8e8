"""Preference rows in the layouts that data sets come in, as {"id", "lang", "prompt": turns, "chosen": text, "rejected": text, …}.

    prompt, chosen, rejected            texts; or turns, where a side is the answer or the whole conversation (TRL, UltraFeedback)
    chosen, rejected                    whole conversations: what both begin with is the prompt (TRL), also as one text (hh-rlhf)
    question or instruction (input)     for prompt, with `system` and `history` (Orca, Alpaca)
    conversations, chosen, rejected     where a side is one turn (ShareGPT)
    messages, rejected_response         the last turn is chosen
    input.messages, preferred_output, non_preferred_output          OpenAI

A row that is in none of them has a fault, as one whose scores do not prefer `chosen` and one of KTO (`label`).
"""

from __future__ import annotations

import re
from collections import Counter

from train.chat import formats, keys
from train.chat.keys import Fault

SIDES = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("preferred_output", "non_preferred_output"),
    ("chosen_messages", "rejected_messages"),
)
RANKED = (
    ("completions", "response", "overall_score", 1),
    ("answers", "answer", "rank", -1),
)
"""Keys with a list of scored answers: (key, their text, their score, 1 where more is better): UltraFeedback's own, Nectar."""
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)
IDS = ("id", "uuid", "pair_id")  # not prompt_id: a prompt may have several pairs
_HH = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def pair(raw: dict, lang: str | None = None, ignored: Counter[str] | None = None) -> tuple[dict, Fault | None]:
    """(the row in our layout, why there is none). Keys beside the layout stay. `lang` and `ignored`: as of `formats.row`.

    A missing id is a hash of prompt and answers. A row in our layout is given back as it is.
    """
    used: set[str] = set()
    unread: set[str] = set()
    made, fault = _pair(raw, used, unread)
    beside = raw.get("input")
    fault = (
        fault
        or keys.of_row(raw)
        or _preferred(raw, used)
        or (keys.of_row(beside) if isinstance(beside, dict) else None)
    )
    taken = formats.LAYOUT | used
    rest = {key: value for key, value in raw.items() if key not in taken and key not in ("id", *formats.LANGS)}
    if ignored is not None and not fault:
        ignored.update(unread | formats.not_read(raw, used, IDS))
    return {**formats.identity(raw, lang, made or raw, IDS), **rest, **made}, fault


def _pair(raw: dict, used: set[str], unread: set[str]) -> tuple[dict, Fault | None]:
    """{"prompt", "chosen", "rejected"}, or what is wrong."""
    found = _sides(raw, used, unread)
    if isinstance(found, str):
        labelled = isinstance(raw.get("label"), bool | int) and raw.get("label") in (0, 1)
        said = "label says of one answer whether it is good (KTO); a pair has two answers"
        if labelled and not any(raw.get(key) for side in SIDES for key in side):
            return {}, ("kto_label", said)
        return {}, ("not_a_pair" if found else "not_a_conversation", found or "chosen or rejected is null")
    prompt, sides = _prompt(raw, used, unread), found
    talks = [_talk(side, name, unread) for side, name in zip(sides, ("chosen", "rejected"), strict=True)]
    before = [talk[:-1] for talk in talks]
    if not all(talks):
        return {}, ("empty_turn", "an answer has no turn")
    longest = max(before, key=len)
    if any(one and _plain(one) != _plain(longest) for one in before):
        return {}, ("sides_diverge", "chosen and rejected differ before their last turn")
    if longest and _role(longest[0]) == "assistant" and not all(before):
        return {}, ("answer_of_several_turns", "one answer is more than one turn")
    if not longest and prompt is None:
        return {}, ("no_prompt", "there is no prompt, and the answers are no conversations")
    prompt = _joined(prompt or [], longest)
    if prompt is None:
        return {}, ("prompt_differs", "the conversations of chosen and rejected do not hold the prompt")
    answers = [talk[-1] for talk in talks]
    for name, turn in zip(("chosen", "rejected"), answers, strict=True):
        if wrong := _of_answer(turn):
            return {}, (wrong[0], f"{name} {wrong[1]}")
    chosen, rejected = (turn["content"] for turn in answers)
    return {"prompt": formats.with_system(raw, prompt, used), "chosen": chosen, "rejected": rejected}, None


def _of_answer(turn: object) -> Fault | None:
    if not isinstance(turn, dict):
        return "not_a_conversation", "is not text or turns"
    if wrong := keys.of_turn(turn):
        return wrong
    if keys.by_tool(_role(turn)):
        return "tool_call", f"ends with a turn by {_role(turn)}"
    if _role(turn) != "assistant":
        return "wrong_last_turn", "does not end with a turn by assistant"
    return None if keys.trained(turn) else ("nothing_trained", "is not to be trained")


def _sides(raw: dict, used: set[str], unread: set[str]) -> tuple[object, object] | str:
    """Both answers as they stand; or what there is instead, "" where a side is null."""
    for names in SIDES:
        if all(raw.get(name) is not None for name in names):
            used.update(names)
            return raw[names[0]], raw[names[1]]
    other = next(
        (name for name in ("rejected_response", "rejected_messages", "rejected") if raw.get(name) is not None), None
    )
    if other and isinstance(talk := raw.get("messages"), list) and talk and raw.get("chosen") is None:
        made = formats.turns(talk, "messages", unread)
        if isinstance(made, list) and _role(made[-1]) == "assistant":
            used.update(("messages", other))
            return made, raw[other]
    for key, text, score, sign in RANKED:
        many = raw.get(key)
        if isinstance(many, list) and len(many) > 1 and all(_is_ranked(one, text, score) for one in many):
            used.add(key)
            ranked = sorted(many, key=lambda one: -sign * one[score])
            if ranked[0][score] == ranked[-1][score]:
                return "every answer has the same score"
            return ranked[0][text], ranked[-1][text]
    if any(name in raw for name in SIDES[0]):
        return ""
    return "no layout of pairs fits: there is no chosen and no rejected"


def _is_ranked(answer: object, text: str, score: str) -> bool:
    return isinstance(answer, dict) and isinstance(answer.get(text), str) and isinstance(answer.get(score), int | float)


def _prompt(raw: dict, used: set[str], unread: set[str]) -> list | None:
    """The turns before the answer, as far as they stand in a key of their own."""
    value = raw.get("input")
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        used.add("input")
        unread.update(f"input.{key}" for key in value if key != "messages" and not keys.empty(value[key]))
        return formats.as_turns(value, "user", "input.messages", unread)
    if isinstance(raw.get("prompt"), str) and (talk := _of_text(raw["prompt"])):
        used.add("prompt")
        return talk[:-1] if talk[-1] == {"role": "assistant", "content": ""} else talk
    if (found := formats.question(raw, used, unread)) is not None:
        return found
    for key in ("messages", "conversations", "conversation"):
        if key not in used and isinstance(raw.get(key), list | dict):
            used.add(key)
            made = formats.turns(raw[key], key, unread)
            return made if isinstance(made, list) else [made]
    return None


def _talk(side: object, name: str, unread: set[str]) -> list:
    """A side as turns: the answer, perhaps with what came before it."""
    if isinstance(side, str) and (talk := _of_text(side)):
        return talk
    return formats.as_turns(side, "assistant", name, unread)


def _of_text(text: str) -> list[dict] | None:
    """The turns of a text as of hh-rlhf, "\\n\\nHuman: …\\n\\nAssistant: …"; None for any other."""
    text = text.replace("\r\n", "\n")
    marks = list(_HH.finditer(text))
    if not marks or marks[0].start() or marks[0][1] != "Human":
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    names = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": names[mark[1]], "content": text[mark.end() : end].strip()}
        for mark, end in zip(marks, ends, strict=True)
    ]


def _joined(prompt: list, before: list) -> list | None:
    """The prompt with what the sides say before their answers; None where these are two different prompts."""
    if not before or not prompt:
        return prompt or before
    own, theirs = ([turn for turn in _plain(turns) if turn[0] != "system"] for turns in (prompt, before))
    if all(turn in theirs for turn in own) and _role(before[0]) != "assistant":
        if _role(prompt[0]) == _role(before[0]) == "system" and _plain(prompt[:1]) != _plain(before[:1]):
            return None
        system = prompt[:1] if _role(prompt[0]) == "system" and _role(before[0]) != "system" else []
        return [*system, *before]
    # A prompt that the sides go on from, such as a system text alone.
    return [*prompt, *before] if _role(prompt[-1]) != _role(before[0]) else None


def _plain(turns: list) -> list[tuple]:
    """Turns as they are compared."""
    return [
        (
            turn.get("role"),
            turn["content"].strip() if isinstance(turn.get("content"), str) else repr(turn.get("content")),
        )
        if isinstance(turn, dict)
        else (None, repr(turn))
        for turn in turns
    ]


def _role(turn: object) -> object:
    return turn.get("role") if isinstance(turn, dict) else None


def _preferred(raw: dict, used: set[str]) -> Fault | None:
    """What is wrong with a row whose own scores do not prefer `chosen`."""
    by_name = {keys.name(key): key for key in raw}
    for side in ("chosen", "rejected"):
        own = {name.replace(side, ""): raw[key] for name, key in by_name.items() if side in name}
        # our own pairs say so of a rejected sample that was cut off: its end is not scored
        if side == "rejected" and raw.get("rejected_finished") is False:
            continue
        if why := keys.unfinished(own):
            return "unfinished", f"{side} {why}"
    for names in SCORES:
        if not all(keys.name(name) in by_name for name in names):
            continue
        own_names = [by_name[keys.name(name)] for name in names]
        scores = [raw[name] for name in own_names]
        if not all(isinstance(score, int | float) and score == score for score in scores):  # noqa: PLR0124
            continue
        used.update(own_names)
        if scores[0] == scores[1]:
            return "equal_score", f"both answers have the score {scores[0]}"
        if scores[0] < scores[1]:
            return "lower_score", f"chosen has the score {scores[0]}, rejected {scores[1]}"
    if raw.get("status") == "tie" or keys.yes(raw.get("tie")) or keys.yes(raw.get("is_tie")):
        return "equal_score", "the row is a tie"
    return None
