"""Options of many questions in one row against plain forward passes and lm-eval."""

import random

import numpy as np
import pytest
import torch
from shapes import TINY
from transformers import AutoConfig, AutoModelForCausalLM

from train import model
from train.kernels.attention import BRANCHES
from train.tasks.options import Question, option_scores

KINDS = {
    "qwen2": {},
    "llama": {},
    "gemma2": {"sliding_window": 8, "head_dim": 16},
    "gemma3_text": {
        "sliding_window": 8, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """Our model and the same in plain transformers."""
    torch.manual_seed(0)
    shape = {"vocab_size": 160, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    net = AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **shape, **KINDS[request.param]))
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.08)
    folder = str(tmp_path_factory.mktemp("options"))
    net.float().save_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return model.load(folder), plain


def questions(seed, n=25, longest=10):
    rnd = random.Random(seed)

    def tokens(low, high):
        return [rnd.randrange(3, 160) for _ in range(rnd.randrange(low, high))]

    shared = [tuple(tokens(1, 2)), tuple(tokens(5, 15)), tuple(tokens(5, 15))]
    return [
        Question(rnd.choice(shared), tokens(0, longest), [tokens(1, 6) for _ in range(rnd.randrange(2, 6))])
        for _ in range(n)
    ]


def plain_logprobs(net, ids):
    with torch.no_grad():
        logp = net(torch.tensor([ids])).logits.double().log_softmax(-1)[0, :-1]
    return logp.gather(-1, torch.tensor(ids)[1:, None])[:, 0].numpy()


@pytest.mark.parametrize("tokens_per_row", [1, 60, None])
def test_scores_are_those_of_texts_read_one_by_one(both, tokens_per_row):
    ours, plain = both
    asked = questions(3)
    found = option_scores(ours, asked, whole=True, tokens_per_row=tokens_per_row)
    for question, one in zip(asked, found, strict=True):
        for option, score in zip(question.options, one.option, strict=True):
            wanted = plain_logprobs(plain, [*question.shared, *question.prompt, *option])
            assert score == pytest.approx(wanted[-len(option) :].sum(), abs=1e-5)
            assert one.before == pytest.approx(wanted[: -len(option)].sum(), abs=1e-5)


def test_a_question_has_the_same_scores_in_any_company(both):
    ours, _ = both
    asked = questions(5)
    together = option_scores(ours, asked)
    for question, one in zip(asked, together, strict=True):
        alone = option_scores(ours, [question])[0]
        np.testing.assert_allclose(one.option, alone.option, atol=1e-5)


def test_too_many_options_and_empty_ones_are_refused(both):
    for options in ([[5]] * BRANCHES, [[5], []]):
        with pytest.raises(ValueError, match="options"):
            option_scores(both[0], [Question((1,), [4], options)])


def test_equal_to_lm_eval_on_equal_tokens(tmp_path):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from mixture.tokenizer import tokenizer as tokenizers

    tokenizers.train_bpe(["some text for a tokenizer " * 50], 300, str(tmp_path / "t"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "t")
    model.save(model.build({**TINY, "vocab_size": 300}, 1), tokenizer, str(tmp_path / "m"), context=256)
    net = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    theirs = HFLM(pretrained=net, tokenizer=tokenizer, batch_size=4, device="cpu")
    asked = questions(9)
    requests = [(("", ""), [*q.shared, *q.prompt], list(option)) for q in asked for option in q.options]
    wanted = [score for score, _ in theirs._loglikelihood_tokens(requests, disable_tqdm=True)]
    found = np.concatenate([one.option for one in option_scores(model.load(str(tmp_path / "m")), asked)])
    np.testing.assert_allclose(found, wanted, atol=1e-4)
