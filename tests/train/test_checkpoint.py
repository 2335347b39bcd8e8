import json
import struct

import pytest
import torch

from cluster import storage
from train import checkpoint


def state(value: float) -> dict[str, torch.Tensor]:
    return {"model/w": torch.full((4, 3), value), "exp_avg/model/w": torch.full((4, 3), value / 7), "b": torch.ones(5)}


@pytest.fixture(params=["local", "memory"])
def uri(request, tmp_path):
    return str(tmp_path / "checkpoints") if request.param == "local" else f"memory://{tmp_path.name}/checkpoints"


def test_what_is_loaded_is_what_was_saved_bit_for_bit(uri):
    saved = {"w": torch.randn(6, 5), "half": torch.randn(3).bfloat16(), "n": torch.arange(4)}
    checkpoint.save(uri, 7, saved, meta={"tokens": 123, "window": {"loss": 0.1}})
    newest = checkpoint.latest(uri)
    assert newest.step == 7 and newest.meta == {"tokens": 123, "window": {"loss": 0.1}}
    loaded = {name: torch.zeros_like(t) for name, t in saved.items()}
    checkpoint.load(newest, loaded)
    assert all(torch.equal(loaded[name], t) for name, t in saved.items())


def test_the_newest_complete_one_is_found_and_old_ones_go(uri):
    assert checkpoint.latest(uri) is None
    for step in (5, 10, 15):
        checkpoint.save(uri, step, state(step), keep=2)
    assert checkpoint.latest(uri).step == 15
    assert not storage.exists(storage.join(uri, "step_00000005"))
    storage.remove(storage.join(uri, "step_00000015", checkpoint.MARKER))  # killed before the marker
    assert checkpoint.latest(uri).step == 10
    checkpoint.clear(uri)
    assert checkpoint.latest(uri) is None and storage.size(uri) == 0


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_passed_over(uri, damage):
    for step in (1, 2):
        checkpoint.save(uri, step, state(step))
    name = next(iter(checkpoint.latest(uri).files))
    file = storage.join(uri, "step_00000002", name)
    if damage == "cut":
        storage.write_bytes(file, storage.read_bytes(file)[:-1])
    else:
        storage.remove(file)
    newest = checkpoint.latest(uri)
    assert newest.step == 1
    loaded = state(0.0)
    checkpoint.load(newest, loaded)
    assert (loaded["model/w"] == 1).all()


def test_a_full_disk_loses_nothing_and_the_next_try_replaces_the_rest(uri, monkeypatch):
    checkpoint.save(uri, 1, state(1.0))
    real = checkpoint.dcp.save

    def full(tensors, **kwargs):
        real(dict(list(tensors.items())[:1]), **kwargs)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.dcp, "save", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(uri, 2, state(2.0), keep=1)
    assert checkpoint.latest(uri).step == 1
    monkeypatch.setattr(checkpoint.dcp, "save", real)
    checkpoint.save(uri, 2, state(2.0), keep=1)
    loaded = state(0.0)
    checkpoint.load(checkpoint.latest(uri), loaded)
    assert (loaded["model/w"] == 2).all()


def test_another_model_is_refused(uri):
    checkpoint.save(uri, 1, state(1.0))
    newest = checkpoint.latest(uri)
    with pytest.raises(ValueError, match=r"needs model/w of shape \(4, 4\), the checkpoint has shape \(4, 3\)"):
        checkpoint.load(newest, {"model/w": torch.zeros(4, 4)})
    with pytest.raises(ValueError, match=r"needs head of shape \(2,\), the checkpoint has nothing"):
        checkpoint.load(newest, {"head": torch.zeros(2)})


def test_files_are_safetensors_and_json(tmp_path):
    checkpoint.save(str(tmp_path), 1, state(1.0))
    files = sorted((tmp_path / "step_00000001").iterdir())
    assert [f.suffix for f in files] == ["", ".safetensors"]
    assert json.loads(files[0].read_text())["files"] == {files[1].name: files[1].stat().st_size}
    data = files[1].read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert header["model/w"]["shape"] == [4, 3]
