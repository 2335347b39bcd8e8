"""RegMix of a run, in this process: what proxies read, what they are measured by, what comes out."""

import shutil

import numpy as np
import pytest
import regmix_run
import torch

from cluster import storage
from mixture.regmix.reuse import Reuse
from mixture.store.token_store import TokenStore, write_store
from mixture.weights import Auto, Pool, stage1
from ray_jobs.config.training import Train
from ray_jobs.errors import UserError
from ray_jobs.report import page as report
from ray_jobs.report import regmix as regmix_section
from ray_jobs.run.run import Run
from ray_jobs.stages import mixture, regmix_proxies
from ray_jobs.stages import regmix_weights as regmix
from ray_jobs.training import data_order

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def here():
    """Tasks run one after the other in this process."""
    patch = pytest.MonkeyPatch()
    for module in (regmix_proxies, regmix):
        patch.setattr(module, "map_on_ray", lambda job, function, items, *_, **__: [function(i) for i in items])
    patch.setattr(regmix_proxies, "on_gpus", lambda job: False)
    yield
    patch.undo()


def finish(run, name, module):
    job = regmix_run.job(run, name)
    result = module.run(job)
    storage.write_json(job.path("_manifest.json"), {"stage": name, "seconds": 1.0, **result})
    return result


@pytest.fixture(scope="module")
def done(tmp_path_factory, here):
    _, run = regmix_run.build(tmp_path_factory.mktemp("regmix"))
    results = {
        name: finish(run, name, module)
        for name, module in (
            ("regmix/proxies", regmix_proxies),
            ("regmix/weights", regmix),
            ("mixture", mixture),
        )
    }
    return run, results


def read(run, path):
    return storage.read_table(storage.join(run.uri, path))


def test_every_proxy_is_there_with_its_mixture_and_losses(done):
    run, results = done
    table = read(run, "regmix/proxies/mixtures.parquet")
    assert table["number"].to_pylist() == list(range(16))
    assert table["heldout"].to_pylist() == [False] * 12 + [True] * 4
    weights = np.stack([table[f"weight/{lang}"].to_numpy() for lang in ("en", "id", "lo")], 1)
    np.testing.assert_allclose(weights.sum(1), 1)
    assert len(np.unique(weights, axis=0)) == 16
    assert results["regmix/proxies"]["tokens"] == 16 * 16 * 8 * 32  # 16 proxies of 16 steps


def test_a_language_is_learned_where_it_is_in_the_mixture(done):
    table = read(done[0], "regmix/proxies/mixtures.parquet")
    for lang in ("en", "id", "lo"):
        weight, loss = table[f"weight/{lang}"].to_numpy(), table[f"loss/{lang}"].to_numpy()
        assert np.corrcoef(np.log(weight + 1e-2), loss)[0, 1] < -0.7


def test_pools_are_a_sample_in_the_small_vocabulary(done):
    run = done[0]
    for lang in regmix_run.LETTERS:
        whole = TokenStore(storage.join(run.uri, "tokenize/pools/all", lang))
        small = TokenStore(storage.join(run.uri, "regmix/proxies/pools", lang))
        held = TokenStore(storage.join(run.uri, "regmix/proxies/heldout", lang))
        assert small.vocab_size == held.vocab_size == 300
        ids = set(small.documents["doc_id"].to_pylist())
        assert ids <= set(whole.documents["doc_id"].to_pylist())
        assert not ids & set(held.documents["doc_id"].to_pylist()) and held.n_documents == 8
        assert small.n_tokens >= 4032 or small.n_documents == whole.n_documents


def test_matched_proxies_read_the_same_part_of_every_pool(done, here, tmp_path, monkeypatch):
    """So a weight means the same readings to a proxy of 4,096 tokens as to a stage of 40,960."""
    stage = {"tokens": 40_960, "rows_per_step": 4}
    train = {"context": 8, "base": {"model": "none"}, "pretrain": {"stage1": stage, "stage2": stage}}
    mix = done[0].recipe.mixture
    proxies = mix.regmix.proxies
    larger = proxies.model_copy(update={"larger": proxies.shape.model_copy(update={"hidden_size": 32})})
    asked = mix.regmix.model_copy(update={"match_repetition": True, "proxies": larger})
    mix = mix.model_copy(update={"regmix": asked})
    recipe = done[0].recipe.model_copy(update={"train": Train.model_validate(train), "mixture": mix})
    run = Run(str(tmp_path / "run"), recipe)
    shutil.copytree(storage.join(done[0].uri, "tokenize"), storage.join(run.uri, "tokenize"))

    def nothing(task):
        for number, weights in zip(task["numbers"], task["mixtures"], strict=True):
            result = {"number": number, "mixture": dict(zip(task["domains"], weights, strict=True))}
            of_size = task["settings"].shape.hidden_size / 16  # the larger ones rank Lao the other way round
            result["loss"] = {
                lang: 5 - result["mixture"][lang] * (-1 if lang == "lo" and of_size == 2 else of_size)
                for lang in task["languages"]
            }
            storage.write_json(regmix_proxies._result(task, number), result)

    monkeypatch.setattr(regmix_proxies, "_train", nothing)
    result = finish(run, "regmix/proxies", regmix_proxies)
    assert result["matched_tokens"] == 40_960 and result["warnings"] == []
    scales, whole, bytes_of = {}, {}, {}
    for lang in regmix_run.LETTERS:
        whole[lang] = TokenStore(storage.join(run.uri, "tokenize/pools/all", lang))
        small = TokenStore(storage.join(run.uri, "regmix/proxies/pools", lang))
        bytes_of[small.uri] = storage.read_bytes(storage.join(small.uri, "tokens.bin"))
        before = {row["doc_id"]: row["length"] for row in whole[lang].documents.to_pylist()}
        lengths = [before[doc_id] for doc_id in small.documents["doc_id"].to_pylist()]
        assert sum(lengths[:-1]) < result["pool_part"] * whole[lang].n_tokens <= sum(lengths) + 1
        scales[lang] = small.n_tokens / (result["pool_part"] * whole[lang].n_tokens)
    regmix_proxies.run(regmix_run.job(run, "regmix/proxies"))
    assert all(storage.read_bytes(storage.join(uri, "tokens.bin")) == first for uri, first in bytes_of.items())
    weights = read(run, "regmix/proxies/mixtures.parquet")
    assert all(max(weights[f"weight/{lang}"].to_pylist()) > 0.3 for lang in regmix_run.LETTERS)
    share = 0.2 * scales["lo"] / sum(scale / 3 for scale in scales.values())
    ours = share * 4096 / (result["pool_part"] * whole["lo"].n_tokens * scales["lo"])
    assert ours == pytest.approx(0.2 * 40_960 / whole["lo"].n_tokens, rel=0.15)
    finish(run, "regmix/weights", regmix)
    weights = storage.read_json(storage.join(run.uri, "regmix/weights/weights.json"))
    assert weights["larger"]["rho"] == pytest.approx({"en": 1, "id": 1, "lo": -1}) and weights["warnings"] == []
    assert weights["larger"]["parameters"] > weights["parameters"] and weights["larger"]["proxies"] == 4
    assert regmix_section.section(run.uri)["larger"]["rho"] == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="give max_tokens"):
        pretrain = recipe.train.pretrain.model_copy(
            update={"stage1": recipe.train.pretrain.stage1.model_copy(update={"tokens": "auto"})}
        )
        job = regmix_run.job(run, "regmix/proxies")
        job.recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"pretrain": pretrain})})
        regmix_proxies.run(job)


def test_an_added_language_gets_a_share_and_the_others_keep_their_ratios(done, here, tmp_path, monkeypatch):
    old = tmp_path / "weights.json"
    old.write_text('{"weights": {"all/en": 0.3, "all/id": 0.6}, "followed": true}')
    asked = done[0].recipe.mixture.regmix.model_copy(update={"reuse": str(old), "min_correlation": 0.0})
    mix = done[0].recipe.mixture.model_copy(update={"regmix": asked, "max_epochs": "auto"})
    run = Run(str(tmp_path / "run"), done[0].recipe.model_copy(update={"mixture": mix}))
    shutil.copytree(storage.join(done[0].uri, "tokenize"), storage.join(run.uri, "tokenize"))

    def best_at_three_percent(task):
        for number, weights in zip(task["numbers"], task["mixtures"], strict=True):
            result = {"number": number, "mixture": dict(zip(task["domains"], weights, strict=True))}
            result["loss"] = dict.fromkeys(task["languages"], 2 + abs(result["mixture"]["lo"] - 0.03))
            storage.write_json(regmix_proxies._result(task, number), result)

    monkeypatch.setattr(regmix_proxies, "_train", best_at_three_percent)
    finish(run, "regmix/proxies", regmix_proxies)
    table = read(run, "regmix/proxies/mixtures.parquet")
    en, id_, lo = (table[f"weight/{lang}"].to_numpy() for lang in ("en", "id", "lo"))
    np.testing.assert_allclose(id_, 2 * en)
    assert len(np.unique(lo)) == 16 and np.allclose(en + id_ + lo, 1)
    finish(run, "regmix/weights", regmix)
    found = storage.read_json(storage.join(run.uri, "regmix/weights/weights.json"))
    weights = found["weights"]
    assert found["followed"] and found["kept"] == ["en", "id"]
    assert sum(weights.values()) == pytest.approx(1) and weights["all/id"] == pytest.approx(2 * weights["all/en"])
    effects = read(run, "regmix/weights/effects.parquet").to_pylist()
    assert {row["domain"] for row in effects} == {"kept mixture", "lo"}
    assert regmix_section.section(run.uri)["kept"] == ["en", "id"]
    for text, said in (('{"weights": {"all/xx": 1}}', "reads xx"), ('{"en": 1, "id": 1, "lo": 1}', "every language")):
        old.write_text(text)
        with pytest.raises(UserError, match=said):
            regmix_proxies.run(regmix_run.job(run, "regmix/proxies"))
    kept = Reuse({"en": 0.8, "id": 0.2}, ["en", "id", "lo"])
    most = regmix_proxies._bounded(kept, {"en": 0.6, "id": 1.0, "lo": 0.3})
    assert most == pytest.approx({"kept mixture": 0.75, "lo": 0.3})
    with pytest.raises(UserError, match=r"80% of the mixture to reuse is en, of which proxies .* 40% at most"):
        regmix_proxies._bounded(kept, {"en": 0.4, "id": 1.0, "lo": 0.3})


def test_a_stage_in_phases_reads_what_each_wants(done, here, tmp_path, monkeypatch):
    """Lao helps early and hurts in the end."""
    stage = {"tokens": 20_000, "rows_per_step": 10}
    train = {"context": 8, "base": {"model": "none"}, "pretrain": {"stage1": stage, "stage2": stage}}
    proxies = done[0].recipe.mixture.regmix.proxies.model_copy(update={"phases": 2})
    asked = done[0].recipe.mixture.regmix.model_copy(update={"proxies": proxies})
    mix = done[0].recipe.mixture.model_copy(update={"regmix": asked})
    recipe = done[0].recipe.model_copy(update={"train": Train.model_validate(train), "mixture": mix})
    run = Run(str(tmp_path / "run"), recipe)
    shutil.copytree(storage.join(done[0].uri, "tokenize"), storage.join(run.uri, "tokenize"))
    seen = []

    def measured(shape, batches, heldout, config, **_):
        seen.append(config.points)
        lo_M = np.array([batch([0])["labels"].numel() for batch in batches])  # the batches can be read
        assert lo_M.all()
        return np.zeros((2, len(batches), len(heldout)))

    monkeypatch.setattr(regmix_proxies.proxy, "trajectories", measured)
    regmix_proxies.run(regmix_run.job(run, "regmix/proxies"))
    assert set(seen) == {(8,)}  # of 16 updates
    for number in range(16):
        uri = storage.join(run.uri, "regmix/proxies/runs", f"proxy-{number:05}.json")
        result = storage.read_json(uri)
        lo = result["mixture"]["lo"]
        early, late = (dict.fromkeys(result["loss"], 5 + sign * lo) for sign in (-1, 1))
        storage.write_json(uri, {**result, "loss": late, "before": [early]})
    finish(run, "regmix/proxies", regmix_proxies)
    finish(run, "regmix/weights", regmix)
    finish(run, "mixture", mixture)
    plan = storage.read_json(storage.join(run.uri, "mixture/plan.json"))["stage1"]
    first, last = plan["phases"]
    assert first["all/lo"] > last["all/lo"] + 0.1 and first["all/en"] == pytest.approx(last["all/en"])
    assert plan["weights"]["all/lo"] == pytest.approx((first["all/lo"] + last["all/lo"]) / 2)
    entries = data_order.schedule(run.uri, "pretrain/stage1", recipe, [])
    assert [entry["from_sample"] for entry in entries] == [0, 1250]  # of 250 updates of 10 rows
    assert [entry["weights"] for entry in entries] == [first, last]

    pairs = [("d" * 32, "en-lo", 90, [1] * 300)]
    write_store(storage.join(run.uri, "tokenize/pools/parallel/en-lo"), pairs, 100, eod=0)
    mixture.run(regmix_run.job(run, "mixture"))
    plan = storage.read_json(storage.join(run.uri, "mixture/plan.json"))["stage1"]
    for phase in plan["phases"]:
        assert phase["parallel/en-lo"] == plan["weights"]["parallel/en-lo"] == pytest.approx(0.05)
        assert sum(phase.values()) == pytest.approx(1)


def test_weights_keep_caps_and_replay_and_are_those_of_stage_1(done):
    run, results = done
    found = storage.read_json(storage.join(run.uri, "regmix/weights/weights.json"))
    assert found["followed"] and results["regmix/weights"]["followed"]
    assert sum(found["weights"].values()) == pytest.approx(1)
    assert found["weights"]["all/en"] == pytest.approx(0.2)  # replay_share
    tokens = storage.read_json(storage.join(run.uri, "tokenize/_manifest.json"))["tokens_per_lang"]
    for lang, count in tokens.items():
        assert found["weights"][f"all/{lang}"] <= 4 * count / sum(tokens.values()) + 1e-9
    plan = storage.read_json(storage.join(run.uri, "mixture/plan.json"))["stage1"]
    assert plan["weights"] == pytest.approx(found["weights"])
    assert set(found["rho"]["folds"]) == set(found["rho"]["heldout"]) == {"en", "id", "lo"}
    effects = read(run, "regmix/weights/effects.parquet").to_pylist()
    assert all(row["loss_change"] < 0 for row in effects if row["domain"] == row["language"])
    predicted = read(run, "regmix/weights/predicted.parquet")
    assert predicted.num_rows == 16 * 3


def test_a_finished_group_is_left_and_a_lost_proxy_comes_back_the_same(done, here):
    run = done[0]
    folder = storage.join(run.uri, "regmix/proxies/runs")
    uris = [storage.join(folder, f"proxy-{number:05}.json") for number in range(16)]
    before = {uri: (storage.read_bytes(uri), storage.filesystem(uri)[0].info(uri)["mtime"]) for uri in uris}
    storage.remove(uris[5])
    regmix_proxies.run(regmix_run.job(run, "regmix/proxies"))
    for number, uri in enumerate(uris):
        content, changed = before[uri]
        assert storage.read_bytes(uri) == content
        if number // 4 != 1:
            assert storage.filesystem(uri)[0].info(uri)["mtime"] == changed


def test_one_by_one_gives_the_same_losses(done, here, tmp_path):
    _, alone = regmix_run.build(tmp_path, group=1)
    regmix_proxies.run(regmix_run.job(alone, "regmix/proxies"))
    ours, theirs = (read(run, "regmix/proxies/mixtures.parquet") for run in (done[0], alone))
    for name in ours.column_names:
        np.testing.assert_allclose(
            ours[name].to_numpy().astype(float), theirs[name].to_numpy().astype(float), rtol=1e-3
        )


def test_a_regression_that_ranks_nothing_is_not_followed(done, here, monkeypatch):
    run = done[0]
    monkeypatch.setattr(regmix.regression, "spearman", lambda measured, predicted: np.zeros(measured.shape[1]))
    mended = run.recipe.model_copy(
        update={
            "mixture": run.recipe.mixture.model_copy(
                update={"regmix": run.recipe.mixture.regmix.model_copy(update={"min_correlation": 0.5})}
            )
        }
    )
    job = regmix_run.job(run, "regmix/weights")
    job.recipe = mended
    before = storage.read_bytes(job.path("weights.json"))
    result = regmix.run(job)
    found = storage.read_json(job.path("weights.json"))
    storage.write_bytes(job.path("weights.json"), before)
    assert not result["followed"] and "min_correlation" in result["warnings"][0]
    plain = {lang: weight for lang, weight in found["tempered"].items() if weight}
    assert found["weights"] == pytest.approx({f"all/{lang}": weight for lang, weight in plain.items()})


@pytest.mark.parametrize("seed", range(3))
def test_where_the_budget_follows_from_the_pools_both_stages_have_the_same(done, here, seed, tmp_path):
    """Also with a floor of a language's own above its cap, which an explicit budget refuses, and with little to replay."""
    stage = {"tokens": "auto", "rows_per_step": 4}
    train = Train.model_validate(
        {"context": 8, "base": {"model": "none"}, "pretrain": {"stage1": stage, "stage2": stage}}
    )
    mix = done[0].recipe.mixture
    mix = mix.model_copy(
        update={
            "replay_share": (0.2, 0.5, 0.7)[seed],
            "temperature": (2.0, 9.0, 9.0)[seed],
            "regmix": mix.regmix.model_copy(update={"minimum": {"lo": 0.3, "default": 0.01}}),
        }
    )
    run = Run(str(tmp_path / "run"), done[0].recipe.model_copy(update={"train": train, "mixture": mix, "seed": seed}))
    shutil.copytree(done[0].uri, run.uri)
    for name, module in (("regmix/weights", regmix), ("mixture", mixture)):
        finish(run, name, module)
    found = storage.read_json(storage.join(run.uri, "regmix/weights/weights.json"))
    plan = storage.read_json(storage.join(run.uri, "mixture/plan.json"))["stage1"]
    made = storage.read_json(storage.join(run.uri, "mixture/_manifest.json"))
    assert found["followed"] and made["budgets"]["stage1"]["bound"] == "the pools"
    assert plan["weights"] == pytest.approx(found["weights"]) and plan["warnings"] == []
    pools = {row["pool"].removeprefix("all/"): Pool(row["pool_tokens"], 0) for row in plan["rows"]}
    limits = {"temperature": mix.temperature, "max_epochs": 4, "replay": ["en"], "replay_share": mix.replay_share}
    assert plan["tokens"] == stage1(pools, Auto(32), **limits).tokens
    assert max(row["epochs"] for row in plan["rows"]) <= 4 * (1 + 1e-9)


def test_a_floor_is_a_languages_own_or_the_default_under_its_cap():
    caps = {"lo": 0.01, "th": 1.0, "vi": 1.0}
    assert regmix.floors({"default": 0.05, "vi": 0.2}, caps) == {"lo": 0.01, "th": 0.05, "vi": 0.2}
    assert regmix.floors({}, caps) == {"lo": 0.0, "th": 0.0, "vi": 0.0}


def test_effects_are_those_of_a_known_regression():
    class Known:
        def predict(self, weights_ND):
            return np.stack([5 - 2 * weights_ND[:, 0], 3 + weights_ND[:, 1]], 1)

    weights_ND = np.array([[0.5, 0.5], [0.2, 0.8]])
    change_DL = regmix.effects(Known(), weights_ND)
    # domain 0 goes from 0.5 to 0.55 and from 0.2 to 0.28: a loss that falls by 2 a unit falls by 0.13 on average
    np.testing.assert_allclose(change_DL, [[-0.13, -0.065], [0.07, 0.035]])


def test_the_report_says_what_was_found(done):
    run = done[0]
    found = regmix_section.section(run.uri)
    assert found["proxies"] == 12 and found["heldout"] == 4 and found["followed"]
    assert [row["lang"] for row in found["rows"]] == ["en", "id", "lo"]
    for plot in ("scatter", "weights", "effects"):
        assert "<svg" in found[plot]
    assert regmix_section.section(storage.join(run.uri, "nothing")) is None
    page = storage.read_bytes(report.write(run)).decode()
    assert "12 small models" in page and "Stage 1 follows the regression" in page
