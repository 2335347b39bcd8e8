"""dolma: its Gopher and C4 taggers. Like ours they compute every attribute and drop nothing."""

from __future__ import annotations

from unittest import mock

from measure import documents, main, measured

with mock.patch("nltk.download"):  # its import fetches tokenizer models that these taggers do not use
    from dolma.core.data_types import Document
    from dolma.taggers.c4 import C4Tagger, FasterC4Tagger
    from dolma.taggers.gopher import GopherTagger


def filters(corpus: str) -> dict:
    rows = documents(corpus)
    parts, result = {}, {}
    with measured(result):
        for name, tagger in (("gopher", GopherTagger()), ("c4", C4Tagger())):
            parts[name] = one(tagger, rows)
    parts["c4_v2"] = one(FasterC4Tagger(), rows)
    return {**result, "parts": parts}


def one(tagger, rows: list[dict]) -> dict:
    with measured(result := {}):
        for i, row in enumerate(rows):
            tagger.predict(Document(source="", id=str(i), text=row["text"]))
    return result


if __name__ == "__main__":
    main({"filters": filters})
