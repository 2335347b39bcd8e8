"""What a task is: YAML data that says how a row of a public set becomes a prompt in its language, and what is right.

    name: xcopa                         kind: options | answers | numbers | translation
    licence, citation                   of the set; rows are the user's
    layouts:                            the set's own columns, one entry for each way in which it is published
      - {premise: premise, question: question, options: [choice1, choice2], gold: label}
    prompt: "{{ premise | open }}…"      Jinja, over the fields of a layout and the words of the language (words.yaml)
    option: "{{ space }}{{ option }}"   what follows the prompt, once for each option
    shots: 3                            solved examples before each prompt, fixed for a language

A column is named by its path (`prompts.0.text`). `options` are columns, or one column with a list; `gold` is the number of the
right one, counted from `first` (0), or its letter, or one of `labels`; with `options: "=labels"` these are the options.
`answers` are the right answers, one of which is enough.
Prompt, option and answers before them are encoded apart and laid end to end: tokens across a seam would be tokens that no text
has, and the prompt's would depend on the option.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

KINDS = ("options", "answers", "numbers", "translation")
SCORES = ("sum", "per_byte", "sequence_ppl")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OWN_LETTERS = ("กขคงจ", "ກຂຄງຈ", "កខគឃង", "ကခဂဃင")  # of options in exams: Thai, Lao, Khmer, Burmese
LABELS = "=labels"
_SURROGATE = re.compile("[\ud800-\udfff]")
_STOPS = ".។။。.!?！？"


class RowError(ValueError):
    """A row that no layout of its task fits."""


class Item(NamedTuple):
    """One question of a task. `gold` is the number of the right option, or the right answers."""

    id: str
    lang: str
    prompt: str
    options: tuple[str, ...]
    gold: int | tuple[str, ...]
    shot: bool  # kept as a solved example: never scored
    row: Mapping = {}  # that it was made of

    def solved(self) -> str:
        """The prompt with the right answer behind it."""
        return self.prompt + (self.options[self.gold] if isinstance(self.gold, int) else f" {self.gold[0]}")


@dataclass(frozen=True)
class Task:
    """A task as its file has it; see the head of this module. Raises ValueError where the file is wrong."""

    name: str
    kind: str
    layouts: list[dict]
    prompt: str
    option: str = "{{ space }}{{ option }}"
    title: str = ""
    licence: str = ""
    citation: str = ""
    source: str = ""  # where the rows are published
    known_as: list[str] = field(default_factory=list)  # other names, in paths and in rows
    splits: dict[str, list[str]] = field(default_factory=dict)  # values of `split`: {score: […], shots: […]}
    labels: list[str] = field(default_factory=list)
    first: int = 0
    coded: bool = False  # gold is a number or a letter, never the text of an option
    score: str = "per_byte"  # of options
    shots: int = 3
    max_new_tokens: int = 100

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if any(layout.get("options") == LABELS for layout in self.layouts) and not self.labels:
            raise ValueError(f'options: "{LABELS}" needs labels')
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, not {self.score!r}")
        if not self.layouts or not all(isinstance(layout, dict) for layout in self.layouts):
            raise ValueError("layouts must be a list of mappings from a field to its column")
        needed = {"options", "gold"} if self.kind == "options" else {"answers"}
        for layout in self.layouts:
            if missing := needed - layout.keys():
                raise ValueError(f"a layout of kind {self.kind} needs {' and '.join(sorted(missing))}")
        for template in (self.prompt, self.option):
            _template(template)

    @property
    def measure(self) -> str:
        """Which score of an item counts."""
        return {"options": self.score, "answers": "f1", "numbers": "exact_match", "translation": "chrf"}[self.kind]

    def item(self, row: dict, lang: str) -> Item:
        """A row of the set as an item in `lang`. Raises RowError with what is missing or wrong."""
        layout, fields = read_fields(self.layouts, row)
        words = language_words(lang)
        columns = {key: value for key, value in row.items() if isinstance(key, str)}
        about = {"background_description": None, **columns, **words, "words": words, "lang": lang, **fields}
        if self.kind == "options":
            options = (
                self.labels
                if layout["options"] == LABELS
                else [text_of(one) for one in _options(layout["options"], row)]
            )
            if len(options) < 2 or not all(option.strip() for option in options):
                raise RowError("it has fewer than two options, or an empty one")
            if len(options) > len(LETTERS):
                raise RowError(f"it has {len(options)} options; {len(LETTERS)} are the most")
            gold: int | tuple[str, ...] = _gold(
                fields["gold"], options, self.labels, layout.get("first", self.first), self.coded
            )
            about |= {"options": options, "letters": LETTERS}
            own = layout["options"] == LABELS  # labels have names in the language
            shown = [words.get(option, option) if own else option for option in options]
            texts = tuple(
                _render(self.option, {**about, "option": option, "letter": LETTERS[i]})
                for i, option in enumerate(shown)
            )
            if len(set(texts)) < len(texts):
                raise RowError("two of its options read the same")
        else:
            found = fields["answers"]
            gold = tuple(text_of(one).strip() for one in (found if isinstance(found, list) else [found]) if _said(one))
            if not gold:
                raise RowError("it has no right answer")
            texts = ()
        if self.kind == "translation":
            about |= {"source_name": language_name(str(fields["source_lang"])), "target_name": language_name(lang)}
        division = str(row.get("split") or "")
        shot = division in self.splits.get("shots", [])
        if division and not shot and self.splits.get("score") and division not in self.splits["score"]:
            raise RowError(f"its split {division!r} is not one that is scored")
        name = next((str(row[key]) for key in ("id", "qid", "sample_id") if _said(row.get(key))), "")
        prompt = _render(self.prompt, about)
        for said in (name, prompt, *texts, *(gold if isinstance(gold, tuple) else ())):
            if not said.isascii() and _SURROGATE.search(said):
                raise RowError("it has half of a surrogate pair")
        return Item(name, lang, prompt, texts, gold, shot, row)


def load(path: str, text: str) -> Task:
    """The task of a YAML file. Raises ValueError that names the file and what is wrong with it."""
    try:
        found = yaml.safe_load(text)
        if not isinstance(found, dict):
            raise ValueError("it is not a mapping of keys")
        unknown = found.keys() - Task.__dataclass_fields__.keys()
        if unknown:
            raise ValueError(f"it has unknown keys: {', '.join(sorted(map(str, unknown)))}")
        return Task(**found)
    except (yaml.YAMLError, jinja2.TemplateError, TypeError, ValueError) as error:
        raise ValueError(f"The task file {path} cannot be read: {str(error).splitlines()[0]}.") from None


@cache
def shipped() -> dict[str, Task]:
    """The tasks that come with the project, by name."""
    files = resources.files(__package__).joinpath("sets").iterdir()
    tasks = [load(file.name, file.read_text("utf-8")) for file in files if file.name.endswith(".yaml")]
    return {task.name: task for task in sorted(tasks, key=lambda task: task.name)}


@cache
def _words() -> dict[str, dict[str, str]]:
    return yaml.safe_load(resources.files(__package__).joinpath("words.yaml").read_text("utf-8"))


def language_words(lang: str) -> dict[str, str]:
    """What templates say in `lang`; in English where the language has no words here."""
    return _words().get(lang, _words()["en"])


def language_name(lang: str) -> str:
    """A language's name in itself; its code where none is known."""
    return _words().get(lang, {}).get("name", lang)


def shots(items: Iterable[Item], n: int) -> tuple[list[Item], list[Item]]:
    """(the `n` solved examples, the items to score) of one task and language.

    Examples are rows of a split that is for them. Without such a split they are the first rows by id, which are then not scored.
    """
    ordered = sorted(items, key=lambda item: (len(item.id), item.id))
    kept = [item for item in ordered if item.shot]
    scored = [item for item in ordered if not item.shot]
    if not kept:
        kept, scored = scored[:n], scored[n:]
    return kept[:n], scored


def read_fields(layouts: list[dict], row: dict) -> tuple[dict, dict]:
    """The layout that fits a row, and the row's fields by the layout's names. Raises RowError where none fits."""
    missing = ""
    for layout in layouts:
        fields = {}
        for name, column in layout.items():
            if name in ("options", "first"):
                continue
            value = _value(row, str(column))
            if not _said(value):
                missing = f"{column!r} is missing or empty"
                break
            fields[name] = value
        else:
            if all(_said(option) for option in _options(layout.get("options", []), row)):
                return layout, fields
            missing = "an option is missing or empty"
    raise RowError(missing)


def _options(columns: list[str] | str, row: dict) -> list:
    if columns == LABELS:
        return []
    if isinstance(columns, str):
        found = _value(row, columns)
        if isinstance(found, dict) and isinstance(
            found.get("text"), list
        ):  # {"text": […], "label": […]}, as ARC has it
            found = found["text"]
        return found if isinstance(found, list) and found else [None]
    return [_value(row, column) for column in columns]


def _value(row: object, path: str) -> object:
    """What stands at a path; `*` is every entry of a list, and what they have is one list."""
    head, star, rest = path.partition(".*")
    if star:
        found = _value(row, head) if head else row
        every = (
            [_value(one, rest.removeprefix(".")) if rest else one for one in found] if isinstance(found, list) else []
        )
        return [one for many in every for one in (many if isinstance(many, list) else [many])]
    for key in path.split("."):
        if isinstance(row, list) and key.isdigit() and int(key) < len(row):
            row = row[int(key)]
        elif isinstance(row, dict):
            row = row.get(key)
        else:
            return None
    return row


def text_of(value: object) -> str:
    """An option or an answer: a text or a number, or an object that holds one as `text` (SQuAD's own files)."""
    if isinstance(value, dict):
        value = value.get("text")
    if not isinstance(value, str | int | float):
        raise RowError(f"an option or answer is {type(value).__name__}, not a text")
    return str(value)


def _said(value: object) -> bool:
    if isinstance(value, float) and math.isnan(value):  # an empty cell of a table
        return False
    return value is not None and not (isinstance(value, str) and not value.strip()) and value != []


def _gold(value: object, options: list[str], labels: list[str], first: int, coded: bool) -> int:
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    text = str(value).strip()
    named = options.index(text) if text in options and isinstance(value, str) and not coded else None
    if labels and text in labels:
        return labels.index(text)
    if re.fullmatch(r"-?[0-9]+", text):
        number = int(text) - first
    elif letters := [letters for letters in (LETTERS, *_OWN_LETTERS) if len(text) == 1 and text.upper() in letters]:
        number = letters[0].index(text.upper())
    elif named is not None:
        return named
    else:
        raise RowError(f"the right option is {text!r}, which is neither a number, a letter nor an option")
    if named is not None and named != number:
        if not 0 <= number < len(options):
            return named
        raise RowError(f"{text!r} is the text of one option and the number or letter of another")
    if not 0 <= number < len(options):
        raise RowError(f"the right option is {text!r}, but there are {len(options)}")
    return number


def _open(text: str) -> str:
    """A sentence that goes on: without its end, if it has one."""
    return text.strip().rstrip(_STOPS).rstrip()


def _inside(text: str) -> str:
    """A sentence inside another: with a small first letter, but a word in capitals stays."""
    return text if text[1:2].isupper() or (text[:1] == "I" and not text[1:2].isalpha()) else text[:1].lower() + text[1:]


def _label(option: str) -> str:
    """The number or letter with which an option of an exam begins: "B" of "B. rice", "2" of "(2) rice"."""
    found = re.match(r"\W*(\w+)", option)
    return found.group(1) if found else option


_JINJA = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)  # text, not HTML
_JINJA.filters |= {"open": _open, "inside": _inside, "label": _label}


@lru_cache(maxsize=256)
def _template(text: str) -> jinja2.Template:
    return _JINJA.from_string(text)


def _render(template: str, about: dict) -> str:
    try:
        return _template(template).render(**about)
    except (jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise RowError(f"the template cannot be filled: {error}") from None
