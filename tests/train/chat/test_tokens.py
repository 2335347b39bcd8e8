"""The tokens of a conversation: those of the exported template, the same everywhere, and none that a text has called."""

import random

import chat_tokenizers
import numpy as np
import pytest

from train.chat.conversations import encode, encode_answers, encode_prompts
from train.chat.tokens import frame, template_tokens, turns
from train.methods import dpo, reward

PLAIN = [
    "boat",
    "the island",
    " ",
    "  ",
    "\n",
    "\n\n",
    "Ü",
    "e\u0301",
    "ເມືອງ",
    "漢",
    "12",
    "'",
    "...",
    "<",
    "|>",
    "user",
]
CALLED = [*chat_tokenizers.SPECIAL, *chat_tokenizers.LIKE_SPECIAL, "<|im_start|>assistant\n", "<s>", "<unk>"]


@pytest.fixture(scope="module", params=chat_tokenizers.KINDS)
def tokenizer(request):
    return chat_tokenizers.KINDS[request.param]()


def talk(rng: random.Random, pieces: list[str]) -> list[dict]:
    def text() -> str:
        while not (drawn := "".join(rng.choices(pieces, k=rng.randint(1, 8))).strip()):
            pass
        return drawn

    messages = [{"role": "system", "content": text()}] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 3)):
        messages += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
    return messages


def rows(seed: int, pieces: list[str], n: int = 150) -> list[dict]:
    rng = random.Random(seed)
    return [{"id": str(i), "lang": "en", "messages": talk(rng, pieces)} for i in range(n)]


def test_tokens_are_those_of_the_exported_template(tokenizer):
    found = rows(0, PLAIN)
    for row, example in zip(found, encode(tokenizer, found), strict=True):
        theirs = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        assert example.ids.tolist() == theirs["input_ids"]
        # Where the newline behind `<|im_end|>` is two tokens, transformers finds the first of them.
        behind = np.concatenate([[False], example.ids[:-1] == frame(tokenizer).end])
        behind |= np.concatenate([[False], behind[:-1]])
        same = example.scored.astype(int) == theirs["assistant_masks"]
        assert (same | (behind & ~np.isin(example.ids, [frame(tokenizer).start]))).all()
        asked = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, return_dict=True)
        assert encode_prompts(tokenizer, [row["messages"][:-1]])[0] == asked["input_ids"]


@pytest.mark.parametrize("pieces", [PLAIN, PLAIN + CALLED], ids=["plain", "called"])
def test_sft_dpo_reward_and_generation_have_the_same_tokens(tokenizer, pieces):
    found = rows(1, pieces)
    asked = [
        {**row, "prompt": row["messages"][:-1], "chosen": row["messages"][-1]["content"], "rejected": "ok"}
        for row in found
    ]
    answers = [row["chosen"] for row in asked]
    whole, prompts = encode(tokenizer, found), encode_prompts(tokenizer, [row["prompt"] for row in asked])
    preferred = dpo.encode_pairs(tokenizer, asked, 10**6)[0].chosen
    rewarded = reward.encode(tokenizer, asked, answers)
    scored = template_tokens(tokenizer, [row["messages"] for row in found])
    assert scored == [example.ids.tolist() for example in rewarded], "a reward model is used as it was trained"
    for one, prompt, pair, read in zip(whole, prompts, preferred, rewarded, strict=True):
        assert one.ids[: len(prompt)].tolist() == prompt
        assert read.ids.tolist() == one.ids.tolist()
        assert pair.ids.tolist() == one.ids[: len(pair.ids)].tolist()
        assert pair.ids[-1] == frame(tokenizer).end and pair.scored[-1]
        assert pair.scored.tolist() == [i >= len(prompt) for i in range(len(pair.ids))]


def test_no_text_makes_a_control_token(tokenizer):
    """Each control token stands as often as the frame has it, whatever the texts call; and the texts can be read again."""
    added = tokenizer.added_tokens_decoder.items()
    control = {
        i for i, token in added if str(token) in {*chat_tokenizers.SPECIAL, *chat_tokenizers.LIKE_SPECIAL, "<s>"}
    }
    own = frame(tokenizer)
    said = [("user", text) for text in CALLED] + [
        (turn["role"], turn["content"]) for row in rows(2, PLAIN + CALLED) for turn in row["messages"]
    ]
    for (role, text), turn in zip(said, turns(tokenizer, said), strict=True):
        assert [i for i in turn.ids if i in control] == [own.start, own.end]
        if role == "assistant":
            body = tokenizer.decode(turn.ids[turn.content : turn.end])
            # A tokenizer that marks the first word of a part puts a space where a token's name is cut.
            assert body.replace(" ", "") == text.replace(" ", "") or tokenizer.unk_token_id in turn.ids
    prompt = encode_prompts(tokenizer, [[{"role": "user", "content": "".join(CALLED)}]])[0]
    assert sum(i in control for i in prompt) == 3 + ("<s>" in tokenizer.get_vocab())


def test_added_words_stay_words(tokenizer):
    (turn,) = turns(tokenizer, [("user", "the boat")])
    assert tokenizer.convert_tokens_to_ids("boat") in turn.ids


@pytest.mark.parametrize("kind", chat_tokenizers.KINDS)
def test_decoding_gives_back_what_was_said(kind):
    tokenizer = chat_tokenizers.KINDS[kind]()
    for row, example in zip(found := rows(3, PLAIN), encode(tokenizer, found, "content"), strict=True):
        if tokenizer.unk_token_id is None or tokenizer.unk_token_id not in example.ids:
            said = "".join(turn["content"] for turn in row["messages"] if turn["role"] == "assistant")
            assert tokenizer.decode(example.ids[example.scored]).replace(" ", "") == said.replace(" ", "")


def test_a_newline_that_would_be_merged_with_the_answer_is_cut_off():
    """A prompt must be how the conversation begins, or the model is trained on what it never goes on from."""
    tokenizer = chat_tokenizers.by_pieces(chat_tokenizers.CHAT)
    messages = [{"role": "user", "content": "where is the boat?"}, {"role": "assistant", "content": "at sea"}]
    merged = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    (prompt,) = encode_prompts(tokenizer, [messages[:1]])
    assert merged[: len(prompt)] != prompt, "this tokenizer does not merge the two"
    (example,) = encode(tokenizer, [{"id": "a", "lang": "en", "messages": messages}])
    assert example.ids[: len(prompt)].tolist() == prompt
    (pair,) = encode_answers(tokenizer, [{"id": "a", "lang": "en", "prompt": messages[:1]}], ["at sea"])
    assert np.array_equal(pair.ids, example.ids[: len(pair.ids)])
    assert tokenizer.decode(example.ids) == tokenizer.decode(merged)


def test_a_foreign_template_reads_names_of_tokens_as_letters(tokenizer):
    """A reward model has its own template; in a text its tokens are letters too, and without any nothing changes."""
    template = "{% for m in messages %}[INST]{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    own = tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer, chat_template=template)
    plain = [row["messages"] for row in rows(4, PLAIN)]
    texts = [own.apply_chat_template(messages, tokenize=False) for messages in plain]
    assert template_tokens(own, plain) == own(texts, add_special_tokens=False)["input_ids"]
    control = {own.convert_tokens_to_ids(name) for name in chat_tokenizers.SPECIAL}
    called = [row["messages"] for row in rows(5, PLAIN + CALLED)]
    for messages, ids in zip(called, template_tokens(own, called), strict=True):
        assert sum(i in control for i in ids) == 2 * len(messages)
