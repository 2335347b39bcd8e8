"""A row that is read bit by bit gives the scores and the answers of plain forward passes, in any company."""

import random

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from train import model
from train.long import answer
from train.long.answer import Prompt, Question
from train.long.row import Row

KINDS = {
    "qwen2": {},
    "llama": {},
    "gemma2": {"sliding_window": 24, "head_dim": 16},
    "gemma3_text": {
        "sliding_window": 24, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]
    },
}  # fmt: skip


class Letters:
    """A tokenizer whose token i is written `i `; 3 ends a line, 2 a document."""

    eos_token, eos_token_id = "</s>", 2

    def __len__(self):
        return 160

    def batch_decode(self, ids):
        return ["\n" if one == [3] else f"{one[0]} " for one in ids]

    def decode(self, ids, skip_special_tokens):
        return "".join(self.batch_decode([[i] for i in ids if i != 2]))


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    torch.manual_seed(0)
    shape = {"vocab_size": 160, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    net = AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **shape, **KINDS[request.param]))
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.08)
    folder = str(tmp_path_factory.mktemp("long"))
    net.float().save_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return model.load(folder).eval(), plain


def prompts(seed, n=4, longest=120):
    rnd = random.Random(seed)

    def tokens(low, high):
        return [rnd.randrange(4, 160) for _ in range(rnd.randrange(low, high))]

    def question(name):
        options = tuple(tokens(1, 5) for _ in range(rnd.choice([0, 2, 5])))
        room, texts = rnd.randrange(1, 7), ("aa",) * len(options)
        return Question(name, "needle", 0.5, tokens(1, 9), ("7",), "all", room, texts, options, (0,))

    out, text = [], tokens(1, longest)
    for number in range(n):
        text = text[: rnd.randrange(len(text))] + tokens(1, longest)  # what one begins with another may too
        out.append(Prompt(text, [question(f"{number}-{k}") for k in range(rnd.randrange(1, 6))]))
    return out


@torch.no_grad()
def plainly(net, prompt, question):
    """(log p of the options, tokens that are written) by whole forward passes."""
    before = [*prompt.ids, *question.ids]
    logprobs = []
    for option in question.options:
        logp = net(torch.tensor([[*before, *option]])).logits.double().log_softmax(-1)[0, len(before) - 1 : -1]
        logprobs.append(logp.gather(-1, torch.tensor(option)[:, None]).sum().item())
    written = []
    while len(written) < question.room and not {2, 3} & {*written}:
        written.append(net(torch.tensor([before + written])).logits[0, -1].argmax().item())
    return logprobs, written


@pytest.mark.parametrize(("together", "pairs"), [(1, None), (3, None), (16, 40), (16, 4000)])
def test_scores_and_answers_are_those_of_plain_forward_passes(both, together, pairs):
    ours, plain = both
    row = Row(ours, pairs)
    for prompt in prompts(11):
        found = answer.answered(row, Letters(), prompt, together)
        for question, one in zip(prompt.questions, found, strict=True):
            logprobs, written = plainly(plain, prompt, question)
            assert one["logprobs"] == pytest.approx(logprobs, abs=1e-5)
            assert one["answer"] == Letters().decode([i for i in written if i not in {2, 3}], True).strip()
            assert one["id"] == question.id


def test_what_two_texts_begin_with_is_read_once(both):
    ours, _ = both
    row, lengths = Row(ours), []
    read = row._some
    row._some = lambda ids, *more: lengths.append(len(ids)) or read(ids, *more)
    row.begin([5] * 50 + [6] * 10)
    row.begin([5] * 50 + [7] * 10)
    row.begin([5] * 20)
    assert lengths == [60, 10]
    assert row.ids == [5] * 20


def test_what_is_looked_at_at_a_time_is_bounded(both):
    ours, _ = both
    row, seen = Row(ours, 3000), []
    body = ours.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"].numel()), with_kwargs=True
    )
    row.begin([5] * 200)
    body.remove()
    assert len(seen) > 10
    assert max(seen) <= 3000
