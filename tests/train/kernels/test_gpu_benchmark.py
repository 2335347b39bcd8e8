"""benchmarks/gpu_train.py, which a GPU is seldom lent for, runs here in every variant that a CPU can have."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from train.kernels import layers

BENCHMARKS = str(Path(layers.__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, BENCHMARKS)  # as for a script of that folder
    try:
        yield importlib.import_module("gpu_train")
    finally:
        sys.path.remove(BENCHMARKS)
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
def test_every_variant_and_peer_runs_or_says_that_it_needs_a_gpu(script, monkeypatch, capsys):
    def traced(model, device) -> bool:
        """Compiled without machine code, which takes a CPU minutes."""
        for layer in layers._layers(model):
            layer.compile(backend="eager")
        return True

    torch.set_num_threads(1)
    monkeypatch.setattr(layers, "compile_layers", traced)
    rows = script.main(["--tiny", "--steps", "1"])
    capsys.readouterr()
    of = {row["metric"].split(": ")[1] for row in rows if row["unit"] == "tokens/s" and row["ours"] > 0}
    failed = {row["metric"].split(": ")[1]: row["metric"] for row in rows if ": failed" in row["metric"]}
    needs = {name for name, o in script.VARIANTS.items() if o.get("attention") in {"flex", "varlen"}}
    needs |= {name for name, o in script.VARIANTS.items() if o.get("cross_entropy") == "liger"}
    assert failed.keys() == needs and all(" needs " in text for text in failed.values())
    assert of - {n for n in of if n.startswith("best")} == {*script.VARIANTS, "hf", "trl"} - needs
    (best,) = [row for row in rows if "best" in row["metric"] and row["unit"] == "tokens/s" and not row["peer"]]
    measured = [r["ours"] for r in rows if r["unit"] == "tokens/s" and r["metric"].split(": ")[1] in script.VARIANTS]
    assert best["ours"] == max(measured)
    assert len([row for row in rows if row["peer"]]) == 4  # speed and memory beside two peers


def test_without_a_gpu_it_measures_nothing_and_says_so(script, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert script.main([]) == [] and "no CUDA device here" in capsys.readouterr().out


def test_a_second_run_of_some_variants_keeps_the_others(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "__file__", str(tmp_path / "gpu_train.py"))
    from table import row

    assert script.merged([row("a", "GB", 1.0)]) == [row("a", "GB", 1.0)]
    (tmp_path / "results").mkdir()
    old = [row("0.5b: x: failed, no memory", "tokens/s", 0.0), row("0.5b: y", "tokens/s", 5.0)]
    (tmp_path / "results" / "training-gpu.json").write_text(script.json.dumps({"rows": old}))
    new = [row("0.5b: x", "tokens/s", 7.0)]
    assert script.merged(new) == [old[1], *new]
