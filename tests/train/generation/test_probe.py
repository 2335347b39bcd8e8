"""The probe: which prompts are held out, and what answers say, by hand."""

import numpy as np
import pytest

from train.generation import probe


def row(i, lang="id", prompt=None, chosen="ya"):
    return {
        "id": f"r{i}",
        "lang": lang,
        "prompt": [{"role": "user", "content": prompt or f"soal {i}"}],
        "chosen": chosen,
        "rejected": "tidak",
    }


def test_prompts_of_the_probe_are_nowhere_else():
    rows = [row(i, "id" if i % 3 else "lo", prompt=f"soal {i % 60}") for i in range(120)]  # every prompt twice
    held, rest = probe.split(rows, 5)
    contents = [r["prompt"][0]["content"] for r in held]
    assert len(contents) == len(set(contents)) == 10
    assert not set(contents) & {r["prompt"][0]["content"] for r in rest}
    assert {lang: sum(r["lang"] == lang for r in held) for lang in ("id", "lo")} == {"id": 5, "lo": 5}
    assert len(rest) == 120 - 20
    assert rest == [r for r in rows if r in rest]


def test_the_probe_does_not_depend_on_the_order_and_grows_by_adding():
    rows = [row(i) for i in range(40)]
    ids = {r["id"] for r in probe.split(rows, 4)[0]}
    assert {r["id"] for r in probe.split(rows[::-1], 4)[0]} == ids
    assert ids < {r["id"] for r in probe.split(rows, 6)[0]}


@pytest.mark.parametrize(("n", "held"), [(3, 0), (4, 1), (11, 2), (400, 8)])
def test_at_most_a_quarter_of_a_language_is_held_out(n, held):
    found, rest = probe.split([row(i) for i in range(n)], 8)
    assert (len(found), len(rest)) == (held, n - held)
    assert probe.split([row(i) for i in range(n)], 0) == ([], [row(i) for i in range(n)])


def answer(text, reward=0.0, chosen=-10.0, rejected=-10.0, lang="id", *, task=None, finished=True):
    return {
        "lang": lang,
        "task": task,
        "prompt": [{"role": "user", "content": "halo"}],
        "answer": text,
        "tokens": 3 * len(text),
        "finished": finished,
        "reward": reward,
        "chosen_logp": chosen,
        "rejected_logp": rejected,
    }


def named(text):
    return "en" if text.startswith("no") else "id"


def test_facts_by_hand():
    start = [answer("halo", 1.0, -10, -8), answer("ya", 2.0, -20, -9, "lo"), answer("tidak", 3.0, -5, -5)]
    now = [
        answer("halo 🙂!", 2.0, -9, -9),
        answer("no", 2.0, -18, -11, "lo"),
        answer("no way", 1.0, -5, -4, task="translation"),
    ]
    found = probe.facts(now, start, 0.1, named)
    assert found.pop("win_rate_length_controlled") == pytest.approx(0.5, abs=0.2)
    by_language = {key: found.pop(key) for key in ("win_rate_by_language", "language_consistency_by_language")}
    assert by_language == {
        "win_rate_by_language": {"id": 0.5, "lo": 0.5},
        "language_consistency_by_language": {"id": 1.0, "lo": 0.0},
    }
    assert found == pytest.approx(
        {
            "reward_margin": 0.1 * ((1 - -1) + (2 - -2) + (0 - 1)) / 3,
            "chosen_logp": -32 / 3,
            "rejected_logp": -8,
            "reward": 5 / 3,
            "finished": 1.0,
            "answer_chars": (7 + 2 + 6) / 3,
            "answer_tokens": 15.0,
            "language_consistency": 2 / 3,  # "no" is English; a translation may be
            "emoji_rate": 1 / 3,
            "win_rate": 0.5,
        }
    )


def test_an_answer_that_was_cut_off_cannot_win():
    cut, ended = answer("halo", 9.0, finished=False), answer("ya", 1.0)
    for ours, theirs, rate in ((cut, ended, 0.0), (ended, cut, 1.0), (cut, cut, 0.5), (ended, ended, 0.5)):
        assert probe.facts([ours], [theirs], 0.1, named)["win_rate"] == rate


def test_a_model_against_itself_has_no_margin_and_wins_one_half():
    rows = [answer("halo", i, -i, -2 * i) for i in range(6)]
    found = probe.facts(rows, rows, 0.1, named)
    assert (found["reward_margin"], found["win_rate"]) == (0, 0.5)
    assert found["win_rate_length_controlled"] == pytest.approx(0.5)


def test_verdicts_follow_the_length_rule_and_leave_out_what_is_invalid():
    start = [answer("ya", lang=lang) for lang in ("id", "id", "lo", "lo", "lo")]
    now = [
        answer(text, lang=lang)
        for text, lang in zip(["a" * 900, "b", "c", "d" * 900, "e"], ["id", "id", "lo", "lo", "lo"], strict=True)
    ]
    found = probe.judged(now, start, [0.5, 1.0, -0.5, 1.0, None])
    assert found["judge_win_rate"] == np.mean([0.5, 1.0, 0.25, 1.0])  # the first is a slight win by 898 characters more
    assert found["judge_win_rate_by_language"] == {"id": 0.75, "lo": 0.625}
    assert found["judge_invalid"] == pytest.approx(0.2)
    assert found["judge_win_rate_length_controlled"] < np.mean([0.75, 1.0, 0.25, 1.0])
    assert probe.judged(now, start, [None] * 5) == {"judge_invalid": 1.0}


def test_warnings_say_what_became_worse():
    start = {"stage": "sft/stage2", "language_consistency": 0.9, "emoji_rate": 0.0}
    good = {"stage": "dpo/off_policy", "language_consistency": 0.85, "emoji_rate": 0.05, "judge_invalid": 0.05}
    bad = {"stage": "dpo/on_policy", "language_consistency": 0.5, "emoji_rate": 0.3, "judge_invalid": 0.5}
    assert probe.warnings(start, start) == probe.warnings(good, start) == []
    language, emoji, judge = probe.warnings(bad, start)
    assert "50% of the probe's answers are in the prompt's language, 90% before" in language
    assert "30% of the probe's answers have emoji, 0% before" in emoji
    assert "no valid verdict on 50%" in judge
