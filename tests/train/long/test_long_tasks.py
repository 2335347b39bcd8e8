"""Long-context tasks in fifteen languages: what is hidden and asked; models that retrieve are told from those that do not."""

import random
import unicodedata

import pytest
from lookup_model import Lookup

from mixture.tokenizer import tokenizer as tokenizers
from ray_jobs.config.recipe import LANGUAGES, LONG_TASKS
from train.long import answer, items, sizes, templates
from train.long.answer import chosen, row_of, string_match
from train.long.items import Maker, Setting, Source, Text, Unfit
from train.tasks.task import RowError

SYLLABLES = [a + b for a in "bdgklmnprstw" for b in "aeiou"]
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def documents(seed=0, n=60):
    rnd = random.Random(seed)

    def sentence():
        words = ("".join(rnd.choices(SYLLABLES, k=rnd.randrange(1, 4))) for _ in range(rnd.randrange(4, 14)))
        return " ".join(words).capitalize() + "."

    return [(f"d{i}", " ".join(sentence() for _ in range(rnd.randrange(3, 20)))) for i in range(n)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    said = [text for lang in LANGUAGES for text in templates.of(lang) if isinstance(text, str)]
    texts = [text for _, text in documents()] + 5 * said + ["0123456789 " * 40]
    return tokenizers.train_bpe(texts, 2000, str(tmp_path_factory.mktemp("tokenizer")))


def maker(tokenizer, lang="id", *, samples=2, rows=None, texts=None, begin=(0,), seed=3):
    source = Source(documents() if texts is None else texts, rows or {})
    return Maker(Setting(lang, seed, samples, DEPTHS, begin), source, lambda texts: tokenizers.encode(tokenizer, texts))


def rows(n=12):
    return [
        Text(f"{i}", f"Kota nomor {i} {text}", f"Apa nama kota {i}?", (f"Kota{i}", f"kota ke-{i}"))
        for i, (_, text) in enumerate(documents(7, n))
    ]


def whole(tokenizer, prompt, question):
    return tokenizer.decode([*prompt.ids[1:], *question.ids])


def test_the_languages_of_the_project_have_templates():
    assert set(templates.languages()) == set(LANGUAGES)
    for lang in LANGUAGES:
        say = templates.of(lang)
        assert say.needle.split("{value}")[1] in {"", ".", "。", "។", "။"}
        assert len(set(say.keys)) == len(say.keys) >= 20
        for text in (*say[:-1], *say.keys):
            assert unicodedata.is_normalized("NFC", text)
        stub, lead = say.stub(say.keys[0])
        assert say.needle.format(key=say.keys[0], value="7").startswith(f"{stub}{lead}7")
        for ask in (say.ask, say.ask_all):
            assert say.none in ask.format(key="K", none=say.none)
            assert "K" in ask.format(key="K", none=say.none)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_is_asked_is_hidden_and_the_prompt_fits(lang, tokenizer):
    say = templates.of(lang)
    for task in ("needle", "keys", "pairs", "absent", "values", "variables"):
        for prompt in maker(tokenizer, lang, samples=1).prompts(task, 1500):
            text = tokenizer.decode(prompt.ids[1:])
            for question in prompt.questions:
                total = len(prompt.ids) + len(question.ids) + question.room
                assert 0.9 * 1500 < total <= 1500
                assert whole(tokenizer, prompt, question).startswith(say.intro)
                said = tokenizer.decode(question.ids)
                options = dict(enumerate(question.option_texts))
                assert len(options) == 10
                assert {options[i] for i in question.right} == set(question.golds)
                for gold in question.golds:
                    assert (gold in text) == (task != "absent")
                if task == "pairs":
                    assert all(option in text for option in question.option_texts)
                if task in {"needle", "keys", "pairs", "values"}:
                    for gold in question.golds:
                        stub = said.rpartition("\n")[2]
                        assert f"{stub}{say.stub('K')[1]}{gold}" in text
                if task == "absent":
                    assert said.rpartition("\n")[2] not in text


def test_the_plan_counts_the_texts_that_are_made(tokenizer):
    every = [task for task in LONG_TASKS if task != "summary"]
    for samples in (1, 3):
        for task in every:
            made = maker(tokenizer, samples=samples, rows={"qa": rows(30)}).prompts(task, 900, every)
            shared = task == "absent"  # they are made with those of `keys`
            assert shared or len(list(made)) == sizes.texts(task, samples, len(DEPTHS), every)
    assert sizes.texts("absent", 3, 5, ["absent"]) == len(list(maker(tokenizer, samples=3).prompts("absent", 900))) == 3


@pytest.mark.parametrize("samples", [1, 3, 4, 7])
def test_every_cell_has_its_samples(tokenizer, samples):
    for task in ("needle", "keys", "pairs"):
        found = [q for p in maker(tokenizer, samples=samples).prompts(task, 900, ["absent"]) for q in p.questions]
        cells = [q.depth for q in found if q.task == task]
        assert {depth: cells.count(depth) for depth in DEPTHS} == dict.fromkeys(DEPTHS, samples)
        assert sum(q.task == "absent" for q in found) == (samples if task == "keys" else 0)
        assert len({q.id for q in found}) == len(found)


def test_hidden_things_lie_at_their_depths(tokenizer):
    for task in ("needle", "keys", "pairs"):
        for prompt in maker(tokenizer).prompts(task, 2000):
            text = tokenizer.decode(prompt.ids[1:])
            for question in prompt.questions:
                at = text.index(question.golds[0]) / len(text)
                assert at == pytest.approx(question.depth, abs=0.13)


def test_the_same_seed_gives_the_same_items_and_another_does_not(tokenizer):
    def made(seed):
        return [tuple(p.ids) for task in LONG_TASKS[:6] for p in maker(tokenizer, seed=seed).prompts(task, 800)]

    assert made(1) == made(1)
    assert not set(made(1)) & set(made(2))


def test_every_prompt_begins_with_the_anchor(tokenizer):
    for prompt in maker(tokenizer, begin=(5, 6)).prompts("needle", 600):
        assert prompt.ids[:2] == [5, 6]
        assert len(prompt.ids) <= 600


def test_questions_about_one_text_among_others(tokenizer):
    found = list(maker(tokenizer, rows={"qa": rows()}).prompts("qa", 1500))
    assert len(found) == 10
    for prompt in found:
        (question,) = prompt.questions
        text = whole(tokenizer, prompt, question)
        row = next(row for row in rows() if row.answers == question.golds)
        assert row.text in text
        assert row.question in text
        assert 1200 < len(prompt.ids) + len(question.ids) + question.room <= 1500
        assert text.count("Teks:") > 2
        assert text.index(row.text) / len(text) == pytest.approx(question.depth, abs=0.3)
        assert [question.option_texts[i] for i in question.right] == [row.answers[0]]


def test_a_summary_is_scored_by_chrf(tokenizer):
    texts = [row._replace(question="", answers=(row.text[:80],)) for row in rows()]
    prompt = next(maker(tokenizer, rows={"summary": texts}).prompts("summary", 1500))
    (question,) = prompt.questions
    assert question.match == "chrf"
    said = answer._result(prompt, question, question.golds[0], [])
    assert (said["score"], said["choice"]) == (pytest.approx(1), None)


@pytest.mark.parametrize(
    ("task", "length", "texts", "rule"),
    [
        ("needle", 40, None, "too_short"),
        ("pairs", 150, None, "too_short"),
        ("needle", 50_000, None, "too_little_text"),
        ("needle", 500, [], "too_little_text"),
        ("qa", 500, None, "too_few_rows"),
    ],
)
def test_what_cannot_be_asked_says_why(tokenizer, task, length, texts, rule):
    with pytest.raises(Unfit) as said:
        list(maker(tokenizer, texts=texts).prompts(task, length))
    assert said.value.rule == rule


def test_rows_of_known_layouts():
    squad = {"context": "C", "question": "Q", "answers": {"text": ["a", "b"], "answer_start": [0, 1]}}
    assert items.read(squad, "1") == ("qa", Text("1", "C", "Q", ("a", "b")))
    assert items.read({**squad, "answers": ["a"]}, "1")[1].answers == ("a",)
    assert items.read({"document": "D", "summary": "S"}, "1") == ("summary", Text("1", "D", "", ("S",)))
    with pytest.raises(RowError, match="neither"):
        items.read({"context": "C", "question": "Q"}, "1")


def rulers(preds, refs, of):
    """RULER's string_match_all and string_match_part, in percent, written from their definition."""
    found = [[float(r.lower() in p.lower()) for r in ref] for p, ref in zip(preds, refs, strict=True)]
    return sum(sum(one) / len(one) if of == "all" else max(one) for one in found) / len(preds) * 100


def test_string_matches_are_rulers():
    rnd = random.Random(5)
    words = ["Ka", "ka", "La", "12", "345", "é", "ไทย", "ñ"]
    preds = [" ".join(rnd.choices(words, k=4)) for _ in range(500)]
    refs = [[rnd.choice(words) for _ in range(rnd.randrange(1, 4))] for _ in preds]
    for match in ("all", "part"):
        ours = [string_match(p, r, match) for p, r in zip(preds, refs, strict=True)]
        assert 100 * sum(ours) / len(ours) == pytest.approx(rulers(preds, refs, match))
    assert string_match("the answer is b", ["a1", "B", "c1"], "part") == 1.0  # lm-eval: .333
    assert string_match(unicodedata.normalize("NFD", "Đà Nẵng"), ["đà nẵng"], "all") == 1.0


def test_a_choice_of_several_is_the_share_that_is_found():
    assert chosen([-1, -2, -3, -4], [0, 1]) == 1.0
    assert chosen([-1, -3, -2, -4], [0, 1]) == 0.5
    assert chosen([-1, -1], [1]) == 0.0


def means(results, key):
    cells = {}
    for one in results:
        cells.setdefault((one["task"], one["depth"]), []).append(one[key])
    return {cell: sum(of) / len(of) for cell, of in cells.items()}


def asked(net, tokenizer, task, samples=12, length=1024):
    row = row_of(net)
    made = maker(tokenizer, samples=samples).prompts(task, length, ["absent"])
    return [one for prompt in made for one in answer.answered(row, tokenizer, prompt)]


def test_a_model_that_retrieves_is_right_everywhere(tokenizer):
    net = Lookup(len(tokenizer))
    for task in ("needle", "pairs"):
        found = asked(net, tokenizer, task, samples=4)
        assert set(means(found, "score").values()) == {1.0}
        assert set(means(found, "choice").values()) == {1.0}


def test_a_model_that_sees_128_tokens_is_right_at_the_end_only(tokenizer):
    found = asked(Lookup(len(tokenizer), window=128), tokenizer, "needle")
    scores, choices = means(found, "score"), means(found, "choice")
    assert [scores["needle", depth] for depth in DEPTHS] == [0, 0, 0, 0, 1]
    assert choices["needle", 1.0] == 1.0
    assert all(choices["needle", depth] < 0.45 for depth in DEPTHS[:4])  # chance is a tenth


def test_who_always_finds_something_fails_where_nothing_is(tokenizer):
    found = means(asked(Lookup(len(tokenizer)), tokenizer, "keys", samples=4), "score")
    assert found["absent", None] == 0
    assert found["keys", 0.5] == 1


def test_a_row_that_is_too_long_is_left_out_and_the_others_are_asked(tokenizer):
    own = rows(9)
    own[4] = own[4]._replace(text=own[4].text * 400)
    for seed in range(4):
        found = []
        with pytest.raises(Unfit, match="1 rows are left out"):
            for prompt in maker(tokenizer, rows={"qa": own}, seed=seed).prompts("qa", 1500):
                found.append(prompt.group)
        assert len({*found}) == len(found) == 8
