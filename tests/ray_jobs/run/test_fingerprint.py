"""Which stages an edit of one file changes: exactly those whose result it decides."""

import ast
import shutil
from functools import cache

import pytest

from ray_jobs.config import reader as recipes
from ray_jobs.run import fingerprint
from ray_jobs.run.graph import STAGES

LANGUAGES = ("th", "en")
JOBS = sorted({stage.job for stage in STAGES})
DRAFTS = {"adapt.draft", "adapt.draft_answers"}
ROWS = {
    "dpo",
    "dpo_watch",
    "reward",
    "sft",
    "sft_data",
    "sft_select",
    "tokenize",
} | DRAFTS  # read conversations of the user
TRAINED = {"adapt.draft", "adapt.long_context", "base", "dpo", "pretrain", "prune", "reward", "sft"}  # run the loop
JUDGED = "evaluation.wildbench"
MADE = "synthetic.synthesize"
ASKED = {"evaluation.long", "evaluation.tasks"}  # ask a model
SCORED = {"dpo_watch", "evaluation.bits_per_byte", "export", "sft_select", JUDGED} | ASKED | DRAFTS  # measure a model

EDITS = {
    "mixture/order/sampler.py": TRAINED | {"regmix_proxies"},
    "train/chat/formats.py": ROWS | {JUDGED, MADE},
    "ray_jobs/alignment/chats.py": ROWS | {JUDGED, MADE},
    "mixture/bpe/learn.py": {"tokenize"},
    "ray_jobs/stages/evaluation/judges.py": {JUDGED},
    "train/generation/checklist.py": {JUDGED},
    "ray_jobs/alignment/held_out.py": {"dpo", "reward", "sft"},
    "ray_jobs/training/fit.py": TRAINED | {"regmix_proxies"},
    "ray_jobs/training/budget.py": {"base", "mixture", "pretrain", "prune", "regmix_weights"},
    "train/batches/long_rows.py": {"adapt.long_context", "prune"},
    "train/drafts/glide.py": {"adapt.draft"},
    "train/drafts/loops.py": DRAFTS,
    "train/kernels/chosen.py": {"pretrain"},
    "train/kernels/cross_entropy.py": TRAINED | SCORED | {"regmix_proxies", MADE},
    "train/methods/reward.py": {"reward"},
    "train/preference_losses/lr_dpo.py": {"dpo", "dpo_watch"},
    "curation/signals/text_signals.py": {"filter_signals", MADE},
    "curation/languages/th.yaml": {"filter_policy", "filter_signals", MADE},
    "curation/languages/vi.yaml": set(),
    "curation/sources/warc.py": {"crawl"},
    "curation/parallel/tmx.py": {"parallel.pairs"},
    "curation/parallel/templates/th.yaml": {"parallel.documents"},
    "train/tasks/options.py": ASKED,
    "train/tasks/sets/xcopa.yaml": ASKED | {"report"},
    "train/tasks/suite.py": set(),  # measures while something else trains
    "train/long/templates.yaml": {"evaluation.long"},
    "ray_jobs/commoncrawl/blocks.py": {"crawl"},
    "ray_jobs/report/page.py": {"report"},
    "ray_jobs/report/data/histograms.py": {"report"},
    "ray_jobs/report/data/smallest.py": {"report"},
    "ray_jobs/templates/report.html": {"report"},
    "ray_jobs/templates/data.html": {"report"},
    "ray_jobs/stages/synthetic/prompts/translate.yaml": {MADE},
    "ray_jobs/run/made_from.py": set(),
    "ray_jobs/commands/status.py": set(),
    "ray_jobs/commands/status_page.py": set(),
    "ray_jobs/config/recipe.py": set(),
    "ray_jobs/run/run.py": set(),
    "cluster/storage.py": set(),
    "curation/commoncrawl/records.py": set(),  # FORMAT decides
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the packages whose files may be edited."""
    root = tmp_path_factory.mktemp("checkout")
    for name in fingerprint.PACKAGES:
        shutil.copytree(fingerprint.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@cache
def read(path, text, module=fingerprint._module.__wrapped__):
    """`fingerprint._module`, again only for another text."""
    return module(path)


@pytest.fixture
def prints(copy, monkeypatch):
    """The fingerprint of each job in the copy."""
    monkeypatch.setattr(fingerprint, "ROOT", copy)
    monkeypatch.setattr(fingerprint, "_module", lambda path: read(path, path.read_bytes()))
    return lambda: {job: fingerprint.code(job, LANGUAGES) for job in JOBS}


@pytest.fixture(scope="module")
def before(copy):
    """Those of the copy as it is when nothing in it is edited."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "ROOT", copy)
        return {job: fingerprint.code(job, LANGUAGES) for job in JOBS}


@pytest.mark.parametrize("file", EDITS)
def test_an_edit_changes_exactly_the_stages_whose_result_it_decides(file, copy, before, prints):
    path = copy / file
    text = path.read_text("utf-8")
    try:
        path.write_text(f"{text}\nEDITED = 1\n", "utf-8")
        after = prints()
    finally:
        path.write_text(text, "utf-8")
    assert {job for job in JOBS if after[job] != before[job]} == EDITS[file]
    assert all(fingerprint.changes(before[job], after[job]) == [file] for job in EDITS[file])


@pytest.mark.parametrize("file", [file for file in EDITS if file.endswith(".py") and EDITS[file]])
def test_comments_docstrings_and_layout_change_nothing(file, copy, before, prints):
    path = copy / file
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.body = [ast.Expr(ast.Constant("another docstring")), *node.body]
    try:
        path.write_text(f"# a comment\n\n{ast.unparse(ast.fix_missing_locations(tree))}\n\n# more\n", "utf-8")
        after = prints()
    finally:
        path.write_text(text, "utf-8")
    assert after == before


def test_what_an_earlier_process_has_read_is_taken_until_the_file_is_another(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    path = tmp_path / "ray_jobs/stages/one.py"
    path.parent.mkdir(parents=True)

    def again(text=None):
        fingerprint._module.cache_clear()
        fingerprint._kept.cache_clear()
        if text:
            path.write_text(text, "utf-8")
        return fingerprint.code("one")

    first = again("import ray_jobs.two\n")
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_read", None)  # nothing is read
        assert again() == first != {}
    second = again("import ray_jobs.six\n")
    assert second != first == again("import ray_jobs.two\n")
    (tmp_path / fingerprint.KEPT).write_text("[[], {", "utf-8")
    assert again() == first and again("import ray_jobs.six\n") == second


def test_an_empty_string_in_a_list_is_no_docstring(copy, prints):
    path = copy / "ray_jobs/stages/expand.py"
    text, found = path.read_text("utf-8"), []
    for value in ('["", "a"]', '["a"]', '[f"{1}"]', '[f"{2}"]'):
        path.write_text(f"{text}\nEDITED = {value}\n", "utf-8")
        found.append(str(prints()["expand"]))
    path.write_text(text, "utf-8")
    assert len(set(found)) == len(found)


def test_every_module_counts_somewhere_or_is_named_as_one_that_does_not():
    """A new module is either followed from a stage or lies where only people look: commands, plans, preparation."""
    counted = {file for job in JOBS for file in fingerprint.code(job, tuple(recipes.load("demo").languages))}
    beside = (
        "cluster/deploy",
        "cluster/doctor",
        "ray_jobs/commands",
        "ray_jobs/plan",
        "ray_jobs/prepare",
        "ray_jobs/publish",
    )
    forgotten = [
        file
        for package in fingerprint.PACKAGES
        for path in sorted((fingerprint.ROOT / package).rglob("*.py"))
        if (file := path.relative_to(fingerprint.ROOT).as_posix()) not in counted
        and path.name != "__init__.py"
        and not file.startswith(beside)
        and not fingerprint._outside(file.removesuffix(".py").replace("/", "."))
    ]
    assert forgotten == ALONE


ALONE = [
    "cluster/bundle_check.py",
    "cluster/kenlm.py",
    "curation/lid/report.py",
    "curation/lid/synthesis.py",
    "curation/lid/training.py",
    "curation/lm/training.py",
    "curation/spark_job.py",
    "mixture/order/shared.py",
    "mixture/sailor2.py",
    "mixture/tokenizer/fertility.py",
    "mixture/tokenizer/grow.py",
    "ray_jobs/cli.py",
    "ray_jobs/exits.py",
    "train/export/gguf.py",
    "train/export/grow.py",
]
"""Modules that no stage imports, and that are in no folder above: what only `pinisi train` or a script calls."""


def test_packages_hold_no_code_in_init_and_no_relative_imports():
    """Either would escape the fingerprint."""
    for package in fingerprint.PACKAGES:
        for path in (fingerprint.ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text("utf-8"))
            assert path.name != "__init__.py" or not tree.body[1:], path
            assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level], path
