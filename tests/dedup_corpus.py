"""A small corpus for tests of deduplication: copies of every kind, whose fate is known, in several scripts."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster import storage
from curation.dedup.schema import DedupConfig
from curation.dedup.steps import dedup

SCHEMA = pa.schema([(name, pa.string()) for name in ("doc_id", "url", "lang", "text")])
CONFIG = DedupConfig(line_max_count=5, line_min_chars=20, min_words_left=5)
MENU = "Beranda | Tentang kami | Hubungi redaksi | Peta situs"
THAI = "ประชาชนทุกคนมีสิทธิที่จะได้รับการศึกษาอย่างเท่าเทียมกันในทุกจังหวัด"


def words(seed: int, n: int) -> list[str]:
    rng = np.random.default_rng(seed)
    syllables = ["ka", "la", "ma", "ri", "tu", "se", "nga", "pi", "no", "bu", "da", "we"]
    return ["".join(word) for word in rng.choice(syllables, (n, 3)).tolist()]


def document(name: str, text: str, url: str = "", lang: str = "id") -> dict:
    return {"doc_id": name, "url": url, "lang": lang, "text": text}


def corpus() -> list[dict]:
    """60 pages of their own, with known copies; a menu on twelve of them; Thai, empty and symbol-only pages."""
    docs = [document(f"a{i:02d}", " ".join(words(i, 120)), f"https://contoh.id/{i}") for i in range(60)]
    for i in range(12):
        docs[i]["text"] = f"  {MENU} \n" + docs[i]["text"]
    edited = words(20, 120)
    edited[60] = "berbeda"
    docs += [
        document("b1", docs[15]["text"] + " versi yang lebih panjang", "http://www.contoh.id/15/?utm_source=x"),
        document("b2", " ".join([*edited, "tambahan"]), "https://lain.id/salinan"),  # near a20, longer: stays
        document("b3", " ".join(edited), "https://lain.id/salinan-kedua"),
        document("b4", " ".join(words(30, 120)), "https://lain.id/bahasa", lang="ms"),  # copy of a30, other language
        document("b5", f"{MENU}\nhanya ini", "https://lain.id/menu"),  # little left when the menu is cut
        document("b6", "", "https://lain.id/kosong"),
        document("b7", "", "https://lain.id/kosong-juga"),
        document("b8", "★ ★ ★", "https://lain.id/bintang"),
        document("b9", "— — —", "https://lain.id/garis"),
        document("c1", " ".join(words(99, 80))),  # the same record twice, no URL
        document("c1", " ".join(words(99, 80))),
        document("c2", "", ""),
        document("c3", "", ""),
        document("t1", THAI * 2, "https://t.th/1", "th"),
        document("t2", THAI * 2, "https://t.th/2", "th"),
        document("t3", "ฝนตกหนักในภาคเหนือตั้งแต่เช้าวันนี้ ชาวบ้านเตรียมเรือไว้รับน้ำท่วม", "https://t.th/3", "th"),
    ]
    return docs


def chain() -> list[dict]:
    """Seven documents, each near the one before and the first far from the last; and two with a paragraph in common."""
    text = words(500, 200)
    docs = []
    for i in range(7):
        docs.append(document(f"k{i}", " ".join([*text, *words(600 + i, 1)]), f"https://rantai.id/{i}"))
        text = text[:25] + words(700 + i, 1) + text[26:] if i % 2 else [*words(800 + i, 8), *text[8:]]
        text = [*text[10:], *text[:10]]
    shared = " ".join(words(900, 40))
    docs.append(document("s1", " ".join(words(901, 90)) + "\n" + shared + "\n" + " ".join(words(902, 50))))
    docs.append(document("s2", " ".join(words(903, 60)) + "\n" + shared + "\n" + " ".join(words(904, 30))))
    docs.append(document("s3", "ya " + shared))
    return docs


def write_parts(folder: Path, docs: list[dict], n: int, schema: pa.Schema = SCHEMA) -> list[str]:
    uris = []
    for i in range(n):
        uri = str(folder / f"part-{i:05d}.parquet")
        storage.write_table(uri, pa.Table.from_pylist(docs[i::n], schema))
        uris.append(uri)
    return uris


def run(
    engine, folder: Path, parts: list[str], config: DedupConfig = CONFIG, **options
) -> tuple[dict, pa.Table, pa.Table]:
    """(counts, documents sorted by id, ledger sorted by id)."""
    counts = dedup(engine, parts, str(folder / "dedup"), str(folder / "dropped"), config, "f1", **options)
    kept, ledger = storage.read_table(str(folder / "dedup")), storage.read_table(str(folder / "dropped"))
    return counts, kept.sort_by("doc_id"), ledger.sort_by([("doc_id", "ascending"), ("rule", "ascending")])


def files(folder: Path) -> dict[str, bytes]:
    """Every Parquet file and marker that a run of `run` leaves, by its path."""
    found = [*(folder / "dedup").rglob("*.parquet"), *(folder / "dropped").rglob("*.parquet")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(found)}
