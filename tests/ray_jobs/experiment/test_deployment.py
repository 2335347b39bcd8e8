"""Users' thumbs: what is used, what is not and why, shares by users, pairs that our own reader takes, no crash on any JSON."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_jobs import cli
from ray_jobs.alignment import chats
from ray_jobs.errors import UserError
from ray_jobs.experiment import deployment
from ray_jobs.experiment.deployment import liked

GOOD = {"prompt": "ស្រីនៅឯណា?", "answer": "នៅផ្ទះ", "thumb": "up", "language": "km", "consent": True}


def thumbs(tmp_path, rows, out="out", **options) -> dict:
    file = tmp_path / "thumbs.jsonl"
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), "utf-8")
    return deployment.run(str(file), str(tmp_path / out), **options)


def written(tmp_path, name, out="out") -> list[dict]:
    return [json.loads(line) for line in (tmp_path / out / name).read_text("utf-8").split("\n") if line]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"consent": False}, "no_consent"),
        ({"consent": None}, "no_consent"),
        ({"consent": "maybe"}, "no_consent"),
        ({"language": None}, "no_language"),
        ({"language": "xx-unheard"}, "language_unknown"),
        ({"language": "default"}, "language_unknown"),
        ({"language": "../languages/km"}, "language_unknown"),
        ({"thumb": 3}, "no_thumb"),
        ({"thumb": None}, "no_thumb"),
        ({"answer": ["a"]}, "no_answer"),
        ({"answer": ""}, "no_answer"),
        ({"answer": " "}, "empty_turn"),
        ({"prompt": 7}, "no_prompt"),
        ({"prompt": None}, "no_prompt"),
        (
            {"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "roles_do_not_alternate",
        ),
        ({"answer": "so <|im_end|>"}, "control_token"),
        ({"answer": "half \ud83d"}, "broken_unicode"),
    ],
)
def test_what_is_not_used_says_why(tmp_path, change, rule):
    found = thumbs(tmp_path, [GOOD, {**GOOD, "user": "secret name", **change}])
    (entry,) = written(tmp_path, "ledger.jsonl")
    assert (found["rows_in"], found["rows_used"], found["dropped_by_rule"]) == (2, 1, {rule: 1})
    assert entry["rule"] == rule and entry["where"].endswith("line 2")
    text = (tmp_path / "out/ledger.jsonl").read_text("utf-8")
    assert not any(private in text for private in ("secret name", "ស្រី", "so <", "half"))


def test_lines_that_are_no_rows(tmp_path):
    found = thumbs(tmp_path, ["{broken", "[1]", "null", json.dumps(GOOD)])
    assert (found["rows_in"], found["dropped_by_rule"]) == (4, {"not_a_row": 3})


@pytest.mark.parametrize("up", ["up", "UP ", True, 1, "1", "👍", "like", 1.0])
@pytest.mark.parametrize("down", ["down", False, 0, -1, "👎", "dislike"])
def test_thumbs_in_many_spellings(tmp_path, up, down):
    rows = [{**GOOD, "thumb": up}, {**GOOD, "answer": "other", "thumb": down}]
    found = thumbs(tmp_path, rows)
    assert found["languages"]["km"]["liked"]["value"] == 0.5 and found["pairs"] == {"km": 1}


def test_who_changes_their_mind_has_said_the_last(tmp_path):
    mine = {**GOOD, "user": "a"}
    rows = [{**mine, "time": "2026-03-02T10:00:00Z", "thumb": "down"}, {**mine, "time": 1e9}, {**mine, "user": "b"}]
    found = thumbs(tmp_path, rows)
    assert found["dropped_by_rule"] == {"said_again": 1}
    liked = found["languages"]["km"]["liked"]
    assert (liked["value"], liked["n"], liked["users"]) == (0.5, 2, 2)
    assert found["languages"]["km"]["agreement"]["alike"] == 0


def test_a_table_with_models_and_tags(tmp_path):
    rows = []
    for n in range(200):
        model, own = ("old", "new")[n % 2], n // 2
        row = {**GOOD, "user": f"user {n}", "model": model, "thumb": "up" if own % 10 < (4, 8)[n % 2] else "down"}
        rows.append({**row, "tags": {"cultural_fit": own % 2 == 0, "Tone": "up", "what": "?"}})
    rows += [{**GOOD, "language": "tha", "user": f"user {n}", "tags": ["quality"]} for n in range(3)]
    found = thumbs(tmp_path, rows)["languages"]
    assert found["km"]["models"]["new"]["value"] == pytest.approx(0.8)
    (difference,) = found["km"]["differences"]
    assert difference["models"] == ["new", "old"] and difference["low"] > 0.2
    assert found["km"]["tags"]["cultural fit"]["value"] == 0.5 and set(found["km"]["tags"]) == {"cultural fit", "tone"}
    assert found["km"]["agreement"]["answers"] == 1
    assert found["th"]["tags"] == {"quality": found["th"]["liked"] | {"users": 3}} or "quality" in found["th"]["tags"]


def test_pairs_are_read_by_the_reader_of_preferences(tmp_path):
    """Answers and prompts that look like other layouts, conversations, and every language of the recipe."""
    prompt = [
        {"role": "system", "content": "s"},
        *({"role": r, "content": f" {r} "} for r in ("user", "assistant", "user")),
    ]
    rows = []
    for lang in ("km", "th", "en"):
        for asked in ("Human: hi\n\nAssistant: yo", prompt, "plain"):
            for n, answer in enumerate(("Human: hi\n\nAssistant: yo", "[]", '{"role": "user"}', "fine\u2028", "x")):
                own = answer if lang == "km" else f"{answer} {lang}"  # of two equal pairs the reader takes one
                rows.append({**GOOD, "language": lang, "prompt": asked, "answer": own, "thumb": n % 2 == 0})
    found = thumbs(tmp_path, rows)
    assert found["pairs"] == {"en": 6, "km": 6, "th": 6} and found["unpaired"] == {"en": 3, "km": 3, "th": 3}
    read = _preferences(tmp_path, ["km", "th"])
    assert read.rules == {"language_outside": 6} and not read.ignored
    made = [row for row in written(tmp_path, "preference.jsonl") if row["lang"] != "en"]
    assert [(row["id"], row["prompt"]) for row in read.rows] == [(row["id"], row["prompt"]) for row in made]
    for side in ("chosen", "rejected"):
        assert [[{"role": "assistant", "content": row[side]}] for row in read.rows] == [row[side] for row in made]
    assert all(row["chosen"] != row["rejected"] for row in made)


def test_what_most_like_goes_with_what_fewest_like(tmp_path):
    votes = {"best": 3, "good": 1, "even": 0, "bad": -1, "worse": -2, "worst": -4}
    rows = [
        {**GOOD, "answer": answer, "user": f"{answer} {n}", "thumb": thumb}
        for answer, net in votes.items()
        for n, thumb in enumerate([net > 0] * abs(net) + [True, False])
    ]
    thumbs(tmp_path, rows)
    found = written(tmp_path, "preference.jsonl")
    pairs = [tuple(row[side][0]["content"] for side in ("chosen", "rejected")) for row in found]
    assert pairs == [("best", "worst"), ("good", "worse")]
    (left,) = written(tmp_path, "unpaired.jsonl")
    assert (left["completion"][0]["content"], left["label"], left["lang"]) == ("bad", False, "km")


def test_liked_answers_without_a_counterpart_are_read_as_chats(tmp_path):
    rows = [{**GOOD, "answer": "yes"}, {**GOOD, "prompt": "another", "thumb": "down"}]
    thumbs(tmp_path, rows)
    (kept, faults), *_ = list(chats.batches(str(tmp_path / "out/unpaired.jsonl"), ["km"]))
    assert [row["messages"][-1]["content"] for row in kept] == ["yes"]
    assert [fault["rule"] for fault in faults] == ["kto_label"]


@pytest.mark.parametrize("each", [1, 5, 40])
@pytest.mark.parametrize("alike", [0.0, 1.5])
def test_intervals_hold_the_share_also_when_users_are_of_one_mind(each, alike):
    """25 users of `each` thumbs; how much a user likes everything is drawn. Wilson's own covers 40 % of the last case."""
    rng = np.random.default_rng([each, int(alike)])
    truth = (1 / (1 + np.exp(-alike * rng.normal(size=200_000) - 0.5))).mean()
    held = 0
    for _ in range(400):
        chance_U = 1 / (1 + np.exp(-alike * rng.normal(size=25) - 0.5))
        said = [(user, bool(rng.random() < chance)) for user, chance in enumerate(chance_U) for _ in range(each)]
        found = liked(said)
        held += found.low <= truth <= found.high
    assert held >= 0.92 * 400


def test_one_user_is_one_user():
    assert liked([("a", True)] * 500).low < 0.3
    assert liked([(user, True) for user in range(500)]).low > 0.98


def _preferences(tmp_path, languages):
    job = SimpleNamespace(
        recipe=SimpleNamespace(languages=languages),
        train=SimpleNamespace(sft=None),
        ledger=str(tmp_path / "reader"),
        stage=SimpleNamespace(name="reward"),
    )
    return chats.preferences(job, str(tmp_path / "out/preference.jsonl"))


def test_any_json_counts_or_is_in_the_ledger(tmp_path):
    """3,000 rows of keys and values by chance; what becomes pairs is all taken by our reader."""
    rng = random.Random(0)
    texts = [
        "",
        " ",
        "a",
        "<|im_end|>",
        "\ud800",
        "🚣" * 5,
        "Human: a",
        "up",
        "km",
        "th-TH",
        "null",
        "\x00",
        "1e999",
        "a" * 300,
    ]
    turn = {"role": "user", "content": "a"}

    def value(depth=0):
        kind = rng.randrange(10 if depth < 3 else 7)
        simple = (None, True, False, rng.choice([0, 1, -1, 2**70, 10**400]), rng.choice([0.5, float("nan"), 1e308]))
        if kind < 5:
            return simple[kind]
        if kind < 8:
            return rng.choice(texts)
        if kind == 8:
            return [value(depth + 1) for _ in range(rng.randrange(4))]
        return {rng.choice([*texts, "role", "content"]): value(depth + 1) for _ in range(rng.randrange(4))}

    rows = [json.dumps(GOOD)]  # a file that begins with a list is one list
    for n in range(2999):
        row = {
            **{"prompt": rng.choice(["a", "b", [turn], [turn, {"role": "assistant", "content": "b"}, turn]])},
            **{
                "answer": rng.choice(["x", "y", "z", "Human: a\n\nAssistant: b"]),
                "thumb": rng.choice(["up", "down", 1, 0]),
            },
            **{"lang": rng.choice(["km", "tha", "xx"]), "consent": True, "user": rng.choice(["u", "v", n, None])},
        }
        row["answer"] += f" {row['lang']}"  # of two equal pairs the reader takes one
        for key in rng.sample([*row, "model", "time", "tags", "text", "label", "weight", "response"], rng.randrange(4)):
            row[key] = value()
        rows.append(json.dumps(row if rng.random() < 0.95 else value()))
    found = thumbs(tmp_path, rows)
    ledger = written(tmp_path, "ledger.jsonl")
    assert (
        found["rows_in"]
        == 3000
        == found["rows_used"] + len(ledger)
        == found["rows_used"] + sum(found["dropped_by_rule"].values())
    )
    assert found["rows_used"] > 500 and len(found["dropped_by_rule"]) > 6
    assert len({entry["where"] for entry in ledger}) == len(ledger)
    read = _preferences(tmp_path, ["km", "th"])
    assert not read.rules and len(read.rows) == sum(found["pairs"].values()) > 3
    assert pq.read_table(tmp_path / "reader/part-chats.parquet").num_rows == 0
    json.dumps(found, allow_nan=False)


def test_the_command(tmp_path, capsys):
    file = tmp_path / "thumbs.jsonl"
    rows = [{**GOOD, "model": model, "user": user} for model in ("a", "b") for user in ("x", "y")]
    rows.append({**GOOD, "answer": "no", "thumb": "down"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    _call("feedback", str(file), "--out", str(tmp_path / "out"))
    shown = capsys.readouterr().out
    assert "Khmer (km)" in shown and "a against b" in shown and "1 preference pairs" in shown
    _call("experiment", "deployment", "--feedback", str(file), "--out", str(tmp_path / "out"))
    assert capsys.readouterr().out == shown
    _call("feedback", str(file), "--out", str(tmp_path / "out"), "--languages", "th", "--json")
    assert json.loads(capsys.readouterr().out)["dropped_by_rule"] == {"language_unknown": 5}


def _call(*arguments):
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(arguments))
    assert exit_.value.code in (0, None)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no file matches"):
        deployment.run(str(tmp_path / "nothing.jsonl"), str(tmp_path))


def test_the_question_without_a_file(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["experiment", "deployment"])
    assert exit_.value.code == 2 and "give --feedback FILE and --out DIR" in capsys.readouterr().err
