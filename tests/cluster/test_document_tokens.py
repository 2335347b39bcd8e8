import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from cluster import document_tokens


def tokenizer(special, eos, prefix=(), suffix=()):
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["a", "b", "</s>ordinary", *special])}, "a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(list(special))
    if prefix or suffix:
        ids = [(token, backend.token_to_id(token)) for token in {*prefix, *suffix}]
        template = " ".join([*prefix, "$A", *suffix])
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos)


@pytest.mark.parametrize(
    ("prefix", "suffix"), [((), ()), (("<s>",), ()), (("[gMASK]", "<sop>"), ()), (("<s>",), ("</s>",)), ((), ("</s>",))]
)
def test_a_document_begins_with_what_the_tokenizer_puts_before_a_text(prefix, suffix):
    own = tokenizer(["<s>", "</s>", "[gMASK]", "<sop>"], "</s>", prefix, suffix)
    assert document_tokens.begin(own) == own.convert_tokens_to_ids(list(prefix))


@pytest.mark.parametrize(
    ("special", "eos", "end"),
    [
        (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|endoftext|>", "<|endoftext|>"),
        (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>", "<|endoftext|>"),  # Qwen2.5-Instruct
        (["<|end_of_text|>", "<|eot_id|>"], "<|eot_id|>", "<|end_of_text|>"),  # Llama 3 Instruct
        (["<s>", "</s>", "<|assistant_end|>"], "<|assistant_end|>", "</s>"),  # Apertus Instruct
        (["<eos>", "<end_of_turn>"], "<eos>", "<eos>"),
        (["[EOS]"], "[EOS]", "[EOS]"),
        (["<|im_end|>"], "<|im_end|>", "<|im_end|>"),  # it has no other
    ],
)
def test_a_document_ends_with_its_own_token_also_of_an_instruct_model(special, eos, end):
    own = tokenizer(special, eos)
    assert document_tokens.end(own) == own.convert_tokens_to_ids(end)


def test_a_tokenizer_without_an_end_is_refused():
    with pytest.raises(ValueError, match="no end-of-text token"):
        document_tokens.end(tokenizer(["<s>"], None))
