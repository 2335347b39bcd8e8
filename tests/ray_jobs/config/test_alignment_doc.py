"""The recipes that docs/alignment.md shows are recipes."""

import re
from pathlib import Path

import pytest
import yaml

from ray_jobs.config import reader as recipe
from ray_jobs.run.graph import enabled

TEXT = (Path(__file__).parents[3] / "docs" / "alignment.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
RECIPES = [block for block in BLOCKS if "\nname:" in block]
PARTS = [block for block in BLOCKS if block not in RECIPES]


def load(text: str, folder: Path) -> recipe.Recipe:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return recipe.load(str(path), [])


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_the_walk_through_has_every_step_of_alignment(number, tmp_path):
    names = [stage.name for stage in enabled(load(RECIPES[number], tmp_path))]
    wanted = [
        "reward",
        "sft/data",
        "sft/stage1",
        "sft/select",
        "sft/stage2",
        "dpo/off_policy",
        "dpo/on_policy",
        "export",
    ]
    assert [name for name in names if name in wanted] == wanted
    assert ("pretrain/stage2" in names) == (number > 0)  # the first aligns a finished model


@pytest.mark.parametrize("number", range(len(PARTS)))
def test_a_part_fits_into_the_walk_through(number, tmp_path):
    part = PARTS[number]
    if part.startswith("    "):  # of train.dpo, such as watch
        part = f"train:\n  dpo:\n{part}"
    whole, given = yaml.safe_load(RECIPES[0]), yaml.safe_load(part)["train"]
    for section, values in given.items():
        whole["train"][section] |= values
    assert load(yaml.safe_dump(whole), tmp_path).train is not None
