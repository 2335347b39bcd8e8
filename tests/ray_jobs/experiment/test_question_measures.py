"""The measures `reward` and `small_models`, from files as their stages write them."""

import grammars
import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from ray_jobs.experiment import comparison, filters, measures, page, small_models
from ray_jobs.experiment.measures import Cell
from ray_jobs.run.run import Run


def kept(uri: str, rows: list[tuple[str, str, str]]) -> Run:
    """A run without training whose `quality` has kept rows of (doc_id, lang, text), in two parts."""
    for part in (0, 1):
        columns = dict(zip(("doc_id", "lang", "text"), zip(*rows[part::2], strict=True), strict=True))
        table = pa.table({name: list(values) for name, values in columns.items()})
        storage.write_table(storage.join(uri, "quality", f"part-{part:05}.parquet"), table)
    return Run(uri, recipes.load("demo", ["train=null", "evaluate={}"]))


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    """`same` keeps what `recipe` does; `worse` keeps rubbish in place of half of it."""
    torch.set_num_threads(1)
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("arms")
    good = [(f"good{n}", "lo", grammars.sentences(rng, True)) for n in range(600)]
    bad = [(f"bad{n}", "lo", grammars.sentences(rng, False)) for n in range(300)]
    few = [(f"few{n}", "km", grammars.sentences(rng, True)) for n in range(4)]
    made = {"recipe": [*good, *few], "same": [*good, *few], "worse": [*good[:300], *bad, *few]}
    return {name: kept(str(folder / name), rows) for name, rows in made.items()}


def test_small_models_answer_an_experiment(arms, tmp_path):
    seeds = (42, 43, 44)
    found = comparison.compare(
        {name: dict.fromkeys(seeds, run) for name, run in arms.items()}, "recipe", ["small_models"]
    )
    (table,) = found.tables
    assert (table.unit, table.against, [row.lang for row in table.rows]) == (
        "bits per byte",
        "recipe",
        [comparison.ALL, "lo"],
    )
    row = table.rows[0]
    assert row.items == 20 and row.differences["worse"].seeds == 3
    assert row.differences["worse"].value == pytest.approx(row.scores["worse"] - row.scores["recipe"], abs=0.1)
    assert row.differences["worse"].low > 0 and row.differences["worse"].shown
    assert row.differences["same"][:4] == (0, 0, 0, False)
    assert any("worse" in said for said in found.sentences)
    assert page.lines(found, "a question?")


def test_too_few_documents_is_a_sentence(arms):
    with pytest.raises(UserError, match=r"arms\.same: no language of which both filters keep 995 documents"):
        small_models.compare({name: dict.fromkeys(range(199), arms[name]) for name in ("recipe", "same")}, "recipe")


def test_equal_texts_count_once(tmp_path):
    rows = [("b", "lo", "x"), ("a", "lo", "x"), ("c", "km", "y"), ("d", "km", "")]
    run = kept(str(tmp_path), rows)
    assert small_models.documents(run.uri) == {"a": ("lo", "x"), "c": ("km", "y")}


def test_reward_models_are_judged_by_pairs(tmp_path):
    table = pa.table(
        {
            **{"id": ["a", "b", "c", "d"], "lang": ["th", "th", "th", "lo"]},
            **{"chosen_reward": [1.0, 0.0, 2.0, -1.0], "rejected_reward": [0.0, 1.0, 2.0, -2.0]},
        }
    )
    storage.write_table(str(tmp_path / "reward/heldout.parquet"), table)
    found = measures.scores(str(tmp_path), ["reward"], "sft/stage1", ["reward"])
    of = {lang: Cell("reward model", lang, "pair_accuracy", True) for lang in ("th", "lo")}
    assert found == {of["th"]: {"a": (1.0, 1.0), "b": (0.0, 1.0), "c": (0.5, 1.0)}, of["lo"]: {"d": (1.0, 1.0)}}
    assert measures.scores(str(tmp_path), ["evaluate"], "sft/stage1", ["reward"]) == {}


def test_equal_ids_with_other_texts_are_other_documents(arms):
    """An arm that edits its texts trains on its own."""
    ours = small_models.documents(arms["recipe"].uri)
    edited = {key: (lang, text[::-1] if lang == "lo" else text) for key, (lang, text) in ours.items()}
    apart = filters._apart(ours, edited)
    assert {key for key, row in apart.items() if row[0] == "lo"}.isdisjoint(ours)
    assert [*apart.values()] == [*edited.values()] and filters._apart(ours, ours) == ours
