"""The tokens of a conversation's turns: one function for SFT, DPO, reward models and prompts of generation.

    <|im_start|> role newline content <|im_end|> newline

A turn is tokenised whole, so its tokens are those of the exported template, also by tokenizers that mark a word's first letter
(SentencePiece) and see another text where one is cut. Of its content no control token ever comes: what a text calls `</s>` or
`[INST]` is letters, as in pre-training. So the frame is written with marks that no text can have, drawn anew for each tokenizer.

A prompt of generation ends behind the newline. Where a tokenizer would merge that newline with what the assistant says first,
the turn is cut there, so that a prompt is always how the conversation begins.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cluster import document_tokens
from cluster.chatml import IM_END, IM_START, TEMPLATE

_BRACKETED = re.compile(r"[<\[{(«【>].+[>\]})»】<]", re.DOTALL)


class Turn(NamedTuple):
    """`ids` of a turn. `role`, `content` and `end`: where the newline behind the role, the content and `<|im_end|>` stand."""

    ids: list[int]
    role: int
    content: int
    end: int


class Frame(NamedTuple):
    """A copy of a tokenizer that reads marks as tokens and all else as letters."""

    copy: Tokenizer
    marks: tuple[str, str, str]  # start, end, cut
    numbers: tuple[int, int, int]  # of the marks
    start: int
    end: int
    begin: list[int]  # before each conversation
    opening: list[int]  # `<|im_start|>assistant newline`
    named: int  # how many of these come before the newline
    control: frozenset[int]
    spelled: re.Pattern[str] | None  # the texts of the control tokens


def im_end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of `<|im_end|>`. Raises ValueError when the tokenizer does not know ChatML."""
    vocabulary = tokenizer.get_vocab()
    if IM_START not in vocabulary or IM_END not in vocabulary:
        raise ValueError(f"The tokenizer has no {IM_START} and {IM_END} tokens; add them before training on chats.")
    return vocabulary[IM_END]


def frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """What `turns` needs of a tokenizer, made once. Raises ValueError when it does not know ChatML."""
    made = _FRAMES.get(tokenizer)
    if made is None or made[0] != len(tokenizer):
        made = len(tokenizer), _frame(tokenizer)
        _FRAMES[tokenizer] = made
    return made[1]


_FRAMES: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, Frame]] = WeakKeyDictionary()


def _frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    end = im_end_id(tokenizer)
    start = tokenizer.get_vocab()[IM_START]
    assert isinstance(tokenizer, PreTrainedTokenizerFast), "a run has no other"
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    added = copy.get_added_tokens_decoder()
    control = {number: token for number, token in added.items() if _is_control(token)}
    copy.add_special_tokens([_special(token) for token in control.values() if not token.special])
    copy.encode_special_tokens = True
    marks = _drawn(), _drawn(), _drawn()
    flags = [added.get(start), added.get(end), None]  # a token of a base may take the spaces around it with it
    copy.add_tokens([_mark(mark, flag) for mark, flag in zip(marks, flags, strict=True)])
    numbers = _number(copy, marks[0]), _number(copy, marks[1]), _number(copy, marks[2])
    named, opening = (
        [start, *copy.encode(f"{marks[0]}{text}", add_special_tokens=False).ids[1:]]
        for text in ("assistant", "assistant\n")
    )
    same = next(
        (i for i, (a, b) in enumerate(zip(named, opening, strict=False)) if a != b), min(len(named), len(opening))
    )
    return Frame(
        copy=copy,
        marks=marks,
        numbers=numbers,
        start=start,
        end=end,
        begin=document_tokens.begin(tokenizer),
        opening=opening,
        named=same,
        control=frozenset(control) - {tokenizer.unk_token_id},
        spelled=_spelled(list(control.values())),
    )


def _number(copy: Tokenizer, mark: str) -> int:
    found = copy.token_to_id(mark)
    assert found is not None, "it has just been added"
    return found


def _drawn() -> str:
    """Text that no row has: twelve letters for private use."""
    return "".join(chr(0xE000 + secrets.randbelow(0x1900)) for _ in range(12))


def _is_control(token: AddedToken) -> bool:
    """A token that says something to the model: special, or written like one (`<think>`); not a word or spaces."""
    return len(token.content) > 1 and (token.special or _BRACKETED.fullmatch(token.content) is not None)


def _spelled(control: list[AddedToken]) -> re.Pattern[str] | None:
    names = sorted((token.content for token in control), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names))) if names else None


def _special(token: AddedToken) -> AddedToken:
    return AddedToken(
        token.content, normalized=token.normalized, lstrip=token.lstrip, rstrip=token.rstrip, special=True
    )


def _mark(text: str, like: AddedToken | None) -> AddedToken:
    own = {"lstrip": like.lstrip, "rstrip": like.rstrip} if like else {}
    return AddedToken(text, normalized=False, special=False, **own)


def turns(tokenizer: PreTrainedTokenizerBase, said: Sequence[tuple[str, str]]) -> list[Turn]:
    """The tokens of each turn (role, content); equal turns are tokenised once, all in one call."""
    own = frame(tokenizer)
    distinct = list(dict.fromkeys(said))
    found = dict(zip(distinct, _encode(own, distinct), strict=True))
    cut, spelled = own.marks[2], own.spelled
    texts = {turn: turn for turn in distinct}
    if spelled:  # a model of pieces (Unigram) may still find one in the letters
        hidden = [turn for turn, made in found.items() if not own.control.isdisjoint(made.ids[1 : made.end])]
        for role, text in hidden:
            texts[role, text] = role, spelled.sub(lambda name: f"{name[0][:1]}{cut}{name[0][1:]}", text)
        found.update(zip(hidden, _encode(own, [texts[turn] for turn in hidden]), strict=True))
    merged = [turn for turn, made in found.items() if turn[0] == "assistant" and not _opens(own, made)]
    found.update(zip(merged, _encode(own, [texts[turn] for turn in merged], cut), strict=True))
    return [found[turn] for turn in said]


def _opens(own: Frame, made: Turn) -> bool:
    return made.ids[: len(own.opening)] == own.opening


def template_tokens(tokenizer: PreTrainedTokenizerBase, talks: list[list[dict]]) -> list[list[int]]:
    """The tokens of conversations in the tokenizer's own chat template; what a text calls a token is letters.

    In our template they are those of `turns`; another is rendered, and of its texts the names of tokens are tokenised apart.
    """
    if str(tokenizer.chat_template).endswith(TEMPLATE):
        found = iter(turns(tokenizer, [(turn["role"], turn["content"]) for talk in talks for turn in talk]))
        return [[*frame(tokenizer).begin, *(number for _ in talk for number in next(found).ids)] for talk in talks]
    spelled = _spelled([token for token in tokenizer.added_tokens_decoder.values() if _is_control(token)])
    drawn = _drawn()
    hidden: list[str] = []

    def hide(found: re.Match) -> str:
        hidden.append(found[0])
        return f"{drawn}{len(hidden) - 1}{drawn}"

    shown = (
        [[{**turn, "content": spelled.sub(hide, turn["content"])} for turn in talk] for talk in talks]
        if spelled
        else talks
    )
    texts = [str(text) for text in tokenizer.apply_chat_template(shown, tokenize=False)]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []  # the template has them
    for i, text in enumerate(texts if hidden else ()):
        if drawn not in text:
            continue
        parts = text.split(drawn)
        rows[i] = [
            number
            for k, part in enumerate(parts)
            for number in (_letters(tokenizer, hidden[int(part)]) if k % 2 else _whole(tokenizer, part))
        ]
    return rows


def _whole(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _letters(tokenizer: PreTrainedTokenizerBase, name: str) -> list[int]:
    """A token's name in pieces that are no token."""
    return [*_whole(tokenizer, name[:1]), *_whole(tokenizer, name[1:])]


def _encode(own: Frame, said: list[tuple[str, str]], seam: str = "") -> list[Turn]:
    """`seam` stands between the newline and the content."""
    if not said:
        return []
    start, end, _ = own.marks
    texts = [f"{start}{role}\n{seam}{text}{end}\n" for role, text in said]
    _, end_number, cut_number = own.numbers
    made = []
    for encoding in own.copy.encode_batch_fast(texts, add_special_tokens=False):
        ids = encoding.ids
        if cut_number in ids:
            ids = [number for number in ids if number != cut_number]
        last = ids.index(end_number)
        ids[0], ids[last] = own.start, own.end
        made.append(Turn(ids, own.named, len(own.opening), last))
    return made
