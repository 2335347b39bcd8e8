import json

import pytest

from mixture import sailor2
from mixture.store.token_store import write_store
from ray_jobs import cli
from ray_jobs.config import reader as recipes
from ray_jobs.config.mixture import Mixture
from ray_jobs.plan import tokens as token_plan


def tokens(capsys, *arguments, code=0):
    with pytest.raises(SystemExit) as end:
        cli.main(["tokens", *arguments])
    assert end.value.code == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else printed.err


def rows(found, stage):
    return {row["pool"]: row for row in found[stage]["rows"]}


def test_sailor2s_own_weights_give_the_epochs_of_its_tables(capsys, tmp_path):
    """Recipe section 5.1: computed there from tables 2 to 5."""
    path = tmp_path / "weights.json"
    path.write_text(json.dumps(sailor2.STAGE1))
    found = json.loads(tokens(capsys, "--weights", str(path), "--json"))
    first = rows(found, "stage1")
    published = {"vi": 0.21, "id": 0.29, "th": 1.5, "ms": 1.9, "my": 3.6, "tl": 2.3, "km": 3.8}
    for lang, epochs in published.items():
        assert first[lang]["epochs"] == pytest.approx(epochs, rel=0.03)
        assert first[lang]["epochs"] == pytest.approx(first[lang]["sailor2_epochs"])
        assert first[lang]["tokens"] == pytest.approx(sailor2.STAGE1[lang])
    assert first["km"]["bytes"] == pytest.approx(6.5 / 1.7 * 6.9e9, rel=1e-3)
    assert first["total"]["tokens"] == pytest.approx(450e9)
    assert first["total"]["weight"] == pytest.approx(1.0)
    assert sum(first[lang]["tokens"] for lang in published) == pytest.approx(349e9)
    assert found["stage1"]["updates"] == pytest.approx(107_000, rel=0.01)
    assert found["stage2"]["updates"] == pytest.approx(3_600, rel=0.01)
    shares = {
        "lo": 0.66,
        "ceb": 0.60,
        "jv": 0.57,
        "ilo": 0.50,
        "su": 0.45,
        "war": 0.10,
        "th": 0.23,
        "id": 0.04,
        "vi": 0.02,
    }
    for lang, share in shares.items():
        assert sailor2.STAGE2[lang] / sailor2.POOLS[lang].tokens == pytest.approx(share, abs=0.011)
    assert rows(found, "stage2")["total"]["sailor2_tokens"] == pytest.approx(58.3e9, rel=0.001)


def test_the_default_plan_keeps_the_cap_and_the_shares(capsys):
    found = json.loads(tokens(capsys, "--json"))
    first, second = rows(found, "stage1"), rows(found, "stage2")
    assert first["en"]["weight"] + first["zh"]["weight"] == pytest.approx(0.2)
    assert first["km"]["epochs"] == pytest.approx(4.0)
    assert "ceb" not in first
    assert second["stage-1 blend"]["tokens"] == pytest.approx(12e9)
    assert second["instructions"]["tokens"] == pytest.approx(2.4e9)
    assert second["high_quality/ceb"]["epochs"] == pytest.approx(4.0)
    assert second["total"]["tokens"] == pytest.approx(60e9)
    assert found["epochs_both_stages"]["km"] == pytest.approx(4 * (1 + 12 / 450) + second["high_quality/km"]["epochs"])
    assert [w for w in found["warnings"] if "km (7.1)" in w and "read more than 4 times" in w]
    assert not any("vi" in warning for warning in found["warnings"])


def test_the_table_shows_the_same_numbers(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    lines = tokens(capsys).splitlines()
    thai = next(line.split() for line in lines if line.strip().startswith("th "))
    assert thai == ["th", "61", "B", "0.1103", "49.6", "B", "197", "GB", "0.81", "92", "B", "1.51"]
    assert any(line.startswith("stage1: 450 B tokens, 107,288 updates") for line in lines)
    assert any(line.startswith("warning: over both stages") for line in lines)


def test_pools_of_a_file_with_everything_too_small(capsys, tmp_path):
    path = tmp_path / "pools.yaml"
    path.write_text(
        "th: {tokens: 8e9, bytes: 40e9, high_quality: 1e9}\nlo: {tokens: 0.5e9, stage1: false}\n"
        "en: {tokens: 20e9, high_quality: 0}\ninstructions: {tokens: 1e9}\n"
    )
    found = json.loads(tokens(capsys, "--pools", str(path), "--stage1", "50e9", "--stage2", "2e9", "--json"))
    first, second = rows(found, "stage1"), rows(found, "stage2")
    assert first["th"]["epochs"] == pytest.approx(0.8 * 50 / 8)
    assert first["th"]["bytes"] == pytest.approx(200e9)
    assert first["th"]["sailor2_tokens"] is None
    assert set(second) == {"high_quality/th", "high_quality/lo", "instructions", "stage-1 blend", "total"}
    assert second["high_quality/lo"]["pool_tokens"] == 100_000_000
    assert any("stage1: read more than 4 times" in w and "th (5.0)" in w for w in found["warnings"])
    only = json.loads(tokens(capsys, "--pools", str(path), "--stage1", "10e9", "--stage2", "0", "--json"))
    assert "stage2" not in only
    assert only["warnings"] == []
    path.write_text(
        "th: {tokens: 80e9}\nen: {tokens: 90e9}\ninstructions: {tokens: 1e9}\nparallel/en-th: {tokens: 3e9}\n"
    )
    both = json.loads(tokens(capsys, "--pools", str(path), "--stage1", "10e9", "--stage2", "2e9", "--json"))
    assert both["warnings"] == [] and rows(both, "stage1")["parallel/en-th"]["epochs"] > 0


def test_caps_by_scarcity_and_what_the_next_megabyte_is_worth(capsys, monkeypatch, tmp_path):
    path = tmp_path / "pools.yaml"
    path.write_text("th: {tokens: 4e9}\nlo: {tokens: 50e6}\nen: {tokens: 20e9, high_quality: 0}\n")
    arguments = ["--pools", str(path), "--stage1", "5e9", "--stage2", "0", "--temperature", "9"]
    found = json.loads(tokens(capsys, *arguments, "--max-epochs", "auto", "--json"))
    caps = found["stage1"]["max_epochs"]
    assert (caps["th"], caps["en"]) == (4, 4) and 15 < caps["lo"] < 20
    assert rows(found, "stage1")["lo"]["epochs"] == pytest.approx(caps["lo"]) and found["warnings"] == []
    own = json.loads(tokens(capsys, *arguments, "--max-epochs", "lo=9,default=2", "--json"))
    assert own["stage1"]["max_epochs"] == {"th": 2, "lo": 9, "en": 2}
    first, *others = found["next_megabyte"]
    assert first["language"] == "lo" and first["pool_bytes"] == 200e6 and first["new"] < first["again"] < 0
    assert first["new_over_again"] == pytest.approx(first["new"] / first["again"]) and first["new_over_again"] > 5
    assert [one["new"] for one in others] == [0, 0]  # nobody reads all of these
    # a quarter of a million tokens more of the Thai that 3.3 B of are read
    thai = next(one for one in others if one["language"] == "th")
    read = rows(found, "stage1")["th"]["tokens"]
    assert thai["again"] == pytest.approx((1 + 0.25e6 / read) ** -0.353 - 1)
    monkeypatch.setenv("COLUMNS", "140")
    assert "1 MB new" in tokens(capsys, *arguments)
    assert "invalid" in tokens(capsys, "--max-epochs", "many", code=2)
    assert "invalid" in tokens(capsys, "--max-epochs", "lo=-1", code=2)
    assert "without a pool: xx" in tokens(capsys, *arguments, "--max-epochs", "xx=3", code=2)
    path.write_text("th: {tokens: 4e9}\nlo: {tokens: 0}\n")  # a language without text
    found = json.loads(tokens(capsys, "--pools", str(path), "--stage1", "5e9", "--stage2", "1e9", "--json"))
    assert [one["language"] for one in found["next_megabyte"]] == ["th"] and "lo" not in str(found["warnings"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("th: 5", "maps languages to"),
        ("th: {token: 5}", "th: unknown key 'token'"),
        ("th: {bytes: 5}", "th: no tokens"),
        ("th: {tokens: many}", "th: tokens, bytes and high_quality are numbers"),
        ("th: {tokens: 5, high_quality: 6}", "nor high_quality more than tokens"),
        ("th: {tokens: 0}", "no pool has any tokens"),
        (
            "th: {tokens: 5}\nparallel/en-th: {tokens: 5, stage1: false}",
            "parallel/en-th: parallel text has no 'stage1'",
        ),
        ("th: [", "not valid YAML"),
    ],
)
def test_a_bad_file_is_one_sentence_and_exit_code_2(capsys, tmp_path, text, sentence):
    path = tmp_path / "pools.yaml"
    path.write_text(text)
    printed = tokens(capsys, "--pools", str(path), code=2)
    assert sentence in printed
    assert printed.count("\n") == 1


def test_bad_weights_and_missing_files(capsys, tmp_path):
    path = tmp_path / "weights.json"
    path.write_text('{"xx": 1}')
    assert "weights of languages without a pool in stage 1: xx" in tokens(capsys, "--weights", str(path), code=2)
    path.write_text("[1]")
    assert "weights are a JSON object" in tokens(capsys, "--weights", str(path), code=2)
    assert "missing.yaml" in tokens(capsys, "--pools", str(tmp_path / "missing.yaml"), code=2)
    assert "no run here" in tokens(capsys, "--run", str(tmp_path), code=2)


def test_pools_of_a_run(tmp_path):
    sizes = {"all/th": 400, "all/en": 800, "high_quality/th": 100, "instructions": 50}
    for name, count in sizes.items():
        documents = [("d" * 32, name.split("/")[-1], 3 * count, [1] * count)]
        write_store(str(tmp_path / "tokenize" / "pools" / name), documents, 100, eod=0)
    pools = token_plan.of_run(str(tmp_path))
    assert {lang: pool.tokens for lang, pool in pools.stage1.items()} == {"th": 401, "en": 801}  # with its end token
    assert list(pools.high_quality) == ["th"]
    plan = token_plan.make(pools, 1000, 200, Mixture())
    assert plan.stages["stage1"].weights == pytest.approx({"en": 0.2, "th": 0.8})
    assert plan.read["th"] == pytest.approx((800 + 0.2 * 0.8 * 200) / 401 + 0.76 * 200 / 101)
    with pytest.raises(ValueError, match="no pools of tokens below"):
        token_plan.of_run(str(tmp_path / "elsewhere"))


def test_a_run_is_shown_with_its_own_updates_and_weights(capsys, tmp_path):
    sizes = ["stage1.tokens=200_000", "stage1.rows_per_step=16", "stage2.tokens=64_000", "stage2.rows_per_step=32"]
    changes = ["mixture.replay_share=0.2", "mixture.max_epochs=4", *(f"train.pretrain.{one}" for one in sizes)]
    (tmp_path / "recipe.yaml").write_text(recipes.resolved(recipes.load("demo", changes)))
    for name, count in {"all/th": 400, "all/en": 800, "high_quality/th": 100, "instructions": 50}.items():
        documents = [("d" * 32, name.split("/")[-1], 3 * count, [1] * count)]
        write_store(str(tmp_path / "tokenize" / "pools" / name), documents, 100, eod=0)
    measured = tmp_path / "regmix" / "weights" / "weights.json"
    measured.parent.mkdir(parents=True)
    measured.write_text('{"weights": {"all/en": 0.3, "all/th": 0.7}}')

    def shares(*more):
        found = json.loads(tokens(capsys, "--run", str(tmp_path), "--json", *more))
        assert (found["stage1"]["updates"], found["stage2"]["updates"]) == (49, 8)  # of 16 and 32 rows of 256 tokens
        return {row["pool"]: row["weight"] for row in found["stage1"]["rows"]}

    assert shares()["th"] == pytest.approx(0.7)
    assert shares("--temperature", "2")["th"] == pytest.approx(0.8)
