"""What README.md and docs/ name exists: links and their anchors, commands and flags, files, recipe keys, the shown YAML."""

import argparse
import datetime
import re
import shlex
import types
import typing
from collections import Counter
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from cluster import gauges
from cluster.deploy import spec
from cluster.deploy.slurm_spec import Slurm
from curation.policy import policy
from ray_jobs import cli
from ray_jobs.config import reader as recipes
from ray_jobs.config.curation import Source
from ray_jobs.config.mixture import Shape
from ray_jobs.config.optimiser import Optimiser
from ray_jobs.config.parallel import ParallelSource
from ray_jobs.config.recipe import Recipe
from ray_jobs.experiment import specification
from ray_jobs.plan import tokens as token_plan
from ray_jobs.run.graph import STAGES
from train.tasks import task

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (
        *(ROOT / name for name in ("README.md", "sample/README.md", "examples/README.md")),
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
NOW = {
    name: text for name, text in PAGES.items() if name != "docs/decisions.md"
}  # that page names what was removed too
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ONLY_ADDRESS = re.compile(r"(?:\[[^\]]+\]: )?<?https?://\S+")
PARTS = {
    "Parallel text": ParallelSource,
    "source": Source,
    "optimiser": Optimiser,
    "shape": Shape,
}  # by a word of the heading of their table
CLOUDS = {"aws", "gcp", "azure", "kubernetes"}
CLUSTER_PAGES = [f"docs/{page}.md" for page in ("kubernetes", "aws", "gcp", "azure")]  # their YAML is of a cluster.yaml
FOLDERS = ("ray_jobs", "curation", "mixture", "train", "cluster", "benchmarks", "tests", "docs", "sample")


def blocks(language):
    return [(name, body) for name, text in NOW.items() for kind, body in BLOCK.findall(text) if kind in language]


def spans(text):
    """Inline code: what stands between backticks outside of blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]


def anchors(text):
    return {anchor(title) for title in re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)}


def anchor(title):
    """GitHub's: letters, digits, hyphens and underscores of a heading, in lower case, spaces as hyphens."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    text = BLOCK.sub("", PAGES[name])
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)
    wrong = []
    for target in targets:
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (anchor and anchor not in anchors(to.read_text(encoding="utf-8"))):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize("name", [name for name in PAGES if name != "sample/README.md"])
def test_no_line_is_longer_than_120_characters(name):
    """Code blocks and lines that hold nothing but an address may be longer."""
    lines = BLOCK.sub(lambda block: "\n" * block[0].count("\n"), PAGES[name]).splitlines()
    long = [number for number, line in enumerate(lines, 1) if len(line) > 120 and not ONLY_ADDRESS.fullmatch(line)]
    assert long == []


@pytest.mark.parametrize("name", PAGES)
def test_every_table_has_a_head(name):
    """Without one the site shows a row of text where the reader looks for what a column is."""
    assert re.findall(r"^\|(?:\s*\|)+$", PAGES[name], re.MULTILINE) == []


def test_decisions_are_numbered_dated_and_in_the_contents():
    text = BLOCK.sub("", PAGES["docs/decisions.md"])
    titles = re.findall(r"^## (?!Contents$)(.+)$", text, re.MULTILINE)
    found = [re.fullmatch(r"(\d+)\. .+ \((\d{4}-\d{2}-\d{2})\)", title) for title in titles]
    assert [title for title, match in zip(titles, found, strict=True) if not match] == []
    assert [int(match[1]) for match in found] == list(range(1, len(found) + 1))
    dates = [datetime.date.fromisoformat(match[2]) for match in found]
    assert dates == sorted(dates)
    contents = text.partition("\n## Contents\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^- \[(.+)\]\(#(.+)\)$", contents, re.MULTILINE)
    expected = [(title.rpartition(" (")[0], anchor(title)) for title in titles]
    assert sorted(listed) == sorted(expected)


@pytest.mark.parametrize("name", NOW)
def test_named_files_exist(name):
    found = [span for span in spans(NOW[name]) if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]+", span)]
    named = [path for path in found if not path.startswith("mixture/plan")]
    outputs = {f"{stage.name}/" for stage in STAGES}
    wrong = [path for path in named if not (ROOT / path).exists() and not any(map(path.startswith, outputs))]
    assert wrong == []


def commands():
    """(page, words) of each `pinisi …` line in a block of shell."""
    found = []
    for name, body in blocks(("", "sh", "bash")):
        for line in re.sub(r"\\\n\s*", "", body).splitlines():
            start = re.match(r"\s*(?:\.venv/bin/)?pinisi\s", line)
            if start:
                found.append((name, shlex.split(line[start.end() :].replace("…", "X"), comments=True)))
    return found


def options_of(words):
    """The parser of the command that `words` begin with, the parents' flags included."""
    parser = cli._parser()
    for word in words:
        subs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not subs:
            break
        if word not in subs[0].choices:
            return None
        parser = subs[0].choices[word]
    return parser


@pytest.mark.parametrize(
    ("name", "words"), commands(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_a_command_in_a_block_is_one(name, words):
    options = cli._parser().parse_args(words)
    if words[0] in ("run", "submit", "plan"):
        assert options.recipe in ("mine.yaml", "first.yaml", "my-recipe.yaml") or recipes.find(options.recipe)
        for override in options.set:
            assert resolves(Recipe, override.partition("=")[0])
    if words[0] in ("run", "submit"):
        given = [stage for stage in (options.until, options.start, options.only) if stage]
        assert all(any(one.name == stage or one.name.startswith(f"{stage}/") for one in STAGES) for stage in given)


def test_there_are_commands_in_blocks():
    assert len(commands()) >= 40


@pytest.mark.parametrize("name", NOW)
def test_a_command_in_a_sentence_is_one(name):
    for span in spans(NOW[name]):
        if not re.match(r"(\.venv/bin/)?pinisi [a-z]", span):
            continue
        words = span.split()[1:]
        parser = options_of(words)
        assert parser is not None, span
        flags = [word.strip("[]").split("=")[0] for word in words if word.strip("[").startswith("--")]
        assert [flag for flag in flags if flag not in parser._option_string_actions] == [], span


@pytest.mark.parametrize("name", NOW)
def test_a_make_target_is_one(name):
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shell = [line for page, body in blocks(("", "sh", "bash")) if page == name for line in body.splitlines()]
    named = re.findall(r"(?:^|[;&] ?)make ([a-z-]+)", "\n".join([*spans(NOW[name]), *shell]), re.MULTILINE)
    assert [target for target in named if target not in known] == []


def resolves(model, key):
    """Whether a dotted key leads to a field; below a mapping any key does."""
    for part in key.split("."):
        if model is None:
            return True
        if part.isdigit():
            continue
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or part not in model.model_fields:
            return False
        model = _inner(model.model_fields[part].annotation)
    return True


def _inner(annotation):
    """The section that a field holds, alone, in a list or beside None; None for a mapping, the type itself for a value."""
    origin = typing.get_origin(annotation)
    if origin is dict or annotation is dict:
        return None
    if origin in (list, typing.Union, types.UnionType, typing.Annotated):
        kept = [one for one in typing.get_args(annotation) if one is not type(None)]
        return _inner(kept[0])
    return annotation


SECTIONS = "|".join(name for name, field in Recipe.model_fields.items() if name not in ("name", "seed"))


@pytest.mark.parametrize("name", NOW)
def test_a_recipe_key_in_a_sentence_is_one(name):
    keys = {
        match[1]
        for span in spans(NOW[name])
        if (match := re.fullmatch(rf"((?:{SECTIONS})\.[a-z0-9_.]+)(?::? .*)?", span))
        and not re.search(r"\.(py|yaml|md|json)$", match[1])
    }
    known = {"cluster.yaml"}
    assert sorted(key for key in keys - known if not resolves(Recipe, key) and not resolves(spec.Cluster, key)) == []


def rows_of(text):
    """First cells of the rows of tables, with the heading that they stand under."""
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| `"):
            yield heading, line[1:].split(" | ")[0]


def model_under(heading):
    """What the keys of a table of docs/recipe.md are of."""
    return next((model for word, model in PARTS.items() if word in heading), Recipe)


def keys_of(model, prefix=""):
    """Dotted keys of a section and of those in it; a part that has a table of its own is one key."""
    for name, field in model.model_fields.items():
        inner = _inner(field.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner not in PARTS.values():
            yield from keys_of(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.mark.parametrize(("heading", "cell"), rows_of(NOW["docs/recipe.md"]))
def test_a_documented_key_is_one(heading, cell):
    model = model_under(heading)
    before = ""
    for key in re.findall(r"`([^`]+)`", cell):
        full = before + key if key.startswith(".") else key
        assert resolves(model, full), full
        before = full.rpartition(".")[0]


def test_every_key_of_a_recipe_is_documented_once():
    rows = [(model_under(heading), cell.strip(" `")) for heading, cell in rows_of(NOW["docs/recipe.md"])]
    assert [row for row, times in Counter(rows).items() if times > 1] == []
    again = ("train.pretrain.stage2.", "train.sft.stage2.")  # "with the same keys"
    wanted = {
        (model, key) for model in (Recipe, *PARTS.values()) for key in keys_of(model) if not key.startswith(again)
    }
    assert sorted(key for _, key in wanted - {(Recipe, "sources"), *rows}) == []


@pytest.mark.parametrize(
    "cell", [cell for heading, cell in rows_of(NOW["docs/cluster.md"]) if heading == "cluster.yaml"]
)
def test_a_documented_key_of_a_cluster_is_one(cell):
    for key in re.findall(r"`([^`]+)`", cell):
        assert resolves(spec.Cluster, f"groups{key}" if key.startswith(".") else key), key


def test_every_key_of_slurm_is_documented_and_no_other():
    cells = [cell for heading, cell in rows_of(NOW["docs/slurm.md"]) if heading == "The section `slurm`"]
    keys = [key.removeprefix(".") for cell in cells for key in re.findall(r"`([^`]+)`", cell)]
    assert sorted(keys) == sorted(Slurm.model_fields)


def test_every_key_of_a_cluster_is_documented():
    text = NOW["docs/cluster.md"]
    models = [spec.Cluster, spec.Group, spec.Node, spec.Aws, spec.Gcp, spec.Azure, spec.Kubernetes, spec.Prices]
    assert [key for model in models for key in model.model_fields if not re.search(rf"`\.?{key}`", text)] == []


def test_every_gauge_is_documented():
    assert [name for name in gauges.GAUGES if f"`{name}`" not in NOW["docs/cluster.md"]] == []


YAML = [
    (name, body) for name, body in blocks(("yaml",)) if name != "docs/alignment.md"
]  # test_alignment_doc.py has those


@pytest.mark.parametrize("number", range(len(YAML)), ids=lambda number: f"{YAML[number][0]}-{number}")
def test_shown_yaml_is_read(number, tmp_path, monkeypatch):
    name, body = YAML[number]
    values = yaml.safe_load(body)
    path = tmp_path / "mine.yaml"
    path.write_text(body, encoding="utf-8")
    if body.startswith("# curation/languages/"):
        for file in policy.FOLDER.glob("*.yaml"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
        monkeypatch.setattr(policy, "FOLDER", tmp_path)
        policy._from_files.cache_clear()
        assert policy.load("mine").name == values["name"]
        policy._from_files.cache_clear()
    elif body.startswith("# capitals.yaml"):
        assert task.load(str(path), body).name == values["name"]
    elif "arms" in values:
        experiment, _ = specification.load(str(path))
        specification.trials(experiment.model_copy(update={"base": "demo"}), path)
    elif name in CLUSTER_PAGES:
        whole = yaml.safe_load((ROOT / "cluster/cluster.yaml").read_text("utf-8"))
        kept = {key: value for key, value in whole.items() if key not in CLOUDS or key in values}
        named = {group["name"] for group in values.get("groups", [])}
        values["groups"] = [*(one for one in whole["groups"] if one["name"] not in named), *values.get("groups", [])]
        for cloud in CLOUDS & values.keys():
            values[cloud] = {**whole[cloud], **values[cloud]}
        path.write_text(yaml.safe_dump({**kept, **values}), encoding="utf-8")
        assert spec.load(str(path)).groups
    elif "slurm" in values:  # a cluster file, or its section
        slurm = spec.load(str(path)).slurm if "groups" in values else Slurm.model_validate(values["slurm"])
        assert slurm.model_fields_set
    elif body.startswith("# pools.yaml"):
        assert token_plan.of_file(str(path)).stage1
    else:
        if not {"name", "sources"} <= values.keys():  # a part of a recipe
            own = {"base": "demo", "name": "mine", "quality": {"positives": [], "negatives": []}}
            path.write_text(yaml.safe_dump({**own, **values}), encoding="utf-8")
        assert recipes.load(str(path)).sources


def test_the_diagram_has_every_stage():
    diagram = next(body for body in (b for n, b in blocks(("",)) if n == "README.md") if "crawl" in body)
    assert [stage.name for stage in STAGES if not re.search(rf"(?<![\w/]){stage.name}(?![\w/])", diagram)] == []
