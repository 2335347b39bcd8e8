"""Ids in a smaller vocabulary: the same text, and exactly what the tokenizer with fewer merges would have given."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from mixture.regmix.small_vocabulary import SmallVocabulary, parts_of
from mixture.tokenizer import tokenizer as tokenizers

TEXTS = {
    "id": [
        "Perahu itu berlayar pagi-pagi sekali, sebelum angin datang dari timur. " * 3,
        "Anak-anak menunggu di pantai.",
    ],
    "th": ["เรือลำนั้นออกไปตั้งแต่เช้ามืด ก่อนลมจะมา " * 4, "เด็กๆ รออยู่ที่หาด"],
    "en": ["The boat went out before the wind came 1234 times; nobody waited. " * 3],
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [text for many in TEXTS.values() for text in many] * 3
    return tokenizers.train_bpe(texts, 420, str(tmp_path_factory.mktemp("bpe")))


def ids_of(tokenizer, texts):
    return np.concatenate(tokenizers.encode(tokenizer, texts)).astype(np.int64)


def counts(tokenizer):
    return {lang: np.bincount(ids_of(tokenizer, texts), minlength=len(tokenizer)) for lang, texts in TEXTS.items()}


@pytest.mark.parametrize("size", [257, 300, 380])
def test_the_text_stays(tokenizer, size):
    small = SmallVocabulary(tokenizer, counts(tokenizer), size)
    assert small.size == size == len(small.kept)
    for texts in TEXTS.values():
        ids = ids_of(tokenizer, texts)
        new = small.expand(ids)
        assert new.max() < size and len(new) >= len(ids)
        assert tokenizer.decode(small.kept[new]) == tokenizer.decode(ids)
    assert small.kept[small.eod] == tokenizer.eos_token_id
    assert small.expand(np.array([tokenizer.eos_token_id])).tolist() == [small.eod]
    assert small.expand(np.empty(0, np.uint32)).size == 0


def test_equals_the_tokenizer_with_fewer_merges(tokenizer):
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = 60
    base = len(tokenizer) - len(spec["model"]["merges"])
    kept = [t for t in range(len(tokenizer)) if t not in parts_of(tokenizer)]
    kept += list(parts_of(tokenizer))[:merges]
    rank = np.zeros(len(tokenizer))
    rank[kept] = 1  # as if these and no others were frequent
    small = SmallVocabulary(tokenizer, {"all": rank}, len(kept))
    assert len(kept) == base + merges
    spec["model"]["merges"] = spec["model"]["merges"][:merges]
    spec["model"]["vocab"] = {s: i for s, i in spec["model"]["vocab"].items() if i in set(kept)}
    fewer = Tokenizer.from_str(json.dumps(spec))
    for texts in TEXTS.values():
        want = np.concatenate([fewer.encode(text, add_special_tokens=False).ids for text in texts])
        np.testing.assert_array_equal(small.kept[small.expand(ids_of(tokenizer, texts))], want)


def test_a_small_language_keeps_its_tokens(tokenizer):
    many = counts(tokenizer)
    many["id"] = many["id"] * 1000  # a language of a thousand times the text takes no more of the vocabulary
    some = SmallVocabulary(tokenizer, counts(tokenizer), 320)
    np.testing.assert_array_equal(SmallVocabulary(tokenizer, many, 320).kept, some.kept)


def test_everything_fits(tokenizer):
    whole = SmallVocabulary(tokenizer, counts(tokenizer), 10**6)
    ids = ids_of(tokenizer, TEXTS["th"])
    np.testing.assert_array_equal(whole.expand(ids), ids)


def test_too_small(tokenizer):
    with pytest.raises(ValueError, match="does not hold"):
        SmallVocabulary(tokenizer, counts(tokenizer), 200)
