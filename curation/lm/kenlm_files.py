"""Perplexity models of somebody else: KenLM n-grams over SentencePiece pieces, in the layout of CCNet and SailCraft.

A folder has `<lang>.arpa.bin`, `<lang>.binary` or `<lang>.arpa`, and beside it `<lang>.sp.model`. The number of a document is
that of CCNet's `DocLM` (Wenzek et al. 2020), unrounded:

    perplexity = 10 ^ (-(sum over lines of log10 p(pieces, </s> | <s>)) / (sum over lines of (pieces + 1)))

from KenLM's own scores, through its Python module. Lines are normalised as for our models (`curation.lm.pieces`: digits become 0,
punctuation ASCII; empty lines are left out), and then as the model's pieces are written: one without capitals gets small
letters, one without combining marks and accents gets none, as in CCNet's models.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cluster import storage
from curation.lm.pieces import normal_lines

KEY = "filter.perplexity_models"
ENDINGS = (".arpa.bin", ".binary", ".arpa")
PIECES = ".sp.model"
LEAST_PIECES = 1000  # of a vocabulary that says how its text was written
_BINARY, _ARPA = b"mmap lm http://kheafield.com/code", b"\\data\\"


class KenLM:
    """The model of one language. Raises ValueError for files that KenLM or SentencePiece cannot read."""

    def __init__(self, lm: str, pieces: str) -> None:
        import kenlm
        import sentencepiece

        try:
            self.pieces = sentencepiece.SentencePieceProcessor(model_file=storage.localize(pieces))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{KEY}: {pieces} is no SentencePiece model: {error}") from None
        config = kenlm.Config()
        config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
        try:
            self.lm = kenlm.Model(storage.localize(lm), config)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{KEY}: KenLM cannot read {lm}: {error}") from None
        names = [self.pieces.id_to_piece(number) for number in range(len(self.pieces))]
        enough = len(names) >= LEAST_PIECES
        self.small = enough and not any(name != name.lower() for name in names if not name.startswith("<"))
        self.bare = enough and not any(_bare(name) != name for name in names)

    def perplexity(self, text: str) -> float:
        """Of a text, per piece; NaN for one without a piece."""
        text = text.lower() if self.small else text
        text = _bare(text) if self.bare else text
        total, count = 0.0, 0
        for line in normal_lines(pa.array([text], pa.large_string())):
            pieces = " ".join(self.pieces.encode(line, out_type=str))
            total += self.lm.score(pieces)
            count += len(pieces.split()) + 1
        return 10.0 ** (-total / count) if count else float("nan")

    def perplexities(self, texts: Sequence[str | None]) -> np.ndarray:
        """float64 [N]"""
        return np.array([self.perplexity(text or "") for text in texts], np.float64)


def _bare(text: str) -> str:
    """Without accents and other combining marks."""
    return "".join(one for one in unicodedata.normalize("NFD", text) if unicodedata.category(one) != "Mn")


def found(folder: str) -> dict[str, tuple[str, str]]:
    """The models in a folder (any URI): language -> (n-grams, pieces). Raises ValueError for one that cannot be used here."""
    names = sorted(storage.glob(storage.join(folder, "*")))
    models: dict[str, tuple[str, str]] = {}
    for uri in names:
        name = uri.rsplit("/", 1)[-1]
        ending = next((one for one in ENDINGS if name.endswith(one)), None)
        if name.endswith(".arpa.gz"):
            raise ValueError(f"{KEY}: {uri} is packed, which the module kenlm cannot read: gunzip it")
        if ending is None:
            continue
        lang = name.removesuffix(ending)
        if lang in models:
            raise ValueError(
                f"{KEY}: {folder} has two models of {lang}: {models[lang][0].rsplit('/', 1)[-1]} and {name}"
            )
        pieces = storage.join(folder, f"{lang}{PIECES}")
        if pieces.rsplit("/", 1)[-1] not in (one.rsplit("/", 1)[-1] for one in names):
            raise ValueError(
                f"{KEY}: {uri} has no {lang}{PIECES} beside it, the SentencePiece model that it was made with"
            )
        models[lang] = (uri, pieces)
    if models:
        _module(next(iter(models.values()))[0])
    return models


def check(models: dict[str, tuple[str, str]]) -> None:
    """Raises ValueError for files that are not what their names say. An ARPA file is only looked at: reading one takes long."""
    for lm, pieces in models.values():
        with storage.opened(lm) as file:
            head = file.read(64).lstrip()
        if not head.startswith((_BINARY, _ARPA)):
            raise ValueError(f"{KEY}: {lm} is neither a binary of KenLM nor an ARPA file")
        if head.startswith(_BINARY):
            KenLM(lm, pieces)


def _module(lm: str) -> None:
    try:
        import kenlm  # noqa: F401
    except ImportError:
        raise ValueError(
            f"{KEY}: {lm} is read by the module kenlm, which is not installed: pip install ufal-kenlm (or the extra pinisi[lm])"
        ) from None
