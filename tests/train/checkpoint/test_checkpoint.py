import errno
import json
import logging
import resource
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cluster import storage
from train.checkpoint import checkpoint
from train.checkpoint import pieces as shards

CPU = torch.device("cpu")
FULL = OSError(errno.ENOSPC, "No space left on device")


def state(value: float) -> dict[str, torch.Tensor]:
    return {"model/w": torch.full((4, 3), value), "exp_avg/model/w": torch.full((4, 3), value / 7), "b": torch.ones(5)}


def loaded(uri: str) -> tuple[int, float]:
    """The step of the checkpoint that is loaded, and the value that its state was made of."""
    tensors = state(0.0)
    newest = checkpoint.load_newest(uri, tensors)
    assert torch.equal(tensors["exp_avg/model/w"], tensors["model/w"] / 7)
    return newest.step, float(tensors["model/w"][0, 0])


@pytest.fixture(params=["local", "memory"])
def uri(request, tmp_path):
    return str(tmp_path / "checkpoints") if request.param == "local" else f"memory://{tmp_path.name}/checkpoints"


def test_what_is_loaded_is_what_was_saved_bit_for_bit(uri):
    saved = {dtype: torch.arange(4).to(dtype) for dtype in shards.DTYPES}
    saved |= {"w": torch.randn(6, 5), "half": torch.randn(3).bfloat16(), "none": torch.zeros(0, 3)}
    saved = {str(name): tensor for name, tensor in saved.items()}
    checkpoint.save(uri, 7, saved, meta={"tokens": 123, "window": {"loss": 0.1}})
    newest = checkpoint.latest(uri)
    assert newest.step == 7 and newest.meta == {"tokens": 123, "window": {"loss": 0.1}}
    got = {name: torch.zeros_like(t) for name, t in saved.items()}
    checkpoint.load(newest, got)
    assert all(torch.equal(got[name], t) for name, t in saved.items())


def test_the_newest_complete_one_is_found_and_old_ones_go(uri, caplog):
    assert checkpoint.latest(uri) is None and checkpoint.load_newest(uri, state(0.0)) is None
    for step in (5, 10, 15):
        checkpoint.save(uri, step, state(step), keep=2)
    assert checkpoint.latest(uri).step == 15 and checkpoint.latest(uri, at_most=14).step == 10
    assert not storage.exists(storage.join(uri, "step_00000005"))
    storage.remove(storage.join(uri, "step_00000015", checkpoint.MARKER))  # killed before the marker
    with caplog.at_level(logging.WARNING):
        assert checkpoint.latest(uri).step == 10
    assert "step_00000015 is passed over: it has no marker" in caplog.text
    checkpoint.clear(uri)
    assert checkpoint.latest(uri) is None and storage.size(uri) == 0


def test_later_checkpoints_can_be_dropped(uri):
    for step in (5, 10, 15):
        checkpoint.save(uri, step, state(step), keep=3)
    checkpoint.drop_after(uri, 5)
    assert loaded(uri) == (5, 5.0)


@pytest.mark.parametrize("damage", ["cut", "gone", "flipped", "marker"])
def test_a_damaged_checkpoint_is_passed_over(uri, damage, caplog):
    for step in (1, 2):
        checkpoint.save(uri, step, state(step))
    name = next(iter(checkpoint.latest(uri).files))
    file = storage.join(uri, "step_00000002", name)
    data = storage.read_bytes(file)
    if damage == "cut":
        storage.write_bytes(file, data[:-1])
    elif damage == "gone":
        storage.remove(file)
    elif damage == "flipped":
        storage.write_bytes(file, data[:-1] + bytes([data[-1] ^ 1]))
    else:
        storage.write_text(storage.join(uri, "step_00000002", checkpoint.MARKER), '{"step": 2, "files"')
    with caplog.at_level(logging.WARNING):
        assert loaded(uri) == (1, 1.0)
    reason = {"flipped": "has a wrong checksum", "marker": "its marker cannot be read"}.get(damage, "is not as long as")
    assert "step_00000002 is passed over" in caplog.text and reason in caplog.text


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("broken", ["_write_pieces", "_publish"])
def test_a_full_disk_loses_nothing_and_the_next_try_replaces_the_rest(uri, monkeypatch, background, broken, caplog):
    checkpoint.save(uri, 1, state(1.0))
    real = getattr(checkpoint, broken)

    def full(*arguments):
        storage.write_bytes(storage.join(uri, "step_00000002", "shard-00000.safetensors"), b"half")
        raise FULL

    for on_error in ("stop", "warn"):
        monkeypatch.setattr(checkpoint, broken, full)
        with checkpoint.Writer(uri, CPU, 1, background=background, on_error=on_error) as writer:
            if on_error == "stop":
                with pytest.raises(OSError, match=r"update 2 was not written: .*No space left on device; the earlier"):
                    writer.save(2, state(2.0))
                    writer.finish()
            else:
                writer.save(2, state(2.0))
                writer.finish()
                assert "No space left on device" in caplog.text and "training goes on" in caplog.text
            assert writer.failed == 1
            assert not storage.exists(storage.join(uri, "step_00000002"))
            assert loaded(uri) == (1, 1.0)
            monkeypatch.setattr(checkpoint, broken, real)
            writer.save(3, state(3.0))
        assert loaded(uri) == (3, 3.0)
        checkpoint.clear(uri)
        checkpoint.save(uri, 1, state(1.0))


QUOTA = """
import resource, signal, sys, torch
from train.checkpoint import checkpoint
uri = sys.argv[1]
checkpoint.save(uri, 1, {"w": torch.ones(1000)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with checkpoint.Writer(uri, torch.device("cpu"), on_error="warn") as writer:
    writer.save(2, {"w": torch.ones(1_000_000)})
    writer.finish()
    assert writer.failed == 1
    writer.save(3, {"w": torch.full((1000,), 3.0)})
checkpoint.save(uri, 4, {"w": torch.ones(1_000_000)})
"""


def test_a_real_limit_on_the_size_of_files_is_a_full_disk(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    root = Path(checkpoint.__file__).parents[2]
    child = subprocess.run(
        [sys.executable, "-c", QUOTA, tmp_path], check=False, cwd=root, capture_output=True, text=True
    )
    assert (
        child.returncode == 1
        and "the checkpoint of update 4 was not written: [Errno 27] File too large" in child.stderr
    )
    assert "the checkpoint of update 2 was not written" in child.stderr and "training goes on" in child.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000001", "step_00000003"]
    w = {"w": torch.zeros(1000)}
    assert checkpoint.load_newest(str(tmp_path), w).step == 3 and (w["w"] == 3).all()


def test_training_goes_on_while_it_writes_and_one_is_in_flight_at_most(uri, monkeypatch):
    go, writing, real = threading.Event(), threading.Event(), checkpoint._write_pieces
    flights = []

    def slow(*arguments):
        flights.append("begin")
        writing.set()
        assert go.wait(20)
        written = real(*arguments)
        flights.append("end")
        return written

    monkeypatch.setattr(checkpoint, "_write_pieces", slow)
    live = state(1.0)
    with checkpoint.Writer(uri, CPU) as writer:
        writer.save(1, live)
        assert writing.wait(20) and writer.state() == (1.0, 0.0)
        live["model/w"].fill_(9.0)  # the next update
        writer.settle(*writer.state())
        assert checkpoint.latest(uri) is None
        threading.Timer(0.2, go.set).start()
        live["model/w"].fill_(2.0)
        live["exp_avg/model/w"].fill_(2.0).div_(7)
        writer.save(2, live)  # waits for the first
        assert flights[:3] in (["begin", "end"], ["begin", "end", "begin"]) and writer.seconds > 0.1
        assert loaded(uri) == (1, 1.0)
    assert flights == ["begin", "end"] * 2 and loaded(uri) == (2, 2.0)


def test_a_bug_in_the_writer_is_no_full_disk(uri, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(checkpoint, "_write_pieces", broken)
    with pytest.raises(RuntimeError, match="a bug"), checkpoint.Writer(uri, CPU, on_error="warn") as writer:
        writer.save(1, state(1.0))


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
    size, crc = shards.checksum(str(files[1]))
    assert json.loads(files[0].read_text())["files"] == {files[1].name: [size, crc]} and size == files[1].stat().st_size
    data = files[1].read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert header["model/w"]["shape"] == [4, 3]
    theirs = safetensors.torch.load_file(files[1])  # the library's reader
    assert all(torch.equal(theirs[name], tensor) for name, tensor in state(1.0).items())


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_write_every_tensor_once_and_about_equally_much(world):
    tensors = {f"t{i}": torch.zeros(i + 1, 10) for i in range(20)}
    owned = [shards.pieces(tensors, rank, world) for rank in range(world)]
    assert sorted(piece.name for pieces in owned for piece in pieces) == sorted(tensors)
    sizes = [sum(piece.tensor.nbytes for piece in pieces) for pieces in owned]
    assert max(sizes) - min(sizes) <= max(tensor.nbytes for tensor in tensors.values())
