"""A tokenizer that puts the anchor before each text and chat, and the bytes that tokens stand for."""

import random

import pytest
from tokenizers.processors import TemplateProcessing

from cluster import document_tokens
from cluster.chatml import END_OF_TEXT
from mixture.tokenizer import anchor as anchors
from mixture.tokenizer import tokenizer as tokenizers
from train import model
from train.chat import conversations

TEXTS = ["selamat pagi dunia", "ສະບາຍດີ ຊາວໂລກ", "มีบ้าน 12 หลัง", "မင်္ဂလာပါ", "你好，世界", "👩‍👩‍👧 ok", "", "e\u0301 é"]
TALK = [{"role": "user", "content": "apa?"}, {"role": "assistant", "content": "ya"}]


@pytest.fixture
def made(tmp_path):
    tokenizers.train_bpe(TEXTS * 9, 300, str(tmp_path / "plain"))
    return tokenizers.load(str(tmp_path / "plain")), tmp_path


def test_texts_chats_and_prompts_begin_with_the_anchor_also_in_a_saved_model(made):
    plain, folder = made
    assert document_tokens.begin(plain) == [] and anchors.anchor(plain) == document_tokens.end(plain)
    row = {"id": "a", "lang": "id", "messages": TALK}
    before = conversations.encode(plain, [row])[0]
    anchor = anchors.anchor(plain)
    anchors.with_anchor(plain).save_pretrained(folder / "anchored")
    shape = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    net = model.build(shape | {"intermediate_size": 32})
    model.save(net, tokenizers.load(str(folder / "anchored")), str(folder / "model"), 64)
    for where in ("anchored", "model"):  # transformers makes the tokenizer of a qwen2 folder by its own rules
        own = tokenizers.load(str(folder / where))
        assert document_tokens.begin(own) == [anchor] and own.bos_token == END_OF_TEXT
        assert own("pagi")["input_ids"] == [anchor, *own("pagi", add_special_tokens=False)["input_ids"]]
        after = conversations.encode(own, [row])[0]
        assert after.ids.tolist() == [anchor, *before.ids.tolist()] and after.n_scored == before.n_scored
        assert own.apply_chat_template(TALK, tokenize=True)["input_ids"] == after.ids.tolist()
        prompt = conversations.encode_prompts(own, [TALK[:1]])[0]
        assert own.apply_chat_template(TALK[:1], add_generation_prompt=True)["input_ids"] == prompt
        assert prompt[0] == anchor
        assert document_tokens.end(own) == anchor  # what ends a document is still the same


def test_a_tokenizer_that_begins_texts_by_itself_stays_as_it_is(made):
    plain, _ = made
    start = plain.get_vocab()["<|im_start|>"]
    plain.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    template = plain.chat_template
    assert anchors.anchor(plain) == start
    assert document_tokens.begin(anchors.with_anchor(plain)) == [start] and plain.chat_template == template


def test_bytes_of_tokens_add_up_to_those_of_the_text(made):
    plain, _ = made
    draw = random.Random(5)
    for _ in range(200):
        text = "".join(draw.choice("".join(TEXTS)) for _ in range(draw.randrange(12)))
        text += draw.choice([*TEXTS, " \n\n ", END_OF_TEXT])
        ids, sizes = anchors.encode_with_bytes(plain, text)
        assert ids == tokenizers.encode(plain, [text])[0].tolist()
        assert len(ids) == len(sizes) and min(sizes, default=0) >= 0 and sum(sizes) == len(text.encode())
    ids, sizes = anchors.encode_with_bytes(plain, "ab ສ")
    assert sum(sizes[:2]) <= 3 and sizes[-1] + sizes[-2] + sizes[-3] >= 3
