import pyarrow as pa
import pytest

from mixture.tokenizer.fertility import FERTILITY, fertility


def test_a_row_for_each_language_and_tokenizer(chatml_tokenizer):
    texts = {"th": ["เรือแล่นไป"] * 3, "en": ["the boat", ""], "lo": []}
    table = fertility({"a": chatml_tokenizer, "b": chatml_tokenizer}, texts, {"th": 9, "en": 2, "lo": 0})
    assert table.schema == FERTILITY
    rows = table.to_pylist()
    assert [(row["lang"], row["tokenizer"]) for row in rows] == [(x, y) for x in ("en", "lo", "th") for y in "ab"]
    n = len(chatml_tokenizer("the boat").input_ids)
    expected = {"documents": 2, "bytes": 8, "words": 2, "tokens": n, "bytes_per_token": 8 / n, "tokens_per_word": n / 2}
    assert rows[0] == {"lang": "en", "tokenizer": "a", **expected}
    assert rows[2]["tokens"] == 0
    assert rows[2]["bytes_per_token"] is rows[2]["tokens_per_word"] is None
    n = len(chatml_tokenizer(texts["th"][0]).input_ids)
    assert rows[4]["tokens_per_word"] == pytest.approx(n / 3)
    assert fertility({}, texts).num_rows == 0
    assert fertility({"a": chatml_tokenizer}, texts)["words"].type == pa.int64()
