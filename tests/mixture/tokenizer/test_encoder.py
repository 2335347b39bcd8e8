"""Documents have the ids of the tokenizer, behind what it puts before a text."""

import copy

import pyarrow as pa
import pytest
from tokenizers import processors

from mixture.tokenizer.encoder import Encoder


@pytest.mark.parametrize("prefix", [[], ["<|im_start|>"], ["<|im_start|>", "<|endoftext|>"]])
def test_documents_begin_as_the_tokenizer_begins_a_text(chatml_tokenizer, prefix):
    own = copy.deepcopy(chatml_tokenizer)
    if prefix:
        template = " ".join([*prefix, "$A"])
        ids = [(token, own.convert_tokens_to_ids(token)) for token in prefix]
        own.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    texts = ["the boat", "", "ข้าวและปลา", "x"]
    encoder = Encoder(own)
    expected = [own.convert_tokens_to_ids(prefix) + ids.as_py() for ids in encoder.encode(pa.array(texts))]
    assert encoder.documents(pa.array(texts)).to_pylist() == expected == own(texts)["input_ids"]
    assert encoder.documents(pa.array(["?", *texts])[1:]).to_pylist() == expected  # a slice of a column
    assert encoder.documents(pa.array([], pa.string())).to_pylist() == []
