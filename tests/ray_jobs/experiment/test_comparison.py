"""Differences between arms: from the scores of items, with what is not separated said so."""

import numpy as np
import pytest

from cluster import storage
from ray_jobs.config import reader as recipes
from ray_jobs.experiment import comparison, compute, engine, page, specification, two_runs
from ray_jobs.experiment.measures import Cell
from ray_jobs.run.run import Run
from train.monitor import flops

MEASURED = ["bits_per_byte", "tasks", "forgetting", "compute"]


@pytest.fixture
def demo(tmp_path, faked):
    """A finished run on fakes."""
    run = Run(str(tmp_path / "demo"), recipes.load("demo", ["train.prune=null"]))
    run.execute(say=lambda _: None)
    return run


def test_an_arm_compared_with_itself_is_0_everywhere(demo):
    arms = {"one": {1: demo, 2: demo}, "same": {1: demo, 2: demo}}
    found = comparison.compare(arms, "one", MEASURED)
    assert [(table.title, table.model) for table in found.tables] == [
        (title, model) for model in ("final", "pre-trained") for title in ("bits per byte", "xcopa")
    ]
    for table in found.tables:
        assert [row.lang for row in table.rows] == ["mean of languages", "en", "lo", "th"]
        for row in table.rows:
            one = row.differences["same"]
            assert (one.value, one.low, one.high, one.shown) == (0, 0, 0, False)
            assert row.scores["one"] == row.scores["same"]
    assert all(
        "no difference shown between one and same on 2 seeds" in said
        for said in found.sentences
        if "forgot" not in said
    )
    assert found.costs["one"] == found.costs["same"]


def test_scores_are_those_of_evaluate(demo):
    """Bits per byte of a language is all its bits over all its bytes, and languages count alike."""
    rows = storage.read_table(f"{demo.uri}/evaluate/documents.parquet").to_pylist()
    found = comparison.compare({"one": {0: demo}, "same": {0: demo}}, "one", ["bits_per_byte"])
    final = next(table for table in found.tables if table.model == "final")
    ratios = []
    for row in final.rows[1:]:
        own = [one for one in rows if one["lang"] == row.lang and one["model"] == "dpo/on_policy"]
        ratios.append(sum(one["bits"] for one in own) / sum(one["bytes"] for one in own))
        assert row.scores["one"] == pytest.approx(ratios[-1], rel=1e-12)
    assert final.rows[0].scores["one"] == pytest.approx(np.mean(ratios), rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_items_give_the_mean_and_the_variance_of_strata(seed):
    """The plain mean and variance of what goes into the comparison are those of the ratio and of the strata, computed apart."""
    rng = np.random.default_rng(seed)
    cells = [Cell("bits per byte", lang, "bits_per_byte", False) for lang in ("th", "lo", "km")]
    sizes = rng.integers(2, 30, 3)
    scores = {
        cell: {str(i): (float(rng.normal(2)), float(rng.integers(1, 900))) for i in range(n)}
        for cell, n in zip(cells, sizes, strict=True)
    }
    common = {cell: sorted(items) for cell, items in scores.items()}
    found = np.array(list(comparison._items(scores, cells, common, 1.0).values()))
    means, variances = [], []
    for items in scores.values():
        x, w = np.array(list(items.values())).T
        mean = (x * w).sum() / w.sum()
        means.append(mean)
        variances.append(((w * (x - mean)) ** 2).sum() / w.sum() ** 2)
    assert found.mean() == pytest.approx(np.mean(means), rel=1e-12)
    assert ((found - found.mean()) ** 2).sum() / len(found) ** 2 == pytest.approx(sum(variances) / 9, rel=1e-9)


def arms_of(tmp_path, faked, better, seeds):
    """Two arms whose final models differ by `better` bits per byte on every document."""
    runs = {"plain": {}, "tuned": {}}
    for seed in seeds:
        for arm, beta in (("plain", 0.1), ("tuned", 0.2)):
            keys = [f"train.dpo.beta={beta}", f"train.seed={seed}", "train.prune=null"]
            run = Run(str(tmp_path / arm / str(seed)), recipes.load("demo", keys))
            print_of_final = run.fingerprints()["dpo/on_policy"]
            if arm == "tuned":
                faked.better[print_of_final] = better
            run.execute(say=lambda _: None)
            runs[arm][seed] = run
    return runs


def test_a_difference_is_shown_when_items_and_seeds_bear_it(tmp_path, faked):
    found = comparison.compare(arms_of(tmp_path, faked, 1.5, [1, 2, 3, 4]), "plain", ["bits_per_byte"])
    final = next(table for table in found.tables if table.model == "final")
    one = final.rows[0].differences["tuned"]
    assert one.shown and one.seeds == 4 and one.value == pytest.approx(-1.5, abs=0.3)
    assert any("tuned is better than plain" in said for said in found.sentences)
    pretrained = next(table for table in found.tables if table.model == "pre-trained")
    assert {row.differences["tuned"].value for row in pretrained.rows} == {0.0}  # adopted or equal: the same model


def test_one_seed_shows_nothing_of_arms(tmp_path, faked):
    found = comparison.compare(arms_of(tmp_path, faked, 1.5, [1]), "plain", ["bits_per_byte"])
    one = next(table for table in found.tables if table.model == "final").rows[0].differences["tuned"]
    assert not one.shown and comparison.apart(one)
    assert any("one seed cannot show" in said for said in found.sentences)


def test_compute_counts_what_the_final_model_comes_of(demo):
    stages = compute.trained(demo, "dpo/on_policy")
    assert [one.name for one in stages] == [
        *("base", "pretrain/stage1", "pretrain/stage2", "sft/stage1", "sft/stage2", "dpo/off_policy", "dpo/on_policy")
    ]
    base, grown = compute.plan_nets(demo, demo.recipe)
    assert compute.per_token(base, 256) == flops.per_token(flops.shape_of(base), 64, 256)
    by_name = {one.name: one.flops for one in stages}
    assert by_name["base"] == 8192 * flops.per_token(flops.shape_of(base), 64, 256)
    assert by_name["sft/stage1"] == 8192 * flops.per_token(flops.shape_of(grown), 64, 256)
    assert by_name["dpo/on_policy"] == pytest.approx(by_name["sft/stage1"] * 4 / 3)  # and the reference's forward pass
    cost = compute.of(demo)
    assert cost["flops"] == cost["own_flops"] == sum(by_name.values())
    assert cost["parameters"] == sum(p.numel() for p in grown.parameters())


def test_frozen_blocks_cost_less(demo):
    frozen = recipes.load("demo", ["train.expand.trainable=new_blocks"])
    all_learn, few_learn = compute.planned(demo.recipe)[1], compute.planned(frozen)[1]
    assert 0.5 * all_learn < few_learn < 0.9 * all_learn


def test_page_and_terminal_say_the_same(tmp_path, faked):
    runs = arms_of(tmp_path, faked, 1.5, [1, 2, 3, 4])
    found = comparison.compare(runs, "plain", MEASURED)
    text = page.html(found, "betas", "Which beta?", changes={"plain": {}, "tuned": {"train.dpo.beta": 0.2}}, seeds=[1])
    assert "<script" not in text and "http" not in text.replace("http-equiv", "")
    assert 'class="sure"' in text and 'class="grey"' in text
    shown = "\n".join(line.plain for line in page.lines(found, "Which beta?"))
    for sentence in found.sentences:
        assert sentence.replace("'", "&#39;") in text
        assert " ".join(sentence.split()[:4]) in shown


def test_an_experiment_writes_its_page(tmp_path, faked):
    experiment, path = specification.load("post-training-only", [1, 2])
    uri = str(tmp_path / "runs")
    done = engine.execute(experiment, specification.trials(experiment, path), uri, say=lambda _: None)
    found = page.write(experiment, done, uri)
    text = (tmp_path / "runs" / page.FILE).read_text()
    assert experiment.question in text and all(sentence in text for sentence in found.sentences)
    kept = storage.read_json(f"{uri}/{page.DATA}")
    assert [table["title"] for table in kept["tables"]] == ["bits per byte", "xcopa"]
    assert kept["tables"][0]["rows"][0]["differences"]["with"]["seeds"] == 2
    assert found.costs["with"][1]["flops"] > found.costs["without"][1]["flops"]


def test_two_runs_beside_each_other(tmp_path, faked, demo):
    other = Run(str(tmp_path / "other"), recipes.load("demo", ["train.dpo.beta=0.3", "languages=[th, en, zh]"]))
    other.execute(say=lambda _: None)
    storage.write_text(f"{other.uri}/tokenize/tokenizer/tokenizer.json", "{}")
    found, facts = two_runs.compare(demo, other, ("demo", "other"))
    keys = {row[0]: row[1:] for row in next(one for one in facts if "recipes" in one.title).rows}
    assert keys["train.dpo.beta"] == ("0.1", "0.3") and "name" not in keys
    assert keys["train.prune"] == ("none", "given") and not any(key.startswith("train.prune.") for key in keys)
    assert any("tokenizers differ" in said for said in found.cannot)
    assert any("only demo has them" in said for said in found.cannot)
    assert page.html(found, "two", "How?", facts=facts) and page.lines(found, "How?")


def test_a_run_without_models_and_an_unfinished_one_can_be_compared_too(tmp_path, faked, demo):
    corpus = Run(str(tmp_path / "corpus"), recipes.load("demo", ["train=null"]))
    corpus.execute(until="mixture", say=lambda _: None)
    for one, other in ((demo, corpus), (corpus, demo), (corpus, corpus)):
        found, facts = two_runs.compare(one, other, ("a", "b"))
        assert any("trains none" in said for said in found.cannot) and not found.tables
        assert page.html(found, "two", "How?", facts=facts) and page.lines(found, "How?")
