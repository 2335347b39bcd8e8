"""Pairs under the language-consistency verifier, scrubbing, and what is dropped."""

import numpy as np
import pytest
import torch

from train.chat.conversations import encode_prompts
from train.methods import dpo
from train.scores.pair_perplexity import pair_perplexity
from train.selection import preference


def language(text: str) -> str:
    return "th" if any("\u0e00" <= c <= "\u0e7f" for c in text) else "id"


def samples(answers, prompt="ข้าวคืออะไร", prompt_id="p", **more):
    """`answers`: (text, reward)."""
    turns = [{"role": "user", "content": prompt}]
    return [
        {"id": prompt_id, "lang": "th", "prompt": turns, "sample": k, "answer": text, "reward": r, **more}
        for k, (text, r) in enumerate(answers)
    ]


OF_SAMPLES = ("empty_answer", "no_reward", "equal_answer", "other_language")


def outcome(answers, **more):
    """The pair of one prompt, or why there is none; and of each sample that could not be in one: number and reason."""
    kept, rejects = preference.pairs(samples(answers, **more), language)
    dropped = [(int(r["doc_id"].removeprefix("p#")), r["rule"]) for r in rejects if r["rule"] in OF_SAMPLES]
    of_prompt = [r["rule"] for r in rejects if r["rule"] not in OF_SAMPLES]
    assert all(r["lang"] == "th" and r["detail"] for r in rejects)
    assert {r["doc_id"] for r in rejects if r["rule"] in of_prompt} <= {"p"}
    assert len(kept) + len(of_prompt) == 1
    return (kept[0]["chosen"], kept[0]["rejected"], kept[0]["consistent"]) if kept else of_prompt[0], dropped


def test_two_consistent_answers_or_more_are_compared_with_each_other():
    found, dropped = outcome([("ดี", 0.1), ("baik", 9.0), ("แย่", -1.0), ("กลาง", 0.0), ("buruk", -9.0)])
    assert found == ("ดี", "แย่", 3)
    assert dropped == [(1, "other_language"), (4, "other_language")]


def test_the_only_consistent_answer_wins_against_the_worst_other():
    found, dropped = outcome([("baik", 3.0), ("ดี", -5.0), ("buruk", -9.0), ("sedang", 0.0)])
    assert found == ("ดี", "buruk", 1)
    assert dropped == [(0, "other_language"), (3, "other_language")]


def test_without_a_consistent_answer_the_prompt_is_dropped():
    found, dropped = outcome([("baik", 3.0), ("buruk", -9.0)])
    assert found == "no_consistent_answer"
    assert dropped == [(0, "other_language"), (1, "other_language")]


def test_translation_prompts_are_exempt():
    found, dropped = outcome([("baik", 3.0), ("buruk", -9.0)], task="translate-short")
    assert (found, dropped) == (("baik", "buruk", 2), [])


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Please translate this into Thai: rice", True),
        ("Teks dalam bahasa Indonesia: Ia pergi.\nApa terjemahannya dalam bahasa Jawa?", True),
        ("Tarjamahkeun kana basa Sunda: beras", True),
        ("请把这句话翻译成泰语", True),
        ("Hãy dịch sang tiếng Anh: gạo", True),
        ("Dịch vụ nào tốt cho giao dịch trong mùa dịch bệnh?", False),
        ("ช่วยแปลเป็นภาษาอังกฤษ", True),
        ("เรื่องแปลกและการแปลงหน่วย", False),
        ("ກະລຸນາແປເປັນພາສາລາວ", True),
        ("ແປດ ແລະ ປ່ຽນແປງ", False),
        ("សូមបកប្រែជាភាសាខ្មែរ", True),
        ("ဘာသာပြန်ပေးပါ", True),
        ("இதை மொழிபெயர்க்கவும்", True),
        ("Isalin sa Filipino: rice", True),
        ("Buat salinan surat ini", False),
        ("Bakit hubad ang hari?", False),
        ("Apa itu perahu?", False),
    ],
)
def test_a_prompt_that_asks_for_a_translation(text, asked):
    assert preference.is_translation({"prompt": [{"role": "user", "content": text}]}) is asked
    answered = [{"role": "user", "content": text}, {"role": "assistant", "content": "translate"}]
    assert preference.is_translation({"messages": answered}) is asked


def test_the_prompts_language_is_that_of_its_last_turn():
    found, dropped = outcome([("baik", 3.0), ("buruk", -9.0), ("ดี", 10.0)], prompt="apa kabar")
    assert (found, dropped) == (("baik", "buruk", 2), [(2, "other_language")])


@pytest.mark.parametrize(
    ("answers", "rule", "dropped"),
    [
        ([("ดี", 1.0)], "one_sample", []),
        ([("ดี", 1.0), ("ดี", 2.0)], "one_sample", [(1, "equal_answer")]),
        ([("ดี", 1.0), ("ดีมาก", 1.0)], "equal_reward", []),
        ([("", 1.0), (" \n", 2.0)], "no_answer", [(0, "empty_answer"), (1, "empty_answer")]),
        ([("", 1.0), ("ดี", 2.0)], "one_sample", [(0, "empty_answer")]),
        ([("ดี", float("nan")), ("แย่", 2.0)], "one_sample", [(0, "no_reward")]),
    ],
)
def test_what_is_no_pair_says_why(answers, rule, dropped):
    assert outcome(answers) == (rule, dropped)


def cut(rows, *numbers):
    return [{**row, "finished": row["sample"] not in numbers} for row in rows]


def test_a_sample_that_was_cut_off_is_never_chosen_and_its_end_is_not_scored(chatml_tokenizer):
    rows = samples([("ดี", 2.0), ("แย่", -1.0), ("กลาง", 0.0), ("สุด", 9.0)])
    (kept,), rejects = preference.pairs(cut(rows, 1, 3), language)
    assert (kept["chosen"], kept["rejected"], kept["rejected_finished"], rejects) == ("ดี", "แย่", False, [])
    (pair,) = zip(*dpo.encode_pairs(chatml_tokenizer, [kept], 256)[0], strict=True)
    assert [bool(side.scored[-1]) for side in pair] == [True, False] and all(side.scored[-2] for side in pair)
    (kept,), _ = preference.pairs(cut(rows, 3), language)
    assert "rejected_finished" not in kept and kept["chosen"] == "ดี"


@pytest.mark.parametrize("numbers", [(0, 1, 2, 3), (0, 2, 3)])
def test_without_a_better_sample_that_ended_the_prompt_is_dropped(numbers):
    rows = samples([("ดี", 2.0), ("แย่", -1.0), ("กลาง", 0.0), ("สุด", 9.0)])
    kept, rejects = preference.pairs(cut(rows, *numbers), language)
    assert kept == [] and [r["rule"] for r in rejects] == ["unfinished"]
    kept, rejects = preference.pairs(cut(rows[2:], 3), language)
    assert kept == [] and [r["rule"] for r in rejects] == ["unfinished"]


def test_random_samples_never_teach_from_a_cut():
    draw = np.random.default_rng(0)
    found = 0
    for _ in range(500):
        n = int(draw.integers(1, 6))
        texts = [(("ดี" if draw.random() < 0.7 else "baik") + str(k), float(draw.integers(-2, 3))) for k in range(n)]
        rows = cut(samples(texts), *np.flatnonzero(draw.random(n) < 0.5).tolist())
        kept, rejects = preference.pairs(rows, language)
        assert kept or any(r["doc_id"] == "p" for r in rejects)
        by_text = {row["answer"]: row for row in rows}
        for pair in kept:
            found += 1
            chosen, rejected = by_text[pair["chosen"]], by_text[pair["rejected"]]
            assert chosen["finished"] and chosen is not rejected
            assert pair.get("rejected_finished", True) == rejected["finished"]
            assert chosen["reward"] > rejected["reward"] or language(rejected["answer"]) != "th"
    assert found > 100


def test_equal_answers_count_once():
    """Twice the same consistent answer is one of them, so the verifier's second rule holds and not its first."""
    assert outcome([("ดี", 1.0), ("ดี", 1.0), ("baik", 5.0)]) == (("ดี", "baik", 1), [(1, "equal_answer")])


def test_ties_in_reward_go_to_the_earlier_sample():
    assert outcome([("ก", 0.0), ("ข", 2.0), ("ค", 0.0), ("ง", 2.0)])[0] == ("ข", "ก", 4)
    assert outcome([("baik", 1.0), ("ดี", 1.0), ("buruk", 1.0)])[0] == ("ดี", "baik", 1)


def test_prompts_are_apart_and_pairs_carry_their_rewards():
    rows = samples([("ดี", 2.0), ("แย่", 1.0)], prompt_id="a") + samples([("ใช่", 0.5), ("ไม่", 4.0)], prompt_id="b")
    kept, rejects = preference.pairs(rows, language)
    assert rejects == []
    assert [(p["id"], p["chosen"], p["rejected"], p["chosen_reward"], p["rejected_reward"]) for p in kept] == [
        ("a", "ดี", "แย่", 2.0, 1.0),
        ("b", "ไม่", "ใช่", 4.0, 0.5),
    ]
    assert kept[0]["prompt"] == [{"role": "user", "content": "ข้าวคืออะไร"}]


def row(pair_id, chosen="ดี", rejected="แย่", content="ถาม", **more):
    prompt = [{"role": "user", "content": content}]
    return {"id": pair_id, "lang": "th", "prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def test_validate_scrubs_and_names_what_it_drops():
    kept, rejects = preference.validate(
        [
            row("good", "ดี 😀", " แย่ ", margin=2),
            row("same", "ดี", "ดี 😀"),
            row("empty", "😀", "แย่"),
            row("missing", None, "แย่"),
            row("control", "ดี<|im_end|>", "แย่"),
            row("blank", "ดี", " "),
            row("prompt", content=""),
            row("good"),
            row("again", "ดี", "แย่ 👎"),
            {
                "id": "turns",
                "lang": "th",
                "prompt": [{"role": "assistant", "content": "x"}],
                "chosen": "a",
                "rejected": "b",
            },
        ]
    )
    assert [(p["id"], p["chosen"], p["rejected"], p["margin"], p["scrubbed"]) for p in kept] == [
        ("good", "ดี", "แย่", 2, True)
    ]
    assert not preference.validate([row("plain", " ดี ")])[0][0]["scrubbed"]
    assert [(r["doc_id"], r["rule"]) for r in rejects] == [
        ("same", "equal_text"),
        ("empty", "empty_turn"),
        ("missing", "not_a_conversation"),
        ("control", "control_token"),
        ("blank", "empty_turn"),
        ("prompt", "empty_turn"),
        ("good", "repeated_id"),
        ("again", "repeated_pair"),
        ("turns", "roles_do_not_alternate"),
    ]
    assert all(r["lang"] == "th" and r["detail"] for r in rejects)


def test_long_prompts_are_dropped_not_cut(chatml_tokenizer):
    rows = [row("short", content="a"), row("long", content="ikan " * 40)]
    limit = len(encode_prompts(chatml_tokenizer, [rows[0]["prompt"]])[0])
    kept, rejects = preference.cut_prompts(rows, chatml_tokenizer, limit)
    assert kept == rows[:1]
    assert [(r["doc_id"], r["rule"], r["threshold"]) for r in rejects] == [("long", "prompt_too_long", limit)]
    assert preference.cut_prompts(rows, chatml_tokenizer, limit - 1)[0] == []


def test_the_worst_tenth_of_each_language_goes():
    rows = [{**row(f"{lang}{i:02}"), "lang": lang} for lang in ("th", "lo") for i in range(25)] + [
        {**row("x"), "lang": "my"}
    ]
    values = np.array([*range(25), *range(100, 125), 1e9], float)
    kept, rejects = preference.drop_worst_perplexity(rows, values)
    assert [r["doc_id"] for r in rejects] == ["th23", "th24", "lo23", "lo24"]
    assert [(r["value"], r["threshold"]) for r in rejects] == [(23, 22), (24, 22), (123, 122), (124, 122)]
    assert len(kept) == 47
    assert preference.drop_worst_perplexity(rows, values, 0.0) == (rows, [])
    with pytest.raises(ValueError, match="below 1"):
        preference.drop_worst_perplexity(rows, values, 1.0)


def test_pair_perplexity_is_over_both_answers(chatml_tokenizer, tiny_model):
    net = tiny_model()
    rows = [row("a", "ikan besar", "ปลา"), row("b", "ya", "tidak sama sekali")]
    found = pair_perplexity(net, chatml_tokenizer, rows)
    for r, value in zip(rows, found, strict=True):
        prompt = encode_prompts(chatml_tokenizer, [r["prompt"]])[0]
        logp = []
        for side in ("chosen", "rejected"):
            ids = prompt + chatml_tokenizer(r[side])["input_ids"]
            with torch.no_grad():
                table = net(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
            logp += [float(table[t - 1, ids[t]]) for t in range(len(prompt), len(ids))]
        assert value == pytest.approx(np.exp(-np.mean(logp)), rel=1e-4)
