import threading

import numpy as np
import pytest
import xxhash

from cluster import storage
from mixture.store import blocks
from mixture.store.blocks import BLOCK, BlockFile


@pytest.fixture
def file(tmp_path):
    """12 blocks and a bit of random bytes in memory://, and a list of the ranges that were asked for."""
    data = np.random.default_rng(0).bytes(12 * BLOCK + 77)
    folder = f"memory://blocks-{tmp_path.name}"
    storage.write_bytes(f"{folder}/data", data)
    storage.write_bytes(f"{folder}/sums", blocks.checksums(data).tobytes())
    file = BlockFile(f"{folder}/data", len(data), f"{folder}/sums", xxhash.xxh3_128_hexdigest(data))
    asked, get = [], file._get
    file._get = lambda start, stop: asked.append((start, stop)) or get(start, stop)
    yield file, data, asked
    storage.remove(folder)


def test_any_range_is_read(file):
    file, data, _ = file
    rng = np.random.default_rng(1)
    for start, stop in [
        (0, len(data)),
        (5, 5),
        (len(data) - 1, len(data)),
        *np.sort(rng.integers(0, len(data), (40, 2))),
    ]:
        assert file.read(int(start), int(stop)) == data[start:stop]


def test_neighbours_are_one_request_and_nothing_is_asked_for_twice(file):
    file, data, asked = file
    file.prefetch(10, 3 * BLOCK)
    assert file.read(10, 3 * BLOCK) == data[10 : 3 * BLOCK]
    assert asked == [(0, 3 * BLOCK)]
    assert file.read(BLOCK + 1, 5 * BLOCK) == data[BLOCK + 1 : 5 * BLOCK]
    assert asked[1:] == [(3 * BLOCK, 5 * BLOCK)]
    file.read(0, 6 * BLOCK)
    assert asked[2:] == [(5 * BLOCK, 6 * BLOCK)]


def test_what_is_announced_is_fetched_together(file):
    """Six ranges are under way at once: each waits until all have been asked for."""
    file, data, _ = file
    together, get = threading.Barrier(6, timeout=120), file._get

    def waiting(start, stop):
        together.wait()
        return get(start, stop)

    file._get = waiting
    for block in range(0, 12, 2):
        file.prefetch(block * BLOCK, block * BLOCK + 9)
    for block in range(0, 12, 2):
        assert file.read(block * BLOCK, block * BLOCK + 9) == data[block * BLOCK : block * BLOCK + 9]


def test_the_cache_is_bounded_and_keeps_what_was_used_last(file, monkeypatch):
    file, _, asked = file
    monkeypatch.setattr(blocks, "CACHE_BYTES", 3 * BLOCK)
    for block in (0, 1, 2, 0, 3):
        file.read(block * BLOCK, (block + 1) * BLOCK)
    assert len(blocks._blocks) == 3
    asked.clear()
    for block in (0, 2, 3):
        file.read(block * BLOCK, (block + 1) * BLOCK)
    assert asked == []
    file.read(BLOCK, 2 * BLOCK)
    assert asked == [(BLOCK, 2 * BLOCK)]
    assert len(file.read(0, 9 * BLOCK)) == 9 * BLOCK  # a range larger than the cache is read all the same


def test_damage_on_the_way_is_mended_and_a_fault_is_raised_and_forgotten(file):
    file, data, asked = file
    get, faults = file._get, [b"x" * BLOCK, OSError("gone")]

    def faulty(start, stop):
        found = get(start, stop)
        if faults:
            fault = faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            return fault
        return found

    file._get = faulty
    faults.reverse()
    with pytest.raises(OSError, match="gone"):
        file.read(0, 10)
    assert file.read(0, 10) == data[:10]  # the first answer was damaged, the second was not
    assert len(asked) == 3
