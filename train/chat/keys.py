"""What the keys of a row and of a turn mean, where they are more than role and text.

Public sets say in them which turns are to be trained, and hold what no text has: calls of tools, reasoning, images. Such a key is
never passed over: it decides, or the row is refused by its rule. A value that is null or empty, or a text that says so ("[]",
"null"), says nothing, for Parquet gives every row every key.
"""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(4096)
def name(key: str) -> str:
    """A key as it is looked up: sets differ in capitals and in what joins words (`toolCalls`, `tool_calls`, `tool-calls`)."""
    return re.sub(r"[-_ .]", "", key.lower())


def _words(text: str) -> frozenset[str]:
    return frozenset(map(name, text.split()))


ROLES = ("system", "user", "assistant")

WEIGHTS = _words(
    "weight loss_weight loss_scale train trainable training train_on train_on_turn is_trained learn loss compute_loss "
    "loss_mask supervised target is_target"
)
"""Keys of a turn that is trained by 1 and read only by 0."""
INVERSE = _words("masked is_masked ignore ignore_loss skip_loss no_loss no_train context_only")
"""Keys of a turn that is read only by 1."""
_WEIGHED = WEIGHTS | INVERSE
EITHER = frozenset(("mask", "traindetail"))  # in some sets 1 is trained, in others 1 is masked; parts of a turn
_OF_ALL_TURNS = _words(
    "mask weight loss_mask train_mask assistant_mask completion_mask loss_weight loss_scale turn_weight turn_mask "
    "message_weight assistant_weight"
)  # as lists
OF_ROW = _words("weight sample_weight train trainable")

_TOOL = _words(
    "tools tool_calls tool_call tool_uses tool_use tool_results tool_result tool_responses tool_response tool_outputs "
    "tool_call_id available_tools tool_definitions functions function_call function_calls function_response function_description "
    "xml_tools python_tools"
)
_REASONING = _words(
    "reasoning reasoning_content reasoning_details reasoning_text reasoning_trace thinking thinking_content thinking_blocks "
    "thinking_trajectories thinking_process thoughts thought think chain_of_thought cot complex_cot"
)
_MEDIA = _words(
    "image images image_url image_urls image_path image_paths image_file image_files img pictures audio audios audio_url "
    "audio_path video videos video_url video_path input_audio pixel_values"
)
_OF_ALL = {
    **dict.fromkeys(_TOOL, "tool_call"),
    **dict.fromkeys(_REASONING, "reasoning"),
    **dict.fromkeys(_MEDIA, "not_text"),
}
_OF_TURN = {
    **_OF_ALL,
    **dict.fromkeys(_words("tool function code_interpreter"), "tool_call"),
    **dict.fromkeys(("attachments", "files", "media"), "not_text"),
    "refusal": "refusal",
    "analysis": "reasoning",
}
_FLAGS = _words("on off yes no true false none low medium high minimal auto")

_TOOL_ROLES = _words(
    "tool tools tool_call tool_calls tool_response tool_result tool_results tool_output function "
    "function_call function_response function_result observation ipython environment"
)

CUT = _words(
    "length max_tokens max_length max_output_tokens max_new_tokens model_length token_limit "
    "model_context_window_exceeded content_filter incomplete truncated"
)
_REASONS = _words("finish_reason finish_reasons stop_reason stop_reasons finish_details completion_status")
_CUT_BY_1 = _words("truncated is_truncated was_truncated incomplete is_incomplete")
_CUT_BY_0 = _words("finished is_finished is_complete")

_NOTHING = frozenset(("", "[]", "{}", "null", "none", "nan"))
_TEXT_PARTS = frozenset((None, "text", "input_text", "output_text"))
_PART = re.compile("tool|function|call", re.I), re.compile("think|reason", re.I)

Fault = tuple[str, str]
"""(rule, detail)."""


def empty(value: object) -> bool:
    """Whether a value says nothing."""
    if isinstance(value, str):
        return value.strip().lower() in _NOTHING
    if isinstance(value, dict):
        return all(empty(one) for one in value.values())
    if isinstance(value, list | tuple):
        return all(empty(one) for one in value)
    return value is None or value != value  # noqa: PLR0124, a number that is not one


def of_turn(turn: dict) -> Fault | None:
    """Why a turn cannot be trained or read: it says more than its text, was cut off, or has a weight that is neither 0 nor 1."""
    if len(turn) == 2 and isinstance(turn.get("content"), str):
        return None
    for key, value in turn.items():
        if key in ("role", "content") or empty(value):
            continue
        known = name(key)
        if (rule := _OF_TURN.get(known)) and value is not False:
            return rule, f"has {key}"
        if turn.get("role") == "assistant":
            if known in EITHER:
                return "turn_weight", f"has {key}, which is not one weight for the turn; give it `weight` 0 or 1"
            if known in _WEIGHED and yes(value) is None:
                return "turn_weight", f"has {key} {value!r:.40}, which is neither 0 nor 1"
    if turn.get("role") == "assistant" and trained(turn) and (why := unfinished(turn)):
        return "unfinished", why
    return _of_content(turn.get("content"))


def _of_content(content: object) -> Fault | None:
    """What is wrong with content that is a list of parts, for which `text_of` has no text."""
    if not isinstance(content, list):
        return None
    for part in content:
        if part is None:
            return "null_part", "has a part that is null"
        if isinstance(part, str):
            continue
        if not isinstance(part, dict):
            return "not_text", f"has a part that is {type(part).__name__}"
        kind = part.get("type")
        kind = kind if kind is None or isinstance(kind, str) else repr(kind)
        if kind in _TEXT_PARTS and part.get("text") is None and (kind or empty(part)):
            return "null_part", "has a part without text"
        for key, value in part.items():
            if (rule := _OF_ALL.get(name(key))) and not empty(value) and value is not False:
                return rule, f"has a part with {key}"
            if is_weight(key) and not empty(value) and yes(value) is not True:
                return "turn_weight", f"has a part with {key} {value!r:.40}; give it to the turn"
        if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
            tool, reasoning = (found.search(kind or "") for found in _PART)
            rule = "tool_call" if tool else "reasoning" if reasoning else "refusal" if kind == "refusal" else "not_text"
            return rule, f"has a part of type {kind!r}"
    return None


def by_tool(role: object) -> bool:
    """Whether a role is a tool's."""
    return isinstance(role, str) and name(role) in _TOOL_ROLES


def text_of(content: object) -> object:
    """A list of parts that are all text, joined by newlines; anything else as it is."""
    if not isinstance(content, list) or _of_content(content):
        return content
    return "\n".join(part if isinstance(part, str) else part["text"] for part in content)


def of_row(row: dict) -> Fault | None:
    """Why a whole row cannot be trained."""
    for key, value in row.items():
        if not _of_rows(key):
            continue
        known = name(key)
        if known == "chattemplatekwargs" and isinstance(value, dict) and (found := of_row(value)):
            return found
        if empty(value):
            continue
        if isinstance(value, list) and known.rstrip("s") in _OF_ALL_TURNS:
            return "turn_weight", f"{key} stands beside the turns; give each turn its own weight"
        if known in OF_ROW and yes(value) is False:
            return "nothing_trained", f"{key} of the row is {value!r}"
        if known in _OF_ALL and not _flag(value):
            return _OF_ALL[known], f"the row has {key}"
    if why := unfinished(row):
        return "unfinished", f"the row {why}"
    return None


@lru_cache(4096)
def _of_rows(key: str) -> bool:
    """Whether `of_row` looks at a key; most are none of its business."""
    known = name(key)
    return known in _OF_ALL or known in OF_ROW or known.rstrip("s") in _OF_ALL_TURNS or known == "chattemplatekwargs"


def _flag(value: object) -> bool:
    """Whether a value only says how something was made, as `reasoning: "on"` does."""
    return isinstance(value, bool | int | float) or (isinstance(value, str) and value.strip().lower() in _FLAGS)


def yes(value: object) -> bool | None:
    """True for 1, False for 0, in any spelling; None for what is neither."""
    if isinstance(value, str):
        value = {"true": 1, "yes": 1, "false": 0, "no": 0, "1": 1, "0": 0, "1.0": 1, "0.0": 0}.get(
            value.strip().lower()
        )
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    return None


def trained(turn: dict) -> bool:
    """Whether a turn of the assistant is to be trained; by any key that says no, it is only read."""
    if len(turn) == 2:
        return True
    for key, value in turn.items():
        known = name(key)
        if (known in WEIGHTS and yes(value) is False) or (known in INVERSE and yes(value) is True):
            return False
    return True


def unfinished(found: dict) -> str | None:
    """What says that a row's or a turn's answer was cut off, as "has KEY VALUE"."""
    for key, value in found.items():
        if not decides_row(key):
            continue
        known = name(key)
        if (
            (known in _REASONS and any(isinstance(why, str) and name(why) in CUT for why in _each(value)))
            or (known in _CUT_BY_1 and yes(value) is True)
            or (known in _CUT_BY_0 and yes(value) is False)
        ):
            return f"has {key} {value!r}"
    return None


def _each(value: object) -> list:
    if isinstance(value, dict):  # {"type": "max_tokens"}, as OpenAI's exports have it
        return list(value.values())
    return value if isinstance(value, list) else [value]


def is_weight(key: str) -> bool:
    """Whether a key of a turn says how much it is trained."""
    return name(key) in _WEIGHED | EITHER


@lru_cache(4096)
def decides(key: str) -> bool:
    """Whether a key of a turn is used, or refuses the row."""
    known = name(key)
    return (
        known in _OF_TURN
        or known in _WEIGHED
        or known in EITHER
        or known in _REASONS
        or known in _CUT_BY_1
        or known in _CUT_BY_0
    )


@lru_cache(4096)
def decides_row(key: str) -> bool:
    """Whether a key of a row is used, or refuses it."""
    known = name(key)
    return known in _REASONS or known in _CUT_BY_1 or known in _CUT_BY_0
