"""Asked means done: each key that is given is read by a stage of the run, or refused in one sentence."""

import random

import pytest
import yaml

from ray_jobs.config import asked
from ray_jobs.config import reader as recipes
from ray_jobs.config.recipe import Recipe
from ray_jobs.errors import UserError
from ray_jobs.run import graph

# Keys that change no result, so that no stage has them in its fingerprint, and what reads them.
HOW = {
    "name": "",
    "sources": "",
    "run": "",
    "fetch": "crawl",
    "cluster.cpus": "",
    "cluster": "crawl",
    "train.sft.select": "sft/select",
    "train": "base",
}
OFF = [
    [],
    ["train=null"],
    ["train.prune=null"],
    ["train.dpo=null"],
    ["train.dpo=null", "train.reward=null"],
    ["train.dpo=null", "train.sft=null"],
    ["train.dpo=null", "train.sft=null", "train.reward=null"],
    ["train.pretrain=null", "train.expand=null", "train.prune=null"],
    ["train.pretrain=null", "train.expand=null", "train.prune=null", "train.dpo=null", "train.reward=null"],
    ["mixture.regmix=null"],
]


def keys(model=Recipe, prefix=""):
    """Each dotted key that is no section."""
    for name in model.model_fields:
        section = asked.section_of(model, name)
        if section is None:
            yield f"{prefix}{name}"
        else:
            yield from keys(section, f"{prefix}{name}.")


KEYS = list(keys())


def stages_that_read(recipe, key):
    """The stages of the run whose settings the key is one of."""
    stages = graph.enabled(recipe)
    found = {s.name for s in stages if any(f"{key}.".startswith(f"{one}.") for one in s.config)}
    how = next((what for one, what in HOW.items() if f"{key}.".startswith(f"{one}.")), None)
    if not found and how is not None and (not how or how in {s.name for s in stages}):
        return {how}
    return found


def test_the_rules_name_keys_that_there_are():
    for rule in asked.RULES:
        for key in rule.keys:
            assert any(f"{one}.".startswith(f"{key}.") for one in KEYS), key


@pytest.mark.parametrize("name", ["demo", "align", "sailor2-1b"])
def test_a_key_that_is_given_is_read_by_a_stage_of_the_run_or_refused(name):
    for off in OFF:
        try:
            recipe = recipes.load(name, off)
        except UserError:
            continue  # not a recipe at all, and said so
        for key in KEYS:
            if list(asked.not_read(recipe, [(key, "a value")])):
                continue
            section = recipes.lookup(recipe, key.rpartition(".")[0]) if "." in key else {}
            assert section is None or stages_that_read(recipe, key), (name, off, key)


def test_no_key_that_a_shipped_recipe_says_is_refused_while_its_stages_run():
    """Read as if they were the user's own, the recipes say nothing that nothing reads."""
    for path in recipes.RECIPES.glob("*.yaml"):
        recipe = recipes.load(str(path))
        said = dict(asked.leaves({k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "base"}))
        assert list(asked.not_read(recipe, said.items())) == [], path.name


PACKED = "train.pretrain or train.sft or train.base.shape"
REFUSED = [
    ("align", [], "filter.policy={default: {n_words: {min: 5}}}", "sources"),
    ("align", [], "filter.mask_pii=false", "sources"),
    ("align", [], "dedup.threshold=0.8", "sources"),
    ("align", [], "mixture.temperature=1.5", "sources"),
    ("align", [], "mixture.regmix.proxies.runs=20", "sources"),
    ("align", [], "tokenize.vocab_size=1000", "tokenize.tokenizer: train"),
    ("align", [], "tokenize.heldout_share=0.1", "sources"),
    ("align", [], "quality.top_share=0.1", "sources"),
    ("align", [], "evaluate.sample_tokens=5", "sources"),
    ("align", [], "train.eval_every=5", "sources"),
    ("align", [], "cluster.engine=local", "sources"),
    ("align", [], "language.min_score={default: 0.3}", "sources"),
    ("align", [], "train.base.tokens=1000", "train.base.shape"),
    ("align", ["train.dpo=null", "train.reward=null"], "train.sft.select.max_similarity=0.5", "train.reward"),
    ("align", ["train.dpo=null", "train.reward=null"], "train.sft.stage2.epochs=2", "train.reward"),
    ("align", ["train.dpo=null", "train.sft=null"], "export.dtype=fp32", "train.pretrain or train.sft"),
    ("align", ["train.dpo=null", "train.sft=null"], "train.cross_entropy=liger", PACKED),
    ("align", ["train.reward.model=some/model"], "train.reward.epochs=2", "train.reward.model: null"),
    ("align", [], "train.dpo.gamma=0.4", "train.dpo.loss: simpo"),
    ("align", ["train.dpo.loss=dpo"], "train.dpo.alpha=0.4", "train.dpo.loss: lr_dpo"),
    ("align", [], "train.dpo.on_policy.vllm_python=python3", "train.dpo.on_policy.engine: vllm"),
    ("align", ["train.sft.eval_every=0"], "train.sft.eval_rows_per_language=4", "train.sft.eval_every"),
    ("align", ["train.sft.data.similarity=null"], "train.sft.data.num_perm=64", "train.sft.data.similarity"),
    ("demo", ["train=null"], "evaluate.sample_tokens=5", "train"),
    ("demo", ["train=null"], "export.licence=mit", "train.pretrain or train.sft"),
    ("demo", [], "fetch.requests_per_second=2", "sources.type: commoncrawl"),
    ("demo", [], "decontaminate.words=8", "decontaminate.against"),
    ("demo", [], "filter.reference_min_documents=8", "filter.reference"),
    ("demo", ["dedup.edit_share=0.1"], "dedup.ngram=5", "dedup.edit_share: null"),
    ("demo", ["train.eval_every=0", "train.prune=null"], "train.forgetting_alarm=0.1", "train.eval_every or train.prune"),
    ("demo", ["train.prune.method=activations"], "train.prune.mask_tokens=1000", "train.prune.method: masks"),
    ("demo", [], "train.pretrain.stage1.min_lr=1e-5", "train.pretrain.stage1.schedule: cosine, linear, wsd"),
    ("demo", ["train.base.tokens=1000"], "train.base.max_tokens=1000", "train.base.tokens: auto"),
    ("demo", ["train.prune.heal_tokens=1000"], "train.prune.max_heal_tokens=1000", "train.prune.heal_tokens: auto"),
    ("demo", ["cluster.engine=local"], "cluster.spark_memory=2g", "cluster.engine: spark"),
    ("commoncrawl", [], "quality.per_side=10", "quality.positives"),
    ("commoncrawl", [], "fetch.anonymous=true", "fetch.base: s3://…"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "others", "given", "needs"), REFUSED)
def test_what_nothing_reads_is_one_sentence_with_key_and_fix(name, others, given, needs, tmp_path):
    key = given.partition("=")[0]
    with pytest.raises(UserError) as error:
        recipes.load(name, [*others, given])
    assert str(error.value).startswith(f"--set {key}: nothing reads it without `{needs}`; give that, or take ")
    values = {"base": name}
    for one in (*others, given):
        recipes._override(values, one)
    mine = tmp_path / "mine.yaml"  # the same in a recipe of one's own
    mine.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as error:
        recipes.load(str(mine))
    assert str(error.value).startswith(f"{mine}: {key}: nothing reads it without `{needs}`; ")
    with pytest.raises(UserError, match="nothing reads it"):
        recipes.portable(str(mine))


def test_what_the_recipe_below_says_may_be_turned_off(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "base: sailor2-1b\nname: mine\ntrain: {sft: null, reward: null, dpo: null, pretrain: {stage1: {lr: 1e-5}}}\n"
    )
    assert recipes.load(str(mine)).train.sft is None
    whole = recipes.portable("sailor2-1b", ["train.sft=null", "train.reward=null", "train.dpo=null"])[1]
    mine.write_text(whole)  # as it comes to a cluster
    assert recipes.load(str(mine)).train.dpo is None
    own = (recipes.RECIPES / "sailor2-1b.yaml").read_text()
    mine.write_text(own)  # a copy of one's own, of which the command line leaves something out
    recipes.load(str(mine), ["train.reward=null", "train.dpo=null"])
    recipes.load(str(mine), ["train=null"])
    with pytest.raises(UserError, match=r"--set train\.sft\.select\.max_similarity: nothing reads it"):
        recipes.load(str(mine), ["train.reward=null", "train.dpo=null", "train.sft.select.max_similarity=0.5"])


def test_off_asks_for_nothing_and_what_was_taken_back_neither():
    recipes.load(
        "align", ["train.eval_every=0", "mixture.regmix=null", "filter.signals=[]", "train.dpo.on_policy.vllm_python="]
    )
    recipes.load("align", ["train.pretrain.stage1.tokens=5", "train.pretrain=null"])
    recipes.load("demo", ["decontaminate.words=9", "decontaminate.against=[/data/*.jsonl]"])


def test_random_keys_together(tmp_path):
    """However many keys are given, those that are refused are those that are refused alone."""
    g = random.Random(0)
    for _ in range(40):
        off = g.choice(OFF)
        name = g.choice(["demo", "align"])
        try:
            recipe = recipes.load(name, off)
        except UserError:
            continue
        some = [(key, 7) for key in g.sample(KEYS, 30)]
        alone = [key for key, value in some if list(asked.not_read(recipe, [(key, value)]))]
        assert [sentence.partition(":")[0] for sentence in asked.not_read(recipe, some)] == alone


def test_fields_of_another_kind_of_source_are_refused():
    for kind, field in (
        ("warc", "text_field: body"),
        ("parquet", "split: test"),
        ("html", "crawl: old"),
        ("jsonl", "crawl: x"),
    ):
        with pytest.raises(UserError, match=rf"`{field.partition(':')[0]}` is "):
            recipes.load("demo", ["quality={}", f"sources=[{{name: a, type: {kind}, path: /x, {field}}}]"])
