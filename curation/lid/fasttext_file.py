"""A fastText language identifier of somebody else: GlotLID, OpenLID, NLLB's, lid.176.bin, or one of the user's own.

Its labels become the codes of a recipe: those that the user names, those of the recipe's languages (`ace_Latn` is `ace`), and
those of the 15 languages in their own script (`zsm_Latn` and `msa` are `ms`; Malay in Arabic letters is not). The
probabilities of labels with one code add. All other labels are `OTHER`, whose probability is what is left; a text is
`OTHER` when one such label is more probable than any code.

Text goes in as the model knows it: one whose words are all in small letters gets small letters, one whose words have neither
digits nor ASCII punctuation gets none (OpenLID from version 2 on is trained on text cleaned so). Documents are cut at
`PREFIX_CHARS`.
"""

from __future__ import annotations

import os
import re
import string
import struct
from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from curation.lid.model import OTHER, PREFIX_CHARS, Predictions
from curation.lid.tags import ISO_639
from curation.policy.keys import nearest
from curation.text.characters import only_words

LABEL = "__label__"
LEAST_PROBABILITY = 1e-4  # labels below it are not looked at: of thousands nearly all are
LEAST_WORDS = 1000  # of a vocabulary that says how its text was cleaned
ENDINGS = (".bin", ".ftz")
# ISO 15924 codes that labels have for the languages that are written in no other script
SCRIPTS = {
    **dict.fromkeys(("ceb", "en", "id", "ilo", "jv", "ms", "su", "tl", "vi", "war"), ("Latn",)),
    **{"th": ("Thai",), "lo": ("Laoo",), "km": ("Khmr",), "my": ("Mymr",), "zh": ("Hans", "Hant", "Hani")},
}
CODES = {
    **ISO_639,
    **{code: code for code in SCRIPTS},
    "zlm": "ms",
}  # zlm: the Malay that GlotLID knows beside the standard one
_PUNCTUATION = re.compile(rf"[{re.escape(string.punctuation)}\d]")
_MAGIC, _SUPERVISED = 793712314, 3
_HEADER = struct.Struct("<14i d 3i")  # magic, version, 12 arguments, t; words and labels, words, labels


class FastTextFile:
    """A model whose labels are codes of the recipe and `OTHER`, the last."""

    def __init__(self, model, labels: Mapping[str, str], languages: Collection[str] = ()) -> None:
        names = [label.removeprefix(LABEL) for label in model.get_labels()]
        codes = {name: code_of(name, labels, languages) for name in names}
        self.model = model
        self.labels = (*sorted(set(codes.values()) - {OTHER}), OTHER)
        self._numbers = {f"{LABEL}{name}": self.labels.index(codes[name]) for name in names}
        words = model.get_words(on_unicode_error="replace")[1:]
        enough = len(words) >= LEAST_WORDS
        self._small = enough and not any(word != word.lower() for word in words)
        self._bare = enough and not any(_PUNCTUATION.search(word) for word in words if word != "</s>")

    def predict(self, texts: pa.Array) -> Predictions:
        """Probabilities of the codes [N, C]; a text that the model knows nothing of is `OTHER` with 0. The share is 1."""
        probabilities = np.zeros((len(texts), len(self.labels)), np.float32)
        best = np.full(len(texts), len(self.labels) - 1, np.int64)
        if not len(texts):
            return Predictions(best, probabilities, np.ones(0, np.float32))
        found, scores = self.model.predict(self._lines(texts), k=-1, threshold=LEAST_PROBABILITY)
        for row, (names, values) in enumerate(zip(found, scores, strict=True)):
            unknown = 0.0
            for name, value in zip(names, values, strict=True):
                number = self._numbers[name]
                if number < len(self.labels) - 1:
                    probabilities[row, number] += value
                else:
                    unknown = max(unknown, value)
            if len(names):
                known = min(float(probabilities[row].sum()), 1.0)
                probabilities[row] = np.minimum(probabilities[row], 1.0)
                first = int(probabilities[row].argmax())
                best[row] = first if probabilities[row, first] >= max(unknown, LEAST_PROBABILITY) else best[row]
                probabilities[row, -1] = 1.0 - known
        return Predictions(best, probabilities, np.ones(len(texts), np.float32))

    def _lines(self, texts: pa.Array) -> list[str]:
        heads = pc.utf8_slice_codeunits(texts, 0, PREFIX_CHARS)
        heads = pc.utf8_lower(heads) if self._small else heads
        lines = pc.replace_substring(heads, "\n", " ").to_pylist()
        lines = [_PUNCTUATION.sub(" ", line) for line in lines] if self._bare else lines
        return [only_words(line) for line in lines]


def code_of(name: str, labels: Mapping[str, str], languages: Collection[str] = ()) -> str:
    """The code of a label of a model, without its `__label__`.

    >>> code_of("zsm_Latn", {}), code_of("cmn_Hani", {}), code_of("msa_Arab", {}), code_of("ace_Latn", {}, ["ace"])
    ('ms', 'zh', 'other', 'ace')
    """
    if name in labels:
        return labels[name]
    if name in languages:
        return name
    tag, *rest = name.replace("-", "_").split("_")
    code = CODES.get(tag.lower(), OTHER)
    if code != OTHER:
        return code if not rest or rest[0].title() in SCRIPTS[code] else OTHER
    return tag if tag in languages else OTHER


def unreadable() -> tuple[type[Exception], ...]:
    """What asking a place raises that is not there, refuses, or is of a kind that is not installed or known."""
    return ImportError, ValueError, *storage.faults()


def is_named(model: str) -> bool:
    """Whether `language.model` names a file and not a folder."""
    try:
        return model.endswith(ENDINGS) or storage.is_file(model)
    except unreadable():  # `load` says what is the matter
        return False


def load(uri: str, labels: Mapping[str, str], languages: Collection[str] = ()) -> FastTextFile:
    """The model in a file (any URI). labels: its label, without `__label__`, -> code of the recipe. Raises ValueError for a
    file that is no whole identifier, and for a label that it has not."""
    try:
        path = storage.localize(uri)
    except FileNotFoundError:
        raise ValueError(f"language.model: there is no file {uri}; correct the path") from None
    except ValueError as error:
        raise ValueError(f"language.model: {uri} cannot be reached: {error}") from None
    if not os.path.isfile(path):
        raise ValueError(f"language.model: there is no file {uri}; correct the path")
    check(path, uri)
    import fasttext

    try:
        model = fasttext.load_model(path)
    except (ValueError, MemoryError, RuntimeError) as error:
        raise ValueError(f"language.model: {uri} cannot be read by fastText: {error}") from None
    names = [label.removeprefix(LABEL) for label in model.get_labels()]
    for name in labels:
        if name not in names:
            near = nearest(name, names) if len(names) < 30 or nearest(name, names).startswith(" (") else ""
            raise ValueError(f"language.labels: {uri} has no label {name!r}{near}")
    return FastTextFile(model, labels, languages)


def check(path: str, uri: str) -> None:
    """Raises ValueError for a file that is no fastText model, has no labels, or does not end where it should."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(_HEADER.size)
        magic = struct.unpack("<i", head[:4])[0] if len(head) >= 4 else 0
        if magic != _MAGIC:
            raise ValueError(
                f"language.model: {uri} is no fastText model; give a .bin or .ftz of fastText, or the folder of a model of "
                "`pinisi train lid`"
            )
        broken = f"language.model: {uri} is not whole ({size:,} bytes); copy or download it again"
        if len(head) < _HEADER.size:
            raise ValueError(broken)
        fields = _HEADER.unpack(head)
        dim, kind, n_labels = fields[2], fields[9], fields[17]
        if kind != _SUPERVISED or n_labels < 1:
            raise ValueError(
                f"language.model: {uri} has vectors of words and no labels of languages; give an identifier"
            )
        if not _whole(file, size, dim, n_labels):
            raise ValueError(broken)


def _whole(file, size: int, dim: int, n_labels: int) -> bool:
    """Whether the file ends with the output matrix that its head announces: plain, or quantised, of which only the codebook is
    looked at. fastText itself reads zeros behind the end of a file and says nothing."""
    plain = struct.pack("<?2q", False, n_labels, dim)
    file.seek(max(0, size - 4 * dim * n_labels - len(plain)))
    if file.read(len(plain)) == plain:
        return True
    for norms in (0, n_labels + 4 * (4 + 256)):  # of the rows, by a codebook of their own
        file.seek(max(0, size - norms - 4 * (4 + 256 * dim)))
        if file.read(4) == struct.pack("<i", dim):
            return True
    return False
