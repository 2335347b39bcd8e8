"""Sources of type parallel in a recipe: what they become, what is refused, and which files belong together."""

import os

import pytest

from ray_jobs.commands.travel import _places
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.run import files
from ray_jobs.run.graph import enabled

WEB = {"name": "web", "type": "jsonl", "path": "/x/*.jsonl"}
PLAIN = {"name": "t", "languages": ["en", "id", "th"], "sources": [WEB]}


def pairs(path="/x/*.tmx", sides=("en", "id"), **more):
    return {
        "name": "p",
        "type": "parallel",
        "path": path,
        "sides": sides if isinstance(sides, dict) else [*sides],
        **more,
    }


def parsed(*sources, **parallel):
    return recipes.parse({**PLAIN, "sources": [WEB, *sources], **({"parallel": parallel} if parallel else {})}, "t")


def test_pairs_are_no_documents():
    recipe = parsed(pairs(sides=["id", "en"]))
    assert [one.name for one in recipe.sources] == ["web"]
    (own,) = recipe.parallel.sources
    assert own.langs == ("en", "id") and own.places == ("en", "id") and own.kind == "tmx"
    again = recipes.parse(recipe.model_dump(), "t")
    assert again == recipe
    plain, both = (enabled(one) for one in (recipes.parse(PLAIN, "t"), recipe))
    added = ["parallel/pairs", "parallel/dedup", "parallel/documents"]
    assert [one.name for one in both if one not in plain] == [*added, "tokenize", "mixture", "report"]
    assert not any(word.startswith("parallel") for one in plain for word in (*one.config, *one.inputs, *one.files))
    assert parsed(pairs("x.tsv", ["id", "en"])).parallel.sources[0].places == (("en", 2), ("id", 1))
    assert parsed(pairs("x.tsv", {"id": 5, "en": "english"})).parallel.sources[0].places == ("english", 5)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (pairs(sides=["en"]), "two languages"),
        (pairs(sides=[["en"], ["id"]]), "two languages"),
        (pairs(sides=[{"en": 1}, {"id": 2}]), "two languages"),
        (pairs(sides={"en": ["a"], "id": {"b": 1}}), "two languages"),
        (pairs("x.tsv", {"en": True, "id": 2}), "two languages"),
        (pairs("x.tsv", {"en": 1, "id": 1}), "en and id both stand at 1"),
        ({**pairs(), "sides": "en-id"}, "two languages"),
        (pairs(sides=["en", "en"]), "two languages"),
        (pairs(sides=["en", "fr"]), "'fr', which is not in `languages`"),
        (pairs("/x/*.txt"), "does not say what its files are"),
        (pairs("/x/a.tmx", format="moses"), "have {lang} in their `path`"),
        (pairs("/x/{lang}.txt", format="tsv"), "have {lang} in their `path`"),
        (pairs("/x/a.parquet", format="hf"), "hf:NAME"),
        (pairs(sides={"en": 1, "id": 2}), "numbers of columns are for tsv"),
        (pairs("x.tsv", {"en": 0, "id": 2}), "counted from 1"),
        ({**pairs(), "text_field": "x"}, "unknown key"),
        ({**pairs(), "name": "web"}, "the same `name`"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(source, said):
    with pytest.raises(UserError, match=said):
        parsed(source)


def test_what_fits_no_pairs_is_refused():
    with pytest.raises(UserError, match="add a source of documents"):
        recipes.parse({**PLAIN, "sources": [pairs()]}, "t")
    with pytest.raises(UserError, match="all of them: en-id"):
        parsed(pairs(), weights={"en-th": 1})
    with pytest.raises(UserError, match=r"parallel.min_score: 'jd' is not in `languages` \(did you mean 'id'"):
        parsed(pairs(), min_score={"jd": 0.3})
    with pytest.raises(UserError, match="a number above 0, `auto`, or languages with a number each"):
        recipes.parse({**PLAIN, "mixture": {"max_epochs": {}}}, "t")
    with pytest.raises(UserError, match="must be above 0"):
        parsed(pairs(), formats={"instruction": 0, "plain": 0, "interleaved": 0})


def test_two_files_of_one_text_are_found_together(tmp_path, monkeypatch):
    for name in ("generated.en", "generated.id", "b/open.en.gz", "b/open.id.gz", "b/alone.th"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (own,) = parsed(pairs(f"{tmp_path}/*.{{lang}}")).parallel.sources
    assert files.of_parallel(own) == [[str(tmp_path / "generated.en"), str(tmp_path / "generated.id")]]
    monkeypatch.chdir(tmp_path)
    (own,) = parsed(pairs("./**/open.{lang}.gz", sides=["id", "en"])).parallel.sources
    assert files.of_parallel(own) == [[str(tmp_path / "b" / "open.en.gz"), str(tmp_path / "b" / "open.id.gz")]]
    recipe = parsed(pairs("b/*.{lang}*"), pairs("hf:a/b", optional=True) | {"name": "q"})
    assert files.patterns(recipe, "parallel.sources") == ["b/*.en*", "b/*.id*"]
    assert _places(recipe, "parallel.sources") == ["b/*.{lang}*"]
    (own,) = parsed(pairs(f"{tmp_path}/{{lang}}/x.txt")).parallel.sources
    assert files.within(own, f"{tmp_path}/en/x.txt") == "en/x.txt"
    (own,) = parsed(pairs("hf:lab/set:en-id@test")).parallel.sources
    assert files.of_parallel(own) == [["hf:lab/set:en-id@test"]] == [[files.within(own, "hf:lab/set:en-id@test")]]
    os.remove("generated.id")
    (own,) = parsed(pairs("*.{lang}")).parallel.sources
    with pytest.raises(UserError, match=r"generated.en has no file of the other language"):
        files.of_parallel(own)
    (own,) = parsed(pairs("nothing.{lang}")).parallel.sources
    with pytest.raises(UserError, match="no file matches"):
        files.of_parallel(own)


def test_pairs_of_a_base_leave_with_their_languages_and_ones_own_are_refused(tmp_path):
    inherited = {source.name for source in recipes.load("demo").parallel.sources}
    kept = {source.name for source in recipes.load("demo", ["languages=[en, th, zh]"]).parallel.sources}
    assert len(inherited) == 3 and len(kept) == 1
    own = tmp_path / "own.yaml"
    below = tmp_path / "below.yaml"
    below.write_text("name: b\nsources: [{name: p, type: parallel, path: p.tmx, sides: [[en], [id]]}]\n")
    own.write_text("base: below.yaml\nname: own\nlanguages: [en, vi, zh]\n")
    with pytest.raises(UserError, match="two languages"):
        recipes.load(str(own), ["languages=[en]"])
    own.write_text("base: demo\nname: own\nlanguages: [en, vi, zh]\n")
    assert [source.langs for source in recipes.load(str(own)).parallel.sources] == [("en", "vi")]
    assert len(recipes.load(str(own)).sources) == len(recipes.load("demo").sources)
    over = tmp_path / "over.yaml"
    over.write_text("base: own.yaml\nname: over\n")
    for overrides in ([], ["quality.top_share=0.3"]):
        assert [one.langs for one in recipes.load(str(over), overrides).parallel.sources] == [("en", "vi")]
    pair = "{name: p, type: parallel, path: p.tmx, sides: [en, id]}"
    own.write_text(
        f"base: demo\nname: own\nlanguages: [en, vi]\nsources: [{{name: a, type: warc, path: a.warc}}, {pair}]\n"
    )
    with pytest.raises(UserError, match="'p': `sides` has 'id', which is not in `languages`"):
        recipes.load(str(own))
