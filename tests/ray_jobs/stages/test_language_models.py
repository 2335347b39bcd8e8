"""`language.model` as a fastText file in a recipe: what is wrong is said before anything runs, the manifest has its speed."""

import json
import random

import fasttext
import pytest

from cluster import storage
from curation.quality import _zeroed_allocations
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run.run import Run

MALAY = "kanak-kanak itu bermain di tepi pantai kerana ibu mereka berkata bahawa hujan akan turun selepas pukul tiga"
ACEHNESE = "aneuk miet meuen bak bineh pasi sabab ma awaknyan peugah ujeuen teuka lheuh poh lhee beungoh nyan"
GERMAN = "die kinder spielen am strand weil ihre mutter sagte dass es nach drei uhr regnen wird und der zug hielt"
LABELS = {"zsm_Latn": MALAY, "ace_Latn": ACEHNESE, "deu_Latn": GERMAN}


def line(label, seed):
    return " ".join(random.Random(f"{label}{seed}").choices(LABELS[label].split(), k=20))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe")
    rows = [f"__label__{label} {line(label, seed)}" for seed in range(200) for label in LABELS]
    (out / "train.txt").write_text("\n".join(rows) + "\n")
    with _zeroed_allocations():
        model = fasttext.train_supervised(str(out / "train.txt"), dim=8, epoch=20, lr=0.5, thread=1, verbose=0)
    model.save_model(str(out / "model.bin"))
    documents = [{"id": f"{label}{n}", "text": line(label, n + 900)} for label in LABELS for n in range(4)]
    (out / "documents.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    return out


def run(folder, tmp_path, *changes):
    fixed = [
        f"sources=[{{name: s, type: jsonl, path: {folder}/documents.jsonl}}]",
        *("quality={}", "train=null", "languages=[ms, ace]", f"language={{model: {folder}/model.bin}}"),
        "cluster.engine=local",
    ]
    return Run(str(tmp_path / "run"), recipes.load("demo", [*fixed, *changes]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("language.model={folder}/none.bin", "there is no file .*none.bin; correct the path"),
        ("language.model={folder}/documents.jsonl", "is no fastText model"),
        ("language.labels={{ace_latn: ms}}", "has no label 'ace_latn'.*'ace_Latn'"),
        ("language.min_score={{th: 0.5}}", "does not know th"),
        (
            "language={{labels: {{id: ms}}}}",
            "language.labels: nothing reads it without `language.model: FILE`",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_read(folder, tmp_path, change, words):
    changes = ["languages=[ms]", change.format(folder=folder)]
    with pytest.raises(UserError, match=words):
        run(folder, tmp_path, *changes).execute(say=lambda said: None, until="language")
    assert not storage.exists(str(tmp_path / "run" / "crawl"))


def test_a_code_that_the_recipe_has_not(folder, tmp_path):
    with pytest.raises(UserError, match=r"ace_Latn is mapped to 'mss', which is not in `languages` .did you mean 'ms'"):
        run(folder, tmp_path, "language.labels={ace_Latn: mss}")
    run(folder, tmp_path, "language.labels={__label__ace_Latn: ms, deu_Latn: other}")


def test_the_map_is_part_of_what_the_stage_depends_on(folder, tmp_path):
    one, two = (
        run(folder, tmp_path, "languages=[ms]", f"language.labels={labels}").fingerprints()
        for labels in ("{}", "{ace_Latn: ms}")
    )
    assert one["extract"] == two["extract"] and one["language"] != two["language"]


@pytest.mark.slow
def test_the_stage_and_its_manifest(folder, tmp_path):
    changes = ["languages=[ms]", "language.labels={ace_Latn: ms}", "language.min_score={default: 0.4, ms: 0.6}"]
    made = run(folder, tmp_path, *changes)
    made.execute(say=lambda said: None, until="language")
    manifest = made.manifest("language")
    assert manifest["docs_per_lang"] == {"ms": 8} and manifest["rules"] == {"language_outside": 4}
    assert manifest["documents_per_core_second"] > 0 and manifest["model"] == f"{folder}/model.bin"
