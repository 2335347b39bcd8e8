"""Recipes: strict keys, helpful errors, one base, overrides, variables."""

import re
from pathlib import Path

import pytest

from ray_jobs.config import reader as recipes
from ray_jobs.config.recipe import LANGUAGES, Recipe
from ray_jobs.errors import UserError

MINIMAL = "name: tiny\nsources:\n  - {name: web, type: jsonl, path: /data/*.jsonl}\n"


def write(tmp_path, text, name="tiny.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_minimal_recipe_has_all_defaults(tmp_path):
    recipe = recipes.load(write(tmp_path, MINIMAL))
    assert recipe.languages == list(LANGUAGES)
    assert (recipe.dedup.num_perm, recipe.dedup.bands, recipe.dedup.rows) == (256, 25, 10)
    assert recipe.train is None


def test_shipped_recipes_are_valid(monkeypatch):
    for path in recipes.RECIPES.glob("*.yaml"):
        assert recipes.load(str(path)).name == path.stem


def test_unknown_key_names_file_line_and_nearest(tmp_path):
    path = write(tmp_path, MINIMAL + "dedup:\n  bands: 20\n  thresold: 0.8\n")
    with pytest.raises(UserError) as error:
        recipes.load(path)
    assert str(error.value) == f"{path}, line 6: dedup.thresold: unknown key; did you mean 'threshold'?"


def test_unknown_key_in_a_list_item(tmp_path):
    path = write(tmp_path, "name: t\nsources:\n  - {name: a, type: jsonl, paht: x}\n")
    with pytest.raises(UserError, match=r"line 3: sources\.0\.(paht: unknown key; did you mean 'path'|path: this key)"):
        recipes.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "line 1: not valid YAML"),
        ("- a\n", "a recipe is a mapping of keys"),
        ("name: t\nsources: []\n", "sources: there is none; only a recipe that aligns a finished model"),
        (MINIMAL + "dedup: {bands: 40}\n", "bands x rows = 400 needs more than num_perm = 256"),
        (
            MINIMAL + "dedup: {threshold: 1.5}\n",
            "dedup.threshold: input should be less than or equal to 1 (given: 1.5)",
        ),
        (MINIMAL + "quality: {positives: [wiki]}\n", "quality.positives names the source 'wiki'"),
        (MINIMAL + "quality: {negatives: [web], native: [web]}\n", "quality.native: 'web' is trained on too"),
    ],
)
def test_errors_are_one_sentence(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        recipes.load(write(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_tokenizer_of_the_base_is_its_folder():
    example = str(Path(__file__).parents[3] / "examples" / "small_model.yaml")
    recipe = recipes.load(example, ["train.base.model=models/mine"])
    assert (recipe.name, recipe.tokenize.tokenizer, recipe.train.base.model) == (
        "small-model",
        "models/mine",
        "models/mine",
    )
    for wrong in (["train=null"], [], ["train.base=null"]):
        with pytest.raises(
            UserError, match=r"tokenize\.tokenizer: base is that of `train\.base\.model`, which is not given"
        ):
            recipes.load(example, wrong)


def test_a_model_over_the_shape_of_the_recipe_below():
    with pytest.raises(UserError, match=r"train\.base: give either `model` or `shape` \(`shape: null` takes away"):
        recipes.load("demo", ["train.base.model=some/model"])
    recipe = recipes.load("demo", ["train.base.model=some/model", "train.base.shape=null"])
    assert recipe.train.base.model == "some/model"


def test_overrides(tmp_path):
    path = write(tmp_path, MINIMAL)
    recipe = recipes.load(path, ["dedup.threshold=0.8", "sources.0.share=2e-1", "crawl.max_bad_share=5e-1"])
    assert (recipe.dedup.threshold, recipe.sources[0].share, recipe.crawl.max_bad_share) == (0.8, 0.2, 0.5)
    for wrong in ("dedup", "sources.7.name=x", "name.deeper=1", "sources.x=1"):
        with pytest.raises(UserError, match="--set"):
            recipes.load(path, [wrong])


PLAIN = ("train.expand=null", "train.pretrain.control=false")
CONTRAST = (*PLAIN, "train.pretrain.update.rule=contrast")


def test_combinations_that_training_would_refuse_are_refused_at_once():
    for overrides, message in (
        (["train.attention=varlen", "train.precision=fp32"], "varlen needs precision bf16"),
        (["train.attention=varlen", "train.context_parallel=2"], "varlen cannot share a row"),
        (["train.context_parallel=3"], "context_parallel 3 needs workers to be a multiple of 3, not 16"),
        (["train.context_parallel=4", "train.min_workers=6"], "needs min_workers to be a multiple of 4, not 6"),
        (["train.context_parallel=8", "train.context=4104"], "needs context to be a multiple of 16, not 4104"),
        (
            ["train.exact=true", "train.parallel=fsdp", "train.compile=false"],
            "exact sums whole gradients of whole rows, which parallel: fsdp cuts among workers; set parallel",
        ),
        (
            ["train.exact=true", "train.compile=false", "train.context_parallel=2"],
            "set context_parallel to 1, or exact",
        ),
        (["train.exact=true"], "set compile to false, or exact"),
        (["train.exact_threads=4"], "exact_threads has no effect without `exact: true`"),
        (["train.cross_entropy=liger", "train.pretrain.z_loss=1e-4"], "liger cannot tell the z-loss from the loss"),
        (
            ["train.pretrain.update.rule=lora"],
            "update.rule: lora trains a part of the base as it is; set `expand: null`",
        ),
        (
            [*PLAIN, "train.pretrain.update.rule=lora", "train.precision=fp8"],
            "lora has matrix products of its own, .*fp8",
        ),
        ([*CONTRAST, "mixture.replay_languages=[]"], "none of the second, with a share; take lora"),
        ([*CONTRAST, "mixture.replay_share=0"], "none of the second, with a share; take lora"),
        ([*CONTRAST, "languages=[en, zh]"], "there is none of the first; take lora"),
    ):
        with pytest.raises(UserError, match=message):
            recipes.load("sailor2-1b", overrides)


def test_a_base_has_a_base(tmp_path):
    write(tmp_path, MINIMAL + "dedup: {bands: 14, rows: 8}\n", "below.yaml")
    path = write(tmp_path, "base: below.yaml\nname: above\ndedup: {rows: 9}\n", "above.yaml")
    recipe = recipes.load(path)
    assert (recipe.name, recipe.dedup.bands, recipe.dedup.rows) == ("above", 14, 9)
    third = recipes.load(write(tmp_path, "base: above.yaml\nname: third\ndedup: {bands: 20}\n", "third.yaml"))
    assert (third.name, third.dedup.bands, third.dedup.rows) == ("third", 20, 9)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_recipes_that_are_built_on_themselves(tmp_path, count):
    for i in range(count):
        write(tmp_path, f"base: r{(i + 1) % count}.yaml\nname: r{i}\n", f"r{i}.yaml")
    with pytest.raises(UserError, match=f"base: r0.yaml is built on r{count - 1}.yaml itself"):
        recipes.load(str(tmp_path / "r0.yaml"))


def test_variables(tmp_path, monkeypatch):
    path = write(tmp_path, MINIMAL.replace("/data/*.jsonl", '"${PINISI_TEST_FOLDER}/data/*.jsonl"'))
    with pytest.raises(UserError, match="PINISI_TEST_FOLDER"):
        recipes.load(path)
    monkeypatch.setenv("PINISI_TEST_FOLDER", "/here")
    assert recipes.load(path).sources[0].path == "/here/data/*.jsonl"


def test_resolved_recipe_reads_back_equal(tmp_path):
    recipe = recipes.load("demo")
    again = recipes.load(write(tmp_path, recipes.resolved(recipe), "again.yaml"))
    assert again == recipe


def test_missing_recipe_lists_the_shipped_ones():
    with pytest.raises(UserError, match=r"nowhere: no such recipe file.*demo"):
        recipes.load("nowhere")


def test_every_key_is_documented():
    text = (recipes.SAMPLE.parent / "docs" / "recipe.md").read_text()

    def keys(model):
        for name, field in model.model_fields.items():
            yield name
            for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if hasattr(part, "model_fields"):
                    yield from keys(part)

    assert [key for key in keys(Recipe) if key not in text] == []


@pytest.mark.parametrize("name", sorted(path.stem for path in recipes.RECIPES.glob("*.yaml")))
def test_a_recipe_says_first_how_it_is_used(name):
    lines = (recipes.RECIPES / f"{name}.yaml").read_text().splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert any(re.match(rf"#     pinisi (run|submit) {name}\b", line) for line in head)
