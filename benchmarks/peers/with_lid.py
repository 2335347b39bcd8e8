"""Language identifiers: CLD2 (pycld2) and HeLI (heliport), with what their users choose. Labels are as the tools name them."""

from __future__ import annotations

from measure import documents, main, measured


def cld2(corpus: str) -> dict:
    """Plain text, and its best guess where it is unsure, as short texts need. It raises for control characters."""
    import pycld2

    def label(text: str) -> str:
        try:
            return pycld2.detect(text, isPlainText=True, bestEffort=True)[2][0][1]
        except pycld2.error:
            printable = "".join(one for one in text if one.isprintable() or one == "\n")
            return pycld2.detect(printable, isPlainText=True, bestEffort=True)[2][0][1]

    return labels(corpus, label)


def heli(corpus: str) -> dict:
    """A line at a time is what it reads; its guess also where it is below its threshold of confidence."""
    from heliport import Identifier

    identifier = Identifier()
    return labels(corpus, lambda text: identifier.identify(text.replace("\n", " "), ignore_confidence=True))


def labels(corpus: str, label) -> dict:
    texts = [row["text"] for row in documents(corpus)]
    result: dict = {"labels": [label(text) for text in texts[:10]]}
    with measured(result):
        result["labels"] = [label(text) for text in texts]
    return result


if __name__ == "__main__":
    main({"cld2": cld2, "heli": heli})
