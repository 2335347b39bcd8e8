"""A rank reads its own bytes of a checkpoint and no others, at the number of ranks that wrote it and at any other."""

import contextlib

import pytest
import torch
import torch.distributed as dist
from fsspec.implementations.memory import MemoryFileSystem
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from cluster import storage
from train.checkpoint import checkpoint
from train.checkpoint import pieces as shards
from train.checkpoint import reader as shard_reader

FULL = {
    "wide": torch.randn(403, 64, generator=torch.Generator().manual_seed(1)),
    "long": torch.randn(64, 30, 11, generator=torch.Generator().manual_seed(2)),
    "few": torch.arange(5.0),  # some ranks have nothing of it
    "states": torch.arange(90_000, dtype=torch.int64).remainder(251).to(torch.uint8).view(300, 300),
}
BYTES = sum(tensor.nbytes for tensor in FULL.values())
SMALL = 6_000  # headers and the marker


@contextlib.contextmanager
def as_rank(rank: int, world: int, placement=None, names=tuple(FULL)):
    """The state of `FULL` as one rank of a group holds it; collectives give this rank's own values back."""
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (world,))
        yield {n: distribute_tensor(FULL[n], mesh, [placement or Shard(0)], src_data_rank=None) for n in names}
    finally:
        dist.destroy_process_group()


def write(uri: str, world: int) -> None:
    """The checkpoint of step 0 of `world` ranks."""
    folder, files = storage.join(uri, "step_00000000"), {}
    for rank in range(world):
        name = f"shard-{rank:05d}.safetensors"
        with as_rank(rank, world) as state, storage.atomic(storage.join(folder, name)) as path:
            files[name] = shards.write(path, shards.pieces(state, rank, world))
    storage.write_json(storage.join(folder, checkpoint.MARKER), {"step": 0, "files": files, "meta": {}})


@pytest.fixture
def read_bytes(monkeypatch) -> list[int]:
    """Bytes of each request to the storage."""
    counted: list[int] = []
    cat, get = MemoryFileSystem.cat_file, MemoryFileSystem.get_file

    def cat_file(self, path, *args, **kwargs):
        data = cat(self, path, *args, **kwargs)
        counted.append(len(data))
        return data

    def get_file(self, path, *args, **kwargs):
        counted.append(self.size(path))
        return get(self, path, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    return counted


@pytest.mark.parametrize(
    ("wrote", "reads", "shares"),
    [
        (4, 4, (1 / 4, 1)),
        (4, 2, (1 / 2, 1)),
        (4, 1, (1, 1)),
        (4, 3, (1 / 2, 5 / 4)),
        (4, 8, (1 / 4, 3 / 2)),
        (1, 4, (1, 7 / 4)),
    ],
)
def test_a_resumed_rank_fetches_the_files_it_checks_and_ranges_of_the_others(
    tmp_path, read_bytes, wrote, reads, shares
):
    uri = f"memory://{tmp_path.name}-{wrote}-{reads}"
    write(uri, wrote)
    totals = []
    for rank in range(reads):
        with as_rank(rank, reads) as state:
            wanted = {name: tensor.to_local().clone() for name, tensor in state.items()}
            for tensor in state.values():
                tensor.to_local().zero_()
            read_bytes.clear()
            assert checkpoint.load_newest(uri, state).step == 0
            totals.append(sum(read_bytes))
            assert all(torch.equal(state[name].to_local(), value) for name, value in wanted.items())
    assert max(totals) <= shares[0] * BYTES * 1.02 + SMALL
    assert sum(totals) <= shares[1] * BYTES * 1.02 + SMALL * reads


@pytest.mark.parametrize("uri", ["memory", "local"])
def test_only_what_is_asked_for_is_read_also_of_other_layouts(tmp_path, read_bytes, monkeypatch, uri):
    uri = f"memory://{tmp_path.name}" if uri == "memory" else str(tmp_path)
    write(uri, 3)
    monkeypatch.setattr(shard_reader, "RANGE_BYTES", 1000)  # several requests a tensor
    found = checkpoint.latest(uri)
    read_bytes.clear()
    whole = {"long": torch.zeros_like(FULL["long"])}
    checkpoint.load(found, whole)
    assert torch.equal(whole["long"], FULL["long"]) and sum(read_bytes) <= FULL["long"].nbytes + SMALL
    for placement in (Shard(1), Replicate()):
        with as_rank(1, 2, placement, ("wide", "long", "states")) as state:
            wanted = {name: tensor.to_local().clone() for name, tensor in state.items()}
            for tensor in state.values():
                tensor.to_local().zero_()
            checkpoint.load(found, state)
            assert all(torch.equal(state[name].to_local(), value) for name, value in wanted.items())


def test_a_checkpoint_with_a_hole_is_not_loaded(tmp_path):
    write(str(tmp_path), 3)
    with shard_reader.Files(str(tmp_path / "step_00000000")) as files:
        found = shard_reader.blocks(files, ["shard-00000.safetensors", "shard-00002.safetensors"])
        with pytest.raises(AssertionError, match="lacks a part of wide"):
            shard_reader.fill(files, found, {"wide": torch.zeros(403, 64)})
