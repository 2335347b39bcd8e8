"""`pinisi language new` on a language that is made up here: what it writes, that a run can use it, and what it refuses."""

import contextlib
import gzip
import io
import json
import random
from functools import partial
from pathlib import Path

import pytest
import yaml

from curation.lid import model as lid_model
from curation.lid import training
from curation.policy import policy
from ray_jobs import cli
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.prepare import new_language, seed
from ray_jobs.run.run import Run

LETTERS = ("k", "t", "r", "m", "ng", "s", "v", "z"), ("ao", "u", "ei", "ö", "ia")
SMALL = ["--segments", "150"]


def words(n, salt="kelu"):
    rng, found = random.Random(salt), {}
    while len(found) < n:
        found["".join(rng.choice(LETTERS[0]) + rng.choice(LETTERS[1]) for _ in range(rng.randint(1, 4)))] = None
    return list(found)


VOCABULARY = words(900)


def text(rng, sentences=8):
    """Sentences of words by Zipf's law, so that the first of the vocabulary are stop words."""
    weights = [1 / (rank + 2) for rank in range(len(VOCABULARY))]
    lines = []
    for _ in range(sentences):
        line = " ".join(rng.choices(VOCABULARY, weights, k=rng.randint(6, 16)))
        lines.append(f"{line[0].upper()}{line[1:]}.")
    return " ".join(lines[: sentences // 2]) + "\n" + " ".join(lines[sentences // 2 :])


def rows(n, number=1):
    rng = random.Random(number)
    return [{"id": f"kelu{number}-{i}", "text": text(rng)} for i in range(n)]


def write(path, found):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True, scope="module")
def few_languages():
    """Four languages beside the new one, and few made-up segments of neighbours: the training is not what is tested."""
    every = seed.known_documents()
    assert {lang for lang, _, _ in every} == set(recipes.load("demo", []).languages)
    few = [one for one in every if one[0] in ("en", "id", "th", "tl")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seed, "known_documents", lambda: few)
        patch.setattr(training, "Training", partial(training.Training, neighbour_segments=5))
        yield


def new(*arguments):
    options = cli._parser().parse_args(["language", "new", *arguments, *SMALL])
    assert options.command is new_language.main
    return options.command(options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kelu")
    broken = [{"id": "e", "text": "  "}, {"id": "n", "text": None}, {"id": "x", "text": "12 34"}]
    english = "The harbour was full of boats when the rain began, and everybody went home early to cook rice. " * 9
    broken += [{"id": "en", "text": english}, {"id": "th", "text": "x", "lang": "th"}]
    every = rows(60)
    return folder, write(
        folder / "seed.jsonl", [*every, *broken, every[3], {**every[4], "text": every[4]["text"].upper()}]
    )


@pytest.fixture(scope="module")
def written(made):
    folder, documents = made
    with contextlib.redirect_stdout(io.StringIO()) as said:
        new("kel", "--documents", documents, "--out", str(folder / "languages"), "--name", "Kelu: a test")
    first, second, third = said.getvalue().rstrip().splitlines()[-3:]
    assert first.startswith("1. in the recipe: `kel` in languages, `language: {model: ")
    assert second == "2. pinisi run RECIPE --until filter" and third.startswith("3. pinisi report RUN")
    return folder / "languages"


def test_the_files(written):
    names = sorted(path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file())
    wanted = ["documents/kel.jsonl.gz", "identifier/model.json", "identifier/report.json"]
    assert names == [*wanted, "identifier/weights.safetensors", "kel.md", "kel.yaml"]
    made = policy.load("kel", folder=str(written))
    assert (made.name, made.script) == ("Kelu: a test", "latin") and made.rules["stopword_ratio"]["min"] <= 0.1
    assert 40 <= len(made.stop_words) <= 60 and set(VOCABULARY[:20]) <= set(made.stop_words)
    assert "flagged_ratio" not in made.rules and made.rules["word_count"] == policy.load("ceb").rules["word_count"]
    for signal, bounds in policy.load("ceb").rules.items():  # of the script: only ever loosened
        own = made.rules.get(signal, {})
        assert own.get("max", bounds.get("max", 0)) >= bounds.get("max", 0), signal
        assert signal == "stopword_ratio" or own.get("min", 0) <= bounds.get("min", 0), signal
    model = lid_model.load(str(written / "identifier"))
    assert model.labels == ("en", "id", "kel", "th", "tl", "other")
    report = (written / "kel.md").read_text("utf-8")
    for line in (
        "| duplicates | 2 |",
        "| empty | 3 |",
        "| declared as another language | 1 |",
        "| in en, left out | 1 |",
    ):
        assert line in report
    stored = gzip.decompress((written / "documents/kel.jsonl.gz").read_bytes()).decode().splitlines()
    assert len(stored) == 60 and "harbour" not in "".join(stored)
    f1 = json.loads((written / "identifier/report.json").read_text())["unseen_sources"]["all"]["labels"]["kel"]["f1"]
    assert f1 >= 0.95


def test_equal_texts_give_equal_files_and_a_folder_takes_a_second_language(made, written, tmp_path):
    out = tmp_path / "again"
    new("kel", "--documents", made[1], "--out", str(out), "--name", "Kelu: a test")
    for path in sorted(written.rglob("*")):
        assert path.is_dir() or path.read_bytes() == (out / path.relative_to(written)).read_bytes(), path
    vowels = str.maketrans("aeiouö", "yöaeui")
    other = [{**row, "text": row["text"].translate(vowels)} for row in rows(60, 5)]
    new("zzo", "--documents", write(tmp_path / "other.jsonl", other), "--out", str(out))
    assert lid_model.load(str(out / "identifier")).labels == ("en", "id", "kel", "th", "tl", "zzo", "other")
    assert policy.load_all(["kel", "zzo", "en"], folder=str(out))["zzo"].stop_words


@pytest.mark.slow
def test_a_run_with_the_new_language(written, tmp_path):
    english = "The harbour was full of boats when the rain began, and everybody went home early to cook rice and fish. "
    spam = " ".join(VOCABULARY[:3] * 90)
    found = [*rows(40, 9), {"id": "en", "text": english * 3}, {"id": "spam", "text": spam}]
    changes = [
        f"sources=[{{name: s, type: jsonl, path: {write(tmp_path / 'web.jsonl', found)}}}]",
        *("quality={}", "train=null", "languages=[kel, th]", "cluster.engine=local", "filter.policy={}"),
        f"language={{model: {written}/identifier}}",
    ]
    uri = str(tmp_path / "run")
    with pytest.raises(UserError, match=r"no file curation/languages/kel\.yaml .* `pinisi language new` makes one"):
        Run(uri, recipes.load("demo", changes)).execute(until="filter", say=lambda line: None)
    run = Run(uri, recipes.load("demo", [*changes, f"filter.language_files={written}"]))
    run.execute(until="filter", say=lambda line: None)
    assert run.manifest("language")["docs_per_lang"]["kel"] >= 40
    kept = run.manifest("filter/policy")
    assert 39 <= kept["docs_per_lang"]["kel"] <= 40 and kept["rules"]["word_repetition_max"] >= 1
    before = run.fingerprints()
    file = Path(written / "kel.yaml")
    content = file.read_text("utf-8")
    try:
        file.write_text(content.replace("flagged_ratio: off", "flagged_ratio: off\n  word_count: {min: 20}"), "utf-8")
        after = run.fingerprints()
    finally:
        file.write_text(content, "utf-8")
    assert after["language"] == before["language"] and after["filter/signals"] != before["filter/signals"]


@pytest.mark.parametrize(
    ("code", "found", "words"),
    [
        ("th", [], r"the code th is taken: curation/languages/th\.yaml"),
        ("fil", [], "the code fil, which is tl here, is taken"),
        ("Kelu!", [], "must be the ISO 639 code"),
        ("other", [], "must be the ISO 639 code"),
        ("kel", [{"text": " \n"}, {"text": ""}], "0 documents, 0 characters; of 2 rows 2 empty; no text is left"),
        ("kel", [{"text": 7}], r"a row has no text in the field `text`"),
        ("kel", [{"id": "7"}], r"a row has no text in the field `text`"),
        ("kel", rows(9), r"characters of different text are too few; 20,000 are the least, 200,000 are wanted"),
    ],
)
def test_what_is_wrong_is_one_sentence(code, found, words, tmp_path):
    documents = write(tmp_path / "seed.jsonl", found or [{"text": "a"}])
    with pytest.raises(UserError, match=words):
        new(code, "--documents", documents, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_seed_in_a_language_that_is_known(tmp_path):
    pages = gzip.decompress((recipes.SAMPLE / "gold" / "en.jsonl.gz").read_bytes()).decode().splitlines()
    documents = write(tmp_path / "seed.jsonl", [{"text": json.loads(page)["text"]} for page in pages])
    with pytest.raises(UserError, match=r"the texts read as en .English., which is known already; give texts in kel"):
        new("kel", "--documents", documents, "--out", str(tmp_path / "out"))


def test_a_file_that_is_there_and_documents_that_are_not(written, made, tmp_path):
    with pytest.raises(UserError, match=r"kel\.yaml is there already; delete it"):
        new("kel", "--documents", made[1], "--out", str(written))
    with pytest.raises(UserError, match="--documents: no file matches"):
        new("kel", "--documents", str(tmp_path / "none.jsonl"), "--out", str(tmp_path))


def test_a_script_without_a_file_gets_one():
    letters = "абвгдежзиклмнопрст"
    rng = random.Random(2)
    texts = [" ".join("".join(rng.choices(letters, k=5)) for _ in range(90)) for _ in range(30)]
    made = new_language._policy("xcy", "X", texts, 20, False)
    assert made["policy"].script == "cyrillic" and made["policy"].rules["script_share"] == {"min": 0.5}
    assert yaml.safe_load(made["files"]["script_cyrillic.yaml"])["name"] == "Cyrillic script"
    assert "script_share" in made["files"]["script_cyrillic.yaml"] and made["facts"]["kept_of_unseen_passages"] > 0.9


def test_passages_hold_the_whole_text():
    rng = random.Random(4)
    for _ in range(50):
        texts = ["\n".join(" ".join(rng.choices(VOCABULARY, k=rng.randint(0, 400))) for _ in range(rng.randint(1, 4)))]
        texts += ["x" * rng.randint(0, 5000)]
        found = seed.pieces(texts)
        assert all(len(one) <= 2 * seed.PIECE_CHARS + 200 for one in found)
        got, whole = "".join("".join(found).split()), "".join("".join(texts).split())
        assert whole.startswith(got) and len(whole) - len(got) <= seed.PIECE_CHARS
