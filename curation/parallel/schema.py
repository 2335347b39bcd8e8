"""Sentence pairs as a table, and how a reader of parallel text hands them on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import xxhash

from cluster.shards import ledger_rows
from curation.schema import Limits
from curation.text.form import in_one_form

PAIR = pa.schema(
    [
        ("doc_id", pa.string()),
        ("url", pa.string()),
        ("source", pa.string()),
        ("source_id", pa.string()),
        ("licence", pa.string()),
        ("lang", pa.string()),
        ("lang_a", pa.string()),
        ("lang_b", pa.string()),
        ("text_a", pa.string()),
        ("text_b", pa.string()),
        ("file", pa.string()),
        ("position", pa.int64()),
    ]
)
"""A pair. `lang` is the pair of languages (`en-id`, in the order of the alphabet), `lang_a` and `lang_b` are its sides. `doc_id`
is a hash of source, languages and both texts, `position` the number of the pair in its file, counted from 0."""

STAGE = "parallel/pairs"
BATCH_ROWS = 1024
BATCH_CHARS = 4_000_000
NAME_CHARS = 500  # of an id, a URL or a detail, at most

Pairs = Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]


@dataclass(frozen=True)
class Origin:
    """A file of pairs: how rows name it, and what its rows have in common. `sides` are the languages in the order of `PAIR`."""

    source: str
    name: str
    sides: tuple[str, str]
    licence: str = ""
    limits: Limits = field(default_factory=Limits)


def pair_id(source: str, langs: tuple[str, str], texts: tuple[str, str]) -> str:
    """xxh3-128 of the source, the languages and both texts, 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest("\0".join([source, *langs, *texts]).encode())


def row(origin: Origin, number: int, sides: tuple[object, object], named: object = "", url: object = "") -> dict:
    """A pair with its raw texts, or a ledger row that says why it is none. `number` counts from 1; `named` is its own id."""
    place = f"{origin.name}:{number}"
    texts = []
    most = origin.limits.max_record_bytes
    for lang, value in zip(origin.sides, sides, strict=True):
        if isinstance(value, bytes | str) and len(value) > most:
            return drop(origin, place, "record_too_large", value=len(value), threshold=most)
        try:
            text = value.decode("utf-8") if isinstance(value, bytes) else value
            if isinstance(text, str):
                text.encode("utf-8")  # half a surrogate pair is no text
        except UnicodeError as problem:
            return drop(origin, place, "invalid_utf8", detail=f"{place}, {lang}: {problem}")
        if not isinstance(text, str):
            return drop(origin, place, "missing_side", detail=f"{place}: no text in {lang}")
        if "\0" in text:
            return drop(origin, place, "control_character", detail=f"{place}, {lang}: a NUL")
        lines = [line.strip(" \t\ufeff") for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
        text = "\n".join(lines).strip()
        if not text:
            return drop(origin, place, "empty_side", detail=f"{place}: {lang} is empty")
        if (size := len(text.encode())) > most:
            return drop(origin, place, "record_too_large", value=size, threshold=most)
        texts.append(text)
    return {
        "url": _short(url),
        "source_id": _short(named) or place,
        "text_a": texts[0],
        "text_b": texts[1],
        "position": number - 1,
    }


def _short(value: object) -> str:
    """What stands beside the texts, as text whatever it is."""
    return str(value)[:NAME_CHARS].encode("utf-8", "replace").decode() if isinstance(value, str | int) else ""


def drop(origin: Origin, place: str, rule: str, *, value=None, threshold=None, detail: str = "") -> dict:
    """A ledger row of a reader. Its URL is its place, by which it is found."""
    return {
        "doc_id": xxhash.xxh3_128_hexdigest(f"{origin.source}\n{place}".encode("utf-8", "replace")),
        "url": _short(place),
        "lang": "-".join(origin.sides),
        "rule": rule,
        "value": None if value is None else float(value),
        "threshold": threshold,
        "detail": _short(detail) or None,
    }


def batches(rows: Iterable[dict], origin: Origin) -> Pairs:
    """Cut a stream of `row` and `drop` rows into (batch of `PAIR`, ledger batch), both texts in one form."""
    kept: list[dict] = []
    dropped: list[dict] = []
    chars = 0
    for one in rows:
        if "rule" in one:
            dropped.append(one)
        else:
            kept.append(one)
            chars += len(one["text_a"]) + len(one["text_b"])
        if len(kept) + len(dropped) >= BATCH_ROWS or chars >= BATCH_CHARS:
            yield _batch(kept, origin), ledger_rows(STAGE, dropped)
            kept, dropped, chars = [], [], 0
    if kept or dropped:
        yield _batch(kept, origin), ledger_rows(STAGE, dropped)


def _batch(rows: list[dict], origin: Origin) -> pa.RecordBatch:
    sides = [
        in_one_form(pa.array([one[name] for one in rows], pa.string())).to_pylist() for name in ("text_a", "text_b")
    ]
    common = {
        "source": origin.source,
        "licence": origin.licence,
        "lang": "-".join(origin.sides),
        "lang_a": origin.sides[0],
        "lang_b": origin.sides[1],
        "file": origin.name,
    }
    made = []
    for one, *texts in zip(rows, *sides, strict=True):
        ids = {"doc_id": pair_id(origin.source, origin.sides, (texts[0], texts[1]))}
        made.append({**one, **common, **ids, "text_a": texts[0], "text_b": texts[1]})
    return pa.RecordBatch.from_pylist(made, PAIR)


def named(batch: pa.RecordBatch | pa.Table, i: int) -> dict:
    """How a ledger names a pair: by its id, its languages, and its URL, or what its source calls it."""
    url = batch["url"][i].as_py() or batch["source_id"][i].as_py()
    return {"doc_id": batch["doc_id"][i].as_py(), "url": url, "lang": batch["lang"][i].as_py()}
