"""Long-context tasks of one language and length: texts in which something is hidden, and questions about it.

    needle     one key with its number; the number is asked for
    keys       four keys with their numbers, one asked at a time
    pairs      ten keys, so that the ten options of the choice all stand in the text
    absent     four keys, and a fifth is asked for: right is the answer that the question offers for this case
    values     one key with four numbers, all asked for
    variables  two chains of five variables, b = a; all that have the first chain's number are asked for
    qa         a question about one text among others (rows with a text, a question and answers)
    summary    the summary of one text among others (rows with a text and its summary)

needle, keys, values and variables are RULER's (Hsieh et al. 2024), absent OneRuler's (Kim et al. 2025). Unlike theirs, the text
is of held-out documents in the language, what is said is in the language (templates.yaml), every question about a number also
says what to answer where there is none, and questions about one text share its tokens. All is drawn from the seed, so models with
one tokenizer get the same items.

Text, question, and options are encoded apart and laid end to end.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from cluster import document_tokens
from train.long import haystack, templates
from train.long.answer import Prompt, Question
from train.long.sizes import KEYS, ROWS, texts
from train.tasks import task as tasks
from train.tasks.measure import Encode, continued

OPTIONS = 10
VALUES = 4  # of a key in `values`
CHAIN = 5  # variables that have one number
EXTRA = 8  # tokens of an answer beyond the right one's
ANSWER = 50  # tokens of an answer to a question about a text
LEAST = 4  # sentences, without which there are no depths
ENOUGH = 1.5  # times a length: tokens of sentences that are at hand for it, as they are counted one by one
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Unfit(ValueError):
    """Why a task cannot be asked in this language and length; `rule` is its name in the ledger."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(detail)
        self.rule = rule


class Text(NamedTuple):
    """A row of `qa` (question and answers) or `summary` (no question; the answers are the summaries)."""

    id: str
    text: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """`samples` for each task, length and depth (for each task and length where it has no depth). `begin`: the tokens before
    each prompt (`beginning`)."""

    lang: str
    seed: int
    samples: int
    depths: tuple[float, ...]
    begin: tuple[int, ...]


def beginning(tokenizer: PreTrainedTokenizerBase, anchor: int | None = None) -> tuple[int, ...]:
    """The tokens before each prompt: what documents begin with, or, without such a token, the one that ends the document
    before; `anchor` first for a model that was trained on rows that begin with it."""
    begin = document_tokens.begin(tokenizer) or [document_tokens.end(tokenizer)]
    return tuple(begin if anchor in (None, begin[0]) else [anchor, *document_tokens.begin(tokenizer)])


@dataclass
class Source:
    """What the texts of a language are made of: held-out documents (id, text), and rows by task."""

    documents: list[tuple[str, str]]
    rows: dict[str, list[Text]] = field(default_factory=dict)


class _Asked(NamedTuple):
    """A question before it is tokens: `said` ends in what the answer begins with, `lead` stands before the answer."""

    task: str
    name: str
    depth: float | None
    said: str
    lead: str
    golds: tuple[str, ...]
    options: tuple[str, ...] = ()
    right: tuple[int, ...] = ()
    match: str = "all"


class _Pieces(NamedTuple):
    """Sentences of documents one after another, with the tokens up to each of them, roughly, and where documents begin."""

    pieces: list[str]
    tokens: list[int]
    starts: list[int]


class Maker:
    """Makes the prompts of one language for one tokenizer."""

    def __init__(self, setting: Setting, source: Source, encode: Encode) -> None:
        self.setting, self.source, self.encode = setting, source, encode
        self.say = templates.of(setting.lang)
        self.words = tasks.language_words(setting.lang)
        self._cut: dict[str, tuple[list[str], list[int]]] = {}

    def prompts(self, task: str, length: int, also: Sequence[str] = ()) -> Iterator[Prompt]:
        """The prompts of a task, `length` tokens at most with question and answer; with `keys` those of `absent` too, where
        `also` has it. Raises Unfit for what cannot be asked; where it is some rows of many, behind the prompts of the others."""
        if task in KEYS:
            yield from self._keys(task, length, also)
        elif task in ROWS:
            yield from self._texts(task, length)
        else:
            make = {"needle": self._needle, "values": self._values, "variables": self._variables}[task]
            for sample in range(self.setting.samples):
                for inserts, asked in make(sample):
                    documents = self._documents(task, sample, length)
                    prompt = self._prompt(self.say.intro, documents, inserts, [asked], length)
                    yield prompt._replace(group=f"{task}-{sample}")

    # what is hidden and asked

    def _needle(self, sample: int) -> Iterator[tuple[list[tuple[float, str]], _Asked]]:
        for depth in sorted(self.setting.depths, reverse=True):  # so that a text and the next begin alike
            chance = self._chance("needle", sample, depth)
            (key,), numbers = chance.sample(self.say.keys, 1), _numbers(chance, OPTIONS)
            asked = self._about(chance, "needle", f"{sample}-{depth}", depth, key, numbers[:1], numbers)
            yield [(depth, self._hide(key, numbers[0]))], asked

    def _values(self, sample: int) -> Iterator[tuple[list[tuple[float, str]], _Asked]]:
        chance = self._chance("values", sample)
        (key,), numbers = chance.sample(self.say.keys, 1), _numbers(chance, OPTIONS)
        right = numbers[:VALUES]
        places = sorted(chance.random() for _ in right)
        asked = self._about(chance, "values", f"{sample}", None, key, right, numbers)
        yield [(place, self._hide(key, number)) for place, number in zip(places, right, strict=True)], asked

    def _variables(self, sample: int) -> Iterator[tuple[list[tuple[float, str]], _Asked]]:
        chance = self._chance("variables", sample)
        names: list[str] = []
        while len(names) < 2 * CHAIN:
            name = "".join(chance.choices(LETTERS, k=4))
            names += [name] if name not in names else []
        numbers = _numbers(chance, 2)
        inserts = []
        for names_of, number in zip((names[:CHAIN], names[CHAIN:]), numbers, strict=True):
            places = sorted(chance.random() for _ in names_of)
            for place, name, value in zip(places, names_of, [number, *names_of], strict=False):
                inserts.append((place, self.say.variable.format(name=name, value=value)))
        lead = self._lead()
        said = f"{self.say.ask_variables.format(value=numbers[0])}\n{self.say.variables.format(value=numbers[0])}"
        options, right = _shuffled(chance, names, CHAIN)
        yield (
            sorted(inserts, key=lambda one: one[0]),
            _Asked("variables", f"{sample}", None, said, lead, tuple(names[:CHAIN]), options, right),
        )

    def _keys(self, task: str, length: int, also: Sequence[str]) -> Iterator[Prompt]:
        depths, n = sorted(self.setting.depths), KEYS[task]
        asks, absent = task != "absent", task == "absent" or (task == "keys" and "absent" in also)
        slots = len(depths) * self.setting.samples if asks else 0
        for number in range(texts(task, self.setting.samples, len(depths), [task, *also] if absent else [task])):
            chance = self._chance(task if asks else "keys", number)
            *keys, other = chance.sample(self.say.keys, n + 1)
            numbers = _numbers(chance, OPTIONS)
            inserts, asked = [], []
            for k, key in enumerate(keys):
                slot = number * n + k
                depth = depths[slot % len(depths)]
                inserts.append((depth, self._hide(key, numbers[k])))
                if slot < slots:
                    name = f"{slot // len(depths)}-{depth}"
                    asked.append(self._about(chance, task, name, depth, key, [numbers[k]], numbers))
            if absent and number < self.setting.samples:
                asked.append(self._absent(chance, number, other, numbers[: OPTIONS - 1]))
            if asked:
                documents = self._documents("keys", number, length)
                prompt = self._prompt(self.say.intro, documents, sorted(inserts, key=lambda one: one[0]), asked, length)
                yield prompt._replace(group=f"keys-{number}")

    def _absent(self, chance: random.Random, number: int, key: str, numbers: list[str]) -> _Asked:
        return self._about(chance, "absent", f"{number}", None, key, [self.say.none], [self.say.none, *numbers])

    def _about(  # noqa: PLR0917
        self,
        chance: random.Random,
        task: str,
        name: str,
        depth: float | None,
        key: str,
        right: Sequence[str],
        every: Sequence[str],
    ) -> _Asked:
        """The question for a key's numbers `right`, the first of `every`."""
        stub, lead = self.say.stub(key)
        ask = self.say.ask if len(right) == 1 else self.say.ask_all
        options, numbers = _shuffled(chance, [*right, *(one for one in every if one not in right)], len(right))
        said = f"{ask.format(key=key, none=self.say.none)}\n{stub}"
        return _Asked(task, name, depth, said, lead, tuple(right), options, numbers)

    def _hide(self, key: str, value: str) -> str:
        return self.say.needle.format(key=key, value=value)

    def _lead(self) -> str:
        return self.words["space"] and " "

    # questions about rows

    def _texts(self, task: str, length: int) -> Iterator[Prompt]:
        rows = self.source.rows.get(task, [])
        if len({row.text for row in rows}) < 2:
            raise Unfit("too_few_rows", f"{task}: it needs rows about two texts or more, and there are {len(rows)}")
        depths = sorted(self.setting.depths, reverse=True)
        order = list(range(len(rows)))
        self._chance(task, 0).shuffle(order)
        left: list[Unfit] = []
        for sample in range(self.setting.samples):
            for i, depth in enumerate(depths):
                number = sample * len(depths) + i
                if number >= len(rows):  # each row once
                    break
                row = rows[order[number]]
                chance = self._chance(task, sample, depth)
                others = [one for one in rows if one.text != row.text]
                chance.shuffle(others)
                distractors = self._distractors(others, length)
                asked = self._question(task, f"{number}-{row.id}", depth, row)
                if task == "qa":
                    seen = [answer for one in others for answer in one.answers[:1]]
                    wrong = [one for one in dict.fromkeys(seen) if not _alike(one, row.answers)][: OPTIONS - 1]
                    options, right = _shuffled(chance, [row.answers[0], *wrong], 1)
                    asked = asked._replace(options=options, right=right) if wrong else asked
                text = f"{self.words['passage']}:\n{row.text.strip()}\n\n"
                try:
                    prompt = self._prompt(self.say.ask_text, distractors, [(depth, text)], [asked], length, whole=True)
                except Unfit as error:
                    left.append(error)
                    continue
                yield prompt._replace(group=hashlib.blake2b(row.text.encode(), digest_size=8).hexdigest())

        if left:
            raise Unfit(left[0].rule, f"{len(left)} rows are left out; the first: {left[0]}")

    def _question(self, task: str, name: str, depth: float, row: Text) -> _Asked:
        lead = self._lead()
        if task == "qa":
            said = f"{self.words['question']}: {row.question.strip()}\n{self.words['answer']}:"
            return _Asked(task, name, depth, said, lead, row.answers, match="part")
        beginning = haystack.sentences(row.text.strip())[0].strip()[:60].strip()
        said = f"{self.say.ask_summary.format(beginning=beginning)}\n{self.say.summary}"
        return _Asked(task, name, depth, said, lead, row.answers, match="chrf")

    def _distractors(self, others: Sequence[Text], length: int) -> _Pieces:
        """The texts of other rows, each once, then held-out documents."""
        header = f"{self.words['passage']}:\n"
        return self._joined(
            [header + text for text in dict.fromkeys(one.text.strip() for one in others)], length, header
        )

    # texts of a length

    def _documents(self, task: str, sample: int, length: int) -> _Pieces:
        return self._joined([], length, "", self._chance(f"documents of {task}", sample))

    def _joined(self, first: Sequence[str], length: int, header: str, chance: random.Random | None = None) -> _Pieces:
        """Sentences of the texts `first` and then of documents, in the order of `chance`, as many as `length` may need."""
        order = list(range(len(self.source.documents)))
        if chance:
            chance.shuffle(order)
        pieces: list[str] = []
        upto: list[int] = []
        starts: list[int] = []
        for text in chain(first, (header + self.source.documents[i][1] for i in order)):
            if upto and upto[-1] > ENOUGH * length:
                break
            starts.append(len(pieces))
            cut, tokens = self._sentences(text)
            pieces += cut
            upto += list(accumulate(tokens, initial=upto[-1] if upto else 0))[1:]
        return _Pieces(pieces, upto, starts)

    def _sentences(self, text: str) -> tuple[list[str], list[int]]:
        if text not in self._cut:
            cut = haystack.sentences(f"{text.strip()}\n\n")
            self._cut[text] = cut, [len(ids) for ids in self.encode(cut)] if cut else []
        return self._cut[text]

    def _prompt(  # noqa: PLR0917
        self,
        intro: str,
        of: _Pieces,
        inserts: list[tuple[float, str]],
        asked: list[_Asked],
        length: int,
        whole: bool = False,
    ) -> Prompt:
        """As many sentences as fit, with what is hidden, and the questions. `whole`: only at the beginnings of documents."""
        questions = [self._tokens(one, length) for one in asked]
        budget = length - len(self.setting.begin) - max(len(one.ids) + one.room for one in questions)

        def ids(n: int) -> Sequence[int]:
            starts = [start for start in of.starts if start <= n] if whole else None
            text = haystack.hidden(of.pieces[:n], inserts, starts)
            return self.encode([f"{intro}\n\n{text.rstrip()}\n\n"])[0]

        hidden = len(ids(0))
        guess = next((i for i, tokens in enumerate(of.tokens) if tokens > budget - hidden), len(of.tokens))
        n = haystack.fitting(lambda n: len(ids(n)), budget, len(of.pieces), guess)
        if n < LEAST:
            if n == len(of.pieces):
                raise Unfit("too_little_text", f"{n} held-out sentences")
            raise Unfit("too_short", f"{asked[0].task}: {length:,} tokens have no room for what is hidden and asked")
        found = ids(n)
        if n == len(of.pieces) and len(found) < budget - haystack.SHORT * length:
            have = len(found) + length - budget
            raise Unfit("too_little_text", f"a prompt of {length:,} tokens needs more text than is held out: {have:,}")
        return Prompt([*self.setting.begin, *map(int, found)], questions)

    def _tokens(self, one: _Asked, length: int) -> Question:
        ids = [int(token) for token in self.encode([one.said])[0]]
        options = continued(self.encode, [one.lead + option for option in one.options])
        golds = continued(self.encode, [f"{one.lead}{', '.join(one.golds) if one.match == 'all' else one.golds[0]}"])
        wanted = len(golds[0]) + EXTRA
        room = max(wanted, ANSWER) if one.match == "part" else wanted
        name = f"{one.task}-{length}-{one.name}"
        texts = one.options
        return Question(name, one.task, one.depth, ids, one.golds, one.match, room, texts, tuple(options), one.right)

    def _chance(self, *about: object) -> random.Random:
        return random.Random(f"{self.setting.seed} {self.setting.lang} {about}")


def _numbers(chance: random.Random, n: int) -> list[str]:
    return [str(number) for number in chance.sample(range(1_000_000, 10_000_000), n)]


def _shuffled(chance: random.Random, options: Sequence[str], right: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """`options`, the first `right` of which are right, in an order of chance; and the numbers of the right ones."""
    order = list(range(len(options)))
    chance.shuffle(order)
    return tuple(options[i] for i in order), tuple(sorted(order.index(i) for i in range(right)))


def _alike(answer: str, golds: Sequence[str]) -> bool:
    """Whether an answer of another text is right here too, in part."""
    return any(answer.lower() in gold.lower() or gold.lower() in answer.lower() for gold in golds)


LAYOUTS: dict[str, list[dict]] = {
    "qa": [
        {"text": "context", "question": "question", "answers": "answers.text"},
        {"text": "context", "question": "question", "answers": "answers"},
    ],
    "summary": [
        {"text": text, "answers": summary}
        for text in ("text", "document", "article", "context")
        for summary in ("summary", "summaries")
    ],
}
"""Columns of rows, in the order in which they are tried: SQuAD's; those of XL-Sum, XSum, CNN/DailyMail and others."""


def read(row: dict, name: str) -> tuple[str, Text]:
    """(task, text) of a user's row. Raises tasks.RowError for one that fits none of `LAYOUTS`."""
    missing = None
    for task, layouts in LAYOUTS.items():
        try:
            _, fields = tasks.read_fields(layouts, row)
        except tasks.RowError as error:
            missing = missing or error
            continue
        found = fields["answers"] if isinstance(fields["answers"], list) else [fields["answers"]]
        answers = tuple(text for one in found if (text := tasks.text_of(one).strip()))
        if answers:
            return task, Text(name, str(fields["text"]), str(fields.get("question", "")), answers)
    raise tasks.RowError(
        "it has neither a text with question and answers (context, question, answers) nor one with its summary "
        f"(text, summary): {missing}"
    )
