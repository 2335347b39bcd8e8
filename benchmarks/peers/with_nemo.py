"""NeMo-Curator: its Gopher rules (quality and repetition), scored as its `ScoreFilter` does: rule by rule over pandas."""

from __future__ import annotations

import pandas as pd
from measure import documents, main, measured
from nemo_curator.stages.text.filters.heuristic import string
from nemo_curator.stages.text.filters.heuristic.repetition import repetition

QUALITY = (
    string.WordCountFilter(),
    string.MeanWordLengthFilter(),
    string.SymbolsToWordsFilter(),
    string.BulletsFilter(),
    string.EllipsisFilter(),
    string.WordsWithoutAlphabetsFilter(),
    string.CommonEnglishWordsFilter(stop_at_false=False),
)
REPETITION = (
    repetition.RepeatedLinesFilter(),
    repetition.RepeatedParagraphsFilter(),
    repetition.RepeatedLinesByCharFilter(),
    repetition.RepeatedParagraphsByCharFilter(),
    *(repetition.RepeatingTopNGramsFilter(n) for n in (2, 3, 4)),
    *(repetition.RepeatingDuplicateNGramsFilter(n) for n in range(5, 11)),
)


def filters(corpus: str) -> dict:
    text = pd.Series([row["text"] for row in documents(corpus)])
    parts, result = {}, {}
    with measured(result):
        for name, rules in (("gopher_quality", QUALITY), ("gopher_repetition", REPETITION)):
            with measured(one := {}):
                keep = pd.Series(True, text.index)
                for rule in rules:
                    keep &= text.apply(rule.score_document).apply(rule.keep_document)
            parts[name] = {**one, "kept": int(keep.sum())}
    return {**result, "parts": parts}


if __name__ == "__main__":
    main({"filters": filters})
