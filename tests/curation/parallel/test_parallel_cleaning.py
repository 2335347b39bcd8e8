"""Which pairs stay: lengths in every script, languages, copies, repeats on either side, passages of evaluation sets."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from cluster import storage
from curation.decontaminate import Lengths
from curation.parallel import documents, quoted, repeats
from curation.parallel.clean import Bounds, cleaner, length_ratio, similarity
from curation.parallel.schema import PAIR, pair_id

GOOD = {
    "id": "Para tetangga membawa buku-buku itu ke sekolah di atas kepala mereka.",
    "th": "เพื่อนบ้านเทินหนังสือไว้บนศีรษะแล้วนำไปที่โรงเรียน",
    "vi": "Hàng xóm đội sách trên đầu và mang đến trường học.",
    "zh": "邻居们把书顶在头上，一本一本搬到了学校。",
}
ENGLISH = "The neighbours carried the books to the school on their heads."


def pair(a, b, langs=("en", "id"), position=0, source="s"):
    doc_id = pair_id(source, langs, (a, b))
    return {
        **{"doc_id": doc_id, "url": "", "source": source, "source_id": f"f:{position + 1}", "licence": ""},
        **{"lang": "-".join(langs), "lang_a": langs[0], "lang_b": langs[1], "text_a": a, "text_b": b},
        **{"file": "f", "position": position},
    }


def batch(rows):
    return pa.RecordBatch.from_pylist(rows, PAIR)


def sides(langs, text):
    return pair(ENGLISH, text, ("en", langs)) if langs > "en" else pair(text, ENGLISH, (langs, "en"))


def test_a_pair_that_is_no_translation_leaves_with_its_reason():
    longer = f"{ENGLISH} Twice every year."
    rows = {
        None: [sides(lang, text) for lang, text in GOOD.items()] + [pair("Yes.", "Ya, tentu saja.")],
        "length_ratio": [pair(ENGLISH * 4, GOOD["id"]), sides("th", "หนังสือ" * 30)],
        "copy": [pair(ENGLISH, ENGLISH), pair(longer, longer.replace("books", "buku")), pair("2019", "2019")],
        "language": [pair(ENGLISH, "Les voisins ont porté les livres à l'école sur leur tête.")],
        "script_mismatch": [pair("Yes", "หนังสือ", ("en", "vi"))],
    }
    kernel = cleaner("lid.176", Bounds())
    for rule, mine in rows.items():
        kept, dropped = kernel(batch(mine))
        assert dropped["rule"].to_pylist() == [rule] * (0 if rule is None else len(mine)), rule
        assert kept.num_rows + dropped.num_rows == len(mine)
    kept, dropped = kernel(batch(rows["language"]))
    assert dropped["detail"][0].as_py() == "id" and dropped["url"][0].as_py() == "f:1"


def test_sizes_are_in_words_of_any_script():
    ratios = length_ratio(pa.array([ENGLISH] * 4), pa.array(list(GOOD.values())))
    assert ratios.max() < 1.6, dict(zip(GOOD, ratios, strict=True))
    assert length_ratio(pa.array(["one two"]), pa.array(["a b c d e"]))[0] == pytest.approx(8 / 5)
    assert similarity(pa.array(["a b", "", "a"]), pa.array(["b c", "", ""])).tolist() == [1 / 3, 1, 0]


def test_repeats_on_either_side_are_those_of_a_naive_search(tmp_path):
    rng = random.Random(1)
    words = [f"w{i}" for i in range(400)]
    texts = [" ".join(rng.choices(words, k=12)) for _ in range(40)]
    rows = []
    for n in range(240):
        langs = rng.choice([("en", "id"), ("en", "vi")])
        rows.append(pair(rng.choice(texts), " ".join(rng.choices(words, k=12)), langs, n, rng.choice("st")))
        if rng.random() < 0.2:
            rows.append({**rng.choice(rows), "position": n + 1000})
    uris = [str(tmp_path / f"part-{i:05d}.parquet") for i in range(3)]
    for i, uri in enumerate(uris):
        storage.write_table(uri, pa.Table.from_pylist(rows[i * 90 : (i + 1) * 90], PAIR))
    read = rows[:270]
    seen_ids, seen_sides, expected = set(), set(), []
    for n, one in enumerate(read):
        key = [(one["lang"], side, one[f"text_{side}"]) for side in "ab"]
        if one["doc_id"] in seen_ids:
            expected.append((n, "repeated_pair"))
        elif any(side in seen_sides for side in key[:1]):  # texts of side b are all different
            expected.append((n, "near_duplicate"))
        else:
            seen_sides.update(key)
        seen_ids.add(one["doc_id"])
    found = pa.concat_tables([repeats.found(uris, lang, 0.8) for lang in ("en-id", "en-vi")]).to_pylist()
    assert sorted((90 * int(one["part"][5:10]) + one["row"], one["rule"]) for one in found) == expected
    part = pa.Table.from_pylist([one for one in found if one["part"] == "part-00001.parquet"], repeats.REPEATS)
    part = part.sort_by("row").combine_chunks()
    kept, ledger = 0, []
    for begin in range(0, 90, 40):
        stay, gone = repeats.without(batch(read[90:180][begin : begin + 40]), begin, part)
        kept += stay.num_rows
        ledger += gone["rule"].to_pylist()
    assert kept + len(ledger) == 90 and len(ledger) == sum(90 <= n < 180 for n, _ in expected)


def test_near_duplicates_are_found_on_the_second_side_too(tmp_path):
    edited = GOOD["id"] * 3
    rows = [
        pair(ENGLISH, edited),
        pair("Quite another sentence in English.", edited.replace("sekolah", "sekolahan", 1)),
    ]
    storage.write_table(uri := str(tmp_path / "part-00000.parquet"), pa.Table.from_pylist(rows, PAIR))
    (one,) = repeats.found([uri], "en-id", 0.5).to_pylist()
    assert one["rule"] == "near_duplicate" and one["detail"] == f"id of {rows[0]['doc_id']}"
    other = [rows[0], pair(ENGLISH, GOOD["vi"], ("en", "vi"))]
    storage.write_table(uri, pa.Table.from_pylist(other, PAIR))
    assert not repeats.found([uri], "en-vi", 0.5).num_rows  # the same English beside another language


def test_pairs_that_quote_an_evaluation_set_on_either_side_leave(tmp_path):
    flores = tmp_path / "flores.jsonl"
    texts = {
        "en": ENGLISH,
        "th": GOOD["th"],
        "zh": GOOD["zh"],
        "short": "The Goats sleep here.",
        "shorter": "Thank you!",
    }
    flores.write_text("\n".join(json.dumps({"id": lang, "sentence": text}) for lang, text in texts.items()))
    rows = [
        pair(f"He said: {ENGLISH}", "Terjemahan lain yang tidak ada."),
        pair("Another thing that is said here.", f"ข่าว {GOOD['th']} ครับ", ("en", "th")),
        pair("“The goats sleep here”", "Terjemahan."),
        pair("Another thing that is said here.", GOOD["id"]),
        pair("Thank you.", "Terima kasih."),
        pair("The goats sleep here, too.", "Di sini juga."),
    ]
    kept, dropped = quoted.kernel([str(flores)], [], Lengths())(batch(rows))
    assert kept["doc_id"].to_pylist() == [one["doc_id"] for one in rows[3:]]
    assert dropped["detail"].to_pylist() == [f"flores.jsonl {one}" for one in ("en in en", "short in en", "th in th")]


def test_documents_hold_each_pair_once_and_do_not_depend_on_the_others():
    rows = [pair(f"Sentence {n} {{target}}.", f"Kalimat {n} {{source}}.", position=n) for n in range(4000)]
    writer = documents.Writer({"instruction": 0.4, "plain": 0.2, "interleaved": 0.4}, 8, documents.templates())
    made = list(writer.documents(rows))
    assert [one for document in made for one in document["pairs"]] == [row["doc_id"] for row in rows]
    of_format = {name: sum(len(d["pairs"]) for d in made if d["format"] == name) / 4000 for name in documents.FORMATS}
    assert of_format == pytest.approx({"instruction": 0.4, "plain": 0.2, "interleaved": 0.4}, abs=0.06)
    assert np.mean([d["direction"] == "en-id" for d in made]) == pytest.approx(0.5, abs=0.05)
    assert {d["template"].partition("-")[0] for d in made if d["template"]} == {"en", "id"}
    by_id = {row["doc_id"]: row for row in rows}
    for document in made:
        first, second = ("text_a", "text_b") if document["direction"] == "en-id" else ("text_b", "text_a")
        assert document["lang"] == document["direction"][-2:] and document["doc_id"] == document["pairs"][0]
        for one in document["pairs"]:
            text = document["text"]
            assert text.count(by_id[one][first]) == 1 == text.count(by_id[one][second])
            assert text.index(by_id[one][first]) < text.index(by_id[one][second])
    fewer = [row for n, row in enumerate(rows) if n % 3]
    chosen = {one: (d["format"], d["direction"]) for d in made for one in d["pairs"]}
    left = list(writer.documents(fewer))
    assert all(chosen[one] == (d["format"], d["direction"]) for d in left for one in d["pairs"])
    plain = documents.Writer({"plain": 1.0}, 8, documents.templates())
    assert {d["format"] for d in plain.documents(rows[:50])} == {"plain"}


def test_a_file_of_templates_is_checked(tmp_path):
    for text, said in (("{source}", "once each"), ("{target} {source}", "before the text"), (3, "once each")):
        (tmp_path / "en.yaml").write_text(json.dumps({"languages": {"en": "English"}, "templates": [text]}))
        with pytest.raises(ValueError, match=said):
            documents.templates(str(tmp_path))
    (tmp_path / "en.yaml").write_text("templates: [x]")
    with pytest.raises(ValueError, match="has `languages`"):
        documents.templates(str(tmp_path))


def test_an_encoder_parts_pairs_by_their_cosine(tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = sorted({*ENGLISH.lower().replace(".", "").split(), "buku", "sekolah"})
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]))
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    shape["max_position_embeddings"] = 24
    BertModel(BertConfig(vocab_size=len(words) + 4, **shape)).eval().save_pretrained(tmp_path)
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    from curation.encoder import can_pad
    from curation.parallel.embeddings import Encoder, kernel

    texts = [ENGLISH, "buku", "books to school on their heads", "sekolah buku"]
    encoder = Encoder(str(tmp_path))
    alone = np.concatenate([encoder.embeddings([text]) for text in texts])
    together = encoder.embeddings(texts)
    assert np.allclose(alone, together, atol=1e-5)  # padding is not looked at
    assert np.allclose((together**2).sum(1), 1, atol=1e-5)
    assert encoder.embeddings([ENGLISH * 9]).shape == (1, 16)  # longer than the model has positions
    tokenizer = SimpleNamespace(pad_token=None, eos_token=None, unk_token="?")
    can_pad(tokenizer)
    assert tokenizer.pad_token == "?"
    cosine = float(together[0] @ together[1])
    rows = [pair(ENGLISH, ENGLISH), pair(ENGLISH, "buku")]
    kept, dropped = kernel(str(tmp_path), (1 + cosine) / 2)(batch(rows))
    assert kept["doc_id"].to_pylist() == [rows[0]["doc_id"]]
    assert dropped["rule"].to_pylist() == ["alignment"] and dropped["value"][0].as_py() == pytest.approx(
        cosine, abs=1e-5
    )
