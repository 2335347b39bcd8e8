"""A tiny random BERT over a vocabulary of words, and sequence classifiers of its kind with one and three labels."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
NAMES = {0: "low", 1: "middle", 2: "high"}


def write(folder, vocabulary):
    """Writes `base`, `one` and `three` into the folder; windows of 16 tokens. Returns the folder."""
    words = [*SPECIAL, *vocabulary]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    shape |= {"vocab_size": len(words), "max_position_embeddings": 16}
    three = {"num_labels": 3, "id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}}
    torch.manual_seed(1)
    for name, kind, own in (
        ("base", BertModel, {}),
        ("one", BertForSequenceClassification, {"num_labels": 1}),
        ("three", BertForSequenceClassification, three),
    ):
        kind(BertConfig(**shape, **own)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder
