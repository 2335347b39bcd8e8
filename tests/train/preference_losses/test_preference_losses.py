"""The table of preference losses: what a recipe may name, and what a new file and a line in it are enough for."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ray_jobs.config import reader as recipes
from ray_jobs.errors import UserError
from train.methods.dpo import Objective
from train.preference_losses import table
from train.preference_losses.answers import Answers
from train.preference_losses.table import LOSSES, PreferenceLoss

IPO = '''"""IPO (Azar et al. 2024, Eq. 17): loss = (r_w - r_l - 1 / (2 beta))^2"""

from torch import Tensor

from train.preference_losses.answers import Answers


def loss(chosen: Answers, rejected: Answers, beta: float) -> Tensor:
    return (chosen.ratio_P - rejected.ratio_P - 1 / (2 * beta)).square()
'''


def test_the_table_has_a_line_for_every_file_and_says_what_its_function_reads():
    files = {path.stem for path in Path(table.__file__).parent.glob("*.py")} - {"__init__", "answers", "table"}
    assert [entry.function for entry in LOSSES.values()] == [f"train.preference_losses.{name}:loss" for name in LOSSES]
    assert set(LOSSES) == files
    for entry in LOSSES.values():
        assert tuple(inspect.signature(entry.load()).parameters) == ("chosen", "rejected", "beta", *entry.numbers)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_that_says_it_has_no_reference_reads_none(loss):
    def of(reference: float) -> float:
        chosen, rejected = (Answers(*torch.tensor([[logp], [reference], [3.0]])) for logp in (-2.0, -4.0))
        reads = rejected._replace(reference_P=torch.tensor([-1.0]))
        return Objective(loss)(chosen, reads).item()

    assert (of(-1.0) == of(-5.0)) is not LOSSES[loss].reference


def test_a_file_and_a_line_add_a_loss(tmp_path, monkeypatch):
    (tmp_path / "ipo.py").write_text(IPO)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(LOSSES, "ipo", PreferenceLoss("ipo:loss"))
    assert recipes.load("sailor2-1b", ["train.dpo.loss=ipo"]).train.dpo.loss == "ipo"
    chosen, rejected = Answers(*torch.tensor([[-2.0], [-3.0], [4.0]])), Answers(*torch.tensor([[-5.0], [-5.0], [6.0]]))
    assert Objective("ipo", beta=0.1)(chosen, rejected).tolist() == [16.0]  # (1 - 0 - 5)^2


def test_a_recipe_names_a_loss_of_the_table():
    with pytest.raises(UserError, match=r"train\.dpo\.loss: must be one of lr_dpo, dpo, ln_dpo, simpo"):
        recipes.load("sailor2-1b", ["train.dpo.loss=ppo"])


def test_a_recipe_is_read_without_torch():
    code = "import sys; from ray_jobs.config import reader; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
