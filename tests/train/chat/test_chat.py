"""Validation of conversations, ChatML rendering, masks."""

import copy

import numpy as np
import pytest
from tokenizers import processors

from cluster.chatml import TEMPLATE
from mixture.tokenizer.tokenizer import with_chat_template
from train.chat.conversations import encode, encode_answers, encode_prompts, fault, render, validate
from train.chat.tokens import im_end_id

TALK = [
    {"role": "system", "content": "Jawab singkat."},
    {"role": "user", "content": "Apa kabar?"},
    {"role": "assistant", "content": "Baik. 👍🏽 ສະບາຍດີ"},
    {"role": "user", "content": "ข้าว ပါ ជាភាសា"},
    {"role": "assistant", "content": "ပါတယ်\n\n漢字"},
]


def turns(*roles):
    return [{"role": role, "content": f"x{i}"} for i, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("messages", "rule"),
    [
        (None, "not_a_conversation"),
        ([], "not_a_conversation"),
        (["hello"], "not_a_conversation"),
        ([{"role": "user", "content": None}], "not_a_conversation"),
        ([{"role": "user"}, {"role": "assistant", "content": "x"}], "not_a_conversation"),
        (turns("user", "tool"), "tool_call"),
        (turns("user", "narrator"), "unknown_role"),
        ([{"role": "user", "content": " \n\t"}, {"role": "assistant", "content": "x"}], "empty_turn"),
        ([{"role": "user", "content": "a<|im_end|>b"}, {"role": "assistant", "content": "x"}], "control_token"),
        (turns("user", "system", "assistant"), "system_not_first"),
        (turns("system", "system", "user", "assistant"), "system_not_first"),
        (turns("user", "user", "assistant"), "roles_do_not_alternate"),
        (turns("assistant", "user", "assistant"), "roles_do_not_alternate"),
        (turns("system", "assistant"), "roles_do_not_alternate"),
        (turns("user", "assistant", "user"), "wrong_last_turn"),
        (turns("system"), "wrong_last_turn"),
    ],
)
def test_every_broken_rule_is_named(messages, rule):
    assert fault(messages)[0] == rule


@pytest.mark.parametrize("roles", [("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant") * 3])
def test_good_conversations_have_no_fault(roles):
    assert fault(turns(*roles)) is None


def test_validate_keeps_strips_and_ledgers():
    rows = [
        {"id": "a", "lang": "id", "task": "qa", "messages": [*TALK[:4], {"role": "assistant", "content": " ya \n"}]},
        {"id": "b", "lang": "th", "messages": turns("user")},
        {"id": "a", "lang": "id", "messages": TALK},
    ]
    kept, rejects = validate(rows)
    assert [row["id"] for row in kept] == ["a"]
    assert kept[0]["messages"][-1]["content"] == "ya"
    assert kept[0]["task"] == "qa"
    assert [(r["doc_id"], r["lang"], r["rule"]) for r in rejects] == [
        ("b", "th", "wrong_last_turn"),
        ("a", "id", "repeated_id"),
    ]
    assert all(set(r) == {"doc_id", "lang", "rule", "detail"} for r in rejects)


def test_render_is_chatml():
    text, spans = render(TALK[:3])
    assert text == (
        "<|im_start|>system\nJawab singkat.<|im_end|>\n"
        "<|im_start|>user\nApa kabar?<|im_end|>\n"
        "<|im_start|>assistant\nBaik. 👍🏽 ສະບາຍດີ<|im_end|>\n"
    )
    assert [text[start:end] for start, end in spans] == ["\nBaik. 👍🏽 ສະບາຍດີ<|im_end|>\n"]


def test_the_template_of_exported_models_renders_the_same(chatml_tokenizer):
    kwargs = {"chat_template": TEMPLATE, "tokenize": False}
    assert chatml_tokenizer.apply_chat_template(TALK, **kwargs) == render(TALK)[0]
    prompt = chatml_tokenizer.apply_chat_template(TALK[:4], add_generation_prompt=True, **kwargs)
    assert chatml_tokenizer(prompt)["input_ids"] == encode_prompts(chatml_tokenizer, [TALK[:4]])[0]


def test_scored_tokens_spell_the_assistant_turns(chatml_tokenizer):
    (example,) = encode(chatml_tokenizer, [{"id": "a", "lang": "lo", "messages": TALK}])
    assert chatml_tokenizer.decode(example.ids[example.scored]) == (
        "\nBaik. 👍🏽 ສະບາຍດີ<|im_end|>\n\nပါတယ်\n\n漢字<|im_end|>\n"
    )
    (example,) = encode(chatml_tokenizer, [{"id": "a", "lang": "lo", "messages": TALK}], score="content")
    assert chatml_tokenizer.decode(example.ids[example.scored]) == "Baik. 👍🏽 ສະບາຍດີပါတယ်\n\n漢字"


def test_answers_share_the_tokens_of_their_prompt_and_end(chatml_tokenizer):
    row = {"id": "a", "lang": "id", "prompt": TALK[:2]}
    one, two = encode_answers(chatml_tokenizer, [row, row], ["ya", "tidak, terima kasih"])
    prompt = encode_prompts(chatml_tokenizer, [TALK[:2]])[0]
    for example, answer in ((one, "ya"), (two, "tidak, terima kasih")):
        assert example.ids[: len(prompt)].tolist() == prompt
        assert not example.scored[: len(prompt)].any()
        assert example.ids[-1] == im_end_id(chatml_tokenizer)
        assert chatml_tokenizer.decode(example.ids[example.scored]) == f"{answer}<|im_end|>"
    (open_end,) = encode_answers(chatml_tokenizer, [row], ["ya"], score_end=False)
    assert chatml_tokenizer.decode(open_end.ids[open_end.scored]) == "ya"


def test_an_answer_apart_has_the_tokens_that_it_has_in_the_conversation(chatml_tokenizer):
    (whole,) = encode(chatml_tokenizer, [{"id": "a", "lang": "lo", "messages": TALK}])
    (apart,) = encode_answers(chatml_tokenizer, [{"id": "a", "lang": "lo", "prompt": TALK[:-1]}], [TALK[-1]["content"]])
    newline = chatml_tokenizer("\n")["input_ids"]
    assert np.array_equal(whole.ids, [*apart.ids, *newline])


def test_no_rows_give_no_examples(chatml_tokenizer):
    assert encode(chatml_tokenizer, []) == encode_answers(chatml_tokenizer, [], []) == []


def test_a_tokenizer_without_chatml_is_a_clear_error():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ValueError, match=r"has no <\|im_start\|> and <\|im_end\|>"):
        encode(tokenizer, [{"id": "a", "lang": "id", "messages": TALK}])


def test_a_conversation_begins_as_the_base_was_trained(chatml_tokenizer):
    own = copy.deepcopy(chatml_tokenizer)
    template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 300)])
    own.add_special_tokens({"bos_token": "<s>"})
    own.backend_tokenizer.post_processor = template
    own = with_chat_template(own)
    talk = [{"role": "user", "content": "the boat"}, {"role": "assistant", "content": "sails"}]
    row = {"id": "1", "lang": "en", "messages": talk, "prompt": talk[:1]}
    (example,) = encode(own, [row])
    (plain,) = encode(chatml_tokenizer, [row])
    assert example.ids.tolist() == [300, *plain.ids] and example.scored.tolist() == [False, *plain.scored]
    assert own.apply_chat_template(talk, tokenize=False) == "<s>" + render(talk)[0]
    assert own.apply_chat_template(talk)["input_ids"] == example.ids.tolist()
    (prompt,) = encode_prompts(own, [talk[:1]])
    assert own.apply_chat_template(talk[:1], add_generation_prompt=True)["input_ids"] == prompt
    assert encode_answers(own, [row], ["sails"])[0].ids.tolist()[: len(prompt)] == prompt
