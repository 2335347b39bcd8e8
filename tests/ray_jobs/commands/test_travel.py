"""What a recipe names that only this machine has is said before it goes to a cluster."""

from pathlib import Path

import pytest
import yaml

from ray_jobs import cli
from ray_jobs.commands import travel
from ray_jobs.config import reader as recipes
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import UserError

BUCKET = "s3://bucket/rows/*.jsonl"
ALIGN = {
    "base": "align",
    "name": "mine",
    "train": {
        "reward": {"preference": BUCKET},
        "sft": {"instruct": BUCKET},
        "dpo": {"preference": BUCKET},
    },
}


def written(tmp_path, values):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_a_shipped_recipe_is_in_the_image():
    assert travel.as_image("demo") == ("demo", None)
    assert travel.as_image(str(recipes.RECIPES / "demo.yaml")) == ("demo", None)
    with pytest.raises(UserError, match="no such recipe"):
        travel.as_image("none")


def test_a_recipe_of_ones_own_goes_whole(tmp_path):
    name, text = travel.as_image(written(tmp_path, ALIGN))
    assert name == "mine" and str(tmp_path) not in text
    there = tmp_path / "recipe.yaml"
    there.write_text(text)
    assert recipes.load(str(there)) == recipes.load(str(tmp_path / "mine.yaml"))


def test_the_sample_is_named_so_that_another_machine_finds_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PINISI_SAMPLE_DIR", str(recipes.SAMPLE))
    _, text = travel.as_image(written(tmp_path, {"base": "demo", "name": "mine"}))
    assert str(recipes.SAMPLE) not in text


@pytest.mark.parametrize("key", ["train.sft.instruct", "train.base.model", "tokenize.tokenizer", "train.reward.model",
                                 "train.sft.select.embedding_model", "train.dpo.preference"])  # fmt: skip
@pytest.mark.parametrize("place", ["here/x", "absolute"])
def test_what_lies_here_alone_is_refused(tmp_path, monkeypatch, key, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "x").mkdir(parents=True)
    place = str(tmp_path / "here" / "x") if place == "absolute" else place
    mine = written(tmp_path, ALIGN)
    recipe = recipes.load(mine, [f"{key}={place}"])
    (sentence,) = travel.left_behind(recipe, shared_disk=False)
    assert sentence.startswith(f"{key}: {place} is a path of this machine, which the nodes do not have; put it on ")
    assert len(list(travel.left_behind(recipe, shared_disk=True))) == (0 if place.startswith("/") else 1)
    for mounted, count in ((str(tmp_path), 0), ("/elsewhere", 1), (str(tmp_path / "he"), 1)):
        said = list(travel.left_behind(recipe, shared_disk=False, mounted=[mounted]))
        assert len(said) == (count if place.startswith("/") else 1), mounted


@pytest.mark.parametrize(
    "key, place, said",
    [
        ("train.base.model", "owner/name", 0),
        ("train.base.model", "gpt2", 0),  # of the time before owners
        ("tokenize.tokenizer", "gpt2", 0),
        ("train.base.model", "./gpt2", 1),
        ("train.base.model", "models/mine/last", 1),
        ("train.sft.instruct", "rows/th.jsonl", 1),  # files, whatever they are called
        ("train.sft.instruct", "th.jsonl", 1),
    ],
)
def test_names_of_the_hub_travel_where_a_model_is_asked_for(tmp_path, monkeypatch, key, place, said):
    monkeypatch.chdir(tmp_path)
    recipe = recipes.load(written(tmp_path, ALIGN), [f"{key}={place}"])
    assert len(list(travel.left_behind(recipe, shared_disk=False))) == said


def test_a_model_that_makes_texts_and_lies_here_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    tasks = [{"name": one, "model": one, "prompt": "simplify"} for one in ("models/mine", "owner/name")]
    tasks = [{**task, "name": f"t{i}", "licence": "mit"} for i, task in enumerate(tasks)]
    source = {"name": "a", "type": "jsonl", "path": "s3://bucket/*.jsonl"}
    values = {"name": "mine", "sources": [source], "synthesize": {"tasks": tasks}}
    (said,) = travel.left_behind(Recipe.model_validate(values), shared_disk=False)
    assert said.startswith("synthesize.tasks.model: models/mine is a path of this machine")


def test_sources_lists_and_functions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "travelling_signals.py").write_text("def shouting(batch):\n    return {}\n")
    source = {"name": "a", "type": "jsonl", "path": str(tmp_path / "*.jsonl")}
    values = {
        "name": "mine",
        "sources": [source],
        "filter": {"signals": ["travelling_signals:shouting"], "word_lists": "words"},
    }
    said = list(travel.left_behind(Recipe.model_validate(values), shared_disk=False))
    assert [sentence.partition(":")[0] for sentence in said] == ["filter.word_lists", "sources", "filter.signals"]
    said = list(travel.left_behind(Recipe.model_validate(values), shared_disk=True, package=tmp_path))
    assert [sentence.partition(":")[0] for sentence in said] == ["filter.word_lists"]


def render(folder, recipe):
    out = ["--out", str(folder / "out"), "--recipe", written(folder, recipe)]
    cli.main(["cluster", "render", "cluster/cluster.yaml", *out])


def test_no_rendered_file_has_a_path_of_this_machine(tmp_path, capsys):
    for own in (ALIGN, {"base": "sailor2-1b", "name": "mine", "train": {"sft": None, "reward": None, "dpo": None}}):
        with pytest.raises(SystemExit) as ended:
            render(tmp_path, own)
        assert ended.value.code == 0
    for name in ("rayjob.yaml", "sparkapplication.yaml", "raycluster.yaml", "kubernetes.yaml"):
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text(), name
    own = {**ALIGN, "tokenize": {"tokenizer": str(tmp_path)}}
    with pytest.raises(SystemExit) as ended:
        render(tmp_path, own)
    assert ended.value.code == 2 and "tokenize.tokenizer: " in capsys.readouterr().err


def test_a_crawl_that_nobody_answers_for_is_refused_before_its_cluster_is_up(tmp_path, capsys):
    """Whom Common Crawl may write to comes from `environment` or the recipe; a terminal or file of this machine is not there."""
    example = yaml.safe_load(Path("cluster/cluster.yaml").read_text())
    for number, (target, recipe, environment, refused) in enumerate(
        (
            ("kuberay", "commoncrawl", [], True),
            ("all", "commoncrawl", ["HF_TOKEN"], True),
            ("kuberay", {"base": "commoncrawl", "name": "mine"}, [], True),
            ("kuberay", "commoncrawl", ["PINISI_CONTACT"], False),
            ("kuberay", {"base": "commoncrawl", "name": "mine", "fetch": {"contact": "a@lab.example"}}, [], False),
            ("kuberay", {"base": "commoncrawl", "name": "mine", "fetch": {"base": "s3://commoncrawl"}}, [], False),
            ("kuberay", "demo", [], False),
            ("spark", "commoncrawl", [], False),  # reads what was fetched
            ("aws", "commoncrawl", [], False),  # `pinisi submit` asks
        )
    ):
        (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(example | {"environment": environment}))
        asked = recipe if isinstance(recipe, str) else written(tmp_path, recipe)
        out = tmp_path / f"out{number}"
        with pytest.raises(SystemExit) as ended:
            command = ["cluster", "render", str(tmp_path / "cluster.yaml"), "--out", str(out)]
            cli.main([*command, "--target", target, "--recipe", asked])
        said = capsys.readouterr().err
        assert ended.value.code == (2 if refused else 0) and out.exists() != refused, (number, said)
        assert not refused or (
            "environment: the recipe of the RayJob needs PINISI_CONTACT" in said and "\n" not in said[:-1]
        )
